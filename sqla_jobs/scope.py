"""Contain one job in a savepoint of a Session that somebody else owns.

A job gets the very Session that its caller or its worker uses: made by the application's own
sessionmaker, with its class, binds, options and events. While the job runs, what would end the
surrounding transaction goes no further than the job's savepoint: ``commit()`` keeps the work within
it, ``rollback()`` and ``close()`` go back to it, ``begin()`` is a savepoint of its own. On exit the
work is released into the surrounding transaction, or rolled back, and the scope checks that savepoint
and transaction are still its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Transaction, event
from sqlalchemy.exc import InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session, SessionTransaction

from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import JobMixin


@dataclass(frozen=True)
class Ran:
    """How a body ended inside its scope: what it returned, or the error it raised."""

    returned: Any = None
    error: BaseException | None = None


class JobScope:
    """One job's stay in a Session.

    Parameters:
        session: in a transaction already (``work_once``), or fresh (a worker's). Until the job first
            uses a fresh one nothing is sent: the transaction and the savepoint begin right before
            the first connection is handed to the job.
        model: the job model; its engine is the one that the outcome is recorded on.
        owned: the session is a worker's own, made for this job.
    """

    def __init__(self, session: Session, model: type[JobMixin], *, owned: bool) -> None:
        self._session = session
        self._bind: dict[str, Any] = {"mapper": model}
        self._owned = owned
        self._connections: dict[Connection, Transaction] = {}

    @property
    def touched(self) -> bool:
        """Whether the job has used a connection of its Session."""
        return bool(self._connections)

    def run(self, body: Callable[[], Any]) -> Ran:
        """Run ``body`` in the savepoint; its errors, BaseExceptions too, are returned.

        Raises:
            JobEscaped: the transaction, and the claim with it, is not ours any more; the Session
                has to be invalidated.
        """
        self._enter()
        try:
            ran = Ran(returned=body())
        except BaseException as error:
            ran = Ran(error=error)
        finally:
            self._release()
        return self._leave(ran)

    # -- enter and leave ---------------------------------------------------------------------------

    def _enter(self) -> None:
        session = self._session
        self._around = session.get_nested_transaction()
        self._root = session.get_transaction() or session.begin()
        event.listen(session, "after_begin", self._arm)
        try:
            self._base = self._mark = self._savepoint()
        except BaseException:
            event.remove(session, "after_begin", self._arm)
            raise
        self._guests = None if self._owned else {id(thing): thing for thing in session}
        for name in _CONTAINED:
            setattr(session, name, getattr(self, f"_{name}"))

    def _savepoint(self) -> SessionTransaction:
        savepoint = self._session.begin_nested()
        if not self._owned:
            # Session.begin_nested() is lazy. A caller's Connection may be in the job's hands already
            # (a Session bound to a Connection): the SAVEPOINT has to stand before the job begins.
            self._session.connection(bind_arguments=self._bind)
        return savepoint

    def _release(self) -> None:
        """The Session's own methods again, and no more listening."""
        event.remove(self._session, "after_begin", self._arm)
        for name in _CONTAINED:
            vars(self._session).pop(name, None)
        for connection in self._connections:
            for name, guard in _GUARDS.items():
                event.remove(connection, name, guard)

    def _leave(self, ran: Ran) -> Ran:
        if ran.error is None:
            try:
                self._session.flush()
                self._settle()
                if self._mark is not self._base:
                    self._mark.commit()
                self._base.commit()
            except Exception as error:
                ran = Ran(error=error)
        if ran.error is not None:
            self._undo(ran.error)
        self._check(ran.error)
        return ran

    def _undo(self, cause: BaseException) -> None:
        reached = False
        try:
            while (nested := self._session.get_nested_transaction()) not in (None, self._around):
                nested.rollback()
                reached = reached or nested is self._base
        except Exception as error:
            raise JobEscaped(f"the job's savepoint could not be rolled back: {_line(error)}") from cause
        if not reached:  # released by the job: what it wrote before is in the transaction, out of reach
            raise JobEscaped("the job ended the savepoint that it runs in") from cause

    def _check(self, cause: BaseException | None) -> None:
        session = self._session
        if (
            session.get_transaction() is not self._root
            or session.get_nested_transaction() is not self._around
            or not self._root.is_active
        ):
            raise JobEscaped("the job ended the transaction of its Session") from cause
        for connection, transaction in self._connections.items():
            lost = connection.closed or connection.invalidated or not transaction.is_active
            if lost or _status(connection) == TransactionStatus.IDLE:
                raise JobEscaped("the job ended the transaction of its Connection") from cause

    def commit(self) -> None:
        """Commit a worker's Session, a second engine's connections before the job table's own.

        Effects on another engine are at least once: if they failed after ours, they would be lost.
        """
        session = self._session
        own = session.connection(bind_arguments=self._bind)
        others = [connection for connection in self._connections if connection is not own]

        def others_first(_: Connection) -> None:
            for connection in others:
                connection.connection.commit()

        if others:
            event.listen(own, "commit", others_first)
        session.commit()

    # -- while the job runs ------------------------------------------------------------------------

    def _arm(self, _: Session, __: SessionTransaction, connection: Connection) -> None:
        if connection in self._connections:
            return
        transaction = connection.get_transaction()
        assert transaction is not None
        self._connections[connection] = transaction
        for name, guard in _GUARDS.items():
            event.listen(connection, name, guard)
        asked = connection.get_execution_options().get("isolation_level")
        if self._owned and asked != connection.engine.get_execution_options().get("isolation_level"):
            raise JobEscaped(
                f"the job asked for isolation level {asked!r}, but its transaction is its worker's; "
                "set the level on the engine"
            )
        refuse_autocommit(connection)

    def _begin(self, nested: bool = True) -> SessionTransaction:
        return type(self._session).begin(self._session, nested=nested or True)

    def _settle(self) -> None:
        """Commit what the job left open above our mark, and see that the mark itself is sound."""
        session = self._session
        while (nested := session.get_nested_transaction()) is not self._mark:
            if nested is None or nested is self._around:
                raise JobEscaped("the job ended the savepoint that it runs in")
            nested.commit()
        # The server is asked first, by the driver's own flag: RELEASE in an aborted transaction fails,
        # and then SQLAlchemy takes the savepoint for gone and does not roll back to it any more.
        if not self._mark.is_active or any(
            _status(connection) == TransactionStatus.INERROR for connection in self._connections
        ):
            raise PendingRollbackError(_SWALLOWED)

    def _commit(self) -> None:
        session = self._session
        session.flush()
        self._settle()
        if self._mark is not self._base:
            self._mark.commit()
        if session.expire_on_commit:
            session.expire_all()
        self._mark = session.begin_nested()

    def _rollback(self) -> None:
        session = self._session
        whole = self._mark is self._base
        while (nested := session.get_nested_transaction()) not in (None, self._around):
            nested.rollback()
            if nested is self._mark:
                break
        else:
            raise JobEscaped("the job ended the savepoint that it runs in")
        self._mark = self._savepoint()
        if whole:
            self._base = self._mark

    def _close(self) -> None:
        self._rollback()
        for thing in list(self._session):
            if self._guests is None or id(thing) not in self._guests:
                self._session.expunge(thing)

    _reset = _invalidate = _close

    def _prepare(self) -> None:
        raise JobEscaped("a job must not prepare the transaction that its worker owns")


_CONTAINED: Final = ("begin", "commit", "rollback", "close", "reset", "invalidate", "prepare")

_SWALLOWED: Final = (
    "the job caught a database error and went on without rolling back, so its work cannot be kept; "
    "put statements that may fail in `with session.begin_nested():`"
)


def _line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _status(connection: Connection) -> int | None:
    if connection.closed or connection.invalidated:
        return None
    info = getattr(connection.connection.dbapi_connection, "info", None)
    return getattr(info, "transaction_status", None)


def refuse_autocommit(connection: Connection) -> None:
    """Raise InvalidRequestError if the connection commits each statement by itself."""
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise InvalidRequestError(
            "the Session's connection is in AUTOCOMMIT, which has no savepoints and no transaction to "
            "share with a job; use an engine with a transactional isolation level"
        )


# -- what a job must not send ----------------------------------------------------------------------

_SUSPECT: Final = re.compile(r"\b(?:commit|end|rollback|abort|prepare)\b", re.IGNORECASE)
_OPAQUE: Final = re.compile(
    r"""--[^\n]* | /\*.*?\*/ |
    \b[eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | "(?:[^"]|"")*" | (\$\w*\$).*?\1""",
    re.DOTALL | re.VERBOSE,
)
_ENDS: Final = re.compile(
    r"(?:^|;)\s*(?:commit|end|abort|prepare\s+transaction|rollback(?!\s+(?:(?:work|transaction)\s+)?to\b))\b",
    re.IGNORECASE,
)


def ends_transaction(sql: str) -> bool:
    """Whether a statement in ``sql`` would end the transaction (ROLLBACK TO does not).

    Comments, quoted text and dollar-quoted bodies do not count.
    """
    return bool(_SUSPECT.search(sql) and _ENDS.search(_OPAQUE.sub(" ", sql)))


def _refuse_commit(_: Connection) -> None:
    raise JobEscaped(
        "a job must not commit the Connection of its Session: the transaction is its worker's; "
        "session.commit() is contained and may be used"
    )


def _refuse_sql(_: Connection, __: Any, sql: str, *___: Any) -> None:
    if ends_transaction(sql):
        raise JobEscaped(
            f"a job must not end the transaction that its worker owns; refused: {sql.strip()[:60]!r}"
        )


_GUARDS: Final[dict[str, Callable[..., None]]] = {
    "commit": _refuse_commit,
    "before_cursor_execute": _refuse_sql,
}
