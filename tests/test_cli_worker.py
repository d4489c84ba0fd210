"""`sqla-jobs worker` in processes of its own: drain, logs, signals, exit codes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from sqla_jobs import Jobs
from tests.support.program import LIBRARY, ROOT, command, run
from tests.support.server import Database

APP = """
import logging
import signal
import threading

from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, RetryPolicy, current_job
from tests.support.models import Effect

jobs = Jobs()


@jobs.task
def write(session: Session, note: str) -> None:
    session.add(Effect(job_id=current_job().id, note=note))


@jobs.task(retry=RetryPolicy(max_attempts=1))
def fail(session: Session) -> None:
    raise RuntimeError("broken on purpose")


@jobs.task
def fail_once(session: Session) -> None:
    if current_job().attempt == 1:
        raise RuntimeError("try again tomorrow")


@jobs.task
def signal_this_thread(session: Session) -> None:
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)


@jobs.task
def hold_on(session: Session) -> None:
    logging.getLogger("app").info("holding on")
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            pass


@jobs.task
def wait(session: Session, note: str) -> None:
    session.add(Effect(job_id=current_job().id, note=note))
    session.flush()
    logging.getLogger("app").info("at the lock")
    session.execute(text("SELECT pg_advisory_xact_lock(1)"))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an application, to start a worker in."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def enqueue(database: Database, task: str, queue: str = "default", **arguments: object) -> int:
    with database.sessionmaker.begin() as session:
        return Jobs().using(queue=queue).enqueue(session, f"app.{task}", **arguments).id


def state(database: Database, job_id: int) -> str:
    return str(database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=job_id))


@contextmanager
def held_lock(database: Database) -> Iterator[None]:
    """Let jobs of the task `wait` wait until the end of this block."""
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(1)"))
        connection.commit()
        yield
        connection.execute(text("SELECT pg_advisory_unlock(1)"))
        connection.commit()


def test_drain_runs_what_is_there_and_ends(folder: Path, database: Database) -> None:
    last = enqueue(database, "write", "slow", note="last")
    first = enqueue(database, "write", "fast", note="first")
    other = enqueue(database, "write", "other", note="never")
    failing = enqueue(database, "fail", "slow")
    retried = enqueue(database, "fail_once", "slow")

    drained = run(
        "worker",
        "app:jobs",
        "--queues",
        "fast,slow",
        "--drain",
        folder=folder,
        DATABASE_URL=database.url_string,
    )

    assert drained.code == 0, drained.errors
    assert database.rows("SELECT job_id, note FROM effects ORDER BY id") == [(first, "first"), (last, "last")]
    assert [state(database, job) for job in (other, failing, retried)] == ["queued", "failed", "scheduled"]
    assert "finished 3 (1 failed), retried 1" in drained.errors
    assert "RuntimeError: broken on purpose" in drained.errors
    assert drained.output == ""


def test_json_logs_are_one_object_a_line_with_all_extras(folder: Path, database: Database) -> None:
    failing = enqueue(database, "fail")
    drained = run(
        "worker",
        "app:jobs",
        "--once",
        "--log-format",
        "json",
        folder=folder,
        DATABASE_URL=database.url_string,
    )
    records = [json.loads(line) for line in drained.errors.splitlines()]
    [failure] = [record for record in records if record["level"] == "error"]
    facts = {"job_id": failing, "task": "app.fail", "queue": "default", "attempt": 1, "state": "failed"}
    assert facts.items() <= failure.items()
    assert failure["exception"].endswith("RuntimeError: broken on purpose")
    assert failure["time"].endswith("+00:00")
    [chosen] = [record for record in records if "database" in record]
    assert chosen["source"] == "DATABASE_URL"
    summary = [record for record in records if "finished" in record][-1]
    assert {"finished": 1, "total": 1, "failed": 1, "retried": 0}.items() <= summary.items()


def test_the_log_level_is_heeded(folder: Path, database: Database) -> None:
    enqueue(database, "write", note="quiet")
    drained = run(
        "worker",
        "app:jobs",
        "--drain",
        "--log-level",
        "warning",
        folder=folder,
        DATABASE_URL=database.url_string,
    )
    assert (drained.code, drained.errors, drained.output) == (0, "", "")


def test_in_a_terminal_a_drain_shows_a_progress_bar(folder: Path, database: Database) -> None:
    for number in range(3):
        enqueue(database, "write", note=str(number))
    enqueue(database, "fail")
    shown, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "sqla_jobs", "worker", "app:jobs", "--drain"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{LIBRARY}:{ROOT}",
            "DATABASE_URL": database.url_string,
            "TERM": "xterm",
            "COLUMNS": "120",
        },
        stderr=terminal,
    )
    os.close(terminal)
    seen = b""
    try:
        while chunk := os.read(shown, 65536):
            seen += chunk
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(shown)
    assert process.wait(60) == 0
    told = seen.decode()
    assert "4 of 4 jobs" in told
    assert "1 failed" in told
    assert "finished 4 (1 failed), retried 0" in told
    # Failures are told above the bar, successes are not.
    assert "RuntimeError: broken on purpose" in told
    assert "succeeded" not in told


def test_the_first_sigterm_lets_the_running_job_finish(folder: Path, database: Database) -> None:
    running, queued = (enqueue(database, task, note=task) for task in ("wait", "write"))
    with command("worker", "app:jobs", folder=folder, DATABASE_URL=database.url_string) as worker:
        with held_lock(database):
            worker.wait_for("at the lock")
            assert database.scalar("SELECT pid FROM sqla_jobs_workers") == worker.pid
            worker.send(signal.SIGTERM)
            worker.wait_for("SIGTERM: letting the running jobs finish")
        assert worker.wait() == 0
    assert [state(database, job) for job in (running, queued)] == ["succeeded", "queued"]
    assert database.rows("SELECT job_id FROM effects") == [(running,)]
    assert database.rows("SELECT id FROM sqla_jobs_workers") == []


def test_the_second_signal_gives_the_running_job_back(folder: Path, database: Database) -> None:
    running = enqueue(database, "wait", note="rolled back")
    with (
        held_lock(database),
        command("worker", "app:jobs", folder=folder, DATABASE_URL=database.url_string) as worker,
    ):
        worker.wait_for("at the lock")
        worker.send(signal.SIGTERM)
        worker.wait_for("SIGTERM: letting the running jobs finish")
        worker.send(signal.SIGINT)
        assert worker.wait() == 0
    assert database.rows("SELECT state, attempt FROM sqla_jobs WHERE id = :id", id=running) == [("queued", 0)]
    assert database.rows("SELECT job_id FROM effects") == []
    assert database.rows("SELECT id FROM sqla_jobs_workers") == []


def test_the_end_of_the_grace_gives_the_running_job_back(folder: Path, database: Database) -> None:
    running = enqueue(database, "wait", note="rolled back")
    arguments = ("worker", "app:jobs", "--grace", "0")
    with (
        held_lock(database),
        command(*arguments, folder=folder, DATABASE_URL=database.url_string) as worker,
    ):
        worker.wait_for("at the lock")
        worker.send(signal.SIGTERM)
        assert worker.wait() == 0
    assert state(database, running) == "queued"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_third_signal_ends_the_process_at_once(
    number: signal.Signals, folder: Path, database: Database
) -> None:
    running = enqueue(database, "hold_on")
    with command("worker", "app:jobs", folder=folder, DATABASE_URL=database.url_string) as worker:
        worker.wait_for("holding on")
        for told in (
            "SIGTERM: letting the running jobs finish",
            "SIGTERM again: giving the running jobs back",
        ):
            worker.send(signal.SIGTERM)
            worker.wait_for(told)
        worker.send(number)
        assert worker.wait() == -number
    # It runs no more, but says so until it is rescued.
    assert state(database, running) == "running"


def test_a_process_ends_after_so_many_jobs(folder: Path, database: Database) -> None:
    jobs = [enqueue(database, "write", note=str(number)) for number in range(3)]
    ended = run(
        "worker", "app:jobs", "--max-jobs", "2", folder=folder, DATABASE_URL=database.url_string
    )  # fmt: skip
    assert ended.code == 0, ended.errors
    assert [state(database, job) for job in jobs] == ["succeeded", "succeeded", "queued"]


def test_a_process_ends_that_has_too_much_memory(folder: Path, database: Database) -> None:
    jobs = [enqueue(database, "write", note=str(number)) for number in range(2)]
    ended = run(
        "worker", "app:jobs", "--max-memory", "1", folder=folder, DATABASE_URL=database.url_string
    )  # fmt: skip
    assert ended.code == 0, ended.errors
    assert [state(database, job) for job in jobs] == ["succeeded", "queued"]


def test_a_signal_that_does_not_wake_the_main_thread_is_heeded(folder: Path, database: Database) -> None:
    # The system may give it to any thread, and the main one may just be about to wait.
    with command("worker", "app:jobs", folder=folder, DATABASE_URL=database.url_string) as worker:
        worker.wait_for("worker 1 started")
        job = enqueue(database, "signal_this_thread")
        assert worker.wait(patience=20) == 0
    assert state(database, job) == "succeeded"


def test_a_signal_before_it_works_ends_the_process(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import logging, threading\nlogging.info('importing')\nthreading.Event().wait()\n"
    )
    with command("worker", "slow:jobs", folder=folder) as worker:
        worker.wait_for("importing")
        worker.send(signal.SIGTERM)
        assert worker.wait() == -signal.SIGTERM


def test_a_job_of_a_task_that_nobody_registers_is_told_of(folder: Path, database: Database) -> None:
    (folder / "empty.py").write_text("from sqla_jobs import Jobs\njobs = Jobs()\n")
    drained = run("worker", "empty:jobs", "--drain", folder=folder, DATABASE_URL=database.url_string)
    assert drained.code == 0
    assert "empty:jobs has no task" in drained.errors


def test_missing_tables_are_exit_code_3(folder: Path, empty_database: Database) -> None:
    ended = run("worker", "app:jobs", folder=folder, DATABASE_URL=empty_database.url_string)
    assert ended.code == 3
    assert "Error: The sqla_jobs tables are not in the default schema." in ended.errors
    assert "sqla-jobs migrate" in ended.errors
    assert "Traceback" not in ended.errors


def test_no_connection_is_exit_code_1(folder: Path) -> None:
    ended = run("worker", "app:jobs", folder=folder, DATABASE_URL="postgresql:///none?host=/nowhere")
    assert ended.code == 1
    assert "Error: the database says: " in ended.errors
    assert "Traceback" not in ended.errors
