"""When the fast lane is closed: a job that kills its process must come to where its attempts are counted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle, statements
from sqla_jobs.lifecycle import Claimed, Mark
from tests.support.server import Database
from tests.support.verbs import MINUTE, NOW, SECOND, WORKER, add, employ, row

LIMIT = timedelta(seconds=30)
OTHER = WORKER + 1
INSERT = text(
    "INSERT INTO sqla_jobs_workers"
    " (id, host, pid, version, threads, heartbeat_limit, locked, started_at, heartbeat_at, died_at)"
    " OVERRIDING SYSTEM VALUE VALUES (:id, 'h', 1, 'v', 1, :limit, :locked, :started, :beat, :died)"
)


def another(session: Session, **told: Any) -> None:
    """The row of another worker: it was started an hour ago, and has said a second ago that it lives."""
    row = {
        "id": OTHER, "limit": LIMIT, "locked": False, "started": NOW - 60 * MINUTE, "beat": NOW - SECOND,
        "died": None,
    }  # fmt: skip
    session.execute(INSERT, {**row, **told})


def claim(session: Session, **options: Any) -> tuple[Claimed, bool] | None:
    employ(session)
    return lifecycle.claim_either(session.connection(), Job, WORKER, None, ["fast"], now=NOW, **options)


def is_closed(session: Session) -> bool:
    job = add(session, task="fast")
    employ(session)
    group, _ = lifecycle.claim_group(
        session.connection(), Job, WORKER, None, ["fast"], 8, Mark(0, NOW, job.id - 1), now=NOW
    )
    found = claim(session)
    assert found is not None
    assert [each.id for each in group] == ([] if found[1] else [job.id])
    assert found[0].id == job.id
    state, attempt, number = session.execute(text("SELECT state, attempt, claim FROM sqla_jobs")).one()
    # What is to be counted is counted before the job runs; in the fast lane nothing is.
    assert (state, attempt, number) == (("running", 1, 1) if found[1] else ("queued", 0, 0))
    return found[1]


def test_it_is_open_to_a_worker_alone(session: Session) -> None:
    """Also to one without a lock, and whose own heartbeat is late: it lives."""
    another(session, id=WORKER, started=NOW - SECOND, beat=NOW - 60 * MINUTE)
    assert not is_closed(session)


def test_it_is_open_beside_one_that_lives(session: Session) -> None:
    another(session)
    assert not is_closed(session)


@contextmanager
def locked(database: Database) -> Iterator[None]:
    """The other worker lives, and holds its lock."""
    with database.engine.connect() as connection:
        assert connection.execute(statements.lock(Job), {"p_id": OTHER}).scalar_one()
        connection.commit()
        yield
        connection.execute(statements.unlock())


def test_beside_one_that_holds_its_lock_until_it_lets_it_go(database: Database) -> None:
    """However new it is; and then at once, whatever its last heartbeat was."""
    with database.sessionmaker() as session:
        another(session, locked=True, started=NOW)
        session.commit()
        with locked(database):
            assert not is_closed(session)
            session.rollback()
        assert is_closed(session)


@pytest.mark.parametrize(("ago", "closed"), [(59, True), (61, False)])
def test_it_is_closed_for_a_minute_after_a_death(session: Session, ago: int, closed: bool) -> None:
    another(session, died=NOW - ago * SECOND, beat=NOW - 60 * MINUTE)
    assert is_closed(session) is closed


@pytest.mark.parametrize(("ago", "closed"), [(19, False), (21, True)])
def test_it_is_closed_once_a_heartbeat_is_missed(session: Session, ago: int, closed: bool) -> None:
    """Behind PgBouncer there is no lock by which a death is seen."""
    another(session, beat=NOW - ago * SECOND)
    assert is_closed(session) is closed


def test_also_one_of_who_holds_its_lock(database: Database) -> None:
    """A child that it had forked may hold it instead."""
    with database.sessionmaker() as session:
        another(session, beat=NOW - 21 * SECOND, locked=True)
        session.commit()
        with locked(database):
            assert is_closed(session)
            session.rollback()


@pytest.mark.parametrize(("ago", "closed"), [(19, True), (21, False)])
def test_it_is_closed_beside_one_that_is_new_and_has_no_lock(
    session: Session, ago: int, closed: bool
) -> None:
    """Where a process dies at once, at each start, that is all that anybody ever sees of it."""
    another(session, started=NOW - ago * SECOND)
    assert is_closed(session) is closed


def test_to_what_a_worker_has_died_of_it_is_never_open(session: Session) -> None:
    suspect, innocent = add(session, task="fast", crashes=1, priority=1), add(session, task="fast")
    found = claim(session, innocent=True)
    assert found is not None
    assert (found[0].id, found[1]) == (innocent.id, False)
    found = claim(session)
    assert found is not None
    assert (found[0].id, found[1]) == (suspect.id, True)
    assert row(session, suspect).attempt == 1


def test_nor_does_such_a_job_join_a_group(session: Session) -> None:
    first, suspect, third = (add(session, task="fast", crashes=crashes) for crashes in (0, 1, 0))
    found = claim(session)
    assert found is not None
    assert (found[0].id, found[1]) == (first.id, False)
    joined = lifecycle.join(session.connection(), Job, found[0], None, ["fast"], 8, now=NOW)
    assert [each.id for each in joined] == [third.id]
    assert row(session, suspect).state == "queued"
