"""The worker processes, and what they run."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from sqla_jobs import statements
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.inspection.rows import loaded
from sqla_jobs.lifecycle.sent import execute
from sqla_jobs.models import Job, JobMixin

MOST_WORKERS: Final = 1_000


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
    """As its last heartbeat said; of the fast lane there is nothing, for it is over in an instant."""


@verb
def list_workers(
    session: Sync, model: type[JobMixin] = Job, *, now: dt.datetime | None = None
) -> list[WorkerRow]:
    """The worker processes, in the order in which they came; reads only. At most 1,000.

    Parameters:
        now: what the time is taken to be, for ``alive``; None: the database's clock.
    """
    own = session_of(session, "list_workers")
    found = execute(own, model, statements.all_workers(model, MOST_WORKERS), now=now)
    return [_worker(row) for row in found]


def _worker(row: Any) -> WorkerRow:
    running = loaded(row.running)
    return WorkerRow(
        id=row.id,
        host=row.host,
        pid=row.pid,
        version=row.version,
        queues=_texts(row.queues),
        threads=row.threads,
        started_at=row.started_at,
        heartbeat_at=row.heartbeat_at,
        heartbeat_limit=dt.timedelta(seconds=row.heartbeat_limit),
        alive=row.alive,
        died_at=row.died_at,
        tasks=_texts(row.tasks),
        running=[
            _running(each)
            for each in (running if isinstance(running, list) else [])
            if isinstance(each, dict) and type(each.get("id")) is int
        ],
    )


def _texts(text: str | None) -> list[str] | None:
    names = loaded(text)
    return [each for each in names if isinstance(each, str)] if isinstance(names, list) else None


def _running(entry: dict[str, Any]) -> RunningRow:
    task, progress = entry.get("task"), entry.get("progress")
    try:
        told = dt.datetime.fromisoformat(entry["since"])
        since = None if told.tzinfo is None else told.astimezone(dt.timezone.utc)
    except (KeyError, TypeError, ValueError, OverflowError):
        since = None
    return RunningRow(
        job_id=entry["id"],
        task=task if isinstance(task, str) else None,
        since=since,
        progress=progress if isinstance(progress, dict) else None,
    )
