"""Contain one job in a savepoint of a Session that somebody else owns.

A job gets the very Session that its caller or its worker uses: made by the application's own
sessionmaker, with its class, binds, options and events. While the job runs, what would end the
surrounding transaction goes no further than the job's savepoint: ``commit()`` keeps the work within
it, ``rollback()`` and ``close()`` go back to it, ``begin()`` is a savepoint of its own. On exit the
work is released into the surrounding transaction, or rolled back, and the scope checks that savepoint
and transaction are still its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, NestedTransaction, Transaction, event
from sqlalchemy.exc import DBAPIError, InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session, SessionTransaction

from sqla_jobs import lifecycle
from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import JobMixin
from sqla_jobs.scope.sql import ends_transaction, releases


@dataclass(frozen=True)
class Ran:
    """How a body ended inside its scope: what it returned, or the error it raised."""

    returned: Any = None
    error: BaseException | None = None


@dataclass(frozen=True)
class _Found:
    """A connection as the job has come to it."""

    transaction: Transaction
    options: Mapping[str, Any]


@dataclass(eq=False)
class _Savepoint:
    """A savepoint of the scope's own: the Session's part, and what stands for it on each connection."""

    nested: SessionTransaction
    on: dict[Connection, NestedTransaction] = field(default_factory=dict)


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
        self._model = model
        self._owned = owned
        self._armed: dict[Connection, _Found] = {}
        self._touched = False
        self._refused: dict[Connection, Exception] = {}
        self._returning = False
        """Our own ROLLBACK TO is under way."""
        self._guards: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self._guard_sql,
            "commit": self._guard_commit,
            "rollback": self._guard_rollback,
        }
        if session.twophase:
            self._guards |= {
                "prepare_twophase": self._guard_commit,
                "commit_twophase": self._guard_commit,
                "rollback_twophase": self._guard_rollback,
            }

    @property
    def touched(self) -> bool:
        """Whether the job has used a connection of its Session."""
        return self._touched

    def run(self, body: Callable[[], Any]) -> Ran:
        """Run ``body`` in the savepoint; its errors, BaseExceptions too, are returned.

        Raises:
            JobEscaped: the transaction, and the claim with it, is not ours any more; see `abandon`.
        """
        self._enter()
        try:
            ran = Ran(returned=body())
            self._settle()
        except BaseException as error:
            ran = Ran(error=error)
        finally:
            self._release()
        return self._leave(ran)

    # -- enter and leave ---------------------------------------------------------------------------

    def _enter(self) -> None:
        session = self._session
        self._home = self._engine()
        self._bound = session.bind
        self._within = session._trans_context_manager
        self._around = session.get_nested_transaction()
        self._root = session.get_transaction() or session.begin()
        session.flush()  # as begin_nested() would, but before anything is listened to
        self._guests = None if self._owned else {id(thing): thing for thing in session}
        self._begin_nested: Callable[..., SessionTransaction] = session.begin
        # The Session is already somebody's scope if a job calls work_once().
        self._shadowed = {name: vars(session).get(name) for name in _CONTAINED}
        event.listen(session, "after_begin", self._arm)
        try:
            self._base = self._mark = _Savepoint(session.begin_nested())
            if not self._owned:
                # Session.begin_nested() is lazy. A caller's Connection may be in the job's hands already
                # (a Session bound to a Connection): the SAVEPOINT has to stand before the job begins.
                session.connection(bind_arguments=lifecycle.target(self._model))
        except BaseException:
            self._release()
            raise
        for name in _CONTAINED:
            setattr(session, name, getattr(self, f"_{name}"))

    def _engine(self) -> object:
        return self._session.get_bind(**lifecycle.target(self._model))

    def _release(self) -> None:
        """The Session's own methods again, and no more listening."""
        session = self._session
        event.remove(session, "after_begin", self._arm)
        for connection in self._armed:
            for name, guard in self._guards.items():
                event.remove(connection, name, guard)
        for name, before in self._shadowed.items():
            vars(session).pop(name, None)
            if before is not None:
                setattr(session, name, before)
        if session.bind is not self._bound:
            session.bind = self._bound
        # A `with session.begin_nested():` that stays open (a generator) would refuse all that we still do.
        session._trans_context_manager = self._within

    def _leave(self, ran: Ran) -> Ran:
        if self._is_any(TransactionStatus.ACTIVE):
            # The driver's lock is held, by a thread or a suspended stream(): to send anything is to wait.
            _escape("the job left a query running on its connection", ran.error)
        if ran.error is None:
            try:
                if self._mark is not self._base:
                    self._mark.nested.commit()
                self._base.nested.commit()
            except Exception as error:
                ran = Ran(error=error)
        if ran.error is not None:
            try:
                self._undo(self._base)
            except Exception as error:
                detail = f"the job's savepoint could not be rolled back: {_line(error)}"
                _escape(detail, ran.error)
        if (problem := self._problem()) is not None:
            _escape(problem, ran.error)
        if ran.error is not None and self._owned and self.touched:
            # All of it, then: no trick with the names of savepoints can leave anything of a failed job.
            self._session.rollback()
            self._session.begin()
            self._armed.clear()
        self._forget()
        return ran

    def _problem(self) -> str | None:
        """What is not as it was when the job came; None: all is."""
        session = self._session
        if (
            session.get_transaction() is not self._root
            or session.get_nested_transaction() is not self._around
            or not self._root.is_active
        ):
            return _GONE
        if self._engine() is not self._home:
            return "the job bound its Session to another engine"
        for connection, found in self._armed.items():
            if connection in self._refused:
                if self._owned and connection.engine is self._home:  # the outcome would be recorded on it
                    return _line(self._refused[connection])
                continue
            if connection.closed or connection.invalidated or not found.transaction.is_active:
                return _GONE
            status = _status(connection)
            if status == TransactionStatus.IDLE and connection in self._base.on:
                return _GONE
            if status == TransactionStatus.INERROR and not self._owned:
                return _GONE
        return None

    def _forget(self) -> None:
        """What the job has loaded into a caller's Session shall not be seen by the next job."""
        if self._guests is None:
            return
        if self._session.expire_on_commit:
            self._session.expire_all()
            return
        for thing in self._session:
            if id(thing) not in self._guests:
                self._session.expire(thing)

    # -- after the job -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit a worker's Session, a second engine's connections before the job table's own.

        Effects on another engine are at least once: if they failed after ours, they would be lost.
        """
        session = self._session
        own = session.connection(bind_arguments=lifecycle.target(self._model))
        others = self._armed.keys() - self._refused.keys() - {own}

        def others_first(_: Connection) -> None:
            for connection in others:
                connection.exec_driver_sql("COMMIT")

        if not others:
            session.commit()
            return
        event.listen(own, "commit", others_first)
        try:
            session.commit()
        finally:
            event.remove(own, "commit", others_first)

    def abandon(self) -> None:
        """Leave nothing of the surrounding transaction, in whatever state it is.

        After an escape half a job may be in it, out of reach of any savepoint.
        """
        for connection, found in self._armed.items():
            if connection.closed or connection.invalidated:
                continue
            if self._owned or _status(connection) == TransactionStatus.ACTIVE:
                connection.invalidate()
            elif not found.transaction.is_active:
                # SQLAlchemy takes the transaction for ended, and so would not end it on the server.
                with suppress(Exception):
                    connection.connection.rollback()
        try:
            self._session.rollback()
        except Exception:
            self._session.invalidate()

    # -- while the job runs ------------------------------------------------------------------------

    def _arm(self, _: Session, begun: SessionTransaction, connection: Connection) -> None:
        """Something of the Session has begun on a connection: watch it, before the job gets it."""
        if connection not in self._armed:
            transaction = connection.get_transaction()
            assert transaction is not None
            self._armed[connection] = _Found(transaction, connection.get_execution_options())
            self._touched = True
            for name, guard in self._guards.items():
                event.listen(connection, name, guard)
            try:
                if begun is self._root:
                    self._refuse_level(connection)
                refuse_autocommit(connection)
            except Exception as error:
                self._refused[connection] = error
        if connection in self._refused:
            raise self._refused[connection]
        for savepoint in (self._base, self._mark):
            if begun is savepoint.nested:
                standing = connection.get_nested_transaction()
                assert standing is not None
                savepoint.on[connection] = standing

    def _refuse_level(self, connection: Connection) -> None:
        own = connection.engine.get_execution_options()
        options = {**own, **getattr(self._session, "execution_options", {})}
        asked = connection.get_execution_options().get("isolation_level")
        if asked != options.get("isolation_level"):
            raise JobEscaped(
                f"the job asked for isolation level {asked!r}, but the transaction is not its own; "
                "set the level on the engine"
            )

    def _settle(self) -> None:
        """Flush, commit what the job left open above our mark, and see that the mark itself is sound."""
        session = self._session
        if self._is_any(TransactionStatus.ACTIVE):
            return  # see _leave
        if not self._stands(self._mark):
            raise JobEscaped(_ENDED)
        # By the driver's own flag: what is sent to an aborted transaction fails with a message that says
        # nothing of the cause.
        if not self._mark.nested.is_active or self._is_any(TransactionStatus.INERROR):
            raise PendingRollbackError(_SWALLOWED)
        session.flush()
        self._restore_options()
        while (nested := session.get_nested_transaction()) not in (self._mark.nested, None):
            nested.commit()
        for connection, base in self._base.on.items():
            mark = self._mark.on.get(connection, base)
            if not (base.is_active and mark.is_active):
                raise JobEscaped(_ENDED)
            for above in _above(connection, mark):
                above.commit()

    def _stands(self, savepoint: _Savepoint) -> bool:
        """Whether the Session still is within one of our savepoints."""
        nested: SessionTransaction | None = self._session.get_nested_transaction()
        while nested is not None and nested is not savepoint.nested:
            nested = nested.parent
        return nested is not None

    def _is_any(self, status: TransactionStatus) -> bool:
        return any(_status(connection) == status for connection in self._armed)

    def _undo(self, savepoint: _Savepoint) -> None:
        """Roll back to one of our savepoints, and close it.

        Raises:
            DBAPIError: it does not stand on the server any more.
        """
        session = self._session
        self._restore_options()
        while (nested := session.get_nested_transaction()) is not savepoint.nested:
            if nested is None or nested in (self._around, self._base.nested):
                break  # the job has rolled it back itself: that it released it would not have been let pass
            with suppress(DBAPIError):  # whatever it is, going back further cures it
                nested.rollback()
        ended = [connection for connection, standing in savepoint.on.items() if not standing.is_active]
        for connection, standing in savepoint.on.items():
            for above in _above(connection, standing):
                with suppress(DBAPIError):
                    above.close()
        if nested is savepoint.nested:
            savepoint.nested.rollback()
        for connection in ended:
            # SQLAlchemy took it for ended, after a failed flush or RELEASE. On the server it stands, and a
            # Connection that the job has kept may have been used since.
            if not (connection.closed or connection.invalidated):
                connection.dialect.do_rollback_to_savepoint(connection, _name(savepoint.on[connection]))

    def _restore_options(self) -> None:
        """Take back the options that the job gave a connection: ``stream_results`` breaks RELEASE."""
        for connection, found in self._armed.items():
            now = connection.get_execution_options()
            if now is not found.options:
                # The level cannot be changed within a transaction, not even back.
                changed = {name: found.options.get(name) for name in now if name != "isolation_level"}
                connection.execution_options(**changed)

    def _begin(self, nested: bool = True) -> SessionTransaction:  # noqa: ARG002 -- as Session has it
        return self._begin_nested(nested=True)

    def _commit(self) -> None:
        session = self._session
        self._settle()
        if self._mark is not self._base:
            self._mark.nested.commit()
        if session.expire_on_commit:
            session.expire_all()
        # Without a statement until it is used: mostly a commit is the last thing that a job does.
        self._mark = _Savepoint(session.begin_nested())

    def _rollback(self) -> None:
        whole = self._mark is self._base
        self._returning = True
        try:
            self._undo(self._mark)
        finally:
            self._returning = False
        self._mark = _Savepoint(self._session.begin_nested())
        if whole:
            self._base = self._mark
        # Not lazily: the job may have kept a Connection, and what it sends there must be in the savepoint.
        for connection in self._armed.keys() - self._refused.keys():
            self._session.connection(bind_arguments={"bind": connection})

    def _close(self) -> None:
        self._rollback()
        for thing in list(self._session):
            if self._guests is None or id(thing) not in self._guests:
                self._session.expunge(thing)

    _reset = _invalidate = _close

    def _prepare(self) -> None:
        self._guard_commit()

    # -- what is refused ---------------------------------------------------------------------------

    def _guard_sql(self, connection: Connection, _: Any, sql: str, *__: Any) -> None:
        if connection in self._refused:
            raise self._refused[connection]
        if ends_transaction(sql):
            raise JobEscaped(f"{_NOT_YOURS} Refused: {_line(sql.strip())[:60]!r}")
        standing = self._base.on.get(connection)
        if standing is None:
            if not sql.startswith("SAVEPOINT"):  # which is our own
                raise JobEscaped("this Connection is not in the job's savepoint: use session.connection()")
        elif releases(sql, _name(standing)):
            raise JobEscaped(_ENDED)
        if not (self._stands(self._base) or self._returning):
            raise JobEscaped(_ENDED)

    def _guard_commit(self, *_: Any) -> None:
        raise JobEscaped(f"{_NOT_YOURS} session.commit() is contained and may be used.")

    def _guard_rollback(self, *_: Any) -> None:
        raise JobEscaped(f"{_NOT_YOURS} session.rollback() is contained and may be used.")


_CONTAINED: Final = ("begin", "commit", "rollback", "close", "reset", "invalidate", "prepare")

_NOT_YOURS: Final = "The transaction is not the job's: it holds the job's claim, and must not be ended by it."
_ENDED: Final = (
    "the job ended the savepoint that it runs in; session.commit() and session.rollback() may be used"
)
_GONE: Final = "the transaction that the job ran in is gone: the job ended it, or its connection was lost"
_SWALLOWED: Final = (
    "the job caught a database error and went on without rolling back, so its work cannot be kept; "
    "put statements that may fail in `with session.begin_nested():`"
)


def _escape(detail: str, cause: BaseException | None) -> NoReturn:
    if isinstance(cause, JobEscaped):
        raise cause  # it shows the very line
    raise JobEscaped(detail) from cause


def _line(told: object) -> str:
    return (str(told).splitlines() or [type(told).__name__])[0]


def _status(connection: Connection) -> int | None:
    if connection.closed or connection.invalidated:
        return None
    info = getattr(connection.connection.dbapi_connection, "info", None)
    return getattr(info, "transaction_status", None)


def _name(savepoint: NestedTransaction) -> str:
    return savepoint._savepoint  # SQLAlchemy has no public name for it


def _above(connection: Connection, standing: NestedTransaction) -> list[NestedTransaction]:
    """What was begun on the Connection itself above a savepoint of ours, the innermost first."""
    found: list[NestedTransaction] = []
    nested = connection.get_nested_transaction()
    while nested is not None and nested is not standing:
        found.append(nested)
        nested = nested._previous_nested
    return found if nested is standing else []


def refuse_autocommit(connection: Connection) -> None:
    """Raise InvalidRequestError if the connection commits each statement by itself."""
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise InvalidRequestError(
            "the Session's connection is in AUTOCOMMIT, which has no savepoints and no transaction to "
            "share with a job; use an engine with a transactional isolation level"
        )
