"""Which days of a month a cron line means. Pure."""

from __future__ import annotations

import calendar
from dataclasses import dataclass
from functools import lru_cache

MONDAY_TO_FRIDAY = frozenset({1, 2, 3, 4, 5})
"""As cron counts the days of the week: 0 is Sunday."""


@dataclass(frozen=True)
class Month:
    """One month of one year: how long it is, and the day of the week of each of its days."""

    length: int
    first: int
    """The day of the week of the 1st; 0 is Sunday."""

    @classmethod
    def of(cls, year: int, month: int) -> Month:
        monday_based, length = calendar.monthrange(year, month)
        return cls(length, (monday_based + 1) % 7)

    def weekday(self, day: int) -> int:
        """The day of the week of a day; 0 is Sunday."""
        return (self.first + day - 1) % 7

    def all_of(self, weekday: int) -> range:
        """All the days that fall on this day of the week."""
        return range(1 + (weekday - self.first) % 7, self.length + 1, 7)

    def nearest_weekday(self, day: int) -> int:
        """The day from Monday to Friday that is nearest to `day`, in the same month.

        Source: Quartz's CronTrigger, `15W`: a Saturday gives way to the Friday before it, a Sunday to the
        Monday after it, but never into another month.
        """
        weekday = self.weekday(day)
        if weekday == 6:
            return day - 1 if day > 1 else day + 2
        if weekday == 0:
            return day + 1 if day < self.length else day - 2
        return day

    def last_weekday(self) -> int:
        """The last day that is one of Monday to Friday."""
        return self.length - {6: 1, 0: 2}.get(self.weekday(self.length), 0)


@dataclass(frozen=True)
class DayOfMonth:
    """The field for the day of the month."""

    numbers: frozenset[int]
    star: bool
    last: bool = False
    """`L`: the last day of the month."""
    weekdays: bool = False
    """`W`: every day from Monday to Friday."""
    last_weekday: bool = False
    """`LW`: the last of these."""
    nearest: frozenset[int] = frozenset()
    """`15W`: the one that is nearest to the 15th."""

    def days(self, month: Month) -> set[int]:
        found = {day for day in self.numbers if day <= month.length}
        # As with the number alone: a month that has no 31st has no 31W either.
        found.update(month.nearest_weekday(day) for day in self.nearest if day <= month.length)
        if self.last:
            found.add(month.length)
        if self.last_weekday:
            found.add(month.last_weekday())
        if self.weekdays:
            for weekday in MONDAY_TO_FRIDAY:
                found.update(month.all_of(weekday))
        return found


@dataclass(frozen=True)
class DayOfWeek:
    """The field for the day of the week; 0 is Sunday, and 7 has become 0."""

    numbers: frozenset[int]
    star: bool
    last: frozenset[int] = frozenset()
    """`5L`: the last Friday of the month."""
    nth: frozenset[tuple[int, int]] = frozenset()
    """`5#2`: the second Friday of the month."""

    def days(self, month: Month) -> set[int]:
        found: set[int] = set()
        for weekday in self.numbers:
            found.update(month.all_of(weekday))
        found.update(month.all_of(weekday)[-1] for weekday in self.last)
        for weekday, n in self.nth:
            found.update(month.all_of(weekday)[n - 1 : n])
        return found


@lru_cache(maxsize=1024)  # a line that fires each minute asks for one month some 40,000 times
def matching(of_month: DayOfMonth, of_week: DayOfWeek, year: int, month: int) -> tuple[int, ...]:
    """The days of this month that both fields mean together, in order.

    Source: crontab(5) of Vixie cron. If both fields are restricted, a day that fits either will do. A
    field that begins with `*` is not restricted, so that `*/2` is narrowed by the other.
    """
    this = Month.of(year, month)
    if of_month.star or of_week.star:
        return tuple(sorted(of_month.days(this) & of_week.days(this)))
    return tuple(sorted(of_month.days(this) | of_week.days(this)))
