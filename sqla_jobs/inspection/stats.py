"""Throughput and latency over time."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from sqla_jobs.inspection.rows import Count


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What finished in a stretch of time; waits and run times are of a bounded sample of it."""

    at: dt.datetime
    """Its begin, which is in it; its end is not."""
    seconds: float
    succeeded: Count
    failed: Count
    cancelled: Count
    wait_p50: dt.timedelta | None
    wait_p95: dt.timedelta | None
    run_p50: dt.timedelta | None
    run_p95: dt.timedelta | None
