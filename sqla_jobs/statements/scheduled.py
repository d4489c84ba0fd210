"""Jobs that wait for their time."""

from __future__ import annotations

from sqlalchemy import Executable, func, select, update

from sqla_jobs.statements.terms import PROMOTE_BATCH, Model, is_, job_table, now, once, rows, state


@once
def promote(model: Model) -> Executable:
    """``scheduled`` -> ``queued`` for up to 1,000 jobs that are due; returns their ids and queues.

    Parameter: ``now``. Locks the rows it takes, passing over locked ones, so that any number of
    workers may promote at once. Index: ``ix_sqla_jobs_promote``.
    """
    job = job_table(model)
    due = (
        select(job.c.id)
        .where(job.c.state == state("scheduled"), job.c.run_at <= now())
        .order_by(job.c.run_at)
        .limit(rows(PROMOTE_BATCH))
        .with_for_update(skip_locked=True, key_share=True)
        .cte("due")
    )
    return (
        update(job)
        .where(is_(job.c.id, due.c.id))
        .values(state=state("queued"))
        .returning(job.c.id, job.c.queue)
    )


@once
def next_due(model: Model) -> Executable:
    """Seconds until the next scheduled job is due; no row: none waits. Locks nothing.

    Parameter: ``now``. Index: ``ix_sqla_jobs_promote``.
    """
    job = job_table(model)
    return (
        select(func.extract("epoch", job.c.run_at - now()).label("seconds"))
        .where(job.c.state == state("scheduled"))
        .order_by(job.c.run_at)
        .limit(rows(1))
    )
