"""What became of jobs: told to the log and to the application's hooks."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence

from sqla_jobs.errors import Cancel, GiveBack
from sqla_jobs.outcome import JobState, storable
from sqla_jobs.redaction import log_error
from sqla_jobs.runner import Finished, facts, milliseconds
from sqla_jobs.worker.crew import Crew
from sqla_jobs.worker.outages import report

log = logging.getLogger("sqla_jobs")


class Announcer:
    """Tells of each run that ended.

    Parameters:
        on_failure, on_finish: the application's hooks.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        on_failure: Callable[[Finished], object] | None,
        on_finish: Callable[[Finished], object] | None,
    ) -> None:
        self._crew = crew
        self._on_failure, self._on_finish = on_failure, on_finish

    @property
    def has_hooks(self) -> bool:
        """Whether to tell of a job may take time."""
        return self._on_failure is not None or self._on_finish is not None

    def log_group(self, group: Sequence[Finished]) -> None:
        """One line for the successes of a group, for each other job its own; at ``debug`` for all of them."""
        succeeded = [each.job.task for each in group if each.error is None]
        if len(succeeded) > 1 and log.isEnabledFor(logging.INFO):
            # A record costs more than such a job does: each has its own only for whoever looks closely.
            if log.isEnabledFor(logging.DEBUG):
                for each in group:
                    if each.error is None:
                        _log_outcome(each, logging.DEBUG)
            _log_successes(succeeded, group)
        for each in group:
            if each.error is not None or len(succeeded) == 1:
                _log_outcome(each)

    def announce(self, finished: Finished, *, hooks_may_exit: bool = True, logged: bool = False) -> None:
        """Call the hooks.

        Parameters:
            logged: the log has it already.

        Raises:
            SystemExit: a hook raised it, and may.
        """
        if not logged:
            _log_outcome(finished)
        if isinstance(finished.error, GiveBack):
            return  # as if it had not run
        if finished.state is JobState.SCHEDULED:
            self._crew.replan()
        for hook in (self._on_failure if finished.failed else None, self._on_finish):
            if hook is None:
                continue
            try:
                hook(finished)
            except SystemExit:
                if hooks_may_exit:
                    raise
                log.warning("a hook raised SystemExit outside a worker thread; ignored")
            except BaseException as error:
                message = "a hook failed; the job's outcome stands"
                job = finished.job
                log_error(logging.ERROR, message, error=error, clean=job.clean, extra=facts(job))

    def announce_all(self, many: Sequence[Finished]) -> None:
        """Tell of jobs that did not run here; returns at once."""

        def announce() -> None:
            for finished in many:
                self.announce(finished, hooks_may_exit=False)

        self.apart(announce)

    def apart(self, duty: Callable[[], object]) -> None:
        """Do what may take its time in a thread of its own; the worker does not end before it."""

        def do() -> None:
            try:
                duty()
            except Exception as error:
                report("telling what became of a job", error, 1)
            finally:
                self._crew.dismiss()

        self._crew.enlist()
        try:
            threading.Thread(target=do, name="sqla_jobs-apart", daemon=True).start()
        except RuntimeError:  # the system gives no more threads
            do()


def _log_successes(tasks: Sequence[str], group: Sequence[Finished]) -> None:
    told = ", ".join(f"{task} \u00d7 {number}" for task, number in Counter(tasks).items())
    # The first was the next of all: none has waited longer.
    wait = milliseconds(group[0].wait)
    run = round(1000 * sum([each.job.seconds or 0.0 for each in group]), 3)
    log.info(
        "%s jobs succeeded in one transaction (%s): %s", len(tasks), _times(wait, run), told,
        extra={"jobs": len(tasks), "wait_ms": wait, "run_ms": run},
    )  # fmt: skip


def _times(wait: float | None, run: float | None) -> str:
    known = {"waited": wait, "ran": run}
    return ", ".join(f"{what} {time:.1f} ms" for what, time in known.items() if time is not None) or "not run"


def _log_outcome(finished: Finished, level: int = logging.INFO) -> None:
    if finished.error is None and not log.isEnabledFor(level):
        return
    job, error = finished.job, finished.error
    wait, run = milliseconds(finished.wait), milliseconds(finished.duration)
    extra = {**facts(job), "state": finished.state.value, "wait_ms": wait, "run_ms": run}
    times = _times(wait, run)
    told = str(error) if job.clean is None else job.clean(str(error))
    told = storable(told.partition("\n")[0])
    if not finished.failed:
        reason = f": {told}" if isinstance(error, (Cancel, GiveBack)) and told else ""
        log.log(
            level, "job %s (%s) %s (%s)%s", job.id, job.task, finished.state.value, times, reason, extra=extra
        )
        return
    level = logging.WARNING if finished.state is JobState.SCHEDULED else logging.ERROR
    kind = type(error).__name__ if job.clean is None else job.clean(type(error).__name__)
    log_error(
        level, "job %s (%s) attempt %s of %s failed, now %s (%s): %s: %s",
        job.id, job.task, job.attempt, job.max_attempts, finished.state.value, times, kind, told,
        error=error, clean=job.clean, extra=extra,
    )  # fmt: skip
