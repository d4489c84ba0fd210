"""Whether, how much, and what is left to do; for a worker that drains, and for tests."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Executable, Text, bindparam, func, or_, select, true

from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.pauses import heads
from sqla_jobs.statements.terms import Model, each_queue, is_, job_table, now, once, queues, rows, state


@once
def remaining(model: Model, any_queue: bool) -> Executable:
    """How many jobs are queued, running or due. Locks nothing.

    Parameters: ``now``, and ``queues`` unless ``any_queue``. Reads the partial indexes of those
    states: its cost grows with the backlog, not with the finished jobs.
    """
    job = job_table(model)
    count = select(func.count()).select_from(job)
    if not any_queue:
        count = count.where(job.c.queue == func.any(queues()))
    parts = (
        count.where(job.c.state == state("queued")),
        count.where(job.c.state == state("running")),
        count.where(job.c.state == state("scheduled"), job.c.run_at <= now()),
    )
    queued, running, due = (part.scalar_subquery() for part in parts)
    return select(queued + running + due)


@once
def has_work(model: Model, any_queue: bool, closed: bool = False, only: Filter | None = None) -> Executable:
    """Whether a job is queued or due, or runs under ``:p_worker_id``. Locks nothing.

    Parameters: ``p_worker_id``, ``now``, and ``queues`` unless ``any_queue``; with that, if ``closed``, those
    in which nothing is looked for. ``only``: what is queued or due has to satisfy the filter. Unlike a claim
    it sees locked rows: one that another worker promotes at this moment is work. Stops at the first row that
    it finds; indexes: ``ix_sqla_jobs_claim`` or ``_claim_any``, ``ix_sqla_jobs_promote``,
    ``ix_sqla_jobs_rescue``.
    """
    job = job_table(model)
    queued = select(job.c.id).where(job.c.state == state("queued")).limit(rows(1))
    due = select(job.c.id).where(job.c.state == state("scheduled"), job.c.run_at <= now())
    mine = is_(job.c.worker_id, bindparam("p_worker_id", type_=BigInteger))
    running = select(job.c.id).where(job.c.state == state("running"), mine)
    if only is not None:
        queued, due = queued.where(only.clause), due.where(only.clause)
    if any_queue and closed:
        others = bindparam("closed", type_=ARRAY(Text))
        head = heads(job, only)
        queued = select(head.c.id).where(head.c.queue != func.all(others)).limit(rows(1))
        due = due.where(job.c.queue != func.all(others))
    elif any_queue:
        queued = queued.order_by(job.c.priority.desc(), job.c.run_at, job.c.id)
    else:
        queue = each_queue()
        each = queued.where(is_(job.c.queue, queue.c.name)).order_by(job.c.queue).lateral("job")
        queued = select(each.c.id).select_from(queue.join(each, true())).limit(rows(1))
        due = due.where(job.c.queue == func.any(queues()))
    # Each in the order of its index and not as EXISTS, for which the planner takes any row to be as near as
    # the next and reads the table from its beginning.
    return select(
        or_(
            _found(queued),
            _found(due.order_by(job.c.run_at).limit(rows(1))),
            _found(running.order_by(job.c.worker_id).limit(rows(1))),
        )
    )


@once
def unfinished(model: Model, of_task: bool, in_queue: bool) -> Executable:
    """The jobs that are scheduled, queued or running, as entities, by their id. Locks nothing.

    Parameters: ``p_task`` if ``of_task``, ``p_queue`` if ``in_queue``. For a test's few rows: it reads the
    partial indexes of those states, or the whole table.
    """
    job = job_table(model)
    chosen = select(model).where(
        job.c.state.in_([state(each) for each in ("scheduled", "queued", "running")])
    )
    if of_task:
        chosen = chosen.where(job.c.task == bindparam("p_task", type_=Text))
    if in_queue:
        chosen = chosen.where(job.c.queue == bindparam("p_queue", type_=Text))
    # What is in the Session already shows the row as it is now: a finish writes past the Session.
    return chosen.order_by(job.c.id).execution_options(populate_existing=True)


def _found(one: Any) -> ColumnElement[bool]:
    found: ColumnElement[bool] = one.scalar_subquery().is_not(None)
    return found
