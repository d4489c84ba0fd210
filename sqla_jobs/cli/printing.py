"""How tables and times are printed."""

from __future__ import annotations

import datetime as dt
from functools import partial
from typing import Final

from rich.console import Console

FORM: Final = "%a %Y-%m-%d %H:%M:%S"
_WIDE: Final = 10_000
"""Columns; whoever reads a pipe wants whole lines."""


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
