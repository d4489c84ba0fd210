"""The options of a worker, checked."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine

from sqla_jobs.errors import ConfigurationError, InvalidOption, shown
from sqla_jobs.statements import Filter
from sqla_jobs.tasks import (
    OWN_QUEUE,
    AsyncSessions,
    Registry,
    Sessions,
    Watching,
    async_maker,
    check_observer,
    check_queues,
    sessions_of,
)
from sqla_jobs.worker.claims import check_filter

_LONGEST: Final = dt.timedelta(days=1)


@dataclass(frozen=True)
class Limits:
    """When a worker stops by itself; None, False: never for this reason."""

    max_jobs: int | None
    max_memory: int | None
    """Bytes."""
    replaceable: bool
    drain: bool


@dataclass(frozen=True)
class Settings:
    """All that a worker is told at its construction but its hooks, checked."""

    sessions: Sessions
    async_sessions: AsyncSessions | None
    only: Filter | None
    """Which jobs it claims; None: any."""
    queues: list[str] | None
    threads: int
    concurrency: int
    poll: float
    """Seconds."""
    beat: float
    """Seconds."""
    heartbeat_limit: dt.timedelta
    grace: float
    """Seconds."""
    limits: Limits

    @classmethod
    def of(
        cls,
        registry: Registry[Any],
        sessions: Sessions | Engine | None,
        async_sessionmaker: Any,
        where: Any,
        *,
        queues: Sequence[str] | None,
        threads: int,
        concurrency: int,
        poll_interval: dt.timedelta,
        heartbeat_interval: dt.timedelta,
        heartbeat_limit: dt.timedelta,
        grace: dt.timedelta,
        limits: Limits,
    ) -> Settings:
        """See `Worker`.

        Raises:
            InvalidOption: an option is out of its range.
            ConfigurationError: nothing to make Sessions with.
        """
        source = registry.sessionmaker if sessions is None else sessions
        if source is None:
            raise ConfigurationError(
                "the worker has nothing to make Sessions with; give it an Engine or a sessionmaker: "
                "Worker(jobs, engine), or Jobs(sessionmaker=…)"
            )
        check_number("threads", threads)
        check_number("concurrency", concurrency)
        for name, number in (("max_jobs", limits.max_jobs), ("max_memory", limits.max_memory)):
            if number is not None:
                check_number(name, number)
        seconds = grace_period(grace)
        poll, beat = (
            interval("poll_interval", poll_interval),
            interval("heartbeat_interval", heartbeat_interval),
        )
        check_limit(heartbeat_limit, heartbeat_interval)
        served = check_queues(queues)
        return cls(
            sessions=sessions_of(source),
            async_sessions=async_maker(async_sessionmaker) or registry.async_sessionmaker,
            only=None if where is None else check_filter(registry.model, where, served),
            queues=served,
            threads=threads,
            concurrency=concurrency,
            poll=poll,
            beat=beat,
            heartbeat_limit=heartbeat_limit,
            grace=seconds,
            limits=limits,
        )

    @property
    def served(self) -> list[str] | None:
        """Its queues, and the library's own behind them: somebody has to keep the house."""
        if self.queues is None or self.limits.drain or OWN_QUEUE in self.queues:
            return self.queues
        return [*self.queues, OWN_QUEUE]


def interval(name: str, value: object) -> float:
    """A time above zero and of at most a day, in seconds; else InvalidOption."""
    if not isinstance(value, dt.timedelta) or not dt.timedelta(0) < value <= _LONGEST:
        raise InvalidOption(f"{name} is {value!r}; expected a timedelta above zero and of at most a day")
    return value.total_seconds()


def grace_period(value: object) -> float:
    """A time of zero to a day, in seconds; else InvalidOption."""
    if not isinstance(value, dt.timedelta) or not dt.timedelta(0) <= value <= _LONGEST:
        raise InvalidOption(f"grace is {value!r}; expected a timedelta of zero to a day")
    return value.total_seconds()


def check_number(name: str, value: object) -> None:
    """Raise InvalidOption if this is no whole number from 1 up."""
    if type(value) is not int or value < 1:
        raise InvalidOption(f"{name} is {value!r}; expected a whole number from 1 up")


def check_limit(limit: object, interval: dt.timedelta) -> None:
    """Raise InvalidOption if one late heartbeat would cost a living worker its jobs."""
    if not isinstance(limit, dt.timedelta) or limit < 2 * interval:
        raise InvalidOption(
            f"heartbeat_limit is {limit!r}; expected at least twice the heartbeat_interval ({interval}), "
            "or one late heartbeat costs a living worker its jobs"
        )


def check_hook(name: str, hook: object) -> None:
    """Raise InvalidOption if this can be no hook."""
    if hook is not None and not callable(hook):
        raise InvalidOption(f"{name} is {hook!r}; expected a function of the worker and a Finished")


def watching(registry: Registry[Any], observers: object) -> Watching | None:
    """Those who observe the jobs of a worker: its own, and the tracing of its registry; None: nobody.

    Raises:
        InvalidOption: one of them can be none.
    """
    if not isinstance(observers, Sequence) or isinstance(observers, str):
        raise InvalidOption(f"observers is {shown(observers)}; expected a list: observers=[Prometheus(jobs)]")
    for each in observers:
        if each is None:
            raise InvalidOption("observers has None in it; expected objects such as Prometheus(jobs)")
        check_observer("one of observers", each)
    tracing = () if registry.tracing is None else (registry.tracing,)
    every = [*tracing, *observers]
    return Watching(every) if every else None
