"""One job: claim, run, finish. What follows is decided in ``outcome``, written by ``lifecycle``."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeGuard, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import lifecycle
from sqla_jobs.errors import Cancel, ClaimLost, ConfigurationError, JobEscaped, Snooze
from sqla_jobs.lifecycle import Claimed, Standing, Written, policy_at
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState, Outcome, decide
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.scope import JobScope, Ran, refuse_autocommit
from sqla_jobs.tasks import Registry, RunningJob, Sessions, as_current, running

T = TypeVar("T")
log = logging.getLogger("sqla_jobs")

RERUNS: Final = 5
"""How often a job runs again after a serialization failure or deadlock without spending an attempt."""


@dataclass(frozen=True)
class Finished:
    """The end of one run of a job.

    ``state`` is what the row says now: ``scheduled`` after a failure that is retried, or a snooze.
    ``error`` is what the run raised (or the Cancel or Snooze it returned); None: it succeeded.
    """

    job: RunningJob
    state: JobState
    error: BaseException | None = None
    run_at: dt.datetime | None = None
    """When it is due again, if it is ``scheduled``."""

    @property
    def failed(self) -> bool:
        """Whether this run failed, be it retried or not; a Snooze or a Cancel is no failure."""
        return self.error is not None and not isinstance(self.error, (Cancel, Snooze))


# -- in the caller's transaction -------------------------------------------------------------------


def work_once(
    registry: Registry[Any],
    session: Session | scoped_session[Any],
    queues: Sequence[str] | None = None,
    *,
    now: dt.datetime | None = None,
) -> Finished | None:
    """Claim, run and finish one job in savepoints of the caller's transaction; None: there is no job.

    Nothing is committed: the caller's commit makes it all true, its rollback makes it unhappen.

    Raises:
        JobEscaped: the job ended the caller's transaction, or changed its own row.
        DBAPIError: a serialization failure or deadlock.
        InvalidRequestError: the Session is in AUTOCOMMIT.

        Once it has claimed a job, whatever it raises, nothing is recorded and the caller's transaction
        has been rolled back: half a job may have been in it.
    """
    own: Session = session() if isinstance(session, scoped_session) else session
    own.flush()  # a job that is pending in this Session is as good as one that is in the table
    model = registry.model
    refuse_autocommit(own.connection(bind_arguments=lifecycle.target(model)))
    job = lifecycle.take(own, model, queues, held=_taken.get(), now=now)
    if job is None:
        return None
    policy = registry.policy_for(job.task)
    view = running(job, policy, attempt=job.attempt + 1)
    scope = JobScope(own, model, owned=False)
    token = _taken.set((*_taken.get(), job.id))
    try:
        ran = _run(registry, job, view, scope, own)
        if isinstance(ran.error, KeyboardInterrupt) or _is_conflict(ran.error):
            raise ran.error
        outcome = decide(ran.returned, ran.error, policy_at(policy, view.attempt, view.max_attempts))
        written = lifecycle.finish(own, model, job, outcome, taken=True, now=now)
        if written is None:
            raise JobEscaped(_CHANGED)
    except BaseException:
        scope.abandon()
        raise
    finally:
        _taken.reset(token)
    return finished(view, outcome, written)


_taken: ContextVar[tuple[int, ...]] = ContextVar("sqla_jobs_taken", default=())
"""The jobs that `work_once` runs in this context: their rows are `queued`, and a lock of the same
transaction does not hide them from a job that calls `work_once` itself."""

_CHANGED: Final = "the job changed its own row, or let go of the lock on it; its outcome cannot be recorded"


def _run(registry: Registry[Any], job: Claimed, view: RunningJob, scope: JobScope, session: Session) -> Ran:
    """Run the task in its scope; what keeps it from being called is an error of the job."""

    def body() -> Any:
        task = registry.find(job.task)
        if job.unreadable is not None:
            raise job.unreadable
        args, kwargs = task.signature.decode(job.arguments)
        return _call(task.function, session, *args, **kwargs)

    with as_current(view):
        return scope.run(body)


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    returned = function(*args, **kwargs)
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError("the task returned a coroutine, which nobody awaits; expected an ordinary function")
    return returned


def finished(job: RunningJob, outcome: Outcome, written: Written) -> Finished:
    """What hooks are told of a run whose outcome is written."""
    due = written.run_at if written.state is JobState.SCHEDULED else None
    return Finished(job, written.state, outcome.error, due)


# -- a worker's ordinary lane ----------------------------------------------------------------------


class _Rerun(Enum):
    AGAIN = "run the job again, its claim still holds"


@dataclass(frozen=True)
class _Refused:
    """A run whose transaction did not come to its end, and is gone with all that it wrote."""

    error: BaseException
    ran: Ran
    outcome: Outcome | None
    """What its commit would have recorded; None: it did not come that far."""
    touched: bool

    @property
    def may_stand(self) -> bool:
        """Whether its commit may have taken effect: the connection was lost in it, or a hook raised."""
        if self.outcome is None or isinstance(self.error, ClaimLost):
            return False
        return _is_lost(self.error) or not isinstance(self.error, DBAPIError)

    @property
    def held_only_the_finish(self) -> bool:
        return self.outcome is not None and (self.ran.error is not None or not self.touched)

    @property
    def is_nobodys_fault(self) -> bool:
        """Whether what was refused may go through if it is sent again."""
        if self.held_only_the_finish:
            return is_transient(self.error)
        return _is_conflict(self.error) or (self.outcome is not None and _is_lost(self.error))


class Runner:
    """Claims jobs for one worker process and runs each in a transaction of its own.

    Parameters:
        persist: calls a function that talks to the database, again and again while the database
            cannot be reached; a worker gives its own, which backs off and ends with the worker.
    """

    def __init__(
        self,
        registry: Registry[Any],
        sessions: Sessions,
        persist: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._registry = registry
        self._model: type[JobMixin] = registry.model
        self._sessions = sessions
        self._persist = persist
        self.engine = _engine_of(sessions, self._model)

    def claim(self, worker_id: int, queues: Sequence[str] | None) -> Claimed | None:
        """Claim the next job, committed; None: there is none."""
        claimed = self.transact(lambda s: lifecycle.claim(s, self._model, worker_id, queues))
        return claimed[0] if claimed else None

    def transact(self, verb: Callable[[Session], T]) -> T:
        """One short transaction of the queue's own: a plain Session, READ COMMITTED, committed.

        At a higher level a claim would meet a changed row with an error instead of passing it over. It is
        said on each connection: on an engine that has the option already, another would be ignored.
        """
        with Session(self.engine) as session, session.begin():
            session.connection(execution_options={"isolation_level": "READ COMMITTED"})
            return verb(session)

    def perform(self, job: Claimed) -> Finished | None:
        """Run a claimed job to its recorded outcome; None: the claim was taken over meanwhile."""
        policy = self._registry.policy_for(job.task)
        view = running(job, policy)
        try:
            result = self._run_until_recorded(job, view, policy)
        except Exception as error:
            if is_transient(error):
                raise
            # A policy that raises, or an outcome that the table refuses: given back, it would run for ever.
            log.exception("job %s (%s): its outcome cannot be recorded", job.id, job.task, extra=facts(view))
            result = self._record(job, view, decide(None, error, _delay_for(RetryPolicy(), view)))
        if result is None:
            log.warning("job %s (%s) lost: its claim was taken over", job.id, job.task, extra=facts(view))
        return result

    def _run_until_recorded(self, job: Claimed, view: RunningJob, policy: RetryPolicy) -> Finished | None:
        """The ordinary lane: run, finish, commit; again after a conflict, of which nobody is to blame."""
        for rerun in range(RERUNS + 1):
            # In a context of its own: what a job sets in a contextvar does not leak into the next.
            ended = copy_context().run(self._attempt, job, view, policy)
            if not isinstance(ended, _Refused):
                return ended
            result = self._after_refusal(job, view, policy, ended, may_rerun=rerun < RERUNS)
            if not isinstance(result, _Rerun):
                return result
        raise AssertionError("the last run may not ask for another")

    def _attempt(self, job: Claimed, view: RunningJob, policy: RetryPolicy) -> Finished | _Refused | None:
        result: Finished | _Refused | None = None
        ended = False
        try:
            with self._sessions() as session:
                result = self._in_session(session, job, view, policy)
                ended = True
        except BaseException as error:  # the application's own: its sessionmaker, or the Session's end
            log.exception("job %s (%s): its Session failed", job.id, job.task, extra=facts(view))
            return result if ended else _Refused(error, Ran(error=error), None, touched=False)
        return result

    def _in_session(
        self, session: Session, job: Claimed, view: RunningJob, policy: RetryPolicy
    ) -> Finished | _Refused | None:
        scope = JobScope(session, self._model, owned=True)
        ran, outcome = Ran(), None
        try:
            ran = _run(self._registry, job, view, scope, session)
            if _is_conflict(ran.error):
                raise ran.error
            outcome = decide(ran.returned, ran.error, _delay_for(policy, view))
            written = lifecycle.finish(session, self._model, job, outcome)
            if written is not None:
                scope.commit()
                return finished(view, outcome, written)
        except Exception as error:
            if isinstance(error, JobEscaped):
                scope.abandon()
            else:
                _discard(session, error)
            return _Refused(_behind(error), ran, outcome, scope.touched)
        _discard(session)
        return _Refused(ClaimLost(job.id), ran, outcome, scope.touched)

    def _after_refusal(
        self, job: Claimed, view: RunningJob, policy: RetryPolicy, refused: _Refused, *, may_rerun: bool
    ) -> Finished | _Rerun | None:
        """The transaction of this run is gone, and its writes with it: what now?

        A commit whose connection was lost may stand, and after a serialization failure somebody else
        may have the claim: the row is read before anything is done.
        """
        error, outcome = refused.error, refused.outcome
        row = self._persist(lambda: self._standing(job))
        if row is None or not row.holds(job):
            if row is None or outcome is None or not (refused.may_stand and row.shows(job, outcome)):
                return None
            log.warning(
                "job %s (%s): its commit stands, though it ended in %s", job.id, job.task,
                type(error).__name__, exc_info=None if _is_lost(error) else error, extra=facts(view),
            )  # fmt: skip
            return finished(view, outcome, _shown(row, outcome))
        if isinstance(error, ClaimLost):
            error = JobEscaped(_CHANGED)  # nobody else has
        if refused.is_nobodys_fault:
            if row.cancel_requested:
                return self._record(job, view, decide(Cancel("cancelled while it ran"), None, _give_up))
            if outcome is not None and refused.held_only_the_finish:
                return self._record(job, view, outcome)
            if may_rerun:
                return _Rerun.AGAIN
        return self._record(job, view, decide(None, error, _delay_for(policy, view)))

    def _record(self, job: Claimed, view: RunningJob, outcome: Outcome) -> Finished | None:
        """Write an outcome in a transaction that holds nothing else, for as long as it takes."""
        unsure = False

        def write() -> Written | None:
            nonlocal unsure
            if unsure:  # the answer to the write before this one may have been lost
                row = self._standing(job)
                if row is not None and not row.holds(job) and row.shows(job, outcome):
                    return _shown(row, outcome)
            unsure = True
            return self.transact(lambda s: lifecycle.finish(s, self._model, job, outcome))

        written = self._persist(write)
        return None if written is None else finished(view, outcome, written)

    def _standing(self, job: Claimed) -> Standing | None:
        return self.transact(lambda s: lifecycle.standing(s, self._model, job.id))


def _shown(row: Standing, outcome: Outcome) -> Written:
    cancelled = row.state is JobState.CANCELLED
    return Written(row.state if cancelled else outcome.state, row.run_at)


def _delay_for(policy: RetryPolicy, job: RunningJob) -> Callable[[BaseException], dt.timedelta | None]:
    return policy_at(policy, job.attempt, job.max_attempts)


def _give_up(_: BaseException) -> None:
    return None


def _discard(session: Session, error: BaseException | None = None) -> None:
    """Leave nothing of the transaction, in whatever state its connection is."""
    try:
        if error is not None and _is_lost(error):
            session.invalidate()
        else:
            session.rollback()
    except Exception:
        log.exception("a transaction that had failed could not be rolled back in order")
        session.invalidate()


def _engine_of(sessions: Sessions, model: type[JobMixin]) -> Engine:
    with sessions() as session:
        bind = session.get_bind(**lifecycle.target(model))
    if isinstance(bind, Engine):
        with bind.connect() as connection:
            refuse_autocommit(connection)
        return bind
    raise ConfigurationError(
        f"the Session is bound to {bind!r}; a worker's threads each need a connection of their own: "
        "expected a sessionmaker that is bound to an Engine"
    )


def _sqlstate(error: BaseException | None) -> str | None:
    return getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None


def _is_conflict(error: BaseException | None) -> TypeGuard[DBAPIError]:
    return _sqlstate(error) in ("40001", "40P01")


def _is_lost(error: BaseException) -> bool:
    """Whether the connection is gone, so that nobody knows whether the last statement took effect."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    # The server has ended the session, though the driver may still think that it is there.
    return (_sqlstate(error) or "").startswith(("57P", "08", "25P03", "25P04"))


def is_transient(error: BaseException) -> bool:
    """Whether the same call may go through later: no connection, or the server is busy or away."""
    if isinstance(error, (DisconnectionError, PoolTimeout, InterfaceError)):
        return True
    return isinstance(error, OperationalError) or _is_lost(error) or _is_conflict(error)


def _behind(error: BaseException) -> BaseException:
    """What to record of a job whose transaction is gone: if its connection was lost, its own error."""
    if isinstance(error, JobEscaped):
        for seen in (error.__cause__, error.__context__):
            if isinstance(seen, DBAPIError) and _is_lost(seen):
                return error.__cause__ or seen
    return error


def facts(job: RunningJob) -> dict[str, Any]:
    """What log records say of a job, as ``extra``."""
    return {"job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}
