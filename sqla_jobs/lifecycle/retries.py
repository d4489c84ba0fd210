"""The verb for jobs that are over, or wait, and shall run now."""

from __future__ import annotations

import datetime as dt
from enum import Enum

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.errors import DuplicateJob, JobNotFound
from sqla_jobs.lifecycle.cancels import expire
from sqla_jobs.lifecycle.sent import Model, execute, target
from sqla_jobs.outcome import JobState

_KEY = "uq_sqla_jobs_unique_key"


class Retried(str, Enum):
    """What a `retry` did."""

    RETRIED = "retried"
    """The job was over, or waited for its time: it is ``queued`` now, with all its attempts before it."""
    QUEUED = "queued"
    """It is ``queued`` already: nothing was written."""
    RUNNING = "running"
    """It runs: nothing was written."""
    SUCCEEDED = "succeeded"
    """It has succeeded, and was not to run again: nothing was written."""
    BUSY = "busy"
    """It is being claimed, finished or run in somebody's own transaction: nothing was written, ask again."""

    __str__ = str.__str__


def retry(
    session: Session, model: Model, job_id: int, *, again: bool = False, now: dt.datetime | None = None
) -> Retried:
    """Queue one job that is over, or waits for its time; never waits for anybody who has locked it.

    Parameters:
        again: also if it has succeeded.

    Raises:
        JobNotFound: there is none of that id.
        DuplicateJob: another job holds its unique key; the transaction is as it was.
    """
    row = execute(session, model, statements.stopped(model), p_id=job_id).first()
    if row is None:
        if execute(session, model, statements.glance(model), p_id=job_id).scalar() is None:
            raise JobNotFound(job_id)
        return Retried.BUSY
    state = JobState(row.state)
    if state in (JobState.QUEUED, JobState.RUNNING) or (state is JobState.SUCCEEDED and not again):
        return Retried(state.value)
    statement = statements.retry(model)
    if row.unique_key is None or state is JobState.SCHEDULED:
        execute(session, model, statement, p_id=job_id, now=now)
    else:
        connection = session.connection(bind_arguments=target(model))
        try:
            with connection.begin_nested():
                execute(connection, model, statement, p_id=job_id, now=now)
        except IntegrityError as error:
            if not is_duplicate(error):
                raise
            holder = execute(session, model, statements.holders(model), p_keys=[row.unique_key]).scalar()
            raise DuplicateJob(row.unique_key, holder, job_id) from error
    expire(session, model, [job_id])
    wakeup.announce(session, model, [wakeup.queued(row.queue)])
    return Retried.RETRIED


def is_duplicate(error: IntegrityError) -> bool:
    """Whether the server has refused a row because another job holds its unique key."""
    return getattr(getattr(error.orig, "diag", None), "constraint_name", None) == _KEY
