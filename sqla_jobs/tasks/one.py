"""Enqueue one job: by a flush, or, where that would do nothing but this INSERT, by the INSERT alone.

For one row a flush takes more time than all else that is sent, and the notification is a trip of its own.
"""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any, TypeVar

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Mapper, Session, scoped_session
from sqlalchemy.orm.attributes import instance_dict, instance_state

from sqla_jobs import commits, flush, lifecycle
from sqla_jobs.arguments import given_to, put
from sqla_jobs.models import Job, JobMixin

JobT = TypeVar("JobT", bound=JobMixin)


def enqueue(session: Session | scoped_session[Any], job: JobT) -> JobT:
    """Add a new job to the caller's transaction; it has its id then, as after a flush.

    Whatever else is pending in the Session is flushed too, and before it, if the job was given it.

    Raises:
        ArgumentsNotStorable: a mapped object that it was given is in no Session, in another one, or deleted.
    """
    own: Session = session() if isinstance(session, scoped_session) else session
    given = given_to(job)
    if given is not None:
        if not given.is_known:
            own.flush()
        put(job, given.resolved())
    if lifecycle.is_keyed(job):
        return lifecycle.enqueue_unique(own, job, _insert)
    _insert(own, job)
    return job


def _insert(own: Session, job: JobMixin) -> bool:
    """Add a job to the Session, and insert it; False: another job holds its unique key."""
    mapper: Mapper[Any] = inspect(type(job))
    if not _is_all_there_is(own, mapper, job):
        return _flush(own, job)
    connection = own.connection(bind_arguments=lifecycle.target(type(job)))
    if not _takes_it(connection):
        return _flush(own, job)
    own.add(job)
    notice = flush.untold(own, mapper, connection, job)
    try:
        inserted = lifecycle.insert(connection, job, notice)
        if inserted is None:
            own.expunge(job)
            return False
        instance_dict(job).update(inserted)
        own._register_persistent({instance_state(job)})
    except BaseException:
        # As a flush that fails: the Session's transaction is over, and its next user is told why.
        own._autobegin_t()._begin().rollback(_capture_exception=True)
        raise
    commits.enqueued(own, (job,))
    if notice is None:
        flush.tell_many(own, connection, [job])
    else:
        flush.note(own, connection, notice)
    return True


def _flush(own: Session, job: JobMixin) -> bool:
    if lifecycle.is_keyed(job):
        return lifecycle.enqueue_in_savepoint(own, job)
    lifecycle.enqueue(own, job)
    return True


def _is_all_there_is(session: Session, mapper: Mapper[Any], job: JobMixin) -> bool:
    """Whether a flush would send one INSERT of what `lifecycle.insert` knows, and nobody listens to it."""
    heard: Any = session.dispatch
    return (
        _is_ordinary(mapper)
        and lifecycle.can_insert(job)
        and not (session.new or session.deleted or session.dirty)
        and _sends_as_always(session)
        and not (heard.before_flush or heard.after_flush_postexec)
        and len(heard.after_flush) == flush.listens_to(session)
        # Our own, in `flush`.
        and len(mapper.dispatch.before_insert) == 1
        and len(mapper.dispatch.after_insert) == 1
        and not mapper.class_manager.dispatch.refresh_flush
    )


def _sends_as_always(session: Session) -> bool:
    # A Session that chooses its own connection may go by its being in a flush.
    cls, own = type(session), vars(session)
    return (
        cls.get_bind is Session.get_bind
        and cls.flush is Session.flush
        and cls.connection is Session.connection
        and not own.keys() & {"get_bind", "flush"}
        and not session._flushing
        and getattr(session, "connection_callable", None) is None
    )


@cache
def _is_ordinary(mapper: Mapper[Any]) -> bool:
    """Whether it maps the library's columns, and nothing else that a flush would write or look at."""
    columns = mapper.local_table.c.keys()
    return (
        columns == Job.__table__.c.keys() == [each.key for each in mapper.column_attrs]
        and all(column.default is None for column in mapper.local_table.c)
        and mapper.inherits is None
        and mapper.polymorphic_on is None
        and mapper.version_id_col is None
        and mapper.eager_defaults == "auto"
        and not dataclasses.is_dataclass(mapper.class_)
    )


def _takes_it(connection: Connection) -> bool:
    """Whether the INSERT is written for its driver, and names the tables that it uses."""
    dialect = connection.dialect
    translated = connection.get_execution_options().get("schema_translate_map")
    return dialect.driver == "psycopg" and not translated
