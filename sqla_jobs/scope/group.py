"""Several jobs, one after the other, in one standing savepoint of their claim's transaction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from operator import attrgetter
from typing import Any, Final

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection
from sqlalchemy.orm import Session, SessionTransaction

from sqla_jobs import commits, lifecycle
from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import JobMixin
from sqla_jobs.scope.beneath import answer, opens, post, releasing
from sqla_jobs.scope.connections import refuse_level
from sqla_jobs.scope.contained import GONE, Containment, escape, line
from sqla_jobs.scope.interrupts import Interrupter
from sqla_jobs.scope.job import Ran
from sqla_jobs.scope.savepoint import Savepoint
from sqla_jobs.scope.sql import lasts

_ELSEWHERE = (
    "a task with group_commit may write to the database of the job table only, and this one came to another "
    "engine of its Session; take group_commit off it"
)
_OF_ITS_STATE: Final = {"identity_map", "_new", "_deleted", "_transaction", "_nested_transaction"}
"""Attributes of a Session that SQLAlchemy changes as it goes."""


WRITING: Final = 50
"""How many jobs may use one transaction. PostgreSQL keeps up to 64 subtransactions of it at hand; with more,
every snapshot of everybody else has to look them up. One that fails counts, too: each has its own UPDATE."""


class GroupScope(Containment):
    """The stay of several jobs in a worker's Session, whose transaction has locked their rows.

    The savepoint stays from job to job. After one that has sent anything it is renewed, in one round trip:
    what is released can be rolled back no more, and what is sent next can. Nobody waits for the answer before
    the next job begins: until then there is enough to do. One that has sent nothing costs nothing. It keeps
    SQLAlchemy's own name for it, so that what the Session knows of it stays true.

    Parameters:
        session: of a sessionmaker, in the transaction.
    """

    def __init__(self, session: Session, model: type[JobMixin]) -> None:
        super().__init__(session, model, owned=True)
        self._drivers: dict[Connection, psycopg.Connection[Any]] = {}
        self._unanswered: list[psycopg.Connection[Any]] = []
        """Those that the savepoint is being renewed on."""
        self._used = False
        self.is_worn = False
        """Whether a job has left something in Session or transaction that the next one must not meet."""
        self._uses = 0
        home = session.connection(bind_arguments=lifecycle.target(model))
        self._enter()
        opens(home)
        # The root transaction has it already: a job could come to it there, beside the savepoint.
        self._connections.watch(home)
        # Whoever asks for it may go on with the driver's own connection, where nobody sees what is sent.
        own: Callable[..., Connection] = session.connection

        def connection(
            bind_arguments: Any = None, execution_options: Mapping[str, Any] | None = None
        ) -> Connection:
            if execution_options and not self._used:
                try:
                    refuse_level(home, session, execution_options)
                except JobEscaped as error:
                    self._connections.refused[home] = error
            self._used = True
            return own(bind_arguments, execution_options)

        vars(session)["connection"] = connection
        self._found = dict(vars(session))
        self._attributes = [each for each in self._found.items() if each[0] not in _OF_ITS_STATE]
        self._info = dict(session.info) if "info" in self._found else None
        self._listeners = _listeners(session)

    @property
    def is_full(self) -> bool:
        """Whether as many jobs have used the transaction as may."""
        return self._uses >= WRITING

    def expect(self, interrupter: Interrupter) -> None:
        """The next job comes, and may be ended by this."""
        self._interrupter = interrupter
        for driver in self._drivers.values():
            interrupter.uses(driver)

    def run(self, body: Callable[[], Any]) -> Ran:
        """Run one job; if it fails, nothing is left of it.

        Raises:
            JobEscaped: the transaction is not ours any more, and with it all that the group has done.
        """
        self._await_renewal()
        self._used = False
        try:
            ran = Ran(returned=self._interrupter.call(body))
            if self._is_untouched():
                return ran
            self._interrupter.settle(self._settle)
        except BaseException as error:
            ran = Ran(error=error)
            self._uses += 1
            if self._is_untouched():
                return ran
        if self._connections.are(TransactionStatus.ACTIVE):
            escape("the job left a query running on its connection", ran.error)
        if ran.error is None:
            self._uses += 1
            # Before anything is sent: a connection that the job has let go of may be somebody else's by now.
            self._see_that_it_is_ours(ran)
            ran = self._keep(ran)
        if ran.error is not None:
            self._take_back(ran.error)
            self._see_that_it_is_ours(ran)
        self._clean(keeps=ran.error is None)
        return ran

    def checkpoint(self, _: Callable[[], bool]) -> None:
        """A contained ``commit()``: the transaction is not this job's alone."""
        self._commit()

    def close(self) -> None:
        """The Session's own methods again; what the jobs have done is part of its transaction."""
        self._await_renewal()
        self.release()  # first: what ends the savepoint now is not a job
        with releasing(self._base.on):
            self._base.nested.commit()

    def release(self) -> None:
        """The Session's own methods again, whatever state it is in."""
        with suppress(psycopg.Error):  # it is given up, and nothing can be sent before the answer
            while self._unanswered:
                answer(self._unanswered.pop())
        if vars(self._session).pop("connection", None) is not None:
            self._release()

    def _is_untouched(self) -> bool:
        """Whether the job has done nothing with its Session."""
        session = self._session
        return (
            not self._used
            and vars(session) == self._found
            and self._base.nested.is_active
            and not session.identity_map
            and session._is_clean()
            and ("info" not in self._found or session.info == self._info)
            and _listeners(session) == self._listeners
        )

    def _clean(self, *, keeps: bool) -> None:
        """Let the next job find the Session as this one has found it."""
        session, nested = self._session, self._base.nested
        session._trans_context_manager = self._within
        if session.identity_map or _has_snapshot(nested):
            session.expunge_all()
            if keeps:
                # What this job has made is not the next one's to take back.
                nested._take_snapshot()
        own = vars(session)
        if own != self._found:  # in most cases nothing was changed
            for name in own.keys() - self._found.keys():
                del own[name]
            for name, value in self._attributes:
                if own.get(name, own) is not value:
                    own[name] = value
            self._found = dict(own)
        if self._info is not None:
            session.info.clear()
            session.info.update(self._info)
        # It shall be called at the commit, and by no other job.
        self.is_worn |= _listeners(session) != self._listeners

    def _see_that_it_is_ours(self, ran: Ran) -> None:
        if (problem := self._problem()) is not None:
            escape(problem, ran.error)

    def _keep(self, ran: Ran) -> Ran:
        """Let what the job has done be part of the transaction."""
        try:
            if self._mark is not self._base:
                self._mark.nested.commit()
                self._mark = self._base
            # The Session takes it for the one that it was, and would forget them with the next job's.
            commits.keep(self._base.nested)
            for connection, standing in self._base.on.items():
                name, driver = standing._savepoint, self._drivers[connection]
                post(driver, f"RELEASE SAVEPOINT {name}; SAVEPOINT {name}")
                self._unanswered.append(driver)
        except psycopg.Error as error:
            escape(f"the job's savepoint could not be released: {line(error)}", error)
        except Exception as error:
            return Ran(error=error)
        return ran

    def _await_renewal(self) -> None:
        while self._unanswered:
            try:
                refusal = answer(self._unanswered.pop())
            except psycopg.Error as error:
                refusal = error
            if refusal is not None:
                escape(f"the savepoint of a job could not be released: {line(refusal)}", None)

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

    def _arm(self, _: Session, begun: SessionTransaction, connection: Connection) -> None:
        super()._arm(_, begun, connection)
        if connection.engine is not self._home:
            raise self._connections.refused.setdefault(connection, JobEscaped(_ELSEWHERE))
        if connection not in self._drivers:
            driver: Any = connection.connection.driver_connection
            self._interrupter.uses(driver)
            self._drivers[connection] = driver

    def _guard_sql(self, connection: Connection, _: Any, sql: str, *__: Any) -> None:
        self._used = True
        self.is_worn |= lasts(sql)
        super()._guard_sql(connection, _, sql, *__)


def _has_snapshot(nested: SessionTransaction) -> bool:
    return bool(nested._new or nested._deleted or nested._dirty or nested._key_switches)


_OF_EACH_EVENT: Final = attrgetter(*Session.dispatch._event_names)


def _listeners(session: Session) -> tuple[Any, ...]:
    """Something else after one more was added to the Session itself."""
    heard: Any = session.dispatch
    # The first one of an event is in a new collection. Of this event there is one already, our own.
    return _OF_EACH_EVENT(heard), len(heard.after_begin.listeners)
