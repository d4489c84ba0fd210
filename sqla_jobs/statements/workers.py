"""The worker processes: one row each, for as long as they live, and for a minute if they die."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Executable,
    Integer,
    Interval,
    Text,
    and_,
    bindparam,
    case,
    cast,
    delete,
    false,
    func,
    insert,
    literal_column,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.models import companions
from sqla_jobs.statements.liveness import died_lately, is_free, lives, version
from sqla_jobs.statements.terms import Model, durable, finite, now, once, rows, seconds, worker_table

# Of a worker that says it holds its lock: longer than a stop or a busy machine lasts.
TEN = literal_column("10", Integer)


@once
def register(model: Model) -> Executable:
    """A new worker process; returns its id. Parameters: the columns that have no default."""
    worker = worker_table(model)
    return insert(worker).returning(worker.c.id, durable())


@once
def heartbeat(model: Model) -> Executable:
    """This worker lives; no living row: it was taken for dead. Parameters: ``p_id``, ``p_running``, ``now``.

    Locks the worker's row, and so waits for a ``bury`` that has chosen it: a worker is dead or
    alive for everyone at once.
    """
    worker = worker_table(model)
    return (
        update(worker)
        .where(worker.c.id == bindparam("p_id", type_=BigInteger), lives(worker))
        .values(heartbeat_at=now(), running=bindparam("p_running", type_=JSONB))
    )


@once
def goodbye(model: Model) -> Executable:
    """A worker process ends, and has not died, whatever others took it for. Parameter: ``p_id``."""
    worker = worker_table(model)
    return delete(worker).where(worker.c.id == bindparam("p_id", type_=BigInteger))


@once
def bury(model: Model) -> Executable:
    """Note of workers that are dead when that was found; returns them, and whether their lock is free.

    Dead is whose last heartbeat is older than its limit, or, if its row says ``locked``, than ten: the
    lock of a process that is stopped, or busy, says that it lives, but a child that it forked may hold
    it too. And dead is who is named in ``gone``, if its row is still what it was then, and its lock free.

    Parameters: ``gone``, a list of `version`; ``now``. Locks the rows, passing over locked ones: one that
    beats at this moment lives.
    """
    worker = worker_table(model)
    ten_limits = worker.c.heartbeat_limit.op("*", return_type=Interval())(TEN)
    limit = case((worker.c.locked, ten_limits), else_=worker.c.heartbeat_limit)
    named = version(worker) == func.any(bindparam("gone", [], ARRAY(Text)))
    free = is_free(worker, named)
    dead = (
        select(worker.c.id, free.label("free"))
        .where(lives(worker), or_(worker.c.heartbeat_at <= now() - limit, free))
        .with_for_update(skip_locked=True)
        .cte("dead")
    )
    return (
        update(worker)
        .where(worker.c.id == dead.c.id)
        .values(died_at=now(), locked=false())
        .returning(worker.c.id, worker.c.host, worker.c.pid, worker.c.heartbeat_at, dead.c.free)
    )


@once
def forget(model: Model) -> Executable:
    """Remove the rows of workers that were found dead more than a minute ago. Parameter: ``now``.

    Locks the rows, passing over locked ones: who is at the same has them. A few rows, so no index.
    """
    worker = worker_table(model)
    # Of the living neither is true: they have not died at any time.
    old = select(worker.c.id).where(not_(died_lately(worker))).with_for_update(skip_locked=True)
    return delete(worker).where(worker.c.id.in_(old))


@once
def known(model: Model) -> Executable:
    """What is known of the workers ``:ids``, and whether they live. Locks nothing. Index: the primary key.

    The columns of `bury`; of one that was found dead before nobody knows any more whether its lock was free.
    And ``running``, JSON as text: what they said last of their jobs.
    """
    worker = worker_table(model)
    ids = bindparam("ids", type_=ARRAY(BigInteger))
    told = (worker.c.id, worker.c.host, worker.c.pid, worker.c.heartbeat_at)
    running = cast(worker.c.running, Text).label("running")
    return select(*told, running, false().label("free"), lives(worker).label("lives")).where(
        worker.c.id == func.any(ids)
    )


@once
def all_workers(model: Model, most: int) -> Executable:
    """The worker processes that have a row, with ``alive``; JSON as text. Parameter: ``now``. Locks nothing.

    Whether a lock is free is not asked: who asks holds it for a moment. A few rows: index, the primary key.
    """
    worker = worker_table(model)
    in_time = worker.c.heartbeat_at > now() - worker.c.heartbeat_limit
    plain = ("id", "host", "pid", "version", "threads", "died_at")
    moments = [finite(worker.c[name]).label(name) for name in ("started_at", "heartbeat_at")]
    as_text = [cast(worker.c[name], Text).label(name) for name in ("queues", "tasks", "running")]
    limit = seconds(worker.c.heartbeat_limit).label("heartbeat_limit")
    alive = and_(lives(worker), in_time).label("alive")
    return (
        select(*[worker.c[name] for name in plain], *moments, *as_text, limit, alive)
        .order_by(worker.c.id)
        .limit(rows(most))
    )


@once
def health(schema: str | None) -> Executable:
    """How many workers there are, how many of them live, and the age of the last heartbeat of each group.

    Those that were found dead do not count. One whose row says ``locked`` while its lock is free is gone, or
    its connection is.

    Parameters: ``p_host``, null for any; ``now``. Locks no row. A few rows, so no index.
    """
    worker = companions(schema).WorkerProcess.__table__  # type: ignore[attr-defined]
    host = bindparam("p_host", type_=Text)
    in_time = worker.c.heartbeat_at > now() - worker.c.heartbeat_limit
    living = and_(in_time, not_(is_free(worker, true())))
    age = func.min(now() - worker.c.heartbeat_at, type_=Interval)
    return select(func.count(), age, func.count().filter(living), age.filter(living)).where(
        lives(worker), or_(host.is_(None), worker.c.host == host)
    )
