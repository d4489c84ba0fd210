"""What is done to a schedule by hand: a job of it now, and its switch."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Executable,
    SmallInteger,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    insert,
    literal_column,
    not_,
    null,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.models import DEFAULT_QUEUE
from sqla_jobs.statements.terms import Model, job_table, now, once, rows, schedule_table, state

_NOTHING = literal_column("'{}'::jsonb", JSONB)
_REDACT = literal_column("'redact'", Text)
_ZERO = literal_column("0", SmallInteger)


@once
def run_schedule(model: Model) -> Executable:
    """Make a job of a schedule, whether it is switched on or not; returns (id, queue), or no row.

    Its tick is this very moment, beside those of the rule, whose next time stays as it is. Queue and priority
    are those of the schedule, else of its task (the parameters ``p_queue``, ``p_priority``; null: it is not
    known here), else of its last job. To that job's ``redact`` comes what ``p_meta`` says, JSON as text:
    where the task is not known, its arguments would else be seen by everybody.

    Parameters: those, ``p_name``, ``now``. Locks nothing but the new row. Indexes:
    ``uq_sqla_jobs_schedules_name``, ``uq_sqla_jobs_tick``.
    """
    job, row = job_table(model), schedule_table(model)
    earlier = job.alias("earlier")
    redacted = earlier.c.meta.op("->", return_type=JSONB)(_REDACT)
    last = (
        select(earlier.c.queue, earlier.c.priority, redacted.label("redact"))
        .where(earlier.c.schedule_id == row.c.id)
        .order_by(earlier.c.schedule_id.desc(), earlier.c.tick_at.desc())
        .limit(rows(1))
        .lateral("last")
    )
    queue, priority = bindparam("p_queue", type_=Text), bindparam("p_priority", type_=SmallInteger)
    given = cast(bindparam("p_meta", type_=Text), JSONB)
    as_before = case((last.c.redact.is_not(None), func.jsonb_build_object(_REDACT, last.c.redact)))
    values: dict[str, ColumnElement[Any]] = {
        "task": row.c.task,
        "arguments": row.c.arguments,
        "queue": func.coalesce(row.c.queue, queue, last.c.queue, literal_column(f"'{DEFAULT_QUEUE}'", Text)),
        "priority": func.coalesce(row.c.priority, priority, last.c.priority, _ZERO),
        "max_attempts": row.c.max_attempts,
        "timeout": row.c.timeout,
        "state": state("queued"),
        "run_at": now(),
        "schedule_id": row.c.id,
        "tick_at": now(),
        "meta": func.nullif(
            func.coalesce(as_before, _NOTHING).op("||")(func.coalesce(given, _NOTHING)), _NOTHING
        ),
    }
    chosen = (
        select(*values.values())
        .select_from(row.outerjoin(last, true()))
        .where(row.c.name == bindparam("p_name", type_=Text))
    )
    return insert(job).from_select(list(values), chosen).returning(job.c.id, job.c.queue)


@once
def switch_schedule(model: Model) -> Executable:
    """Switch a schedule on or off; returns its id, or no row: there is none.

    What was due while it was off was not missed: without a ``next_run_at``, the next worker that looks counts
    from then. Parameters: ``p_name``, ``p_enabled``, ``now``. Locks the row, and so waits for a tick of it.
    Index: ``uq_sqla_jobs_schedules_name``.
    """
    row = schedule_table(model)
    enabled = bindparam("p_enabled", type_=Boolean)
    comes_back = and_(enabled, not_(row.c.enabled), row.c.next_run_at <= now())
    return (
        update(row)
        .where(row.c.name == bindparam("p_name", type_=Text))
        .values(
            enabled=enabled,
            next_run_at=case((comes_back, null()), else_=row.c.next_run_at),
            updated_at=case((row.c.enabled == enabled, row.c.updated_at), else_=now()),
        )
        .returning(row.c.id)
    )
