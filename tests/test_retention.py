"""`retention=timedelta(0)`: a job that has succeeded is deleted by the commit that says so."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.errors import InvalidOption
from sqla_jobs.outcome import JobState
from tests.support.lane import leave_effect, logged
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE

AT_ONCE = timedelta(0)
REFERRED = """
    CREATE TABLE mails (id bigint PRIMARY KEY, job_id bigint REFERENCES sqla_jobs {})
"""
AT_WORK = "SELECT count(*) FROM pg_locks WHERE relation = 'effects'::regclass"
LANES: Any = pytest.mark.parametrize("lane", [{}, {"group_commit": 50}], ids=["ordinary", "fast"])
DEFERRED = ["", "DEFERRABLE INITIALLY DEFERRED"]


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.url)
    yield engine
    engine.dispose()


def enqueue(database: Database, task: Any, *arguments: Any) -> int:
    with database.sessionmaker.begin() as session:
        return int(task.enqueue(session, *arguments).id)


def drain(jobs: Jobs[Job], engine: Engine) -> Told:
    told = Told()
    worker = Worker(jobs, engine, drain=True, **told.hooks).start()
    assert worker.join(PATIENCE)
    return told


def noop(session: Session) -> None:
    """A job that writes nothing."""


def states(database: Database) -> dict[int, str]:
    return {row.id: row.state for row in database.rows("SELECT id, state FROM sqla_jobs")}


@LANES
@pytest.mark.parametrize("body", [noop, leave_effect])
def test_a_success_leaves_no_row(
    jobs: Jobs[Job], database: Database, engine: Engine, lane: dict[str, Any], body: Any
) -> None:
    task = jobs.task(name="t", retention=AT_ONCE, **lane)(body)
    ids = [enqueue(database, task) for _ in range(5)]
    told = drain(jobs, engine)
    assert told.calls == [("finish", job) for job in ids]
    assert {each.state for each in told.take(5)} == {JobState.SUCCEEDED}
    assert states(database) == {}
    assert database.scalar("SELECT count(DISTINCT job_id) FROM effects") == (5 if body is leave_effect else 0)


@LANES
def test_a_failure_leaves_its_row(
    jobs: Jobs[Job], database: Database, engine: Engine, lane: dict[str, Any]
) -> None:
    @jobs.task(name="t", retention=AT_ONCE, **lane)
    def fail(session: Session) -> None:
        raise ValueError

    job = enqueue(database, fail.using(max_attempts=1))
    drain(jobs, engine)
    assert states(database) == {job: "failed"}


@LANES
@pytest.mark.parametrize("deferred", DEFERRED, ids=["at once", "deferred"])
def test_a_row_that_is_referred_to_is_kept(
    jobs: Jobs[Job], database: Database, engine: Engine, lane: dict[str, Any], deferred: str
) -> None:
    database.execute(REFERRED.format(deferred))
    task = jobs.task(name="t", retention=AT_ONCE, **lane)(leave_effect)
    kept, *others = [enqueue(database, task) for _ in range(3)]
    database.execute("INSERT INTO mails VALUES (1, :job)", job=kept)
    drain(jobs, engine)
    left = states(database)
    assert left[kept] == "succeeded"
    assert set(left.values()) == {"succeeded"}
    if not lane:
        assert not left.keys() & set(others)
    assert database.scalar("SELECT count(DISTINCT job_id) FROM effects") == 3


def test_a_row_that_somebody_is_about_to_refer_to_is_not_waited_for(
    jobs: Jobs[Job], database: Database, engine: Engine
) -> None:
    database.execute(REFERRED.format(""))
    task = jobs.task(name="t", retention=AT_ONCE)(leave_effect)
    job = enqueue(database, task)
    with database.engine.begin() as connection:
        connection.execute(text("INSERT INTO mails VALUES (1, :job)"), {"job": job})
        drain(jobs, engine)
        assert states(database) == {job: "succeeded"}


@pytest.mark.parametrize("deferred", DEFERRED, ids=["at once", "deferred"])
def test_what_the_job_itself_may_not_do_is_its_own_failure(
    jobs: Jobs[Job], database: Database, engine: Engine, deferred: str
) -> None:
    database.execute(REFERRED.format(deferred))

    @jobs.task(name="t", retention=AT_ONCE)
    def refer(session: Session) -> None:
        session.execute(text("INSERT INTO mails VALUES (1, 0)"))

    job = enqueue(database, refer.using(max_attempts=1))
    drain(jobs, engine)
    assert states(database) == {job: "failed"}
    assert database.scalar("SELECT attempts -> 0 ->> 'error' FROM sqla_jobs").endswith("IntegrityError")
    assert database.scalar("SELECT count(*) FROM mails") == 0


def test_a_claim_that_was_taken_over_deletes_nothing(
    jobs: Jobs[Job], database: Database, engine: Engine
) -> None:
    @jobs.task(name="t", retention=AT_ONCE)
    def lose(session: Session) -> None:
        leave_effect(session)
        database.execute("UPDATE sqla_jobs SET claim = claim + 1, state = 'failed', finished_at = now()")

    job = enqueue(database, lose)
    assert drain(jobs, engine).calls == []
    assert states(database) == {job: "failed"}
    assert database.scalar("SELECT count(*) FROM effects") == 0


def test_work_once(jobs: Jobs[Job], database: Database) -> None:
    task = jobs.task(name="t", retention=AT_ONCE)(leave_effect)
    job = enqueue(database, task)
    with database.sessionmaker() as session:
        finished = jobs.work_once(session)
        assert finished is not None
        assert finished.state is JobState.SUCCEEDED
        session.rollback()
        assert states(database) == {job: "queued"}
        jobs.work_once(session)
        session.commit()
    assert states(database) == {}
    assert database.scalar("SELECT count(*) FROM effects") == 1


@LANES
def test_a_commit_that_stands_though_nobody_was_told(
    jobs: Jobs[Job],
    database: Database,
    engine: Engine,
    lane: dict[str, Any],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The row is gone, as it should be: the job has succeeded."""
    task = jobs.task(name="t", retention=AT_ONCE, **lane)(leave_effect)
    struck: list[object] = []

    @event.listens_for(engine, "commit")
    def lose(connection: Any) -> None:
        if not struck and database.scalar(
            "SELECT count(*) FROM pg_locks WHERE relation = 'effects'::regclass"
        ):
            struck.append(connection)
            driver = connection.connection.driver_connection
            driver.execute("COMMIT")
            database.execute("SELECT pg_terminate_backend(:pid)", pid=driver.info.backend_pid)

    job = enqueue(database, task)
    with caplog.at_level(logging.WARNING, "sqla_jobs"):
        told = drain(jobs, engine)
    assert struck
    assert told.calls == [("finish", job)], logged(caplog)
    assert states(database) == {}
    assert database.scalar("SELECT count(*) FROM effects") == 1


@pytest.mark.parametrize("retention", [timedelta(days=1), 0, timedelta(-1), "0"])
def test_anything_else_is_refused(jobs: Jobs[Job], retention: Any) -> None:
    with pytest.raises(InvalidOption, match=r"retention .*; expected timedelta\(0\)"):
        jobs.task(name="t", retention=retention)(noop)
