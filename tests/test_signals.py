"""`Worker.run()` in a process of its own: the first signal drains, the second gives back."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import Connection, text

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.worker.signals import on_signals
from tests.support.program import Program
from tests.support.server import Database
from tests.support.waiting import blocked, until
from tests.support.work import PATIENCE, SOON

GATE = 4711
"""An advisory lock that the job of `PROGRAM` waits for, so that the test says when it ends."""

PROGRAM = dedent("""
    import logging, os, threading
    from datetime import timedelta
    from sqlalchemy import create_engine, text
    from sqla_jobs import Jobs, Worker, current_job

    logging.basicConfig(level="INFO", format="%(message)s")
    jobs = Jobs()

    @jobs.task(name="t")
    def wait(session):
        session.execute(text("INSERT INTO effects (job_id) VALUES (:id)"), {"id": current_job().id})
        logging.info("at the gate")
        session.execute(text("SELECT pg_advisory_xact_lock_shared(4711)"))

    @jobs.task(name="blocked")
    def block(session):
        logging.info("blocked")
        lock = threading.Lock()
        lock.acquire()
        lock.acquire()  # for ever, in C

    grace = timedelta(seconds=float(os.environ.get("GRACE", "30")))
    Worker(jobs, create_engine(os.environ["DATABASE_URL"]), grace=grace).run()
    logging.info("came to its end")
""")


@pytest.fixture
def gate(database: Database) -> Iterator[Connection]:
    """Holds the gate until it is closed."""
    with database.engine.connect() as connection:
        connection.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        yield connection


@contextmanager
def program(database: Database, folder: Path, **more: str) -> Iterator[Program]:
    environment = {"DATABASE_URL": database.url_string, **more}
    with Program("-c", PROGRAM, folder=folder, environment=environment) as program:
        yield program


def states(database: Database) -> list[str]:
    return [state for (state,) in database.rows("SELECT state FROM sqla_jobs ORDER BY id")]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_lets_the_running_job_finish_and_takes_no_other(
    number: signal.Signals, database: Database, gate: Connection, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('t'), ('t')")
    with program(database, tmp_path) as running:
        running.wait_for("at the gate")
        running.send(number)
        running.wait_for(f"{number.name}: letting the running jobs finish")
        assert states(database) == ["running", "queued"]
        gate.close()
        assert running.wait() == 0
        assert "came to its end" in running.errors
    assert states(database) == ["succeeded", "queued"]
    assert database.scalar("SELECT count(*) FROM effects") == 1
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0, "it has said goodbye"


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_second_signal_gives_the_running_job_back(
    second: signal.Signals, database: Database, gate: Connection, tmp_path: Path
) -> None:
    """Though it may be tried only once: it has not been tried."""
    database.execute("INSERT INTO sqla_jobs (task, max_attempts) VALUES ('t', 1)")
    with program(database, tmp_path) as running:
        running.wait_for("at the gate")
        running.send(signal.SIGTERM)
        running.wait_for("letting the running jobs finish")
        running.send(second)
        assert running.wait() == 0
        assert f"{second.name} again: giving the running jobs back" in running.errors
        assert "came to its end" in running.errors
    (row,) = database.rows("SELECT state, attempt, claim, attempts, worker_id FROM sqla_jobs")
    assert (row.state, row.attempt, row.claim, row.worker_id) == ("queued", 0, 1, None)
    assert [(each["error"], each["message"]) for each in row.attempts] == [
        ("given back", "its worker stopped")
    ]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0, "it has said goodbye"
    assert database.scalar("SELECT count(*) FROM effects") == 0


def test_after_the_grace_period_the_running_job_is_given_back(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    with program(database, tmp_path, GRACE="0.2") as running:
        running.wait_for("at the gate")
        running.send(signal.SIGTERM)
        assert running.wait() == 0
        assert "came to its end" in running.errors
    assert states(database) == ["queued"]
    assert database.scalar("SELECT count(*) FROM effects") == 0


def test_the_third_signal_ends_the_process_and_leaves_its_job_to_be_rescued(
    database: Database, tmp_path: Path
) -> None:
    """Where the second could do nothing: the job is blocked outside of Python."""
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('blocked')")
    with program(database, tmp_path) as running:
        running.wait_for("blocked")
        for told in ("letting the running jobs finish", "giving the running jobs back"):
            running.send(signal.SIGTERM)
            running.wait_for(told)
        running.send(signal.SIGTERM)
        assert running.wait() == -signal.SIGTERM
    assert states(database) == ["running"]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 1


def test_a_job_that_cannot_be_interrupted_is_given_back_by_the_goodbye(
    database: Database, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('blocked')")
    with program(database, tmp_path) as running:
        running.wait_for("blocked")
        running.send(signal.SIGTERM)
        running.wait_for("letting the running jobs finish")
        running.send(signal.SIGTERM)
        running.wait_for(r"was interrupted .* and goes on")
        assert running.wait() == 0
        assert "came to its end" in running.errors
    assert states(database) == ["queued"]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_an_idle_worker_ends_at_once(database: Database, tmp_path: Path) -> None:
    with program(database, tmp_path) as running:
        running.wait_for("worker .* started")
        running.send(signal.SIGTERM)
        assert running.wait() == 0
        assert "came to its end" in running.errors


def test_a_signal_during_the_start_is_a_stop_too(
    database: Database, gate: Connection, tmp_path: Path
) -> None:
    """The start waits for a table that somebody has locked; the worker then runs nothing."""
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    with database.engine.connect() as locker:
        locker.execute(text("LOCK TABLE sqla_jobs_workers"))
        with program(database, tmp_path) as running:
            until(database, blocked("= 1"))
            running.send(signal.SIGTERM)
            running.wait_for("SIGTERM: letting the running jobs finish")
            locker.rollback()
            assert running.wait() == 0
            assert "came to its end" in running.errors
    assert states(database) == ["scheduled"]


def test_in_another_thread_signals_are_left_alone(database: Database) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    worker = Worker(Jobs[Job](), database.engine, poll_interval=SOON)
    thread = threading.Thread(target=worker.run)
    thread.start()
    until(database, "SELECT count(*) = 1 FROM sqla_jobs_workers")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    worker.stop()
    thread.join(PATIENCE)
    assert worker.state == "stopped"


def test_whose_handlers_were_there_before_has_them_back() -> None:
    received: list[signal.Signals] = []
    mine: list[int] = []

    def handler(number: int, _: object) -> None:
        mine.append(number)

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with on_signals(1, lambda number, _: received.append(number)):
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
        assert (received, mine) == ([signal.SIGTERM], [signal.SIGTERM])
        with on_signals(1, lambda number, _: received.append(number)):
            pass
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("task", ["t", "blocked"])
def test_a_program_that_ends_without_a_stop_gives_back_and_does_not_hang(
    task: str, database: Database, gate: Connection, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES (:task)", task=task)
    source = PROGRAM.replace(".run()", ".start()").replace(
        'logging.info("came to its end")', "begun.wait(); sys.exit(3)"
    )
    source = source.replace('logging.info("at the gate")', "begun.set()")
    source = source.replace('logging.info("blocked")', "begun.set()")
    source = f"import sys, threading\nbegun = threading.Event()\n{source}"
    with Program("-c", source, folder=tmp_path, environment={"DATABASE_URL": database.url_string}) as program:
        assert program.wait() == 3, program.errors
    assert states(database) == ["queued"]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0
    assert database.scalar("SELECT count(*) FROM effects") == 0
