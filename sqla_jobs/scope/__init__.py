"""Contain one job in a savepoint of a Session that somebody else owns.

A job gets the very Session that its caller or its worker uses: made by the application's own
sessionmaker, with its class, binds, options and events. While the job runs, what would end the
surrounding transaction goes no further than the job's savepoint: ``commit()`` keeps the work within
it, ``rollback()`` and ``close()`` go back to it, ``begin()`` is a savepoint of its own. On exit the
work is released into the surrounding transaction, or rolled back, and the scope checks that savepoint
and transaction are still its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from sqla_jobs import lifecycle
from sqla_jobs.errors import ClaimLost, JobEscaped, JobsError
from sqla_jobs.models import JobMixin
from sqla_jobs.scope.connections import Connections, refuse_autocommit, refuse_driver, refuse_level
from sqla_jobs.scope.interrupts import Interrupted, Interrupter
from sqla_jobs.scope.savepoint import Savepoint
from sqla_jobs.scope.sql import ends_transaction, releases

__all__ = [
    "Interrupted",
    "Interrupter",
    "JobScope",
    "Ran",
    "keep_in_registry",
    "refuse_autocommit",
    "refuse_driver",
]


@dataclass(frozen=True)
class Ran:
    """How a body ended inside its scope: what it returned, or the error it raised."""

    returned: Any = None
    error: BaseException | None = None


def keep_in_registry(registry: scoped_session[Any]) -> None:
    """Let `registry.remove()` in a job go no further than its Session's `close()` does.

    Otherwise the registry would give the rest of the job another Session, contained by nobody. Outside
    of jobs `remove()` stays what it is.
    """

    def remove() -> None:
        if registry.registry.has() and "commit" in vars(registry.registry()):
            registry.registry().close()
        else:
            type(registry).remove(registry)

    vars(registry)["remove"] = remove


class JobScope:
    """One job's stay in a Session.

    Parameters:
        session: in a transaction already (``work_once``), or fresh (a worker's). Until the job first
            uses a fresh one nothing is sent: the transaction and the savepoint begin right before
            the first connection is handed to the job.
        model: the job model; its engine is the one that the outcome is recorded on.
        owned: the session is a worker's own, made for this job.
        interrupter: what another thread may end the job by.
    """

    def __init__(
        self,
        session: Session,
        model: type[JobMixin],
        *,
        owned: bool,
        interrupter: Interrupter | None = None,
    ) -> None:
        self._session = session
        self._model = model
        self._owned = owned
        self._interrupter = interrupter or Interrupter()
        self.checkpointed = False
        """Whether something that the job wrote is committed already."""
        self._refusal: Exception | None = None
        """What the commit of a checkpoint was refused with, if it was."""
        guards: dict[str, Callable[..., None]] = {
            "before_cursor_execute": self._guard_sql,
            "commit": self._guard_commit,
            "rollback": self._guard_rollback,
        }
        if session.twophase:
            guards |= {
                "commit_twophase": self._guard_commit,
                "rollback_twophase": self._guard_rollback,
            }
        self._connections = Connections(guards)

    @property
    def touched(self) -> bool:
        """Whether the job has used a connection of its Session."""
        return self._connections.any_came

    def run(self, body: Callable[[], Any]) -> Ran:
        """Run ``body`` in the savepoint; its errors, BaseExceptions too, are returned.

        Raises:
            JobEscaped: the transaction, and the claim with it, is not ours any more; see `abandon`.
        """
        self._enter()
        try:
            ran = Ran(returned=self._interrupter.call(body))
            self._interrupter.settle(self._settle)
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
        self._own: dict[str, Callable[..., Any]] = {name: getattr(session, name) for name in _CONTAINED}
        # The Session is already somebody's scope if a job calls work_once().
        self._shadowed = {name: vars(session).get(name) for name in _CONTAINED}
        event.listen(session, "after_begin", self._arm)
        try:
            self._base = self._mark = Savepoint(session.begin_nested())
            if not self._owned:
                # Not lazily: a caller's Connection may be in the job's hands already (a Session bound to
                # a Connection), and what is sent there has to be in the savepoint.
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
        self._connections.unwatch()
        for name, before in self._shadowed.items():
            vars(session).pop(name, None)
            if before is not None:
                setattr(session, name, before)
        if session.bind is not self._bound:
            session.bind = self._bound
        # A `with session.begin_nested():` that stays open (a generator) would refuse all that we still do.
        session._trans_context_manager = self._within

    def _leave(self, ran: Ran) -> Ran:
        if self._refusal is not None:
            # Whatever the job made of it, there is no transaction any more that it could have gone on in.
            self._session.rollback()
            self._forget_connections()
            return Ran(error=self._refusal)
        if self._connections.are(TransactionStatus.ACTIVE):
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
                self._connections.restore_options()
                self._base.roll_back(self._session, beneath=self._around)
            except Exception as error:
                _escape(f"the job's savepoint could not be rolled back: {_line(error)}", ran.error)
        if (problem := self._problem()) is not None:
            _escape(problem, ran.error)
        if ran.error is not None and self._owned and self.touched:
            # All of it, then: no trick with the names of savepoints can leave anything of a failed job.
            self._session.rollback()
            # A source that is inside its own `with session.begin():` would refuse a second transaction.
            self._session._trans_context_manager = None
            self._session.begin()
            self._forget_connections()
        self._forget()
        return ran

    def _problem(self) -> str | None:
        """What is not as it was when the job came; None: all is."""
        if not self._root.is_active:
            return _GONE
        if self._engine() is not self._home:
            return "the job bound its Session to another engine"
        for connection, refusal in self._connections.refused.items():
            if self._owned and connection.engine is self._home:  # the outcome would be recorded on it
                return _line(refusal)
        if any(self._connections.is_lost(connection) for connection in self._connections):
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

    def _forget_connections(self) -> None:
        self._connections.forget()
        self._interrupter.forget()

    def checkpoint(self, holds: Callable[[], bool]) -> None:
        """Commit what the job has done so far, and let it go on; of a worker's own Session only.

        In a caller's Session, where nothing is the job's to commit, this is a contained ``commit()``.

        Parameters:
            holds: locks the job's row by the fence of its claim; False: somebody else has it.

        Raises:
            ClaimLost: the claim does not hold any more; nothing since the last checkpoint is kept.
        """
        if not self._owned:
            self._commit()
            return
        session = self._session
        if session._trans_context_manager is not self._within:
            raise JobsError(
                "checkpoint() was called within `with session.begin():` or begin_nested(), and would end its "
                "transaction; expected a call after that block"
            )
        self._settle()
        if not holds():
            raise ClaimLost
        self._connections.unwatch()
        if self._mark is not self._base:
            self._mark.nested.commit()
        self._base.nested.commit()
        try:
            self._commit_all(self._own["commit"])
        except Exception as error:
            self._refusal = error
            raise
        self.checkpointed = True
        self._forget_connections()
        self._within = session._trans_context_manager = None  # see _leave
        self._root = session.get_transaction() or self._own["begin"]()
        self._base = self._mark = Savepoint(session.begin_nested())

    # -- after the job -----------------------------------------------------------------------------

    def commit(self) -> None:
        """Commit a worker's Session, a second engine's connections before the job table's own.

        Effects on another engine are at least once: if they failed after ours, they would be lost.
        """
        self._commit_all(self._session.commit)

    def _commit_all(self, commit: Callable[[], object]) -> None:
        session = self._session
        own = session.connection(bind_arguments=lifecycle.target(self._model))
        others = [connection for connection in self._connections if connection is not own]

        def others_first(_: Connection) -> None:
            for connection in others:
                connection.exec_driver_sql("COMMIT")

        if not others:
            commit()
            return
        event.listen(own, "commit", others_first)
        try:
            commit()
        finally:
            event.remove(own, "commit", others_first)

    def abandon(self) -> None:
        """Leave nothing of the surrounding transaction, in whatever state it is.

        After an escape half a job may be in it, out of reach of any savepoint.
        """
        self._connections.abandon(close=self._owned)
        try:
            self._session.rollback()
        except Exception:
            self._session.invalidate()

    # -- while the job runs ------------------------------------------------------------------------

    def _arm(self, _: Session, begun: SessionTransaction, connection: Connection) -> None:
        """Something of the Session has begun on a connection: watch it, before the job gets it."""
        if connection not in self._connections:
            self._connections.watch(connection)
            self._interrupter.uses(connection.connection.driver_connection)
            try:
                if begun is self._root:
                    refuse_level(connection, self._session)
                refuse_autocommit(connection)
            except Exception as error:
                self._connections.refused[connection] = error
        if connection in self._connections.refused:
            raise self._connections.refused[connection]
        for savepoint in (self._base, self._mark):
            if begun is savepoint.nested:
                standing = connection.get_nested_transaction()
                assert standing is not None
                savepoint.on[connection] = standing

    def _settle(self) -> None:
        """Flush, commit what the job left open above our mark, and see that the mark itself is sound."""
        session, connections = self._session, self._connections
        if connections.are(TransactionStatus.ACTIVE):
            return  # see _leave
        if not self._mark.stands_in(session):
            raise JobEscaped(_ENDED)
        # By the driver's own flag: what is sent to an aborted transaction fails with a message that says
        # nothing of the cause.
        if not self._mark.nested.is_active or connections.are(TransactionStatus.INERROR):
            raise PendingRollbackError(_SWALLOWED)
        session.flush()
        connections.restore_options()
        while (nested := session.get_nested_transaction()) not in (self._mark.nested, None):
            nested.commit()
        if not (self._base.is_whole and self._mark.is_whole):
            raise JobEscaped(_ENDED)
        for connection in self._base.on:
            innermost = self._mark if connection in self._mark.on else self._base
            for within in innermost.above(connection):
                within.commit()

    def _begin(self, nested: bool = True) -> SessionTransaction:  # noqa: ARG002 -- as Session has it
        nested_transaction: SessionTransaction = self._own["begin"](nested=True)
        return nested_transaction

    def _commit(self) -> None:
        session = self._session
        self._settle()
        if self._mark is not self._base:
            self._mark.nested.commit()
        if session.expire_on_commit:
            session.expire_all()
        # Without a statement until it is used: mostly a commit is the last thing that a job does.
        self._mark = Savepoint(session.begin_nested())

    def _rollback(self) -> None:
        session = self._session
        whole = self._mark is self._base
        self._connections.restore_options()
        self._mark.roll_back(session, beneath=self._around if whole else self._base.nested)
        self._mark = Savepoint(session.begin_nested())
        if whole:
            self._base = self._mark
        # Not lazily: the job may have kept a Connection, and what it sends there has to be in the savepoint.
        for connection in self._connections:
            session.connection(bind_arguments={"bind": connection})

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
        if connection in self._connections.refused:
            raise self._connections.refused[connection]
        if ends_transaction(sql):
            raise JobEscaped(f"{_NOT_YOURS} Refused: {_line(sql.strip())[:60]!r}")
        name = self._base.name_on(connection)
        if name is None:
            if not sql.startswith("SAVEPOINT"):  # which is our own
                raise JobEscaped("this Connection is not in the job's savepoint: use session.connection()")
        elif releases(sql, name):
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
