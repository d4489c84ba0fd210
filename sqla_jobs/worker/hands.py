"""The threads of a worker that run jobs: look for one, run it, rest."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqla_jobs import lifecycle
from sqla_jobs.errors import GiveBack
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import Runner
from sqla_jobs.tasks import Registry
from sqla_jobs.worker.crew import Crew, Running
from sqla_jobs.worker.memory import resident_memory
from sqla_jobs.worker.news import Announcer
from sqla_jobs.worker.outages import backoff, report
from sqla_jobs.worker.registration import Registration

log = logging.getLogger("sqla_jobs")


@dataclass(frozen=True)
class Limits:
    """When a worker stops by itself; None, False: never for this reason."""

    max_jobs: int | None
    max_memory: int | None
    """Bytes."""
    replaceable: bool
    drain: bool


class Hands:
    """What each thread that runs jobs does.

    Parameters:
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
        limits: Limits,
        stop: Callable[[], None],
    ) -> None:
        self._crew = crew
        self._registration = registration
        self._runner = runner
        self._registry = registry
        self._announcer = announcer
        self._queues = queues
        self._limits = limits
        self._stop = stop

    def work(self) -> None:
        """Run one job after the other until the worker stops."""
        failures = 0
        try:
            while self._crew.state == "running":
                news = self._crew.news
                try:
                    worked = self._work_once()
                except Exception as error:
                    failures += 1
                    report("claiming a job", error, failures)
                    self._crew.pause(backoff(failures))
                    continue
                failures = 0
                if not worked:
                    self._crew.rest(news, is_empty=self._is_empty if self._limits.drain else None)
        except SystemExit:
            log.warning("a hook raised SystemExit: this thread runs no more jobs")
        finally:
            self._crew.dismiss()

    def _work_once(self) -> bool:
        """Claim a job and run it; False: there was none."""
        registration = self._registration
        if not registration.is_fresh:
            return False
        may_be_suspect = self._crew.take_suspects()
        job = None
        try:
            job = self._runner.claim(registration.worker_id, self._queues, innocent=not may_be_suspect)
        finally:
            # Nobody has to be told: what this thread may claim and did not find is not there for others.
            if may_be_suspect and (job is None or not job.crashes):
                self._crew.leave_suspects()
        if job is None:
            return False
        try:
            self._perform(job)
        except Exception as error:  # the application's logging, most likely
            report("telling what became of a job", error, 1)
        finally:
            if job.crashes:
                self._crew.leave_suspects()
                self._crew.tell()  # others have passed over such jobs
        return True

    def _perform(self, job: Claimed) -> None:
        running = Running(job, self._registry.timeout_for(job))
        limits = self._limits
        with self._crew.runs(running):
            if limits.max_jobs is not None and self._crew.begun >= limits.max_jobs:
                self._recycle(f"it has run {self._crew.begun} jobs")
            try:
                finished = self._runner.perform(job, running.interrupter)
            except Exception:
                # Nobody has recorded an outcome: the row is still ours, and is given back as a stray.
                log.exception("job %s (%s): its outcome could not be recorded", job.id, job.task)
                return
        if finished is not None:
            self._announcer.announce(finished)
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
            return not self._runner.transact(lambda s: lifecycle.has_work(s, model, worker_id, queues))
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
        none_left = self._crew.give_up(running)
        if none_left and self._crew.state == "running" and not self._limits.replaceable:
            with suppress(Exception):
                log.error("no thread is left that could run a job until one returns: restart this worker")
        if self._limits.replaceable:
            self._recycle(f"job {running.job.id} cannot be interrupted")
            self._stop()

    def _record_stuck(self, running: Running) -> None:
        reason = running.interrupter.reason
        if reason is None or isinstance(reason, GiveBack):
            return  # the goodbye gives it back
        finished = self._runner.record_interrupted(running.job, reason)
        if finished is not None:
            self._announcer.announce(finished, hooks_may_exit=False)
