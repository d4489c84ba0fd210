"""What is shown of a job, in forms that Python can load from any row, one of raw SQL included."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    Integer,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    null,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.statements.terms import (
    Model,
    finite,
    job_table,
    once,
    schedule_table,
    seconds,
    state,
    worker_table,
)

_PLAIN: Final = (
    "id", "task", "queue", "priority", "state", "attempt", "max_attempts", "crashes", "worker_id",
    "schedule_id",
)  # fmt: skip
_MOMENTS: Final = (
    "run_at", "created_at", "started_at", "finished_at", "cancel_requested_at", "tick_at",
)  # fmt: skip
_ERROR_SHOWN: Final = literal_column("300", Integer)
"""Characters of an error that are shown of a job among others."""


def last_error(job: Any) -> ColumnElement[str | None]:
    """Class and message of the error of the last attempt; null: it has none, or has succeeded after all."""
    last = job.c.attempts.op("->", return_type=JSONB)(literal_column("-1", Integer))

    def part(name: str) -> ColumnElement[Any]:
        text: ColumnElement[Any] = last.op("->>", return_type=Text)(literal_column(f"'{name}'", Text))
        return text

    told = func.concat_ws(
        literal_column("': '"), part("error"), func.nullif(part("message"), literal_column("''"))
    )
    any_told = and_(job.c.state != state("succeeded"), part("error").is_not(None))
    return case((any_told, told), else_=null())


def shown_columns(job: Table) -> list[ColumnElement[Any]]:
    """What is shown of a job among others; ``progress`` and ``meta`` are JSON as text."""
    return [
        *(job.c[name] for name in _PLAIN),
        *(_moment(job, name) for name in _MOMENTS),
        cast(job.c.progress, Text).label("progress"),
        func.left(last_error(job), _ERROR_SHOWN, type_=Text).label("error"),
        cast(job.c.meta, Text).label("meta"),
    ]


def _moment(job: Table, name: str) -> ColumnElement[Any]:
    column = job.c[name]
    if not column.nullable:
        return finite(column).label(name)
    return case((column.is_not(None), finite(column))).label(name)


@once
def detail(model: Model) -> Executable:
    """One job, with all of its row: what `shown_columns` has, and the rest; JSON as text. Locks nothing.

    Parameter: ``p_id``. Indexes: the primary keys of the three tables.
    """
    job, schedule, worker = job_table(model), schedule_table(model), worker_table(model)
    as_text = [cast(job.c[name], Text).label(name) for name in ("arguments", "attempts", "result")]
    return (
        select(
            *shown_columns(job),
            *as_text,
            seconds(job.c.timeout).label("timeout"),
            job.c.unique_key,
            job.c.unique_scope,
            job.c.unique_held,
            job.c.limit_key,
            job.c.claim,
            schedule.c.name.label("schedule"),
            worker.c.host,
            worker.c.pid,
        )
        .select_from(
            job.outerjoin(schedule, schedule.c.id == job.c.schedule_id).outerjoin(
                worker, worker.c.id == job.c.worker_id
            )
        )
        .where(job.c.id == bindparam("p_id", type_=BigInteger))
    )
