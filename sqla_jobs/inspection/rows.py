"""What is shown of a job."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from sqla_jobs.outcome import JobState
from sqla_jobs.redaction import MASK, mask


@dataclass(frozen=True)
class Count:
    """A number of jobs, counted up to a limit."""

    number: int
    exact: bool = True
    """False: there are at least so many."""

    def __str__(self) -> str:
        return f"{self.number:,}" + ("" if self.exact else "+")

    def __add__(self, other: Count) -> Count:
        return Count(self.number + other.number, self.exact and other.exact)


@dataclass(frozen=True, kw_only=True)
class JobRow:
    """A job among others. Moments that Python has no datetime for are its first or its last."""

    id: int
    task: str
    queue: str
    priority: int
    state: JobState
    run_at: dt.datetime
    attempt: int
    max_attempts: int | None
    crashes: int
    worker_id: int | None
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    cancel_requested_at: dt.datetime | None
    progress: dict[str, Any] | None
    error: str | None
    """Class and message of the last attempt's error in one line; None: it has none, or has succeeded."""
    schedule_id: int | None
    tick_at: dt.datetime | None
    meta: dict[str, Any] | None

    @property
    def wait(self) -> dt.timedelta | None:
        """From when it could have been begun to the begin of the last attempt; see `Job.wait`."""
        if self.started_at is None or self.started_at < (ready := max(self.run_at, self.created_at)):
            return None
        return self.started_at - ready

    @property
    def duration(self) -> dt.timedelta | None:
        """From the begin of the last attempt to the end of the job; None: no end, or never begun."""
        if self.finished_at is None or self.started_at is None:
            return None
        return self.finished_at - self.started_at


@dataclass(frozen=True, kw_only=True)
class JobDetail(JobRow):
    """All of a job. Arguments that are not to be seen are ``"[redacted]"``."""

    arguments: dict[str, Any]
    attempts: list[dict[str, Any]]
    """As stored: ``attempt``, ``started_at``, ``finished_at``, ``worker_id``, and what it raised: ``error``
    (the class), ``message``, ``traceback``."""
    result: Any
    timeout: dt.timedelta | None
    unique_key: str | None
    unique_scope: str | None
    unique_held: bool
    limit_key: str | None
    schedule: str | None
    """The name of its schedule; None: it has none, or that is gone."""
    worker: str | None
    """``host:pid``; None: it has none, or that is gone."""
    claim: int

    @property
    def redacted(self) -> frozenset[str]:
        """The names of the arguments that its row says are not to be seen."""
        return redacted(self.meta)


@dataclass(frozen=True)
class Page:
    """Some jobs of a list."""

    jobs: tuple[JobRow, ...]
    next: str | None
    """Where to go on; None: nothing follows."""
    looked_at: int
    """Among at most how many jobs these were looked for."""
    complete: bool
    """False: the look came to its bound before there were as many as were asked for; go on with ``next``."""


def row_of(row: Any) -> JobRow:
    """A row of ``statements.shown_columns``."""
    return JobRow(**_shown(row))


def detail_of(row: Any, hidden: Iterable[str]) -> JobDetail:
    """A row of ``statements.detail``.

    Parameters:
        hidden: arguments that are not to be seen, beside those that the row names.
    """
    shown = _shown(row)
    attempts = loaded(row.attempts)
    return JobDetail(
        **shown,
        arguments=_masked(loaded(row.arguments), redacted(shown["meta"]) | set(hidden)),
        attempts=[each for each in attempts if isinstance(each, dict)] if isinstance(attempts, list) else [],
        result=loaded(row.result),
        timeout=None if row.timeout is None else dt.timedelta(seconds=row.timeout),
        unique_key=row.unique_key,
        unique_scope=row.unique_scope,
        unique_held=row.unique_held,
        limit_key=row.limit_key,
        schedule=row.schedule,
        worker=None if row.host is None else f"{row.host}:{row.pid}",
        claim=row.claim,
    )


def loaded(text: str | None) -> Any:
    """JSON of a row; the begin of its text if Python cannot read it: numbers may have any length."""
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text[:1000]


def redacted(meta: Any) -> frozenset[str]:
    """The names of the arguments that a row says are not to be seen."""
    names = meta.get("redact") if isinstance(meta, dict) else None
    return (
        frozenset(each for each in names if isinstance(each, str)) if isinstance(names, list) else frozenset()
    )


def _shown(row: Any) -> dict[str, Any]:
    progress, meta = loaded(row.progress), loaded(row.meta)
    return {
        "id": row.id,
        "task": row.task,
        "queue": row.queue,
        "priority": row.priority,
        "state": JobState(row.state),
        "run_at": row.run_at,
        "attempt": row.attempt,
        "max_attempts": row.max_attempts,
        "crashes": row.crashes,
        "worker_id": row.worker_id,
        "created_at": row.created_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "cancel_requested_at": row.cancel_requested_at,
        "progress": progress if isinstance(progress, dict) else None,
        "error": None if row.error is None else " ".join(row.error.split()),
        "schedule_id": row.schedule_id,
        "tick_at": row.tick_at,
        "meta": meta if isinstance(meta, dict) else None,
    }


def _masked(arguments: Any, names: Collection[str]) -> dict[str, Any]:
    if not isinstance(arguments, dict):  # it is more than Python can read
        return {"(not readable)": MASK if names else arguments}
    return mask(arguments, names)
