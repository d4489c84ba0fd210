"""Every SQL statement, in the order of a job's life: functions that return SQLAlchemy statements.

Each is built once per model and cached. They are Core statements on the models' tables, so that an
application's ORM events and loader criteria do not reach into the queue's own book-keeping.

The database's clock decides. Each statement that needs the time takes the parameter ``now``; null
means ``statement_timestamp()``: not ``clock_timestamp()``, which is volatile and defeats an index,
nor ``now()``, which stands still in a long transaction. A parameter that would have a column's name
is prefixed, ``p_id``: in an UPDATE SQLAlchemy takes the plain name for a value to set.

Row locks on jobs are ``FOR NO KEY UPDATE``: plain ``FOR UPDATE`` conflicts with the ``FOR KEY SHARE``
that an application's foreign key takes on the job, so that workers would skip such a job, and the
application's insert would wait for the worker.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Interval,
    Table,
    Text,
    and_,
    any_,
    bindparam,
    case,
    cast,
    delete,
    func,
    insert,
    literal_column,
    null,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, array

from sqla_jobs.models import JobMixin, companions
from sqla_jobs.outcome import HISTORY_LIMIT

Model = type[JobMixin]

PROMOTE_BATCH: Final = 1000
RESCUE_BATCH: Final = 100

_ONE: Final = literal_column("1", Integer)
_BATCH: Final = literal_column(str(PROMOTE_BATCH), Integer)
_ANY_ROW: Final = true()

Builder = TypeVar("Builder", bound=Callable[..., Any])


def _once(build: Builder) -> Builder:
    """`functools.cache`, with the function's own type kept."""
    return cache(build)  # type: ignore[return-value]


def job_table(model: Model) -> Table:
    """The table of a job model."""
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def _workers(model: Model) -> Table:
    table = companions(job_table(model).schema).WorkerProcess.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def _state(value: str) -> ColumnElement[str]:
    # A literal, never a parameter: a generic plan could not prove that a partial index applies.
    return literal_column(f"'{value}'", Text)


def _is(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
    # `column = value`, by an index, but as `= ANY (ARRAY[value])`, which the planner neither hashes nor
    # merges nor takes for a constant.
    return column == any_(array([value]))


def now() -> ColumnElement[dt.datetime]:
    """The parameter ``now``, or the database's clock."""
    given = bindparam("now", None, DateTime(timezone=True), unique=False)
    return func.coalesce(given, func.statement_timestamp(), type_=DateTime(timezone=True))


def after(delay: dt.timedelta) -> ColumnElement[dt.datetime]:
    """The database's clock plus ``delay``, as a value for ``run_at``."""
    return func.statement_timestamp(type_=DateTime(timezone=True)) + cast(delay, Interval)


# -- claim ---------------------------------------------------------------------------------------

CLAIMED: Final = (
    "id", "task", "arguments", "queue", "priority", "attempt", "max_attempts", "claim", "worker_id",
    "crashes", "run_at", "created_at", "started_at",
)  # fmt: skip
"""The columns of a job that whoever runs it needs, in the order of ``lifecycle.Claimed``."""


def _columns(table: Table) -> list[ColumnElement[Any]]:
    return [table.c[name] for name in CLAIMED]


def _next_queued(
    job: Table, any_queue: bool, *columns: ColumnElement[Any], where: Any = _ANY_ROW
) -> Any:
    """The next queued rows, locked, in the order in which they are due to run.

    With queues: all of the first before any of the second. The lateral runs once a queue, in the
    array's order, and stops at the limit. There is no ORDER BY above it: that would sort the
    backlog of every queue (measured at 1M rows: 150 ms instead of 0.5).
    """
    order: list[Any] = [job.c.priority.desc(), job.c.run_at, job.c.id]
    picked = (
        select(*columns)
        .where(job.c.state == _state("queued"), where)
        # Rendered into the SQL: for an unknown limit the planner reckons with a tenth of the table.
        .limit(bindparam("limit", type_=Integer, literal_execute=True))
        .with_for_update(skip_locked=True, key_share=True)
    )
    if any_queue:
        return picked.order_by(*order)
    queue = func.unnest(bindparam("queues", type_=ARRAY(Text))).table_valued("name").render_derived("queue")
    # By the queue too, and not `queue = name`, with which that would be no order at all: where most jobs
    # are in one queue, the planner would walk the any-queue index, past the whole backlog, to find that
    # another queue is empty (10 ms with 50,000 queued jobs). Only the queue's own index has this order.
    each = picked.where(_is(job.c.queue, queue.c.name)).order_by(job.c.queue, *order).lateral("job")
    return (
        select(*each.c)
        .select_from(queue.join(each, true()))
        .limit(bindparam("limit", type_=Integer, literal_execute=True))
    )


@_once
def claim(model: Model, any_queue: bool) -> Executable:
    """Ordinary lane: ``queued`` -> ``running`` for up to ``:limit`` jobs, for ``:p_worker_id``.

    Parameters: ``limit``, ``p_worker_id``, ``now``, and ``queues`` unless ``any_queue``.
    Locks the rows it takes, passing over locked ones. Index: ``ix_sqla_jobs_claim``, or
    ``ix_sqla_jobs_claim_any``. The CTE is there because an UPDATE with a LIMIT in a plain subquery
    may run that subquery more than once, and then takes more than the limit.
    """
    job = job_table(model)
    picked = _next_queued(job, any_queue, job.c.id).cte("picked")
    return (
        update(job)
        .where(_is(job.c.id, picked.c.id))
        .values(
            state=_state("running"),
            attempt=job.c.attempt + _ONE,
            claim=job.c.claim + _ONE,
            worker_id=bindparam("p_worker_id", type_=BigInteger),
            started_at=now(),
        )
        .returning(*_columns(job), _durable())
    )


def _durable() -> ColumnElement[Any]:
    # A claim that the server forgets in a crash is an attempt uncounted and a fencing number given
    # twice: where the database is set to synchronous_commit = off, this transaction is not.
    return literal_column(
        "CASE WHEN current_setting('synchronous_commit') = 'off' "
        "THEN set_config('synchronous_commit', 'on', true) END"
    ).label("durable")


@_once
def take(model: Model, any_queue: bool) -> Executable:
    """``work_once``: lock the next queued job for the rest of the caller's transaction.

    Parameters: ``limit`` (1), ``now``, and ``queues`` unless ``any_queue``. The row stays
    ``queued``; ``started_at`` is the statement's time. Jobs that have killed a worker are left to
    workers, where attempts are counted before the job runs. Indexes as for ``claim``.
    """
    job = job_table(model)
    columns = [now().label("started_at") if c.key == "started_at" else c for c in _columns(job)]
    return _next_queued(job, any_queue, *columns, where=job.c.crashes < _ONE)


@_once
def take_due(model: Model, any_queue: bool) -> Executable:
    """``work_once``, when nothing is queued: promote the one due job that it would take, and lock it.

    That is the first one of those that ``promote`` would make ``queued`` now: of the 1,000 that have
    been due for the longest. Parameters: ``now``, and ``queues`` unless ``any_queue``. Locks one row,
    passing over locked ones. Index: ``ix_sqla_jobs_promote``, then the primary key.
    """
    job = job_table(model)
    due = select(job.c.id, job.c.state, job.c.run_at, job.c.priority, job.c.queue).where(
        job.c.state == _state("scheduled"), job.c.run_at <= now(), job.c.crashes < _ONE
    )
    if not any_queue:
        due = due.where(job.c.queue == func.any(bindparam("queues", type_=ARRAY(Text))))
    oldest = due.order_by(job.c.run_at).limit(_BATCH).cte("oldest")
    order: list[Any] = [oldest.c.priority.desc(), oldest.c.run_at, oldest.c.id]
    if not any_queue:
        order.insert(0, func.array_position(bindparam("queues", type_=ARRAY(Text)), oldest.c.queue))
    ranked = select(oldest).order_by(*order).cte("ranked")
    # As for the queues of a claim: the lateral runs in the order of the ranked rows, and locks until one
    # is got. A row that was changed meanwhile is compared again, and passed over if it is not due any more.
    unchanged = [job.c[name] == ranked.c[name] for name in ("id", "state", "run_at")]
    got = (
        select(job.c.id)
        .where(*unchanged, job.c.crashes < _ONE)
        .with_for_update(skip_locked=True, key_share=True)
        .lateral("got")
    )
    picked = select(got.c.id).select_from(ranked.join(got, true())).limit(_ONE).cte("picked")
    columns = [now().label("started_at") if c.key == "started_at" else c for c in _columns(job)]
    return update(job).where(_is(job.c.id, picked.c.id)).values(state=_state("queued")).returning(*columns)


# -- finish --------------------------------------------------------------------------------------


@_once
def finish(model: Model, fence: str) -> Executable:
    """Write the outcome of an attempt, if the claim still holds; returns (state, run_at) or no row.

    ``fence="running"``: the ordinary lane; the row must be running under this very claim of this
    worker. ``fence="queued"``: inside the transaction that holds the row's lock since ``take``;
    attempt and claim are counted here.

    Parameters: ``p_id``, ``p_claim``, ``p_worker_id`` (``running`` only), ``p_state``, ``delay`` (null:
    ``run_at`` stays), ``refund`` and ``crash`` (0 or 1), ``record`` (null: nothing is added to ``attempts``),
    ``p_started_at`` (``queued`` only), ``now``. Locks the row. Index: the primary key.

    A cancel that was requested while the job ran wins over a retry, a snooze and a give-back. It is
    decided here, in SQL, because the request may be committed a moment before this statement.
    """
    job = job_table(model)
    wanted = bindparam("p_state", type_=Text)
    refund = bindparam("refund", type_=Integer)
    record = bindparam("record", type_=JSONB(none_as_null=True))
    delay = cast(bindparam("delay", type_=Interval), Interval)  # not cast by itself, as others are
    in_claim = fence == "queued"
    attempt = job.c.attempt + _ONE if in_claim else job.c.attempt
    started = bindparam("p_started_at", type_=DateTime(timezone=True)) if in_claim else job.c.started_at
    is_final = wanted.in_([_state("succeeded"), _state("failed"), _state("cancelled")])
    cancelled = and_(job.c.cancel_requested_at.is_not(None), ~is_final)
    final = or_(is_final, cancelled)
    entry = record.op("||")(
        func.jsonb_build_object(
            text("'attempt'"), attempt,
            text("'started_at'"), started,
            text("'finished_at'"), now(),
            text("'worker_id'"), job.c.worker_id,
        )
    )  # fmt: skip
    kept = case(
        (
            func.jsonb_array_length(job.c.attempts) >= literal_column(str(HISTORY_LIMIT)),
            job.c.attempts.op("-")(literal_column("0", Integer)),
        ),
        else_=job.c.attempts,
    )
    values: dict[str, Any] = {
        "state": case((cancelled, _state("cancelled")), else_=wanted),
        "finished_at": case((final, now()), else_=null()),
        "run_at": case((delay.is_(None), job.c.run_at), else_=now() + delay),
        "attempt": attempt - refund,
        "crashes": job.c.crashes + bindparam("crash", type_=Integer),
        "worker_id": case((final, job.c.worker_id), else_=null()),
        "attempts": case(
            (record.is_(None), job.c.attempts), else_=kept.op("||")(func.jsonb_build_array(entry))
        ),
    }
    holds: list[ColumnElement[bool]] = [
        job.c.id == bindparam("p_id", type_=BigInteger),
        # Here a parameter rather than a literal: this is to go by the primary key, but a generic plan that
        # was made while the table was small would walk a partial index of that state, with its backlog.
        job.c.state == bindparam("fence", fence, Text),
        job.c.claim == bindparam("p_claim", type_=BigInteger),
    ]
    if in_claim:
        values |= {"claim": job.c.claim + _ONE, "started_at": started}
    else:
        holds.append(job.c.worker_id.is_not_distinct_from(bindparam("p_worker_id", type_=BigInteger)))
    return update(job).where(*holds).values(values).returning(job.c.state, job.c.run_at)


@_once
def standing(model: Model) -> Executable:
    """What a job's row says of its claim: (state, claim, worker_id, cancel_requested). Locks nothing.

    Parameter: ``p_id``. Index: the primary key.
    """
    job = job_table(model)
    return select(
        job.c.state, job.c.claim, job.c.worker_id, job.c.cancel_requested_at.is_not(None).label("cancel")
    ).where(job.c.id == bindparam("p_id", type_=BigInteger))


# -- promote -------------------------------------------------------------------------------------


@_once
def promote(model: Model) -> Executable:
    """``scheduled`` -> ``queued`` for up to 1,000 jobs that are due; returns their ids.

    Parameter: ``now``. Locks the rows it takes, passing over locked ones, so that any number of
    workers may promote at once. Index: ``ix_sqla_jobs_promote``.
    """
    job = job_table(model)
    due = (
        select(job.c.id)
        .where(job.c.state == _state("scheduled"), job.c.run_at <= now())
        .order_by(job.c.run_at)
        .limit(_BATCH)
        .with_for_update(skip_locked=True, key_share=True)
        .cte("due")
    )
    return update(job).where(_is(job.c.id, due.c.id)).values(state=_state("queued")).returning(job.c.id)


@_once
def next_due(model: Model) -> Executable:
    """Seconds until the next scheduled job is due; no row: none waits. Locks nothing.

    Parameter: ``now``. Index: ``ix_sqla_jobs_promote``.
    """
    job = job_table(model)
    return (
        select(func.extract("epoch", job.c.run_at - now()).label("seconds"))
        .where(job.c.state == _state("scheduled"))
        .order_by(job.c.run_at)
        .limit(_ONE)
    )


@_once
def remaining(model: Model, any_queue: bool) -> Executable:
    """How many jobs are queued, running or due. Locks nothing.

    Parameters: ``now``, and ``queues`` unless ``any_queue``. Reads the partial indexes of those
    states: its cost grows with the backlog, not with the finished jobs.
    """
    job = job_table(model)
    count = select(func.count()).select_from(job)
    if not any_queue:
        count = count.where(job.c.queue == func.any(bindparam("queues", type_=ARRAY(Text))))
    parts = (
        count.where(job.c.state == _state("queued")),
        count.where(job.c.state == _state("running")),
        count.where(job.c.state == _state("scheduled"), job.c.run_at <= now()),
    )
    queued, running, due = (part.scalar_subquery() for part in parts)
    return select(queued + running + due)


# -- workers -------------------------------------------------------------------------------------


@_once
def register(model: Model) -> Executable:
    """A new worker process; returns its id. Parameters: the columns that have no default."""
    worker = _workers(model)
    return insert(worker).returning(worker.c.id)


@_once
def heartbeat(model: Model) -> Executable:
    """This worker lives; no row: it was taken for dead. Parameters: ``p_id``, ``p_running``, ``now``.

    Locks the worker's row, and so waits for a ``bury`` that has chosen it: a worker is dead or
    alive for everyone at once.
    """
    worker = _workers(model)
    return (
        update(worker)
        .where(worker.c.id == bindparam("p_id", type_=BigInteger))
        .values(heartbeat_at=now(), running=bindparam("p_running", type_=JSONB))
    )


@_once
def goodbye(model: Model) -> Executable:
    """A worker process ends. Parameter: ``p_id``."""
    worker = _workers(model)
    return delete(worker).where(worker.c.id == bindparam("p_id", type_=BigInteger))


@_once
def bury(model: Model) -> Executable:
    """Remove the rows of workers whose last heartbeat is older than their limit; returns them.

    Parameter: ``now``. Locks the rows, passing over locked ones: one that beats at this moment lives.
    """
    worker = _workers(model)
    dead = (
        select(worker.c.id)
        .where(worker.c.heartbeat_at <= now() - worker.c.heartbeat_limit)
        .with_for_update(skip_locked=True)
        .cte("dead")
    )
    return (
        delete(worker)
        .where(worker.c.id == dead.c.id)
        .returning(worker.c.id, worker.c.host, worker.c.pid, worker.c.heartbeat_at)
    )


@_once
def orphans(model: Model) -> Executable:
    """Up to 100 running jobs whose worker is null or names no row, locked.

    Locks the jobs, passing over locked ones: a finish under way wins. Index:
    ``ix_sqla_jobs_rescue``, which holds the running jobs only.
    """
    job, worker = job_table(model), _workers(model)
    alive = select(worker.c.id).where(worker.c.id == job.c.worker_id).exists()
    return (
        select(*_columns(job))
        .where(job.c.state == _state("running"), ~alive)
        .limit(literal_column(str(RESCUE_BATCH), Integer))
        .with_for_update(of=job, skip_locked=True, key_share=True)
    )


@_once
def living(model: Model) -> Executable:
    """Which of the workers ``:ids`` have a row. Locks nothing. Index: the primary key."""
    worker = _workers(model)
    ids = bindparam("ids", type_=ARRAY(BigInteger))
    return select(worker.c.id).where(worker.c.id == func.any(ids))


@_once
def running_under(model: Model) -> Executable:
    """The jobs that run under ``:p_worker_id``. Locks nothing. Index: ``ix_sqla_jobs_rescue``."""
    job = job_table(model)
    return select(*_columns(job)).where(
        job.c.state == _state("running"), job.c.worker_id == bindparam("p_worker_id", type_=BigInteger)
    )
