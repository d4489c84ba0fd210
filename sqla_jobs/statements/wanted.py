"""The conditions of a filter of jobs: made for one look each, since each filter has others."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Collection, Iterable
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    Integer,
    Interval,
    Table,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    not_,
    select,
)
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.statements.details import last_error
from sqla_jobs.statements.terms import Model, job_table, now, once, schedule_table, state


def wanted(
    model: Model,
    *,
    states: Collection[str] | None = None,
    task: str | None = None,
    queue: str | None = None,
    worker_id: int | None = None,
    schedule_id: int | None = None,
    arguments: Iterable[tuple[tuple[str, ...], Any]] | None = None,
    error: str | None = None,
    older_than: dt.timedelta | None = None,
    newer_than: dt.timedelta | None = None,
) -> ColumnElement[bool] | None:
    """Whether a job is one of those asked for; None: all are. Parameter: ``now``, if an age is asked for.

    What costs most to look at comes last.
    """
    job = job_table(model)
    conditions: list[ColumnElement[bool]] = []
    if states:
        conditions.append(job.c.state.in_([state(each) for each in states]))
    values = {"task": task, "queue": queue, "worker_id": worker_id, "schedule_id": schedule_id}
    conditions += [job.c[name] == value for name, value in values.items() if value is not None]
    conditions += _of_age(job, older_than, newer_than)
    conditions += [_of_argument(job, path, value) for path, value in arguments or ()]
    if error is not None:
        conditions.append(_of_error(job, error))
    return and_(*conditions) if conditions else None


def _of_argument(job: Table, path: tuple[str, ...], value: Any) -> ColumnElement[bool]:
    """Whether there is this JSON value at a path of the arguments. Not of one that the row says is redacted.

    Who may not see a value shall not guess it either.
    """
    there = job.c.arguments.op("#>", return_type=JSONB)(literal(list(path), ARRAY(Text)))
    is_it: ColumnElement[bool] = there == cast(literal(json.dumps(value), Text), JSONB)
    redacted = job.c.meta.op("->", return_type=JSONB)(literal_column("'redact'", Text))
    hidden = func.coalesce(redacted.bool_op("?")(literal(path[0], Text)), literal_column("false"))
    return and_(is_it, not_(hidden))


def _of_error(job: Table, part: str) -> ColumnElement[bool]:
    """Whether the error of its last attempt has this text in its class or message; case does not matter."""
    # Of a row without attempts, nothing is unpacked.
    has_some = job.c.attempts != literal_column("'[]'::jsonb", JSONB)
    found = func.strpos(func.lower(last_error(job)), func.lower(literal(part, Text)), type_=Integer)
    return and_(has_some, found > literal_column("0", Integer))


def _of_age(
    job: Table, older_than: dt.timedelta | None, newer_than: dt.timedelta | None
) -> list[ColumnElement[bool]]:
    """Whether it was enqueued before, or since. Parameter: ``now``."""
    created_at = job.c.created_at

    def ago(age: dt.timedelta) -> Any:
        return now() - cast(literal(age, Interval), Interval)

    conditions: list[ColumnElement[bool]] = []
    if older_than is not None:
        conditions.append(created_at <= ago(older_than))
    if newer_than is not None:
        conditions.append(created_at > ago(newer_than))
    return conditions


@once
def schedule_id(model: Model) -> Executable:
    """The id of a schedule. Parameter: ``p_name``. Locks nothing. Index: ``uq_sqla_jobs_schedules_name``."""
    row = schedule_table(model)
    return select(row.c.id).where(row.c.name == bindparam("p_name", type_=Text))
