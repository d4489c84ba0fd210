"""What is in a task's ``redact`` is nowhere to be seen, in the row or the log, whatever goes wrong."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Job, Jobs, RetryPolicy, Task, Worker, current_job, lifecycle
from sqla_jobs.redaction import MASK, Redaction, mask
from tests.support.fast import unhurried
from tests.support.loops import drain_async
from tests.support.secret import BLOB, CARD, CVV, LATE, LETTER, NEEDLES, WAYS, Holder, Nosy
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, PATIENCE, SOON, drain

REDACT = ("card", "cvv", "holder", "blob", "letter")
SEEN = "SELECT arguments->>'way' AS way, (to_jsonb(j) - 'arguments')::text AS seen, state FROM sqla_jobs j"
ALONE = re.compile(rf"(?<![\d.,]){CVV}(?![\d.])")


@pytest.fixture
def nosy() -> Iterator[Nosy]:
    handler, log = Nosy(), logging.getLogger("sqla_jobs")
    log.addHandler(handler)
    level = log.level
    log.setLevel(logging.DEBUG)
    yield handler
    log.setLevel(level)
    log.removeHandler(handler)


def leaks(seen: str) -> list[str]:
    return [each for each in NEEDLES if each.lower() in seen.lower()] + ALONE.findall(seen)


def pay(session: Session, way: str, card: str, cvv: str, holder: Holder, blob: bytes, letter: str) -> Any:
    return WAYS[way](session, card, cvv, holder, blob, letter)


async def pay_async(
    session: AsyncSession, way: str, card: str, cvv: str, holder: Holder, blob: bytes, letter: str
) -> Any:
    return await session.run_sync(lambda own: WAYS[way](own, card, cvv, holder, blob, letter))


def enqueue_all(database: Database, task: Task[..., Any, Job]) -> None:
    database.execute(LATE)
    with database.sessionmaker.begin() as session:
        for way in WAYS:
            task.enqueue(session, way, CARD, CVV, Holder(), BLOB, LETTER)


@pytest.mark.parametrize("lane", ["ordinary", "fast", "async", "work_once"])
def test_no_error_gives_it_away(lane: str, database: Database, nosy: Nosy) -> None:
    jobs = Jobs()
    given: dict[str, Any] = {"name": "pay", "retry": NEVER_AGAIN, "redact": REDACT}
    if lane == "fast":
        given |= {"group_commit": 50, "timeout": timedelta(minutes=1)}
    task: Task[..., Any, Job] = jobs.register(pay_async if lane == "async" else pay, **given)
    enqueue_all(database, task)
    finished: list[Finished] = []
    if lane == "async":
        finished = drain_async(jobs, database)
    elif lane == "work_once":
        for _ in WAYS:
            with database.sessionmaker() as session:
                done = jobs.work_once(session)
                assert done is not None
                finished.append(done)
                if done.job.arguments["way"] == "database, commit":  # which is the caller's to see
                    session.rollback()
                    session.execute(text("DELETE FROM sqla_jobs WHERE id = :id"), {"id": done.job.id})
                session.commit()
    else:
        with unhurried():
            finished = drain(jobs, database)
    rows = database.rows(SEEN)
    assert {row.state for row in rows} == {"failed", "cancelled"}
    assert {row.way for row in rows} >= WAYS.keys() - {"database, commit"}
    found = {row.way: leaks(row.seen) for row in rows if leaks(row.seen)}
    assert not found, found
    assert all("[redacted]" in row.seen for row in rows)
    heard = [leaks(each) for each in nosy.heard if leaks(each)]
    assert not heard, (heard, next(each for each in nosy.heard if leaks(each)))
    shown = {each.job.arguments["way"]: leaks(repr(each)) for each in finished}
    assert not any(shown.values()), shown


# -- before and after the task, and beside it --------------------------------------------------------


def test_arguments_that_cannot_be_loaded(database: Database, nosy: Nosy) -> None:
    jobs = Jobs()
    task = jobs.register(pay, name="pay", retry=NEVER_AGAIN, redact=REDACT)
    with database.sessionmaker.begin() as session:
        for _ in range(4):
            task.enqueue(session, "message", CARD, CVV, Holder(), BLOB, LETTER)
    changes = (
        """jsonb_set(arguments, '{card}', '{"number": "4929 1234 5678 9012"}')""",
        """jsonb_set(arguments, '{holder,born}', '"on 1985-12-10, I think"')""",
        "arguments - 'blob'",
        f"jsonb_set(arguments, '{{way}}', '{'9' * 5000}')",
    )
    for number, change in enumerate(changes, 1):
        database.execute(f"UPDATE sqla_jobs SET arguments = {change} WHERE id = {number}")
    drain(jobs, database)
    rows = database.rows("SELECT attempts->0->>'error' AS error, attempts::text AS seen FROM sqla_jobs")
    assert {row.error for row in rows} == {"sqla_jobs.errors.ArgumentsNotLoadable"}
    assert [leaks(row.seen) for row in rows] == [[]] * 4
    assert [each for each in nosy.heard if leaks(each)] == []


def test_the_policy_and_a_hook_see_the_error_and_what_they_raise_is_clean(
    database: Database, nosy: Nosy
) -> None:
    seen: list[object] = []

    class Policy(RetryPolicy):
        def delay(self, attempt: int, error: BaseException, **_: Any) -> timedelta | None:
            seen.append(str(error))
            raise RuntimeError(f"what of {error}?")

    def hook(_: object, finished: Finished) -> None:
        seen.append(finished.job.arguments["card"])
        raise RuntimeError(f"told of {finished.error}") from finished.error

    jobs = Jobs()
    task = jobs.register(pay, name="pay", retry=Policy(), redact=REDACT)
    with database.sessionmaker.begin() as session:
        task.enqueue(session, "message", CARD, CVV, Holder(), BLOB, LETTER)
    drain(jobs, database, on_failure=hook)
    assert (seen[0], seen[-1]) == (f"bad card {CARD}, {CVV}", CARD)
    assert leaks(database.scalar("SELECT attempts::text FROM sqla_jobs")) == []
    assert any("its outcome cannot be recorded" in each for each in nosy.heard)
    (told,) = [each for each in nosy.heard if "a hook failed" in each]
    assert "told of what of what of bad card [redacted], [redacted]??" in told
    assert [each for each in nosy.heard if leaks(each)] == []


def test_a_table_that_refuses_a_claim_or_a_rescue_shows_no_row(database: Database, nosy: Nosy) -> None:
    """PostgreSQL quotes all of the row: ``DETAIL: Failing row contains (1, pay, {"card": …``."""
    jobs = Jobs()

    @jobs.task(name="pay", retry=NEVER_AGAIN, redact=("card",))
    def pay(session: Session, card: str) -> None: ...

    with database.sessionmaker.begin() as session:
        pay.enqueue(session, CARD)
        pay.enqueue(session, CARD)
    database.execute(
        "ALTER TABLE sqla_jobs ADD CONSTRAINT own CHECK (state <> 'running' OR worker_id = 7),"
        " ADD CONSTRAINT other CHECK (state <> 'failed')"
    )
    database.execute(
        "UPDATE sqla_jobs SET state = 'running', worker_id = 7, claim = 1, crashes = 5,"
        " started_at = now() - interval '1 hour' WHERE id = 2"
    )
    with database.sessionmaker.begin() as session:
        assert lifecycle.rescue(session, Job, jobs.policy_for) == []
    heard = threading.Event()

    def hears(record: logging.LogRecord) -> bool:
        if "claiming a job failed" in record.getMessage():
            heard.set()
        return True

    logging.getLogger("sqla_jobs").addFilter(hears)
    try:
        with Worker(jobs, database.engine, poll_interval=SOON):
            assert heard.wait(PATIENCE)
    finally:
        logging.getLogger("sqla_jobs").removeFilter(hears)
    expected = ["claiming a job failed", "cannot be rescued"]
    assert all(any(one in each for each in nosy.heard) for one in expected)
    said = [each for each in nosy.heard if any(one in each for one in expected)]
    assert all("Failing row contains [redacted]." in each for each in said)
    assert [each for each in nosy.heard if leaks(each)] == []


def test_progress_notes_and_the_job_itself(database: Database) -> None:
    jobs = Jobs()
    shown: list[str] = []

    @jobs.task(name="pay", redact=("card", "pin"))
    def pay(session: Session, card: str, pin: int, times: int = 1) -> None:
        job = current_job()
        assert job.arguments == {"card": CARD, "pin": 7, "times": 3}
        job.progress(1, 2, f"paying by {card}, pin={pin}, {times} times")
        shown.append(repr(job))

    with database.sessionmaker.begin() as session:
        pay.enqueue(session, CARD, 7, 3)
    drain(jobs, database)
    note = database.scalar("SELECT progress->>'note' FROM sqla_jobs")
    assert note == "paying by [redacted], pin=[redacted], 3 times"
    assert "'card': '[redacted]'" in shown[0]
    assert "'pin': '[redacted]'" in shown[0]
    assert "'times': 3}" in shown[0]


def test_a_job_whose_row_names_what_the_code_does_not_hides_it_too(database: Database) -> None:
    jobs = Jobs()

    @jobs.task(name="pay", retry=NEVER_AGAIN)
    def pay(session: Session, card: str) -> None:
        raise ValueError(card)

    with database.sessionmaker.begin() as session:
        pay.enqueue(session, CARD)
        pay.enqueue(session, CARD)
    database.execute("""UPDATE sqla_jobs SET meta = '{"redact": ["card"]}' WHERE id = 1""")
    database.execute("""UPDATE sqla_jobs SET meta = '{"redact": 7, "trace": {}}' WHERE id = 2""")
    drain(jobs, database)
    messages = [
        row.m for row in database.rows("SELECT attempts->0->>'message' AS m FROM sqla_jobs ORDER BY id")
    ]
    assert messages == ["[redacted]", CARD]


def test_too_much_to_look_for_shows_where_it_was_and_no_more(database: Database, nosy: Nosy) -> None:
    jobs = Jobs()

    @jobs.task(name="pay", retry=NEVER_AGAIN, redact=("cards",))
    def pay(session: Session, cards: list[str]) -> None:
        raise ValueError(f"among {len(cards)} {cards[-1]}")

    with database.sessionmaker.begin() as session:
        pay.enqueue(session, [f"{number:016}" for number in range(2_000)])
    drain(jobs, database)
    (row,) = database.rows("SELECT attempts->0 AS said FROM sqla_jobs")
    assert row.said["message"] == "[redacted]"
    assert "in pay" in row.said["traceback"]
    assert "0000000000001999" not in str(row.said)
    assert not [each for each in nosy.heard if "0000000000001999" in each]


def test_a_task_without_it_shows_all(database: Database, nosy: Nosy) -> None:
    jobs = Jobs()
    task = jobs.register(pay, name="pay", retry=NEVER_AGAIN)
    with database.sessionmaker.begin() as session:
        assert task.enqueue(session, "message", CARD, CVV, Holder(), BLOB, LETTER).meta is None
    drain(jobs, database)
    assert CARD in database.scalar("SELECT attempts->0->>'message' FROM sqla_jobs")
    assert any(CARD in each for each in nosy.heard)


# -- in a traceback nothing else is lost -------------------------------------------------------------


def clean(said: str, **values: Any) -> str:
    return Redaction(list(values), lambda: list(values.items())).clean(said)


@pytest.mark.parametrize(
    ("value", "said", "seen"),
    [
        ("737", "line 1737, 0x7f737a, 737", "line 1737, 0x7f737a, [redacted]"),
        (737, "cvv 737; 7370; 737.", "cvv [redacted]; 7370; [redacted]."),
        ("1", "line 1, in f: value='1'", "line 1, in f: value=[redacted]"),
        (True, "True == value is True, 'value': True", "True == value is True, 'value': [redacted]"),
        (None, "None, value=None", "None, value=[redacted]"),
        ("", "value=''", "value=''"),
        ("no", "no such file, value: no", "no such file, value: [redacted]"),
        ({"number": "4929123456789012"}, "number 4929123456789012", "number [redacted]"),
        ("secret-token", "xsecret-tokeny", "x[redacted]y"),
        ("abcdefghij", "say abcdef...", "say [redacted]..."),
        ("abcdefghij", "say abcdef", "say [redacted]"),
        ("abcdefghij", "say ...fghij then", "say ...[redacted] then"),
        ("abcdefghij", "say ab... and def", "say ab... and def"),
        (12.5, "costs 12.5, 12.50, 112.5, 1.25e+01", "costs [redacted], [redacted], 112.5, 1.25e+01"),
    ],
)  # fmt: skip
def test_what_is_taken_out_of_a_text_and_what_stays(value: Any, said: str, seen: str) -> None:
    assert clean(said, value=value) == seen


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(
    ("one", "other", "said", "seen"),
    [
        ("Ada King", "Ada King, 12 Oak St", "for Ada King, 12 Oak St.", "for [redacted]."),
        ("Ada King's", "King's, 12 Oak St", "for Ada King's, 12 Oak St.", "for [redacted]."),
        ("12345678", "1234567890123456", "of 1234-5678-9012-3456.", "of [redacted]."),
        ("Oak", "Ada King, 12 Oak St", "for Ada King, 12 Oak St.", "for [redacted]."),
        ("737", "Ada King", "of Ada King737.", "of [redacted][redacted]."),
        ("-", "begin\n        the secret line\nend", "at: the secret line", "at: [redacted]"),
    ],
)
def test_a_value_that_is_part_of_another_leaves_nothing_of_it(
    turned: bool, one: str, other: str, said: str, seen: str
) -> None:
    values = (other, one) if turned else (one, other)
    assert clean(said, a=values[0], b=values[1]) == seen


def test_a_value_that_cannot_be_shown_hides_the_text() -> None:
    class Angry(dict[str, str]):
        def items(self) -> Any:
            raise RuntimeError("never")

    assert clean("anything", value=Angry()) == MASK


def test_arguments_to_be_shown() -> None:
    given = {"card": CARD, "times": 3}
    assert mask(given, ["card", "other"]) == {"card": MASK, "times": 3}
    assert given["card"] == CARD
