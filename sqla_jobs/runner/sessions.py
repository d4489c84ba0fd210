"""The Sessions that an application gives a worker."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, suppress

from sqlalchemy import Connection, Engine
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import Clean
from sqla_jobs.redaction import log_error
from sqla_jobs.runner.failures import is_lost
from sqla_jobs.scope import refuse_autocommit, refuse_driver
from sqla_jobs.tasks import ScopedSessions, Sessions


def discard(session: Session, error: BaseException | None = None, clean: Clean | None = None) -> None:
    """Leave nothing of the transaction, in whatever state its connection is.

    Parameters:
        clean: takes out of a text what is not to be shown of its jobs: their error is another's context here.
    """
    try:
        if error is not None and is_lost(error):
            session.invalidate()
        else:
            session.rollback()
    except Exception as failure:
        message = "a transaction that had failed could not be rolled back in order"
        log_error(logging.ERROR, message, error=failure, clean=clean)
        # Nor can it be invalidated while somebody else is in the middle of a statement with it.
        with suppress(Exception):
            session.invalidate()


def apart(sessions: Sessions) -> AbstractContextManager[Session]:
    """A Session to look at, before there are threads.

    Not this thread's own of a scoped_session: it may hold what its owner has not committed.
    """
    if isinstance(sessions, ScopedSessions):
        made: AbstractContextManager[Session] = sessions.registry.session_factory()
        return made
    return sessions()


def engine_of(sessions: Sessions, model: type[JobMixin]) -> Engine:
    """The engine that has the job table.

    Raises:
        ConfigurationError: it is no engine, or not one of psycopg.
        InvalidRequestError: it is in AUTOCOMMIT.
    """
    with apart(sessions) as session:
        bind = session.get_bind(**lifecycle.target(model))
    if isinstance(bind, Engine):
        refuse_driver(bind.dialect)
        with bind.connect() as connection:
            refuse_autocommit(connection)
        return bind
    raise ConfigurationError(
        f"the Session is bound to {bind!r}; a worker's threads each need a connection of their own: "
        "expected a sessionmaker that is bound to an Engine"
    )


def is_read_committed(connection: Connection) -> bool:
    """Whether a claim may be sent in its transaction."""
    level = connection.get_execution_options().get("isolation_level", connection.default_isolation_level)
    return level == "READ COMMITTED"
