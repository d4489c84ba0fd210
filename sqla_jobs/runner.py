"""One job: claim, run, finish. What follows is decided in ``outcome``, written by ``lifecycle``."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeGuard, TypeVar

from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import lifecycle
from sqla_jobs.errors import Cancel, ClaimLost, ConfigurationError, JobEscaped, Snooze
from sqla_jobs.lifecycle import Claimed, Written
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState, Outcome, decide
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
        JobEscaped: the job ended the caller's transaction, and its lock with it; nothing is recorded.
        DBAPIError: a serialization failure or deadlock; nothing is recorded, the caller rolls back.
        InvalidRequestError: the Session is in AUTOCOMMIT.
    """
    own: Session = session() if isinstance(session, scoped_session) else session
    model = registry.model
    refuse_autocommit(own.connection(bind_arguments={"mapper": model}))
    job = lifecycle.take(own, model, queues, now=now)
    if job is None:
        return None
    policy = registry.policy_for(job.task)
    view = running(job, policy, attempt=job.attempt + 1)
    ran = _run(registry, view, JobScope(own, model, owned=False), own)
    if isinstance(ran.error, KeyboardInterrupt) or _is_conflict(ran.error):
        raise ran.error
    outcome = decide(ran.returned, ran.error, _policy_at(policy, view))
    written = lifecycle.finish(own, model, job, outcome, taken=True, now=now)
    if written is None:
        raise ClaimLost(job.id, f"job {job.id} ({job.task}) is not locked by this transaction any more")
    if own.expire_on_commit:
        own.expire_all()  # the next job shall not see what this one has loaded
    return _finished(view, outcome, written)


def _run(registry: Registry[Any], job: RunningJob, scope: JobScope, session: Session) -> Ran:
    """Run the task in its scope; what keeps it from being called is an error of the job."""
    try:
        task = registry.find(job.task)
        args, kwargs = task.signature.decode(job.arguments)
    except Exception as error:
        return Ran(error=error)
    with as_current(job):
        return scope.run(lambda: _call(task.function, session, *args, **kwargs))


def _call(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    returned = function(*args, **kwargs)
    if inspect.iscoroutine(returned):
        returned.close()
        raise TypeError("the task returned a coroutine, which nobody awaits; expected an ordinary function")
    return returned


def _policy_at(policy: Any, job: RunningJob) -> Callable[[BaseException], dt.timedelta | None]:
    return lambda error: policy.delay(job.attempt, error, max_attempts=job.max_attempts)


def _finished(job: RunningJob, outcome: Outcome, written: Written) -> Finished:
    due = written.run_at if written.state is JobState.SCHEDULED else None
    return Finished(job, written.state, outcome.error, due)


# -- a worker's ordinary lane ----------------------------------------------------------------------


class _Next(Enum):
    AGAIN = "run the job again, its claim still holds"
    LOST = "somebody else has the job"


@dataclass(frozen=True)
class _Refused:
    """A run whose transaction did not come to its end."""

    ran: Ran
    outcome: Outcome | None
    """What its commit would have recorded; None: it did not come that far."""
    error: BaseException
    touched: bool


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
        engine = _engine_of(sessions, self._model)
        # Whatever the engine's default: at a higher level a claim meets a changed row with an error
        # instead of passing it over.
        self.engine = engine.execution_options(isolation_level="READ COMMITTED")

    def claim(self, worker_id: int, queues: Sequence[str] | None) -> Claimed | None:
        """Claim the next job, committed; None: there is none."""
        claimed = self.transact(lambda s: lifecycle.claim(s, self._model, worker_id, queues))
        return claimed[0] if claimed else None

    def transact(self, verb: Callable[[Session], T]) -> T:
        """One short transaction of the queue's own: a plain Session, READ COMMITTED, committed."""
        with Session(self.engine) as session, session.begin():
            return verb(session)

    def perform(self, job: Claimed) -> Finished | None:
        """Run a claimed job to its recorded outcome; None: the claim was taken over meanwhile."""
        view = running(job, self._registry.policy_for(job.task))
        for rerun in range(RERUNS + 1):
            # In a context of its own: what a job sets in a contextvar does not leak into the next.
            result = copy_context().run(self._attempt, job, view, rerun < RERUNS)
            if isinstance(result, Finished):
                return result
            if result is _Next.LOST:
                break
        log.warning("job %s (%s) lost: its claim was taken over", job.id, job.task, extra=facts(view))
        return None

    def _attempt(self, job: Claimed, view: RunningJob, may_rerun: bool) -> Finished | _Next:
        result: Finished | _Next | _Refused | None = None
        try:
            with self._sessions() as session:
                result = self._in_session(session, job, view)
        except Exception as error:  # the application's own: its sessionmaker, or the Session's end
            log.exception("job %s (%s): its Session failed", job.id, job.task, extra=facts(view))
            result = result or _Refused(Ran(error=error), None, error, touched=False)
        if isinstance(result, _Refused):
            return self._after_refusal(job, view, result, may_rerun)
        return result

    def _in_session(self, session: Session, job: Claimed, view: RunningJob) -> Finished | _Next | _Refused:
        scope = JobScope(session, self._model, owned=True)
        try:
            ran = _run(self._registry, view, scope, session)
        except JobEscaped as escape:
            session.invalidate()
            return _Refused(Ran(error=escape), None, _behind(escape), touched=True)
        if _is_conflict(ran.error):
            session.rollback()
            return _Refused(ran, None, ran.error, touched=True)
        outcome = decide(ran.returned, ran.error, self._delay_for(view))
        try:
            written = lifecycle.finish(session, self._model, job, outcome)
            if written is not None:
                scope.commit()
                return _finished(view, outcome, written)
        except Exception as error:
            session.invalidate() if _is_lost(error) else session.rollback()
            return _Refused(ran, outcome, error, touched=scope.touched)
        session.rollback()
        return _Next.LOST

    def _after_refusal(
        self, job: Claimed, view: RunningJob, refused: _Refused, may_rerun: bool
    ) -> Finished | _Next:
        """The transaction of this run is gone, and its writes with it: what now?

        A commit whose connection was lost may stand, and after a serialization failure somebody else
        may have the claim: the row is read before anything is done.
        """
        error, outcome = refused.error, refused.outcome
        if _is_conflict(error) or (outcome is not None and _is_lost(error)):
            row = self._persist(lambda: self.transact(lambda s: lifecycle.standing(s, self._model, job.id)))
            if row is None or row.claim != job.claim:
                return _Next.LOST
            if row.state is not JobState.RUNNING:
                if outcome is None or row.state not in (outcome.state, JobState.CANCELLED):
                    return _Next.LOST
                log.info("job %s (%s): the commit stands, though its connection was lost", job.id, job.task)
                return Finished(view, row.state, outcome.error)
            if row.cancel_requested:
                return self._record(job, view, decide(Cancel("cancelled while it ran"), None, lambda _: None))
            if outcome is not None and (refused.ran.error is not None or not refused.touched):
                return self._record(job, view, outcome)  # the transaction held nothing but the finish
            if may_rerun:
                return _Next.AGAIN
        return self._record(job, view, decide(None, error, self._delay_for(view)))

    def _delay_for(self, view: RunningJob) -> Callable[[BaseException], dt.timedelta | None]:
        return _policy_at(self._registry.policy_for(view.task), view)

    def _record(self, job: Claimed, view: RunningJob, outcome: Outcome) -> Finished | _Next:
        """Write an outcome in a transaction that holds nothing else, for as long as it takes."""

        def write() -> Written | None:
            written = self.transact(lambda s: lifecycle.finish(s, self._model, job, outcome))
            if written is not None:
                return written
            # A lost answer to the write before this one: the row says what we meant to say.
            row = self.transact(lambda s: lifecycle.standing(s, self._model, job.id))
            ours = row is not None and row.claim == job.claim and row.state is outcome.state
            return Written(outcome.state, job.run_at) if ours else None

        written = self._persist(write)
        return _Next.LOST if written is None else _finished(view, outcome, written)


def _engine_of(sessions: Sessions, model: type[JobMixin]) -> Engine:
    with sessions() as session:
        bind = session.get_bind(mapper=model)
    if isinstance(bind, Engine):
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
    # 57P0x: the server ends the connection, though the driver may still think that it is there.
    return (_sqlstate(error) or "").startswith(("57P", "08"))


def is_transient(error: BaseException) -> bool:
    """Whether the same call may go through later: no connection, or the server is busy or away."""
    if isinstance(error, (DisconnectionError, PoolTimeout, InterfaceError)):
        return True
    return isinstance(error, OperationalError) or _is_lost(error) or _is_conflict(error)


def _behind(escape: JobEscaped) -> BaseException:
    """What to record of a job whose transaction is gone: if its connection was lost, its own error."""
    cause = escape.__cause__
    for seen in (cause, escape.__context__):
        if isinstance(seen, DBAPIError) and _is_lost(seen):
            return cause or seen
    return escape


def facts(job: RunningJob) -> dict[str, Any]:
    """What log records say of a job, as ``extra``."""
    return {"job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}
