"""The verbs of a worker process, and what becomes of the jobs of one that died."""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.errors import WorkerDied
from sqla_jobs.lifecycle.jobs import Claimed, Written, claimed, finish
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.meter import Progress
from sqla_jobs.outcome import JobState, Outcome, died, given_back
from sqla_jobs.policy import RetryPolicy, policy_at
from sqla_jobs.redaction import hiding_row, log_error

log = logging.getLogger("sqla_jobs")


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
    tasks: Sequence[str] | None = None,
    schedules: Mapping[str, str] | None = None,
) -> int:
    """Make this process known; returns its worker id, under which it claims.

    Parameters:
        tasks: that it knows; None: it does not say.
        schedules: the fingerprints of those in its code, by name; likewise.
    """
    row = execute(
        session,
        model,
        statements.register(model),
        host=host,
        pid=pid,
        version=version,
        queues=list(queues) if queues else None,
        threads=threads,
        heartbeat_limit=heartbeat_limit,
        tasks=None if tasks is None else list(tasks),
        schedules=None if schedules is None else dict(schedules),
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
    """Say that this worker lives and what it runs; False: it was taken for dead."""
    result = execute(session, model, statements.heartbeat(model), p_id=worker_id, p_running=running, now=now)
    return bool(result.rowcount)


def goodbye(session: Session, model: Model, worker_id: int) -> None:
    """This worker ends and runs nothing any more: what still stands under it is given back."""
    jobs = [
        claimed(row)
        for row in execute(session, model, statements.running_under(model), p_worker_id=worker_id)
    ]
    for job in jobs:
        finish(session, model, job, given_back("its worker stopped"))
    execute(session, model, statements.goodbye(model), p_id=worker_id)


def deny_lock(session: Session, model: Model, worker_id: int) -> None:
    """This worker holds no lock any more: judge it by its heartbeats."""
    execute(session, model, statements.say_unlocked(model), p_id=worker_id)


def unheld(session: Session | Connection, model: Model, worker_id: int, *, of_any: bool = True) -> list[str]:
    """Other workers than this one whose rows say ``locked`` although their locks are free.

    Each as a text that is another one after every write to its row. The locks that are looked at are
    held, in the shared form, until the transaction ends.

    Parameters:
        of_any: also of those whose locks a restart of the server may have let go.
    """
    statement = statements.unheld(model)
    return list(execute(session, model, statement, p_id=worker_id, p_any=of_any).scalars())


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
    gone: Collection[str] = (),
    now: dt.datetime | None = None,
) -> list[Rescued]:
    """Give back the jobs of dead workers: by the retry policy, or ``failed`` with ``WorkerDied``.

    A worker whose last heartbeat is older than its limit is noted as dead first, in this transaction:
    if it lives after all, its next heartbeat finds no living row. For a minute all can see that a worker
    has just died; then whoever calls this removes its row. A running job whose worker has no row, or is
    dead, is an orphan. Returns at most 100; call again, in a new transaction, while there are some.

    Parameters:
        gone: workers that have let go of their lock, as `unheld` has shown them; they are dead too.
    """
    execute(session, model, statements.forget(model), now=now)
    dead = execute(session, model, statements.bury(model), gone=list(gone), now=now)
    buried = {row.id: row for row in dead}
    orphans = [claimed(row) for row in execute(session, model, statements.orphans(model))]
    if not orphans:
        return []
    # A lock that had to re-read a changed row judges it by the snapshot from before: the job may
    # have been rescued and claimed meanwhile by a worker too young to be in that snapshot.
    ids = [job.worker_id for job in orphans if job.worker_id is not None]
    known = {row.id: row for row in execute(session, model, statements.known(model), ids=ids)}
    rescued = []
    for job in orphans:
        worker = known.get(job.worker_id)
        if worker is not None and worker.lives:
            continue
        outcome = _after_death(job, buried.get(job.worker_id) or worker, policy_for)
        outcome = replace(outcome, progress=_said(job, worker))
        try:
            with session.begin_nested():
                written = finish(session, model, job, outcome, now=now)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            message = "job %s (%s) cannot be rescued"
            log_error(logging.ERROR, message, job.id, job.task, error=error, clean=hiding_row(error))
            continue  # a table that refuses this one must not keep all the others
        if written is not None:
            rescued.append(Rescued(job, outcome, written))
    if any(each.written.state is JobState.SCHEDULED for each in rescued):
        wakeup.announce(session, model, [wakeup.SCHEDULED])
    return rescued


def _said(job: Claimed, worker: Any) -> str | None:
    """What a dead worker's row says of how far a job had come, as JSON."""
    try:
        running = json.loads(worker.running) if worker is not None else []
    except (ValueError, RecursionError):  # raw SQL
        return None
    for entry in running:
        if isinstance(entry, dict) and (entry.get("id"), entry.get("claim")) == (job.id, job.claim):
            progress = Progress.loaded(entry.get("progress"))
            return None if progress is None else progress.text()
    return None


def _after_death(job: Claimed, worker: Any, policy_for: Callable[[str], RetryPolicy]) -> Outcome:
    error = _death(job, worker)
    try:
        policy = policy_for(job.task)
        if job.crashes + 1 >= policy.max_crashes:
            error = WorkerDied(
                f"{error}; it is death {job.crashes + 1} under this job, and max_crashes ends it"
            )
        return died(error, _delay_after_death(policy, job))
    except Exception:  # a policy of the application's own, which did not reckon with this error
        log.exception("job %s (%s): its retry policy failed, so the default one decides", job.id, job.task)
        return died(error, _delay_after_death(RetryPolicy(), job))


def _delay_after_death(policy: RetryPolicy, job: Claimed) -> Callable[[BaseException], dt.timedelta | None]:
    if job.crashes + 1 >= policy.max_crashes:
        return lambda _: None
    return policy_at(policy, job.attempt, job.max_attempts)


def _death(job: Claimed, worker: Any) -> WorkerDied:
    if worker is None:
        known = (
            "no worker" if job.worker_id is None else f"worker {job.worker_id}, which is not known any more"
        )
        return WorkerDied(f"the job was running under {known}")
    said = "is gone: its lock was free, and it gave" if worker.free else "gave"
    return WorkerDied(
        f"worker {worker.id} (process {worker.pid} on {worker.host}) {said} no heartbeat "
        f"since {worker.heartbeat_at.isoformat()}"
    )


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
        claimed(row)
        for row in execute(session, model, statements.running_under(model), p_worker_id=worker_id)
    ]
    strays = [row for row in rows if (row.id, row.claim) not in known]
    for job in strays:
        if (job.id, job.claim) in suspects:
            finish(session, model, job, given_back("its claim was committed, but its worker was not told"))
    return {(job.id, job.claim) for job in strays if (job.id, job.claim) not in suspects}


class Health(NamedTuple):
    """The worker processes of a host, or of all."""

    known: int
    """How many have a row that does not say that they are dead; who has none has stopped."""
    last: dt.timedelta | None
    """The age of their last heartbeat; None: there are none."""
    living: int
    """How many of them have given a heartbeat within their own limit."""
    last_living: dt.timedelta | None
    """The age of the last heartbeat of these."""


def health(
    session: Session, schema: str | None = None, host: str | None = None, *, now: dt.datetime | None = None
) -> Health:
    """How the worker processes are whose rows are in ``schema``; ``host`` None: on any host."""
    return Health(*session.execute(statements.health(schema), {"p_host": host, "now": now}).one())
