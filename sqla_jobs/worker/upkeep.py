"""The two threads of a worker that run no jobs: its heartbeats, and the ticks that keep the queue going."""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sqla_jobs import lifecycle
from sqla_jobs.errors import Cancel, GiveBack
from sqla_jobs.lifecycle import Claimed, NextTimes
from sqla_jobs.listener import Listener
from sqla_jobs.meter import Progress
from sqla_jobs.runner import CANCELLED, Finished, Runner, finished
from sqla_jobs.scheduler import Schedules
from sqla_jobs.tasks import Registry, RunningJob, running
from sqla_jobs.worker.crew import Crew, Running
from sqla_jobs.worker.neighbours import APART, Neighbours
from sqla_jobs.worker.outages import backoff, report
from sqla_jobs.worker.registration import Registration

log = logging.getLogger("sqla_jobs")

TICK: Final = 1.0
"""Seconds between two looks at what jobs have said of their progress. A heartbeat writes it, and comes early
if there is any."""
_DYING: Final = 10.0
"""Seconds in which the server may still be at a statement of a process that is gone, with a row locked."""


class Upkeep:
    """Says that the process lives, promotes what is due, makes jobs of schedules, gives back strays.

    Parameters:
        poll: seconds between two looks at what is due, at most.
        beat: seconds between two heartbeats, and between two sweeps.
        announce: tells the hooks what became of jobs of a dead worker; returns at once.
        schedules: None: no jobs are made of them here, as by a worker that drains.
        listener: None: this process holds no lock, and does not look for those of others.
    """

    def __init__(
        self,
        crew: Crew,
        registration: Registration,
        runner: Runner,
        registry: Registry[Any],
        *,
        poll: float,
        beat: float,
        announce: Callable[[Sequence[Finished]], None],
        schedules: Schedules | None = None,
        listener: Listener | None = None,
    ) -> None:
        self._crew = crew
        self._registration = registration
        self._runner = runner
        self._registry = registry
        self._poll, self._beat = poll, beat
        self._announce = announce
        self._schedules = schedules
        self._listener = listener
        self._neighbours = None if listener is None else Neighbours(runner, registry, registration, listener)
        self._deaths_until = 0.0

    def keep_beating(self) -> None:
        """Beat until nobody runs jobs. A thread of its own: a row lock or a hook must not hold it up."""
        failures, beat_at = 0, time.monotonic() + self._beat
        while not self._crew.wait_until_gone(min(TICK, max(0.0, beat_at - time.monotonic()))):
            if time.monotonic() < beat_at and (failures or not self._has_news()):
                continue
            try:
                self._heartbeat()
            except Exception as error:
                failures += 1
                report("the heartbeat", error, failures)
                beat_at = time.monotonic() + min(self._beat, backoff(failures))
            else:
                failures, beat_at = 0, time.monotonic() + self._beat

    def _has_news(self) -> bool:
        return any(each.meter.has_news for each in self._crew.running())

    def _heartbeat(self) -> None:
        told = [(each, each.meter.last) for each in self._crew.running()]
        shown = [_shown(each, progress) for each, progress in told]
        registration = self._registration
        worker_id = registration.worker_id
        if registration.beat(shown):
            for each, progress in told:
                each.meter.written = progress
        else:
            registration.register()
            if self._listener is not None:
                self._listener.identify(registration.worker_id)
            log.error(
                "worker %s was taken for dead and its jobs for abandoned: what it still runs will be "
                "refused; it goes on as worker %s", worker_id, registration.worker_id,
            )  # fmt: skip
            for each in self._crew.running():
                if each.job.worker_id == worker_id:
                    self._crew.interrupt(each, GiveBack("its worker was taken for dead"))

    def keep_ticking(self) -> None:
        """Promote and sweep until nobody runs jobs."""
        look_at = sweep_at = time.monotonic()
        probe_at = math.inf if self._neighbours is None else look_at
        failures = 0
        while not self._crew.wait_until_gone(
            min(look_at, sweep_at, probe_at) - time.monotonic(), or_replan=True
        ):
            try:
                if self._neighbours is not None and time.monotonic() >= probe_at:
                    probe_at = time.monotonic() + APART  # also if it fails
                    self._probe(self._neighbours)
                    probe_at = time.monotonic() + APART
                if time.monotonic() >= sweep_at:
                    sweep_at = time.monotonic() + self._beat  # also if it fails: strays need that time
                    self._sweep()
                if self._crew.replanned() or time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._look()
                failures = 0
            except Exception as error:
                failures += 1
                report("the worker's ticks", error, failures)
                self._crew.pause(backoff(failures))

    def _look(self) -> float:
        """Work off what is due; returns the seconds until the next look."""
        self._heed_cancels()
        # An idle worker does this once a poll: it is one statement, unless something is due.
        due = self._next_times()
        for _ in range(2):  # where others were faster, something else may have become due since
            if not _is_due(due.first):
                break
            done = self._work_off(due)
            due = self._next_times()
            if done:
                self._crew.hear()
                if _is_due(due.first):
                    return 0.0
        if due.first is None or _is_due(due.first):
            return self._poll  # due, yet not worked off: somebody holds the row, or it cannot be done
        return min(self._poll, due.first.total_seconds())

    def _next_times(self) -> NextTimes:
        if self._schedules is None:
            return NextTimes(
                self._runner.at_once(lambda s: lifecycle.next_due(s, self._registry.model)), None
            )
        return self._runner.at_once(self._schedules.next_times)

    def _work_off(self, due: NextTimes) -> int:
        """Make jobs of schedules that are due, and promote jobs that are; returns how many of both."""
        number = 0
        if self._schedules is not None and _is_due(due.schedules):
            number += self._runner.transact(self._schedules.tick)
        if _is_due(due.jobs):
            number += self._runner.transact(lambda s: lifecycle.promote(s, self._registry.model))
        return number

    def _heed_cancels(self) -> None:
        """Interrupt the jobs that run here and are to be cancelled."""
        here = {each.key: each for each in self._crew.running()}
        if not here:
            return
        model, worker_id = self._registry.model, self._registration.worker_id
        for key in self._runner.at_once(lambda s: lifecycle.cancel_requests(s, model, worker_id)):
            if key in here:
                self._crew.interrupt(here[key], Cancel(CANCELLED))

    def _sweep(self) -> None:
        """Give back what nobody runs: strays of this process, and the jobs of dead ones."""
        self._registration.give_back_strays({each.key for each in self._crew.running()})
        self._rescue()
        self._registration.settle_schedules()

    def _probe(self, neighbours: Neighbours) -> None:
        """Take up at once what a dead process has left."""
        gone = neighbours.gone()
        now = time.monotonic()
        if gone:
            self._deaths_until = now + _DYING
        if now < self._deaths_until:
            self._rescue(gone)

    def _view(self, job: Claimed) -> RunningJob:
        redaction = self._registry.redaction_for(job)
        return running(job, self._registry.policy_for(job.task), redaction=redaction)

    def _rescue(self, gone: Sequence[str] = ()) -> None:
        model, policy_for = self._registry.model, self._registry.policy_for
        while self._registration.may_judge:
            rescued = self._runner.transact(lambda s: lifecycle.rescue(s, model, policy_for, gone=gone))
            if not rescued:
                return
            ends = [finished(self._view(each.job), each.outcome, each.written) for each in rescued]
            if self._runner.watching is not None:
                for each in ends:
                    self._runner.watching.rescued(each.job, each.state, each.error)
            self._announce(ends)


def _shown(running: Running, progress: Progress | None) -> dict[str, Any]:
    """What the worker's row says of a job that runs."""
    job = running.job
    said = {} if progress is None else {"progress": progress.values()}
    known = {"id": job.id, "task": job.task, "attempt": job.attempt, "claim": job.claim}
    return {**known, "since": _iso(running.since), **said}


def _is_due(time: dt.timedelta | None) -> bool:
    return time is not None and time <= dt.timedelta(0)


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).isoformat()
