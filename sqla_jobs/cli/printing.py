"""How texts, times and tables are printed."""

from __future__ import annotations

import datetime as dt
import unicodedata
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import zip_longest
from typing import Any, Final

import click
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

FORM: Final = "%a %Y-%m-%d %H:%M:%S"
_WIDE: Final = 10_000
"""Columns; whoever reads a pipe wants whole lines."""
_CELL: Final = 200
"""Characters of a table's cell that are printed."""
_BARS: Final = "▁▂▃▄▅▆▇█"
_STEPS: Final = ((60.0, "s", 1.0), (3600.0, "min", 60.0), (86_400.0, "h", 3600.0), (0.0, "days", 86_400.0))


def console() -> Console:
    """Where a table is printed: within a terminal's width, and elsewhere on lines as long as they are."""
    # What is shown may have brackets and colons of its own.
    plain_console = partial(Console, highlight=False, markup=False, emoji=False)
    terminal = plain_console()
    return terminal if terminal.is_terminal else plain_console(width=_WIDE)


def plain(text: object, *, lines: bool = False) -> str:
    """A text that anybody may have written, without what would steer a terminal: that is escaped.

    Parameters:
        lines: line ends and tabs stay.
    """
    kept = "\n\t" if lines else ""
    return "".join(
        each if each in kept or each.isprintable() or unicodedata.category(each) == "Zs" else _escaped(each)
        for each in str(text)
    )


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def cell(text: object, style: str = "") -> Text:
    """A text that anybody may have written, on one line of a table."""
    shown = plain(text)
    return Text(shown if len(shown) <= _CELL else f"{shown[: _CELL - 1]}…", style=style)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
    """Print rows under their titles; what is a text goes through `plain`.

    Parameters:
        right: the columns of numbers.
    """
    cells = [[each if isinstance(each, Text) else cell(each) for each in row] for row in rows]
    where = console()
    if where.is_terminal:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
        for name in columns:
            table.add_column(name, justify="right" if name in right else "left")
        for row in cells:
            table.add_row(*row)
        where.print(table)
    else:
        _print_plainly(columns, cells, right)


def _print_plainly(columns: Sequence[str], rows: Sequence[Sequence[Text]], right: Sequence[str]) -> None:
    # rich takes some milliseconds for each row, most of them for wrapping what is not wrapped here.
    lines = [list(columns)]
    for row in rows:
        lines += map(list, zip_longest(*(each.plain.split("\n") for each in row), fillvalue=""))
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, ["─" * width for width in widths])
    for line in lines:
        padded = (
            " " * (width - cell_len(text)) + text if name in right else text + " " * (width - cell_len(text))
            for name, width, text in zip(columns, widths, line, strict=True)
        )
        click.echo("  ".join(padded).rstrip())


def shown(moment: dt.datetime) -> str:
    """A moment by the clock of its own zone."""
    # With the offset: an abbreviation may be the same before and after a change.
    return f"{moment.strftime(FORM)} {moment.tzname() or ''} {moment.strftime('%z')}"


def moment(at: dt.datetime | None) -> str:
    """A moment in UTC, to the second; nothing for None."""
    return "" if at is None else f"{at.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M:%S}"


def span(length: dt.timedelta | None) -> str:
    """How long something takes, by its greatest unit; nothing for None."""
    if length is None:
        return ""
    seconds = length.total_seconds()
    if abs(seconds) < 1:
        return f"{seconds * 1000:.0f} ms"
    for end, unit, size in _STEPS:
        if abs(seconds) < end or not end:
            return f"{seconds / size:.1f} {unit}"
    raise AssertionError  # pragma: no cover - the last step has no end


def sparkline(values: Sequence[float]) -> str:
    """Values as bars; the highest is as high as a line, and what is above zero is never shown as nothing."""
    most = max(values, default=0.0)
    if most <= 0:
        return " " * len(values)
    return "".join(
        _BARS[min(int(each / most * len(_BARS)), len(_BARS) - 1)] if each > 0 else " " for each in values
    )
