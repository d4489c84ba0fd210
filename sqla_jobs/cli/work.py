"""``sqla-jobs worker``."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import nullcontext
from types import FrameType
from typing import Any

import click

from sqla_jobs import lifecycle
from sqla_jobs.cli import asynchronous, database, supervise, target
from sqla_jobs.cli.metering import Address, metrics_options
from sqla_jobs.cli.options import duration, url_option
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


class Recorded(click.Command):
    """A command that knows, as ``ctx.obj``, the arguments that it was given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = list(args)
        return super().parse_args(ctx, args)


@click.command("worker", cls=Recorded)
@click.argument("target", metavar="MODULE:JOBS")
@click.option(
    "--queues", metavar="A,B", help="All of the first before any of the second. Default: any queue."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs that run at once."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Jobs of `async def` tasks that run at once, besides those of the threads.",
)
@click.option(
    supervise.OPTION,
    metavar="M",
    type=click.IntRange(min=1),
    help="Run so many such processes, and start another for each that ends. Default: this one, alone.",
)
@url_option
@duration("--poll-interval", 1, "How long an idle thread waits before it looks again.")
@duration("--heartbeat-interval", 10, "How often this process says that it lives.")
@duration("--heartbeat-limit", 30, "Without a heartbeat for so long, others rescue its jobs.")
@duration(
    "--grace",
    30,
    "How long running jobs may go on after the first signal; then they are given back.",
    or_zero=True,
)
@click.option(
    "--max-jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="End after so many jobs; with --processes another process goes on.",
)
@click.option(
    "--max-memory",
    metavar="MB",
    type=click.IntRange(min=1),
    help="End after a job when the process has more than so many megabytes of memory.",
)
@click.option(
    "--drain", "--once", "drain", is_flag=True, help="End when nothing is queued, due or running here."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Default: info; warning under the progress bar of a drain.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json", "pretty"]),
    help="Default: pretty in a terminal, else text.",
)
@metrics_options
@click.pass_context
def worker_command(
    ctx: click.Context,
    target: str,
    queues: str | None,
    threads: int,
    concurrency: int,
    processes: int | None,
    database_url: str | None,
    poll_interval: dt.timedelta,
    heartbeat_interval: dt.timedelta,
    heartbeat_limit: dt.timedelta,
    grace: dt.timedelta,
    max_jobs: int | None,
    max_memory: int | None,
    drain: bool,
    log_level: str | None,
    log_format: str | None,
    metrics_host: str,
    metrics_port: int | None,
) -> None:
    """Run jobs.

    MODULE:JOBS is where the application's Jobs is, e.g. `sqla-jobs worker shop.tasks:jobs`.

    The first SIGTERM or SIGINT lets the running jobs finish; the second, or the end of the grace, gives
    them back; the third ends the process at once, and its jobs are rescued by another worker. The
    current directory can be imported from.

    The database is that of --database-url, else SQLA_JOBS_DATABASE_URL, else DATABASE_URL, else of
    the Jobs' own sessionmaker.
    """
    metrics = Address(metrics_host, metrics_port)
    if processes is not None:
        metrics.check(processes)
        display = Display(False, log_level, log_format)
        ctx.exit(supervise.run(ctx.obj, processes, display=display, drain=drain, grace=grace))
    run(
        target,
        database_url,
        log_level=log_level,
        log_format=log_format,
        queues=queues.split(",") if queues is not None else None,
        threads=threads,
        concurrency=concurrency,
        poll_interval=poll_interval,
        heartbeat_interval=heartbeat_interval,
        heartbeat_limit=heartbeat_limit,
        grace=grace,
        max_jobs=max_jobs,
        max_memory=None if max_memory is None else max_memory * 1024 * 1024,
        drain=drain,
        metrics=metrics,
    )


def run(
    name: str,
    database_url: str | None,
    *,
    log_level: str | None,
    log_format: str | None,
    queues: Sequence[str] | None,
    threads: int,
    concurrency: int,
    drain: bool,
    metrics: Address,
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
    with metrics.observers(jobs, sessions, 1 if channel is None else channel.place) as observers:
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
            observers=observers,
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
