"""The verb for jobs of which nothing is to be left."""

from __future__ import annotations

from enum import Enum

from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.errors import JobNotFound
from sqla_jobs.lifecycle.cancels import expire
from sqla_jobs.lifecycle.removals import Removal
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.outcome import JobState

ANY_STATE = tuple(each.value for each in JobState)


class Deleted(str, Enum):
    """What a `delete` did."""

    DELETED = "deleted"
    """The job's row is gone."""
    RUNNING = "running"
    """It runs: nothing was written. A cancel ends it."""
    BUSY = "busy"
    """It is being claimed, finished, referred to or run in somebody's own transaction: ask again."""
    REFERENCED = "referenced"
    """A row refers to it by a foreign key that does not let it go: nothing was written."""

    __str__ = str.__str__


def delete(session: Session, model: Model, job_id: int) -> Deleted:
    """Delete one job that does not run; never waits for anybody who has locked it.

    Raises:
        JobNotFound: there is none of that id.
    """
    row = execute(
        session, model, statements.seize_all(model, True), ids=[job_id], states=list(ANY_STATE)
    ).first()
    if row is None:
        if execute(session, model, statements.glance(model), p_id=job_id).scalar() is None:
            raise JobNotFound(job_id)
        return Deleted.BUSY
    if row.state == JobState.RUNNING:
        return Deleted.RUNNING
    return Deleted.DELETED if remove_seized(session, model, [job_id]) else Deleted.REFERENCED


def remove_seized(session: Session, model: Model, ids: list[int]) -> set[int]:
    """Delete jobs that the transaction has locked, but for those that foreign keys keep; returns which."""
    statement = statements.delete_seized(model)
    gone = Removal(session, model).remove(
        ids, lambda some: execute(session, model, statement, ids=some).scalars()
    )
    expire(session, model, gone)
    return gone
