"""Cron, Every: a rule -> the next time. Pure: no database, and the time is an argument."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field

from sqla_jobs.cron.clock import SECOND, Clock, zone
from sqla_jobs.cron.line import Line, parse
from sqla_jobs.errors import InvalidSchedule

_LONGEST = dt.timedelta(days=36_525)
"""A hundred years; far beyond, a row could not hold the time."""

_RARELY = 80
"""Years within which a line must fire: a 29 February on a Monday is 40 years away at most."""

_SETTLED = dt.datetime(2040, 1, 1, tzinfo=dt.timezone.utc)
"""By then a zone has the last of its rules, which holds for ever: a line that fires after it never ends."""


@dataclass(frozen=True)
class Cron:
    """A cron line in a time zone.

    ::

        30 2 * * mon-fri          as in crontab(5): minute, hour, day of month, month, day of week
        0 30 2 * * mon-fri        the same with the second first

    Each field is `*`, a number, a range `a-b`, a step `*/n`, `a-b/n` or `a/n` (from a up), or a list of
    these with commas. Months and days of the week may be named (`jan`, `mon`, in any case); 0 and 7 are
    Sunday. Besides: day of month `L` (the last), `W` (each from Monday to Friday), `LW` (the last of
    these), `15W` (the one nearest to the 15th, in the same month); day of week `W` (Monday to Friday), `5L`
    (the last Friday of the month), `5#2` (the second). `@yearly @annually @monthly @weekly @daily
    @midnight @hourly` stand for a whole line. If day of month and day of week are both restricted, a day that
    fits either will do; a field that begins with `*` is not restricted (crontab(5)).

    **Changes of the local time** go by the rules of Vixie cron (cron(8) of Debian, "Notes"):

    * A line is *fixed* if neither its minute nor its hour begins with `*`; otherwise it is *wildcard*
      (MIN_STAR and HR_STAR in Vixie's entry.c).
    * Local times that are skipped: a fixed line that would have run in the gap runs once, at the first
      instant after it: once also for several times in the gap, or if that instant is one of its own. A
      wildcard line does not make up for them.
    * Local times that are repeated: a fixed line runs at the first of the two. A wildcard line runs at both,
      for it follows the elapsed clock.
    * Vixie cron takes a change of three hours and more for a correction of the machine's clock. Here a
      change is one of the time zone, whatever its length, and the rules hold for all.

    Parameters:
        line: the line, as written.
        timezone: an IANA name.

    Raises:
        InvalidSchedule: a field is wrong, or the zone unknown, or the line can never fire (31 February).
    """

    line: str
    timezone: str = "UTC"
    _line: Line = field(init=False, repr=False, compare=False)
    _clock: Clock = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_line", parse(self.line))
        object.__setattr__(self, "_clock", Clock(zone(self.timezone)))
        if self._line.first(_SETTLED.replace(tzinfo=None), _SETTLED.year + _RARELY) is None:
            raise self._never("no year has such a day")
        try:
            self.next(_SETTLED)
        except InvalidSchedule:
            raise self._never(f"the clocks of {self.timezone} skip all its times") from None

    def next(self, after: dt.datetime) -> dt.datetime:
        """The first time later than `after` (aware), in UTC.

        Raises:
            ValueError: `after` is naive.
            InvalidSchedule: there is none within 80 years, as can be at the end of the calendar.
        """
        after = _instant(after).replace(microsecond=0)
        last_year = min(max(after.year, _SETTLED.year) + _RARELY, 9998)
        found = self._elapsed(after, last_year) if self._line.wildcard else self._fixed(after, last_year)
        if found is None:
            raise self._never(f"from {after.date()} to the year {last_year} there is no such time")
        return found

    def _fixed(self, after: dt.datetime, last_year: int) -> dt.datetime | None:
        """Each reading once: at its first instant, or after the gap that skips it."""
        here = self._clock.reading(after)
        # All that is shown for the second time now had its run at the first.
        start = self._clock.overlap(here)[1] if here.fold else here + SECOND
        reading = self._line.first(start, last_year)
        if reading is None:
            return None
        instants = self._clock.instants(reading)
        return instants[0] if instants else self._clock.change(reading)

    def _elapsed(self, after: dt.datetime, last_year: int) -> dt.datetime | None:
        """Every instant that shows a reading of the line: none in a gap, both in an overlap."""
        here = self._clock.reading(after)
        reading = self._line.first(here + SECOND, last_year)
        if not here.fold and len(self._clock.instants(here)) == 2:
            # The readings up to here come once more, before those behind the overlap.
            again, end = self._clock.overlap(here)
            if reading is None or reading >= end:
                reading = self._line.first(again, last_year)
        while reading is not None:
            instants = self._clock.instants(reading)
            for instant in instants:
                if instant > after:
                    return instant
            start = reading + SECOND
            if not instants:
                # To the end of the gap, which can be a day of seconds.
                start = max(start, self._clock.reading(self._clock.change(reading)))
            reading = self._line.first(start, last_year)
        return None

    def _never(self, why: str) -> InvalidSchedule:
        return InvalidSchedule("cron line", self.line, f"one that fires: {why}")


@dataclass(frozen=True)
class Every:
    """An interval of elapsed time.

    Parameters:
        interval: above zero, at most 100 years.

    Raises:
        InvalidSchedule: it is not.
    """

    interval: dt.timedelta

    def __post_init__(self) -> None:
        if not _is_interval(self.interval):
            raise InvalidSchedule(
                "interval", self.interval, f"a timedelta above zero, of at most {_LONGEST.days} days"
            )

    def next(self, after: dt.datetime) -> dt.datetime:
        """`after` (aware) and the interval, in UTC.

        Raises:
            ValueError: `after` is naive.
        """
        return _instant(after) + self.interval


Rule = Cron | Every


def occurrences(rule: Rule, after: dt.datetime, until: dt.datetime, limit: int) -> list[dt.datetime]:
    """The times later than `after` up to and with `until`: the oldest `limit` of them, in order, in UTC.

    Raises:
        ValueError: `after` or `until` is naive.
    """
    until = _instant(until)
    found: list[dt.datetime] = []
    while len(found) < limit and (after := rule.next(after)) <= until:
        found.append(after)
    return found


def _instant(time: dt.datetime) -> dt.datetime:
    """In UTC, where adding and comparing mean elapsed time."""
    if time.tzinfo is None:
        raise ValueError(f"{time!r} has no time zone; expected an aware datetime")
    return time.astimezone(dt.timezone.utc)


def _is_interval(value: object) -> bool:
    return isinstance(value, dt.timedelta) and dt.timedelta(0) < value <= _LONGEST
