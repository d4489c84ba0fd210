"""Who of the other workers is gone, by what is seen of their locks."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any, Final

from sqla_jobs import lifecycle
from sqla_jobs.listener import Listener
from sqla_jobs.runner import Runner
from sqla_jobs.tasks import Registry
from sqla_jobs.worker.registration import Registration

APART: Final = 1.0
"""Seconds between the two sights of a free lock that are a death. A living worker that has lost its
connection says within them that it holds no lock any more."""


class Sights:
    """Free locks that were seen, by the version of the row as `lifecycle.unheld` gives it."""

    def __init__(self) -> None:
        self._first: dict[str, float] = {}

    def note(self, unheld: Collection[str], *, began: float, ended: float) -> list[str]:
        """Note whose locks are free; returns whose were so before.

        A write to the row in between makes another version of it, of which this is the first sight.

        Parameters:
            began, ended: when it was asked, and when it was answered.
        """
        # Each at the end that makes the time in between shorter than it was.
        gone = [each for each in unheld if each in self._first and began - self._first[each] >= APART]
        self._first = {each: self._first.get(each, ended) for each in unheld}
        return gone

    def forget(self) -> None:
        """What was seen so far counts no more."""
        self._first.clear()


class Neighbours:
    """The other workers, as one sees them that listens itself."""

    def __init__(
        self, runner: Runner, registry: Registry[Any], registration: Registration, listener: Listener
    ) -> None:
        self._runner = runner
        self._model = registry.model
        self._registration = registration
        self._listener = listener
        self._sights = Sights()
        self._clock: Callable[[], float] = time.monotonic

    def gone(self) -> list[str]:
        """Who is dead by the second sight of a free lock; for `lifecycle.rescue`.

        After an outage of the network, a restart of the server, or a failover every lock is free, and whoever
        has lost its own connection does not know better until it has had another one for a while. A process
        that has never lost one, because it is new, may go by those locks that neither a restart nor a
        failover has let go.
        """
        old = self._listener.is_older_than(self._registration.limit)
        if not (self._registration.may_judge and (old or self._listener.is_first)):
            self._sights.forget()
            return []
        began = self._clock()
        worker_id = self._registration.worker_id
        unheld = self._runner.at_once(lambda s: lifecycle.unheld(s, self._model, worker_id, of_any=old))
        return self._sights.note(unheld, began=began, ended=self._clock())
