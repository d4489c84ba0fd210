"""Jobs in one Session, at times that the test says."""

from __future__ import annotations

from collections.abc import Sequence
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


def employ(session: Session, worker_id: int = WORKER) -> bool:
    """Give a worker id its row, without which it claims nothing; False: it has one."""
    made: Any = session.execute(
        text(
            "INSERT INTO sqla_jobs_workers (id, host, pid, version, threads, heartbeat_limit) "
            "OVERRIDING SYSTEM VALUE SELECT :id, 'h', 1, 'v', 1, '1 min' "
            "WHERE NOT EXISTS (SELECT FROM sqla_jobs_workers WHERE id = :id)"
        ),
        {"id": worker_id},
    )
    return bool(made.rowcount)


def claim(session: Session, *queues: str, limit: int = 1, now: datetime = NOW) -> list[Claimed]:
    return claim_as(WORKER, session, queues, limit=limit, now=now)


def claim_as(
    worker_id: int,
    session: Session,
    queues: Sequence[str] | None = None,
    *,
    limit: int = 1,
    now: datetime | None = None,
) -> list[Claimed]:
    """Claim for a worker that exists for the length of the claim."""
    came = employ(session, worker_id)
    jobs = lifecycle.claim(session, Job, worker_id, queues, limit=limit, now=now)
    if came:
        session.execute(text("DELETE FROM sqla_jobs_workers WHERE id = :id"), {"id": worker_id})
    return jobs


def claimed(session: Session, **values: Any) -> Claimed:
    add(session, **values)
    (job,) = claim(session)
    return job


def row(session: Session, job: Job | Claimed) -> Any:
    return session.execute(text("SELECT * FROM sqla_jobs WHERE id = :id"), {"id": job.id}).one()
