"""Jobs in one Session, at times that the test says."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Claimed

NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
WORKER = 77


def add(session: Session, task: str = "t", **values: Any) -> Job:
    return lifecycle.enqueue(session, Job(task=task, **{"state": "queued", "run_at": NOW, **values}))


def claim(session: Session, *queues: str, limit: int = 1, now: datetime = NOW) -> list[Claimed]:
    return lifecycle.claim(session, Job, WORKER, queues, limit=limit, now=now)


def claimed(session: Session, **values: Any) -> Claimed:
    add(session, **values)
    (job,) = claim(session)
    return job


def row(session: Session, job: Job | Claimed) -> Any:
    return session.execute(text("SELECT * FROM sqla_jobs WHERE id = :id"), {"id": job.id}).one()
