"""Schedules whose time has come, and the jobs that are made of them."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    Float,
    FromClause,
    SmallInteger,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    exists,
    func,
    literal_column,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, insert

from sqla_jobs.statements.liveness import lives
from sqla_jobs.statements.terms import (
    Model,
    finite,
    is_,
    job_table,
    now,
    once,
    rows,
    schedule_table,
    state,
    worker_table,
)

TICK_BATCH: Final = 100
"""How many schedules are looked at in a transaction."""

_UNFINISHED: Final = ("scheduled", "queued", "running")
_LOOKED_BACK: Final = 20
_MOMENT: Final = DateTime(timezone=True)
_NO_TIME: Final = literal_column("0e0", Float)


def _rule(row: FromClause) -> ColumnElement[str]:
    """The rule as a text: what cannot be read is known by it, until it is edited."""
    return func.coalesce(
        row.c.cron + literal_column("' in '", Text) + row.c.timezone, cast(row.c.every, Text)
    )


def _mine(row: FromClause) -> list[ColumnElement[bool]]:
    """Those that this process makes jobs of. Parameters: ``tasks``, ``unreadable`` rules, ``refused`` ids."""
    return [
        row.c.enabled,
        row.c.task == func.any(bindparam("tasks", type_=ARRAY(Text))),
        _rule(row) != func.all(bindparam("unreadable", type_=ARRAY(Text))),
        row.c.id != func.all(bindparam("refused", type_=ARRAY(BigInteger))),
    ]


@once
def next_times(model: Model) -> Executable:
    """Seconds until the next scheduled job, and until the next schedule, are due; null: there is none.

    A schedule that has no ``next_run_at`` yet is due. Parameters: those of `due`. Locks nothing. Indexes:
    ``ix_sqla_jobs_promote``, ``ix_sqla_jobs_schedules_due``.
    """
    job, row = job_table(model), schedule_table(model)
    first_job = (
        select(job.c.run_at).where(job.c.state == state("scheduled")).order_by(job.c.run_at).limit(rows(1))
    )
    timed = and_(*_mine(row), row.c.next_run_at.is_not(None))
    first = select(finite(row.c.next_run_at)).where(timed).order_by(row.c.next_run_at).limit(rows(1))
    untimed = select(now()).where(exists(select(row.c.id).where(*_mine(row), row.c.next_run_at.is_(None))))
    # least() passes over nulls.
    moment = func.least(first.scalar_subquery(), untimed.scalar_subquery(), type_=_MOMENT)
    return select(
        func.extract("epoch", first_job.scalar_subquery() - now()).label("jobs"),
        func.extract("epoch", moment - now()).label("schedules"),
    )


@once
def due(model: Model, timed: bool) -> Executable:
    """The schedules that are due, up to 100 of them, the oldest first; or those without a ``next_run_at``.

    Not both at once: of an OR a plan for any ``now`` reads all that are enabled. Locks the rows until they
    are advanced, passing over locked ones, so that any number of workers may tick at once. Parameters:
    ``tasks`` (that this process knows), ``unreadable`` (rules), ``refused`` (ids), ``now``. Index:
    ``ix_sqla_jobs_schedules_due``.
    """
    row = schedule_table(model)
    return (
        select(
            row.c.id,
            row.c.name,
            row.c.task,
            row.c.queue,
            row.c.priority,
            row.c.cron,
            row.c.timezone,
            _seconds(row.c.every).label("every"),
            _bounded(row.c.jitter).label("jitter"),
            row.c.catch_up,
            row.c.overlap,
            case((row.c.next_run_at.is_not(None), finite(row.c.next_run_at))).label("next_run_at"),
            _rule(row).label("rule"),
            now().label("now"),
            cast(row.c.arguments, Text).label("arguments"),
        )
        .where(*_mine(row), row.c.next_run_at <= now() if timed else row.c.next_run_at.is_(None))
        .order_by(row.c.next_run_at)
        .limit(rows(TICK_BATCH))
        .with_for_update(skip_locked=True, key_share=True)
    )


def _seconds(length: ColumnElement[Any]) -> ColumnElement[float]:
    return func.extract("epoch", length).cast(Float)


def _bounded(length: ColumnElement[Any]) -> ColumnElement[float]:
    """Seconds from none to a hundred years: SQL may have written a length that no time can be moved by."""
    century = literal_column("3155760000e0", Float)
    return case((length.is_not(None), func.least(func.greatest(_seconds(length), _NO_TIME), century)))


@once
def busy_schedules(model: Model) -> Executable:
    """Which of the schedules ``ids`` have a job that is not finished, among their last 20. Locks nothing.

    The last one alone would not do: it may be finished, run by hand beside one that goes on, or an earlier
    one may have been given another try. All of them would: of a rule of seconds that is a million.

    After `due` has locked them, by a statement of its own: what another worker has made of one of them
    before is not in the snapshot that the lock was taken by. Index: ``uq_sqla_jobs_tick``.
    """
    job = job_table(model)
    given = func.unnest(bindparam("ids", type_=ARRAY(BigInteger))).table_valued("id").render_derived("given")
    last = (
        select(job.c.state)
        .where(is_(job.c.schedule_id, given.c.id), job.c.schedule_id.is_not(None))
        .order_by(job.c.schedule_id.desc(), job.c.tick_at.desc())
        .limit(rows(_LOOKED_BACK))
        .lateral("last")
    )
    return (
        select(given.c.id)
        .select_from(given.join(last, true()))
        .where(last.c.state.in_([state(each) for each in _UNFINISHED]))
        .distinct()
    )


@once
def make_due(model: Model) -> Executable:
    """Make the jobs of ticks; returns their queues and states. Locks nothing but the new rows.

    A tick that has a job already is passed over: ``uq_sqla_jobs_tick``. Parameters, lists of the same
    length: ``ids`` of the schedules, ``ticks``, ``moments`` (when to run), the ``queues`` and ``priorities``
    for schedules that say none, ``keys`` (null: their task has no limit) and ``metas``, JSON as text;
    ``now``.
    """
    job, row = job_table(model), schedule_table(model)
    given = (
        func.unnest(
            bindparam("ids", type_=ARRAY(BigInteger)),
            bindparam("ticks", type_=ARRAY(_MOMENT)),
            bindparam("moments", type_=ARRAY(_MOMENT)),
            bindparam("queues", type_=ARRAY(Text)),
            bindparam("priorities", type_=ARRAY(SmallInteger)),
            bindparam("keys", type_=ARRAY(Text)),
            bindparam("metas", type_=ARRAY(Text)),
        )
        .table_valued("id", "tick_at", "run_at", "queue", "priority", "limit_key", "meta")
        .render_derived("given")
    )
    values: dict[str, ColumnElement[Any]] = {
        "task": row.c.task,
        "arguments": row.c.arguments,
        "queue": func.coalesce(row.c.queue, given.c.queue),
        "priority": func.coalesce(row.c.priority, given.c.priority),
        "max_attempts": row.c.max_attempts,
        "timeout": row.c.timeout,
        "state": case((given.c.run_at <= now(), state("queued")), else_=state("scheduled")),
        "run_at": given.c.run_at,
        "schedule_id": row.c.id,
        "tick_at": given.c.tick_at,
        "limit_key": given.c.limit_key,
        "meta": cast(given.c.meta, JSONB),
    }
    made = (
        select(*values.values())
        .select_from(given.join(row, row.c.id == given.c.id))
        .order_by(given.c.run_at, row.c.id)
    )
    return (
        insert(job)
        .from_select(list(values), made)
        .on_conflict_do_nothing(
            index_elements=[job.c.schedule_id, job.c.tick_at], index_where=job.c.schedule_id.is_not(None)
        )
        .returning(job.c.queue, job.c.state)
    )


@once
def advance(model: Model) -> Executable:
    """Write when schedules are due next. Locks the rows, which `due` has locked. Index: the primary key.

    Parameters, lists of the same length: ``ids``, ``moments``, and ``ticks``, their last (null: none yet).
    """
    row = schedule_table(model)
    given = (
        func.unnest(
            bindparam("ids", type_=ARRAY(BigInteger)),
            bindparam("moments", type_=ARRAY(_MOMENT)),
            bindparam("ticks", type_=ARRAY(_MOMENT)),
        )
        .table_valued("id", "next_run_at", "tick_at")
        .render_derived("given")
    )
    return (
        update(row)
        .where(row.c.id == given.c.id)
        .values(
            next_run_at=given.c.next_run_at, last_tick_at=func.coalesce(given.c.tick_at, row.c.last_tick_at)
        )
    )


@once
def all_schedules(model: Model) -> Executable:
    """All schedules with their last job, and whether no living worker has their task; by name.

    Of a worker whose row does not say what it knows, it is taken to know all. Locks nothing. Reads the
    whole table, which is small, and ``uq_sqla_jobs_tick`` for each.
    """
    job, row, worker = job_table(model), schedule_table(model), worker_table(model)
    last = _last_job(job, row)
    knows = or_(worker.c.tasks.is_(None), worker.c.tasks.has_key(row.c.task))
    known = exists(select(worker.c.id).where(lives(worker), knows))
    return (
        select(
            row.c.id,
            row.c.name,
            row.c.task,
            row.c.cron,
            row.c.timezone,
            _seconds(row.c.every).label("every"),
            row.c.enabled,
            row.c.definition.is_(None).label("data"),
            case((row.c.next_run_at.is_not(None), finite(row.c.next_run_at))).label("next_run_at"),
            case((row.c.last_tick_at.is_not(None), finite(row.c.last_tick_at))).label("last_tick_at"),
            last.c.id.label("job_id"),
            last.c.state.label("job_state"),
            (~known).label("orphaned"),
        )
        .select_from(row.outerjoin(last, true()))
        .order_by(row.c.name)
    )


def _last_job(job: Table, row: Table) -> Any:
    return (
        select(job.c.id, job.c.state)
        .where(job.c.schedule_id == row.c.id)
        .order_by(job.c.schedule_id.desc(), job.c.tick_at.desc())
        .limit(rows(1))
        .lateral("last_job")
    )
