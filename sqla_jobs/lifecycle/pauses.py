"""The verbs of a queue: pause, resume; and which of them are open."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.statements import Filter


def pause(session: Session, model: Model, queue: str, *, now: dt.datetime | None = None) -> bool:
    """Let no job of a queue be begun; False: it is so already."""
    found = execute(session, model, statements.pause(model), p_name=queue, now=now).first()
    return found is not None


def resume(session: Session, model: Model, queue: str) -> bool:
    """Let the jobs of a queue be begun again, and tell all workers of them; False: it was not paused."""
    found = execute(session, model, statements.resume(model), p_name=queue).first()
    if found is not None:
        wakeup.announce(session, model, [wakeup.queued(queue)])
    return found is not None


def paused(session: Session | Connection, model: Model) -> frozenset[str]:
    """The queues of which no job is to be begun."""
    return frozenset(row[0] for row in execute(session, model, statements.paused(model)))


def open_queues(
    session: Session | Connection,
    model: Model,
    queues: Sequence[str] | None,
    closed: Collection[str],
    only: Filter | None = None,
) -> list[str]:
    """Those of the queues that are not closed, in the order in which they are to be looked at.

    Parameters:
        queues: None or empty: all that have queued jobs, the one whose first job is the next one first.
        only: those that have jobs that satisfy it; not asked of a list of queues.
    """
    if queues:
        return [queue for queue in queues if queue not in closed]
    found = execute(session, model, statements.open_queues(model, only), closed=list(closed))
    return [row[0] for row in found]
