"""Where a list goes on."""

from __future__ import annotations

import base64
import datetime as dt
import json
from dataclasses import dataclass
from typing import Any

from sqla_jobs.errors import InvalidFilter, shown


@dataclass(frozen=True)
class Cursor:
    """The last job that a list has come to, in its order.

    Another process, of another version of the library, may have made it, or somebody at the address bar.
    """

    order: str
    """The name of the order; that of another one says nothing of this."""
    key: dt.datetime | int | None = None
    id: int | None = None
    """None: none of that key is known yet."""
    priority: int | None = None
    tied: bool = False
    """Among jobs of the same key, which are looked at by their ids: from this one on."""

    def __str__(self) -> str:
        key = self.key.isoformat() if isinstance(self.key, dt.datetime) else self.key
        text = json.dumps([self.order, key, self.id, self.priority, self.tied], separators=(",", ":"))
        return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")

    @classmethod
    def parse(cls, text: object, order: str) -> Cursor:
        """The cursor of this text.

        Raises:
            InvalidFilter: it is none, or that of another order.
        """
        expected = "what the page before gave as `next`, for the same filter"
        if not isinstance(text, str) or not text.isascii() or len(text) > 300:
            raise InvalidFilter("cursor", text, expected)
        try:
            told = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            cursor = cls._loaded(*told)
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise InvalidFilter("cursor", text, expected) from None
        if cursor.order != order:
            raise InvalidFilter(
                "cursor", text, f"{expected}: it is of a list in the order {shown(cursor.order)}"
            )
        return cursor

    @classmethod
    def _loaded(cls, order: Any, key: Any, job_id: Any, priority: Any, tied: Any) -> Cursor:
        if isinstance(key, str):
            key = dt.datetime.fromisoformat(key)
            if key.tzinfo is None:
                raise ValueError("naive")
            key = key.astimezone(dt.timezone.utc)
        numbers = (job_id, priority) if isinstance(key, dt.datetime) else (key, job_id, priority)
        for number in numbers:
            if number is not None and (type(number) is not int or not -(2**63) <= number < 2**63):
                raise ValueError("number")
        if priority is not None and not -(2**15) <= priority < 2**15:
            raise ValueError("priority")
        if not isinstance(order, str) or not isinstance(tied, bool):
            raise TypeError("order")
        made = cls(order, key, job_id, priority, tied)
        if not made._is_of_its_order():
            raise ValueError("key")
        return made

    def _is_of_its_order(self) -> bool:
        """Whether it has what a statement of that order compares with."""
        if self.order == "newest":
            return not (self.tied or isinstance(self.key, dt.datetime))
        if self.order in ("queued", "running"):
            known = isinstance(self.key, dt.datetime) and self.id is not None
            return known and (self.order == "running" or self.priority is not None)
        return isinstance(self.key, dt.datetime) or (self.key is None and not self.tied)
