"""What a job has come to, for who asks."""

from __future__ import annotations

from sqlalchemy import BigInteger, Executable, Integer, Text, bindparam, cast, literal_column, select

from sqla_jobs.statements.terms import Model, job_table, once


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
