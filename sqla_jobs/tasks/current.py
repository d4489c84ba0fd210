"""The job that runs right now, as it sees itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from sqla_jobs.errors import JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.policy import RetryPolicy


@dataclass(frozen=True)
class RunningJob:
    """One run of a job, as the job itself and the hooks see it; not mapped."""

    id: int
    task: str
    queue: str
    attempt: int
    max_attempts: int
    arguments: Mapping[str, Any]
    """By name, as the row holds them: plain JSON."""
    enqueued_at: dt.datetime


def running(job: Claimed, policy: RetryPolicy, *, attempt: int | None = None) -> RunningJob:
    """What a claimed job shows of itself while it runs."""
    return RunningJob(
        id=job.id,
        task=job.task,
        queue=job.queue,
        attempt=job.attempt if attempt is None else attempt,
        max_attempts=policy.max_attempts if job.max_attempts is None else job.max_attempts,
        arguments=deepcopy(job.arguments),
        enqueued_at=job.created_at,
    )


_current: ContextVar[RunningJob] = ContextVar("sqla_jobs_current_job")


def current_job() -> RunningJob:
    """The job that runs in this thread or asyncio task.

    Raises:
        JobsError: none does.
    """
    job = _current.get(None)
    if job is None:
        raise JobsError(
            "current_job() was called where no job runs; expected a call in a task that a worker or work_once"
            " runs, and in its own thread: a thread that a task starts runs no job"
        )
    return job


@contextmanager
def as_current(job: RunningJob) -> Iterator[None]:
    """Make ``job`` the one that ``current_job()`` gives."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)
