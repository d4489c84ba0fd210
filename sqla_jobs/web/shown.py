"""How values look on a page. Pure; whatever is returned is text, which the templates escape."""

from __future__ import annotations

import datetime as dt
import json
import math
from typing import Any, Final

DASH: Final = "\N{EN DASH}"
LONGEST: Final = 20_000
"""Characters of arguments, results and tracebacks that a page shows."""

_PRETTY: Final = json.JSONEncoder(indent=2, ensure_ascii=False, default=str)
_UNITS: Final = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))


def span(value: dt.timedelta | float | None) -> str:
    """A length of time by its two largest units: ``1.24 s``, ``3 m 20 s``, ``2 d 4 h``; a dash for None."""
    if value is None:
        return DASH
    seconds = value.total_seconds() if isinstance(value, dt.timedelta) else float(value)
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 0.001:
        return "0 ms" if seconds == 0 else "<1 ms"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.3g} s" if seconds < 10 else f"{seconds:.0f} s"
    return _parts(round(seconds))


def _parts(seconds: int) -> str:
    told: list[str] = []
    for unit, size in _UNITS:
        number, seconds = divmod(seconds, size)
        if number or told:
            told.append(f"{number} {unit}" if number else "")
        if len(told) == 2:
            break
    return " ".join(part for part in told if part)


def ago(moment: dt.datetime | None, now: dt.datetime) -> str:
    """How far a moment is from now: ``3 m ago``, ``in 2 h``; a dash for None."""
    if moment is None:
        return DASH
    seconds = (now - moment).total_seconds()
    if abs(seconds) < 1:
        return "now"
    told = _largest(abs(seconds))
    return f"{told} ago" if seconds > 0 else f"in {told}"


def _largest(seconds: float) -> str:
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return "0 s"


def moment(value: dt.datetime | None) -> str:
    """A moment in UTC, to the second; a dash for None."""
    return DASH if value is None else f"{value.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def iso(value: dt.datetime) -> str:
    """A moment as ``<time datetime>`` has it."""
    return value.astimezone(dt.timezone.utc).isoformat(timespec="milliseconds")


def document(value: Any) -> str:
    """JSON as it is read best, cut at `LONGEST`."""
    told, length = list[str](), 0
    try:
        # By parts: pages are written on the event loop, where a million numbers would hold all others up.
        for part in _PRETTY.iterencode(value):
            told.append(part)
            length += len(part)
            if length > LONGEST:
                return f"{''.join(told)[:LONGEST]}\n… more is not shown"
    except RecursionError:  # what could be read may still be too deep to be written
        return "… nested too deep to be shown"
    return "".join(told)


def brief(value: Any, length: int = 120) -> str:
    """JSON on one line, cut."""
    return one_line(json.dumps(value, ensure_ascii=False, default=str), length)


def cut(text: str) -> str:
    """A text of at most `LONGEST` characters, which says so if it was longer."""
    if len(text) <= LONGEST:
        return text
    return f"{text[:LONGEST]}\n… {len(text) - LONGEST:,} more characters are not shown"


def one_line(text: str, length: int = 160) -> str:
    """A text on one line, cut."""
    told = " ".join(text[: 4 * length].split())
    return told if len(told) <= length else f"{told[: length - 1]}…"


def number(value: float) -> str:
    """A number with its thousands set apart; small ones with a decimal."""
    if isinstance(value, int) or value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.1f}"


def amount(value: Any) -> int | float | None:
    """A number of a row's JSON that can be reckoned with; None: it is none, or larger than a float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:
        return None


def plural(count: Any, one: str, many: str | None = None) -> str:
    """``1 job``, ``2 jobs``, ``10,000+ jobs``."""
    told = str(count) if not isinstance(count, int) else f"{count:,}"
    return f"{told} {one if told == '1' else many or one + 's'}"
