"""``sqla-jobs worker``."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType
from typing import Any

from sqla_jobs import lifecycle
from sqla_jobs.cli import asynchronous, database, target
from sqla_jobs.cli.output import Display
from sqla_jobs.supervisor.channel import READY, RECYCLED, Channel
from sqla_jobs.tasks import PRUNE
from sqla_jobs.worker import Worker
from sqla_jobs.worker.parts import Parts

log = logging.getLogger("sqla_jobs")


class Process(Worker):
    """The worker of this process, which may have a supervisor."""

    channel: Channel | None = None

    def _launch(self, parts: Parts) -> None:
        # Before the first job: one that kills its process does not speak against the configuration.
        if self.channel is not None:
            self.channel.say(READY)
        super()._launch(parts)


class Orders:
    """What a supervisor may say to this process, whether or not it works already."""

    def __init__(self, channel: Channel) -> None:
        self.worker: Worker | None = None
        channel.obey(self.stop, self.give_back)

    def stop(self) -> None:
        """As the first signal, except that it may come twice."""
        if self.worker is None or self.worker.state == "new":
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.worker.stop()

    def give_back(self) -> None:
        """As the second signal."""
        self.stop()
        if self.worker is not None:
            self.worker.stop(0)


def run(
    name: str,
    database_url: str | None,
    *,
    log_level: str | None,
    log_format: str,
    queues: Sequence[str] | None,
    threads: int,
    concurrency: int,
    drain: bool,
    **options: Any,
) -> None:
    """Work until a signal, or until the queue is drained."""
    _end_by_signals()
    channel = Channel.inherited()
    # A bar of one process among several would not be worth the name.
    display = Display(drain and channel is None, log_level, log_format)
    display.start_logging()
    orders = None if channel is None else Orders(channel)
    jobs = target.load(name)
    if not jobs.tasks.keys() - {PRUNE}:
        log.warning("%s has no task: is the module that defines them imported by that one?", name)
    # After the import: an application may read a .env file into the environment.
    chosen = database.choose(database_url) or asynchronous.own_database(jobs)
    sessions = database.sessions(jobs, chosen, threads)

    def remaining() -> int:
        with sessions() as session:
            return lifecycle.remaining(session, jobs.model, worker.queues)

    progress = display.progress(remaining if channel is None else None)
    worker = Process(
        jobs,
        sessions,
        queues=queues,
        threads=threads,
        async_sessionmaker=asynchronous.sessions(jobs, chosen, concurrency),
        concurrency=concurrency,
        drain=drain,
        replaceable=channel is not None,
        on_finish=progress.note if drain else None,
        **options,
    )
    worker.channel = channel
    if orders is not None:
        orders.worker = worker
    with progress if drain else nullcontext():
        worker.run()
    if channel is not None and worker.recycled:
        channel.say(RECYCLED)


def _end_by_signals() -> None:
    """Let signals end the process at once, but for the first two while the worker works.

    By the system's default rather than by code of ours: an exception that a handler raises may hit any
    line of a thread's waiting, and leave a lock locked.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        # The first process of a container has no default for signals.
        signal.signal(number, _exit if os.getpid() == 1 else signal.SIG_DFL)


def _exit(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)
