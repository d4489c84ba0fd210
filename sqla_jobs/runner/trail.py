"""Where the next claim may begin to look."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

from sqla_jobs.lifecycle import Claimed, Mark

BLIND: Final = 1.0
"""Seconds for which a claim may look only behind the last one. What comes before it meanwhile (of a higher
priority, tried again, rolled back by another worker) waits no longer than this."""
BLIND_TO_NEWS: Final = 0.1
"""The same for what this worker was told of."""


class Trail:
    """Follows the jobs that were claimed, so that a claim need not pass again where there are none any more.

    The index entries of jobs that have left the queue stay until VACUUM may remove them. A transaction of
    anybody that stays open keeps it from that, and each claim would read all of them again.

    Parameters:
        heard: counts what this worker was told of.
        never: the worker drains: it may not end while there is a job before the mark.
    """

    def __init__(self, heard: Callable[[], int], *, never: bool = False) -> None:
        self._heard = heard
        self._never = never
        self._mark: Mark | None = None
        self._queue = ""
        self._since = 0.0
        self._news = 0

    def mark(self, queues: Sequence[str] | None) -> tuple[Mark | None, Sequence[str] | None]:
        """Where to begin, and in which queues; None: at the beginning, in all of them.

        Of several queues only the first can be looked through from a mark: what comes into it while the
        others are worked on must not wait for them.
        """
        if self._mark is None or self._never:
            return None, queues
        blind = BLIND if self._news == self._heard() else BLIND_TO_NEWS
        if time.monotonic() > self._since + blind or (queues is not None and queues[0] != self._queue):
            self._mark = None
            return None, queues
        return self._mark, None if queues is None else queues[:1]

    def left(self, jobs: Sequence[Claimed], news: int) -> None:
        """These were claimed, by a claim that began when the worker had been told of so much; or none."""
        if self._never:
            return
        if not jobs:
            self._mark = None
            return
        last = max(jobs, key=lambda job: (-job.priority, job.run_at, job.id))
        if self._mark is None:
            self._since, self._news = time.monotonic(), news
        self._mark, self._queue = Mark.at(last), last.queue
