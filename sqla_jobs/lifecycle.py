"""The verbs, in the order of a job's life. Each is a plain function whose first argument is a Session.

None of them begins, commits or rolls back: the transaction is the caller's. An async caller runs
them with ``AsyncSession.run_sync``.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import statements
from sqla_jobs.errors import ArgumentsNotLoadable, WorkerDied
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState, Outcome, died, given_back
from sqla_jobs.policy import RetryPolicy

log = logging.getLogger("sqla_jobs")

JobT = TypeVar("JobT", bound=JobMixin)
Model = type[JobMixin]


@dataclass(frozen=True)
class Claimed:
    """A job's row as it was when it was claimed, with the claim's fencing number."""

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
    unreadable: ArgumentsNotLoadable | None = None
    """Why ``arguments`` are empty: what the row holds is no JSON that Python can read."""


def _claimed(row: Any) -> Claimed:
    job = Claimed(*row[: len(statements.CLAIMED)])
    try:
        return replace(job, arguments=json.loads(row.arguments))
    except (ValueError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        return replace(
            job, arguments={}, unreadable=ArgumentsNotLoadable(job.task, None, row.arguments, reason)
        )


@dataclass(frozen=True)
class Written:
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


def target(model: Model) -> dict[str, Any]:
    """Bind arguments that lead to the job table, for a Session of several engines (binds, get_bind).

    As for an UPDATE, also where the queue only reads: a Session that sends reads to a replica must send
    the claim's SELECT … FOR UPDATE where it sends its writes.
    """
    return {"mapper": model, "clause": statements.finish(model, "running")}


def _execute(session: Session, model: Model, statement: Any, /, **parameters: Any) -> Any:
    return session.execute(statement, parameters, bind_arguments=target(model))


def _selection(queues: Sequence[str] | None) -> dict[str, Any]:
    return {"queues": list(queues)} if queues else {}


def enqueue(session: Session | scoped_session[Any], job: JobT) -> JobT:
    """Add a job to the caller's transaction and flush, so that it has its id.

    The flush is the Session's ordinary one: whatever else is pending is written too.
    """
    session.add(job)
    session.flush()
    return job


# -- claim ---------------------------------------------------------------------------------------


def claim(
    session: Session,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None = None,
    *,
    limit: int = 1,
    now: dt.datetime | None = None,
) -> list[Claimed]:
    """Ordinary lane: make up to ``limit`` queued jobs ``running`` for this worker.

    The caller commits at once: from then on the attempt is spent and everyone can see it.
    """
    chosen = _selection(queues)
    rows = _execute(
        session,
        model,
        statements.claim(model, any_queue=not chosen),
        limit=limit,
        p_worker_id=worker_id,
        now=now,
        **chosen,
    )
    return [_claimed(row) for row in rows]


def take(
    session: Session,
    model: Model,
    queues: Sequence[str] | None = None,
    *,
    held: Sequence[int] = (),
    now: dt.datetime | None = None,
) -> Claimed | None:
    """``work_once``: lock the next job in the caller's transaction; it stays ``queued``.

    When nothing is queued, the one due job that would be next is promoted and locked.

    Parameters:
        held: jobs that this transaction has taken already and not yet finished.
    """
    chosen = _selection(queues)
    any_queue = not chosen
    ready = statements.take(model, any_queue)
    row = (
        _execute(session, model, ready, limit=1, held=list(held), now=now, **chosen).first()
        or _execute(session, model, statements.take_due(model, any_queue), now=now, **chosen).first()
    )
    return None if row is None else _claimed(row)


# -- finish --------------------------------------------------------------------------------------


def finish(
    session: Session,
    model: Model,
    job: Claimed,
    outcome: Outcome,
    *,
    taken: bool = False,
    now: dt.datetime | None = None,
) -> Written | None:
    """Record an attempt's outcome, fenced by its claim; None: the claim does not hold any more.

    Parameters:
        taken: the row is locked by ``take`` in this transaction rather than ``running``.
    """
    fence = {"p_started_at": job.started_at} if taken else {"p_worker_id": job.worker_id}
    row = _execute(
        session,
        model,
        statements.finish(model, "queued" if taken else "running"),
        p_id=job.id,
        p_claim=job.claim,
        p_state=outcome.state.value,
        delay=outcome.delay,
        refund=0 if outcome.spent else 1,
        crash=1 if outcome.crashed else 0,
        record=outcome.record,
        now=now,
        **fence,
    ).first()
    return None if row is None else Written(JobState(row.state), row.run_at)


def standing(session: Session, model: Model, job_id: int) -> Standing | None:
    """What the row says of its claim, after whoever writes it now; None: the row is gone."""
    row = _execute(session, model, statements.standing(model), p_id=job_id).first()
    return None if row is None else Standing(JobState(row[0]), *row[1:])


# -- promote -------------------------------------------------------------------------------------


def promote(session: Session, model: Model, *, now: dt.datetime | None = None) -> int:
    """Make up to 1,000 due jobs ``queued``; returns how many."""
    return len(_execute(session, model, statements.promote(model), now=now).all())


def next_due(session: Session, model: Model, *, now: dt.datetime | None = None) -> dt.timedelta | None:
    """The time until the next scheduled job is due (negative: it is due); None: none waits."""
    seconds = _execute(session, model, statements.next_due(model), now=now).scalar()
    return None if seconds is None else dt.timedelta(seconds=float(seconds))


def remaining(
    session: Session, model: Model, queues: Sequence[str] | None = None, *, now: dt.datetime | None = None
) -> int:
    """How many jobs are queued, running or due."""
    chosen = _selection(queues)
    statement = statements.remaining(model, any_queue=not chosen)
    return int(_execute(session, model, statement, now=now, **chosen).scalar_one())


def has_work(
    session: Session,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None = None,
    *,
    now: dt.datetime | None = None,
) -> bool:
    """Whether a job is queued or due, locked or not, or runs under this worker."""
    chosen = _selection(queues)
    statement = statements.has_work(model, any_queue=not chosen)
    return bool(_execute(session, model, statement, p_worker_id=worker_id, now=now, **chosen).scalar_one())


# -- workers -------------------------------------------------------------------------------------


def register(
    session: Session,
    model: Model,
    *,
    host: str,
    pid: int,
    version: str,
    queues: Sequence[str] | None,
    threads: int,
    heartbeat_limit: dt.timedelta,
) -> int:
    """Make this process known; returns its worker id, under which it claims."""
    row = _execute(
        session,
        model,
        statements.register(model),
        host=host,
        pid=pid,
        version=version,
        queues=list(queues) if queues else None,
        threads=threads,
        heartbeat_limit=heartbeat_limit,
    )
    return int(row.scalar_one())


def heartbeat(
    session: Session,
    model: Model,
    worker_id: int,
    running: list[dict[str, Any]],
    *,
    now: dt.datetime | None = None,
) -> bool:
    """Say that this worker lives and what it runs; False: it was taken for dead and has no row."""
    result = _execute(session, model, statements.heartbeat(model), p_id=worker_id, p_running=running, now=now)
    return bool(result.rowcount)


def goodbye(session: Session, model: Model, worker_id: int) -> None:
    """This worker ends and runs nothing any more: what still stands under it is given back."""
    for row in _execute(session, model, statements.running_under(model), p_worker_id=worker_id).all():
        finish(session, model, _claimed(row), given_back("its worker stopped"))
    _execute(session, model, statements.goodbye(model), p_id=worker_id)


@dataclass(frozen=True)
class Rescued:
    """A job that was taken from a dead worker, and what followed."""

    job: Claimed
    outcome: Outcome
    written: Written


def rescue(
    session: Session,
    model: Model,
    policy_for: Callable[[str], RetryPolicy],
    *,
    now: dt.datetime | None = None,
) -> list[Rescued]:
    """Give back the jobs of dead workers: by the retry policy, or ``failed`` with ``WorkerDied``.

    A worker whose last heartbeat is older than its limit loses its row first, in this transaction:
    if it lives after all, its next heartbeat finds no row. A running job whose worker has no row is
    an orphan. Returns at most 100; call again, in a new transaction, while there are some.
    """
    buried = {row.id: row for row in _execute(session, model, statements.bury(model), now=now)}
    orphans = [_claimed(row) for row in _execute(session, model, statements.orphans(model))]
    if not orphans:
        return []
    # A lock that had to re-read a changed row judges it by the snapshot from before: the job may
    # have been rescued and claimed meanwhile by a worker too young to be in that snapshot.
    ids = [job.worker_id for job in orphans if job.worker_id is not None]
    alive = set(_execute(session, model, statements.living(model), ids=ids).scalars())
    rescued = []
    for job in orphans:
        if job.worker_id in alive:
            continue
        outcome = _after_death(job, buried.get(job.worker_id), policy_for)
        try:
            with session.begin_nested():
                written = finish(session, model, job, outcome, now=now)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            log.exception("job %s (%s) cannot be rescued", job.id, job.task)
            continue  # a table that refuses this one must not keep all the others
        if written is not None:
            rescued.append(Rescued(job, outcome, written))
    return rescued


def _after_death(job: Claimed, worker: Any, policy_for: Callable[[str], RetryPolicy]) -> Outcome:
    error = _death(job, worker)
    try:
        return died(error, policy_at(policy_for(job.task), job.attempt, job.max_attempts))
    except Exception:  # a policy of the application's own, which did not reckon with this error
        log.exception("job %s (%s): its retry policy failed, so the default one decides", job.id, job.task)
        return died(error, policy_at(RetryPolicy(), job.attempt, job.max_attempts))


def _death(job: Claimed, worker: Any) -> WorkerDied:
    if worker is None:
        known = (
            "no worker" if job.worker_id is None else f"worker {job.worker_id}, which is not known any more"
        )
        return WorkerDied(f"the job was running under {known}")
    return WorkerDied(
        f"worker {worker.id} (process {worker.pid} on {worker.host}) gave no heartbeat "
        f"since {worker.heartbeat_at.isoformat()}"
    )


def policy_at(
    policy: RetryPolicy, attempt: int, max_attempts: int | None
) -> Callable[[BaseException], dt.timedelta | None]:
    """A retry policy at one attempt of a job: error -> delay, or None to give up."""
    return lambda error: policy.delay(attempt, error, max_attempts=max_attempts)


def give_back_strays(
    session: Session,
    model: Model,
    worker_id: int,
    known: Collection[tuple[int, int]],
    suspects: Collection[tuple[int, int]],
) -> set[tuple[int, int]]:
    """Return jobs that run under this worker although it knows nothing of them.

    A claim whose COMMIT lost its connection may stand although nobody was told. Such a job would
    run for ever: its worker lives. Jobs are given as (id, claim); one that is unknown now and was
    unknown at the last call (``suspects``) is given back. Returns the suspects for the next call.
    """
    rows = [
        _claimed(row)
        for row in _execute(session, model, statements.running_under(model), p_worker_id=worker_id)
    ]
    strays = [row for row in rows if (row.id, row.claim) not in known]
    for job in strays:
        if (job.id, job.claim) in suspects:
            finish(session, model, job, given_back("its claim was committed, but its worker was not told"))
    return {(job.id, job.claim) for job in strays if (job.id, job.claim) not in suspects}
