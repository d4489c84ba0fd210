"""Where the next claim looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from sqla_jobs.lifecycle import Claimed, Mark
from sqla_jobs.statements import Filter
from sqla_jobs.tasks import OWN_QUEUE

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Look(Protocol[T_co]):
    """Looks for jobs in queues, behind a mark or from the beginning, and only for those of a filter."""

    def __call__(
        self, queues: Sequence[str] | None, mark: Mark | None, only: Filter | None, /
    ) -> T_co | None: ...


BLIND: Final = 1.0
"""Seconds for which a claim may look only behind the last one. What comes before it meanwhile (of a higher
priority, tried again, rolled back by another worker) waits no longer than this."""
BLIND_TO_NEWS: Final = 0.1
"""The same for what this worker was told of."""


@dataclass(frozen=True)
class _Place:
    mark: Mark
    queue: str
    since: float
    """When all was looked through the last time, by `time.monotonic`."""
    news: int


class Trail:
    """Follows the jobs that were claimed, so that a claim need not pass again where there are none any more.

    The index entries of jobs that have left the queue stay until VACUUM may remove them. A transaction of
    anybody that stays open keeps it from that, and each claim would read all of them again.

    Threads may share it: whichever of them writes last, the mark is of a job that was claimed.

    Parameters:
        heard: counts what this worker was told of.
        never: the worker drains: it may not end while there is a job before the mark.
        only: which jobs the worker claims. The library's own queue is looked at without it, if there is
            nothing else: somebody has to keep the house.
    """

    def __init__(self, heard: Callable[[], int], *, never: bool = False, only: Filter | None = None) -> None:
        self._heard = heard
        self._never = never
        self._only = only
        self._place: _Place | None = None

    def claim(self, queues: Sequence[str] | None, look: Look[T]) -> T | None:
        """Look behind the mark, and if there is nothing, everywhere.

        Parameters:
            look: looks in queues, behind a mark or from the beginning, for jobs of a filter.
        """
        place = self.behind(queues)
        if place is not None:
            found = look(*place, self._only)
            if found:
                return found
        self._place = None
        return self.everywhere(queues, look)

    def everywhere(self, queues: Sequence[str] | None, look: Look[T]) -> T | None:
        """`claim`, from the beginning."""
        if self._only is None:
            return look(queues, None, None)
        filtered = queues and [queue for queue in queues if queue != OWN_QUEUE]
        found = None
        if queues is None or filtered:  # an empty list would be any queue
            found = look(filtered, None, self._only)
        keeps_house = not self._never if queues is None else OWN_QUEUE in queues
        return look([OWN_QUEUE], None, None) if not found and keeps_house else found

    def behind(self, queues: Sequence[str] | None) -> tuple[Sequence[str] | None, Mark] | None:
        """The queues and the mark behind which a claim may look; None: it looks everywhere.

        Of several queues only the first can be looked through from a mark: what comes into it while the
        others are worked on must not wait for them.
        """
        place = self._place
        if place is None or (queues is not None and queues[0] != place.queue):
            return None
        blind = BLIND if place.news == self._heard() else BLIND_TO_NEWS
        if time.monotonic() > place.since + blind:
            return None
        return None if queues is None else queues[:1], place.mark

    def left(self, jobs: Sequence[Claimed]) -> None:
        """These were claimed."""
        if self._never or not jobs:
            return
        last = max(jobs, key=lambda job: (-job.priority, job.run_at, job.id))
        place = self._place
        since, news = (time.monotonic(), self._heard()) if place is None else (place.since, place.news)
        self._place = _Place(Mark.at(last), last.queue, since, news)
