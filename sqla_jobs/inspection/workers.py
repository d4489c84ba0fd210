"""The worker processes, and what they run."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class RunningRow:
    """A job that a worker says it runs."""

    job_id: int
    task: str | None
    since: dt.datetime | None
    progress: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class WorkerRow:
    """A worker process; one that stopped has no row, one that died has one for a minute."""

    id: int
    host: str
    pid: int
    version: str
    queues: list[str] | None
    """In strict order; None: any queue."""
    threads: int
    started_at: dt.datetime
    heartbeat_at: dt.datetime
    heartbeat_limit: dt.timedelta
    alive: bool
    """It has not been found dead, and has given a heartbeat within its limit."""
    died_at: dt.datetime | None
    tasks: list[str] | None
    """That it knows; None: it does not say."""
    running: list[RunningRow]
