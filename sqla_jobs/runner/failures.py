"""What an error of the database means for the transaction that met it. Pure."""

from __future__ import annotations

from typing import TypeGuard

from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from sqla_jobs.errors import JobEscaped


def _sqlstate(error: BaseException | None) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def is_conflict(error: BaseException | None) -> TypeGuard[DBAPIError]:
    """Whether it is a serialization failure or a deadlock, for which nobody is to blame."""
    return _sqlstate(error) in ("40001", "40P01")


def is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that nobody knows whether the last statement took effect."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # The server has ended the session, though the driver may still think that it is there.
    return (_sqlstate(error) or "").startswith(("57P", "08", "25P03", "25P04"))


def is_transient(error: BaseException) -> bool:
    """Whether the same call may go through later: no connection, or the server is busy or away."""
    if isinstance(error, (DisconnectionError, PoolTimeout, InterfaceError)):
        return True
    return isinstance(error, OperationalError) or is_lost(error) or is_conflict(error)


def behind(error: BaseException) -> BaseException:
    """What to record of a job whose transaction is gone: if its connection was lost, its own error."""
    if isinstance(error, JobEscaped):
        for seen in (error.__cause__, error.__context__):
            if isinstance(seen, DBAPIError) and is_lost(seen):
                return error.__cause__ or seen
    return error
