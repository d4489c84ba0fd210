"""Worker: the threads of this process that run jobs, from its start to its stop.

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
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import Engine, SQLColumnExpression
from typing_extensions import Self

from sqla_jobs import migrations
from sqla_jobs.errors import ConfigurationError, JobsError
from sqla_jobs.listener import Listener
from sqla_jobs.runner import Finished, Peers, Runner, check_level
from sqla_jobs.scheduler import Schedules
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import (
    OWN_QUEUE,
    AsyncSessions,
    Registry,
    Sessions,
    async_maker,
    check_queues,
    sessions_of,
)
from sqla_jobs.worker.claims import check_filter, look_for_index
from sqla_jobs.worker.crew import Crew, WorkerState
from sqla_jobs.worker.hands import Hands, Limits
from sqla_jobs.worker.loop import Loop, is_in_loop
from sqla_jobs.worker.news import Announcer
from sqla_jobs.worker.options import check_hook, check_limit, check_number, grace_period, interval
from sqla_jobs.worker.outages import persist, report
from sqla_jobs.worker.pauses import Pauses
from sqla_jobs.worker.pool import check_pool
from sqla_jobs.worker.registration import Registration
from sqla_jobs.worker.signals import on_signals
from sqla_jobs.worker.timer import PATIENCE, Timer
from sqla_jobs.worker.upkeep import Upkeep

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
    ) -> None:
        source = registry.sessionmaker if sessions is None else sessions
        if source is None:
            raise ConfigurationError(
                "the worker has nothing to make Sessions with; give it an Engine or a sessionmaker: "
                "Worker(jobs, engine), or Jobs(sessionmaker=…)"
            )
        check_number("threads", threads)
        check_number("concurrency", concurrency)
        for name, number in (("max_jobs", max_jobs), ("max_memory", max_memory)):
            if number is not None:
                check_number(name, number)
        self._grace = grace_period(grace)
        check_hook("on_failure", on_failure)
        check_hook("on_finish", on_finish)
        self._limits = Limits(max_jobs, max_memory, replaceable, drain)
        self._poll = interval("poll_interval", poll_interval)
        self._beat = interval("heartbeat_interval", heartbeat_interval)
        check_limit(heartbeat_limit, heartbeat_interval)
        self.registry = registry
        self.queues = check_queues(queues)
        self.threads = threads
        self.drain = drain
        self._only = None if where is None else check_filter(registry.model, where, self.queues)
        self._sessions = sessions_of(source)
        self._async_sessions = async_maker(async_sessionmaker)
        self._concurrency = concurrency
        self._loop: Loop | None = None
        self._host: asyncio.AbstractEventLoop | None = None
        self._limit = heartbeat_limit
        self._on_failure, self._on_finish = on_failure, on_finish
        self._crew = Crew()
        self._threads: list[threading.Thread] = []

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
            self._set_up()
        except BaseException:
            if self._loop is not None:
                self._loop.end()
            self._crew.end()
            raise
        self._launch()
        atexit.register(self._at_exit)
        worker_id = self._registration.worker_id
        served = ", ".join(self.queues or ["any"])
        if self._only is not None:
            served = f"{served}, where {self._only.predicate(self._runner.engine.dialect)}"
        log.info(
            "worker %s started: queues %s, %s thread(s)",
            worker_id, served, self.threads, extra={"worker_id": worker_id},
        )  # fmt: skip
        return self

    def _set_up(self) -> None:
        model = self.registry.model
        crew = self._crew
        loop = self._made_loop()
        peers = Peers(crew.take_suspects, crew.leave_suspects, lambda: crew.heard, self.drain)
        self._runner = Runner(
            self.registry, self._sessions, partial(persist, crew, self._limit), peers, self._only
        )
        check_pool(self._runner.engine, self.threads)
        if self.registry.fast:
            check_level(self._runner, next(iter(self.registry.fast)))
        with self._runner.engine.connect() as connection:
            migrations.check(connection, job_table(model).schema)
        if self._only is not None:
            look_for_index(self._runner, self._only, self.queues)
        if loop is not None:
            loop.start(self._runner.slots)
            self._loop = loop
        self._registration = Registration(
            self._runner,
            self.registry,
            recurring=not self.drain,
            queues=self.queues,
            threads=self.threads,
            limit=self._limit,
        )
        self._registration.enter()
        self._listener = self._made_listener()
        announcer = Announcer(
            self._crew,
            on_failure=self._on_failure and partial(self._on_failure, self),
            on_finish=self._on_finish and partial(self._on_finish, self),
        )
        self._upkeep = Upkeep(
            self._crew,
            self._registration,
            self._runner,
            self.registry,
            poll=self._poll,
            beat=self._beat,
            announce=announcer.announce_all,
            schedules=None if self.drain else Schedules(self.registry),
            listener=self._listener,
        )
        pauses = Pauses(self._runner, self._served, lambda: crew.heard)
        pauses.closed()
        self._hands = Hands(
            self._crew,
            self._registration,
            self._runner,
            self.registry,
            announcer,
            queues=self._served,
            pauses=pauses,
            limits=self._limits,
            loop=loop,
            stop=self.stop,
        )
        self._timer = Timer(self._crew, poll=self._poll, on_stuck=self._hands.give_up_on)

    def _made_loop(self) -> Loop | None:
        if not self.registry.asynchronous:
            return None
        if self._host is None and is_in_loop():
            raise JobsError(
                "start() was called in an event loop, and there are tasks that are coroutines; expected"
                " `async with Worker(…)`, which runs them on that loop"
            )
        return Loop(
            self._crew,
            self.registry,
            self._async_sessions or self.registry.async_sessionmaker,
            self._limit,
            concurrency=self._concurrency,
            host=self._host,
        )

    @property
    def _served(self) -> list[str] | None:
        """Its queues, and the library's own behind them: somebody has to keep the house."""
        if self.queues is None or self.drain or OWN_QUEUE in self.queues:
            return self.queues
        return [*self.queues, OWN_QUEUE]

    def _made_listener(self) -> Listener | None:
        if self.registry.notify is False:
            return None
        return Listener(
            self._runner.engine,
            self.registry.model,
            self._registration.worker_id,
            queues=self._served,
            on_work=self._crew.hear,
            on_times=self._crew.replan,
            on_lost=self._registration.deny_lock,
        )

    def _launch(self) -> None:
        def thread(name: object, duty: Callable[[], None]) -> threading.Thread:
            name = f"sqla_jobs-{self._registration.worker_id}-{name}"
            return threading.Thread(target=duty, name=name, daemon=True)

        hands = [thread(number, self._hands.work) for number in range(1, self.threads + 1)]
        self._heart = thread("heartbeats", self._keep_beating)
        timer = thread("timer", self._keep_time)
        self._threads = [*hands, self._heart, timer, thread("ticks", self._keep_ticking)]
        self._ear = None if self._listener is None else thread("listener", self._listener.run)
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
                self._goodbye()
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
        self._crew.stop(self._grace if timeout is None else max(0.0, timeout))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until the worker has stopped; False: it has not within ``timeout`` seconds.

        One that was never started is not waited for.

        Raises:
            JobsError: a job or a hook of this very worker calls it, and would wait for itself.
        """
        if threading.current_thread() in self._threads:
            raise JobsError("a job or a hook waits for the end of its own worker; expected stop() alone")
        if self._loop is not None and self.state != "stopped":
            self._loop.refuse_to_block()
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
        await self._host.run_in_executor(None, self.start)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        await asyncio.to_thread(self.join)

    # -- the other three, and the end ----------------------------------------------------------------

    def _keep_beating(self) -> None:
        try:
            self._upkeep.keep_beating()
        finally:
            self.stop()

    def _keep_time(self) -> None:
        try:
            self._timer.keep_time()
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
            if self._loop is not None:
                self._loop.end()
            self._runner.close()
            self._registration.goodbye()
        except Exception as error:
            report("saying goodbye", error, 1)
        # Only now: a lock that is let go while the row still says it is held is a death.
        if self._listener is not None and self._ear is not None and self._ear.ident is not None:
            self._listener.stop()
            self._ear.join(_END_OF_LISTENING)
        with suppress(Exception):  # an application's log filter
            log.info("worker %s stopped", worker_id, extra={"worker_id": worker_id})
        atexit.unregister(self._at_exit)
        self._crew.end()

    def _at_exit(self) -> None:
        """The interpreter ends, and with it all our threads: give back what runs, and do not hang."""
        if os.getpid() == self._pid:  # a child that was forked has none of the threads
            self.stop(0)
            self.join(PATIENCE + _END_OF_LISTENING)
