"""Which times a schedule has missed, which of them get a job, and when it is due next. Pure."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from sqla_jobs.cron import Cron, Every, Rule, occurrences

MOST: Final = 1000
"""How many jobs are made for runs that were missed, with ``catch_up="all"``: the last ones."""

LATE: Final = dt.timedelta(minutes=1)
"""With ``catch_up="none"`` a run that is later than this is left out."""

_COUNTED: Final = 10_000

_SECOND: Final = dt.timedelta(seconds=1)


@dataclass(frozen=True)
class Missed:
    """The times of a schedule up to now that get a job, and the first one after now."""

    ticks: tuple[dt.datetime, ...]
    following: dt.datetime
    left_out: int = 0
    """How many times before these get none; of a cron line not more than 10,000 are counted."""


def missed(rule: Rule, first: dt.datetime, now: dt.datetime, catch_up: str, *, most: int = MOST) -> Missed:
    """What becomes of the times from ``first``, which is due, up to ``now``.

    Parameters:
        catch_up: ``one``: the last of them. ``all``: each of the last ``most``. ``none``: the last one,
            unless it is later than `LATE`.

    Raises:
        InvalidSchedule, OverflowError: there is no next time.
    """
    wanted = most if catch_up == "all" else 1
    if isinstance(rule, Every):
        found = _of_interval(rule, first, now, wanted)
    else:
        found = _of_cron(rule, first, now, wanted, count=catch_up == "all")
    if catch_up == "none" and now - found.ticks[-1] > LATE:
        return Missed((), found.following, found.left_out + 1)
    return found


def _of_interval(rule: Every, first: dt.datetime, now: dt.datetime, wanted: int) -> Missed:
    # On the grid of the first: a worker that is late does not shift all that follows.
    last = (now - first) // rule.interval
    begin = max(0, last - wanted + 1)
    ticks = tuple(first + number * rule.interval for number in range(begin, last + 1))
    return Missed(ticks, first + (last + 1) * rule.interval, begin)


def _of_cron(rule: Cron, first: dt.datetime, now: dt.datetime, wanted: int, *, count: bool) -> Missed:
    following = rule.next(now)
    ticks = occurrences(rule, first, now, wanted)
    if len(ticks) < wanted:
        return Missed((first, *ticks), following)  # which need not be a time of the line: data may say it
    ticks = occurrences(rule, _last_with(rule, first, now, wanted), now, wanted)
    left_out = 1 + len(occurrences(rule, first, ticks[0] - _SECOND / 2, _COUNTED)) if count else 1
    return Missed(tuple(ticks), following, left_out)


def _last_with(rule: Cron, low: dt.datetime, now: dt.datetime, wanted: int) -> dt.datetime:
    """The latest moment, to the second, after which there are so many times up to now; as after ``low``.

    By halving: after an outage of days a line for each second has more times than can be walked through.
    """
    seconds = (now - low) // _SECOND + 1  # not any more
    holds = 0
    while seconds - holds > 1:
        middle = (holds + seconds) // 2
        if len(occurrences(rule, low + middle * _SECOND, now, wanted)) == wanted:
            holds = middle
        else:
            seconds = middle
    return low + holds * _SECOND
