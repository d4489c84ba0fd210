"""What has to happen at its time, whatever the database does: polls, timeouts, the end of the grace."""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from sqla_jobs.errors import GiveBack, JobTimeout
from sqla_jobs.worker.crew import Crew, Running
from sqla_jobs.worker.outages import report

log = logging.getLogger("sqla_jobs")

AGAIN: Final = 0.1
"""Seconds after which a job that goes on although it was interrupted is interrupted again."""
PATIENCE: Final = 5.0
"""Seconds after which such a job is taken for one that cannot be interrupted."""
LONG_TRANSACTION: Final = 30.0
"""Seconds after which a job's open transaction is worth a hint."""


class Timer:
    """Lets one thread look for jobs at each poll, and interrupts jobs whose time is up.

    It sends nothing to the database but requests to cancel a statement, so nothing there holds it up.

    Parameters:
        poll: seconds between two looks for jobs.
        on_stuck: called once for a job that goes on for ``PATIENCE`` after it was interrupted.
    """

    def __init__(self, crew: Crew, *, poll: float, on_stuck: Callable[[Running], object]) -> None:
        self._crew = crew
        self._poll = poll
        self._on_stuck = on_stuck
        self._told: set[tuple[str, int, int]] = set()
        self._first: dict[tuple[int, int], float] = {}
        """When each job that goes on was interrupted for the second time."""

    def keep_time(self) -> None:
        """Until the worker has stopped."""
        poll_at = time.monotonic() + self._poll
        next_at = poll_at
        while not self._crew.wait_for_change(max(0.0, next_at - time.monotonic())):
            now = time.monotonic()
            if now >= poll_at:
                poll_at = now + self._poll
                self._crew.tell()
            try:
                next_at = min(poll_at, self._look(now))
            except Exception as error:  # the application's logging, most likely
                report("looking to the time", error, 1)
                next_at = min(poll_at, now + AGAIN)

    def _look(self, now: float) -> float:
        """Interrupt what has to be; returns when to look again."""
        running = self._crew.running()
        keys = {each.key for each in running}
        self._told = {told for told in self._told if told[1:] in keys}
        self._first = {key: at for key, at in self._first.items() if key in keys}
        end = self._crew.give_back_at
        if end is not None and now >= end + PATIENCE:
            for each in running:
                self._report_stuck(each)
            # Hooks and claims cannot be interrupted either; nor can who should say goodbye.
            self._crew.abandon()
            if now >= end + 2 * PATIENCE:
                with suppress(Exception):
                    log.error("the worker ends without a goodbye: something of it does not come to an end")
                self._crew.end()
            return now + PATIENCE
        moments = [self._look_at(each, now) for each in running]
        return min([math.inf if end is None or end <= now else end, *moments])

    def _look_at(self, running: Running, now: float) -> float:
        interrupter = running.interrupter
        if interrupter.is_through:
            return now + PATIENCE  # it may have to run again
        if interrupter.reason is None:
            end = self._crew.give_back_at
            deadline = (
                math.inf
                if running.timeout is None
                else (interrupter.began or running.began) + running.timeout
            )
            if end is not None and now >= end:
                interrupter.interrupt(GiveBack("its worker stopped"))
            elif now >= deadline:
                interrupter.interrupt(JobTimeout(dt.timedelta(seconds=running.timeout or 0.0)))
            else:
                return min(deadline, self._hint_at(running, now))
            return now + AGAIN
        interrupter.interrupt(interrupter.reason)
        if now >= self._first.setdefault(running.key, now) + PATIENCE:
            self._report_stuck(running)
        return now + AGAIN

    def _report_stuck(self, running: Running) -> None:
        if self._is_first(running, "stuck"):
            job = running.job
            with suppress(Exception):
                log.error(
                "job %s (%s) was interrupted (%s) and goes on: it is blocked outside of Python, or catches "
                "BaseException; its thread is here:\n%s",
                job.id, job.task, running.interrupter.reason, running.interrupter.where(),
                extra={"job_id": job.id, "task": job.task},
            )  # fmt: skip
            self._on_stuck(running)

    def _hint_at(self, running: Running, now: float) -> float:
        """Say once that a transaction is open for long; returns when it will be."""
        used_since = running.interrupter.used_since
        moment = (now if used_since is None else used_since) + LONG_TRANSACTION
        if used_since is not None and now >= moment and self._is_first(running, "long"):
            job = running.job
            with suppress(Exception):
                log.warning(
                "job %s (%s) has had its transaction open for %.0f s, which keeps VACUUM from its work "
                "and others from the rows it has locked: read first and write last, or commit in between by "
                "current_job().checkpoint(session)", job.id, job.task, now - used_since,
                extra={"job_id": job.id, "task": job.task},
            )  # fmt: skip
        return moment if now < moment else math.inf

    def _is_first(self, running: Running, what: str) -> bool:
        first = (what, *running.key) not in self._told
        self._told.add((what, *running.key))
        return first
