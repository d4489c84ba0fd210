"""A cron line as it is written -> the local times that it means. Pure."""

from __future__ import annotations

import datetime as dt
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from croniter import CroniterError, croniter

from sqla_jobs.cron.days import MONDAY_TO_FRIDAY, DayOfMonth, DayOfWeek, matching
from sqla_jobs.errors import InvalidSchedule

SHORT = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}


@dataclass(frozen=True)
class Field:
    """What may stand in one of the six places of a line."""

    name: str
    low: int
    high: int
    values: str

    def wrong(self, line: str, found: str, expected: str) -> InvalidSchedule:
        return InvalidSchedule(self.name, found, expected, line)


SECOND = Field("second", 0, 59, "0 to 59")
MINUTE = Field("minute", 0, 59, "0 to 59")
HOUR = Field("hour", 0, 23, "0 to 23")
DAY_OF_MONTH = Field("day of month", 1, 31, "1 to 31, L, W, LW or 1W to 31W")
MONTH = Field("month", 1, 12, "1 to 12 or jan to dec")
DAY_OF_WEEK = Field("day of week", 0, 6, "0 to 7 or sun to sat (0 and 7: Sunday), W, 0L to 7L or 0#1 to 7#5")
FIELDS = (SECOND, MINUTE, HOUR, DAY_OF_MONTH, MONTH, DAY_OF_WEEK)

_LONGEST: Final = 1000
"""Characters of a line: whoever makes a schedule of what a user has typed shall not read a million items."""

_VALUE = r"[a-z]{3}|[0-9]{1,9}"
_ITEM = re.compile(rf"(?P<first>\*|{_VALUE})(?:-(?P<last>{_VALUE}))?(?:/(?P<step>[0-9]{{1,9}}))?")
_NEAREST = re.compile(r"([0-9]{1,2})w")
_LAST = re.compile(rf"({_VALUE})l")
_NTH = re.compile(rf"({_VALUE})#([1-5])")


@dataclass(frozen=True)
class Line:
    """A cron line, read: the local times that it means, whatever the time zone."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    of_month: DayOfMonth
    months: tuple[int, ...]
    of_week: DayOfWeek
    wildcard: bool
    """The minute or the hour begins with `*`: such a line follows the elapsed clock over a change of time."""

    def first(self, start: dt.datetime, last_year: int) -> dt.datetime | None:
        """The first local time at or after `start` (naive, of whole seconds); None: none to the end of
        `last_year`.
        """
        time = self._time(start.time())
        for day in self._days(start.date(), last_year):
            if day > start.date():
                time = dt.time(self.hours[0], self.minutes[0], self.seconds[0])
            if time is not None:
                return dt.datetime.combine(day, time)
        return None

    def _days(self, start: dt.date, last_year: int) -> Iterator[dt.date]:
        for year in range(start.year, last_year + 1):
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                for day in matching(self.of_month, self.of_week, year, month):
                    date = dt.date(year, month, day)
                    if date >= start:
                        yield date

    def _time(self, start: dt.time) -> dt.time | None:
        """The first time of a day at or after `start`; None: none on that day."""
        at = (start.hour, start.minute, start.second)
        for hour in self.hours[bisect_left(self.hours, at[0]) :][:2]:
            for minute in self.minutes[bisect_left(self.minutes, at[1]) if hour == at[0] else 0 :][:2]:
                same = (hour, minute) == at[:2]
                for second in self.seconds[bisect_left(self.seconds, at[2]) if same else 0 :][:1]:
                    return dt.time(hour, minute, second)
        return None


def parse(line: str) -> Line:
    """Read a cron line.

    Raises:
        InvalidSchedule: with the field, what is in it and what could be.
    """
    if not isinstance(line, str):
        raise InvalidSchedule("cron line", line, "text, for example '0 30 2 * * mon-fri'")
    if len(line) > _LONGEST:
        expected = f"at most {_LONGEST} characters, in which all can be said; it has {len(line)}"
        raise InvalidSchedule("cron line", f"{line[:20]}…", expected)
    return _parsed(line)


# Each tick reads its line anew, and to ask croniter about each item takes milliseconds.
@lru_cache(maxsize=4096)
def _parsed(line: str) -> Line:
    fields = SHORT.get(line.strip().lower(), line.lower()).split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise InvalidSchedule(
            "cron line",
            line,
            "six fields (second minute hour day-of-month month day-of-week), five without the second,"
            f" or one of {' '.join(SHORT)}; it has {len(fields)} field{'s'[: len(fields) != 1]}",
        )
    return Line(
        seconds=_numbers(line, SECOND, fields[0]),
        minutes=_numbers(line, MINUTE, fields[1]),
        hours=_numbers(line, HOUR, fields[2]),
        of_month=_of_month(line, fields[3]),
        months=_numbers(line, MONTH, fields[4]),
        of_week=_of_week(line, fields[5]),
        # Vixie's MIN_STAR and HR_STAR: by how the field begins, not by what it comes to.
        wildcard=fields[1].startswith("*") or fields[2].startswith("*"),
    )


def _numbers(line: str, field: Field, text: str) -> tuple[int, ...]:
    return tuple(sorted({number for item in text.split(",") for number in _item(line, field, item)}))


def _of_month(line: str, text: str) -> DayOfMonth:
    numbers: set[int] = set()
    nearest: set[int] = set()
    words: set[str] = set()
    for item in text.split(","):
        if item in ("l", "w", "lw"):
            words.add(item)
        elif match := _NEAREST.fullmatch(item):
            nearest.update(_expanded(line, DAY_OF_MONTH, item, match[1]))
        else:
            numbers.update(_item(line, DAY_OF_MONTH, item))
    return DayOfMonth(
        frozenset(numbers),
        star=text.startswith("*"),
        last="l" in words,
        weekdays="w" in words,
        last_weekday="lw" in words,
        nearest=frozenset(nearest),
    )


def _of_week(line: str, text: str) -> DayOfWeek:
    numbers: set[int] = set()
    last: set[int] = set()
    nth: set[tuple[int, int]] = set()
    for item in text.split(","):
        if item == "w":
            numbers.update(MONDAY_TO_FRIDAY)
        elif match := _LAST.fullmatch(item):
            last.update(_expanded(line, DAY_OF_WEEK, item, match[1]))
        elif match := _NTH.fullmatch(item):
            nth.update((weekday, int(match[2])) for weekday in _expanded(line, DAY_OF_WEEK, item, match[1]))
        else:
            numbers.update(_item(line, DAY_OF_WEEK, item))
    return DayOfWeek(frozenset(numbers), star=text.startswith("*"), last=frozenset(last), nth=frozenset(nth))


def _item(line: str, field: Field, item: str) -> list[int]:
    """The numbers of `5`, `mon`, `1-5`, `*`, `*/2`, `1-5/2` or `5/2` (from 5 up)."""
    match = _ITEM.fullmatch(item)
    if match is None or (match["first"] == "*" and match["last"]):
        raise field.wrong(line, item, f"{field.values}, a-b, * or a step (*/n, a-b/n, a/n) of these")
    step = int(match["step"] or 1)
    if not 1 <= step <= field.high - field.low + 1:
        raise field.wrong(line, item, f"a step from 1 to {field.high - field.low + 1}")
    if match["first"] == "*":
        return _expanded(line, field, item, item)
    low = _end(line, field, item, match["first"])
    if match["last"]:
        high = _end(line, field, item, match["last"])
        if match["last"] == "sun" and low > 0:
            high = 7
    else:
        high = max(low, field.high) if match["step"] else low
    if high < low:
        expected = f"a range that runs forwards, or two: {low}-{field.high},{field.low}-{high}"
        raise field.wrong(line, item, expected)
    # croniter takes a range of one value for the whole field, in some releases also `59/15`.
    return _expanded(line, field, item, str(low) if low == high else f"{low}-{high}/{step}")


def _end(line: str, field: Field, item: str, value: str) -> int:
    """One end of a range. Sunday at its end is day 7, after Saturday: croniter has made it 0."""
    [number] = _expanded(line, field, item, value)
    return 7 if field is DAY_OF_WEEK and value.isdigit() and int(value) == 7 else number


def _expanded(line: str, field: Field, item: str, plain: str) -> list[int]:
    """What croniter makes of an item, or a part of it, in this field: names, ranges, steps, limits."""
    # In a line of six fields some releases know no day 7 and take month 0 for January. In one of five all
    # agree, and a second is as good as a minute.
    place = max(FIELDS.index(field) - 1, 0)
    alone = " ".join(plain if other == place else "*" for other in range(5))
    try:
        values, _ = croniter.expand(alone)
    except CroniterError:
        raise field.wrong(line, item, field.values) from None
    # It says "*" for a field without a limit.
    return [
        number
        for value in values[place]
        for number in (range(field.low, field.high + 1) if isinstance(value, str) else [value])
    ]
