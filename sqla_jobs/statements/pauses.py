"""Queues that are paused, and those beside them that have jobs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ARRAY, Executable, Table, Text, bindparam, func, null, select, true, update
from sqlalchemy.dialects.postgresql import insert

from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.terms import Model, job_table, now, once, queue_table, rows, state


@once
def pause(model: Model) -> Executable:
    """Note that a queue is paused; returns its name, or no row: it was paused already.

    Parameters: ``p_name``, ``now``. Locks its row until the transaction ends. Index: ``pk_sqla_jobs_queues``.
    """
    row = queue_table(model)
    made = insert(row).values(name=bindparam("p_name", type_=Text), paused_at=now())
    return made.on_conflict_do_update(
        index_elements=[row.c.name],
        set_={"paused_at": made.excluded.paused_at},
        where=row.c.paused_at.is_(None),
    ).returning(row.c.name)


@once
def resume(model: Model) -> Executable:
    """Note that a queue is not paused; returns its name, or no row: it was not.

    Parameter: ``p_name``. Locks its row until the transaction ends. Index: ``pk_sqla_jobs_queues``.
    """
    row = queue_table(model)
    return (
        update(row)
        .where(row.c.name == bindparam("p_name", type_=Text), row.c.paused_at.is_not(None))
        .values(paused_at=null())
        .returning(row.c.name)
    )


@once
def paused(model: Model) -> Executable:
    """The names of the queues that are paused. Locks nothing; reads a table of a few rows."""
    row = queue_table(model)
    return select(row.c.name).where(row.c.paused_at.is_not(None))


@once
def all_queues(model: Model, most: int) -> Executable:
    """The queues for which something is set: (name, paused_at). Locks nothing. Index: their primary key."""
    row = queue_table(model)
    return select(row.c.name, row.c.paused_at).order_by(row.c.name).limit(rows(most))


def heads(job: Table, only: Filter | None = None) -> Any:
    """The first queued job of each queue, locked or not, as a CTE: its queue and what it is ordered by.

    ``only``: the first that satisfies the filter, of each queue that has such jobs.

    From one queue to the next by the index, so that it reads one entry of each, whatever their backlogs.
    """
    columns = [job.c.queue, job.c.priority, job.c.run_at, job.c.id]
    order: list[Any] = [job.c.queue, job.c.priority.desc(), job.c.run_at, job.c.id]
    queued = select(*columns).where(job.c.state == state("queued")).order_by(*order).limit(rows(1))
    if only is not None:
        queued = queued.where(only.clause)
    first = queued.subquery("first_head")
    head = select(first).cte("head", recursive=True)
    following = queued.where(job.c.queue > head.c.queue).correlate(head).lateral("next_head")
    return head.union_all(select(following).select_from(head.join(following, true())))


@once
def open_queues(model: Model, only: Filter | None = None) -> Executable:
    """The queues that have queued jobs and are not among ``:closed``, the one of the next job first.

    ``only``: those that have jobs that satisfy the filter. Locks nothing. Index: ``ix_sqla_jobs_claim``, or
    that of `index_ddl`, of which it reads one entry for each queue that has any.
    """
    head = heads(job_table(model), only)
    return (
        select(head.c.queue)
        .where(head.c.queue != func.all(bindparam("closed", type_=ARRAY(Text))))
        .order_by(head.c.priority.desc(), head.c.run_at, head.c.id)
    )
