"""The texts that a value may appear as in a message or a traceback."""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import html
import json
import re
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from urllib.parse import quote, quote_plus

MOST: Final = 1_000
"""Parts of a value that are looked for. Whoever has more is shown nothing of the text at all."""
_DEEPEST: Final = 50
_SIMPLE: Final = (
    str, bytes, bytearray, memoryview, int, float, Decimal, dt.date, dt.time, dt.timedelta, uuid.UUID, type,
)  # fmt: skip
_LONG_ENOUGH: Final = 6
"""Characters of what is looked for in encodings that nobody would take for the value itself."""


_LONGEST_PATTERN: Final = 10_000
_NAMED: Final = {
    " ": ("+",), "&": ("&amp;",), "<": ("&lt;",), ">": ("&gt;",), '"': ("&quot;",), "'": ("&#x27;", "''"),
}  # fmt: skip
"""How else a character may be written: in a form, in HTML, in SQL."""


class TooMany(Exception):
    """A value has more parts than can be looked for."""


def parts(value: Any, label: str) -> Iterator[tuple[str, Any]]:
    """The texts, numbers and the like that a value consists of, each with the name that it stands beside.

    Of a mapping the values, and the keys that are no identifiers: "number" is a word of many tracebacks.

    Raises:
        TooMany
    """
    left = MOST
    stack: list[tuple[str, Any, int]] = [(label, value, 0)]
    seen: set[int] = set()
    while stack:
        name, each, depth = stack.pop()
        left -= 1
        if left < 0 or depth > _DEEPEST:
            raise TooMany
        inner = list(_inner(name, each))
        if not inner:
            yield name, each
            continue
        if id(each) in seen:
            continue
        seen.add(id(each))  # alive for as long as the value is
        yield name, each
        stack += [(*one, depth + 1) for one in inner]


def _inner(label: str, value: Any) -> Iterable[tuple[str, Any]]:
    if isinstance(value, Enum):
        yield label, value.value
    elif value is None or isinstance(value, _SIMPLE):
        return
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if isinstance(key, str) and key.isidentifier():
                yield key, each
            else:
                yield label, key
                yield label, each
    elif hasattr(value, "get_secret_value"):
        yield label, value.get_secret_value()
    elif isinstance(value, (list, tuple, set, frozenset)):
        names = getattr(value, "_fields", ())
        for number, each in enumerate(value):
            yield names[number] if number < len(names) else label, each
    elif not hasattr(value, "_sa_instance_state"):
        yield from _attributes(value)


def _attributes(value: Any) -> Iterable[tuple[str, Any]]:
    names = [each.name for each in dataclasses.fields(value)] if dataclasses.is_dataclass(value) else []
    names += getattr(value, "__dict__", {})
    for kind in type(value).__mro__:
        slots = vars(kind).get("__slots__", ())
        names += [slots] if isinstance(slots, str) else slots
    extra = getattr(value, "__pydantic_extra__", None)
    for name in dict.fromkeys(names):
        if name not in ("__dict__", "__weakref__") and not name.startswith("__pydantic"):
            with suppress(AttributeError):
                yield name, getattr(value, name)
    if isinstance(extra, Mapping):
        yield from extra.items()


def forms(value: Any) -> set[str]:
    """How a part, or a whole, may be written."""
    found: set[str] = set()
    if value is None or isinstance(value, bool):
        return {str(value), json.dumps(value)}
    if isinstance(value, str) and not isinstance(value, Enum):
        return _of_text(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _of_bytes(bytes(value))
    with suppress(Exception):
        found.add(str(value))
    with suppress(Exception):
        found.add(repr(value))
    with suppress(Exception):  # infinity is no int, and so on; what came before that stays
        for each in _of_kind(value):
            found.add(each)
    if isinstance(value, (dict, list, tuple)):
        with suppress(Exception):
            found |= {json.dumps(value), json.dumps(value, ensure_ascii=False, separators=(",", ":"))}
    return found


def _of_text(text: str) -> set[str]:
    lines = text.splitlines() if "\n" in text or "\r" in text else []
    found = set()
    for each in (text, text.strip(), *lines, *(line.strip() for line in lines)):
        found.add(each)
        found |= {repr(each)[1:-1], ascii(each)[1:-1], json.dumps(each)[1:-1], each.replace("'", "''")}
        # A repr that has more than this in it may have chosen the other quotes. All else finds `escaped`.
        found |= {repr(each + "'" + '"')[1:-4], repr(each + '"')[1:-2].replace("'", "\\'")}
    if len(text) >= _LONG_ENOUGH:
        found |= {quote(text, safe=""), quote(text), quote_plus(text), html.escape(text)}
    with suppress(UnicodeError):
        found |= _of_bytes(text.encode(), decoded=False)
    return found


def _of_bytes(raw: bytes, *, decoded: bool = True) -> set[str]:
    found = {repr(raw)[2:-1]}
    if len(raw) >= _LONG_ENOUGH:
        found |= {raw.hex(), base64.b64encode(raw).decode().rstrip("=")}
        found.add(base64.urlsafe_b64encode(raw).decode().rstrip("="))
    if decoded:
        with suppress(UnicodeError):
            found |= _of_text(raw.decode())
    return found


def _of_kind(value: Any) -> Iterator[str]:
    if isinstance(value, Enum):
        yield value.name
    if isinstance(value, (int, float, Decimal)):
        yield from _of_number(value)
    elif isinstance(value, uuid.UUID):
        yield from (value.hex, str(value.int))
    elif isinstance(value, dt.datetime):
        yield from _of_moment(value)
    elif isinstance(value, dt.date):
        yield from (value.strftime(shape) for shape in ("%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%Y"))
    elif isinstance(value, dt.time):
        yield value.isoformat()
    elif isinstance(value, dt.timedelta):
        yield from (str(value.total_seconds()), str(int(value.total_seconds())))


def _of_number(value: Any) -> Iterator[str]:
    yield format(value, ",")
    if isinstance(value, int):
        yield from (format(value, "_"), hex(value), f"{value:.2f}") if abs(value) > 999 else ()
        return
    yield from (format(value, "f"), format(value, "g"), f"{value:.2f}", f"{value:,.2f}", f"{value:e}")
    if value == int(value):
        yield str(int(value))


def _of_moment(value: dt.datetime) -> Iterator[str]:
    zones = () if value.tzinfo is None else (dt.timezone.utc, None)
    for each in (value, *(value.astimezone(zone) for zone in zones)):
        for plain in (each, each.replace(tzinfo=None)):
            yield from (plain.isoformat(), plain.isoformat(" "), plain.isoformat(" ", "seconds"))
        yield "datetime.datetime({}, {}, {}, {}, {}".format(*each.timetuple()[:5])
        yield from _of_kind(each.date())
    yield str(int(value.timestamp()))


def escaped(text: str) -> str | None:
    """A pattern of a text as it is in reprs of reprs, in JSON in them, in URLs and the like.

    None: it is long, or has nothing that anybody would escape.
    """
    if len(text) > _LONGEST_PATTERN or re.fullmatch(r"[\w.:;,#@!?()/*=<>~^|$-]*", text, re.ASCII):
        return None
    return "".join(map(_escaped, text))


def _escaped(char: str) -> str:
    if char.isascii() and char.isalnum():
        return char
    ways = {re.escape(char), re.escape(quote(char)), *map(re.escape, _NAMED.get(char, ()))}
    if char in "'\"\\":
        ways.add(r"\\+" + ("" if char == "\\" else char))
    shown = {ascii(char)[1:-1], json.dumps(char)[1:-1], repr(char.encode(errors="surrogatepass"))[2:-1]}
    for each in shown:
        if each.startswith("\\"):  # however many there are: each repr doubles them
            ways.add("".join(r"\\+" if c == "\\" else re.escape(c) for c in each))
    return f"(?:{'|'.join(sorted(ways, key=len, reverse=True))})"
