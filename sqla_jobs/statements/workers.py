"""The worker processes: one row each, for as long as they live."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Executable, bindparam, delete, func, insert, select, update
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.statements.terms import Model, durable, now, once, worker_table


@once
def register(model: Model) -> Executable:
    """A new worker process; returns its id. Parameters: the columns that have no default."""
    worker = worker_table(model)
    return insert(worker).returning(worker.c.id, durable())


@once
def heartbeat(model: Model) -> Executable:
    """This worker lives; no row: it was taken for dead. Parameters: ``p_id``, ``p_running``, ``now``.

    Locks the worker's row, and so waits for a ``bury`` that has chosen it: a worker is dead or
    alive for everyone at once.
    """
    worker = worker_table(model)
    return (
        update(worker)
        .where(worker.c.id == bindparam("p_id", type_=BigInteger))
        .values(heartbeat_at=now(), running=bindparam("p_running", type_=JSONB))
    )


@once
def goodbye(model: Model) -> Executable:
    """A worker process ends. Parameter: ``p_id``."""
    worker = worker_table(model)
    return delete(worker).where(worker.c.id == bindparam("p_id", type_=BigInteger))


@once
def bury(model: Model) -> Executable:
    """Remove the rows of workers whose last heartbeat is older than their limit; returns them.

    Parameter: ``now``. Locks the rows, passing over locked ones: one that beats at this moment lives.
    """
    worker = worker_table(model)
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


@once
def living(model: Model) -> Executable:
    """Which of the workers ``:ids`` have a row. Locks nothing. Index: the primary key."""
    worker = worker_table(model)
    ids = bindparam("ids", type_=ARRAY(BigInteger))
    return select(worker.c.id).where(worker.c.id == func.any(ids))
