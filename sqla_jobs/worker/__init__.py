"""Worker: the threads of this process that run jobs, from its start to its stop.

options         what it is told, checked
parts           what it is made of, put together
crew            what the threads tell each other: who is at work, and whether to go on
registration    the process's row, its heartbeats, and what follows from them
hands           the threads that run jobs
loop            the event loop on which coroutines run
news            what became of jobs: the log, the hooks
upkeep          two threads that run no jobs: heartbeats, and ticks (promote, rescue, cancels)
timer           the third: polls, timeouts, the end of the grace period
outages         what to do while the database cannot be reached
signals         SIGTERM and SIGINT
claims          which jobs it claims, and the index for that
memory          how much of it the process has
pauses          which queues it may claim from
pool            whether the application's is large enough
"""

from __future__ import annotations

import asyncio
import atexit
import datetime as dt
import logging
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, SQLColumnExpression
from typing_extensions import Self

from sqla_jobs.errors import JobsError
from sqla_jobs.runner import Finished
from sqla_jobs.tasks import AsyncSessions, Observer, Registry, Sessions
from sqla_jobs.worker.crew import Crew, WorkerState
from sqla_jobs.worker.news import Announcer
from sqla_jobs.worker.options import Limits, Settings, check_hook, watching
from sqla_jobs.worker.outages import report
from sqla_jobs.worker.parts import Parts, assemble
from sqla_jobs.worker.signals import on_signals
from sqla_jobs.worker.timer import PATIENCE

if TYPE_CHECKING:  # see tasks.sessions
    from sqlalchemy.ext.asyncio import AsyncEngine

__all__ = ["Hook", "Worker", "WorkerState"]

log = logging.getLogger("sqla_jobs")

Hook = Callable[["Worker", Finished], object]

_END_OF_LISTENING: Final = 5.0
"""Seconds to wait for a thread that may be in the middle of connecting."""


class Worker:
    """Runs the jobs of a registry in threads of this process.

    Nothing happens before ``start()``; a worker that has stopped cannot be started again.

    Parameters:
        registry: the ``Jobs`` of the application.
        sessions: an Engine, a sessionmaker, or a callable whose result is a context manager that
            gives a Session; None: the registry's own sessionmaker. Each thread uses one connection
            at a time, and the worker itself one more: the pool has to give ``threads + 1``.
        queues: in strict order: all of the first before any of the second; and then, unless it drains, the
            library's own, ``sqla_jobs``. None: any queue.
        threads: how many jobs run at once.
        async_sessionmaker: makes the AsyncSessions of tasks that are coroutines: an async_sessionmaker, an
            AsyncEngine, or a callable whose result is an async context manager; None: the registry's own.
            Its pool has to give ``concurrency + 1``.
        concurrency: how many coroutines run at once. They run on an event loop in a thread of its own, or,
            with ``async with Worker(…)``, on that of the application.
        poll_interval: how often an idle worker looks for jobs; at most a day.
        heartbeat_interval: how often this process says that it lives; at most a day.
        heartbeat_limit: without a heartbeat for this long, others take the process for dead and
            rescue its jobs; at least twice the interval.
        grace: how long running jobs may go on after a `stop`; then they are interrupted and given back.
        max_jobs: stop after so many jobs; whoever supervises the process starts another. None: never.
        max_memory: stop when the process has more than so many bytes of memory; None: never.
        replaceable: the process is started anew when it ends: stop if a job cannot be interrupted.
        drain: stop when nothing is queued or due in these queues, nor running here, any more. Schedules
            are left to other workers.
        where: a condition on the columns of the job model: only jobs that satisfy it are claimed, but for
            those of the library's own queue. Its values become constants in the statements. None: any job.
        on_failure: called with the worker and a `Finished` after a run that failed, retried or not.
        on_finish: called after every run, after ``on_failure``. Both after the commit; what they
            raise is logged and changes nothing, except that SystemExit ends the thread.
        observers: who is told of each run, its beginning too, such as ``sqla_jobs.metrics.Prometheus``.

    Raises:
        InvalidOption: an option is out of its range.
        ConfigurationError: nothing to make Sessions with; at the start: the pool is too small.
    """

    def __init__(
        self,
        registry: Registry[Any],
        sessions: Sessions | Engine | None = None,
        *,
        queues: Sequence[str] | None = None,
        threads: int = 1,
        async_sessionmaker: AsyncSessions | AsyncEngine | None = None,
        concurrency: int = 10,
        poll_interval: dt.timedelta = dt.timedelta(seconds=1),
        heartbeat_interval: dt.timedelta = dt.timedelta(seconds=10),
        heartbeat_limit: dt.timedelta = dt.timedelta(seconds=30),
        grace: dt.timedelta = dt.timedelta(seconds=30),
        max_jobs: int | None = None,
        max_memory: int | None = None,
        replaceable: bool = False,
        drain: bool = False,
        where: SQLColumnExpression[bool] | None = None,
        on_failure: Hook | None = None,
        on_finish: Hook | None = None,
        observers: Sequence[Observer] = (),
    ) -> None:
        check_hook("on_failure", on_failure)
        check_hook("on_finish", on_finish)
        self._settings = Settings.of(
            registry,
            sessions,
            async_sessionmaker,
            where,
            queues=queues,
            threads=threads,
            concurrency=concurrency,
            poll_interval=poll_interval,
            heartbeat_interval=heartbeat_interval,
            heartbeat_limit=heartbeat_limit,
            grace=grace,
            limits=Limits(max_jobs, max_memory, replaceable, drain),
        )
        self.registry = registry
        self._on_failure, self._on_finish = on_failure, on_finish
        self._watching = watching(registry, observers)
        self._crew = Crew()
        self._host: asyncio.AbstractEventLoop | None = None
        self._parts: Parts | None = None
        self._threads: list[threading.Thread] = []

    @property
    def queues(self) -> list[str] | None:
        """In strict order; None: any."""
        return self._settings.queues

    @property
    def threads(self) -> int:
        """How many ordinary jobs run at once."""
        return self._settings.threads

    # -- life --------------------------------------------------------------------------------------

    @property
    def state(self) -> WorkerState:
        """``new`` → ``running`` → ``stopping`` → ``stopped``."""
        return self._crew.state

    @property
    def recycled(self) -> bool:
        """Whether it has stopped for another process to go on: ``max_jobs``, ``max_memory``, a stuck job."""
        return self._crew.recycled

    def start(self) -> Self:
        """Begin to work, in threads; returns at once.

        Raises:
            JobsError: it was started before.
            SchemaError: the tables are missing, or not of the revision that this version needs.
        """
        self._crew.start()
        self._pid = os.getpid()
        try:
            parts = self._parts = assemble(
                self._settings,
                self.registry,
                self._crew,
                Announcer(
                    self._crew,
                    on_failure=self._on_failure and partial(self._on_failure, self),
                    on_finish=self._on_finish and partial(self._on_finish, self),
                ),
                host=self._host,
                stop=self.stop,
                watching=self._watching,
            )
        except BaseException:
            self._crew.end()
            raise
        if self._watching is not None:
            self._watching.joins(lambda: self.state)
        self._launch(parts)
        atexit.register(self._at_exit)
        log.info(
            "worker %s started: %s, %s thread(s)",
            parts.worker_id, parts.served, self._settings.threads, extra={"worker_id": parts.worker_id},
        )  # fmt: skip
        return self

    def _launch(self, parts: Parts) -> None:
        def thread(name: object, duty: Callable[[], None]) -> threading.Thread:
            name = f"sqla_jobs-{parts.worker_id}-{name}"
            return threading.Thread(target=duty, name=name, daemon=True)

        hands = [thread(number, parts.hands.work) for number in range(1, self._settings.threads + 1)]
        self._heart = thread("heartbeats", partial(self._keep, parts.upkeep.keep_beating))
        timer = thread("timer", partial(self._keep, parts.timer.keep_time))
        ticks = thread("ticks", partial(self._keep_ticking, parts))
        self._threads = [*hands, self._heart, timer, ticks]
        self._ear = None if parts.listener is None else thread("listener", parts.listener.run)
        self._crew.enlist(len(hands), hands=True)
        try:
            for each in self._threads:
                each.start()
            if self._ear is not None:
                self._ear.start()
        except BaseException as error:
            self.stop()
            self._crew.dismiss(sum(each.ident is None for each in hands))
            # The system gives no more threads. A signal's exception does not wait: a job may run by now.
            if isinstance(error, Exception):
                for each in self._threads:
                    if each.ident is not None and each is not timer:  # which waits for the goodbye
                        each.join()
                self._goodbye(parts)
                if timer.ident is not None:
                    timer.join()
            raise

    def stop(self, timeout: float | dt.timedelta | None = None) -> None:
        """Take no new job; those that run go on to their end. Returns at once: see `join`.

        Parameters:
            timeout: the time, or seconds, that they have; None: the worker's ``grace``. Then they are
                interrupted, rolled back and given back, which does not count as an attempt. May be
                called again, with less.
        """
        if isinstance(timeout, dt.timedelta):
            timeout = timeout.total_seconds()
        self._crew.stop(self._settings.grace if timeout is None else max(0.0, timeout))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has stopped; False: it has not within ``timeout`` seconds.

        One that was never started is not waited for.

        Raises:
            JobsError: a job or a hook of this very worker calls it, and would wait for itself.
        """
        if threading.current_thread() in self._threads:
            raise JobsError("a job or a hook waits for the end of its own worker; expected stop() alone")
        if self._parts is not None and self._parts.loop is not None and self.state != "stopped":
            self._parts.loop.refuse_to_block()
        return self._crew.join(timeout)

    def run(self) -> None:
        """Work in this thread's stead until SIGTERM or SIGINT, then let the running jobs finish.

        After the second signal, or the grace period, they are interrupted and given back. The third
        acts as if there were no worker: the process ends, and its jobs are rescued. Signals are
        handled only in the main thread; elsewhere this is ``start()`` and ``join()``.
        """
        heard: list[signal.Signals] = []
        told: list[signal.Signals] = []
        telling = False

        def on_signal(received: signal.Signals, number: int) -> None:
            nonlocal telling
            heard.append(received)
            if self.state != "new":
                self.stop(None if number == 1 else 0)
            # A second one may interrupt the handler of the first as it writes to the log, which takes no line
            # in the middle of another.
            if not telling:
                telling = True
                while len(told) < len(heard):
                    told.append(heard[len(told)])
                    if len(told) == 1:
                        log.info("%s: letting the running jobs finish", told[-1].name)
                    else:
                        log.warning("%s again: giving the running jobs back", told[-1].name)
                telling = False

        # Before the start: whoever sees the worker's row, or its log line, may send a signal.
        with on_signals(2, on_signal):
            self.start()
            for number, _ in enumerate(heard):
                self.stop(None if number == 0 else 0)
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

    async def __aenter__(self) -> Self:
        self._host = asyncio.get_running_loop()
        started = self._beside(self.start)
        try:
            await asyncio.shield(started)
        except asyncio.CancelledError:
            self.stop(0)  # nobody will leave what was not entered
            await asyncio.wait([started])
            await self._joined()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        await self._joined()

    async def _joined(self) -> None:
        """Wait for the end; if that is cancelled, give back what runs: the loop is about to end, it seems."""
        joined = self._beside(self.join)
        try:
            await asyncio.shield(joined)
        except asyncio.CancelledError:
            self.stop(0)
            await asyncio.wait([joined])
            raise

    def _beside(self, call: Callable[[], object]) -> asyncio.Future[object]:
        """Call in a thread of its own: jobs may have taken those of the loop's executor, and wait for it."""
        executor = ThreadPoolExecutor(1, "sqla_jobs-async")
        try:
            return asyncio.get_running_loop().run_in_executor(executor, call)
        finally:
            executor.shutdown(wait=False)

    # -- the other three, and the end ----------------------------------------------------------------

    def _keep(self, duty: Callable[[], None]) -> None:
        try:
            duty()
        finally:
            self.stop()

    def _keep_ticking(self, parts: Parts) -> None:
        try:
            parts.upkeep.keep_ticking()
        finally:
            self.stop()
            self._crew.wait_until_gone()
            self._heart.join()  # a heartbeat after the goodbye would register anew
            self._goodbye(parts)

    def _goodbye(self, parts: Parts) -> None:
        try:
            if parts.loop is not None:
                parts.loop.end()
            parts.runner.close()
            parts.registration.goodbye()
        except Exception as error:
            report("saying goodbye", error, 1)
        # Only now: a lock that is let go while the row still says it is held is a death.
        if parts.listener is not None and self._ear is not None and self._ear.ident is not None:
            parts.listener.stop()
            self._ear.join(_END_OF_LISTENING)
        with suppress(Exception):  # an application's log filter
            log.info("worker %s stopped", parts.worker_id, extra={"worker_id": parts.worker_id})
        atexit.unregister(self._at_exit)
        self._crew.end()

    def _at_exit(self) -> None:
        """The interpreter ends, and with it all our threads: give back what runs, and do not hang."""
        if os.getpid() == self._pid:  # a child that was forked has none of the threads
            self.stop(0)
            self.join(PATIENCE + _END_OF_LISTENING)
