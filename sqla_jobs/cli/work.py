"""``sqla-jobs worker``."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from types import FrameType
from typing import Any

from sqla_jobs import lifecycle
from sqla_jobs.cli import database, target
from sqla_jobs.cli.output import Display
from sqla_jobs.worker import Worker

log = logging.getLogger("sqla_jobs")


def run(
    name: str,
    database_url: str | None,
    *,
    display: Display,
    queues: Sequence[str] | None,
    threads: int,
    drain: bool,
    **intervals: Any,
) -> None:
    """Work until a signal, or until the queue is drained."""
    _end_by_signals()
    display.start_logging()
    jobs = target.load(name)
    if not jobs.tasks:
        log.warning("%s has no task: is the module that defines them imported by that one?", name)
    # After the import: an application may read a .env file into the environment.
    sessions = database.sessions(jobs, database.choose(database_url), threads)

    def remaining() -> int:
        with sessions() as session:
            return lifecycle.remaining(session, jobs.model, worker.queues)

    progress = display.progress(remaining)
    worker = Worker(
        jobs,
        sessions,
        queues=queues,
        threads=threads,
        drain=drain,
        on_finish=progress.note if drain else None,
        **intervals,
    )
    if drain:
        with progress:
            worker.run()
    else:
        worker.run()


def _end_by_signals() -> None:
    """Let signals end the process at once, but for the first one while the worker works.

    By the system's default rather than by code of ours: an exception that a handler raises may hit any
    line of a thread's waiting, and leave a lock locked.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # The first process of a container has no default for signals.
        signal.signal(number, _exit if os.getpid() == 1 else signal.SIG_DFL)


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
