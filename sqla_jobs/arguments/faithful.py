"""What JSONB gives back as it was.

`plain` copies what JSONB can hold and refuses the rest; `compare` refuses what was read back as
something else.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import sys
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy
from pydantic import BaseModel
from sqlalchemy.orm import Mapper

from sqla_jobs.errors import ArgumentsNotStorable, shown

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

# pydantic's JSON parser goes no deeper.
DEEPEST = 200
TOO_DEEP = f"it contains itself, or is nested deeper than {DEEPEST} levels"

# The digits that PostgreSQL's numeric, and so JSONB, has before the decimal point.
_MOST_DIGITS = 131_072
# JSONB writes a float from here up without a decimal point, and so it is read back as an int.
_WHOLE_FLOATS = 1e16


class Refused(Exception):
    """A value that JSONB would lose or change; `where` is filled in on the way out."""

    def __init__(self, value: object, reason: str) -> None:
        super().__init__(reason)
        self.value = value
        self.reason = reason
        self.where: list[Any] = []

    def error(self, task: str, name: str) -> ArgumentsNotStorable:
        """The error of an argument of that name."""
        return ArgumentsNotStorable(task, path([name, *self.where]), self.value, self.reason)


def path(steps: Sequence[Any]) -> str:
    """Where in the arguments: `order.items[3].price`."""
    text = ""
    for step in steps:
        if isinstance(step, str) and step.isidentifier():
            text += f".{step}" if text else step
        elif step == "[key]":
            text += " (the key)"
        else:
            text += f"[{shown(step)}]"
    return text if len(text) <= 200 else f"{text[:197]}..."


# -- plain JSON --------------------------------------------------------------------------------------


def plain(value: Any, *, whole_floats: bool = False, depth: int = 0) -> JSON:
    """A copy of plain JSON, in the form in which JSONB gives it back.

    Parameters:
        value: what is to be stored, or was.
        whole_floats: let floats from 1e16 up become the ints that JSONB makes of them, for values that
            are compared, or converted by their annotation, after they were read back.
        depth: the levels above this one.

    Raises:
        Refused: it is not plain JSON, or JSONB does not hold it.
    """
    kind = type(value)
    if kind is str:
        check_text(value)
        return value  # type: ignore[no-any-return]
    if kind is int:
        _check_digits(value)
        return value  # type: ignore[no-any-return]
    if value is None or kind is bool:
        return value  # type: ignore[no-any-return]
    if kind is float:
        return _plain_float(value, whole_floats)
    if kind is not list and kind is not dict:
        raise Refused(value, _why_not_plain(kind))
    if depth == DEEPEST:
        raise Refused(value, TOO_DEEP)
    return (_plain_list if kind is list else _plain_dict)(value, whole_floats, depth + 1)


def _plain_list(value: list[Any], whole_floats: bool, depth: int) -> JSON:
    items: list[JSON] = []
    try:
        for item in value:
            items.append(plain(item, whole_floats=whole_floats, depth=depth))  # noqa: PERF401 - for len(items)
    except Refused as refused:
        refused.where.insert(0, len(items))
        raise
    return items


def _plain_dict(value: dict[Any, Any], whole_floats: bool, depth: int) -> JSON:
    members: dict[str, JSON] = {}
    key = None
    try:
        for key, item in value.items():
            if type(key) is not str:
                raise Refused(item, "its key is not text; annotate it, for example dict[int, str]")
            check_text(key)
            members[key] = plain(item, whole_floats=whole_floats, depth=depth)
    except Refused as refused:
        refused.where.insert(0, key)
        raise
    return members


def _plain_float(value: float, whole_floats: bool) -> int | float:
    if not math.isfinite(value):
        raise Refused(value, "JSON has no such number; pass None, or text")
    if value == 0 and math.copysign(1, value) < 0:
        raise Refused(value, "JSONB does not keep the sign of zero; pass 0.0")
    if abs(value) < _WHOLE_FLOATS:
        return value
    if not whole_floats:
        raise Refused(value, "JSONB would give it back as an int; annotate it with float")
    # Through the digits of repr(), as JSONB reads them: int(value) has others.
    return int(Decimal(repr(value)))


def check_text(text: str) -> None:
    """Raises Refused for text that PostgreSQL does not hold, in values and keys alike."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            reason = f"PostgreSQL has no lone surrogates in text (here at {error.start})"
            raise Refused(text, f"{reason}; annotate it with bytes and pass bytes") from error
    if "\x00" in text:
        reason = f"PostgreSQL has no NUL in text (here at {text.index(chr(0))})"
        raise Refused(text, f"{reason}; annotate it with bytes and pass bytes")


def _check_digits(number: int) -> None:
    # At most 4,215 digits: below every limit.
    if number.bit_length() < 14_000:
        return
    try:
        digits = len(str(abs(number)))
    except ValueError as error:
        limit = sys.get_int_max_str_digits()
        raise Refused(number, f"Python reads no int of more than {limit} digits back; pass bytes") from error
    if digits > _MOST_DIGITS:
        raise Refused(number, f"it has {digits} digits, JSONB at most {_MOST_DIGITS}; pass bytes")


def _why_not_plain(kind: type) -> str:
    if is_mapped(kind):
        return (
            "it is a mapped object, whose row may change meanwhile; pass its primary key, or annotate it"
            " with its class"
        )
    cure = "annotate it with its type, or convert it first"
    if issubclass(kind, (list, tuple, set, frozenset, deque)):
        return f"a {kind.__name__} would come back as a list; {cure}"
    for json_kind in (bool, int, float, str, dict):
        if issubclass(kind, json_kind):
            return f"a {kind.__qualname__} would come back as a plain {json_kind.__name__}; {cure}"
    return f"a {kind.__qualname__} is not plain JSON (None, bool, int, float, str, list, dict); {cure}"


def is_mapped(cls: type) -> bool:
    """Whether SQLAlchemy maps the class; configures no mapper."""
    return isinstance(sqlalchemy.inspect(cls, raiseerr=False), Mapper)


# -- is it the same after it was read back? ----------------------------------------------------------

_MISSING: Any = object()


def compare(before: Any, after: Any) -> None:
    """Refuse a value that is read back as another one; 1, 1.0 and True are three.

    Structures are compared by what they hold, whatever their own `__eq__` looks at.

    Parameters:
        before: the value that is to be stored.
        after: what was made of its JSON.

    Raises:
        Refused: they differ, as far as it can be told.
    """
    kind = type(before)
    if kind is type(after):
        for base in kind.__mro__:
            check = _CHECKS.get(base)
            if check is not None:
                check(before, after)
                return
        _compare_others(before, after)
    # A subclass (of a time-travelling test library, say) comes back as what the annotation promises. A str,
    # int or dict may as well come from Any, which promises nothing.
    elif isinstance(after, _PROMISED) and isinstance(before, type(after)):
        _CHECKS.get(type(after), _compare_others)(before, after)
    else:
        raise _altered(before, after)


def _compare_at(step: Any, before: Any, after: Any) -> None:
    try:
        compare(before, after)
    except Refused as refused:
        refused.where.insert(0, step)
        raise


def _compare_equal(before: Any, after: Any) -> None:
    if before != after:
        raise _altered(before, after)


def _compare_floats(before: float, after: float) -> None:
    same = before == after or (math.isnan(before) and math.isnan(after))
    if not same or math.copysign(1, before) != math.copysign(1, after):
        raise _altered(before, after)


def _compare_times(before: datetime | time, after: datetime | time) -> None:
    if before.tzinfo is None or after.tzinfo is None:
        same = before.tzinfo is after.tzinfo and before == after
    elif before == after:
        # A time of day in a zone with summer time has no offset, and equals one without any zone.
        same = before.utcoffset() is not None
    else:
        # Within the hour that a clock change repeats or skips, Python calls equal moments unequal.
        same = before.utcoffset() == after.utcoffset()
        same = same and before.replace(tzinfo=None) == after.replace(tzinfo=None)
    if not same:
        raise _altered(before, after)


def _compare_items(before: Any, after: Any) -> None:
    if len(before) != len(after):
        raise _altered(before, after)
    if getattr(before, "maxlen", None) != getattr(after, "maxlen", None):
        raise Refused(before, "JSON does not keep its maxlen; annotate it with list[...]")
    for index, item in enumerate(before):
        _compare_at(index, item, after[index])


def _compare_members(before: Any, after: Any) -> None:
    for _ in _pairs(before, after):
        pass


def _compare_dicts(before: dict[Any, Any], after: dict[Any, Any]) -> None:
    if isinstance(before, OrderedDict) and len(before) > 1:
        raise Refused(before, "JSONB does not keep the order of keys; pass a list of pairs")
    for mine, theirs in _pairs(before, after):
        _compare_at(mine, before[mine], after[theirs])


def _pairs(before: Any, after: Any) -> Iterator[tuple[Any, Any]]:
    """Each key or member of `before` with its like of `after`, already compared."""
    if len(before) != len(after):
        raise _altered(before, after)
    # As they are in `after`, since 1 would find True.
    theirs = {key: key for key in after}
    for key in before:
        if key in theirs:
            compare(key, theirs[key])
            yield key, theirs[key]
        else:
            yield key, _like(key, before, after)


def _like(key: Any, before: Any, after: Any) -> Any:
    # Only what compares unequal although it is the same gets this far: see `_compare_times`.
    for other in after:
        with contextlib.suppress(Refused):
            compare(key, other)
            return other
    raise _altered(before, after)


def _compare_models(before: BaseModel, after: BaseModel) -> None:
    for name in type(before).model_fields:
        _compare_at(name, before.__dict__.get(name, _MISSING), after.__dict__.get(name, _MISSING))
    compare(before.__pydantic_extra__, after.__pydantic_extra__)
    compare(before.__pydantic_private__, after.__pydantic_private__)


def _compare_others(before: Any, after: Any) -> None:
    if dataclasses.is_dataclass(before):
        for field in dataclasses.fields(before):
            name = field.name
            _compare_at(name, getattr(before, name, _MISSING), getattr(after, name, _MISSING))
    elif isinstance(before, Iterator):
        raise Refused(before, "an iterator can be read only once; annotate it with list[...]")
    elif _differ(before, after):
        raise _altered(before, after)


def _differ(before: Any, after: Any) -> bool:
    """As far as their `==` can say: that of some types knows only identity."""
    try:
        return bool(before != after) and bool(before == copy.deepcopy(before))
    except Exception:
        return False


def _altered(before: object, after: object) -> Refused:
    if callable(getattr(before, "get_secret_value", None)):
        return Refused(before, "a secret is masked when it is written; pass the key or name to find it by")
    return Refused(
        before,
        f"it would come back as {shown(after)} ({type(after).__qualname__});"
        " annotate this part with its own type, or convert it first",
    )


_CHECKS: dict[type, Callable[[Any, Any], None]] = {
    str: _compare_equal,
    int: _compare_equal,
    type(None): _compare_equal,
    float: _compare_floats,
    datetime: _compare_times,
    time: _compare_times,
    list: _compare_items,
    tuple: _compare_items,
    deque: _compare_items,
    set: _compare_members,
    frozenset: _compare_members,
    dict: _compare_dicts,
    BaseModel: _compare_models,
}
_PROMISED = (date, time, timedelta, Decimal, UUID)
