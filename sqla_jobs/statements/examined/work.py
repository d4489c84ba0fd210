"""What there is to do, and who is there to do it, in samples that do not grow with the table."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Float,
    Table,
    and_,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    union_all,
)

from sqla_jobs.statements.liveness import lives
from sqla_jobs.statements.pauses import heads
from sqla_jobs.statements.terms import (
    Model,
    finite,
    job_table,
    now,
    once,
    queue_table,
    rows,
    schedule_table,
    state,
    worker_table,
)

SAMPLE: Final = 10_000
"""Jobs of each state that are looked at."""
QUEUES: Final = 100
"""Queues that are looked at."""
OF_A_QUEUE: Final = 1000
"""Jobs of each of them."""
OTHERS: Final = 1000
"""Workers, schedules, running jobs."""


def _in_time(worker: Table) -> ColumnElement[bool]:
    return worker.c.heartbeat_at > now() - worker.c.heartbeat_limit


@once
def live_workers(model: Model) -> Executable:
    """The workers that have given a heartbeat within their own limit, at most 1,000. Locks nothing.

    Parameter: ``now``. A few rows, so no index.
    """
    worker = worker_table(model)
    told = (worker.c.id, worker.c.host, worker.c.pid, worker.c.queues, worker.c.threads, worker.c.tasks)
    living = select(*told).where(lives(worker), _in_time(worker))
    return living.order_by(worker.c.id).limit(rows(OTHERS))


@once
def dead_workers(model: Model) -> Executable:
    """The rows of workers that live no more, at most 1,000: when each was last heard of. Locks nothing.

    ``noted``: somebody has found it dead. Those who hold their lock are given ten limits, as by the others.
    Parameter: ``now``. A few rows, so no index.
    """
    worker = worker_table(model)
    ten = literal_column("10", BigInteger)
    late = worker.c.heartbeat_at < now() - worker.c.heartbeat_limit.op("*")(ten)
    silent = and_(lives(worker), ~_in_time(worker), or_(~worker.c.locked, late))
    died = worker.c.died_at.is_not(None)
    since = func.coalesce(worker.c.died_at, worker.c.heartbeat_at)
    return (
        select(
            worker.c.id,
            worker.c.host,
            worker.c.pid,
            finite(worker.c.heartbeat_at).label("heartbeat_at"),
            died.label("noted"),
            _seconds(now() - since).label("seconds"),
        )
        .where(or_(silent, died))
        .order_by(worker.c.id)
        .limit(rows(OTHERS))
    )


def _seconds(length: ColumnElement[Any]) -> ColumnElement[float]:
    return cast(func.extract("epoch", length), Float)


def _sample(job: Table, of: str, *more: ColumnElement[Any]) -> Any:
    """Some jobs of a state, by the index of its claim, its promotion or its rescue."""
    order: dict[str, list[Any]] = {
        "queued": [job.c.priority.desc(), job.c.run_at, job.c.id],
        "scheduled": [job.c.run_at],
        "running": [job.c.worker_id],
    }
    chosen = select(job.c.id, job.c.task, job.c.crashes, *more).where(job.c.state == state(of))
    return chosen.order_by(*order[of]).limit(rows(SAMPLE)).cte(of)


@once
def unfinished_tasks(model: Model) -> Executable:
    """The tasks of the first 10,000 jobs of each unfinished state: how many of each. Locks nothing.

    And ``looked_at``, how many jobs that were: with 10,000 of a state there may be more. Indexes:
    ``ix_sqla_jobs_claim_any``, ``ix_sqla_jobs_promote``, ``ix_sqla_jobs_rescue``.
    """
    job = job_table(model)
    samples = [_sample(job, each) for each in ("queued", "scheduled", "running")]
    parts = []
    for sample in samples:
        full = select(func.count() >= rows(SAMPLE)).select_from(sample).scalar_subquery()
        parts.append(
            select(sample.c.task, func.count().label("number"), full.label("more")).group_by(sample.c.task)
        )
    every = union_all(*parts).subquery("every")
    return (
        select(
            every.c.task, func.sum(every.c.number).label("number"), func.bool_or(every.c.more).label("more")
        )
        .group_by(every.c.task)
        .order_by(every.c.task)
    )


@once
def crashed(model: Model) -> Executable:
    """Unfinished jobs whose process has died, among the first 10,000 of each state; at most 20.

    Locks nothing. Indexes: those of `unfinished_tasks`.
    """
    job = job_table(model)
    samples = [_sample(job, each) for each in ("queued", "scheduled", "running")]
    every = union_all(*(select(each.c.id, each.c.task, each.c.crashes) for each in samples)).subquery("every")
    return (
        select(every.c.id, every.c.task, every.c.crashes)
        .where(every.c.crashes > literal_column("0"))
        .order_by(every.c.crashes.desc(), every.c.id)
        .limit(rows(20))
    )


@once
def queues_in_use(model: Model) -> Executable:
    """The first 100 queues that have queued jobs: how many, of their next 1,000, and the longest wait.

    Parameter: ``now``. Locks nothing. Index: ``ix_sqla_jobs_claim``, from one queue to the next.
    """
    job = job_table(model)
    head = heads(job)
    some = select(head.c.queue).limit(rows(QUEUES)).subquery("some")
    next_ones = (
        select(job.c.run_at)
        .where(job.c.state == state("queued"), job.c.queue == some.c.queue)
        .order_by(job.c.priority.desc(), job.c.run_at, job.c.id)
        .limit(rows(OF_A_QUEUE))
        .lateral("next_ones")
    )
    return (
        select(
            some.c.queue,
            func.count().label("number"),
            _seconds(now() - finite(func.min(next_ones.c.run_at))).label("waits"),
        )
        .select_from(some.join(next_ones, true()))
        .group_by(some.c.queue)
        .order_by(some.c.queue)
    )


@once
def paused_queues(model: Model) -> Executable:
    """The queues that are paused, at most 1,000, and for how many seconds.

    Parameter: ``now``. Locks nothing. A few rows, so no index.
    """
    row = queue_table(model)
    lasts = _seconds(now() - finite(row.c.paused_at)).label("seconds")
    return (
        select(row.c.name, lasts).where(row.c.paused_at.is_not(None)).order_by(row.c.name).limit(rows(OTHERS))
    )


@once
def running_jobs(model: Model) -> Executable:
    """Running jobs, at most 1,000: for how many seconds, and their timeout. Parameter: ``now``.

    ``ownerless``: no row of a living worker is theirs. Locks nothing. Index: ``ix_sqla_jobs_rescue``.
    """
    job, worker = job_table(model), worker_table(model)
    mine = exists(select(worker.c.id).where(worker.c.id == job.c.worker_id, lives(worker), _in_time(worker)))
    return (
        select(
            job.c.id,
            job.c.task,
            job.c.worker_id,
            _seconds(now() - finite(job.c.started_at)).label("seconds"),
            _seconds(job.c.timeout).label("timeout"),
            (~mine).label("ownerless"),
        )
        .where(job.c.state == state("running"))
        .order_by(job.c.worker_id)
        .limit(rows(OTHERS))
    )


@once
def rules(model: Model) -> Executable:
    """The schedules that are switched on, at most 1,000, by name. Parameter: ``now``. Locks nothing.

    Reads the whole table, which is small.
    """
    row = schedule_table(model)
    return (
        select(
            row.c.id,
            row.c.name,
            row.c.task,
            row.c.cron,
            row.c.timezone,
            _seconds(row.c.every).label("every"),
            row.c.next_run_at.is_not(None).label("timed"),
            _seconds(now() - finite(row.c.updated_at)).label("seconds"),
        )
        .where(row.c.enabled)
        .order_by(row.c.name)
        .limit(rows(OTHERS))
    )
