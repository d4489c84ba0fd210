"""Jobs under a claim: their outcome, and those whose worker is gone."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Interval,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    false,
    func,
    literal_column,
    not_,
    null,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.outcome import HISTORY_LIMIT
from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.liveness import lives
from sqla_jobs.statements.queued import claim
from sqla_jobs.statements.terms import (
    CLAIMED,
    ONE,
    RESCUE_BATCH,
    Model,
    among_claims,
    claimed,
    done_jobs,
    is_,
    job_table,
    left,
    now,
    once,
    rows,
    state,
    worker_table,
)
from sqla_jobs.statements.unique import held_when_over


@once
def finish(model: Model, fence: str, more: bool = False) -> Executable:
    """Write the outcome of an attempt, if the claim still holds; returns (state, run_at) or no row.

    ``fence="running"``: the ordinary lane; the row must be running under this very claim of this
    worker. ``fence="queued"``: inside the transaction that holds the row's lock since ``take``, or the fast
    lane's claim; attempt and claim are counted here.

    Parameters: ``p_id``, ``p_claim``, ``p_worker_id`` (null in `work_once`), ``p_state``, ``delay`` (null:
    ``run_at`` stays), ``refund`` and ``crash`` (0 or 1), ``record`` (null: nothing is added to ``attempts``),
    ``p_started_at`` (``queued`` only), ``now``; with ``more`` ``p_result`` and ``p_progress``, JSON as text
    or null. Locks the row. Index: the primary key.

    A cancel that was requested while the job ran wins over a retry, a snooze and a give-back. It is
    decided here, in SQL, because the request may be committed a moment before this statement.
    """
    job = job_table(model)
    wanted = bindparam("p_state", type_=Text)
    refund = bindparam("refund", type_=Integer)
    record = bindparam("record", type_=JSONB(none_as_null=True))
    delay = cast(bindparam("delay", type_=Interval), Interval)  # not cast by itself, as others are
    in_claim = fence == "queued"
    attempt = job.c.attempt + ONE if in_claim else job.c.attempt
    started = bindparam("p_started_at", type_=DateTime(timezone=True)) if in_claim else job.c.started_at
    mine = bindparam("p_worker_id", type_=BigInteger)
    worker = mine if in_claim else job.c.worker_id
    is_final = wanted.in_([state("succeeded"), state("failed"), state("cancelled")])
    cancelled = and_(job.c.cancel_requested_at.is_not(None), ~is_final)
    final = or_(is_final, cancelled)
    entry = record.op("||")(
        func.jsonb_build_object(
            text("'attempt'"), attempt,
            text("'started_at'"), started,
            text("'finished_at'"), now(),
            text("'worker_id'"), worker,
        )
    )  # fmt: skip
    kept = case(
        (
            func.jsonb_array_length(job.c.attempts) >= literal_column(str(HISTORY_LIMIT)),
            job.c.attempts.op("-")(literal_column("0", Integer)),
        ),
        else_=job.c.attempts,
    )
    values: dict[str, Any] = {
        "state": case((cancelled, state("cancelled")), else_=wanted),
        "finished_at": case((final, now()), else_=null()),
        "run_at": case((delay.is_(None), job.c.run_at), else_=now() + delay),
        "attempt": attempt - refund,
        "crashes": job.c.crashes + bindparam("crash", type_=Integer),
        "worker_id": case((final, worker), else_=null()),
        "attempts": case(
            (record.is_(None), job.c.attempts), else_=kept.op("||")(func.jsonb_build_array(entry))
        ),
        "unique_held": case((final, held_when_over(job)), else_=job.c.unique_held),
    }
    holds: list[ColumnElement[bool]] = [
        job.c.id == bindparam("p_id", type_=BigInteger),
        # `|| ''` keeps the planner off the partial indexes of that state: while the table is small, or the
        # index empty, it would rather walk one of those than go by the primary key, and a prepared
        # statement keeps that plan when there is a backlog.
        job.c.state.op("||")(text("''")) == state(fence),
        job.c.claim == bindparam("p_claim", type_=BigInteger),
    ]
    if more:
        values |= left(job, bindparam("p_result", type_=Text), bindparam("p_progress", type_=Text))
    if in_claim:
        values |= {"claim": job.c.claim + ONE, "started_at": started}
    else:
        holds.append(job.c.worker_id.is_not_distinct_from(mine))
    return update(job).where(*holds).values(values).returning(job.c.state, job.c.run_at)


@once
def finish_running(model: Model, more: bool = False) -> Executable:
    """``running`` -> ``succeeded`` for jobs of ``:p_worker_id`` whose claims still hold; returns their ids.

    Parameters: those of `done_jobs`, ``p_worker_id``, ``now``. Locks the rows. Index: the primary key.
    """
    job, done = job_table(model), done_jobs(more)
    values: dict[str, Any] = left(job, done.c.result, done.c.progress) if more else {}
    return (
        update(job)
        .where(
            *among_claims(job, done),
            job.c.state.op("||")(text("''")) == state("running"),  # see finish
            job.c.worker_id == bindparam("p_worker_id", type_=BigInteger),
        )
        .values(state=state("succeeded"), finished_at=now(), unique_held=held_when_over(job), **values)
        .returning(job.c.id)
    )


@once
def remove(model: Model, fence: str) -> Executable:
    """Delete jobs that have succeeded, if their claims still hold; returns the ids of those that are gone.

    ``fence``: as for `finish`. Parameters: ``ids``, ``claims``, and ``p_worker_id`` (``running`` only). Locks
    the rows, passing over those that somebody is about to refer to, and those that hold a key when they are
    over, too. A row that is referred to already makes it fail, or what a foreign key says is done. Index: the
    primary key.
    """
    job = job_table(model)
    mine = [job.c.worker_id == bindparam("p_worker_id", type_=BigInteger)] if fence == "running" else []
    free = (
        select(job.c.id)
        .where(
            *among_claims(job),
            job.c.state.op("||")(text("''")) == state(fence),  # see finish
            not_(held_when_over(job)),
            *mine,
        )
        .with_for_update(of=job, skip_locked=True)
        .cte("free")
    )
    return delete(job).where(is_(job.c.id, free.c.id)).returning(job.c.id)


@once
def check_constraints() -> Executable:
    """Check now what would be checked at the commit."""
    return text("SET CONSTRAINTS ALL IMMEDIATE")


@once
def exchange(
    model: Model,
    any_queue: bool,
    innocent: bool,
    limit: int,
    marked: bool,
    more: bool = False,
    only: Filter | None = None,
    limited: bool = False,
) -> Executable:
    """`finish_running` and `claim` in one statement, and so with one commit.

    Returns the columns of a claim and ``is_new``; of a job that is finished the id alone. Parameters, locks
    and indexes: those of the two.
    """
    done: Any = finish_running(model, more)
    following: Any = claim(model, any_queue, innocent, limit, marked, only, limited)
    finished, taken = done.cte("finished"), following.cte("taken")
    nothing = [null() for _ in CLAIMED[1:]]
    return union_all(
        select(*[taken.c[name] for name in CLAIMED], true().label("is_new"), taken.c.durable),
        select(finished.c.id, *nothing, false(), null()),
    )


@once
def hold(model: Model) -> Executable:
    """Lock a running job by the fence of its claim; returns whether a cancel is requested.

    Parameters: ``p_id``, ``p_claim``, ``p_worker_id``. Index: the primary key. A finish, a cancel or a
    rescue of this job passes it over, or waits, until the transaction ends.
    """
    job = job_table(model)
    return (
        select(job.c.cancel_requested_at.is_not(None))
        .where(
            job.c.id == bindparam("p_id", type_=BigInteger),
            job.c.state.op("||")(text("''")) == state("running"),  # see finish
            job.c.claim == bindparam("p_claim", type_=BigInteger),
            job.c.worker_id.is_not_distinct_from(bindparam("p_worker_id", type_=BigInteger)),
        )
        .with_for_update(key_share=True)
    )


@once
def standing(model: Model) -> Executable:
    """What a job's row says of its claim: (state, claim, worker_id, cancel_requested, run_at).

    Parameter: ``p_id``. Index: the primary key. Locks the row FOR SHARE: after a connection was lost
    in COMMIT the server may still be at it, and this waits to see what comes of it.
    """
    job = job_table(model)
    cancel = job.c.cancel_requested_at.is_not(None).label("cancel_requested")
    return (
        select(job.c.state, job.c.claim, job.c.worker_id, cancel, job.c.run_at)
        .where(job.c.id == bindparam("p_id", type_=BigInteger))
        .with_for_update(read=True)
    )


@once
def running_under(model: Model) -> Executable:
    """The jobs that run under ``:p_worker_id``. Locks nothing. Index: ``ix_sqla_jobs_rescue``."""
    job = job_table(model)
    return select(*claimed(job)).where(
        job.c.state == state("running"), job.c.worker_id == bindparam("p_worker_id", type_=BigInteger)
    )


@once
def cancel_requests(model: Model) -> Executable:
    """Which of the jobs that run under ``:p_worker_id`` are to be cancelled: (id, claim). Locks nothing.

    Index: ``ix_sqla_jobs_rescue``.
    """
    job = job_table(model)
    return select(job.c.id, job.c.claim).where(
        job.c.state == state("running"),
        job.c.worker_id == bindparam("p_worker_id", type_=BigInteger),
        job.c.cancel_requested_at.is_not(None),
    )


@once
def orphans(model: Model) -> Executable:
    """Up to 100 running jobs whose worker is null, names no row, or was found dead, locked.

    Locks the jobs, passing over locked ones: a finish under way wins. Index:
    ``ix_sqla_jobs_rescue``, which holds the running jobs only.
    """
    job, worker = job_table(model), worker_table(model)
    alive = select(worker.c.id).where(worker.c.id == job.c.worker_id, lives(worker)).exists()
    return (
        select(*claimed(job))
        .where(job.c.state == state("running"), ~alive)
        .limit(rows(RESCUE_BATCH))
        .with_for_update(of=job, skip_locked=True, key_share=True)
    )
