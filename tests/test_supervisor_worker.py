"""`sqla-jobs worker --processes M`: real workers that die or stop, and jobs that must not be lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.program import PATIENCE, command
from tests.support.server import Database
from tests.support.supervised import APP, enqueue, held_lock, pids, states, until, workers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an application, to start a worker in."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


def test_a_killed_process_is_replaced_and_jobs_go_on(folder: Path, database: Database) -> None:
    with workers(folder, database) as program:
        os.kill(pids(program)[1], signal.SIGKILL)
        until(program, r"worker \d+ started", 3)
        os.kill(pids(program)[0], signal.SIGKILL)
        until(program, r"worker \d+ started", 4)
        enqueue(database, "write", 4)
        until(program, r"succeeded \(", 4)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert {int(note) for (note,) in database.rows("SELECT note FROM effects")} <= set(pids(program)[2:])


def test_when_the_supervisor_is_killed_the_jobs_finish_and_the_processes_end(
    folder: Path, database: Database
) -> None:
    with workers(folder, database) as program:
        with held_lock(database):
            enqueue(database, "wait", 2)
            until(program, "at the lock", 2)
            program.send(signal.SIGKILL)
            until(program, "the supervisor is gone: letting the running jobs finish", 2)
            enqueue(database, "write")
        until(program, r"worker \d+ stopped", 2)
        assert program.wait() == -signal.SIGKILL
    assert states(database) == ["succeeded", "succeeded", "queued"]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_a_process_that_still_imports_ends_with_its_supervisor(folder: Path) -> None:
    (folder / "slow.py").write_text(
        "import logging, threading\nlogging.info('importing')\nthreading.Event().wait()\n"
    )
    with command("worker", "slow:jobs", "--processes", "2", folder=folder) as program:
        until(program, "importing")
        program.send(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
        wait_until_gone(pids(program)[0])


def wait_until_gone(pid: int) -> None:
    """Return when a process has ended, buried or not; its output ends an instant before it."""
    deadline = time.monotonic() + PATIENCE
    while (stat := Path(f"/proc/{pid}/stat")).exists():
        with suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return
        assert time.monotonic() < deadline, f"process {pid} is still there"
        threading.Event().wait(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_one_signal_to_all_processes_is_one_signal(
    number: signal.Signals, folder: Path, database: Database
) -> None:
    """Ctrl-C in a terminal, `systemctl stop`: whoever is reached twice must not take it for the second."""
    with workers(folder, database) as program:
        with held_lock(database):
            enqueue(database, "wait", 2)
            until(program, "at the lock", 2)
            for pid in pids(program):
                os.kill(pid, number)
            until(program, f"{number.name}: letting the running jobs finish", 2)
            program.send(number)
            until(program, f"{number.name}: letting the running jobs finish", 3)
            enqueue(database, "write")
        assert program.wait() == 0
    assert states(database) == ["succeeded", "succeeded", "queued"]
    assert "given back" not in program.errors


def test_the_second_signal_gives_the_jobs_back(folder: Path, database: Database) -> None:
    with workers(folder, database) as program, held_lock(database):
        enqueue(database, "wait", 2)
        until(program, "at the lock", 2)
        program.send(signal.SIGTERM)
        until(program, "SIGTERM: letting the running jobs finish")
        program.send(signal.SIGTERM)
        until(program, "SIGTERM, the second signal: the processes give their running jobs back")
        assert program.wait() == 0
        assert database.rows("SELECT state, attempt FROM sqla_jobs") == [("queued", 0)] * 2
    assert database.scalar("SELECT count(*) FROM effects") == 0
