"""Texts for a terminal: harmless, of an exact width, numbers and times in few characters."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final

from rich.cells import cell_len, set_cell_size

from sqla_jobs.cli.printing import plain

ZERO: Final = dt.timedelta(0)


@dataclass(frozen=True)
class Glyphs:
    """What is drawn besides letters."""

    spark: str
    full: str
    empty: str
    pointer: str
    alive: str
    dead: str
    cut: str
    dot: str
    box: str
    """Top left, horizontal, top right, vertical, bottom left, bottom right."""


UNICODE: Final = Glyphs("▁▂▃▄▅▆▇█", "━", "╌", "▸", "●", "✗", "…", "·", "╭─╮│╰╯")
ASCII: Final = Glyphs("_.:-=+*#", "#", ".", ">", "*", "x", "~", "-", "+-+|++")


def lines_of(text: str) -> list[str]:
    """Each line made harmless by `plain`, tabs as spaces."""
    return [plain(line.expandtabs(4)) for line in text.splitlines()]


def fit(text: str, width: int, cut: str = "…", *, right: bool = False, end: bool = False) -> str:
    """Exactly so many cells of a terminal: filled with spaces, or cut and marked so.

    Parameters:
        right: the spaces are before it.
        end: of what is cut, the end is kept.
    """
    if width <= 0:
        return ""
    cells = cell_len(text)
    if cells > width and end:
        return cut + set_cell_size(text[::-1], width - 1)[::-1]
    if cells > width:
        return set_cell_size(text, width - 1) + cut
    gap = " " * (width - cells)
    return gap + text if right else text + gap


def number(value: float) -> str:
    """At most five characters below a thousand billion: ``7``, ``1,204``, ``23.1k``, ``4.2M``."""
    if value < 10_000:
        return f"{value:,.0f}"
    for size, unit in ((1_000, "k"), (1_000_000, "M"), (1_000_000_000, "G")):
        if value < 999.5 * size:
            return f"{value / size:.1f}{unit}" if value < 99.95 * size else f"{value / size:.0f}{unit}"
    return f"{value / 1_000_000_000:.0f}G"


def rate(value: float) -> str:
    """A number per minute; its tenths only while they say something."""
    return f"{value:.1f}" if 0 < value < 10 else number(value)


def span(value: dt.timedelta | None) -> str:
    """At most seven characters: ``40ms``, ``3.2s``, ``41s``, ``7m 02s``, ``3h 20m``, ``12d 4h``."""
    if value is None:
        return ""
    seconds = max(value, ZERO).total_seconds()
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    if whole < 86_400:
        return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
    days, hours = whole // 86_400, whole % 86_400 // 3600
    return f"{days}d {hours}h" if days < 1000 else f"{days:,}d"
