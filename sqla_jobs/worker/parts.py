"""What a worker is made of, put together before its threads are started."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqla_jobs import migrations
from sqla_jobs.errors import JobsError
from sqla_jobs.listener import Listener
from sqla_jobs.runner import Peers, Runner, check_level
from sqla_jobs.scheduler import Schedules
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import Registry, Watching
from sqla_jobs.worker.claims import look_for_index
from sqla_jobs.worker.crew import Crew
from sqla_jobs.worker.hands import Hands
from sqla_jobs.worker.loop import Loop, is_in_loop
from sqla_jobs.worker.news import Announcer
from sqla_jobs.worker.options import Settings
from sqla_jobs.worker.outages import persist
from sqla_jobs.worker.pauses import Pauses
from sqla_jobs.worker.pool import check_pool
from sqla_jobs.worker.registration import Registration
from sqla_jobs.worker.timer import Timer
from sqla_jobs.worker.upkeep import Upkeep


@dataclass(frozen=True)
class Parts:
    """The parts of a worker whose row is written."""

    runner: Runner
    loop: Loop | None
    """None: no task is a coroutine function."""
    registration: Registration
    listener: Listener | None
    """None: it is not woken, and only polls."""
    upkeep: Upkeep
    hands: Hands
    timer: Timer
    served: str
    """What it claims, for the log."""

    @property
    def worker_id(self) -> int:
        """The id of its row; another after it was taken for dead."""
        return self.registration.worker_id


def assemble(
    settings: Settings,
    registry: Registry[Any],
    crew: Crew,
    announcer: Announcer,
    *,
    host: asyncio.AbstractEventLoop | None,
    stop: Callable[[], None],
    watching: Watching | None,
) -> Parts:
    """Put a worker together: see that it can work here, start its loop, write its row.

    Parameters:
        host: the event loop for coroutines; None: one of its own.
        stop: stops the worker.
        watching: who observes its jobs; None: nobody.

    Raises:
        ConfigurationError: it cannot work here; nothing of it is left.
        SchemaError: the tables are missing, or not of the revision that this version needs.
        JobsError: it would hold up the event loop that it was called in.
    """
    if registry.asynchronous and host is None and is_in_loop():
        raise JobsError(
            "start() was called in an event loop, and there are tasks that are coroutines; expected"
            " `async with Worker(…)`, which runs them on that loop"
        )
    drains = settings.limits.drain
    peers = Peers(crew.take_suspects, crew.leave_suspects, lambda: crew.heard, drains)
    wait = partial(persist, crew, settings.heartbeat_limit)
    runner = Runner(registry, settings.sessions, wait, peers, settings.only, watching=watching)
    check_pool(runner.engine, settings.threads)
    if registry.fast:
        check_level(runner, next(iter(registry.fast)))
    with runner.engine.connect() as connection:
        migrations.check(connection, job_table(registry.model).schema)
    if settings.only is not None:
        look_for_index(runner, settings.only, settings.queues)
    loop = _started_loop(settings, registry, crew, runner, host)
    try:
        return _joined(settings, registry, crew, announcer, runner, loop, stop)
    except BaseException:
        if loop is not None:
            loop.end()
        raise


def _joined(
    settings: Settings,
    registry: Registry[Any],
    crew: Crew,
    announcer: Announcer,
    runner: Runner,
    loop: Loop | None,
    stop: Callable[[], None],
) -> Parts:
    drains = settings.limits.drain
    registration = Registration(
        runner,
        registry,
        recurring=not drains,
        queues=settings.queues,
        threads=settings.threads,
        limit=settings.heartbeat_limit,
    )
    registration.enter()
    listener = None
    if registry.notify is not False:
        listener = Listener(
            runner.engine,
            registry.model,
            registration.worker_id,
            queues=settings.served,
            on_work=crew.hear,
            on_times=crew.replan,
            on_lost=registration.deny_lock,
        )
    upkeep = Upkeep(
        crew,
        registration,
        runner,
        registry,
        poll=settings.poll,
        beat=settings.beat,
        announce=announcer.announce_all,
        schedules=None if drains else Schedules(registry),
        listener=listener,
    )
    pauses = Pauses(runner, settings.served, lambda: crew.heard)
    pauses.closed()
    hands = Hands(
        crew,
        registration,
        runner,
        registry,
        announcer,
        queues=settings.served,
        pauses=pauses,
        limits=settings.limits,
        loop=loop,
        stop=stop,
    )
    served = f"queues {', '.join(settings.queues or ['any'])}"
    if loop is not None:
        served = f"{served}, {settings.concurrency} coroutine(s)"
    if settings.only is not None:
        served = f"{served}, where {settings.only.predicate(runner.engine.dialect)}"
    timer = Timer(crew, poll=settings.poll, on_stuck=hands.give_up_on)
    return Parts(runner, loop, registration, listener, upkeep, hands, timer, served)


def _started_loop(
    settings: Settings,
    registry: Registry[Any],
    crew: Crew,
    runner: Runner,
    host: asyncio.AbstractEventLoop | None,
) -> Loop | None:
    if not registry.asynchronous:
        return None
    loop = Loop(
        crew,
        registry,
        settings.async_sessions,
        settings.heartbeat_limit,
        concurrency=settings.concurrency,
        host=host,
    )
    loop.start(runner.slots, runner.watching)
    return loop
