"""Whether a worker process lives: its row, and the advisory lock keyed by it, by which others see it.

A worker that was found dead keeps its row for a minute, so that every process can see that somebody has just
died; it is a row of the dead from then on, also if the process lives after all.

The key is made of the row's id and its table, so that two schemas of one database do not share keys.
Whoever has no row can have no lock.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    Executable,
    Float,
    FromClause,
    Interval,
    Table,
    Text,
    and_,
    bindparam,
    case,
    cast,
    false,
    func,
    literal_column,
    not_,
    or_,
    select,
    update,
)

from sqla_jobs.statements.terms import Model, now, once, worker_table

LATELY: Final = literal_column("interval '1 minute'", Interval)
"""How long the row of a dead worker is kept."""

_MISSED: Final = literal_column("0.667", Float)
"""How much of the limit; the interval of the heartbeats is half of it at most."""

_XMIN: Final = cast(literal_column("xmin"), Text)


def lives(worker: FromClause) -> ColumnElement[bool]:
    """Whether the row is that of a worker which nobody has found dead."""
    return worker.c.died_at.is_(None)


def died_lately(worker: FromClause) -> ColumnElement[bool]:
    """Whether the row is that of a worker which was found dead within the last minute. Parameter: ``now``."""
    return worker.c.died_at > now() - LATELY


def is_doubtful(worker: FromClause) -> ColumnElement[bool]:
    """Whether a worker that was not found dead may have died without a trace. Parameter: ``now``.

    It has missed a heartbeat, or it is new and has no lock (yet): one that dies at once, at each start, is
    told from one that lives by nothing else, and nobody lives long enough to find it dead.
    """
    since = now() - worker.c.heartbeat_limit.op("*", return_type=Interval())(_MISSED)
    new = and_(not_(worker.c.locked), worker.c.started_at > since)
    return and_(lives(worker), or_(worker.c.heartbeat_at < since, new))


def _key(worker: Table) -> ColumnElement[Any]:
    return func.hashint8extended(worker.c.id, cast(literal_column("tableoid"), BigInteger))


def is_free(worker: Table, who: ColumnElement[bool]) -> ColumnElement[bool]:
    """Whether the row says ``locked`` and nobody has the lock. For statements on this table alone.

    It is tried in the shared form, so that those who look at the same time do not see each other, and
    held until their transaction ends. CASE, and not AND, whose parts the server may evaluate in any
    order: who is not to be looked at is not to be kept from its lock for an instant either.

    Parameters:
        who: of whom it is asked.
    """
    asked = worker.c.locked & who
    free = func.pg_try_advisory_xact_lock_shared(_key(worker), type_=Boolean)
    return case((asked, free), else_=false())


def version(worker: Table) -> ColumnElement[str]:
    """``id:xmin``: another text after every write to the row. For statements on this table alone."""
    return cast(worker.c.id, Text).op("||")(literal_column("':'")).op("||")(_XMIN)


@once
def lock(model: Model) -> Executable:
    """Try to lock the row of ``:p_id`` for as long as the connection lives; no row: it was taken for dead.

    It does not wait: who holds it may be a connection of our own that the server takes for alive.
    """
    worker = worker_table(model)
    mine = and_(worker.c.id == bindparam("p_id", type_=BigInteger), lives(worker))
    return select(func.pg_try_advisory_lock(_key(worker), type_=Boolean)).where(mine)


@once
def unlock() -> Executable:
    """Let go of every such lock of this connection."""
    return select(func.pg_advisory_unlock_all())


@once
def say_locked(model: Model) -> Executable:
    """The row of ``:p_id`` says that its lock is held. Only by who holds it, on the same connection.

    Not the row of one that was taken for dead between the lock and this word.
    """
    return _say(model, locked=True)


@once
def say_unlocked(model: Model) -> Executable:
    """The row of ``:p_id`` does not say any more that its lock is held. Locks the row."""
    return _say(model, locked=False)


def _say(model: Model, *, locked: bool) -> Executable:
    worker = worker_table(model)
    mine = and_(worker.c.id == bindparam("p_id", type_=BigInteger), lives(worker))
    return update(worker).where(mine).values(locked=locked)


@once
def unheld(model: Model) -> Executable:
    """The `version` of each row that says ``locked`` although its lock is free, but for ``:p_id``.

    Parameter: ``p_any``. Unless it is true, only of those that were registered since this server was
    started, and has not taken over from another one: whatever became of their locks, no restart and no
    failover has let go of them.

    Locks no row; a free lock in the shared form, until the transaction ends. A few rows, so no index.
    """
    worker = worker_table(model)
    others = worker.c.id != bindparam("p_id", type_=BigInteger)
    since_start = and_(
        worker.c.started_at > func.pg_postmaster_start_time(),
        func.pg_last_xact_replay_timestamp().is_(None),
    )
    known = or_(bindparam("p_any", type_=Boolean), since_start)
    return select(version(worker)).where(is_free(worker, and_(others, known, lives(worker))))
