"""Retry, cancel or delete many jobs, a bounded batch at a time."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Acted:
    """What became of a batch."""

    done: int
    passed: dict[str, int] = field(default_factory=dict)
    """How many were left as they were, by the reason: ``running``, ``busy``, ``finished``, …"""
    next: str | None = None
    """Where to go on; None: nothing follows."""
