"""This process among the workers: its row, its heartbeats, and what follows from them."""

from __future__ import annotations

import datetime as dt
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Collection, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, TypeVar

from sqlalchemy.orm import Session

from sqla_jobs import lifecycle, wakeup
from sqla_jobs.runner import Runner
from sqla_jobs.tasks import Registry

log = logging.getLogger("sqla_jobs")

T = TypeVar("T")

# One that goes on while the machine is suspended, as the database's does.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


_RETURN: Final = 6.0
"""Seconds in which others that live are back after an outage: their longest back-off, and some."""


class Registration:
    """The row of one worker process. `beat` and `give_back_strays` belong to one thread each.

    Parameters:
        recurring: it looks after schedules too.
        limit: without a heartbeat for this long, others take this process for dead.
    """

    def __init__(
        self,
        runner: Runner,
        registry: Registry[Any],
        *,
        recurring: bool,
        queues: Sequence[str] | None,
        threads: int,
        limit: dt.timedelta,
    ) -> None:
        self.worker_id = 0
        self._runner = runner
        self._registry = registry
        self._model = registry.model
        self._recurring = recurring
        self._unsettled: frozenset[str] = frozenset()
        self._queues, self._threads = queues, threads
        self._limit = limit
        # Jobs may take every connection of the application's pool: a worker that waits for one in vain
        # cannot say that it lives.
        self._engine = wakeup.apart(runner.engine)
        self._beat_at = 0.0
        self._unbroken = True
        self._judges_from = 0.0
        self._suspects: set[tuple[int, int]] = set()

    def register(self) -> None:
        """Make this process known, under a new worker id."""
        began = _clock()
        self.worker_id = self._transact(
            lambda s: lifecycle.register(
                s,
                self._model,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=_version(),
                queues=self._queues,
                threads=self._threads,
                heartbeat_limit=self._limit,
                **self._known(),
            )
        )
        self._beat_at = began
        self._judges_from = max(self._judges_from, _clock() + min(self._limit.total_seconds(), _RETURN))

    def _known(self) -> dict[str, Any]:
        known = self._registry.known()
        return known if self._recurring else {**known, "schedules": {}}

    def enter(self) -> None:
        """`register`, and write the schedules of the code to their rows: others have to see what we have."""
        self.register()
        try:
            self._sync_schedules()
        except BaseException:
            self.goodbye()
            raise

    def _sync_schedules(self) -> None:
        if not (self._recurring and self._registry.schedules):
            return
        again = self._unsettled
        synced = self._runner.transact(lambda s: self._registry.sync(s, waited=again))
        self._unsettled = frozenset(synced.newer)
        for name in () if again else synced.newer:
            log.info(
                "schedule %r is left as it is while a worker lives that has a newer definition of it", name,
                extra={"schedule": name},
            )  # fmt: skip
        for name in () if again else synced.edited:
            log.info(
                "schedule %r is left as it is: its row was made or edited as data", name,
                extra={"schedule": name},
            )  # fmt: skip

    def settle_schedules(self) -> None:
        """Write again those that a worker has newer definitions of: when those have gone, ours are right."""
        if self._unsettled:
            self._sync_schedules()

    def beat(self, running: list[dict[str, Any]]) -> bool:
        """Say that this process lives; False: it was taken for dead, and has to register anew."""
        began = _clock()
        unbroken = self._unbroken and began - self._beat_at <= self._limit.total_seconds()
        self._unbroken = False  # until this heartbeat has gone through
        worker_id = self.worker_id
        alive = self._transact(lambda s: lifecycle.heartbeat(s, self._model, worker_id, running))
        if not unbroken:
            self._judges_from = _clock() + self._limit.total_seconds()
        self._unbroken = True
        self._beat_at = began if alive else -math.inf
        return alive

    def _transact(self, verb: Callable[[Session], T]) -> T:
        return self._runner.transact(verb, self._engine)

    @property
    def limit(self) -> float:
        """Seconds without a heartbeat after which others take this process for dead."""
        return self._limit.total_seconds()

    @property
    def is_fresh(self) -> bool:
        """Whether others still have to take this process for living; if not, it must not claim.

        After a long stop (SIGSTOP, a suspended machine, no database) they may have taken it for dead,
        and would take away at once what it claims under its old id.
        """
        return _clock() - self._beat_at <= self._limit.total_seconds()

    @property
    def may_judge(self) -> bool:
        """Whether this process may take others for dead.

        Not for one limit after its own heartbeats were interrupted: what kept them from the database
        may have kept those of all others, who shall have the time to be back. Nor in the first seconds
        of its own life: it may have been started anew because of that very outage.
        """
        return self.is_fresh and _clock() >= self._judges_from

    def give_back_strays(self, known: Collection[tuple[int, int]]) -> None:
        """Give back what runs under this process's id, but is unknown to it, now and at the last call."""
        worker_id, suspects = self.worker_id, self._suspects
        self._suspects = self._runner.transact(
            lambda s: lifecycle.give_back_strays(s, self._model, worker_id, known, suspects)
        )

    def deny_lock(self) -> None:
        """Let nobody judge this process by its lock, which it does not hold any more."""
        self._transact(lambda s: lifecycle.deny_lock(s, self._model, self.worker_id))

    def goodbye(self) -> None:
        """This process ends; nothing runs here any more."""
        try:
            self._transact(lambda s: lifecycle.goodbye(s, self._model, self.worker_id))
        finally:
            self._engine.dispose()


def _clock() -> float:
    return time.clock_gettime(_CLOCK)


def _version() -> str:
    try:
        return version("sqla-jobs")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "unknown"
