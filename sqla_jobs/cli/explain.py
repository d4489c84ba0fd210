"""``sqla-jobs cron explain``, and how times are shown."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from functools import partial
from typing import Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table

from sqla_jobs.cron import Cron, Rule
from sqla_jobs.errors import ConfigurationError, InvalidOption

FORM: Final = "%a %Y-%m-%d %H:%M:%S"
_WIDE: Final = 10_000
"""Columns; whoever reads a pipe wants whole lines."""


def explain(line: str, timezone: str, count: int, after: str | None) -> None:
    """Print the next times of a cron line, in its zone and in UTC.

    Raises:
        InvalidSchedule: with the field that is wrong.
        ConfigurationError: ``after`` is no time, or the last one is before it.
    """
    rule = Cron(line, timezone)
    here = ZoneInfo(timezone)
    moment = _moment(after, here)
    found = list(times(rule, moment, count))
    if not found:
        raise ConfigurationError(f"cron line {line!r} has no time after {moment.isoformat()}")
    zones = [timezone] if timezone == "UTC" else [timezone, "UTC"]
    table = Table(*zones, box=None, header_style="bold", pad_edge=False)
    for time in found:
        table.add_row(*(shown(time.astimezone(here)), time.strftime(FORM))[-len(zones) :])
    console().print(table)


def times(rule: Rule, after: dt.datetime, count: int) -> Iterator[dt.datetime]:
    """The next ``count`` times, in UTC; fewer if no year is left."""
    for _ in range(count):
        try:
            after = rule.next(after)
        except (InvalidOption, OverflowError):
            return
        yield after


def console() -> Console:
    """Where a table is printed: within a terminal's width, and elsewhere on lines as long as they are."""
    # What is shown may have brackets and colons of its own.
    plain = partial(Console, highlight=False, markup=False, emoji=False)
    terminal = plain()
    return terminal if terminal.is_terminal else plain(width=_WIDE)


def shown(moment: dt.datetime) -> str:
    """A moment by the clock of its own zone."""
    # With the offset: an abbreviation may be the same before and after a change.
    return f"{moment.strftime(FORM)} {moment.tzname() or ''} {moment.strftime('%z')}"


def _moment(given: str | None, zone: ZoneInfo) -> dt.datetime:
    if given is None:
        return dt.datetime.now(dt.timezone.utc)
    try:
        moment = dt.datetime.fromisoformat(given)
    except ValueError:
        raise ConfigurationError(
            f"--after is {given!r}; expected a time such as 2026-03-28T12:00, which is taken to be in the "
            "zone, or 2026-03-28T12:00+00:00"
        ) from None
    return moment.replace(tzinfo=zone) if moment.tzinfo is None else moment
