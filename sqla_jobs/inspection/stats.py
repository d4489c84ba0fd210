"""Throughput and latency over time."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from sqla_jobs import statements
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection.pages import check_number
from sqla_jobs.inspection.rows import Count
from sqla_jobs.inspection.texts import LONGEST_AGE
from sqla_jobs.lifecycle.sent import execute
from sqla_jobs.models import Job, JobMixin, check_queue

_SECOND: Final = dt.timedelta(seconds=1)
_COUNTED: Final = 48_000
"""Jobs that are counted of each final state, in all buckets together: by an index."""
_COUNTED_OF_ONE: Final = 10_000
"""And of one queue: by their rows."""
_MOST_BUCKETS: Final = 500

_Times = tuple[dt.timedelta | None, dt.timedelta | None]


@dataclass(frozen=True, kw_only=True)
class Bucket:
    """What finished in a stretch of time; waits and run times are of a sample of at most 80 of its jobs."""

    at: dt.datetime
    """Its begin, which is in it; its end is not."""
    seconds: float
    succeeded: Count
    failed: Count
    cancelled: Count
    wait_p50: dt.timedelta | None
    """The median of the time from when they could have been begun to the begin of the last attempt."""
    wait_p95: dt.timedelta | None
    run_p50: dt.timedelta | None
    """The median of the time from there to the end, of those that succeeded or failed."""
    run_p95: dt.timedelta | None


@verb
def stats(
    session: Sync,
    model: type[JobMixin] = Job,
    *,
    span: dt.timedelta = dt.timedelta(hours=1),
    buckets: int = 60,
    queue: str | None = None,
    now: dt.datetime | None = None,
) -> list[Bucket]:
    """What finished over a span of time, in buckets of the same length, the oldest first; reads only.

    The last bucket is the one that it is now, and not over yet; they begin at multiples of their length. In
    each so many jobs are counted that all of them together are 48,000 of each state at most: a count that
    is not exact is what was counted. Jobs that were pruned, or deleted by the commit of their success, are
    not there any more.

    Parameters:
        span: at least a second for each bucket, at most 100 years.
        buckets: how many, at most 500.
        queue: only jobs in this queue; they are looked for among 10,000.
        now: what the time is taken to be; None: the database's clock.

    Raises:
        InvalidFilter: ``span`` or ``buckets`` is out of its range.
        InvalidQueueName: ``queue`` cannot be the name of a queue.
    """
    own = session_of(session, "stats")
    check_number("buckets", buckets, 1, _MOST_BUCKETS)
    given_span: object = span
    if not isinstance(given_span, dt.timedelta) or not buckets * _SECOND <= given_span <= LONGEST_AGE:
        expected = f"a timedelta from {buckets} seconds, one for each bucket, to 100 years"
        raise InvalidFilter("span", span, expected)
    given: dict[str, Any] = {"now": now} if queue is None else {"now": now, "p_queue": check_queue(queue)}
    one_queue = queue is not None
    width, most = span / buckets, (_COUNTED_OF_ONE if one_queue else _COUNTED) // buckets
    counted = statements.finished_by_bucket(model, width, buckets, most, one_queue)
    sampled = statements.times_by_bucket(model, width, buckets, one_queue)
    rows = execute(own, model, counted, **given).all()
    times = {i: (_times(waits), _times(runs)) for i, waits, runs in execute(own, model, sampled, **given)}
    nothing: tuple[_Times, _Times] = ((None, None), (None, None))
    made = []
    for i, (at, *numbers) in enumerate(rows):
        succeeded, failed, cancelled = (
            Count(min(number, most), looked <= most)
            for number, looked in zip(numbers[::2], numbers[1::2], strict=True)
        )
        waits, runs = times.get(i, nothing)
        made.append(
            Bucket(
                at=at,
                seconds=width.total_seconds(),
                succeeded=succeeded,
                failed=failed,
                cancelled=cancelled,
                wait_p50=waits[0],
                wait_p95=waits[1],
                run_p50=runs[0],
                run_p95=runs[1],
            )
        )
    return made


def _times(seconds: Any) -> _Times:
    if seconds is None:
        return None, None
    first, second = (None if each is None else dt.timedelta(seconds=each) for each in seconds)
    return first, second
