"""One job in a savepoint of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, event
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import ClaimLost, JobsError
from sqla_jobs.models import JobMixin
from sqla_jobs.scope.beneath import releasing
from sqla_jobs.scope.contained import Containment, escape, line
from sqla_jobs.scope.interrupts import Interrupter
from sqla_jobs.scope.savepoint import Savepoint


class Ran(NamedTuple):
    """How a body ended inside its scope: what it returned, or the error it raised."""

    returned: Any = None
    error: BaseException | None = None


class JobScope(Containment):
    """One job's stay in a Session; see `Containment`.

    Parameters:
        owned: True: a worker's, made for this job; False: a caller's (``work_once``).
    """

    def __init__(
        self,
        session: Session,
        model: type[JobMixin],
        *,
        owned: bool,
        interrupter: Interrupter | None = None,
    ) -> None:
        super().__init__(session, model, owned=owned, interrupter=interrupter)
        self.checkpointed = False
        """Whether something that the job wrote is committed already."""
        self._refusal: Exception | None = None
        """What the commit of a checkpoint was refused with, if it was."""

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

    def _leave(self, ran: Ran) -> Ran:
        if self._refusal is not None:
            # Whatever the job made of it, there is no transaction any more that it could have gone on in.
            self._session.rollback()
            self._forget_connections()
            return Ran(error=self._refusal)
        if self._connections.are(TransactionStatus.ACTIVE):
            # The driver's lock is held, by a thread or a suspended stream(): to send anything is to wait.
            escape("the job left a query running on its connection", ran.error)
        if ran.error is None:
            try:
                if self._mark is not self._base:
                    self._mark.nested.commit()
                with releasing(self._base.on if self._owned else ()):
                    self._base.nested.commit()
            except Exception as error:
                ran = Ran(error=error)
        if ran.error is not None:
            try:
                self._connections.restore_options()
                self._base.roll_back(self._session, beneath=self._around)
            except Exception as error:
                escape(f"the job's savepoint could not be rolled back: {line(error)}", ran.error)
        if (problem := self._problem()) is not None:
            escape(problem, ran.error)
        if ran.error is not None and self._owned and self.touched:
            # All of it, then: no trick with the names of savepoints can leave anything of a failed job.
            self._session.rollback()
            # A source that is inside its own `with session.begin():` would refuse a second transaction.
            self._session._trans_context_manager = None
            self._session.begin()
            self._forget_connections()
        self._forget()
        return ran

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
