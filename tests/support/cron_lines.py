"""Cron lines drawn at random, each with its meaning said again: by sets, and by questions to a date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from hypothesis import strategies as st

DAY = timedelta(days=1)
NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

Numbers = tuple[str, frozenset[int]]
Days = tuple[str, Callable[[datetime], bool]]


@dataclass(frozen=True)
class Drawn:
    """A line, and whether a local time is one of its own."""

    text: str
    seconds: frozenset[int]
    minutes: frozenset[int]
    hours: frozenset[int]
    day: Callable[[datetime], bool]

    def matches(self, local: datetime) -> bool:
        return (
            local.second in self.seconds
            and local.minute in self.minutes
            and local.hour in self.hours
            and self.day(local)
        )

    @property
    def fixed(self) -> bool:
        minute, hour = self.text.split()[-5:-3]
        return minute[0] != "*" and hour[0] != "*"


@st.composite
def numbers(draw: st.DrawFn, low: int, high: int, near: tuple[int, ...], star: bool = True) -> Numbers:
    """A field and its values; mostly about `near`, where the changes are."""
    one = st.sampled_from(near) | st.integers(low, high)
    a, b = sorted((draw(one), draw(one)))
    n = draw(st.integers(1, 7))
    forms = {
        f"{a}": {a},
        f"{b},{a}": {a, b},
        f"{a}-{b}": set(range(a, b + 1)),
        f"{a}-{b}/{n}": {x for x in range(a, b + 1) if (x - a) % n == 0},
        f"{a}/{n}": {x for x in range(a, high + 1) if (x - a) % n == 0},
    }
    if star:
        forms["*"] = set(range(low, high + 1))
        forms[f"*/{n}"] = {x for x in range(low, high + 1) if (x - low) % n == 0}
    text = draw(st.sampled_from(sorted(forms)))
    return text, frozenset(forms[text])


def weekday(local: datetime) -> int:
    return local.isoweekday() % 7


def of_month(local: datetime) -> list[datetime]:
    """All the days of its month, at its time."""
    around = [local + DAY * n for n in range(-30, 31)]
    return [day for day in around if (day.year, day.month) == (local.year, local.month)]


def weekdays(local: datetime) -> list[int]:
    return [day.day for day in of_month(local) if day.isoweekday() < 6]


def nearest(number: int, local: datetime) -> bool:
    if not any(day.day == number for day in of_month(local)):
        return False
    return local.day == min(weekdays(local), key=lambda day: abs(day - number))


def month_days(near: datetime) -> list[Days]:
    """What only a day of the month can be."""
    return [
        ("L", lambda local: (local + DAY).day == 1),
        ("W", lambda local: local.isoweekday() < 6),
        ("LW", lambda local: local.day == weekdays(local)[-1]),
        (f"{near.day}W", lambda local: nearest(near.day, local)),
    ]


def week_days(near: datetime) -> list[Days]:
    """What only a day of the week can be."""
    n = (near.day + 6) // 7
    name = NAMES[weekday(near)]
    return [
        ("W", lambda local: local.isoweekday() < 6),
        (f"{name}L", lambda local: weekday(local) == weekday(near) and (local + 7 * DAY).day < 8),
        (f"{name}#{n}", lambda local: weekday(local) == weekday(near) and (local.day + 6) // 7 == n),
    ]


@st.composite
def dates(draw: st.DrawFn, near: list[datetime]) -> tuple[str, Callable[[datetime], bool]]:
    """Day of month, month and day of week, about these dates, and what they mean together."""
    month, months = draw(numbers(1, 12, tuple({date.month for date in near})))
    text, in_month = draw(numbers(1, 31, tuple({date.day for date in near})))
    dom: Days = (text, lambda local: local.day in in_month)
    text, in_week = draw(numbers(0, 6, tuple({weekday(date) for date in near})))
    dow: Days = (text, lambda local: weekday(local) in in_week)
    date = draw(st.sampled_from(near))
    always: Days = ("*", lambda local: True)
    dom = draw(st.sampled_from([dom, dom, always, always, *month_days(date)]))
    dow = draw(st.sampled_from([dow, dow, always, always, *week_days(date)]))
    together = any if dom[0][0] != "*" and dow[0][0] != "*" else all
    return (
        f"{dom[0]} {month} {dow[0]}",
        lambda local: local.month in months and together((dom[1](local), dow[1](local))),
    )


@st.composite
def lines(draw: st.DrawFn, near: list[datetime], by_seconds: bool) -> Drawn:
    """A line of five fields, or of six, that often fires near these dates by night."""
    minute, minutes = draw(numbers(0, 59, (0, 15, 30, 59)))
    hour, hours = draw(numbers(0, 23, (0, 1, 2, 3, 23)))
    text, day = draw(dates(near))
    if not by_seconds:
        return Drawn(f"{minute} {hour} {text}", frozenset({0}), minutes, hours, day)
    second, seconds = draw(numbers(0, 59, (0, 29, 30, 59)))
    return Drawn(f"{second} {minute} {hour} {text}", seconds, minutes, hours, day)
