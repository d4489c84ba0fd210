"""The fast lane: jobs of ``group_commit`` tasks, claimed, run and finished in one transaction."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle, wakeup
from sqla_jobs.errors import ConfigurationError, GiveBack, JobEscaped
from sqla_jobs.lifecycle import Claimed, Mark, Written
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import Clean, JobState, Outcome, decide
from sqla_jobs.redaction import cleaning
from sqla_jobs.runner.failures import is_conflict, is_lost
from sqla_jobs.runner.lane import Runner
from sqla_jobs.runner.recorder import delay_for
from sqla_jobs.runner.run import CHANGED, TAKEN, Finished, finished, run, told
from sqla_jobs.runner.sessions import apart, discard
from sqla_jobs.scope import GroupScope, Interrupter
from sqla_jobs.statements import Filter
from sqla_jobs.tasks import GROUP_SIZES, RunningJob, Watch, running

log = logging.getLogger("sqla_jobs")

BUDGET: Final = 0.020
"""Seconds after which a group takes no further job: as long others may wait for what it has locked."""
_SIZES: Final = (200, 100, 50, 32, 16, 8, 4, 2, 1)
"""How many jobs to ask for, if not as many as may be: few, as a LIMIT is part of a statement's text."""
_GROWTH: Final = 4
"""How many times as long as the one before a group may be. Each text is made and planned at its first use."""


@dataclass
class Pace:
    """How one thread goes on in the fast lane."""

    size: int = 1
    """How many jobs are likely to fit into the budget."""
    alone: int = 0
    """How many of the next jobs are to run in the ordinary lane, each by itself, because a group failed."""
    has_more: bool = False
    """Whether the group before was as long as was asked for, so that most likely another is behind it."""

    def learn(self, jobs: int, seconds: float, *, is_full: bool) -> None:
        """A group of so many jobs took so long to run.

        Parameters:
            is_full: its transaction would have taken no more of them, however much time was left.
        """
        most = jobs if is_full else self.size * _GROWTH
        fits = int(BUDGET * jobs / seconds) if seconds else most
        self.size = max(1, min(fits, most, GROUP_SIZES[-1]))


def _size(likely: int, most: int) -> int:
    """How many jobs to ask for, where so many are likely to fit and so many may share a transaction."""
    return most if most <= likely else next(each for each in _SIZES if each <= likely)


class _First(NamedTuple):
    """The job that a group begins with, or one of the ordinary lane; and where others are that may join."""

    job: Claimed
    is_ordinary: bool
    queues: Sequence[str] | None
    only: Filter | None


class _Run(NamedTuple):
    """What became of one job of a group that is not committed yet."""

    job: Claimed
    view: RunningJob
    outcome: Outcome

    @property
    def has_succeeded(self) -> bool:
        return self.outcome.state is JobState.SUCCEEDED


def check_level(runner: Runner, task: str) -> None:
    """See that the Sessions of a worker will do for a task with ``group_commit``.

    Raises:
        ConfigurationError: they are not READ COMMITTED: a group's claim would fail on each row that
            another worker has changed since its transaction began.
    """
    with apart(runner.sessions) as session:
        level = _home(session, runner.model).exec_driver_sql("SHOW transaction_isolation").scalar_one()
    if level != "read committed":
        raise ConfigurationError(
            f"task {task!r} has group_commit, and the Sessions of this worker are {level.upper()}; expected "
            "READ COMMITTED: give the worker an engine of that level, or take group_commit off the task"
        )


def _home(session: Session, model: type[JobMixin]) -> Connection:
    if not session.in_transaction():  # for one that does not begin by itself
        session.begin()
    return session.connection(bind_arguments=lifecycle.target(model))


class Groups:
    """Claims the next job in the lane that it is for, and runs a group of them if it is the fast one.

    Parameters:
        begins: called before each job of a group; gives what another thread may end it by.
        may_go_on: whether another job may be begun.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        begins: Callable[[Claimed], Interrupter],
        may_go_on: Callable[[], bool],
    ) -> None:
        self._runner = runner
        self._registry = runner.registry
        self._model = runner.model
        self._begins = begins
        self._may_go_on = may_go_on
        self._trail = runner.new_trail()
        self._watches: list[tuple[int, Watch]] = []
        """The runs of the group that are observed, with the ids of their jobs."""

    def work(
        self, worker_id: int, queues: Sequence[str] | None, pace: Pace, *, innocent: bool = False
    ) -> Claimed | list[Finished] | None:
        """Claim the next job; None: there is none, or it has to be counted first, by `Runner.claim`.

        Returns:
            A job of the ordinary lane, claimed and committed; or what became of a group, committed.
        """
        with self._runner.sessions() as session:
            try:
                connection = _home(session, self._model)
                jobs = self._next_group(connection, worker_id, queues, pace)
                found = None if jobs else self._claim(connection, worker_id, queues, innocent)
                if found is not None and not found.is_ordinary:
                    jobs = self._joined(connection, found, pace)
                if jobs:
                    return self._observed(session, connection, jobs, pace)
                # Also if there is nothing: after a ROLLBACK the driver forgets what it has prepared.
                session.commit()
            except BaseException as error:
                discard(session, error)
                raise
            return None if found is None else found.job

    def _claim(
        self, connection: Connection, worker_id: int, queues: Sequence[str] | None, innocent: bool
    ) -> _First | None:
        fast = list(self._registry.fast)

        def look(where: Sequence[str] | None, mark: Mark | None, only: Filter | None) -> _First | None:
            found = lifecycle.claim_either(
                connection, self._model, worker_id, where, fast,
                innocent=innocent, mark=mark, only=only, left=self._runner.slots.left,
            )  # fmt: skip
            return found and _First(*found, where, only)

        first = self._trail.claim(queues, look)
        self._trail.left([first.job] if first else [])
        return first

    def _next_group(
        self, connection: Connection, worker_id: int, queues: Sequence[str] | None, pace: Pace
    ) -> list[Claimed]:
        """The jobs behind the group before, by one statement; none, if it is for `_claim` to look."""
        expects, pace.has_more = pace.has_more, False
        place = self._trail.behind(queues) if expects else None
        most = set(self._registry.fast.values())
        if place is None or len(most) > 1:  # the next one may be of a task that lets fewer share
            return []
        size = _size(pace.size, *most)
        jobs, is_next = lifecycle.claim_group(
            connection, self._model, worker_id, place[0], list(self._registry.fast), size, place[1],
            only=self._runner.only,
        )  # fmt: skip
        # If somebody else has the next one, an ordinary job may be behind that, and has been passed over.
        pace.has_more = is_next and len(jobs) == size
        return jobs

    def _joined(self, connection: Connection, first: _First, pace: Pace) -> list[Claimed]:
        """The first job of a group, and those that it takes along."""
        fast = self._registry.fast
        jobs = [first.job]
        size = _size(pace.size, fast[first.job.task])
        if size > 1:
            jobs += lifecycle.join(
                connection, self._model, first.job, first.queues, list(fast), size - 1, only=first.only
            )
            pace.has_more = len(jobs) == size
        return jobs

    def _observed(
        self, session: Session, connection: Connection, jobs: Sequence[Claimed], pace: Pace
    ) -> list[Finished]:
        """`_group`; and whoever observes its runs is told what became of them, after the commit."""
        if self._runner.watching is None:
            return self._group(session, connection, jobs, pace)
        ended: list[Finished] = []
        try:
            ended = self._group(session, connection, jobs, pace)
        finally:
            results = {each.job.id: each for each in ended}
            for job, watch in self._watches:
                watch.over(*told(results.get(job)))
            self._watches.clear()
        return ended

    def _group(
        self, session: Session, connection: Connection, jobs: Sequence[Claimed], pace: Pace
    ) -> list[Finished]:
        scope = GroupScope(session, self._model)
        ended: list[Finished] | None = None
        done: list[_Run] = []
        try:
            try:
                began = time.monotonic()
                self._run_all(scope, session, jobs, done, pace)
                pace.learn(max(1, len(done)), time.monotonic() - began, is_full=scope.is_full)
                if scope.is_worn:
                    pace.size = 1
                scope.close()
            except BaseException:
                scope.release()
                raise
            ended = self._finish(session, connection, done)
            if not self._may_go_on() and len(done) < len(jobs):
                queued = {wakeup.queued(job.queue) for job in jobs}
                wakeup.announce(session, self._model, queued)  # to others: this worker leaves them
            session.commit()
            # Not of all that were locked: those that have not begun are the next ones.
            self._trail.left([each.job for each in done])
        except Exception as error:
            if isinstance(error, JobEscaped):
                scope.abandon()
            else:
                discard(session, error, self._cleaning(jobs))
            # A hook of the application's that raises after the commit has not undone it.
            may_stand = is_lost(error) or not isinstance(error, DBAPIError)
            if ended and may_stand and self._stands(done):
                return ended
            pace.alone = len(jobs)
            told = f"{type(error).__name__}: {error}"
            if (clean := self._cleaning(jobs)) is not None:
                told = clean(told)
            log.warning(
                "a group of %s jobs could not be committed, and each runs again by itself: %s",
                len(jobs), told.partition("\n")[0],
            )  # fmt: skip
            return []
        return ended

    def _run_all(
        self, scope: GroupScope, session: Session, jobs: Sequence[Claimed], done: list[_Run], pace: Pace
    ) -> None:
        most, end = len(jobs), time.monotonic() + BUDGET
        locked = tuple(job.id for job in jobs)
        for job in jobs:
            most = min(most, self._registry.fast.get(job.task, 1))
            if done and not (
                len(done) < most
                and time.monotonic() < end
                and self._may_go_on()
                and not (scope.is_worn or scope.is_full)
            ):
                return
            # In a context of its own: what a job sets in a contextvar does not leak into the next.
            ran = copy_context().run(self._run_one, scope, session, job, locked)
            if ran is None:  # as if it had not begun: its row stays as it is
                pace.alone = 1
                return
            done.append(ran)

    def _run_one(
        self, scope: GroupScope, session: Session, job: Claimed, locked: tuple[int, ...]
    ) -> _Run | None:
        """Run a job; None: it met a conflict of which nobody is to blame, or is to be given back."""
        TAKEN.set(locked)
        interrupter = self._begins(job)
        scope.expect(interrupter)
        policy = self._registry.policy_for(job.task)
        redaction = self._registry.redaction_for(job)
        view = running(job, policy, attempt=job.attempt + 1, redaction=redaction)
        if self._runner.watching is not None:
            self._watches.append((job.id, self._runner.watching.begin(job, view, claimed=False)))
        try:
            ran = run(self._registry, job, view, scope, session)
        finally:
            interrupter.close()
        if is_conflict(ran.error) or isinstance(ran.error, GiveBack):
            return None
        return _Run(job, view, decide(ran.returned, ran.error, delay_for(policy, view), view.clean))

    def _finish(self, session: Session, connection: Connection, done: Sequence[_Run]) -> list[Finished]:
        """Record all outcomes, to be committed."""
        succeeded = [each for each in done if each.has_succeeded]
        passing = [each.job for each in succeeded if each.job.task in self._registry.passing]
        gone = lifecycle.remove(session, self._model, passing, taken=True)
        left = [each for each in succeeded if each.job.id not in gone]
        jobs, outcomes = [each.job for each in left], [each.outcome for each in left]
        if not lifecycle.finish_group(connection, self._model, jobs, outcomes):
            raise JobEscaped(CHANGED)
        ended = []
        for each in done:
            written: Written | None = Written(JobState.SUCCEEDED, each.job.run_at)
            if not each.has_succeeded:
                written = lifecycle.finish(session, self._model, each.job, each.outcome, taken=True)
            if written is None:
                raise JobEscaped(CHANGED)
            ended.append(finished(each.view, each.outcome, written))
        return ended

    def _stands(self, done: Sequence[_Run]) -> bool:
        """Whether the commit took effect after all: if one job's part did, all did."""
        # Rather one that nobody else can have claimed meanwhile.
        one = next((each for each in done if each.has_succeeded), done[0])
        recorder = self._runner.recorder
        row = self._runner.persist(lambda: recorder.standing(one.job))
        return recorder.shows(row, one.job._replace(claim=one.job.claim + 1), one.outcome)

    def _cleaning(self, jobs: Sequence[Claimed]) -> Clean | None:
        """Takes out what is not to be shown of any of the jobs: their transaction's error may be of each."""
        found = map(self._registry.redaction_for, jobs)
        return cleaning([each for each in found if each is not None])
