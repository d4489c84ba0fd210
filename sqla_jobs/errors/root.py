"""The root of all errors, and how they show a value."""

from __future__ import annotations

import copyreg
import reprlib
from collections.abc import Callable
from typing import Any


class _Shortener(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:  # noqa: ARG002 - what reprlib calls
        # repr() itself refuses an int of more than sys.get_int_max_str_digits() digits
        if x.bit_length() > 1000:
            return f"<int of {x.bit_length()} bits>"
        return repr(x)


_shortener = _Shortener()
_shortener.maxlevel = 4
_shortener.maxstring = _shortener.maxother = 160
_shortener.maxlist = _shortener.maxtuple = _shortener.maxdict = _shortener.maxset = 8


def shown(value: object) -> str:
    """`repr(value)` for a message: at most 200 characters, and never an error of its own."""
    text = _shortener.repr(value)
    return text if len(text) <= 200 else f"{text[:197]}..."


class JobsError(Exception):
    """The base of every error of this library.

    What an error was made of stays on it as attributes, and it can be pickled and copied.
    """

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]:
        # Exception's own way calls the constructor with the finished message, which takes the pieces.
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]
