"""What went wrong with a request -> what its page says: never a traceback, nor the database's own words."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final, NamedTuple

from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, TimeoutError  # noqa: A004
from starlette.exceptions import HTTPException

from sqla_jobs.errors import InvalidOption, JobNotFound, SchemaError
from sqla_jobs.web.guard import Refused

log = logging.getLogger("sqla_jobs")

_LATE: Final = {"57014", "55P03"}
_NO_TABLES: Final = {"42P01", "42703", "42883", "3F000"}
_READ_ONLY: Final = "25006"
_BAD_VALUE: Final = "22"

TITLES: Final = {
    400: "That cannot be",
    403: "Not allowed",
    404: "Not found",
    405: "Not this way",
    413: "Too much",
    414: "Too long",
    415: "No form",
    421: "Another host",
    429: "Too many attempts",
    503: "Not now",
}


class Fault(NamedTuple):
    """What the page says."""

    status: int
    reason: str
    headers: Mapping[str, str] | None = None
    """That belong to the status: where to go, how to say who one is."""

    @property
    def title(self) -> str:
        """Its heading."""
        return TITLES.get(self.status, "Something went wrong")


def fault_of(error: Exception) -> Fault:
    """What to answer; what is not the visitor's doing is logged."""
    if isinstance(error, Refused):
        return Fault(error.status, error.reason)
    if isinstance(error, HTTPException):  # of an application's own authorize
        return Fault(error.status_code, str(error.detail), error.headers)
    if isinstance(error, InvalidOption):
        return Fault(400, str(error))
    if isinstance(error, JobNotFound):
        return Fault(404, str(error))
    if isinstance(error, SchemaError):
        return Fault(503, str(error))
    if isinstance(error, (DBAPIError, TimeoutError)):
        return _of_database(error)
    log.error("the dashboard has failed", exc_info=error)
    return Fault(500, "The dashboard has failed. The log of the server says why.")


def _of_database(error: DBAPIError | TimeoutError) -> Fault:
    state = getattr(getattr(error, "orig", None), "sqlstate", None) or ""
    if state in _LATE:
        log.warning("the dashboard has given up on the database: %s", _said(error))
        return Fault(503, "The database took too long to answer. Try a narrower filter, or again later.")
    if state.startswith(_BAD_VALUE):
        return Fault(400, "The database cannot take a value of this request.")
    if state in _NO_TABLES:
        log.error("the dashboard does not find its tables: %s", _said(error))
        return Fault(503, "The queue's tables are missing, or of another revision: run `sqla-jobs migrate`.")
    if state == _READ_ONLY:
        return Fault(503, "The database takes no writes: it is a replica, or set to read-only.")
    log.error("the dashboard has no answer of the database: %s", _said(error))
    away = isinstance(error, (OperationalError, InterfaceError, TimeoutError))
    reason = (
        "The database does not answer."
        if away
        else "The database has refused. The log of the server says why."
    )
    return Fault(503 if away else 500, reason)


def _said(error: DBAPIError | TimeoutError) -> str:
    return " ".join(str(getattr(error, "orig", error)).split())
