"""What a worker asks of the pool, and the limits that it keeps: jobs, memory, suspects."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool, StaticPool

from sqla_jobs import Job, Jobs, Worker, current_job
from sqla_jobs.errors import ConfigurationError, InvalidOption
from sqla_jobs.worker.memory import resident_memory
from tests.support.lane import leave_effect
from tests.support.server import Database
from tests.support.work import PATIENCE, SOON

WORKERS = "SELECT count(*) FROM sqla_jobs_workers"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def enqueue(database: Database, *jobs: Job) -> list[int]:
    with database.sessionmaker.begin() as session:
        session.add_all(jobs)
        session.flush()
        return [job.id for job in jobs]


# -- the pool --------------------------------------------------------------------------------------


def test_a_pool_that_is_too_small_is_refused_at_the_start(jobs: Jobs[Job], database: Database) -> None:
    small = create_engine(database.url, pool_size=2, max_overflow=1)
    with pytest.raises(ConfigurationError, match=r"3 connection.* at most.* needs 4: create_"):
        Worker(jobs, small, threads=3).start()
    assert database.scalar(WORKERS) == 0
    with Worker(jobs, small, threads=2, poll_interval=SOON):
        pass
    small.dispose()


@pytest.mark.parametrize(
    "options", [{"pool_size": 0}, {"pool_size": 1, "max_overflow": -1}, {"poolclass": NullPool}], ids=str
)
def test_a_pool_without_a_limit_is_large_enough(
    options: dict[str, Any], jobs: Jobs[Job], database: Database
) -> None:
    engine = create_engine(database.url, **options)
    with Worker(jobs, engine, threads=20, poll_interval=SOON) as worker:
        assert worker.state == "running"
    engine.dispose()


def test_one_connection_for_all_is_refused(jobs: Jobs[Job], database: Database) -> None:
    engine = create_engine(database.url, poolclass=StaticPool)
    with pytest.raises(ConfigurationError, match="the engine's pool is a StaticPool"):
        Worker(jobs, engine).start()
    engine.dispose()


# -- recycling -------------------------------------------------------------------------------------


def test_after_max_jobs_it_stops(jobs: Jobs[Job], database: Database) -> None:
    task = jobs.task(name="t")(leave_effect)
    enqueue(database, *(task.job() for _ in range(5)))
    worker = Worker(jobs, database.engine, max_jobs=3, poll_interval=SOON).start()
    assert worker.join(PATIENCE)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'") == 3
    assert (worker.recycled, database.scalar(WORKERS)) == (True, 0)


def test_with_too_much_memory_it_stops_after_the_job(jobs: Jobs[Job], database: Database) -> None:
    task = jobs.task(name="t")(leave_effect)
    enqueue(database, task.job(), task.job())
    worker = Worker(jobs, database.engine, max_memory=1, poll_interval=SOON).start()
    assert worker.join(PATIENCE)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'") == 1
    assert worker.recycled


def test_the_memory_of_a_process_grows_with_what_it_holds() -> None:
    before = resident_memory()
    held = bytearray(b"x") * (64 * 2**20)
    assert resident_memory() - before > 32 * 2**20
    assert len(held)


@pytest.mark.parametrize(
    "options",
    [
        {"max_jobs": 0},
        {"max_jobs": 1.5},
        {"max_memory": -1},
        {"grace": timedelta(-1)},
        {"grace": 30},
        {"grace": timedelta(days=2)},
    ],
    ids=str,
)
def test_limits_are_checked(options: dict[str, Any], jobs: Jobs[Job], database: Database) -> None:
    (name,) = options
    with pytest.raises(InvalidOption, match=f"{name} is .*; expected"):
        Worker(jobs, database.engine, **options)


# -- suspects --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options", [{}, {"group_commit": 4, "timeout": timedelta(minutes=5)}], ids=["ordinary", "fast"]
)
def test_a_process_runs_one_job_at_a_time_that_has_killed_a_worker(
    options: dict[str, Any], jobs: Jobs[Job], database: Database
) -> None:
    """Beside any number of others; if the process dies again, it is known of what."""
    changed, suspects, most, innocents = threading.Condition(), set[int](), list[int](), list[int]()

    @jobs.task(name="t", **options)
    def task(session: Session) -> None:
        job_id = current_job().id
        leave_effect(session)
        with changed:
            if job_id % 2:
                innocents.append(job_id)
                changed.notify_all()
                return
            suspects.add(job_id)
            most.append(len(suspects))
            changed.notify_all()
            # The next in order is another suspect: whoever might take it would do so before this one ends.
            assert changed.wait_for(lambda: len(innocents) >= 15 or len(suspects) > 1, PATIENCE)
            suspects.remove(job_id)

    ids = enqueue(database, *(task.job() for _ in range(30)))
    assert sum(job_id % 2 for job_id in ids) == 15
    with database.sessionmaker.begin() as session:
        session.execute(text("UPDATE sqla_jobs SET crashes = 1 WHERE id % 2 = 0"))
    with Worker(jobs, database.engine, threads=4, poll_interval=SOON, drain=True) as worker:
        assert worker.join(PATIENCE)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'") == 30
    assert max(most) == 1
