"""Ages and arguments as one types them, and back."""

from __future__ import annotations

import datetime as dt
import json
import re
from decimal import Decimal
from typing import Any, Final

from sqla_jobs.errors import InvalidFilter

LONGEST_AGE: Final = dt.timedelta(days=36_525)

_MICROSECOND: Final = dt.timedelta(microseconds=1)
_UNITS: Final = {
    "w": dt.timedelta(weeks=1),
    "d": dt.timedelta(days=1),
    "h": dt.timedelta(hours=1),
    "m": dt.timedelta(minutes=1),
    "s": dt.timedelta(seconds=1),
}
_AGE: Final = re.compile(r"\s*([0-9]{1,12}(?:\.[0-9]{1,6})?)\s*([wdhms])\s*", re.ASCII)
_PIECE: Final = re.compile(r"((?:[^.=\\]|\\.)*)([.=]?)", re.DOTALL)


def age_of(name: str, text: str) -> dt.timedelta:
    """``90s``, ``15m``, ``2h``, ``7d``, ``1.5h`` as a timedelta.

    Raises:
        InvalidFilter: it is none, or more than a hundred years.
    """
    expected = "a number with s, m, h, d or w, such as 90s, 15m, 2h or 7d; at most 100 years"
    found = _AGE.fullmatch(text)
    if found is None:
        raise InvalidFilter(name, text, expected)
    microseconds = int(Decimal(found[1]) * (_UNITS[found[2]] // _MICROSECOND))
    if microseconds > LONGEST_AGE // _MICROSECOND:
        raise InvalidFilter(name, text, expected)
    return dt.timedelta(microseconds=microseconds)


def age_text(age: dt.timedelta) -> str:
    """A timedelta as `age_of` reads it, in the largest unit that divides it."""
    for unit in ("d", "h", "m", "s"):
        if age and not age % _UNITS[unit]:
            return f"{age // _UNITS[unit]}{unit}"
    if not age:
        return "0s"
    seconds, rest = divmod(age // _MICROSECOND, 1_000_000)
    return f"{seconds}.{rest:06d}".rstrip("0") + "s"


def argument_of(text: str) -> tuple[tuple[str, ...], Any]:
    """``order.id=7`` as a path and a value: JSON, or the text itself if it is none.

    Raises:
        InvalidFilter: there is no ``=``, or a name in the path is empty.
    """
    path: list[str] = []
    at, ending = 0, "."
    while ending == ".":
        found = _PIECE.match(text, at)
        assert found is not None
        path.append(re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL))
        at, ending = found.end(), found[2]
    if ending != "=" or not all(path):
        raise InvalidFilter("arg", text, "a path, '=' and a value, such as order.id=7")
    return tuple(path), _value_of(text[at:])


def argument_text(path: tuple[str, ...], value: Any) -> str:
    """A path and a value as `argument_of` reads them."""
    names = ".".join(re.sub(r"([.=\\])", r"\\\1", name) for name in path)
    if isinstance(value, str) and _value_of(value) == value:
        return f"{names}={value}"
    return f"{names}={json.dumps(value)}"


def _value_of(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return text


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def is_storable(text: str) -> bool:
    """Whether PostgreSQL has such a text: no NUL, no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in text and "\\u0000" not in text
