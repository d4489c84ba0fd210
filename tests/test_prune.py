"""`prune`: finished jobs are deleted, the oldest first, and nothing else is."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.orm.exc import ObjectDeletedError

from sqla_jobs import Job, Jobs, JobState, prune
from sqla_jobs.errors import InvalidOption
from tests.support.plans import fill
from tests.support.server import Database

NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)
DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
FINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def add(session: Session, state: str = "succeeded", *, age: timedelta = timedelta(30)) -> int:
    """A job in that state, which if it is final was reached so long before NOW."""
    finished_at = NOW - age if state in FINAL else None
    job = Job(task="t", state=state, finished_at=finished_at)
    session.add(job)
    session.flush()
    return job.id


def left(session: Session) -> list[int]:
    return list(session.scalars(text("SELECT id FROM sqla_jobs ORDER BY id")))


def test_succeeded_and_cancelled_jobs_go_after_seven_days(session: Session, jobs: Jobs[Job]) -> None:
    """By when they finished: 'older than' includes the very moment."""
    kept = [add(session, state) for state in ("scheduled", "queued", "running", "failed")]
    for state in ("succeeded", "cancelled"):
        add(session, state, age=7 * DAY)
        kept.append(add(session, state, age=7 * DAY - TICK))
    assert jobs.prune(session, now=NOW) == 2
    assert left(session) == sorted(kept)


@pytest.mark.parametrize("states", [["failed"], (JobState.FAILED,), {"failed"}, iter(["failed", "failed"])])
def test_failed_ones_only_if_asked(session: Session, jobs: Jobs[Job], states: Any) -> None:
    add(session, "failed")
    kept = [add(session, "succeeded"), add(session, "cancelled")]
    assert jobs.prune(session, states=states, now=NOW) == 1
    assert left(session) == kept


def test_zero_is_all_that_have_finished(session: Session, jobs: Jobs[Job]) -> None:
    kept = add(session, "running")
    for state in FINAL:
        add(session, state, age=timedelta(0))
    assert jobs.prune(session, older_than=timedelta(0), states=FINAL, now=NOW) == 3
    assert left(session) == [kept]


def test_the_databases_clock_decides(session: Session, jobs: Jobs[Job]) -> None:
    ids = [add(session), add(session)]
    for job, ago in zip(ids, ("7 days", "6 days 23:00"), strict=True):
        session.execute(
            text("UPDATE sqla_jobs SET finished_at = statement_timestamp() - CAST(:ago AS interval) "
                 "WHERE id = :id"), {"ago": ago, "id": job},
        )  # fmt: skip
    assert jobs.prune(session) == 1
    assert left(session) == ids[1:]


def test_the_oldest_go_first(session: Session, jobs: Jobs[Job]) -> None:
    ids = [add(session, age=timedelta(days)) for days in (10, 30, 20, 40)]
    assert jobs.prune(session, limit=1, now=NOW) == 1
    assert left(session) == ids[:3]
    assert jobs.prune(session, limit=2, now=NOW) == 2
    assert left(session) == ids[:1]
    assert [jobs.prune(session, limit=2, now=NOW) for _ in range(2)] == [1, 0]


def test_a_limit_counts_over_all_states(session: Session, jobs: Jobs[Job]) -> None:
    for state in FINAL * 2:
        add(session, state)
    assert jobs.prune(session, states=FINAL, limit=5, now=NOW) == 5
    assert len(left(session)) == 1


def test_more_than_a_batch_that_finished_at_one_moment(database: Database, jobs: Jobs[Job]) -> None:
    fill(database, "succeeded", 2500)
    fill(database, "cancelled", 1000)
    with database.sessionmaker.begin() as session:
        assert jobs.prune(session, older_than=timedelta(0), limit=1200) == 1200
    with database.sessionmaker.begin() as session:
        assert jobs.prune(session, older_than=timedelta(0)) == 2300
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


@pytest.mark.parametrize("when", ["-infinity", "4713-01-01 BC"])
def test_a_time_that_python_does_not_know(session: Session, jobs: Jobs[Job], when: str) -> None:
    """Written by hand; the jobs behind it go all the same."""
    for _ in range(2):
        add(session)
    session.execute(text("UPDATE sqla_jobs SET finished_at = CAST(:when AS timestamptz)"), {"when": when})
    add(session)
    assert jobs.prune(session, now=NOW) == 3


def test_it_is_undone_with_the_transaction(database: Database, jobs: Jobs[Job]) -> None:
    fill(database, "succeeded", 3)
    with database.sessionmaker() as session:
        assert jobs.prune(session, older_than=timedelta(0)) == 3
        session.rollback()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 3


def test_what_the_session_knows_of_them_is_gone(session: Session, jobs: Jobs[Job]) -> None:
    add(session)
    job = Job(task="t", state="succeeded", finished_at=NOW - 30 * DAY)
    session.add(job)  # not flushed
    assert jobs.prune(session, now=NOW) == 2
    with pytest.raises(ObjectDeletedError):
        print(job.state)


def test_locked_ones_are_passed_over(database: Database, jobs: Jobs[Job]) -> None:
    fill(database, "succeeded", 3)
    first = database.scalar("SELECT min(id) FROM sqla_jobs")
    with database.sessionmaker() as other, database.sessionmaker() as session:
        session.execute(text("SET LOCAL lock_timeout = '1ms'"))
        other.execute(text("SELECT FROM sqla_jobs WHERE id = :id FOR KEY SHARE"), {"id": first})
        assert jobs.prune(session, older_than=timedelta(0)) == 2
        other.rollback()
        assert jobs.prune(session, older_than=timedelta(0)) == 1


def test_two_at_once_share_the_work(database: Database, jobs: Jobs[Job]) -> None:
    """Neither waits for the other, nor counts what the other deletes."""
    fill(database, "succeeded", 30)
    with database.sessionmaker() as one, database.sessionmaker() as other:
        for session in (one, other):
            session.execute(text("SET LOCAL lock_timeout = '1ms'"))
        assert jobs.prune(one, older_than=timedelta(0), limit=10) == 10
        assert jobs.prune(other, older_than=timedelta(0)) == 20
        one.commit()
        assert jobs.prune(other, older_than=timedelta(0)) == 0
        other.commit()


def test_the_function_takes_any_session(database: Database) -> None:
    fill(database, "succeeded", 2)
    registry = scoped_session(sessionmaker(database.engine))
    assert prune(registry, older_than=timedelta(0), limit=1) == 1
    registry.commit()
    with database.sessionmaker.begin() as session:
        assert prune(session, older_than=timedelta(0), model=Job) == 1
    registry.remove()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"older_than": 7}, r"older_than 7; expected a timedelta"),
        ({"older_than": -TICK}, r"older_than -1 day, .*; expected zero or more"),
        ({"states": "failed"}, r"states is the text 'failed'; expected several: \['failed'\]"),
        ({"states": ["queued"]}, r"prune of 'queued' jobs; expected states out of succeeded, failed, canc"),
        ({"states": [JobState.RUNNING]}, r"prune of .*running.* jobs; .*cancel\(\)"),
        ({"states": ["failed", None]}, r"prune of None jobs"),
        ({"limit": 0}, r"limit 0; expected a whole number from 1, or None for all"),
        ({"limit": True}, r"limit True; expected"),
    ],
)
def test_what_cannot_be_pruned_is_refused(
    session: Session, jobs: Jobs[Job], options: dict[str, Any], message: str
) -> None:
    add(session)
    with pytest.raises(InvalidOption, match=message):
        jobs.prune(session, **options)
    assert len(left(session)) == 1


def test_something_else_than_a_session_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"prune\('x', …\); expected a Session"):
        prune("x")  # type: ignore[arg-type]
