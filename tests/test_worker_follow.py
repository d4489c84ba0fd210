"""The next job is claimed with the commit of the one before, unless the worker may not go on."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Job, Jobs, JobState, Worker, current_job
from sqla_jobs.worker import hands
from tests.support.lane import leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON

ROWS = "SELECT state, claim FROM sqla_jobs ORDER BY id"


class Two:
    """Two jobs, of which the first runs until `go_on` is set."""

    def __init__(self, database: Database) -> None:
        self.jobs, self.told = Jobs[Job](), Told()
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.runs: list[int] = []

        @self.jobs.task(name="t")
        def task(session: Session) -> None:
            self.runs.append(current_job().id)
            leave_effect(session)
            session.flush()
            self.begun.set()
            assert self.go_on.wait(PATIENCE)

        with database.sessionmaker.begin() as session:
            session.add_all([task.job(), task.job()])


@pytest.fixture
def two(database: Database) -> Two:
    return Two(database)


def worker(two: Two, engine: Engine) -> Worker:
    limit, often = timedelta(milliseconds=500), timedelta(milliseconds=50)
    return Worker(
        two.jobs,
        engine,
        poll_interval=SOON,
        heartbeat_interval=often,
        heartbeat_limit=limit,
        **two.told.hooks,
    )


def test_without_a_heartbeat_in_time_the_next_job_is_not_claimed(two: Two, database: Database) -> None:
    """Others may have taken it for dead while the job ran, and would take the next one away at once."""
    late = worker(two, database.engine).start()
    assert two.begun.wait(PATIENCE)
    with database.engine.connect() as locker:
        locker.execute(text("SELECT id FROM sqla_jobs_workers FOR UPDATE"))
        until(database, "SELECT now() > heartbeat_at + 3 * heartbeat_limit FROM sqla_jobs_workers")
        two.go_on.set()
        assert two.told.next().state is JobState.SUCCEEDED
        assert [row.state for row in database.rows(ROWS)] == ["succeeded", "queued"]
        locker.rollback()
    assert two.told.next().state is JobState.SUCCEEDED, "once it beats again it goes on"
    late.stop()
    assert late.join(PATIENCE)


def test_a_worker_that_stops_does_not_claim_the_next_job(two: Two, database: Database) -> None:
    with worker(two, database.engine) as stopped:
        assert two.begun.wait(PATIENCE)
        stopped.stop()
        two.go_on.set()
        assert stopped.join(PATIENCE)
    rows = [(row.state, row.claim) for row in database.rows(ROWS)]
    assert rows == [("succeeded", 1), ("queued", 0)], "nor was it claimed and given back"


def test_at_a_higher_level_the_next_job_is_claimed_apart(two: Two, database: Database) -> None:
    """A claim would fail there if a row was changed since the job began, and the job would run again."""
    strict = database.engine.execution_options(isolation_level="REPEATABLE READ")
    with worker(two, strict) as careful:
        assert two.begun.wait(PATIENCE)
        database.execute("UPDATE sqla_jobs SET priority = 1 WHERE state = 'queued'")
        two.go_on.set()
        assert [done.state for done in two.told.take(2)] == [JobState.SUCCEEDED] * 2
        assert careful.state == "running"
    assert len(two.runs) == len(set(two.runs)) == 2


def test_while_hooks_take_long_the_next_job_is_not_claimed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would wait for them, claimed, while another worker could run it."""
    monkeypatch.setattr(hands, "_LONG_HOOK", -1.0)
    jobs: Jobs[Job] = Jobs()
    told, go_on = threading.Semaphore(0), threading.Semaphore(0)

    @jobs.task(name="t")
    def task(session: Session) -> None:
        leave_effect(session)

    def hook(_: Worker, __: Finished) -> None:
        told.release()
        assert go_on.acquire(timeout=PATIENCE)

    with database.sessionmaker.begin() as session:
        session.add_all([task.job() for _ in range(3)])
    with Worker(jobs, database.engine, poll_interval=SOON, on_finish=hook):
        assert told.acquire(timeout=PATIENCE)
        go_on.release()
        assert told.acquire(timeout=PATIENCE)
        states = [row.state for row in database.rows(ROWS)]
        go_on.release(2)
        assert states == ["succeeded", "succeeded", "queued"]
        until(database, "SELECT count(*) = 3 FROM sqla_jobs WHERE state = 'succeeded'")


def test_a_hook_that_ends_its_thread_gives_back_what_was_claimed_with_the_last(database: Database) -> None:
    jobs: Jobs[Job] = Jobs()
    running, go_on = (
        threading.Semaphore(0),
        {1: threading.Event(), 2: threading.Event(), 3: threading.Event()},
    )

    @jobs.task(name="t")
    def task(session: Session) -> None:
        leave_effect(session)
        session.flush()
        running.release()
        assert go_on[current_job().id].wait(PATIENCE)

    def leave(_: Worker, finished: Finished) -> None:
        if finished.job.id == 1:
            raise SystemExit

    with database.sessionmaker.begin() as session:
        session.add_all([task.job() for _ in range(3)])
    hour = timedelta(hours=1)
    # No sweep that would find it later; and the other thread has something to do.
    with Worker(
        jobs,
        database.engine,
        threads=2,
        poll_interval=SOON,
        heartbeat_interval=hour,
        heartbeat_limit=3 * hour,
        on_finish=leave,
    ):
        assert running.acquire(timeout=PATIENCE)
        assert running.acquire(timeout=PATIENCE)
        go_on[1].set()
        until(database, "SELECT state = 'queued' AND claim = 1 AND attempt = 0 FROM sqla_jobs WHERE id = 3")
        go_on[2].set()
        go_on[3].set()
        until(database, "SELECT count(*) = 3 FROM sqla_jobs WHERE state = 'succeeded'")
