"""The threads of a worker that run jobs: look for one, run it, rest."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from sqla_jobs import lifecycle
from sqla_jobs.errors import GiveBack
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import Finished, Follow, Groups, Pace, Runner
from sqla_jobs.scope import Interrupter
from sqla_jobs.tasks import Registry
from sqla_jobs.worker.crew import Crew, Running
from sqla_jobs.worker.loop import Loop
from sqla_jobs.worker.memory import resident_memory
from sqla_jobs.worker.news import Announcer
from sqla_jobs.worker.options import Limits
from sqla_jobs.worker.outages import backoff, report, unrecorded
from sqla_jobs.worker.pauses import Pauses
from sqla_jobs.worker.registration import Registration

log = logging.getLogger("sqla_jobs")

_LONG_HOOK: Final = 0.005
"""Seconds for which a job may wait, claimed, while hooks are told of the one before."""


class _Hand:
    """One of the threads, and the group of jobs that it runs."""

    def __init__(
        self, crew: Crew, registry: Registry[Any], runner: Runner, may_go_on: Callable[[], bool]
    ) -> None:
        self._crew = crew
        self._registry = registry
        self.pace = Pace()
        self.holds_suspects = False
        self.groups = Groups(runner, begins=self._begin, may_go_on=may_go_on)
        self._running: Running | None = None
        self.following: Claimed | None = None
        """A job that was claimed with the commit of the one before."""
        self.is_busy_telling = False
        """Whether it takes long to tell of a job: another would wait meanwhile, claimed."""

    def take_suspects(self) -> bool:
        """Whether it may claim a job that a worker has died of; see `Crew`."""
        self.holds_suspects = self._crew.take_suspects()
        return self.holds_suspects

    def leave_suspects(self) -> None:
        """Another thread may, if this one might."""
        if self.holds_suspects:
            self.holds_suspects = False
            self._crew.leave_suspects()

    def _begin(self, job: Claimed) -> Interrupter:
        self.leave_suspects()  # there is none in a group
        before, self._running = self._running, Running(job, self._registry.timeout_for(job))
        self._crew.passes(before, self._running)
        return self._running.interrupter

    def end_group(self) -> None:
        """It runs none of its jobs any more."""
        if self._running is not None:
            before, self._running = self._running, None
            self._crew.passes(before, None)


class Hands:
    """What each thread that runs jobs does.

    Parameters:
        loop: runs the jobs that are coroutines; None: no task is one.
        stop: stops the worker; its running jobs have the worker's grace.
    """

    def __init__(
        self,
        crew: Crew,
        registration: Registration,
        runner: Runner,
        registry: Registry[Any],
        announcer: Announcer,
        *,
        queues: Sequence[str] | None,
        pauses: Pauses,
        limits: Limits,
        loop: Loop | None,
        stop: Callable[[], None],
    ) -> None:
        self._crew = crew
        self._registration = registration
        self._runner = runner
        self._registry = registry
        self._announcer = announcer
        self._queues = queues
        self._pauses = pauses
        self._limits = limits
        self._loop = loop
        self._stop = stop

    def work(self) -> None:
        """Run one job after the other until the worker stops."""
        failures = 0
        hand = self._new_hand()
        try:
            while self._crew.state == "running":
                news = self._crew.news
                try:
                    worked = self._work_once(hand)
                except Exception as error:
                    failures += 1
                    report("claiming a job", error, failures)
                    self._crew.pause(backoff(failures))
                    continue
                failures = 0
                if not worked:
                    is_empty = self._is_empty if self._limits.drain else None
                    self._crew.rest(news, self._runner.slots.wait, is_empty=is_empty)
        except SystemExit:
            log.warning("a hook raised SystemExit: this thread runs no more jobs")
        finally:
            self._return(hand.following)
            self._crew.dismiss()

    def _return(self, job: Claimed | None) -> None:
        """Give back what was claimed with the commit of the last job: a stop came in between."""
        if job is not None:
            try:
                self._runner.give_back(job, "its worker stopped")
            except Exception as error:  # the goodbye does it
                report("giving back a job", error, 1)

    def _new_hand(self) -> _Hand:
        return _Hand(self._crew, self._registry, self._runner, self._may_go_on)

    def _work_once(self, hand: _Hand) -> bool:
        """Claim a job and run it, or a group of them; False: there was none."""
        found: Claimed | list[Finished] | None
        found, hand.following = hand.following, None
        if found is None:
            if not self._registration.is_fresh:
                return False
            found = self._claim_if_there_is_room(hand)
        if isinstance(found, list):
            self._tell_all(found)
        elif self._loop is not None and found is not None and self._is_async(found):
            slow = self._announcer.has_hooks
            self._loop.run(found, begun=self._count, tell=self._tell_from_loop, slow=slow)
        elif found is not None:
            try:
                self._perform(found, hand)
            except Exception as error:  # the application's logging, most likely
                report("telling what became of a job", error, 1)
            finally:
                if found.crashes:
                    self._crew.leave_suspects()
                    self._crew.tell()  # others have passed over such jobs
        return found is not None

    def _claim_if_there_is_room(self, hand: _Hand) -> Claimed | list[Finished] | None:
        """`_claim`, while there is room on the loop: what the next job is nobody knows before."""
        if self._loop is None:
            return self._claim(hand)
        if not self._loop.reserve():
            return None
        try:
            found = self._claim(hand)
        except BaseException:
            self._loop.release()
            raise
        if not self._is_async(found):
            # Who was refused meanwhile would find nothing either: what has come since, this thread looks for.
            self._loop.release(tell=found is not None)
        return found

    def _is_async(self, found: Claimed | list[Finished] | None) -> bool:
        return isinstance(found, Claimed) and found.task in self._registry.asynchronous

    def _claim(self, hand: _Hand) -> Claimed | list[Finished] | None:
        worker_id, pace = self._registration.worker_id, hand.pace
        queues = self._pauses.open()
        if queues is not None and not queues:
            return None
        if not self._registry.fast or pace.alone:
            job = self._runner.claim(worker_id, queues)
            pace.alone = max(0, pace.alone - 1) if job else 0
            return job
        innocent = not hand.take_suspects()
        found: Claimed | list[Finished] | None = None
        try:
            found = hand.groups.work(worker_id, queues, pace, innocent=innocent)
        finally:
            hand.end_group()
            # Nobody has to be told: what this thread may claim and did not find is not there for others.
            if not (isinstance(found, Claimed) and found.crashes):
                hand.leave_suspects()
            hand.holds_suspects = False
        if found is None and self._registry.limited:
            return self._runner.claim(worker_id, queues)
        return found

    def _worker_that_goes_on(self, hand: _Hand) -> int | None:
        """For whom the thread may claim its next job while it finishes one; None: it may not."""
        registration = self._registration
        registry = self._registry
        if hand.is_busy_telling or registry.fast or registry.asynchronous or not self._may_go_on():
            return None
        if not self._pauses.are_none:  # or it is too long ago that somebody looked
            return None
        return registration.worker_id if registration.is_fresh else None

    def _tell_all(self, group: Sequence[Finished]) -> None:
        exits = False
        try:
            self._announcer.log_group(group)
        except Exception as error:
            report("telling what became of jobs", error, 1)
        for finished in group:
            try:
                self._announcer.announce(finished, logged=True)
            except SystemExit:  # of a hook: it ends this thread, and the others are told of all the same
                exits = True
            except Exception as error:
                report("telling what became of a job", error, 1)
        self._weigh()
        self._count()
        if exits:
            raise SystemExit

    def _may_go_on(self) -> bool:
        limit = self._limits.max_jobs
        return self._crew.state == "running" and (limit is None or self._crew.begun < limit)

    def _perform(self, job: Claimed, hand: _Hand) -> None:
        running = Running(job, self._registry.timeout_for(job))
        with self._crew.runs(running):
            self._count()
            try:
                follow = Follow(lambda: self._worker_that_goes_on(hand), self._queues)
                finished = self._runner.perform(job, running.interrupter, follow, running.meter)
                hand.following = follow.job
            except Exception as error:
                # Nobody has recorded an outcome: the row is still ours, and is given back as a stray.
                unrecorded(self._registry, job, error)
                return
        began = time.monotonic()
        if finished is not None:
            self._tell(finished)
        hand.is_busy_telling = time.monotonic() > began + _LONG_HOOK

    def _tell(self, finished: Finished) -> None:
        self._announcer.announce(finished)
        self._weigh()

    def _tell_from_loop(self, finished: Finished) -> None:
        self._announcer.announce(finished, hooks_may_exit=False)
        self._weigh()

    def _count(self) -> None:
        most, begun = self._limits.max_jobs, self._crew.begun
        if most is not None and begun >= most:
            self._recycle(f"it has run {begun} jobs")

    def _weigh(self) -> None:
        limits = self._limits
        if limits.max_memory is not None and (memory := resident_memory()) > limits.max_memory:
            has, most = memory // 2**20, limits.max_memory // 2**20
            self._recycle(f"it has {has} MB of memory, and may have {most}")

    def _recycle(self, why: str) -> None:
        if self._crew.state == "running":
            self._crew.recycled = True
            self._crew.stop(math.inf)
            with suppress(Exception):  # an application's log filter
                log.info("the worker stops, so that another process may take its place: %s", why)

    def _is_empty(self) -> bool:
        model, worker_id, queues = self._registry.model, self._registration.worker_id, self._queues
        try:
            closed, only = self._pauses.closed(), self._runner.only
            return not self._runner.transact(
                lambda s: lifecycle.has_work(s, model, worker_id, queues, closed=closed, only=only)
            )
        except Exception as error:
            report("looking for jobs that are left", error, 1)
            return False

    # -- a job that cannot be interrupted ------------------------------------------------------------

    def give_up_on(self, running: Running) -> None:
        """A job goes on although it was interrupted: record what is to become of it in its stead.

        Returns at once. What the job still writes is refused by the fence.
        """
        running.interrupter.given_up = True
        self._announcer.apart(lambda: self._record_stuck(running))
        loop = self._loop if running.on_loop else None
        none_left = self._crew.give_up(running, None if loop is None else loop.concurrency)
        if none_left and self._crew.state == "running" and not self._limits.replaceable:
            place = "thread" if loop is None else "place on the event loop"
            with suppress(Exception):
                log.error("no %s is left that could run a job until one returns: restart this worker", place)
        if self._limits.replaceable:
            self._recycle(f"job {running.job.id} cannot be interrupted")
            self._stop()

    def _record_stuck(self, running: Running) -> None:
        reason = running.interrupter.reason
        if reason is None or isinstance(reason, GiveBack):
            return  # the goodbye gives it back
        finished = self._runner.record_interrupted(running.job, reason, running.meter)
        if finished is not None:
            self._announcer.announce(finished, hooks_may_exit=False)
