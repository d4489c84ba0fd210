"""The verbs of a job: enqueue, claim or take, finish, promote; and what they know of its row."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import statements, wakeup
from sqla_jobs.errors import ArgumentsNotLoadable
from sqla_jobs.lifecycle.pauses import open_queues, paused
from sqla_jobs.lifecycle.sent import LeftOut, Model, execute, fetch, left_out, selection
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState, Outcome
from sqla_jobs.statements import Filter

JobT = TypeVar("JobT", bound=JobMixin)


class Claimed(NamedTuple):
    """A job's row as it was when it was claimed, with the claim's fencing number.

    A tuple, since there is one for each job: a frozen dataclass of so many fields takes five times as long.
    """

    id: int
    task: str
    arguments: dict[str, Any]
    queue: str
    priority: int
    attempt: int
    max_attempts: int | None
    claim: int
    worker_id: int | None
    crashes: int
    run_at: dt.datetime
    created_at: dt.datetime
    started_at: dt.datetime | None
    timeout: float | None = None
    """The row's own, in seconds."""
    meta: str | None = None
    """The JSON of what the row says beside its call; None: nothing."""
    unreadable: ArgumentsNotLoadable | None = None
    """Why ``arguments`` are empty: what the row holds is no JSON that Python can read."""


def claimed(row: Any) -> Claimed:
    """A row of the columns in ``statements.CLAIMED``."""
    job_id, task, text, *rest = row[: len(statements.CLAIMED)]
    try:
        return Claimed(job_id, task, json.loads(text), *rest)
    except (ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        why = ArgumentsNotLoadable(task, None, text, reason)
        return Claimed(job_id, task, {}, *rest)._replace(unreadable=why)


@dataclass(frozen=True)
class Mark:
    """The last job that was claimed of a queue: where to go on, as long as nothing may be before it."""

    priority: int
    run_at: dt.datetime
    id: int

    @classmethod
    def at(cls, job: Claimed) -> Mark:
        """The mark that a claim of this job leaves."""
        return cls(job.priority, job.run_at, job.id)


def behind(mark: Mark | None) -> dict[str, Any]:
    """A mark as the parameters of a statement."""
    if mark is None:
        return {}
    return {"mark_priority": mark.priority, "mark_run_at": mark.run_at, "mark_id": mark.id}


class Written(NamedTuple):
    """What a finish wrote: the state, which a requested cancel may have changed, and ``run_at``."""

    state: JobState
    run_at: dt.datetime


@dataclass(frozen=True)
class Standing:
    """What a job's row says of its claim at this moment."""

    state: JobState
    claim: int
    worker_id: int | None
    cancel_requested: bool
    run_at: dt.datetime

    def holds(self, job: Claimed) -> bool:
        """Whether the claim holds: what the fence of `finish` asks."""
        mine = (JobState.RUNNING, job.claim, job.worker_id)
        return (self.state, self.claim, self.worker_id) == mine

    def shows(self, job: Claimed, outcome: Outcome) -> bool:
        """Whether this is what a `finish` of that outcome has left, if one was sent."""
        if self.claim != job.claim:
            return False
        # Due again, it may have been promoted since; a cancel that was requested wins over a retry.
        follows = () if outcome.state.is_final else (JobState.QUEUED, JobState.CANCELLED)
        return self.state in (outcome.state, *follows)


def enqueue(session: Session | scoped_session[Any], job: JobT) -> JobT:
    """Add a job to the caller's transaction and flush, so that it has its id.

    The flush is the Session's ordinary one: whatever else is pending is written too.
    """
    session.add(job)
    session.flush()
    return job


# -- claim ---------------------------------------------------------------------------------------


def claim(
    session: Session | Connection,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None = None,
    *,
    limit: int = 1,
    innocent: bool = False,
    mark: Mark | None = None,
    only: Filter | None = None,
    left: LeftOut | None = None,
    now: dt.datetime | None = None,
) -> list[Claimed]:
    """Ordinary lane: make up to ``limit`` queued jobs ``running`` for this worker.

    The caller commits at once: from then on the attempt is spent and everyone can see it.

    Parameters:
        innocent: only jobs that no worker has died of yet.
        mark: only jobs behind it, of its priority; what has come before it since is not seen.
        only: only jobs that satisfy it.
        left: what is left out, though it may be the next; None: nothing.
    """
    chosen = selection(queues)
    rows = fetch(
        session,
        model,
        statements.claim(model, not chosen, innocent, limit, mark is not None, only, left is not None),
        p_worker_id=worker_id,
        now=now,
        **chosen,
        **behind(mark),
        **left_out(left),
    )
    return [claimed(row) for row in rows]


def take(
    session: Session,
    model: Model,
    queues: Sequence[str] | None = None,
    *,
    held: Sequence[int] = (),
    limited: Sequence[str] | None = (),
    others: Collection[str] = (),
    now: dt.datetime | None = None,
) -> Claimed | None:
    """``work_once``: lock the next job in the caller's transaction; it stays ``queued``.

    When nothing is queued, the one due job that would be next is promoted and locked. Of a paused queue none
    is, and where one is paused, a due job of the others is looked for among all that are due.

    Parameters:
        held: jobs that this transaction has taken already and not yet finished.
        limited: the names of tasks with a limit, whose jobs are left to workers; None: they are not.
        others: the names of tasks whose jobs cannot be run here.
    """
    every = limited is None
    given: dict[str, Any] = {} if limited is None else {"limited": list(limited)}
    if others:
        given["others"] = list(others)
    ready = queues
    if closed := paused(session, model):
        ready = open_queues(session, model, queues, closed)
    row = None
    if ready or not closed:
        chosen = selection(ready)
        statement = statements.take(model, not chosen, every, bool(others))
        row = execute(session, model, statement, held=list(held), now=now, **chosen, **given).first()
    if row is None:
        row = _take_due(session, model, queues, closed, given, now)
    return None if row is None else claimed(row)


def _take_due(
    session: Session,
    model: Model,
    queues: Sequence[str] | None,
    closed: Collection[str],
    left: dict[str, Any],
    now: dt.datetime | None,
) -> Any:
    chosen = selection(open_queues(session, model, queues, closed) if queues else None)
    if queues and not chosen:
        return None
    given: dict[str, Any] = {"closed": list(closed)} if closed and not queues else {}
    every, choosy = "limited" not in left, "others" in left
    statement = statements.take_due(model, not chosen, bool(given), every, choosy)
    return execute(session, model, statement, now=now, **chosen, **given, **left).first()


# -- finish --------------------------------------------------------------------------------------


def finish(
    session: Session | Connection,
    model: Model,
    job: Claimed,
    outcome: Outcome,
    *,
    taken: bool = False,
    now: dt.datetime | None = None,
) -> Written | None:
    """Record an attempt's outcome, fenced by its claim; None: the claim does not hold any more.

    Parameters:
        session: or, for a success, a Connection to where the job table is.
        taken: the row is locked in this transaction, by ``take`` or `lock_next`, rather than ``running``.
    """
    given: dict[str, Any] = {"p_started_at": job.started_at} if taken else {}
    if outcome.leaves_more:
        given["p_result"] = None if outcome.result is None else outcome.result.text
        given["p_progress"] = outcome.progress
    row = execute(
        session,
        model,
        statements.finish(model, "queued" if taken else "running", outcome.leaves_more),
        p_id=job.id,
        p_claim=job.claim,
        p_worker_id=job.worker_id,
        p_state=outcome.state.value,
        delay=outcome.delay,
        refund=0 if outcome.spent else 1,
        crash=1 if outcome.crashed else 0,
        record=outcome.record,
        now=now,
        **given,
    ).first()
    if row is None:
        return None
    if row.state == JobState.QUEUED and isinstance(
        session, Session
    ):  # given back: another worker may take it
        wakeup.announce(session, model, [wakeup.queued(job.queue)])
    return Written(JobState(row.state), row.run_at)


def cancel_requests(session: Session | Connection, model: Model, worker_id: int) -> list[tuple[int, int]]:
    """Which jobs of this worker are to be cancelled while they run: (id, claim)."""
    found = execute(session, model, statements.cancel_requests(model), p_worker_id=worker_id)
    return [(row.id, row.claim) for row in found]


def hold(session: Session, model: Model, job: Claimed) -> bool | None:
    """Lock a job's row by the fence of its claim until the transaction ends; None: it does not hold.

    Returns:
        Whether the job is to be cancelled.
    """
    row = execute(
        session, model, statements.hold(model),
        p_id=job.id, p_claim=job.claim, p_worker_id=job.worker_id,
    ).first()  # fmt: skip
    return None if row is None else bool(row[0])


def standing(session: Session, model: Model, job_id: int) -> Standing | None:
    """What the row says of its claim, after whoever writes it now; None: the row is gone."""
    row = execute(session, model, statements.standing(model), p_id=job_id).first()
    return None if row is None else Standing(JobState(row[0]), *row[1:])


# -- promote -------------------------------------------------------------------------------------


def promote(session: Session, model: Model, *, now: dt.datetime | None = None) -> int:
    """Make up to 1,000 due jobs ``queued``; returns how many.

    All workers are told: the one that has promoted them may be busy.
    """
    promoted = execute(session, model, statements.promote(model), now=now).all()
    wakeup.announce(session, model, {wakeup.queued(row.queue) for row in promoted})
    return len(promoted)


def next_due(
    session: Session | Connection, model: Model, *, now: dt.datetime | None = None
) -> dt.timedelta | None:
    """The time until the next scheduled job is due (negative: it is due); None: none waits."""
    seconds = execute(session, model, statements.next_due(model), now=now).scalar()
    return None if seconds is None else dt.timedelta(seconds=float(seconds))


def remaining(
    session: Session, model: Model, queues: Sequence[str] | None = None, *, now: dt.datetime | None = None
) -> int:
    """How many jobs are queued, running or due."""
    chosen = selection(queues)
    statement = statements.remaining(model, any_queue=not chosen)
    return int(execute(session, model, statement, now=now, **chosen).scalar_one())


def has_work(
    session: Session,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None = None,
    *,
    closed: Collection[str] = (),
    only: Filter | None = None,
    now: dt.datetime | None = None,
) -> bool:
    """Whether a job is queued or due, locked or not, or runs under this worker.

    Parameters:
        closed: not in these of the queues.
        only: what is queued or due has to satisfy it.
    """
    chosen: dict[str, Any] = {}
    if queues:
        chosen = {"queues": open_queues(session, model, queues, closed)}
    elif closed:
        chosen = {"closed": list(closed)}
    statement = statements.has_work(model, not queues, "closed" in chosen, only)
    return bool(execute(session, model, statement, p_worker_id=worker_id, now=now, **chosen).scalar_one())


def unfinished(
    session: Session, model: type[JobT], *, task: str | None = None, queue: str | None = None
) -> list[JobT]:
    """The jobs that are scheduled, queued or running, in the order of their ids, as their rows are now."""
    chosen = {"p_task": task, "p_queue": queue}
    given = {name: value for name, value in chosen.items() if value is not None}
    statement = statements.unfinished(model, task is not None, queue is not None)
    return list(execute(session, model, statement, **given).scalars())
