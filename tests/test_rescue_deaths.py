"""The row of a dead worker: kept for a minute, for all to see, and of a living worker to nobody."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle, statements
from sqla_jobs.lifecycle import Rescued
from tests.support.bait import bait
from tests.support.lane import AT_ONCE, register
from tests.support.server import Database
from tests.support.verbs import add

NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)
LIMIT = timedelta(seconds=30)
DEATH = NOW + LIMIT
MINUTE = timedelta(minutes=1)
TICK = timedelta(microseconds=1)


def rescue(session: Session, now: datetime | None = None, gone: tuple[str, ...] = ()) -> list[Rescued]:
    return lifecycle.rescue(session, Job, lambda _: AT_ONCE, gone=gone, now=now)


def row(session: Session, worker_id: int) -> Any:
    found = session.execute(text("SELECT * FROM sqla_jobs_workers WHERE id = :id"), {"id": worker_id})
    return found.one_or_none()


@pytest.fixture
def dead(session: Session) -> int:
    """A worker that was found dead at `DEATH`."""
    number = register(session, limit=LIMIT)
    lifecycle.heartbeat(session, Job, number, [], now=NOW)
    session.execute(text("UPDATE sqla_jobs_workers SET locked = true"))
    assert rescue(session, NOW + LIMIT) == []
    assert row(session, number).died_at is None, "its row says locked: ten limits"
    lifecycle.deny_lock(session, Job, number)
    rescue(session, DEATH)
    return number


# -- how long it is kept ---------------------------------------------------------------------------


def test_it_is_kept_for_a_minute_and_says_when_that_was(session: Session, dead: int) -> None:
    found = row(session, dead)
    assert (found.died_at, found.heartbeat_at, found.locked) == (DEATH, NOW, False)
    rescue(session, DEATH + MINUTE - TICK)
    assert row(session, dead).died_at == DEATH, "a death is found once"
    rescue(session, DEATH + MINUTE)
    assert row(session, dead) is None


def test_who_lives_keeps_its_row_for_ever(session: Session) -> None:
    number = register(session, limit=timedelta(days=1))
    lifecycle.heartbeat(session, Job, number, [], now=NOW)
    rescue(session, NOW + 60 * MINUTE)
    assert row(session, number).died_at is None


def test_who_held_a_lock_is_not_said_to_hold_it_any_more(database: Database) -> None:
    """Else all the others would look for its lock, and find it free, for another minute."""
    gone = bait(database, locked=True)
    with database.sessionmaker.begin() as session:
        (version,) = lifecycle.unheld(session, Job, 0)
        assert [each.job.id for each in rescue(session, gone=(version,))] == [gone.job]
        found = row(session, gone.worker_id)
        assert found.died_at is not None
        assert not found.locked
    with database.sessionmaker.begin() as session:
        assert lifecycle.unheld(session, Job, 0) == []


def test_two_that_remove_the_same_rows_do_not_wait_for_each_other(database: Database) -> None:
    old = bait(database, locked=False)
    database.execute("UPDATE sqla_jobs_workers SET died_at = now() - interval '2 minutes'")
    with database.sessionmaker() as first, database.sessionmaker() as second:
        assert [each.job.id for each in rescue(first)] == [old.job]
        second.execute(text("SET LOCAL lock_timeout = '1ms'"))
        assert rescue(second) == []
        second.commit()
        first.commit()
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


# -- to whom it is of a dead worker ----------------------------------------------------------------


def test_its_heartbeat_finds_that_it_was_taken_for_dead(session: Session, dead: int) -> None:
    assert not lifecycle.heartbeat(session, Job, dead, [{"id": 1}], now=DEATH)
    found = row(session, dead)
    assert (found.heartbeat_at, found.running) == (NOW, [])


def test_it_claims_nothing(session: Session, dead: int) -> None:
    add(session)
    assert lifecycle.claim(session, Job, dead) == []
    assert lifecycle.claim(session, Job, register(session, limit=LIMIT)) != []


def test_what_it_has_claimed_at_the_moment_of_its_death_is_rescued(session: Session, dead: int) -> None:
    """Its claim has seen its row as it was before."""
    job = add(session, state="running", worker_id=dead, attempt=1, claim=1)
    (rescued,) = rescue(session, DEATH)
    assert rescued.job.id == job.id
    assert f"worker {dead} (process 1 on h) gave no heartbeat since" in str(rescued.outcome.error)


def test_the_lock_of_its_row_is_not_to_be_had(session: Session, dead: int) -> None:
    """A connection that comes back between the death and the heartbeat that finds it."""
    mine = {"p_id": dead}
    assert session.execute(statements.lock(Job), mine).all() == []
    session.execute(statements.say_locked(Job), mine)
    assert not row(session, dead).locked


def test_nobody_looks_for_its_lock(session: Session, dead: int) -> None:
    session.execute(text("UPDATE sqla_jobs_workers SET locked = true"))  # whoever wrote that
    assert lifecycle.unheld(session, Job, 0) == []


def test_it_is_not_among_the_workers_of_a_host(session: Session, dead: int) -> None:
    assert lifecycle.health(session, None, "h", now=NOW) == (0, None, 0, None)


def test_a_goodbye_removes_it_at_once(session: Session, dead: int) -> None:
    """Who says goodbye has not died, whatever the others took it for."""
    lifecycle.goodbye(session, Job, dead)
    assert row(session, dead) is None
