"""What a job must not send: statements that end the transaction, told from those that only look so."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final

_SUSPECT: Final = re.compile(r"\b(?:commit|end|rollback|abort|prepare)\b", re.IGNORECASE)
_OPAQUE: Final = re.compile(
    r"""--[^\n]* | /\* |
    \bE'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" |
    (?<![\w$])(\$(?:[^\W\d]\w*)?\$).*?\1""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
_COMMENT_MARK: Final = re.compile(r"/\*|\*/")
# The END of a function body in SQL, where COMMIT is not allowed anyway.
_ATOMIC: Final = re.compile(r"\bcreate\s[^;]*?\bbegin\s+atomic\b.*?;\s*end\b", re.DOTALL | re.IGNORECASE)
_ENDS: Final = re.compile(
    r"(?:^|;)\s*(?:commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b",
    re.IGNORECASE,
)
_LASTS: Final = re.compile(r"(?:^|;)\s*set\s|\bset_config\b|\bon\s+commit\b", re.IGNORECASE)
_LONG: Final = 2000
_RELEASE: Final = re.compile(r'(?:^|;)\s*release\s+(?:savepoint\s+)?"?(\w+)', re.IGNORECASE)


def _remembered(judge: Callable[[str], bool]) -> Callable[[str], bool]:
    # SQLAlchemy sends the same texts again and again. One that is long is likely made with values in it.
    known = lru_cache(maxsize=2048)(judge)

    @wraps(judge)
    def judged(sql: str) -> bool:
        return known(sql) if len(sql) < _LONG else judge(sql)

    return judged


@_remembered
def ends_transaction(sql: str) -> bool:
    """Whether a statement in ``sql`` would end the transaction (ROLLBACK TO does not).

    Comments, quoted text and dollar-quoted bodies do not count.
    """
    return bool(_SUSPECT.search(sql) and _ENDS.search(_ATOMIC.sub(" ", _visible(sql))))


def releases(sql: str, savepoint: str) -> bool:
    """Whether a statement in ``sql`` releases the savepoint of that name."""
    return savepoint in sql and savepoint in _RELEASE.findall(sql)


@_remembered
def lasts(sql: str) -> bool:
    """Whether a statement in ``sql`` may do something that lasts until the transaction ends, and no longer.

    SET LOCAL and the like, which the driver's own cursor can hide, and a temporary table ON COMMIT DROP.
    """
    return bool(_LASTS.search(sql))


def _visible(sql: str) -> str:
    seen: list[str] = []
    at = 0
    while opaque := _OPAQUE.search(sql, at):
        seen.append(sql[at : opaque.start()])
        at = _comment_end(sql, opaque.end()) if opaque[0] == "/*" else opaque.end()
    return " ".join([*seen, sql[at:]])


def _comment_end(sql: str, at: int) -> int:
    depth = 1  # PostgreSQL's comments nest
    for mark in _COMMENT_MARK.finditer(sql, at):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return mark.end()
    return len(sql)
