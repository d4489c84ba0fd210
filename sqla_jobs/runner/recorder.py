"""What becomes of a job's row apart from the transaction of its run: outcomes, and how the row stands."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import Cancel, ClaimLost, JobEscaped
from sqla_jobs.lifecycle import Claimed, Standing, Written
from sqla_jobs.outcome import JobState, Outcome, decide
from sqla_jobs.policy import RetryPolicy, policy_at
from sqla_jobs.redaction import log_error
from sqla_jobs.runner.ends import Refused, Rerun
from sqla_jobs.runner.failures import is_lost
from sqla_jobs.runner.run import CANCELLED, CHANGED, Finished, facts, finished
from sqla_jobs.tasks import Registry, RunningJob, progressed

log = logging.getLogger("sqla_jobs")


class Recorder:
    """Reads a job's row, and writes its outcome, in short transactions that hold nothing else.

    Parameters:
        transact: calls a function with a Session of the queue's own, and commits.
        persist: calls a function again and again while the database cannot be reached.
    """

    def __init__(
        self,
        registry: Registry[Any],
        transact: Callable[[Callable[[Session], Any]], Any],
        persist: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._registry = registry
        self._model = registry.model
        self._transact = transact
        self._persist = persist

    def standing(self, job: Claimed) -> Standing | None:
        """What the job's row says now; None: it is gone."""
        row: Standing | None = self._transact(lambda s: lifecycle.standing(s, self._model, job.id))
        return row

    def shows(self, row: Standing | None, job: Claimed, outcome: Outcome) -> bool:
        """Whether the row, or that there is none, is what the commit of that outcome has left."""
        if row is None:
            return job.task in self._registry.passing and outcome.state is JobState.SUCCEEDED
        return row.shows(job, outcome)

    def record(
        self, job: Claimed, view: RunningJob, outcome: Outcome, *, unsure: bool = False
    ) -> Finished | None:
        """Write an outcome in a transaction that holds nothing else, for as long as it takes.

        Parameters:
            unsure: it may have been written already.
        """
        outcome = progressed(view, outcome)

        def write() -> Written | None:
            nonlocal unsure
            if unsure:  # the answer to the write before this one may have been lost
                row = self.standing(job)
                if row is not None and not row.holds(job) and row.shows(job, outcome):
                    return _shown(row, outcome)
            unsure = True
            ended: Written | None = self._transact(lambda s: lifecycle.finish(s, self._model, job, outcome))
            return ended

        written = self._persist(write)
        return None if written is None else finished(view, outcome, written)

    def after_refusal(
        self, job: Claimed, view: RunningJob, policy: RetryPolicy, refused: Refused, *, may_rerun: bool
    ) -> Finished | Rerun | None:
        """The transaction of this run is gone, and its writes with it: what now?

        A commit whose connection was lost may stand, and after a serialization failure somebody else
        may have the claim: the row is read before anything is done.
        """
        error, outcome = refused.error, refused.outcome
        row = self._persist(lambda: self.standing(job))
        if row is None or not row.holds(job):
            if outcome is None or not (refused.may_stand and self.shows(row, job, outcome)):
                return None
            log_error(
                logging.WARNING, "job %s (%s): its commit stands, though it ended in %s", job.id, job.task,
                type(error).__name__, error=None if is_lost(error) else error,
                clean=view.clean, extra=facts(view),
            )  # fmt: skip
            return finished(
                view, outcome, _shown(row, outcome) if row else Written(outcome.state, job.run_at)
            )
        if isinstance(error, ClaimLost):
            error = JobEscaped(CHANGED)  # nobody else has
        if refused.is_nobodys_fault:
            if row.cancel_requested:
                return self.record(job, view, decide(Cancel(CANCELLED), None, _give_up))
            if outcome is not None and refused.held_only_the_finish:
                return self.record(job, view, outcome)
            if may_rerun and not refused.checkpointed:
                return Rerun.AGAIN
        return self.record(job, view, decide(None, error, delay_for(policy, view), view.clean))


def _shown(row: Standing, outcome: Outcome) -> Written:
    cancelled = row.state is JobState.CANCELLED
    return Written(row.state if cancelled else outcome.state, row.run_at)


def delay_for(policy: RetryPolicy, job: RunningJob) -> Callable[[BaseException], dt.timedelta | None]:
    """What the policy says of an error of this run."""
    return policy_at(policy, job.attempt, job.max_attempts)


def _give_up(_: BaseException) -> None:
    return None
