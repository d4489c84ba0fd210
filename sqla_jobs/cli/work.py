"""``sqla-jobs worker``."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    with _ended_by_signals():
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


class _Ended(BaseException):
    """A signal that shall end the process now."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """End at once by a signal that the running worker does not take for a request to drain.

    That is one before the worker runs, or the second one: what it runs is left to be rescued.
    """

    def end(number: int, _: FrameType | None) -> None:
        raise _Ended(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        yield
    except _Ended as ended:
        log.warning("%s: ending now", signal.Signals(ended.number).name)
        logging.shutdown()
        # By the signal itself, so that a shell or a supervisor sees by what it ended.
        signal.signal(ended.number, signal.SIG_DFL)
        os.kill(os.getpid(), ended.number)
        os._exit(128 + ended.number)  # the first process of a container has no default for signals
