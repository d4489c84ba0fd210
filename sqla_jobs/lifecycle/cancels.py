"""The verb for jobs that are not wanted any more."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from enum import Enum
from typing import Any

from sqlalchemy.orm import Session
from sqlalchemy.orm.util import identity_key

from sqla_jobs import statements, wakeup
from sqla_jobs.errors import JobNotFound
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.outcome import JobState


class Cancelled(str, Enum):
    """What a `cancel` did."""

    CANCELLED = "cancelled"
    """The job waited, and will not run."""
    REQUESTED = "requested"
    """The job runs: its worker interrupts it. It is ``succeeded`` if it comes to its end before that."""
    FINISHED = "finished"
    """It was over already."""
    BUSY = "busy"
    """It is being claimed, finished or run in somebody's own transaction: nothing was written, ask again."""

    __str__ = str.__str__


def cancel(session: Session, model: Model, job_id: int, *, now: dt.datetime | None = None) -> Cancelled:
    """Cancel one job; never waits for anybody who has locked it.

    Raises:
        JobNotFound: there is none of that id.
    """
    row = execute(session, model, statements.seize(model), p_id=job_id).first()
    if row is None:
        found = execute(session, model, statements.glance(model), p_id=job_id).scalar()
        if found is None:
            raise JobNotFound(job_id)
        return Cancelled.FINISHED if JobState(found).is_final else Cancelled.BUSY
    if JobState(row.state).is_final:
        return Cancelled.FINISHED
    execute(session, model, statements.cancel(model), p_id=job_id, now=now)
    expire(session, model, [job_id])
    if row.state != JobState.RUNNING:
        return Cancelled.CANCELLED
    if row.worker_id is not None:
        wakeup.ask_to_cancel(session, model, row.worker_id, job_id, row.claim)
    return Cancelled.REQUESTED


def cancel_waiting(
    session: Session,
    model: Model,
    *,
    queue: str | None = None,
    task: str | None = None,
    now: dt.datetime | None = None,
) -> int:
    """Cancel all jobs that wait, due or not, of a queue or a task or both; returns how many.

    Those that run, or are locked because they are about to, are left alone.
    """
    session.flush()
    found = execute(session, model, statements.cancel_waiting(model), p_queue=queue, p_task=task, now=now)
    ids = list(found.scalars())
    expire(session, model, ids)
    return len(ids)


def expire(session: Session, model: Model, ids: Iterable[int]) -> None:
    """What the Session has loaded of these rows is not true any more."""
    here: Any = session.identity_map
    for job_id in ids:
        if (job := here.get(identity_key(model, job_id))) is not None:
            session.expire(job)
