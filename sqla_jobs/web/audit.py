"""One line for each thing that somebody does in the dashboard, on the logger ``sqla_jobs.audit``."""

from __future__ import annotations

import logging
import unicodedata
from typing import Final

log: Final = logging.getLogger("sqla_jobs.audit")
_LONGEST: Final = 500
LONGEST_ACTION: Final = 8_000
"""Characters: more than the ids of all jobs that can be ticked, so that none is hidden behind the others."""


def note(who: str, where: str, what: str, how_many: int | str) -> None:
    """Say who did what, and to how many.

    Parameters:
        who: what ``authorize`` calls them, else their address.
        where: their address.
        what: e.g. ``"retry jobs where task=mail"``.
    """
    clean = {
        "who": escaped(who),
        "address": escaped(where),
        "action": escaped(what, LONGEST_ACTION),
        "count": how_many if isinstance(how_many, int) else escaped(how_many),
    }
    log.info(
        "dashboard: %s (%s) %s: %s",
        clean["who"], clean["address"], clean["action"], clean["count"], extra={"audit": clean},
    )  # fmt: skip


def escaped(text: str, longest: int = _LONGEST) -> str:
    """On one line, and as it looks: what ends a line, moves the cursor or turns the direction is spelled."""
    if len(text) > longest:
        text = f"{text[:longest]}…"
    return "".join(_spelled(each) for each in text)


def _spelled(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if unicodedata.category(character)[0] == "C" or unicodedata.category(character) in ("Zl", "Zp"):
        return character.encode("unicode_escape", "surrogatepass").decode("ascii")
    return character
