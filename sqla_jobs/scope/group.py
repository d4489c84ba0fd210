"""Several jobs, one after the other, in one standing savepoint of their claim's transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import JobMixin
from sqla_jobs.scope.contained import GONE, Containment, escape, line
from sqla_jobs.scope.interrupts import Interrupter
from sqla_jobs.scope.job import Ran
from sqla_jobs.scope.savepoint import Savepoint

_ELSEWHERE = (
    "a task with group_commit may write to the database of the job table only, and this one came to another "
    "engine of its Session; take group_commit off it"
)


class GroupScope(Containment):
    """The stay of several jobs in a worker's Session, whose transaction has locked their rows.

    The savepoint stays from job to job. After one that has sent anything it is renewed, in one round trip:
    what is released can be rolled back no more, and what is sent next can. One that has sent nothing costs
    nothing. It keeps SQLAlchemy's own name for it, so that what the Session knows of it stays true.

    Parameters:
        session: of a sessionmaker, in the transaction.
    """

    def __init__(self, session: Session, model: type[JobMixin]) -> None:
        super().__init__(session, model, owned=True)
        self._cursors: dict[Connection, psycopg.Cursor[Any]] = {}
        self._used = False
        self._enter()
        # Whoever asks for it may go on with the driver's own connection, where nobody sees what is sent.
        own: Callable[..., Connection] = session.connection

        def connection(*args: Any, **kwargs: Any) -> Connection:
            self._used = True
            return own(*args, **kwargs)

        vars(session)["connection"] = connection

    def expect(self, interrupter: Interrupter) -> None:
        """The next job comes, and may be ended by this."""
        self._interrupter = interrupter
        for cursor in self._cursors.values():
            interrupter.uses(cursor.connection)

    def run(self, body: Callable[[], Any]) -> Ran:
        """Run one job; if it fails, nothing is left of it.

        Raises:
            JobEscaped: the transaction is not ours any more, and with it all that the group has done.
        """
        self._used = False
        try:
            ran = Ran(returned=self._interrupter.call(body))
            self._interrupter.settle(self._settle)
        except BaseException as error:
            ran = Ran(error=error)
        if self._is_untouched():
            return ran
        if self._connections.are(TransactionStatus.ACTIVE):
            escape("the job left a query running on its connection", ran.error)
        if ran.error is None:
            ran = self._keep(ran)
        if ran.error is not None:
            self._take_back(ran.error)
        if (problem := self._problem()) is not None:
            escape(problem, ran.error)
        session = self._session
        session._trans_context_manager = self._within
        session.expunge_all()
        return ran

    def checkpoint(self, _: Callable[[], bool]) -> None:
        """A contained ``commit()``: the transaction is not this job's alone."""
        self._commit()

    def close(self) -> None:
        """The Session's own methods again; what the jobs have done is part of its transaction."""
        self.release()  # first: what ends the savepoint now is not a job
        self._base.nested.commit()

    def release(self) -> None:
        """The Session's own methods again, whatever state it is in."""
        if vars(self._session).pop("connection", None) is not None:
            self._release()

    def _is_untouched(self) -> bool:
        """Whether the job has done nothing with its Session."""
        session = self._session
        return (
            not self._used
            and session.get_nested_transaction() is self._base.nested
            and self._base.nested.is_active
            and session._trans_context_manager is self._within
            and session.bind is self._bound
            and not session.identity_map
            and session._is_clean()
        )

    def _settle(self) -> None:
        if not self._is_untouched():
            super()._settle()

    def _keep(self, ran: Ran) -> Ran:
        """Let what the job has done be part of the transaction."""
        try:
            if self._mark is not self._base:
                self._mark.nested.commit()
                self._mark = self._base
            for connection, standing in self._base.on.items():
                name = standing._savepoint
                # As one simple query. Not prepared: that would be two statements.
                self._cursors[connection].execute(
                    f"RELEASE SAVEPOINT {name}; SAVEPOINT {name}", prepare=False
                )
        except psycopg.Error as error:
            escape(f"the job's savepoint could not be released: {line(error)}", error)
        except Exception as error:
            return Ran(error=error)
        return ran

    def _take_back(self, error: BaseException) -> None:
        """Let nothing of what the job has done stay."""
        session = self._session
        try:
            self._connections.restore_options()
            self._base.roll_back(session, beneath=None)
        except Exception as failure:
            escape(f"the job's savepoint could not be rolled back: {line(failure)}", error)
        if not self._root.is_active:
            escape(GONE, error)
        self._base = self._mark = Savepoint(session.begin_nested())

    def _arm(self, session: Session, begun: SessionTransaction, connection: Connection) -> None:
        super()._arm(session, begun, connection)
        if connection.engine is not self._home:
            raise self._connections.refused.setdefault(connection, JobEscaped(_ELSEWHERE))
        if connection not in self._cursors:
            driver: Any = connection.connection.driver_connection
            self._cursors[connection] = driver.cursor()

    def _guard_sql(self, connection: Connection, cursor: Any, sql: str, *rest: Any) -> None:
        self._used = True
        super()._guard_sql(connection, cursor, sql, *rest)
