"""How far a job has come: what it says, and where that is kept while it runs. Pure."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from typing import Any, Final

from sqla_jobs.errors import InvalidOption, shown

NOTE_LIMIT: Final = 500
"""Characters of a note that are kept."""
_MOST: Final = 2**63


@dataclass(frozen=True)
class Progress:
    """What a job said last of how far it has come."""

    done: int | float
    total: int | float | None = None
    """None: nobody knows. It may be less than ``done``, as an estimate is."""
    note: str | None = None
    attempt: int = 1
    """Which attempt said it."""

    @classmethod
    def said(cls, done: Any, total: Any, note: Any, attempt: int) -> Progress:
        """What a task says, checked. A note is cut, and loses what PostgreSQL does not hold.

        Raises:
            InvalidOption: no number, or one below zero, NaN, infinite, from 2**63 up; a note that is no text.
        """
        if note is not None:
            note = _storable(note)
        return cls(_number("done", done), None if total is None else _number("total", total), note, attempt)

    @classmethod
    def loaded(cls, value: Any) -> Progress | None:
        """What a row holds; None: it is no progress."""
        try:
            attempt = _number("attempt", value["attempt"])
            return cls.said(value["done"], value.get("total"), value.get("note"), int(attempt))
        except (AttributeError, KeyError, TypeError, ValueError):  # it may be from raw SQL
            return None

    @property
    def fraction(self) -> float | None:
        """From 0.0 to 1.0; None: there is no total."""
        if self.total is None:
            return None
        return min(1.0, self.done / self.total) if self.total else 1.0

    def values(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    def text(self) -> str:
        """JSON."""
        return json.dumps(self.values())


class Meter:
    """What one running job has said last.

    Its thread sets it and others read it, without a lock: one might stay locked where a job is interrupted.
    """

    __slots__ = ("last", "written")

    def __init__(self) -> None:
        self.last: Progress | None = None
        self.written: Progress | None = None
        """What of it others can see; of who writes it."""

    @property
    def has_news(self) -> bool:
        """Whether it has said anything since it was written."""
        return self.last is not self.written


def _number(name: str, value: Any) -> int | float:
    number: Any = value
    if type(value) not in (int, float):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise InvalidOption(f"progress: {name} is {shown(value)}; expected an int or a float, e.g. 250")
        number = int(value) if isinstance(value, Integral) else float(value)
    if not 0 <= number < _MOST:  # which no NaN is
        raise InvalidOption(f"progress: {name} is {shown(value)}; expected a number from 0 up, below 2**63")
    return number  # type: ignore[no-any-return]


def _storable(note: Any) -> str:
    if not isinstance(note, str):
        raise InvalidOption(f"progress: note is {shown(note)}; expected text, e.g. 'reading orders.csv'")
    cut = note if len(note) <= NOTE_LIMIT else note[: NOTE_LIMIT - 1] + "…"
    return (
        cut
        if cut.isascii() and "\x00" not in cut
        else cut.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    )
