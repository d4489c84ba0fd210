"""Takes the values of one job out of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import cached_property
from typing import Any, Final, NamedTuple

from sqla_jobs.redaction.forms import escaped, forms, parts

MASK: Final = "[redacted]"
"""What stands for a value that is not shown."""

SHORTEST: Final = 3
"""Characters of a value that is looked for everywhere: a CVV has three. "1" or "no" would be found in every
line, and is taken out where the name of the argument, or of what it is in, is beside it."""
_BOUNDED: Final = 6
"""Characters below which it has to stand by itself: 123 is no part of 0x7f3a1234."""
_DIGITS: Final = 8
"""Digits of a number that is found however it is grouped: 4111 1111 1111 1111."""

# What SQLAlchemy and pydantic put into each of their messages: all of it goes, whatever it is. A value may be
# in there in a form that nobody thinks of, or cut in its middle.
_PARAMETERS: Final = re.compile(
    r"\[parameters: (?:(?s:(?:(?!\[parameters: ).)*?)\](?=\n\(Background on this error)|[^\n]*)"
)
_INPUT: Final = re.compile(r"\binput_value=[^\n]*, input_type=")

# Where somebody has left out the middle or the rest: SQLAlchemy, pydantic, reprlib, PostgreSQL, this library.
_CUT: Final = re.compile(r" \.\.\. \(\d+ characters truncated\) \.\.\. |\.\.\.|\u2026|(?=\n)|\Z")
_FRAGMENT: Final = 3
_FRAGMENT_OF_LINE: Final = 6


class _Forms(NamedTuple):
    """What is looked for."""

    anywhere: tuple[str, ...]
    beside: dict[str, set[str]]
    """Short ones, by the name that stands beside them."""
    digits: tuple[str, ...]
    escaped: dict[str, list[str]]
    """Patterns of texts, by a word that is in all that they match."""


class Redaction:
    """What is not to be shown of one job.

    Parameters:
        names: of the arguments.
        values: gives their values, each with the argument's name; called when a text is cleaned first.
        brief: take short values out wherever they stand: for a message of our own, which is no traceback.
    """

    def __init__(
        self,
        names: Collection[str],
        values: Callable[[], Iterable[tuple[str, Any]]],
        *,
        brief: bool = False,
    ) -> None:
        self.names = frozenset(names)
        self._values = values
        self._brief = brief

    def __repr__(self) -> str:
        return f"<Redaction of {', '.join(sorted(self.names))}>"

    def clean(self, text: str) -> str:
        """The text, with `MASK` for each value; nothing but `MASK` if that cannot be told."""
        try:
            return self._cleaned(text)
        except Exception:  # of a value's own __str__, or too many of them: rather nothing than too much
            return MASK

    def _cleaned(self, text: str) -> str:
        text = _PARAMETERS.sub(f"[parameters: {MASK}]", text)
        text = _INPUT.sub(f"input_value={MASK}, input_type=", text)
        lowered = text.lower()
        there = [form for form in self._forms.anywhere if form.lower() in lowered]
        short = [_bounded(form) for form in there if len(form) < _BOUNDED]
        patterns = [_bounded(form) for form in there if len(form) >= _BOUNDED]
        patterns += [r"[ -]?".join(digits) for digits in self._forms.digits]
        patterns += [each for word, many in self._forms.escaped.items() if word in lowered for each in many]
        # The short ones again: what they stood beside is gone now.
        text = _masked(_masked(text, [*patterns, *short]), short)
        for label, known in self._forms.beside.items():
            if label.lower() in lowered:
                text = _beside(label, known).sub(rf"\1{MASK}", text)
        return self._without_fragments(text)

    @cached_property
    def _forms(self) -> _Forms:
        anywhere: set[str] = set()
        digits: set[str] = set()
        patterns: dict[str, list[str]] = {}
        beside: dict[str, set[str]] = {}
        for name, value in self._values():
            for label, part in parts(value, name):
                if isinstance(part, str) and len(part) >= SHORTEST and (pattern := escaped(part)):
                    word = max(re.findall("[a-z0-9]*", part.lower()), key=len)
                    patterns.setdefault(word, []).append(pattern)
                for form in forms(part):
                    if not form:
                        continue
                    if (
                        len(form) >= SHORTEST and not (part is None or isinstance(part, bool))
                    ) or self._brief:
                        anywhere.add(form)
                    else:
                        beside.setdefault(label, set()).add(form)
                        beside.setdefault(name, set()).add(form)
                    plain = re.sub("[ -]", "", form)
                    if plain.isdecimal() and plain.isascii() and len(plain) >= _DIGITS:
                        digits.add(plain)
        return _Forms(tuple(sorted(anywhere, key=len, reverse=True)), beside, tuple(digits), patterns)

    def _without_fragments(self, text: str) -> str:
        """The text without the beginnings and ends of values that are cut off in it."""
        cleaned: list[str] = []
        begin = 0
        for cut in _CUT.finditer(text):
            at, end = cut.span()
            if at < begin:  # in what was taken out
                continue
            least = _FRAGMENT if at < end else _FRAGMENT_OF_LINE
            head = 0
            if text[max(begin, at - least) : at] in self._joined:
                head = max((_beginning(text, begin, at, form, least) for form in self._longer), default=0)
            cleaned += [text[begin : at - head], MASK if head else "", text[at:end]]
            begin = end
            if at < end and text[end : end + _FRAGMENT] in self._joined:
                tail = max((_end(text, end, form) for form in self._longer), default=0)
                cleaned.append(MASK if tail else "")
                begin += tail
        return "".join(cleaned) + text[begin:]

    @cached_property
    def _joined(self) -> str:
        return "\0".join(self._longer)

    @cached_property
    def _longer(self) -> tuple[str, ...]:
        return tuple(form for form in self._forms.anywhere if len(form) > _FRAGMENT)


def cleaning(redactions: Iterable[Redaction]) -> Callable[[str], str] | None:
    """Takes out of a text what is not to be shown of several jobs; None: nothing is."""
    several = tuple(redactions)

    def clean(text: str) -> str:
        for each in several:
            text = each.clean(text)
        return text

    return clean if several else None


def _masked(text: str, patterns: Iterable[str]) -> str:
    """The text, with `MASK` for all that any of them matches.

    Each is looked for in the text as it was: a name that is in an address must not leave the rest of it.
    """
    spans = sorted(each.span() for one in patterns for each in re.finditer(one, text, re.IGNORECASE))
    cleaned: list[str] = []
    past = -1
    for begin, end in spans:
        if begin >= past:
            cleaned += [text[max(past, 0) : begin], MASK]
        past = max(past, end)
    return "".join(cleaned) + text[max(past, 0) :]


def _bounded(form: str) -> str:
    pattern = re.escape(form)
    if len(form) >= _BOUNDED:
        return pattern
    before = r"(?<!\w)" if form[0].isalnum() else ""
    after = r"(?!\w)" if form[-1].isalnum() else ""
    return before + pattern + after


def _beside(label: str, short: Collection[str]) -> re.Pattern[str]:
    """``pin=1``, ``'pin': '1'``, ``"pin": 1``, ``pin = 1`` and the like."""
    values = "|".join(map(re.escape, sorted(short, key=len, reverse=True)))
    name = rf"(?<!\w){re.escape(label)}(?!\w)[\"'\\]*\s*(?:=>|=|:)\s*"
    return re.compile(rf"({name})b?[\"'\\]*(?:{values})[\"'\\]*(?!\w)", re.IGNORECASE)


def _beginning(text: str, begin: int, at: int, form: str, least: int) -> int:
    """How many characters before ``at`` are the beginning, not the whole, of a form; 0: below ``least``."""
    if at - begin < least:
        return 0
    for length in _places(form, text[at - least : at], least):
        if least <= length < len(form) and at - length >= begin and text.endswith(form[:length], begin, at):
            return length
    return 0


def _end(text: str, end: int, form: str) -> int:
    """How many characters from ``end`` on are the end, not the whole, of a form; 0: too few."""
    best = 0
    for past in _places(form, text[end : end + _FRAGMENT], _FRAGMENT):
        length = len(form) - past + _FRAGMENT
        if length < len(form) and length > best and text.startswith(form[past - _FRAGMENT :], end):
            best = length
    return best


def _places(form: str, piece: str, size: int) -> Iterator[int]:
    """Where in a form a piece of so many characters ends, the last place first."""
    if len(piece) < size:
        return
    at = form.rfind(piece)
    while at >= 0:
        yield at + size
        at = form.rfind(piece, 0, at + size - 1)
