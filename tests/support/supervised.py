"""A supervisor in a process of its own, with small programs as its worker processes or with real workers."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy import text

from sqla_jobs import Jobs
from tests.support.program import Program, command
from tests.support.server import Database

_SUPERVISOR = """
import json, logging, sys
from sqla_jobs.supervisor import Supervisor

logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
sys.exit(Supervisor([sys.executable, "-c", sys.argv[1]], **json.loads(sys.argv[2])).run())
"""

_CHILD = """
import os, signal, socket, sys

line = socket.socket(fileno=int(os.environ["SQLA_JOBS_CHANNEL"]))

def say(words):
    os.write(2, f"{words}\\n".encode())

def ready():
    line.sendall(b"r")

def hear():
    "The next word; empty: the supervisor is gone."
    return line.recv(1).decode()

def start():
    "How many have been started before, this one not counted."
    number = len(os.listdir("starts"))
    open(f"starts/{os.getpid()}", "x").close()
    return number
"""


@contextmanager
def supervisor(
    program: str, folder: Path, *, processes: int = 2, enter: Sequence[str] = (), **options: Any
) -> Iterator[Program]:
    """A running supervisor of processes that run ``program``.

    Parameters:
        enter: a command that runs another one, e.g. in a container.
    """
    (folder / "starts").mkdir()
    arguments = ["-c", _SUPERVISOR, _CHILD + program, json.dumps({"processes": processes, **options})]
    if enter:
        become = "import os, sys; os.execvp(sys.argv[1], sys.argv[1:])"
        arguments = ["-c", become, *enter, sys.executable, *arguments]
    with Program(*arguments, folder=folder, environment={}) as running, none_left(running):
        yield running


@contextmanager
def none_left(program: Program) -> Iterator[None]:
    """If the test fails, its worker processes need not find out that their supervisor is gone."""
    try:
        yield
    except BaseException:
        for pid in pids(program):
            # The variable's place tells that it is one of them, and not another that has its number by now.
            with suppress(OSError):
                if b"SQLA_JOBS_CHANNEL=" in Path(f"/proc/{pid}/environ").read_bytes():
                    os.kill(pid, signal.SIGKILL)
        raise


def until(program: Program, pattern: str, times: int = 1) -> None:
    """Return when lines in which the pattern is found have been said so often, from the beginning.

    What several processes say comes in any order.
    """
    while len(re.findall(pattern, program.errors, re.MULTILINE)) < times:
        program.wait_for("")


def pids(program: Program) -> list[int]:
    """The process ids of the worker processes that were started, as far as is read."""
    return [int(pid) for pid in re.findall(r"\(pid (\d+)\) started", program.errors)]


APP = """
import logging
import os
import sys

from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, current_job
from tests.support.models import Effect

log = logging.getLogger("app")
jobs = Jobs()


@jobs.task
def write(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note=str(os.getpid())))


@jobs.task
def wait(session: Session) -> None:
    write(session)
    session.flush()
    log.info("at the lock: %s", os.getpid())
    session.execute(text("SELECT pg_advisory_xact_lock_shared(1)"))


@jobs.task
def look(session: Session) -> None:
    print("channel:", "SQLA_JOBS_CHANNEL" in os.environ, "arguments:", *sys.argv[1:], flush=True)
"""
"""An application in app.py; its jobs write down which process has run them."""


@contextmanager
def workers(folder: Path, database: Database, *arguments: str) -> Iterator[Program]:
    """Two worker processes under a supervisor, which wait for jobs."""
    given = ("worker", "app:jobs", "--processes", "2", *arguments)
    with (
        command(*given, folder=folder, DATABASE_URL=database.url_string) as program,
        none_left(program),
    ):
        until(program, r"worker \d+ started", 2)
        yield program


@contextmanager
def held_lock(database: Database) -> Iterator[None]:
    """Let jobs of the task `wait` wait until the end of this block."""
    with database.engine.connect() as connection:
        connection.execute(text("SELECT pg_advisory_lock(1)"))
        connection.commit()
        yield
        connection.execute(text("SELECT pg_advisory_unlock(1)"))
        connection.commit()


def enqueue(database: Database, task: str, number: int = 1) -> None:
    with database.sessionmaker.begin() as session:
        for _ in range(number):
            Jobs().enqueue(session, f"app.{task}")


def states(database: Database) -> list[str]:
    return [state for (state,) in database.rows("SELECT state FROM sqla_jobs ORDER BY id")]
