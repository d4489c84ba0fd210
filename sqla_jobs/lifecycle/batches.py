"""The verbs of whoever looks after jobs, for many that were chosen."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.errors import DuplicateJob
from sqla_jobs.lifecycle.cancels import expire
from sqla_jobs.lifecycle.deletes import ANY_STATE, remove_seized
from sqla_jobs.lifecycle.retries import Retried, retry
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.outcome import JobState


class Batch(NamedTuple):
    """What became of jobs."""

    done: set[int]
    passed: dict[int, str]
    """Why nothing was written of these: ``busy`` (locked by somebody), ``gone``, ``changed`` (no longer in a
    state that was asked for), ``running``, ``finished``, ``queued``, ``succeeded``, ``duplicate`` (another
    job holds its unique key), ``referenced`` (by a foreign key)."""


def cancel_many(
    session: Session,
    model: Model,
    ids: Sequence[int],
    *,
    states: Collection[str] = ANY_STATE,
    now: dt.datetime | None = None,
) -> Batch:
    """Cancel jobs that wait, and ask for it of those that run.

    Parameters:
        states: only those that are in one of these when they are locked.
    """
    seized, passed = _seize(session, model, ids, states)
    passed |= {row.id: "finished" for row in seized if JobState(row.state).is_final}
    chosen = [row for row in seized if row.id not in passed]
    done = [row.id for row in chosen]
    if done:
        execute(session, model, statements.cancel_seized(model), ids=done, now=now)
        expire(session, model, done)
        runs = [row for row in chosen if row.state == JobState.RUNNING and row.worker_id is not None]
        wakeup.announce(session, model, [wakeup.cancel_of(row.worker_id, row.id, row.claim) for row in runs])
    return Batch(set(done), passed)


def retry_many(
    session: Session,
    model: Model,
    ids: Sequence[int],
    *,
    states: Collection[str] = ANY_STATE,
    now: dt.datetime | None = None,
) -> Batch:
    """Queue jobs that have failed, were cancelled, or wait for their time.

    One that takes a unique key again is queued by itself, and waits for it as an enqueue does.

    Parameters:
        states: as for `cancel_many`.
    """
    seized, passed = _seize(session, model, ids, states)
    left_alone = (JobState.QUEUED, JobState.RUNNING, JobState.SUCCEEDED)
    passed |= {row.id: str(row.state) for row in seized if row.state in left_alone}
    chosen = [row for row in seized if row.id not in passed]
    keyed = [row for row in chosen if row.unique_key is not None and row.state != JobState.SCHEDULED]
    alone = {row.id for row in keyed}
    done = {row.id for row in chosen} - alone
    if done:
        execute(session, model, statements.retry_seized(model), ids=sorted(done), now=now)
        expire(session, model, done)
        queues = {row.queue for row in chosen if row.id in done}
        wakeup.announce(session, model, [wakeup.queued(queue) for queue in sorted(queues)])
    # In the order of their keys: two who do so at once would wait for each other.
    for row in sorted(keyed, key=lambda row: str(row.unique_key)):
        try:
            became = retry(session, model, row.id, now=now)
        except DuplicateJob:
            passed[row.id] = "duplicate"
        else:
            assert became is Retried.RETRIED
            done.add(row.id)
    return Batch(done, passed)


def delete_many(
    session: Session, model: Model, ids: Sequence[int], *, states: Collection[str] = ANY_STATE
) -> Batch:
    """Delete jobs that do not run.

    Parameters:
        states: as for `cancel_many`.
    """
    seized, passed = _seize(session, model, ids, states, to_delete=True)
    passed |= {row.id: "running" for row in seized if row.state == JobState.RUNNING}
    chosen = [row.id for row in seized if row.id not in passed]
    done = remove_seized(session, model, chosen) if chosen else set()
    passed |= {each: "referenced" for each in chosen if each not in done}
    return Batch(done, passed)


def _seize(
    session: Session, model: Model, ids: Sequence[int], states: Collection[str], *, to_delete: bool = False
) -> tuple[list[Any], dict[int, str]]:
    """Lock jobs; returns those, and why the others are not among them."""
    statement = statements.seize_all(model, to_delete)
    seized = execute(session, model, statement, ids=list(ids), states=list(states)).all()
    missing = set(ids) - {row.id for row in seized}
    passed: dict[int, str] = dict.fromkeys(missing, "gone")
    if missing:
        for job_id, state in execute(session, model, statements.states_of(model), ids=sorted(missing)):
            passed[job_id] = "busy" if state in states else "changed"
    return list(seized), passed
