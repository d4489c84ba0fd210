"""Which queues a worker may claim from."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqla_jobs import lifecycle
from sqla_jobs.runner import Runner
from sqla_jobs.tasks import OWN_QUEUE

_AGE: Final = 0.9
"""Seconds after which what is known is read again before a claim: a pause is obeyed within a second."""

# One that goes on while the machine is suspended, as the database's does.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class _Known:
    closed: frozenset[str]
    since: float
    """When it was asked for."""
    heard: int


class Pauses:
    """The queues that a worker serves, less those that are paused. Its threads share it.

    While none is, it costs one look at a table of a few rows in a second, and nothing else: the claims are as
    they would be without any pauses.

    Parameters:
        queues: those that it serves, in strict order; None: any.
        heard: counts what the worker was told of; where a queue is paused, that may be its end.
    """

    def __init__(self, runner: Runner, queues: Sequence[str] | None, heard: Callable[[], int]) -> None:
        self._runner = runner
        self._model: type[Any] = runner.model
        self._queues = queues
        self._heard = heard
        self._known: _Known | None = None

    @property
    def are_none(self) -> bool:
        """Whether it was known a moment ago that no queue of this worker is paused. Sends nothing."""
        known = self._known
        return known is not None and self._is_current(known) and not known.closed

    def closed(self) -> Collection[str]:
        """The queues of this worker that are paused."""
        known = self._known
        if known is None or not self._is_current(known):
            since, heard = _clock(), self._heard()
            found = self._runner.at_once(lambda s: lifecycle.paused(s, self._model))
            mine = found if self._queues is None else found.intersection(self._queues)
            known = _Known(mine, since, heard)
            # Of two threads that have asked at the same time the one that asked last knows more.
            if self._known is None or self._known.since <= since:
                self._known = known
        return known.closed

    def open(self) -> Sequence[str] | None:
        """The queues to claim from now; None: any. None of them: there is nothing to claim."""
        closed = self.closed()
        if not closed:
            return self._queues
        only = self._runner.only
        found = self._runner.at_once(
            lambda s: lifecycle.open_queues(s, self._model, self._queues, closed, only)
        )
        if only is not None and self._queues is None and OWN_QUEUE not in {*found, *closed}:
            found.append(OWN_QUEUE)  # to which no filter applies
        return found

    def _is_current(self, known: _Known) -> bool:
        if known.closed and known.heard != self._heard():
            return False
        return _clock() - known.since <= _AGE


def _clock() -> float:
    return time.clock_gettime(_CLOCK)
