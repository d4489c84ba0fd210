"""The ordinary lane: one job of a worker, claimed, run and finished in transactions of their own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import ClaimLost, JobEscaped
from sqla_jobs.lifecycle import Claimed, Mark, Written
from sqla_jobs.meter import Meter
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState, Outcome, decide, given_back
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.redaction import log_error
from sqla_jobs.runner.ends import Refused, Rerun, Untouched
from sqla_jobs.runner.exchange import Exchange, Peers, Turn, taken
from sqla_jobs.runner.failures import behind, is_conflict, is_lost, is_transient
from sqla_jobs.runner.kept import Kept
from sqla_jobs.runner.limits import Slots
from sqla_jobs.runner.recorder import Recorder, delay_for
from sqla_jobs.runner.run import Finished, facts, finished, run, told
from sqla_jobs.runner.sessions import discard, engine_of, is_read_committed
from sqla_jobs.runner.trail import Trail
from sqla_jobs.scope import (
    Interrupter,
    JobScope,
    Ran,
    keep_in_registry,
    stand_guard,
)
from sqla_jobs.statements import Filter
from sqla_jobs.tasks import Registry, RunningJob, ScopedSessions, Sessions, Watching, progressed, running

T = TypeVar("T")
log = logging.getLogger("sqla_jobs")

RERUNS: Final = 5
"""How often a job runs again after a serialization failure or deadlock without spending an attempt."""


@dataclass
class Follow:
    """What a thread wants after a job, and what it gets."""

    worker_id: Callable[[], int | None] = lambda: None
    """For whom another is to be claimed; None: none is wanted."""
    queues: Sequence[str] | None = None
    job: Claimed | None = None
    """It is claimed, with the commit of the one before."""


class Runner:
    """Claims jobs for one worker process and runs each in a transaction of its own.

    Parameters:
        persist: calls a function that talks to the database, again and again while the database
            cannot be reached; a worker gives its own, which backs off and ends with the worker.
        peers: what the threads that share this know of each other.
        only: which jobs are claimed; None: any.
        turn: what those who share this wait for each other by; None: they are threads.
        slots: of the runner that has claimed what this one performs; None: it is this one.
        watching: who observes the jobs; None: nobody.
    """

    def __init__(
        self,
        registry: Registry[Any],
        sessions: Sessions,
        persist: Callable[[Callable[[], Any]], Any],
        peers: Peers | None = None,
        only: Filter | None = None,
        turn: Callable[[], Turn] = taken,
        slots: Slots | None = None,
        watching: Watching | None = None,
    ) -> None:
        self.registry = registry
        self.model: type[JobMixin] = registry.model
        self.sessions = sessions
        self.persist = persist
        self.engine = engine_of(sessions, self.model)
        stand_guard(self.engine)
        self._kept = Kept(self.engine)
        self.peers = peers or Peers()
        self.only = only
        self.watching = watching
        self.slots = slots or Slots(registry, self.transact)
        self.recorder = Recorder(registry, self.transact, persist)
        self._trail = self.new_trail()
        # Not again if its answer is lost: it may stand.
        self._exchange = Exchange(
            self.model,
            lambda verb: self.at_once(verb, again=False),
            self.peers,
            self._trail,
            self.slots,
            turn,
        )
        if isinstance(sessions, ScopedSessions):
            keep_in_registry(sessions.registry)

    def new_trail(self) -> Trail:
        """What the claims of some threads follow, each from the one before."""
        slots, heard = self.slots, self.peers.heard
        return Trail(lambda: heard() + slots.reopened, never=self.peers.drains, only=self.only)

    def claim(self, worker_id: int, queues: Sequence[str] | None) -> Claimed | None:
        """Claim the next job, committed; None: there is none."""
        swapped = self._exchange.swap(worker_id, queues, None, wants=True)
        if swapped.error is not None:
            raise swapped.error
        return swapped.job

    def give_back(self, job: Claimed, reason: str) -> None:
        """Return a claimed job that will not be run here; it has not been an attempt."""
        view = running(job, self.registry.policy_for(job.task))
        self.recorder.record(job, view, given_back(reason))
        self.slots.ended(job)

    def at_once(self, verb: Callable[[Session | Connection], T], *, again: bool = True) -> T:
        """`transact` for a verb of a single statement, which is a transaction by itself.

        Parameters:
            again: it may be sent a second time, if the connection turns out to have been lost.
        """
        try:
            with self._kept.borrowed() as connection:
                if connection is not None:
                    return verb(connection)
        except DBAPIError as error:
            if not (again and is_lost(error)):
                raise
        return self.transact(verb)

    def close(self) -> None:
        """Close the connection that is kept from one claim to the next."""
        self._kept.close()

    def transact(self, verb: Callable[[Session], T], engine: Engine | None = None) -> T:
        """One short transaction of the queue's own: a plain Session, READ COMMITTED, committed.

        At a higher level a claim would meet a changed row with an error instead of passing it over. It is
        said on each connection: on an engine that has the option already, another would be ignored.

        Parameters:
            engine: None: the one that has the job table.
        """
        with Session(engine or self.engine) as session, session.begin():
            session.connection(execution_options={"isolation_level": "READ COMMITTED"})
            return verb(session)

    def perform(
        self,
        job: Claimed,
        interrupter: Interrupter | None = None,
        follow: Follow | None = None,
        meter: Meter | None = None,
    ) -> Finished | None:
        """Run a claimed job to its recorded outcome; None: the claim was taken over meanwhile.

        Parameters:
            interrupter: what another thread may end the job by.
            follow: where the next job is wanted, which may be claimed by the commit of this one's outcome.
            meter: where another thread looks how far it has come.
        """
        interrupter = interrupter or Interrupter()
        policy = self.registry.policy_for(job.task)
        meter = None if job.task in self.registry.fast else meter or Meter()
        view = running(job, policy, meter=meter, redaction=self.registry.redaction_for(job))
        watch = self.watching and self.watching.begin(job, view, claimed=True)
        result: Finished | None = None
        try:
            result = self._run_until_recorded(job, view, policy, interrupter, follow or Follow())
        except Exception as error:
            if is_transient(error):
                raise
            # A policy that raises, or an outcome that the table refuses: given back, it would run for ever.
            log_error(
                logging.ERROR, "job %s (%s): its outcome cannot be recorded", job.id, job.task,
                error=error, clean=view.clean, extra=facts(view),
            )  # fmt: skip
            result = self.recorder.record(
                job, view, decide(None, error, delay_for(RetryPolicy(), view), view.clean)
            )
        finally:
            self.slots.ended(job)
            if watch and self.watching:
                self.watching.end(job, watch, *told(result))
        if result is None and interrupter.given_up:
            log.info("job %s (%s) has come to an end after all", job.id, job.task, extra=facts(view))
        elif result is None:
            log.warning("job %s (%s) lost: its claim was taken over", job.id, job.task, extra=facts(view))
        return result

    def record_interrupted(self, job: Claimed, reason: Exception, meter: Meter) -> Finished | None:
        """Record the end of a job that goes on although it was interrupted; None: it was through before.

        What it still writes is refused by the fence.
        """
        watch = self.watching and self.watching.shared(job)
        policy = self.registry.policy_for(job.task)
        view = running(job, policy, meter=meter, redaction=self.registry.redaction_for(job))
        result: Finished | None = None
        try:
            result = self.recorder.record(
                job, view, decide(None, reason, delay_for(policy, view), view.clean)
            )
        finally:
            if watch:
                watch.over(*told(result))
        return result

    def _run_until_recorded(
        self, job: Claimed, view: RunningJob, policy: RetryPolicy, interrupter: Interrupter, follow: Follow
    ) -> Finished | None:
        """The ordinary lane: run, finish, commit; again after a conflict, of which nobody is to blame."""
        for rerun in range(RERUNS + 1):
            # In a context of its own: what a job sets in a contextvar does not leak into the next.
            ended = copy_context().run(self._attempt, job, view, policy, interrupter, follow)
            if isinstance(ended, Untouched):
                ended = self._hand_in(job, view, ended, follow)
            if not isinstance(ended, Refused):
                return ended
            result = self.recorder.after_refusal(job, view, policy, ended, may_rerun=rerun < RERUNS)
            if not isinstance(result, Rerun):
                return result
            interrupter.reopen()
        raise AssertionError("the last run may not ask for another")

    def _hand_in(
        self, job: Claimed, view: RunningJob, ran: Untouched, follow: Follow
    ) -> Finished | Refused | None:
        """Record the success of a job that has sent nothing, together with what other threads have."""
        worker_id = follow.worker_id()
        assert job.worker_id is not None
        swapped = self._exchange.swap(
            worker_id or job.worker_id, follow.queues, job, ran.outcome, wants=worker_id is not None
        )
        follow.job = swapped.job
        if swapped.error is not None:
            return self.recorder.record(job, view, ran.outcome, unsure=True)
        if swapped.holds:
            return finished(view, ran.outcome, Written(JobState.SUCCEEDED, job.run_at))
        return Refused(ClaimLost(job.id), ran.ran, ran.outcome, touched=False)

    def _attempt(
        self, job: Claimed, view: RunningJob, policy: RetryPolicy, interrupter: Interrupter, follow: Follow
    ) -> Finished | Untouched | Refused | None:
        result: Finished | Untouched | Refused | None = None
        ended = False
        try:
            with self.sessions() as session:
                try:
                    result = self._in_session(session, job, view, policy, interrupter, follow)
                finally:
                    interrupter.forget()  # before somebody else gets the connections
                ended = True
        except BaseException as error:  # the application's own: its sessionmaker, or the Session's end
            log_error(
                logging.ERROR, "job %s (%s): its Session failed", job.id, job.task,
                error=error, clean=view.clean, extra=facts(view),
            )  # fmt: skip
            return result if ended else Refused(error, Ran(error=error), None, touched=False)
        return result

    def _in_session(
        self,
        session: Session,
        job: Claimed,
        view: RunningJob,
        policy: RetryPolicy,
        interrupter: Interrupter,
        follow: Follow,
    ) -> Finished | Untouched | Refused | None:
        scope = JobScope(session, self.model, owned=True, interrupter=interrupter)
        ran, outcome = Ran(), None
        try:
            ran = run(self.registry, job, view, scope, session)
            interrupter.close()
            if is_conflict(ran.error):
                raise ran.error
            outcome = decide(ran.returned, ran.error, delay_for(policy, view), view.clean)
            outcome = progressed(view, outcome)
            passes = job.task in self.registry.passing
            if outcome.state is JobState.SUCCEEDED and not (scope.touched or passes):
                return Untouched(ran, outcome)
            written = self._finish(session, job, outcome, follow)
            if written is not None:
                scope.commit()
                return finished(view, outcome, written)
        except Exception as error:
            follow.job = None  # its claim was part of this transaction
            if isinstance(error, JobEscaped):
                scope.abandon()
            else:
                discard(session, error, view.clean)
            if interrupter.reason is not None and error.__cause__ is interrupter.reason:
                error = interrupter.reason  # it cost the connection
            return Refused(behind(error), ran, outcome, scope.touched, scope.checkpointed, scope.stood)
        follow.job = None
        discard(session)
        return Refused(ClaimLost(job.id), ran, outcome, scope.touched, scope.checkpointed)

    def _finish(self, session: Session, job: Claimed, outcome: Outcome, follow: Follow) -> Written | None:
        """Record the outcome in the job's own transaction, and claim the next job by its commit."""
        if outcome.state is not JobState.SUCCEEDED:
            return lifecycle.finish(session, self.model, job, outcome)
        connection = session.connection(bind_arguments=lifecycle.target(self.model))
        worker_id = follow.worker_id() if is_read_committed(connection) else None
        success = Written(JobState.SUCCEEDED, job.run_at)
        if job.task in self.registry.passing and lifecycle.remove(session, self.model, [job]):
            written: Written | None = success
        elif worker_id is not None and worker_id == job.worker_id:
            along = self._claim_along(connection, follow, worker_id, [job], [outcome])
            return success if along else None
        else:
            written = lifecycle.finish(connection, self.model, job, outcome)
        if written is not None and worker_id is not None:
            self._claim_along(connection, follow, worker_id)
        return written

    def _claim_along(
        self,
        connection: Connection,
        follow: Follow,
        worker_id: int,
        done: Sequence[Claimed] = (),
        outcomes: Sequence[Outcome] = (),
    ) -> set[int]:
        """Claim one more job, no suspect, in a transaction that is about to be committed.

        Parameters:
            done, outcomes: what it has finished, which the same statement records.

        Returns:
            The ids of those whose claim held.
        """
        held: set[int] = set()

        def look(where: Sequence[str] | None, mark: Mark | None, only: Filter | None) -> list[Claimed]:
            nonlocal done, outcomes
            options: Any = {"outcomes": outcomes, "innocent": True, "mark": mark, "only": only}
            options["left"] = self.slots.left
            finished, jobs = lifecycle.exchange(connection, self.model, worker_id, done, where, 1, **options)
            held.update(finished)
            done = outcomes = ()
            return jobs

        claimed = self._trail.claim(follow.queues, look) or []
        self._trail.left(claimed)
        follow.job = claimed[0] if claimed else None
        return held
