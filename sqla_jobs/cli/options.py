"""Options that several commands have."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from sqla_jobs.cli import database

Command = TypeVar("Command", bound=Callable[..., Any])

url_option: Final = click.option(
    "--database-url",
    metavar="URL",
    help=f"postgresql://…; else {database.VARIABLES[0]}, else {database.VARIABLES[1]} from the environment.",
)
schema_option: Final = click.option(
    "--schema", metavar="NAME", help="Where the tables are. Default: the connection's own."
)


def duration(name: str, default: float, text: str, *, or_zero: bool = False) -> Callable[[Command], Command]:
    """An option of a number of seconds."""
    return click.option(
        name,
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=not or_zero),
        callback=_seconds,
        default=default,
        show_default=True,
        help=text,
    )


def _seconds(_: click.Context, __: click.Parameter, value: float) -> dt.timedelta:
    try:
        return dt.timedelta(seconds=value)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value} is not a number of seconds.") from None
