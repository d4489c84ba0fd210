"""Reads and writes of the dashboard: short transactions in a thread, bounded by the server."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any, Final, TypeVar, cast

import anyio
import anyio.to_thread
from anyio.lowlevel import RunVar
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from sqla_jobs.errors import ConfigurationError
from sqla_jobs.lifecycle.patience import bound_transaction
from sqla_jobs.models import JobMixin
from sqla_jobs.tasks import Registry, Sessions, sessions_of
from sqla_jobs.web.guard import Refused

T = TypeVar("T")

SHARED: Final = 1.0
"""Seconds for which what one viewer's page has read is good for another's that renews itself."""
_MOST_SHARED: Final = 256
AT_ONCE: Final = 4
"""Transactions at once of all dashboards on an event loop. Its threads, and often the pool of connections,
are those of the application that they are mounted in: pages that wait must not take them all."""
WAITING: Final = 100
"""Requests that wait for their turn."""
_turns: Final[RunVar[anyio.CapacityLimiter]] = RunVar("sqla_jobs_web_turns")


class Database:
    """The job tables of a registry, as the pages see them.

    Parameters:
        limit: the longest that one statement may take.
    """

    def __init__(self, registry: Registry[Any], sessions: Sessions, limit: dt.timedelta) -> None:
        self.registry: Final = registry
        self.limit: Final = limit
        self._sessions: Final = sessions
        self._shared: Final[dict[Hashable, tuple[float, Any]]] = {}
        self._reading: Final[dict[Hashable, threading.Lock]] = {}
        self._guard: Final = threading.Lock()

    @property
    def model(self) -> type[JobMixin]:
        """The job model."""
        return cast("type[JobMixin]", self.registry.model)

    async def read(self, function: Callable[[Session, type[JobMixin]], T]) -> tuple[T, dt.datetime]:
        """What a function reads in a transaction of its own, and the database's time at its begin.

        The server refuses whatever would write there.
        """
        return await anyio.to_thread.run_sync(self._read, function, limiter=_turn())

    async def read_shared(
        self, key: Hashable, function: Callable[[Session, type[JobMixin]], T]
    ) -> tuple[T, dt.datetime]:
        """`read`, or what it gave within the last second for the same key: for pages that renew themselves.

        However many look at one page, it is read once a second.
        """
        return await anyio.to_thread.run_sync(self._read_shared, key, function, limiter=_turn())

    async def write(self, function: Callable[[Session, type[JobMixin]], T]) -> T:
        """What a function does in a transaction of its own, which is committed."""
        return await anyio.to_thread.run_sync(self._write, function, limiter=_turn())

    def _read(self, function: Callable[[Session, type[JobMixin]], T]) -> tuple[T, dt.datetime]:
        with self._sessions() as session:
            try:
                now = bound_transaction(session, self.model, self.limit, read_only=True)
                return function(session, self.model), now
            finally:
                session.rollback()

    def _write(self, function: Callable[[Session, type[JobMixin]], T]) -> T:
        with self._sessions() as session:
            try:
                bound_transaction(session, self.model, self.limit, read_only=False)
                done = function(session, self.model)
                session.commit()
            except BaseException:
                session.rollback()
                raise
        with self._guard:
            self._shared.clear()
        return done

    def _read_shared(
        self, key: Hashable, function: Callable[[Session, type[JobMixin]], T]
    ) -> tuple[T, dt.datetime]:
        with self._guard:
            if len(self._reading) >= 2 * _MOST_SHARED:  # of reads that failed there is nothing to share
                self._reading.clear()
            own = self._reading.setdefault(key, threading.Lock())
        with own:  # those who ask for the same meanwhile wait for the one who reads it
            with self._guard:
                at, found = self._shared.get(key, (0.0, None))
            if found is not None and time.monotonic() - at < SHARED:
                return cast("tuple[T, dt.datetime]", found)
            read = self._read(function)
            with self._guard:
                if len(self._shared) >= _MOST_SHARED:
                    self._shared.clear()
                    self._reading.clear()
                self._shared[key] = time.monotonic(), read
        return read


def _turn() -> anyio.CapacityLimiter:
    """What gives the threads of this event loop to its dashboards.

    Raises:
        Refused: too many wait for one.
    """
    try:
        turns = _turns.get()
    except LookupError:
        turns = anyio.CapacityLimiter(AT_ONCE)
        _turns.set(turns)
    if turns.statistics().tasks_waiting >= WAITING:
        raise Refused(503, "Too many pages are asked for at once. Please try again.")
    return turns


def sessions_for(registry: Registry[Any], given: Any) -> Sessions:
    """What makes the dashboard's Sessions.

    Parameters:
        given: an Engine, a sessionmaker or the like; None: that of the registry.

    Raises:
        ConfigurationError: there is none, or it makes AsyncSessions.
    """
    from_asyncio = type(given).__module__.startswith("sqlalchemy.ext.asyncio") or (
        isinstance(given, Engine) and given.dialect.is_async  # the sync_engine of an AsyncEngine
    )
    if from_asyncio or (given is None and registry.sessionmaker is None):
        found = "is asynchronous" if from_asyncio else "is missing, and the Jobs have none of their own"
        raise ConfigurationError(
            f"dashboard(…, sessionmaker): it {found}; expected an Engine or a sessionmaker, whose Sessions "
            "are used in threads and do not hold up the event loop. Beside an AsyncEngine one of the same "
            "URL is enough: create_engine(async_engine.url)"
        )
    return registry.sessionmaker if given is None else sessions_of(given)  # type: ignore[return-value]
