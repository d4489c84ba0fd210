"""``sqla-jobs cron explain``."""

from __future__ import annotations

import datetime as dt
from zoneinfo import ZoneInfo

import click
from rich.table import Table

from sqla_jobs.cli.documents import json_option, print_document
from sqla_jobs.cli.printing import FORM, console, shown
from sqla_jobs.cron import Cron
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.scheduler import times


@click.group()
def cron() -> None:
    """About cron lines; needs no database."""


@cron.command()
@click.argument("line")
@click.option("--timezone", metavar="ZONE", default="UTC", show_default=True, help="An IANA name.")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many times.")
@click.option("--after", metavar="TIME", help="E.g. 2026-03-28T12:00, in the zone. Default: now.")
@json_option
def explain(line: str, timezone: str, count: int, after: str | None, as_json: bool) -> None:
    """Print the next times of a cron line, in its zone and in UTC."""
    _explain(line, timezone, count, after, as_json)


def _explain(line: str, timezone: str, count: int, after: str | None, as_json: bool) -> None:
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
    if as_json:
        print_document({"line": line, "timezone": timezone, "times": found})
        return
    zones = [timezone] if timezone == "UTC" else [timezone, "UTC"]
    table = Table(*zones, box=None, header_style="bold", pad_edge=False)
    for time in found:
        table.add_row(*(shown(time.astimezone(here)), time.strftime(FORM))[-len(zones) :])
    console().print(table)


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
