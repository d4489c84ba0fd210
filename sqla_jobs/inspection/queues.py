"""The queues: what waits in each, and how fast it goes."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqla_jobs.inspection.rows import Count


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """A queue: one that has jobs, or is paused, or that a worker works for."""

    name: str
    queued: Count
    scheduled: Count
    running: int
    oldest: dt.datetime | None
    """``run_at`` of the oldest queued job; None: none is queued."""
    paused_at: dt.datetime | None
    per_minute: float
    """Jobs finished within the last five minutes, by the minute."""
