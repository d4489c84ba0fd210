"""What a check has found."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Severity = Literal["error", "warning", "info"]

MOST: Final = 20
"""Findings of one kind; with more the last one says how many there are besides."""

CODES: Final[Mapping[str, tuple[Severity, ...]]] = {
    "tables-missing": ("error",),
    "tables-unmarked": ("error",),
    "revision-behind": ("error",),
    "revision-ahead": ("warning",),
    "column-missing": ("error",),
    "column-differs": ("error",),
    "column-unknown": ("error",),
    "default-differs": ("error",),
    "index-missing": ("error", "warning"),
    "index-differs": ("error",),
    "index-invalid": ("error", "info"),
    "constraint-missing": ("error",),
    "constraint-differs": ("error",),
    "constraint-not-valid": ("warning",),
    "definitions-unread": ("warning",),
    "privilege-missing": ("error",),
    "sessions-hidden": ("info",),
    "read-only": ("error",),
    "fsync-off": ("warning",),
    "synchronous-commit-off": ("warning",),
    "clock-skew": ("info", "warning"),
    "autovacuum-off": ("error",),
    "autovacuum-late": ("warning",),
    "dead-rows": ("warning",),
    "index-bloat": ("warning",),
    "long-transaction": ("warning",),
    "idle-in-transaction": ("warning",),
    "prepared-transaction": ("warning",),
    "replication-slot": ("warning",),
    "connections-short": ("error", "warning"),
    "pool-small": ("error",),
    "pooler": ("info", "warning"),
    "prepare-threshold": ("warning",),
    "no-worker": ("error", "warning"),
    "worker-dead": ("warning", "info"),
    "job-overdue": ("warning",),
    "job-ownerless": ("warning",),
    "job-crashes": ("warning",),
    "task-unknown": ("warning",),
    "queue-unserved": ("warning",),
    "queue-paused": ("warning",),
    "queue-waits": ("warning",),
    "schedule-orphaned": ("warning",),
    "schedule-unreadable": ("error",),
    "schedule-untimed": ("warning",),
    "check-failed": ("warning",),
    "check-timeout": ("warning",),
}
"""Every code with the severities that it may have; docs/doctor.md says more of each."""

_ORDER: Final[tuple[Severity, ...]] = ("error", "warning", "info")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or worth knowing."""

    code: str
    """One of `CODES`; it keeps its meaning from version to version."""
    severity: Severity
    found: str
    """What was found and why it matters, for people."""
    cure: str
    """SQL, or a command, that can be copied; or what to do where there is no such thing."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """The same for programs; what JSON can hold."""

    def __post_init__(self) -> None:
        assert self.severity in CODES[self.code], self

    @property
    def rank(self) -> int:
        """0 for an error, 1 for a warning, 2 for an info."""
        return _ORDER.index(self.severity)

    def as_json(self) -> dict[str, Any]:
        """The finding as an object of JSON."""
        return {
            "code": self.code,
            "severity": self.severity,
            "found": self.found,
            "cure": self.cure,
            "data": dict(self.data),
        }


def literal(value: str) -> str:
    """A text as SQL; whatever is in it, what is copied from a terminal means the same."""
    quoted = value.replace("'", "''")
    if value.isprintable() and "\\" not in value:
        return f"'{quoted}'"
    told = "".join(_escaped(each) for each in quoted)
    return f"E'{told}'"


def _escaped(character: str) -> str:
    if character == "\\":
        return "\\\\"
    return character if character.isprintable() else f"\\U{ord(character):08X}"


def identifier(name: str) -> str:
    """A name as SQL, always quoted."""
    return '"{}"'.format(name.replace('"', '""'))


def command(*words: str, schema: str | None = None) -> str:
    """A command of ours, to be copied to a shell."""
    where = ("--schema", schema) if schema is not None else ()
    return shlex.join(["sqla-jobs", *words, *where])


def counted(number: float, what: str = "job", *, more: bool = False) -> str:
    """So many of a thing, for people; ``more``: or more."""
    return f"{number:,.0f}{' or more' if more else ''} {what}{'' if number == 1 and not more else 's'}"


def span(seconds: float) -> str:
    """A length of time, for people."""
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
