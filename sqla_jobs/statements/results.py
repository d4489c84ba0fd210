"""What a job has come to, for who asks."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
    text,
    true,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.statements.terms import Model, job_table, once, rows, state, worker_table


@once
def result(model: Model) -> Executable:
    """What a job has left: (task, state, result, last); the last two are JSON as text, or null.

    ``last`` is the last of its ``attempts``. Of a task that returned None the result is the text ``null``.

    Parameter: ``p_id``. Locks nothing. Index: the primary key.
    """
    job = job_table(model)
    last = job.c.attempts.op("->")(literal_column("-1", Integer))
    return select(
        job.c.task,
        job.c.state,
        cast(job.c.result, Text).label("result"),
        cast(last, Text).label("last"),
    ).where(job.c.id == bindparam("p_id", type_=BigInteger))


@once
def progress(model: Model) -> Executable:
    """How far a job has come: (id, progress), JSON as text or null.

    Of one that runs, what its worker's row says of it under this very claim; of any other, and while that
    says nothing, what its own row has kept of the last attempt that said anything.

    Parameter: ``p_id``. Locks nothing. Indexes: the primary keys of the two tables.
    """
    job, worker = job_table(model), worker_table(model)
    running = func.jsonb_array_elements(worker.c.running).table_valued("entry").render_derived("running")
    entry = type_coerce(running.c.entry, JSONB)
    said = (
        select(entry.op("->")(text("'progress'")))
        .select_from(worker.join(running, true()))
        .where(
            worker.c.id == job.c.worker_id,
            entry.op("->>")(text("'id'")) == cast(job.c.id, Text),
            entry.op("->>")(text("'claim'")) == cast(job.c.claim, Text),
        )
        .limit(rows(1))
        .correlate(job)
        .scalar_subquery()
    )
    now_said = case((job.c.state == state("running"), said))
    known = func.coalesce(now_said, job.c.progress, type_=JSONB)
    return select(job.c.id, cast(known, Text).label("progress")).where(
        job.c.id == bindparam("p_id", type_=BigInteger)
    )
