"""Bytes of a terminal -> names of keys. Pure: knows no terminal."""

from __future__ import annotations

import codecs
import re
from typing import Final

_FINAL: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|O[ -~]|[^\[O\x1b])", re.DOTALL)
"""One whole sequence: CSI, SS3, or a key with Alt."""
_NAMES: Final = {
    **{f"\x1b{kind}{letter}": name for kind in "[O" for letter, name in
       {"A": "up", "B": "down", "C": "right", "D": "left", "H": "home", "F": "end"}.items()},
    **{f"\x1b[{code}~": name for code, name in
       {1: "home", 3: "delete", 4: "end", 5: "pageup", 6: "pagedown", 7: "home", 8: "end"}.items()},
    "\x1b[Z": "backtab",
    "\x1bOM": "enter",
    "\t": "tab",
    "\r": "enter",
    "\n": "enter",
    "\x7f": "backspace",
    "\b": "backspace",
    "\x15": "clear",
    "\x0c": "redraw",
    "\x04": "pagedown",
    "\x06": "pagedown",
    "\x02": "pageup",
    "\x0e": "down",
    "\x10": "up",
}  # fmt: skip
_LONGEST: Final = 64
"""Characters of a sequence that is waited for; a longer one is none."""


class Keys:
    """Decodes what is typed, however it is cut into pieces.

    A key is its character, or a name: ``up``, ``enter``, ``escape``. What it does not know, with Alt or from
    a mouse, gives nothing: its letters must not be taken for keys of their own.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._rest = ""

    @property
    def waits(self) -> bool:
        """Whether a sequence has begun: if nothing follows within a moment, it was the escape key."""
        return bool(self._rest)

    def feed(self, data: bytes) -> list[str]:
        """The keys that are complete with this."""
        self._rest += self._decoder.decode(data)
        found = []
        while self._rest:
            if self._rest[0] != "\x1b":
                found.append(self._rest[0])
                self._rest = self._rest[1:]
            elif match := _FINAL.match(self._rest):
                found.append(match[0])
                self._rest = self._rest[match.end() :]
            elif self._rest.startswith("\x1b\x1b"):
                found.append("\x1b")
                self._rest = self._rest[1:]
            elif len(self._rest) > _LONGEST:
                self._rest = ""
            else:
                break
        return [name for each in found if (name := _name(each))]

    def flush(self) -> list[str]:
        """Nothing has followed."""
        rest, self._rest = self._rest, ""
        return ["escape"] if rest == "\x1b" else []


def _name(text: str) -> str | None:
    if text == "\x1b":
        return "escape"
    return _NAMES.get(text) or (text if text.isprintable() else None)
