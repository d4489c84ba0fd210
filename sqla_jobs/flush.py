"""What a flush does for jobs and schedules.

The primary keys of the mapped objects that jobs were given are written to their rows, and workers are told,
in the flush's transaction or after its commit.

A listener on every job model, so that ``task.enqueue``, ``session.add(task.job())`` and a job that was
made by hand are all alike. A flush without jobs never comes here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, NestedTransaction, event
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    Session,
    SessionTransaction,
    UOWTransaction,
    object_mapper,
    object_session,
)

from sqla_jobs import commits, statements, wakeup
from sqla_jobs.arguments import given_to, put
from sqla_jobs.models import JobMixin, ScheduleMixin

_Told = dict[tuple[Connection, str, str], NestedTransaction | None]

# What was told in each transaction of a Session, and in which savepoint of the connection: when that is
# not active any more it may have been rolled back, and with it the notification.
_told: WeakKeyDictionary[SessionTransaction, _Told] = WeakKeyDictionary()

# What is to be told when the root transaction is committed. What a savepoint of it takes back is told
# nevertheless: it costs a worker a look.
_pending: WeakKeyDictionary[SessionTransaction, set[tuple[Engine, wakeup.Notice]]] = WeakKeyDictionary()


# -- the objects that jobs were given ------------------------------------------------------------------


@event.listens_for(JobMixin, "before_insert", propagate=True)
def _before_insert(_: Mapper[Any], __: Connection, job: JobMixin) -> None:
    """Insert the job with the keys that are known, and null for the others: those may be inserted after it.

    Nobody else sees the nulls: `_after_flush` comes before the flush is over.
    """
    given = given_to(job)
    if given is not None:
        given.inserted = None
        put(job, given.drafted())


@event.listens_for(JobMixin, "after_insert", propagate=True)
def _after_insert(mapper: Mapper[Any], connection: Connection, job: JobMixin) -> None:
    session = object_session(job)
    if session is None:
        return
    given = given_to(job)
    if given is not None:
        given.inserted = connection
        if not listens_to(session):
            event.listen(session, "after_flush", _after_flush)
    commits.enqueued(session, (job,))
    _tell(session, mapper, connection, job)


def listens_to(session: Session) -> bool:
    """Whether the flushes of this Session are followed, for jobs that were given mapped objects."""
    return event.contains(session, "after_flush", _after_flush)


def _after_flush(session: Session, flush: UOWTransaction) -> None:
    """Write the keys that were not known, or have changed, when the jobs were inserted: one UPDATE.

    In no other event are they sure to be known. Within the flush, before_flush and before_insert among them,
    an object may have none yet: the order of the INSERTs is that of the foreign keys, and an object that
    refers to the job comes after it.
    """

    def saved(state: InstanceState[Any]) -> bool:
        return state in flush.states and not any(flush.states[state])

    changed: dict[tuple[Connection, type[JobMixin]], list[JobMixin]] = {}
    for job in session.new:
        given = given_to(job) if isinstance(job, JobMixin) else None
        if given is None or given.inserted is None:
            continue
        connection, given.inserted = given.inserted, None
        if put(job, given.resolved(saved)):
            changed.setdefault((connection, type(job)), []).append(job)
    for (connection, model), jobs in changed.items():
        rows = [{"id": job.id, "arguments": job.arguments} for job in jobs]
        connection.execute(statements.set_arguments(model), {"p_rows": rows})


# -- workers are told ----------------------------------------------------------------------------------


@event.listens_for(ScheduleMixin, "after_insert", propagate=True)
@event.listens_for(ScheduleMixin, "after_update", propagate=True)
def _after_schedule(mapper: Mapper[Any], connection: Connection, row: ScheduleMixin) -> None:
    """Let workers plan anew: their next schedule may be another one now."""
    session = object_session(row)
    table: Any = mapper.local_table
    if session is not None and wakeup.can_notify(connection):
        _tell_once(session, connection, (statements.channel_in(table.schema), wakeup.SCHEDULED))


def tell_many(session: Session, connection: Connection, jobs: Sequence[JobMixin]) -> None:
    """Let workers know of jobs that were inserted there without a flush, as a flush would.

    Parameters:
        session: whose transaction the connection is in.
    """
    for job in wakeup.unlike(jobs):
        _tell(session, object_mapper(job), connection, job)


def untold(
    session: Session, mapper: Mapper[Any], connection: Connection, job: JobMixin
) -> wakeup.Notice | None:
    """What is to be told of a job in the connection's transaction; None: nothing, or not there.

    Whoever tells it says so by `note`.
    """
    mode = wakeup.mode_of(job)
    payload = wakeup.payload_of(job)
    if mode is False or payload is None or not wakeup.can_notify(connection):
        return None
    if mode == "after_commit" and _commits_itself(session, mapper, connection):
        return None
    notice = statements.channel(type(job)), payload
    return None if _was_told(session, connection, notice) else notice


def note(session: Session, connection: Connection, notice: wakeup.Notice) -> None:
    """This has been told in the connection's transaction."""
    root = session.get_transaction()
    assert root is not None  # what is told is told within one
    key = (connection, *notice)
    _told.setdefault(root, {})[key] = connection.get_nested_transaction()


def _was_told(session: Session, connection: Connection, notice: wakeup.Notice) -> bool:
    root = session.get_transaction()
    told: _Told = _told.get(root, {}) if root is not None else {}
    key = (connection, *notice)
    if key not in told:
        return False
    savepoint = told[key]
    return savepoint is None or savepoint.is_active


def _tell(session: Session, mapper: Mapper[Any], connection: Connection, job: JobMixin) -> None:
    mode = wakeup.mode_of(job)
    payload = wakeup.payload_of(job)
    if mode is False or payload is None:
        return
    notice = statements.channel(type(job)), payload
    if mode == "after_commit" and _commits_itself(session, mapper, connection):
        _tell_later(session, connection.engine, notice)
    elif wakeup.can_notify(connection):
        _tell_once(session, connection, notice)


def _commits_itself(session: Session, mapper: Mapper[Any], connection: Connection) -> bool:
    """Whether the Session's commit is the end of it, and our thread can connect as this engine does."""
    # Bound to a Connection, it takes part in somebody else's transaction. An AsyncEngine's driver works
    # in its event loop only.
    return not connection.dialect.is_async and not isinstance(session.get_bind(mapper), Connection)


def _tell_once(session: Session, connection: Connection, notice: wakeup.Notice) -> None:
    if not _was_told(session, connection, notice):
        wakeup.tell(connection, notice[0], [notice[1]])
        note(session, connection, notice)


def _tell_later(session: Session, engine: Engine, notice: wakeup.Notice) -> None:
    root = session.get_transaction()
    if root is not None:
        _watch_commits()
        _pending.setdefault(root, set()).add((engine, notice))


@cache
def _watch_commits() -> None:
    # Only where an application has this mode: every commit of every Session passes here from now on.
    event.listen(Session, "after_commit", _after_commit)


def _after_commit(session: Session) -> None:
    root = session.get_transaction()
    if root is None or session.get_nested_transaction() is not None:
        return  # the release of a savepoint
    by_engine: dict[Engine, list[wakeup.Notice]] = {}
    for engine, notice in _pending.pop(root, ()):
        by_engine.setdefault(engine, []).append(notice)
    for engine, notices in by_engine.items():
        wakeup.outbox(engine).put(notices)
