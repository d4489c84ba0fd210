"""Worker processes that hold their locks: who is killed is rescued at once, and who lives is not robbed."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

import sqla_jobs
from sqla_jobs import Job, Jobs, Worker, current_job
from tests.support.bait import bait
from tests.support.lane import AT_ONCE, leave_effect
from tests.support.models import Base
from tests.support.program import Program
from tests.support.server import Database, embedded_package, embedded_server, fresh_database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON

GATE = 4711
"""An advisory lock that jobs wait for."""

WAITS_TO_SAY_GOODBYE = """
    SELECT count(*) > 0 FROM pg_stat_activity WHERE datname = current_database()
    AND query LIKE 'DELETE FROM sqla_jobs_workers%' AND wait_event_type = 'Lock'
"""

PROGRAM = dedent("""
    import logging, os, sys
    from datetime import timedelta
    from sqlalchemy import create_engine
    from sqla_jobs import Worker
    from tests.test_liveness_processes import application

    logging.basicConfig(level="INFO", format="%(message)s")
    Worker(
        application(),
        create_engine(os.environ["DATABASE_URL"], pool_pre_ping=True),
        threads=2,
        queues=["victim"],
        poll_interval=timedelta(milliseconds=20),
        heartbeat_interval=timedelta(milliseconds=200),
        heartbeat_limit=timedelta(seconds=float(sys.argv[1])),
    ).run()
""")


def application() -> Jobs[Job]:
    """The tasks of both sides, the processes and the observers in the test."""
    jobs = Jobs[Job]()

    def wait(session: Session) -> None:
        leave_effect(session)
        session.flush()
        logging.getLogger("app").info("holding job %s", current_job().id)
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({GATE})"))

    @jobs.task(name="hold", queue="victim", retry=AT_ONCE)
    def hold(session: Session) -> None:
        wait(session)

    @jobs.task(name="fork", queue="victim", retry=AT_ONCE)
    def fork(session: Session) -> None:
        if current_job().attempt == 1:
            child = os.fork()
            if child == 0:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.pause()
            logging.getLogger("app").info("child %s", child)
        wait(session)

    @jobs.task(name="fork_in_c", queue="victim", retry=AT_ONCE)
    def fork_in_c(session: Session) -> None:
        import ctypes

        if current_job().attempt == 1:
            # Nobody tells Python of it; it keeps all that its parent has open.
            child = ctypes.PyDLL(None).fork()
            if child == 0:
                ctypes.PyDLL(None).pause()
            logging.getLogger("app").info("child %s", child)
        wait(session)

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
def process(database: Database, folder: Path, limit: float = 3600) -> Iterator[Program]:
    environment = {"DATABASE_URL": database.url_string}
    with Program("-c", PROGRAM, str(limit), folder=folder, environment=environment) as program:
        yield program


def observer(database: Database, told: Told | None = None, **options: Any) -> Worker:
    """A worker that judges by locks from the second second of its life."""
    hooks = {} if told is None else told.hooks
    given: dict[str, Any] = {
        "queues": ["victim"],
        "poll_interval": SOON,
        "heartbeat_interval": timedelta(milliseconds=100),
        "heartbeat_limit": timedelta(seconds=1),
    }
    return Worker(application(), database.engine, **hooks, **(given | options))


def enqueue(database: Database, task: str) -> None:
    database.execute("INSERT INTO sqla_jobs (task, queue) VALUES (:task, 'victim')", task=task)


def row(database: Database, job: int = 1) -> Any:
    (found,) = database.rows("SELECT * FROM sqla_jobs WHERE id = :id", id=job)
    return found


def effects(database: Database, job: int = 1) -> int:
    return int(database.scalar("SELECT count(*) FROM effects WHERE job_id = :id", id=job))


def until_locked(database: Database, number: int = 1) -> None:
    until(database, f"SELECT count(*) = {number} FROM sqla_jobs_workers WHERE locked")


def rescued_by_the_lock(database: Database) -> None:
    found = row(database)
    assert (found.state, found.attempt, found.claim, found.crashes) == ("succeeded", 2, 2, 1)
    assert "is gone: its lock was free" in found.attempts[0]["message"]
    assert effects(database) == 1


def not_robbed(database: Database, job: int = 1) -> None:
    found = row(database, job)
    assert (found.state, found.attempt, found.claim, found.crashes) == ("succeeded", 1, 1, 0)
    assert effects(database, job) == 1


def test_the_job_of_a_killed_worker_is_under_way_elsewhere_long_before_its_limit(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    told = Told()
    enqueue(database, "hold")
    with process(database, tmp_path, limit=3600) as killed:
        killed.wait_for("holding job 1")
        until_locked(database)
        with observer(database, told):
            until_locked(database, 2)
            bait(database, locked=True).until_rescued()
            assert row(database).crashes == 0, "it lives, and others look"
            killed.send(signal.SIGKILL)
            # Its limit is an hour: only its lock can have told.
            until(database, "SELECT state = 'running' AND attempt = 2 FROM sqla_jobs WHERE id = 1")
            gate.close()
            until(database, "SELECT state = 'succeeded' FROM sqla_jobs WHERE id = 1")
    rescued_by_the_lock(database)


@contextmanager
def forking(database: Database, folder: Path, task: str) -> Iterator[tuple[Program, int]]:
    """A worker whose job has forked a child, which outlives it."""
    enqueue(database, task)
    with process(database, folder) as parent:
        child = int(parent.wait_for(r"child (\d+)")[1])
        try:
            parent.wait_for("holding job 1")
            until_locked(database)
            yield parent, child
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_a_child_that_outlives_its_worker_does_not_hold_its_lock(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    with forking(database, tmp_path, "fork") as (killed, child), observer(database, queues=["none"]):
        until_locked(database, 2)
        killed.send(signal.SIGKILL)
        until(database, "SELECT crashes = 1 FROM sqla_jobs WHERE id = 1")
        os.kill(child, 0)


def test_a_child_that_holds_the_lock_keeps_its_parents_jobs_from_rescue(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    """Nobody can tell: the server takes the connection for alive. The heartbeat decides, after ten limits."""
    with forking(database, tmp_path, "fork_in_c") as (killed, child), observer(database):
        until_locked(database, 2)
        killed.send(signal.SIGKILL)
        bait(database, locked=True).until_rescued()
        found = row(database)
        assert (found.state, found.attempt, found.crashes) == ("running", 1, 0)
        os.kill(child, signal.SIGKILL)
        until(database, "SELECT attempt = 2 FROM sqla_jobs WHERE id = 1")
        gate.close()
        until(database, "SELECT state = 'succeeded' FROM sqla_jobs WHERE id = 1")
    rescued_by_the_lock(database)


def test_a_worker_whose_listening_connection_is_killed_is_not_robbed(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    enqueue(database, "hold")
    with process(database, tmp_path) as living:
        living.wait_for("holding job 1")
        until_locked(database)
        with observer(database, queues=["none"]):
            until_locked(database, 2)
            for _ in range(2):
                (before,) = listeners(database, row(database).worker_id)
                assert database.scalar("SELECT pg_terminate_backend(:pid)", pid=before)
                bait(database, locked=True).until_rescued()
                until_locked(database, 2)
                (after,) = listeners(database, row(database).worker_id)
                assert after != before
            gate.close()
            living.wait_for(r"job 1 \(hold\) succeeded")
            living.send(signal.SIGTERM)
            assert living.wait() == 0
    not_robbed(database)


def listeners(database: Database, worker_id: int) -> list[int]:
    """The server's processes that hold the lock of a worker."""
    held = database.rows(
        "SELECT l.pid FROM pg_locks AS l JOIN sqla_jobs_workers AS w"
        " ON (classid::bigint << 32 | objid::bigint) = hashint8extended(w.id, w.tableoid::bigint)"
        " WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND w.id = :id",
        id=worker_id,
    )
    return [each.pid for each in held]


def test_a_worker_that_is_stopped_for_two_limits_is_not_robbed(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    limit = timedelta(seconds=1)
    enqueue(database, "hold")
    with process(database, tmp_path, limit.total_seconds()) as stopped:
        stopped.wait_for("holding job 1")
        until_locked(database)
        with observer(database, queues=["none"]):
            until_locked(database, 2)
            stopped.send(signal.SIGSTOP)
            for _ in range(2):  # one after the other, with the same limit, but no lock
                bait(database, locked=False, limit=limit).until_rescued()
            bait(database, locked=True).until_rescued()
            assert row(database).crashes == 0
            stopped.send(signal.SIGCONT)
            gate.close()
            stopped.wait_for(r"job 1 \(hold\) succeeded")
            stopped.send(signal.SIGTERM)
            assert stopped.wait() == 0
    assert "taken for dead" not in stopped.errors
    not_robbed(database)


def test_the_goodbye_comes_before_the_lock_is_let_go(database: Database) -> None:
    """A row that says locked, and a lock that is free: that is what a death looks like."""
    with database.engine.connect() as slow:
        with observer(database) as worker:
            until_locked(database)
            number = database.scalar("SELECT id FROM sqla_jobs_workers")
            slow.execute(text("SELECT 1 FROM sqla_jobs_workers FOR UPDATE"))
            worker.stop()
            until(database, WAITS_TO_SAY_GOODBYE)
            assert len(listeners(database, number)) == 1
            slow.rollback()
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_a_server_that_is_restarted_under_four_workers() -> None:
    jobs, told, gate = Jobs[Job](), Told(), threading.Event()
    started = threading.Semaphore(0)

    @jobs.task(name="hold", queue="victim", retry=AT_ONCE)
    def hold(session: Session) -> None:
        started.release()
        gate.wait(PATIENCE)
        leave_effect(session)

    with ExitStack() as stack:
        server = stack.enter_context(embedded_server())
        stack.callback(server.admin.dispose)
        database = stack.enter_context(fresh_database(server, "restart"))
        sqla_jobs.metadata.create_all(database.engine)
        Base.metadata.create_all(database.engine)
        with database.sessionmaker.begin() as session:
            ids = [hold.enqueue(session) for _ in range(4)]
            session.flush()
            numbers = [job.id for job in ids]
        handle = embedded_package().get_server(database.scalar("SHOW data_directory"))
        for _ in range(4):
            engine = create_engine(database.url, pool_pre_ping=True)
            stack.callback(engine.dispose)
            stack.enter_context(
                Worker(
                    jobs, engine, queues=["victim"], poll_interval=SOON,
                    heartbeat_interval=timedelta(milliseconds=200), heartbeat_limit=timedelta(seconds=2),
                    **told.hooks,
                )
            )  # fmt: skip
        for _ in range(4):
            assert started.acquire(timeout=PATIENCE)
        until_locked(database, 4)
        bait(database, locked=True).until_rescued()
        handle.stop()
        handle.start()
        server.admin.dispose()
        database.dispose()
        after = Database(server, database.name)  # with connections of its own
        stack.callback(after.dispose)
        until_locked(after, 4)
        bait(after, locked=True).until_rescued()
        gate.set()
        until(after, "SELECT count(*) = 4 FROM sqla_jobs WHERE state = 'succeeded'")
        for number in numbers:
            not_robbed(after, number)
