"""Which tasks' limits are reached, as far as one worker knows, and the claims that count."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from sqla_jobs import lifecycle
from sqla_jobs.lifecycle import Claimed, Counted, LeftOut, Mark
from sqla_jobs.statements import Filter
from sqla_jobs.tasks import Registry

STEPS: Final = (16, 8, 4, 2, 1, 0)
"""How many jobs are asked for at once. A statement's LIMIT is part of its text; so there are few texts."""
FULL: Final = 0.9
"""Seconds for which a key is passed over of which as many jobs run as may: a slot that becomes free in
another process is noticed within a second."""
BUSY: Final = 0.05
"""The same for a key of which somebody was about to begin a job: that takes a millisecond."""


class Slots:
    """The limits of a registry's tasks. The threads of a worker share it.

    Parameters:
        transact: calls a function in a transaction of its own.
    """

    def __init__(
        self, registry: Registry[Any], transact: Callable[[Callable[[Any], Counted]], Counted]
    ) -> None:
        self._registry = registry
        self._transact = transact
        self.reopened = 0
        """Counts the keys that are not passed over any more: there may be jobs before those claimed last."""
        self._lock = threading.Lock()
        self._closed: dict[str, float] = {}
        """Until when a key is passed over, by `time.monotonic`."""
        self._ends = 0
        """Counts the jobs with a key that have ended here."""
        self._running: dict[tuple[int, int], str] = {}
        """The key of each job that was begun here, by its id and claim."""

    @property
    def left(self) -> LeftOut | None:
        """What a claim that does not count leaves out; None: nothing has to be counted."""
        limited = self._registry.limited
        return LeftOut(list(limited), self._full()) if limited else None

    @property
    def wait(self) -> float | None:
        """Seconds until a key may have become free that nobody will tell of; None: no key is passed over.

        Of a key whose time is over already it is zero, once: whoever asks may claim now, and looks again. If
        it may not (all queues are paused, there is no room on the loop) it would ask for ever.
        """
        with self._lock:
            if self._reopen():
                return 0.0
            moment = min(self._closed.values(), default=None)
        return None if moment is None else max(0.0, moment - _clock())

    def claim(
        self,
        worker_id: int,
        queues: Sequence[str] | None,
        wanted: int,
        *,
        innocent: bool = False,
        mark: Mark | None = None,
        only: Filter | None = None,
    ) -> list[Claimed]:
        """Claim up to so many of the next jobs, of whatever task, and no more than their limits allow.

        Each look is a transaction of its own: a key is locked no longer than that. It ends, since each finds
        a job, or a key to pass over: of those there are no more than jobs that run, or are about to.
        """
        jobs: list[Claimed] = []
        passed = set[str]()
        while True:
            step = next(step for step in STEPS if step <= wanted - len(jobs))
            look = partial(
                lifecycle.claim_counted,
                model=self._registry.model,
                worker_id=worker_id,
                queues=queues,
                tasks=self._registry.limited,
                full=passed.union(self._full()),
                limit=step,
                innocent=innocent,
                mark=mark,
                only=only,
            )
            ends = self._ends
            found = self._transact(look)
            self._note(found, ends)
            jobs += found.jobs
            passed |= found.full | found.busy
            if len(jobs) == wanted or not (found.full or found.busy or found.chosen == step):
                return jobs

    def _note(self, found: Counted, ends: int) -> None:
        now = _clock()
        with self._lock:
            # A job that has ended meanwhile was counted, it may be, and has opened its key in vain.
            full = FULL if self._ends == ends else BUSY
            for job in found.jobs:
                if job.id in found.keys:
                    self._running[job.id, job.claim] = found.keys[job.id]
            self._closed.update(dict.fromkeys(found.busy, now + BUSY))
            self._closed.update(dict.fromkeys(found.full, now + full))

    def ends(self, job: Claimed) -> None:
        """A job that was claimed here is about to be recorded as over; others may count it until it is."""
        with self._lock:
            self._open(self._running.get((job.id, job.claim)))

    def ended(self, job: Claimed) -> None:
        """A job that was claimed here does not run any more."""
        with self._lock:
            key = self._running.pop((job.id, job.claim), None)
            self._ends += key is not None
            self._open(key)

    def _open(self, key: str | None) -> None:
        if key is not None and self._closed.pop(key, None) is not None:
            self.reopened += 1

    def _full(self) -> list[str]:
        with self._lock:
            self._reopen()
            return list(self._closed)

    def _reopen(self) -> bool:
        """Forget the keys whose time is over, under the lock; whether there are any."""
        now = _clock()
        over = [key for key, until in self._closed.items() if until <= now]
        for key in over:
            del self._closed[key]
        self.reopened += len(over)
        return bool(over)


def _clock() -> float:
    return time.monotonic()
