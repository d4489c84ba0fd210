"""Worker processes that are killed or stopped in the middle of a job: each job is run exactly once.

They hold no locks, and are judged by their heartbeats alone; for those that do, see test_liveness_processes.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Worker, current_job
from sqla_jobs.errors import WorkerDied
from tests.support.lane import AT_ONCE, leave_effect
from tests.support.program import Program
from tests.support.server import Database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import SOON

GATE = 4711
"""An advisory lock that the job `hold` waits for."""

PROGRAM = dedent("""
    import logging, os
    from datetime import timedelta
    from sqlalchemy import create_engine
    from sqla_jobs import Worker
    from tests.test_rescue_processes import application

    logging.basicConfig(level="INFO", format="%(message)s")
    Worker(
        application(),
        create_engine(os.environ["DATABASE_URL"]),
        threads=2,
        poll_interval=timedelta(milliseconds=20),
        heartbeat_interval=timedelta(milliseconds=200),
        heartbeat_limit=timedelta(seconds=1),
    ).run()
""")


def application() -> Jobs[Job]:
    """The tasks of both sides, the processes and the rescuer in the test."""
    import logging

    jobs = Jobs[Job](notify=False)

    @jobs.task(name="hold", retry=AT_ONCE)
    def hold(session: Session) -> None:
        leave_effect(session)
        session.flush()
        logging.getLogger("app").info("holding job %s", current_job().id)
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({GATE})"))

    @jobs.task(name="quick", retry=AT_ONCE)
    def quick(session: Session) -> None:
        leave_effect(session)

    return jobs


@pytest.fixture
def gate(database: Database) -> Iterator[Connection]:
    with database.engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        yield connection


@pytest.fixture
def told() -> Told:
    return Told()


@contextmanager
def process(database: Database, folder: Path) -> Iterator[Program]:
    environment = {"DATABASE_URL": database.url_string}
    with Program("-c", PROGRAM, folder=folder, environment=environment) as program:
        yield program


def rescuer(database: Database, told: Told, jobs: Jobs[Job] | None = None, **options: Any) -> Worker:
    """A worker that looks after others all the time."""
    return Worker(
        application() if jobs is None else jobs,
        database.engine,
        poll_interval=SOON,
        heartbeat_interval=timedelta(milliseconds=50),
        heartbeat_limit=timedelta(seconds=2),  # as long as it judges nobody after its start
        **told.hooks,
        **options,
    )


def row(database: Database, job: int = 1) -> Any:
    (found,) = database.rows("SELECT * FROM sqla_jobs WHERE id = :id", id=job)
    return found


def effects(database: Database, job: int = 1) -> int:
    return int(database.scalar("SELECT count(*) FROM effects WHERE job_id = :id", id=job))


def test_the_job_of_a_killed_worker_is_run_again_exactly_once(
    database: Database, gate: Connection, told: Told, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('hold')")
    with process(database, tmp_path) as killed:
        killed.wait_for("holding job 1")
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert (row(database).state, row(database).attempt) == ("running", 1)
    gate.close()
    with rescuer(database, told):
        died, succeeded = told.take(2)
    assert isinstance(died.error, WorkerDied)
    assert (died.state, died.failed, died.job.attempt) == (JobState.SCHEDULED, True, 1)
    assert (succeeded.state, succeeded.job.attempt) == (JobState.SUCCEEDED, 2)
    assert told.calls == [("failure", 1), ("finish", 1), ("finish", 1)]
    found = row(database)
    assert (found.state, found.attempt, found.claim, found.crashes) == ("succeeded", 2, 2, 1)
    ((kept),) = found.attempts
    assert (kept["error"], kept["attempt"]) == ("sqla_jobs.errors.WorkerDied", 1)
    assert f"process {killed.pid}" in kept["message"]
    assert effects(database) == 1
    assert database.rows("SELECT pid FROM sqla_jobs_workers WHERE died_at IS NOT NULL") == [(killed.pid,)]


def test_with_one_attempt_it_is_failed_by_name(
    database: Database, gate: Connection, told: Told, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task, max_attempts) VALUES ('hold', 1)")
    with process(database, tmp_path) as killed:
        killed.wait_for("holding job 1")
        killed.send(signal.SIGKILL)
        killed.wait()
    gate.close()
    with rescuer(database, told):
        finished = told.next()
    assert (finished.state, type(finished.error)) == (JobState.FAILED, WorkerDied)
    found = row(database)
    assert (found.state, found.attempt, found.crashes, effects(database)) == ("failed", 1, 1, 0)
    assert found.attempts[0]["error"] == "sqla_jobs.errors.WorkerDied"


def test_a_worker_that_was_stopped_for_too_long_is_refused_and_registers_anew(
    database: Database, gate: Connection, told: Told, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('hold')")
    with process(database, tmp_path) as stopped:
        stopped.wait_for("holding job 1")
        old = row(database).worker_id
        stopped.send(signal.SIGSTOP)
        gate.close()
        with rescuer(database, told):
            assert [each.state for each in told.take(2)] == [JobState.SCHEDULED, JobState.SUCCEEDED]
        # Nobody is left but the stopped one, which shall not claim this under the id of a dead worker.
        database.execute("INSERT INTO sqla_jobs (task, state) VALUES ('quick', 'queued')")
        stopped.send(signal.SIGCONT)
        stopped.wait_for(r"job 2 \(quick\) succeeded")
        stopped.send(signal.SIGTERM)
        assert stopped.wait() == 0
    assert "job 1 (hold) lost: its claim was taken over" in stopped.errors
    assert f"worker {old} was taken for dead" in stopped.errors
    first, second = row(database, 1), row(database, 2)
    assert (first.state, first.attempt, first.claim, first.crashes) == ("succeeded", 2, 2, 1)
    assert (second.state, second.attempt, second.claim, second.crashes) == ("succeeded", 1, 1, 0)
    assert second.worker_id > old
    assert (effects(database, 1), effects(database, 2)) == (1, 1)


def test_many_jobs_and_a_killed_worker(database: Database, told: Told, tmp_path: Path) -> None:
    database.execute("INSERT INTO sqla_jobs (task) SELECT 'quick' FROM generate_series(1, 500)")
    with process(database, tmp_path) as killed:
        killed.wait_for(r"job 50 \(quick\) succeeded")
        killed.send(signal.SIGKILL)
        killed.wait()
    # With the whole of the server's part in it: a commit that was under way may yet be carried out.
    until(database, "SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = current_database()")
    jobs = Jobs[Job]()
    jobs.task(name="quick", retry=RetryPolicy(base=timedelta(0)))(leave_effect)
    with rescuer(database, told, jobs, threads=4):
        until(database, "SELECT count(*) = 0 FROM sqla_jobs WHERE state <> 'succeeded'")
    (counted,) = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert counted == (500, 500)
    assert database.scalar("SELECT max(attempt) FROM sqla_jobs") <= 2
    assert database.scalar("SELECT sum(crashes) FROM sqla_jobs") <= 2, "at most one for each thread"
