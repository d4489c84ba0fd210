"""The next times of a schedule, for whoever looks at it. Pure."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from sqla_jobs.cron import Rule
from sqla_jobs.errors import InvalidOption, InvalidSchedule
from sqla_jobs.lifecycle import ScheduleShown
from sqla_jobs.scheduler.missed import missed


def upcoming(row: ScheduleShown, now: dt.datetime, count: int) -> list[dt.datetime]:
    """The next times, in UTC: that of its row first, which may be due; fewer if no year is left.

    Raises:
        InvalidSchedule, OverflowError: its rule, which may have been written by SQL, is none.
    """
    rule, first = row.rule(), row.next_run_at
    if first is None:  # the first worker that looks sets it
        return list(times(rule, now, count))
    try:
        second = [missed(rule, first, now, "one").following] if first <= now else list(times(rule, first, 1))
    except (InvalidSchedule, OverflowError):
        second = []
    return [first, *second, *(times(rule, second[0], count - 2) if second else ())][:count]


def times(rule: Rule, after: dt.datetime, count: int) -> Iterator[dt.datetime]:
    """The next ``count`` times of a rule, in UTC; fewer if no year is left."""
    for _ in range(count):
        try:
            after = rule.next(after)
        except (InvalidOption, OverflowError):
            return
        yield after
