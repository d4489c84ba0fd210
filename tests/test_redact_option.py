"""``@jobs.task(redact=…)``: what it takes, what is kept in the row, and what a refused call says."""

from __future__ import annotations

import json
import traceback
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, field_validator
from sqlalchemy import select
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Limit
from sqla_jobs.errors import (
    ArgumentsNotStorable,
    InvalidArguments,
    InvalidOption,
    TaskDefinitionError,
)
from sqla_jobs.scheduler import Schedules
from tests.support.models import Item
from tests.support.server import Database

CARD = "4929123456789012"
META = {"redact": ["card", "cvv"]}


def pay(session: Session, card: str, cvv: str = "737", times: int = 1) -> None:
    pass


@pytest.mark.parametrize(
    ("redact", "error", "said"),
    [
        (
            ("crad",),
            TaskDefinitionError,
            r"'crad' in its redact, .* none of its .*; did you mean 'card'\?",
        ),
        (("owner",), TaskDefinitionError, r"'owner' in .*; expected some of card, cvv, times"),
        (("session",), TaskDefinitionError, r"'session' in its redact"),
        ("card", InvalidOption, r"redact 'card' of task 'pay'; expected names .* redact=\('card_number',\)"),
        (7, InvalidOption, "redact 7 of task 'pay'; expected names"),
        ((7,), InvalidOption, r"redact \(7,\) of task 'pay' has 7 in it"),
    ],
)
def test_what_it_does_not_take(redact: Any, error: type[Exception], said: str) -> None:
    jobs = Jobs()
    with pytest.raises(error, match=said):
        jobs.register(pay, name="pay", redact=redact)
    assert "pay" not in jobs.tasks


def test_mapped_objects_have_nothing_to_hide() -> None:
    def ship(session: Session, item: Item) -> None: ...

    with pytest.raises(TaskDefinitionError, match="'item' in its redact, which takes mapped objects"):
        Jobs().register(ship, name="ship", redact=("item",))


def test_any_name_where_the_task_takes_any() -> None:
    def log(session: Session, **facts: str) -> None: ...

    assert Jobs().register(log, name="log", redact=("card",)).redact == ("card",)
    with pytest.raises(TaskDefinitionError, match=r"'facts' in its redact, which is \*\*facts: .*own name"):
        Jobs().register(log, name="log", redact=("facts",))  # it would hide nothing


def test_each_way_to_enqueue_keeps_the_names(session: Session) -> None:
    jobs = Jobs()
    task = jobs.task(name="pay", redact=["cvv", "card"])(pay)
    plain = jobs.task(name="plain")(pay)
    assert task.redact == task.using(priority=3).redact == ("card", "cvv")
    assert task.enqueue(session, CARD).meta == META
    assert task.using(unique_key="k").enqueue(session, CARD).meta == META
    session.add(task.job(CARD))
    assert jobs.enqueue(session, "pay", card=CARD).meta == META
    jobs.enqueue_many(session, [task.job(CARD), task.job(CARD)])
    jobs.enqueue_many(session, [task.job(CARD), plain.job(CARD)])
    assert jobs.enqueue(session, "elsewhere", card=CARD).meta is None
    session.flush()
    session.expire_all()
    rows = session.execute(select(Job.task, Job.meta)).all()
    assert [row.meta for row in rows if row.task == "pay"] == [META] * 7
    assert [row.meta for row in rows if row.task != "pay"] == [None] * 2


def test_a_schedules_jobs_keep_them_too(database: Database) -> None:
    jobs = Jobs()
    jobs.every(timedelta(days=1), kwargs={"card": CARD})(jobs.task(name="pay", redact=("card", "cvv"))(pay))
    with database.sessionmaker.begin() as session:
        jobs.sync_schedules(session, now=datetime(2026, 1, 1, tzinfo=timezone.utc))
    with database.sessionmaker.begin() as session:
        Schedules(jobs).tick(session, now=datetime(2026, 1, 3, tzinfo=timezone.utc))
    assert database.scalar("SELECT meta FROM sqla_jobs WHERE task = 'pay'") == META


class Card(BaseModel):
    model_config = ConfigDict(extra="forbid")
    number: str
    pin: int

    @field_validator("number")
    @classmethod
    def check(cls, number: str) -> str:
        if len(number) != 16:
            raise ValueError(f"{number} has {len(number)} digits")
        return number


def said(error: BaseException) -> str:
    """Everything that anybody might print of it, or walk to."""
    texts = []
    seen: BaseException | None = error
    while seen is not None:
        texts += [
            str(seen),
            repr(seen),
            repr(seen.args),
            repr(vars(seen)),
            *traceback.format_exception_only(seen),
        ]
        seen = seen.__cause__ or seen.__context__
    return "\n".join(texts)


@pytest.mark.parametrize(
    ("card", "error"),
    [
        (CARD, InvalidArguments),
        ({"number": CARD + "9", "pin": 1}, InvalidArguments),
        ({"number": CARD, "pin": "x"}, InvalidArguments),
        ([CARD], InvalidArguments),
        ({"number": CARD, "pin": 1, CARD: 2}, InvalidArguments),
        ({"number": CARD[:15] + "\x00", "pin": 1}, ArgumentsNotStorable),
    ],
    ids=["text", "validator", "field", "list", "key", "not storable"],
)
def test_a_call_that_is_refused_does_not_say_what_was_given(
    session: Session, card: Any, error: type[Exception]
) -> None:
    def charge(session: Session, card: Card, key: str = "sk_live_123456") -> None: ...

    task = Jobs().register(charge, name="charge", redact=("card", "key"))
    with pytest.raises(error) as refused:
        task.enqueue(session, card)
    told = said(refused.value)
    assert "49291234567" not in told
    assert "sk_live" not in told
    assert "card" in told
    assert refused.value.__cause__ is refused.value.__context__ is None


def test_short_values_in_a_call_that_is_refused(session: Session) -> None:
    def charge(session: Session, pin: int) -> None: ...

    task: Any = Jobs().register(charge, name="charge", redact=("pin",))
    with pytest.raises(InvalidArguments, match=r"found '\[redacted\]'"):
        task.enqueue(session, "1x")


def test_keys_are_made_of_digests(session: Session) -> None:
    jobs = Jobs()
    limit = Limit(1, key=("card", "times"))
    task: Any = jobs.register(pay, name="pay", redact=("card",), limit=limit)
    task = task.using(unique_key=None)
    job = task.enqueue(session, CARD, times=7)
    assert CARD not in job.limit_key
    assert '"times":7' in job.limit_key
    other = jobs.task(name="once", redact=("card",), unique=("card", "times"))(pay)
    first = other.enqueue(session, CARD)
    assert CARD not in str(first.unique_key)
    assert other.enqueue(session, CARD).duplicate
    assert not other.enqueue(session, CARD[::-1]).duplicate
    assert jobs.limited["pay"].key({"card": CARD, "times": 7}) == job.limit_key
    assert json.loads(str(first.unique_key))[0] == "once"
