"""What a job meets on its Session and its connections while it runs in a savepoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NoReturn

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event
from sqlalchemy.exc import PendingRollbackError
from sqlalchemy.orm import Session, SessionTransaction

from sqla_jobs import lifecycle
from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import JobMixin
from sqla_jobs.scope.beneath import opens
from sqla_jobs.scope.connections import Connections, refuse_autocommit, refuse_level
from sqla_jobs.scope.interrupts import Interrupter
from sqla_jobs.scope.savepoint import Savepoint
from sqla_jobs.scope.sql import ends_transaction, releases


class Containment:
    """A Session whose own methods go no further than a savepoint, while somebody's job has it.

    Parameters:
        session: in a transaction already, or fresh. Until the job first uses a fresh one nothing is
            sent: the transaction and the savepoint begin right before the first connection is handed
            to the job.
        model: the job model; its engine is the one that the outcome is recorded on.
        owned: the session is a worker's own, and holds nothing that is not the job's.
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
        self._stood = False
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
    def owned(self) -> bool:
        """Whether the Session was made for the job."""
        return self._owned

    @property
    def touched(self) -> bool:
        """Whether the job has used a connection of its Session."""
        return self._connections.any_came

    @property
    def stood(self) -> bool:
        """Whether its savepoint was set on a connection; if not, it has written nothing."""
        return self._stood

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

    def _problem(self) -> str | None:
        """What is not as it was when the job came; None: all is."""
        if not self._root.is_active:
            return GONE
        if self._engine() is not self._home:
            return "the job bound its Session to another engine"
        for connection, refusal in self._connections.refused.items():
            if self._owned and connection.engine is self._home:  # the outcome would be recorded on it
                return line(refusal)
        if any(self._connections.is_lost(connection) for connection in self._connections):
            return GONE
        return None

    def _forget_connections(self) -> None:
        self._connections.forget()
        self._interrupter.forget()

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
            if begun is self._root and self._owned:
                opens(connection)
        if connection in self._connections.refused:
            raise self._connections.refused[connection]
        for savepoint in (self._base, self._mark):
            if begun is savepoint.nested:
                standing = connection.get_nested_transaction()
                assert standing is not None
                savepoint.on[connection] = standing
                self._stood = True

    def _settle(self) -> None:
        """Flush, commit what the job left open above our mark, and see that the mark itself is sound."""
        session, connections = self._session, self._connections
        if connections.are(TransactionStatus.ACTIVE):
            return  # see _leave
        if not self._mark.stands_in(session):
            raise JobEscaped(ENDED)
        # By the driver's own flag: what is sent to an aborted transaction fails with a message that says
        # nothing of the cause.
        if not self._mark.nested.is_active or connections.are(TransactionStatus.INERROR):
            raise PendingRollbackError(SWALLOWED)
        session.flush()
        connections.restore_options()
        while (nested := session.get_nested_transaction()) not in (self._mark.nested, None):
            nested.commit()
        if not (self._base.is_whole and self._mark.is_whole):
            raise JobEscaped(ENDED)
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
        self._interrupter.before_statement()
        if connection in self._connections.refused:
            raise self._connections.refused[connection]
        if ends_transaction(sql):
            raise JobEscaped(f"{NOT_YOURS} Refused: {line(sql.strip())[:60]!r}")
        name = self._base.name_on(connection)
        if name is None:
            # SAVEPOINT is our own. A listener of the application's to its begin, such as one that sets a role
            # for each transaction, is called before `_arm`, and is in it.
            if not (sql.startswith("SAVEPOINT") or connection in self._base.nested._connections):
                raise JobEscaped("this Connection is not in the job's savepoint: use session.connection()")
        elif releases(sql, name):
            raise JobEscaped(ENDED)

    def _guard_commit(self, *_: Any) -> None:
        raise JobEscaped(f"{NOT_YOURS} session.commit() is contained and may be used.")

    def _guard_rollback(self, *_: Any) -> None:
        raise JobEscaped(f"{NOT_YOURS} session.rollback() is contained and may be used.")


_CONTAINED: Final = ("begin", "commit", "rollback", "close", "reset", "invalidate", "prepare")

NOT_YOURS: Final = "The transaction is not the job's: it holds the job's claim, and must not be ended by it."
ENDED: Final = (
    "the job ended the savepoint that it runs in; session.commit() and session.rollback() may be used"
)
GONE: Final = "the transaction that the job ran in is gone: the job ended it, or its connection was lost"
SWALLOWED: Final = (
    "the job caught a database error and went on without rolling back, so its work cannot be kept; "
    "put statements that may fail in `with session.begin_nested():`"
)


def escape(detail: str, cause: BaseException | None) -> NoReturn:
    """Raise JobEscaped: the transaction is not what it was when the job came."""
    if isinstance(cause, JobEscaped):
        raise cause  # it shows the very line
    raise JobEscaped(detail) from cause


def line(told: object) -> str:
    """The first line of what it says, or what it is."""
    return (str(told).splitlines() or [type(told).__name__])[0]
