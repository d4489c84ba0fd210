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
        self._registration: Registration
        self._state: WorkerState = "new"
        self._pool: list[threading.Thread] = []
        self._changed = threading.Condition()
        """Guards what follows; notified when there may be work, and when the worker stops."""
        self._running: dict[tuple[int, int], tuple[Claimed, float]] = {}
        """What runs here and since when, by id and claim: a job that was taken from one thread of this
        worker may run in another already."""
        self._alive = 0
        self._idle = 0
        self._news = 0
        """Counts what may mean work: who read it before an empty claim knows whether to look again."""
        self._replan = False

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
        model = self.registry.model
        try:
            self._runner = Runner(self.registry, self._sessions, self._persist)
            with self._runner.engine.connect() as connection:
                migrations.check(connection, job_table(model).schema)
            self._registration = Registration(
                self._runner, model, queues=self.queues, threads=self.threads, limit=self._limit
            )
            self._registration.register()
        except BaseException:
            self._end()
            raise
        self._launch()
        worker_id = self._registration.worker_id
        log.info(
            "worker %s started: queues %s, %s thread(s)",
            worker_id, ", ".join(self.queues or ["any"]), self.threads, extra={"worker_id": worker_id},
        )  # fmt: skip
        return self

    def _launch(self) -> None:
        duties = [(f"{number}", self._work) for number in range(1, self.threads + 1)]
        duties += [("heartbeats", self._keep_beating), ("ticks", self._tick)]
        prefix = f"sqla_jobs-{self._registration.worker_id}"
        self._pool = [
            threading.Thread(target=duty, name=f"{prefix}-{name}", daemon=True) for name, duty in duties
        ]
        self._alive = self.threads
        try:
            for thread in self._pool:
                thread.start()
        except BaseException:  # the system gives no more threads
            self.stop()
            with self._changed:
                self._alive -= sum(thread.ident is None for thread in self._pool[: self.threads])
                self._changed.notify_all()
            for thread in self._pool:
                if thread.ident is not None:
                    thread.join()
            self._goodbye()
            raise

    def stop(self) -> None:
        """Take no new job; those that run go on to their end. Returns at once: see `join`."""
        with self._changed:
            if self._state == "running":
                self._state = "stopping"
            elif self._state == "new":
                self._state = "stopped"
            self._changed.notify_all()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has stopped; False: it has not within ``timeout`` seconds.

        One that was never started is not waited for.

        Raises:
            JobsError: a job or a hook of this very worker calls it, and would wait for itself.
        """
        if threading.current_thread() in self._pool:
            raise JobsError("a job or a hook waits for the end of its own worker; expected stop() alone")
        with self._changed:
            return self._changed.wait_for(lambda: self._state in ("new", "stopped"), timeout)

    def run(self) -> None:
        """Work in this thread's stead until SIGTERM or SIGINT, then let the running jobs finish.

        A second signal acts as if there were no worker: the process ends, and its jobs are rescued.
        Signals are handled only in the main thread; elsewhere this is ``start()`` and ``join()``.
        """
        before: dict[int, Any] = {}
        signalled = False

        def restore() -> None:
            while before:
                number, handler = before.popitem()
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

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

    # -- jobs --------------------------------------------------------------------------------------

    def _work(self) -> None:
        failures = 0
        try:
            while self._state == "running":
                news = self._news
                try:
                    job = self._claim()
                except Exception as error:
                    failures += 1
                    self._report_outage("claiming a job", error, failures)
                    self._pause(failures)
                    continue
                failures = 0
                if job is None:
                    self._rest(news)
                else:
                    self._perform(job)
        finally:
            with self._changed:
                self._alive -= 1
                self._changed.notify_all()

    def _claim(self) -> Claimed | None:
        registration = self._registration
        if not registration.is_fresh:
            return None
        return self._runner.claim(registration.worker_id, self.queues)

    def _perform(self, job: Claimed) -> None:
        key = (job.id, job.claim)
        with self._changed:
            self._running[key] = (job, time.time())
            self._news += 1
        try:
            finished = self._runner.perform(job)
        except Exception:
            # Nobody has recorded an outcome: the row is still ours, and is given back as a stray.
            log.exception("job %s (%s): its outcome could not be recorded", job.id, job.task)
            finished = None
        finally:
            with self._changed:
                del self._running[key]
        if finished is not None:
            self._announce(finished)

    def _rest(self, news: int) -> None:
        """Nothing was queued: wait for news or the next poll; when draining, perhaps stop.

        Parameters:
            news: as they were before the claim that found nothing.
        """
        with self._changed:
            self._idle += 1
            last = self.drain and self._idle == self._alive
        empty = last and self._is_empty()
        with self._changed:
            if self._news == news and self._state == "running":
                # Idle, all of them, before and after the look, and no job run in between: whoever could
                # have enqueued a job here has done so before.
                if empty and self._idle == self._alive:
                    self.stop()
                else:
                    self._changed.wait(self._poll)
            self._idle -= 1

    def _is_empty(self) -> bool:
        model, worker_id = self.registry.model, self._registration.worker_id
        try:
            return not self._runner.transact(lambda s: lifecycle.has_work(s, model, worker_id, self.queues))
        except Exception as error:
            self._report_outage("looking for jobs that are left", error, 1)
            return False

    def _announce(self, finished: Finished, *, hooks_may_exit: bool = True) -> None:
        _log_outcome(finished)
        with self._changed:
            if finished.state is JobState.SCHEDULED:
                self._replan = True
            if self.drain or self._replan:
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

    # -- heartbeats: a thread of their own, for nothing else may hold them up -----------------------

    def _keep_beating(self) -> None:
        failures, wait = 0, self._beat
        try:
            while not self._all_ended(wait):
                try:
                    self._heartbeat()
                except Exception as error:
                    failures += 1
                    self._report_outage("the heartbeat", error, failures)
                    wait = min(self._beat, _backoff(failures))
                else:
                    failures, wait = 0, self._beat
        finally:
            self.stop()

    def _heartbeat(self) -> None:
        with self._changed:
            known = list(self._running.values())
        shown = [
            {"id": job.id, "task": job.task, "attempt": job.attempt, "since": _iso(since)}
            for job, since in known
        ]
        worker_id = self._registration.worker_id
        if not self._registration.beat(shown):
            self._registration.register()
            log.error(
                "worker %s was taken for dead and its jobs for abandoned: what it still runs will be "
                "refused; it goes on as worker %s", worker_id, self._registration.worker_id,
            )  # fmt: skip

    # -- ticks -------------------------------------------------------------------------------------

    def _tick(self) -> None:
        try:
            self._keep_ticking()
        finally:
            self.stop()
            self._all_ended(None)
            self._pool[self.threads].join()  # a heartbeat after the goodbye would register anew
            self._goodbye()

    def _keep_ticking(self) -> None:
        look_at = sweep_at = time.monotonic()
        failures = 0
        while not self._all_ended(min(look_at, sweep_at) - time.monotonic(), or_replan=True):
            try:
                with self._changed:
                    if self._replan:
                        self._replan, look_at = False, 0.0
                if time.monotonic() >= sweep_at:
                    self._sweep()
                    sweep_at = time.monotonic() + self._beat
                if time.monotonic() >= look_at:
                    look_at = time.monotonic() + self._look()
                failures = 0
            except Exception as error:
                failures += 1
                self._report_outage("the worker's ticks", error, failures)
                self._pause(failures)

    def _look(self) -> float:
        """Promote what is due; returns the seconds until the next look."""
        promoted, due = self._runner.transact(lambda s: scheduler.tick(s, self.registry.model))
        if promoted:
            self._tell_news()
        if due is None or (due <= dt.timedelta(0) and not promoted):
            return self._poll  # due, and not promoted: somebody holds the row
        return min(self._poll, max(0.0, due.total_seconds()))

    def _sweep(self) -> None:
        """Give back what nobody runs: strays of this process, and the jobs of dead ones."""
        with self._changed:
            known = set(self._running)
        self._registration.give_back_strays(known)
        model, policy_for = self.registry.model, self.registry.policy_for
        while self._registration.may_judge:
            rescued = self._runner.transact(lambda s: lifecycle.rescue(s, model, policy_for))
            if not rescued:
                return
            for each in rescued:
                view = running(each.job, policy_for(each.job.task))
                self._announce(Finished(view, each.state, each.outcome.error), hooks_may_exit=False)

    # -- the end -----------------------------------------------------------------------------------

    def _all_ended(self, timeout: float | None, *, or_replan: bool = False) -> bool:
        """Wait until every thread that runs jobs has ended; False: it is not so after ``timeout`` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._alive == 0 or (or_replan and self._replan), timeout)
            return self._alive == 0

    def _goodbye(self) -> None:
        worker_id = self._registration.worker_id
        try:
            self._registration.goodbye()
        except Exception as error:
            self._report_outage("saying goodbye", error, 1)
        finally:
            log.info("worker %s stopped", worker_id, extra={"worker_id": worker_id})
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._state = "stopped"
            self._changed.notify_all()

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
        """Wait after so many failures in a row; not beyond a change of the worker's state."""
        with self._changed:
            began = self._state
            self._changed.wait_for(lambda: self._state != began, _backoff(failures))

    def _report_outage(self, what: str, error: Exception, failures: int) -> None:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        log.error(
            "%s failed (%s in a row), trying again: %s", what, failures, told,
            exc_info=None if is_transient(error) else error,
        )  # fmt: skip


def _backoff(failures: int) -> float:
    return _BACKOFF[min(failures, len(_BACKOFF)) - 1]


def _positive(name: str, value: object) -> None:
    if not isinstance(value, dt.timedelta) or value <= dt.timedelta(0):
        raise InvalidOption(f"{name} is {value!r}; expected a timedelta above zero")


def _iso(seconds: float) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.timezone.utc).isoformat()


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
