"""Worker: the threads of this process that run jobs, from its start to its stop.

crew            what the threads tell each other: who is at work, and whether to go on
registration    the process's row, its heartbeats, and what follows from them
upkeep          the two threads that run no jobs: heartbeats, and ticks (promote, rescue)
outages         what to do while the database cannot be reached
signals         SIGTERM and SIGINT
"""

from __future__ import annotations

import datetime as dt
import logging
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final

from sqlalchemy import Engine
from typing_extensions import Self

from sqla_jobs import lifecycle, migrations
from sqla_jobs.errors import Cancel, ConfigurationError, InvalidOption, JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.outcome import JobState, storable
from sqla_jobs.runner import Finished, Runner, facts
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import Registry, Sessions, check_queues, sessions_of
from sqla_jobs.worker.crew import Crew, WorkerState
from sqla_jobs.worker.outages import backoff, persist, report
from sqla_jobs.worker.registration import Registration
from sqla_jobs.worker.signals import first_signal
from sqla_jobs.worker.upkeep import Upkeep

__all__ = ["Hook", "Worker", "WorkerState"]

log = logging.getLogger("sqla_jobs")

Hook = Callable[["Worker", Finished], object]

_LONGEST: Final = dt.timedelta(days=1)


class Worker:
    """Runs the jobs of a registry in threads of this process.

    Nothing happens before ``start()``; a worker that has stopped cannot be started again.

    Parameters:
        registry: the ``Jobs`` of the application.
        sessions: an Engine, a sessionmaker, or a callable whose result is a context manager that
            gives a Session; None: the registry's own sessionmaker. Each thread uses one connection
            at a time, and the worker itself up to two: size the pool for ``threads + 2``.
        queues: in strict order: all of the first before any of the second. None: any queue.
        threads: how many jobs run at once.
        poll_interval: how long an idle thread waits before it looks again; at most a day.
        heartbeat_interval: how often this process says that it lives; at most a day.
        heartbeat_limit: without a heartbeat for this long, others take the process for dead and
            rescue its jobs; at least twice the interval.
        drain: stop when nothing is queued or due in these queues, nor running here, any more.
        on_failure: called with the worker and a `Finished` after a run that failed, retried or not.
        on_finish: called after every run, after ``on_failure``. Both after the commit; what they
            raise is logged and changes nothing, except that SystemExit ends the thread.

    Raises:
        InvalidOption: an option is out of its range.
        ConfigurationError: nothing to make Sessions with.
    """

    def __init__(
        self,
        registry: Registry[Any],
        sessions: Sessions | Engine | None = None,
        *,
        queues: Sequence[str] | None = None,
        threads: int = 1,
        poll_interval: dt.timedelta = dt.timedelta(seconds=1),
        heartbeat_interval: dt.timedelta = dt.timedelta(seconds=10),
        heartbeat_limit: dt.timedelta = dt.timedelta(seconds=30),
        drain: bool = False,
        on_failure: Hook | None = None,
        on_finish: Hook | None = None,
    ) -> None:
        source = registry.sessionmaker if sessions is None else sessions
        if source is None:
            raise ConfigurationError(
                "the worker has nothing to make Sessions with; give it an Engine or a sessionmaker: "
                "Worker(jobs, engine), or Jobs(sessionmaker=…)"
            )
        if type(threads) is not int or threads < 1:
            raise InvalidOption(f"threads is {threads!r}; expected a whole number from 1 up")
        self._poll = _interval("poll_interval", poll_interval)
        self._beat = _interval("heartbeat_interval", heartbeat_interval)
        _check_limit(heartbeat_limit, heartbeat_interval)
        self.registry = registry
        self.queues = check_queues(queues)
        self.threads = threads
        self.drain = drain
        self._sessions = sessions_of(source)
        self._limit = heartbeat_limit
        self._on_failure, self._on_finish = on_failure, on_finish
        self._crew = Crew()
        self._threads: list[threading.Thread] = []

    # -- life --------------------------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        """``new`` → ``running`` → ``stopping`` → ``stopped``."""
        return self._crew.state

    def start(self) -> Self:
        """Begin to work, in threads; returns at once.

        Raises:
            JobsError: it was started before.
            SchemaError: the tables are missing, or not of the revision that this version needs.
        """
        self._crew.start()
        try:
            self._set_up()
        except BaseException:
            self._crew.end()
            raise
        self._launch()
        worker_id = self._registration.worker_id
        log.info(
            "worker %s started: queues %s, %s thread(s)",
            worker_id, ", ".join(self.queues or ["any"]), self.threads, extra={"worker_id": worker_id},
        )  # fmt: skip
        return self

    def _set_up(self) -> None:
        model = self.registry.model
        self._runner = Runner(self.registry, self._sessions, partial(persist, self._crew, self._limit))
        with self._runner.engine.connect() as connection:
            migrations.check(connection, job_table(model).schema)
        self._registration = Registration(
            self._runner, model, queues=self.queues, threads=self.threads, limit=self._limit
        )
        self._registration.register()
        self._upkeep = Upkeep(
            self._crew,
            self._registration,
            self._runner,
            self.registry,
            poll=self._poll,
            beat=self._beat,
            announce=partial(self._announce, hooks_may_exit=False),
        )

    def _launch(self) -> None:
        def thread(name: object, duty: Callable[[], None]) -> threading.Thread:
            name = f"sqla_jobs-{self._registration.worker_id}-{name}"
            return threading.Thread(target=duty, name=name, daemon=True)

        hands = [thread(number, self._work) for number in range(1, self.threads + 1)]
        self._heart = thread("heartbeats", self._keep_beating)
        self._threads = [*hands, self._heart, thread("ticks", self._keep_ticking)]
        self._crew.enlist(len(hands))
        try:
            for each in self._threads:
                each.start()
        except BaseException as error:
            self.stop()
            self._crew.dismiss(sum(each.ident is None for each in hands))
            # The system gives no more threads. A signal's exception does not wait: a job may run by now.
            if isinstance(error, Exception):
                for each in self._threads:
                    if each.ident is not None:
                        each.join()
                self._goodbye()
            raise

    def stop(self) -> None:
        """Take no new job; those that run go on to their end. Returns at once: see `join`."""
        self._crew.stop()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has stopped; False: it has not within ``timeout`` seconds.

        One that was never started is not waited for.

        Raises:
            JobsError: a job or a hook of this very worker calls it, and would wait for itself.
        """
        if threading.current_thread() in self._threads:
            raise JobsError("a job or a hook waits for the end of its own worker; expected stop() alone")
        return self._crew.join(timeout)

    def run(self) -> None:
        """Work in this thread's stead until SIGTERM or SIGINT, then let the running jobs finish.

        A second signal acts as if there were no worker: the process ends, and its jobs are rescued.
        Signals are handled only in the main thread; elsewhere this is ``start()`` and ``join()``.
        """
        early = False

        def on_signal(received: signal.Signals) -> None:
            nonlocal early
            log.info("%s: letting the running jobs finish", received.name)
            if self.state == "new":
                early = True
            else:
                self.stop()

        # Before the start: whoever sees the worker's row, or its log line, may send a signal.
        with first_signal(on_signal):
            self.start()
            if early:
                self.stop()
            # A signal in the last instant before a wait does not end it: Python's handlers run between
            # two bytecodes of this thread. So no wait is longer than this.
            while not self.join(timeout=0.5):
                pass

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        self.join()

    # -- the threads that run jobs -----------------------------------------------------------------

    def _work(self) -> None:
        failures = 0
        try:
            while self.state == "running":
                news = self._crew.news
                try:
                    job = self._claim()
                except Exception as error:
                    failures += 1
                    report("claiming a job", error, failures)
                    self._crew.pause(backoff(failures))
                    continue
                failures = 0
                if job is None:
                    self._crew.rest(news, self._poll, is_empty=self._is_empty if self.drain else None)
                    continue
                try:
                    self._perform(job)
                except Exception as error:  # the application's logging, most likely
                    report("telling what became of a job", error, 1)
        except SystemExit:
            log.warning("a hook raised SystemExit: this thread runs no more jobs")
        finally:
            self._crew.dismiss()

    def _claim(self) -> Claimed | None:
        registration = self._registration
        if not registration.is_fresh:
            return None
        return self._runner.claim(registration.worker_id, self.queues)

    def _perform(self, job: Claimed) -> None:
        with self._crew.runs(job):
            try:
                finished = self._runner.perform(job)
            except Exception:
                # Nobody has recorded an outcome: the row is still ours, and is given back as a stray.
                log.exception("job %s (%s): its outcome could not be recorded", job.id, job.task)
                return
        if finished is not None:
            self._announce(finished)

    def _is_empty(self) -> bool:
        model, worker_id = self.registry.model, self._registration.worker_id
        try:
            return not self._runner.transact(lambda s: lifecycle.has_work(s, model, worker_id, self.queues))
        except Exception as error:
            report("looking for jobs that are left", error, 1)
            return False

    def _announce(self, finished: Finished, *, hooks_may_exit: bool = True) -> None:
        _log_outcome(finished)
        if finished.state is JobState.SCHEDULED:
            self._crew.replan()
        for hook in (self._on_failure if finished.failed else None, self._on_finish):
            if hook is None:
                continue
            try:
                hook(self, finished)
            except SystemExit:
                if hooks_may_exit:
                    raise
                log.warning("a hook raised SystemExit outside a worker thread; ignored")
            except BaseException:
                log.exception("a hook failed; the job's outcome stands", extra=facts(finished.job))

    # -- the other two, and the end ----------------------------------------------------------------

    def _keep_beating(self) -> None:
        try:
            self._upkeep.keep_beating()
        finally:
            self.stop()

    def _keep_ticking(self) -> None:
        try:
            self._upkeep.keep_ticking()
        finally:
            self.stop()
            self._crew.wait_until_gone()
            self._heart.join()  # a heartbeat after the goodbye would register anew
            self._goodbye()

    def _goodbye(self) -> None:
        worker_id = self._registration.worker_id
        try:
            self._registration.goodbye()
        except Exception as error:
            report("saying goodbye", error, 1)
        with suppress(Exception):  # an application's log filter
            log.info("worker %s stopped", worker_id, extra={"worker_id": worker_id})
        self._crew.end()


def _interval(name: str, value: object) -> float:
    if not isinstance(value, dt.timedelta) or not dt.timedelta(0) < value <= _LONGEST:
        raise InvalidOption(f"{name} is {value!r}; expected a timedelta above zero and of at most a day")
    return value.total_seconds()


def _check_limit(limit: object, interval: dt.timedelta) -> None:
    if not isinstance(limit, dt.timedelta) or limit < 2 * interval:
        raise InvalidOption(
            f"heartbeat_limit is {limit!r}; expected at least twice the heartbeat_interval ({interval}), "
            "or one late heartbeat costs a living worker its jobs"
        )


def _log_outcome(finished: Finished) -> None:
    job, error = finished.job, finished.error
    extra = {**facts(job), "state": finished.state.value}
    told = storable(str(error).partition("\n")[0])
    if not finished.failed:
        reason = f": {told}" if isinstance(error, Cancel) and told else ""
        log.info("job %s (%s) %s%s", job.id, job.task, finished.state.value, reason, extra=extra)
        return
    level = logging.WARNING if finished.state is JobState.SCHEDULED else logging.ERROR
    log.log(
        level, "job %s (%s) attempt %s of %s failed, now %s: %s: %s",
        job.id, job.task, job.attempt, job.max_attempts, finished.state.value, type(error).__name__, told,
        exc_info=error, extra=extra,
    )  # fmt: skip
