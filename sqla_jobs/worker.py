"""Worker: the threads that run jobs in this process, and the ticks that keep the queue going."""

from __future__ import annotations

import datetime as dt
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import FrameType, TracebackType
from typing import Any, Final, Literal, TypeVar

from sqlalchemy import Engine
from typing_extensions import Self

from sqla_jobs import lifecycle, migrations, scheduler
from sqla_jobs.errors import ConfigurationError, InvalidOption, JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.outcome import JobState
from sqla_jobs.runner import Finished, Runner, facts, is_transient
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import Registry, Sessions, check_queue, running, sessions_of

T = TypeVar("T")
log = logging.getLogger("sqla_jobs")

WorkerState = Literal["new", "running", "stopping", "stopped"]
Hook = Callable[["Worker", Finished], object]

_BACKOFF: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds to wait after the first, second, … failure in a row to reach the database."""


class Worker:
    """Runs the jobs of a registry in threads of this process.

    Nothing happens before ``start()``; a worker that has stopped cannot be started again.

    Parameters:
        registry: the ``Jobs`` of the application.
        sessions: an Engine, a sessionmaker, or a callable whose result is a context manager that
            gives a Session; None: the registry's own sessionmaker. Each thread uses one connection
            at a time and the worker one more: size the pool for ``threads + 1``.
        queues: in strict order: all of the first before any of the second. None: any queue.
        threads: how many jobs run at once.
        poll_interval: how long an idle thread waits before it looks again.
        heartbeat_interval: how often this process says that it lives.
        heartbeat_limit: without a heartbeat for this long, others take the process for dead and
            rescue its jobs; at least twice the interval.
        drain: stop when nothing is queued, due, or running here any more.
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
        if isinstance(queues, str):
            raise InvalidOption(f"queues is the text {queues!r}; expected a list of names: [{queues!r}]")
        if type(threads) is not int or threads < 1:
            raise InvalidOption(f"threads is {threads!r}; expected a whole number from 1 up")
        _positive("poll_interval", poll_interval)
        _positive("heartbeat_interval", heartbeat_interval)
        if heartbeat_limit < 2 * heartbeat_interval:
            raise InvalidOption(
                f"heartbeat_limit is {heartbeat_limit}; expected at least twice the heartbeat_interval "
                f"({heartbeat_interval}), or one late heartbeat costs a living worker its jobs"
            )
        self.registry = registry
        self.queues = [check_queue(name) for name in queues] if queues else None
        self.threads = threads
        self.drain = drain
        self._sessions = sessions_of(source)
        self._poll = poll_interval.total_seconds()
        self._beat = heartbeat_interval.total_seconds()
        self._limit = heartbeat_limit
        self._on_failure, self._on_finish = on_failure, on_finish
        self._runner: Runner
        self._worker_id = 0
        self._state: WorkerState = "new"
        self._pool: list[threading.Thread] = []
        self._changed = threading.Condition()
        """Guards what follows; notified when there may be work, and when the worker stops."""
        self._running: dict[int, tuple[Claimed, float]] = {}
        self._idle = 0
        self._alive = 0
        self._replan = False
        self._last_beat = 0.0
        self._suspects: set[tuple[int, int]] = set()

    # -- life --------------------------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        """``new`` → ``running`` → ``stopping`` → ``stopped``."""
        return self._state

    def start(self) -> Self:
        """Begin to work, in threads; returns at once.

        Raises:
            JobsError: it was started before.
            SchemaError: the tables are missing, or not of the revision that this version needs.
        """
        with self._changed:
            if self._state != "new":
                raise JobsError(f"the worker is {self._state}; a worker is started once: make a new one")
            self._state = "running"
        try:
            self._runner = Runner(self.registry, self._sessions, self._persist)
            with self._runner.engine.connect() as connection:
                migrations.check(connection, job_table(self.registry.model).schema)
            self._register()
        except BaseException:
            self._state = "stopped"
            raise
        names = [f"sqla_jobs-{self._worker_id}-{number}" for number in range(1, self.threads + 1)]
        self._alive = self.threads
        self._pool = [threading.Thread(target=self._work, name=name, daemon=True) for name in names]
        self._pool.append(
            threading.Thread(target=self._tick, name=f"sqla_jobs-{self._worker_id}-ticks", daemon=True)
        )
        for thread in self._pool:
            thread.start()
        log.info(
            "worker %s started: queues %s, %s thread(s)",
            self._worker_id, ", ".join(self.queues or ["any"]), self.threads,
            extra={"worker_id": self._worker_id},
        )  # fmt: skip
        return self

    def stop(self) -> None:
        """Take no new job; those that run go on to their end. Returns at once: see `join`."""
        with self._changed:
            if self._state == "running":
                self._state = "stopping"
            elif self._state == "new":
                self._state = "stopped"
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has stopped; False: it has not within ``timeout`` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        for thread in self._pool:
            thread.join(None if until is None else max(0.0, until - time.monotonic()))
            if thread.is_alive():
                return False
        return True

    def run(self) -> None:
        """Work in this thread's stead until SIGTERM or SIGINT, then let the running jobs finish.

        A second signal acts as if there were no worker: the process ends, and its jobs are rescued.
        Signals are handled only in the main thread; elsewhere this is ``start()`` and ``join()``.
        """
        before: dict[int, Any] = {}
        signalled = False

        def restore() -> None:
            while before:
                signal.signal(*before.popitem())

        def on_signal(number: int, _: FrameType | None) -> None:
            nonlocal signalled
            signalled = True
            restore()
            log.info("%s: letting the running jobs finish", signal.Signals(number).name)
            if self._state != "new":
                self.stop()

        try:
            # Before the start: whoever sees the worker's row, or its log line, may send a signal.
            if threading.current_thread() is threading.main_thread():
                for number in (signal.SIGTERM, signal.SIGINT):
                    before[number] = signal.signal(number, on_signal)
            self.start()
            if signalled:
                self.stop()
            self.join()
        finally:
            restore()

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

    # -- threads -----------------------------------------------------------------------------------

    def _work(self) -> None:
        failures = 0
        try:
            while self._state == "running":
                try:
                    job = self._claim()
                except Exception as error:
                    failures += 1
                    self._report_outage("claiming a job", error, failures)
                    self._pause(failures)
                    continue
                failures = 0
                if job is None:
                    self._rest()
                else:
                    self._perform(job)
        finally:
            with self._changed:
                self._alive -= 1
                self._changed.notify_all()

    def _claim(self) -> Claimed | None:
        # After a long stop of this process (SIGSTOP, a suspended machine) others may have taken it for
        # dead, and would take away at once what it claims under its old id: heartbeat first.
        if time.monotonic() - self._last_beat > self._limit.total_seconds():
            with self._changed:
                self._changed.wait(self._poll)
            return None
        return self._runner.claim(self._worker_id, self.queues)

    def _perform(self, job: Claimed) -> None:
        with self._changed:
            self._running[job.id] = (job, time.time())
        try:
            finished = self._runner.perform(job)
        except Exception:
            # Nobody has recorded an outcome: the row is still ours, and is given back as a stray.
            log.exception("job %s (%s): its outcome could not be recorded", job.id, job.task)
            finished = None
        finally:
            with self._changed:
                del self._running[job.id]
                if self.drain:
                    self._changed.notify_all()
        if finished is not None:
            self._announce(finished)

    def _rest(self) -> None:
        """Nothing is queued: wait for the next poll; when draining, perhaps stop."""
        with self._changed:
            if self._state != "running":
                return
            self._idle += 1
            if not (self.drain and self._idle == self._alive):
                self._changed.wait(self._poll)
                self._idle -= 1
                return
        promoted = 1
        try:
            promoted, _ = self._runner.transact(lambda s: scheduler.tick(s, self.registry.model))
        except Exception as error:
            self._report_outage("looking for due jobs", error, 1)
            self._pause(1)
        with self._changed:
            # Only if the others are still idle: one may have found a job meanwhile, which may enqueue.
            if promoted == 0 and self._idle == self._alive:
                self.stop()
            self._idle -= 1
            self._changed.notify_all()

    def _announce(self, finished: Finished, *, hooks_may_exit: bool = True) -> None:
        _log_outcome(finished)
        if finished.state is JobState.SCHEDULED:
            with self._changed:
                self._replan = True
                self._changed.notify_all()
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

    # -- ticks -------------------------------------------------------------------------------------

    def _tick(self) -> None:
        beat_at = time.monotonic() + self._beat
        look_at = 0.0
        failures = 0
        while True:
            with self._changed:
                if self._alive == 0:
                    break
                wait = min(beat_at, look_at) - time.monotonic()
                if wait > 0 and not self._replan:
                    self._changed.wait(wait)
                    continue
                if self._replan:
                    self._replan, look_at = False, 0.0
            try:
                if time.monotonic() >= beat_at:
                    self._heartbeat()
                    self._rescue()
                    beat_at = time.monotonic() + self._beat
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._look()
                failures = 0
            except Exception as error:
                failures += 1
                self._report_outage("the worker's ticks", error, failures)
                self._pause(failures)
        self._goodbye()

    def _look(self) -> float:
        """Promote what is due; returns the seconds until the next look."""
        promoted, due = self._runner.transact(lambda s: scheduler.tick(s, self.registry.model))
        if promoted:
            with self._changed:
                self._changed.notify_all()
        return self._poll if due is None else min(self._poll, max(0.0, due.total_seconds()))

    def _register(self) -> None:
        began = time.monotonic()
        self._worker_id = self._runner.transact(
            lambda s: lifecycle.register(
                s,
                self.registry.model,
                host=socket.gethostname(),
                pid=os.getpid(),
                version=_version(),
                queues=self.queues,
                threads=self.threads,
                heartbeat_limit=self._limit,
            )
        )
        self._last_beat = began

    def _heartbeat(self) -> None:
        with self._changed:
            known = list(self._running.values())
        shown = [
            {"id": job.id, "task": job.task, "attempt": job.attempt, "since": _iso(since)}
            for job, since in known
        ]
        began = time.monotonic()
        worker_id, model = self._worker_id, self.registry.model
        if not self._runner.transact(lambda s: lifecycle.heartbeat(s, model, worker_id, shown)):
            self._register()
            log.error(
                "worker %s was taken for dead and its jobs for abandoned: what it still runs will be "
                "refused; it goes on as worker %s", worker_id, self._worker_id,
            )  # fmt: skip
            return
        self._last_beat = began
        claims = {(job.id, job.claim) for job, _ in known}
        self._suspects = self._runner.transact(
            lambda s: lifecycle.give_back_strays(s, model, worker_id, claims, self._suspects)
        )

    def _rescue(self) -> None:
        while True:
            rescued = self._runner.transact(
                lambda s: lifecycle.rescue(s, self.registry.model, self.registry.policy_for)
            )
            if not rescued:
                return
            for each in rescued:
                self._announce(
                    Finished(
                        running(each.job, self.registry.policy_for(each.job.task)),
                        each.state,
                        each.outcome.error,
                    ),
                    hooks_may_exit=False,
                )

    def _goodbye(self) -> None:
        try:
            self._runner.transact(lambda s: lifecycle.goodbye(s, self.registry.model, self._worker_id))
        except Exception as error:
            self._report_outage("saying goodbye", error, 1)
        with self._changed:
            self._state = "stopped"
            self._changed.notify_all()
        log.info("worker %s stopped", self._worker_id, extra={"worker_id": self._worker_id})

    # -- outages -----------------------------------------------------------------------------------

    def _persist(self, call: Callable[[], T]) -> T:
        """Call until the database can be reached; after a stop, for one heartbeat limit at most."""
        failures, stopping_since = 0, None
        while True:
            try:
                return call()
            except Exception as error:
                if not is_transient(error):
                    raise
                if self._state != "running":
                    stopping_since = stopping_since or time.monotonic()
                    if time.monotonic() - stopping_since > self._limit.total_seconds():
                        raise
                failures += 1
                self._report_outage("recording an outcome", error, failures)
            self._pause(failures)

    def _pause(self, failures: int) -> None:
        until = time.monotonic() + _BACKOFF[min(failures, len(_BACKOFF)) - 1]
        with self._changed:
            began = self._state
            while self._state == began and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _report_outage(self, what: str, error: Exception, failures: int) -> None:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.error(
            "%s failed (%s in a row), trying again: %s", what, failures, told,
            exc_info=None if is_transient(error) else error,
        )  # fmt: skip


def _positive(name: str, value: object) -> None:
    if not isinstance(value, dt.timedelta) or value <= dt.timedelta(0):
        raise InvalidOption(f"{name} is {value!r}; expected a timedelta above zero")


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).isoformat()


def _version() -> str:
    try:
        return version("sqla-jobs")
    except PackageNotFoundError:  # a source tree on the path, not installed
        return "unknown"


def _log_outcome(finished: Finished) -> None:
    job, error = finished.job, finished.error
    extra = {**facts(job), "state": finished.state.value}
    if not finished.failed:
        log.info("job %s (%s) %s", job.id, job.task, finished.state.value, extra=extra)
        return
    level = logging.WARNING if finished.state is JobState.SCHEDULED else logging.ERROR
    log.log(
        level, "job %s (%s) attempt %s of %s failed, now %s: %s",
        job.id, job.task, job.attempt, job.max_attempts, finished.state.value, type(error).__name__,
        exc_info=error, extra=extra,
    )  # fmt: skip
