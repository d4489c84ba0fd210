"""Unique jobs among many that are enqueued at once, of models of one's own, and options that are refused."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import Job, Jobs
from sqla_jobs.errors import InvalidOption, TaskDefinitionError
from tests.support.ear import ear
from tests.support.server import Database

HOUR = timedelta(hours=1)
jobs = Jobs()


@jobs.task(name="send", unique=("order",))
def send(session: Session, order: int, **more: int) -> None: ...


@jobs.task(name="clean")
def clean(session: Session) -> None: ...


def count(session: Session) -> int:
    return int(session.scalar(text("SELECT count(*) FROM sqla_jobs")) or 0)


# -- many ------------------------------------------------------------------------------------------


def test_many_give_the_ids_of_the_holders_where_there_are_some(session: Session) -> None:
    there = send.enqueue(session, 2).id
    ids = jobs.enqueue_many(
        session, [send.job(3), clean.job(), send.job(2), send.job(1), send.job(3), clean.job()]
    )
    assert count(session) == 5
    assert ids[2] == there
    assert ids[0] == ids[4]
    assert len(set(ids)) == 5
    found = session.execute(text("SELECT id, (arguments ->> 'order')::int FROM sqla_jobs")).all()
    orders: dict[int, int | None] = {row[0]: row[1] for row in found}
    assert [orders[each] for each in ids] == [3, None, 2, 1, 3, None]
    assert jobs.enqueue_many(session, [send.job(1), send.job(2)]) == [ids[3], there]


def test_of_many_with_the_same_key_the_first_is_made(session: Session) -> None:
    jobs.enqueue_many(session, [send.job(1, note=1), send.job(1, note=2)])
    assert session.scalar(text("SELECT arguments ->> 'note' FROM sqla_jobs")) == "1"


def test_many_for_a_window(session: Session) -> None:
    window = clean.using(unique_key="k", unique_for=36_500 * timedelta(days=1))
    ids = jobs.enqueue_many(session, [window.job(), window.using(unique_key="l").job(), window.job()])
    assert ids[0] == ids[2] != ids[1]
    assert window.enqueue(session).id == ids[0]


def test_many_that_cannot_be_said_in_lists(session: Session) -> None:
    there = send.enqueue(session, 2).id

    def listener(*_: Any) -> None: ...

    event.listen(Job, "before_insert", listener)
    try:
        ids = jobs.enqueue_many(session, [send.job(1), send.job(2), send.job(3), send.job(1)])
    finally:
        event.remove(Job, "before_insert", listener)
    assert (ids[1], ids[0], count(session)) == (there, ids[3], 3)
    assert not session.new


def test_workers_are_told_of_new_jobs_only(database: Database) -> None:
    quick = clean.using(queue="quick", unique_key="k")
    with ear(database) as told:
        for expected in (["queued:quick"], []):
            with database.sessionmaker.begin() as session:
                quick.enqueue(session)
            assert told.heard() == expected
            with database.sessionmaker.begin() as session:
                jobs.enqueue_many(session, [quick.using(unique_key="l").job()])
            assert told.heard() == expected


# -- ways of enqueuing -----------------------------------------------------------------------------


def test_in_a_scoped_session(database: Database) -> None:
    scoped = scoped_session(database.sessionmaker)
    first = send.enqueue(scoped, 1)
    assert send.enqueue(scoped, 1) is first
    scoped.remove()


def test_where_a_flush_has_more_to_do(session: Session) -> None:
    """A Session with a listener: the job is flushed, in a savepoint."""
    seen: list[Any] = []
    event.listen(session, "before_flush", lambda *given: seen.append(given))
    first = send.enqueue(session, 1)
    assert not first.duplicate
    assert send.enqueue(session, 1) is first
    assert first.duplicate
    assert seen
    assert count(session) == 1


def test_one_statement_for_a_new_job(session: Session) -> None:
    session.connection()
    sent: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        sent.append(statement.split(maxsplit=1)[0])

    event.listen(session.connection(), "before_cursor_execute", note)
    send.enqueue(session, 1)
    assert sent == ["WITH"], "the INSERT, with its notification"
    send.enqueue(session, 1)
    assert len(sent) == 4, "the INSERT, the holder's id, the holder"


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unique_key": ""}, "unique_key ''; expected a text that is not empty"),
        ({"unique_key": 7}, "unique_key 7; expected a text"),
        ({"unique_key": "\ud800"}, "expected a text that UTF-8 can encode"),
        ({"unique_key": "k", "unique_scope": "ever"}, "unique_scope 'ever'; expected 'active' or 'queued'"),
        ({"unique_key": "k", "unique_for": 60}, "unique_for 60; expected a timedelta"),
        ({"unique_key": "k", "unique_for": timedelta(0)}, "expected whole seconds"),
        ({"unique_key": "k", "unique_for": timedelta(seconds=1.5)}, "expected whole seconds"),
        ({"unique_key": "k", "unique_for": HOUR, "unique_scope": "queued"}, "both given; expected one"),
        ({"unique_for": HOUR}, "without a key; expected unique_key"),
        ({"unique_scope": "queued"}, "without a key; expected unique_key"),
        ({"unique_key": None, "unique_for": HOUR}, "without a key; expected unique_key"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        clean.using(**options)
    with pytest.raises(InvalidOption, match=message):
        jobs.using(**options)


@pytest.mark.parametrize("unique", ["order", (), (1,), 7, {"order"}])
def test_arguments_that_cannot_be_a_key(unique: Any) -> None:
    with pytest.raises(InvalidOption, match="expected names of arguments"):
        Jobs().task(name="t", unique=unique)


def test_arguments_that_the_task_does_not_take() -> None:
    def plain(session: Session, order: int) -> None: ...

    with pytest.raises(TaskDefinitionError, match="unique by 'colour', which is none of its arguments"):
        Jobs().task(name="t", unique=("colour",))(plain)
    with pytest.raises(TaskDefinitionError, match="unique by 'session'"):
        Jobs().task(name="t", unique=("session",))(plain)
    assert Jobs().task(name="t", unique=("colour",))(send.function).name == "t", "it takes any"


def test_not_until_it_begins_in_the_fast_lane() -> None:
    with pytest.raises(InvalidOption, match="group_commit=5 and unique_scope='queued'; expected one of them"):
        Jobs().task(name="t", group_commit=5, unique=True, unique_scope="queued")(clean.function)
    fast = Jobs().task(name="t", group_commit=5)(clean.function)
    with pytest.raises(InvalidOption, match="expected one of them"):
        fast.using(unique_key="k", unique_scope="queued")
    assert fast.using(unique_key="k").options.unique.is_asked


def test_the_last_word_counts() -> None:
    window = clean.using(unique_key="k", unique_for=HOUR)
    assert window.using(unique_scope="queued").options.unique.window is None
    assert window.using(unique_key="l").options.unique.window == HOUR
    assert (
        clean.using(unique_key="k", unique_scope="queued").using(unique_for=HOUR).job().unique_scope
        == "window"
    )
    assert not window.using(unique_key=None).options.unique.is_asked
