"""The jobs of a worker that are coroutines, on an event loop."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy.util.concurrency import await_only, greenlet_spawn

from sqla_jobs.errors import ConfigurationError, JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import Finished, Runner, Slots
from sqla_jobs.scope.on_loop import JobTask, LoopInterrupter
from sqla_jobs.tasks import AsyncSessions, InnerSessions, Registry, Watching
from sqla_jobs.worker.crew import Crew, Running
from sqla_jobs.worker.outages import persist, report, unrecorded
from sqla_jobs.worker.pool import check_pool

T = TypeVar("T")

_LAST: Final = 1.0
"""Seconds that jobs have that nothing can be done to end."""
_END: Final = 5.0
"""Seconds that the loop has for coming to its end."""

_TELLERS: Final = 32
"""Threads at most that call hooks."""


def is_in_loop() -> bool:
    """Whether this thread runs an event loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


class _Turn:
    """What tasks of one loop wait for, as threads do for a lock."""

    def __init__(self) -> None:
        self._over = asyncio.get_running_loop().create_future()

    def acquire(self) -> None:
        await_only(self._over)

    def release(self) -> None:
        if not self._over.done():
            self._over.set_result(None)


class Loop:
    """Runs jobs that are coroutines, each in an asyncio task: the whole of the ordinary lane, in a greenlet.

    Its methods are called by other threads.

    Parameters:
        registry: has such tasks.
        limit: of the heartbeat.
        concurrency: how many jobs may be on it at once.
        host: the loop; None: one of its own, in a thread of its own.

    Raises:
        ConfigurationError: there is nothing to make AsyncSessions with.
    """

    def __init__(
        self,
        crew: Crew,
        registry: Registry[Any],
        sessions: AsyncSessions | None,
        limit: dt.timedelta,
        *,
        concurrency: int,
        host: asyncio.AbstractEventLoop | None,
    ) -> None:
        if sessions is None:
            names = ", ".join(sorted(registry.asynchronous))
            raise ConfigurationError(
                f"these tasks are `async def` functions, and the worker has nothing to make AsyncSessions "
                f"with: {names}; expected Worker(…, async_sessionmaker=…), or Jobs(async_sessionmaker=…)"
            )
        self._crew = crew
        self._registry = registry
        self._sessions = sessions
        self._limit = limit
        self.concurrency = concurrency
        self._free = threading.Semaphore(concurrency)
        self._wanted = False
        """Somebody was told that there is no room."""
        self._tasks: set[asyncio.Task[None]] = set()
        # Not the loop's: jobs may have taken all of its threads, and not given them back when they timed out.
        self._tellers = ThreadPoolExecutor(min(concurrency, _TELLERS), "sqla_jobs-tells")
        self._loop = host or asyncio.new_event_loop()
        self._ends = False
        self.thread: threading.Thread | None = None
        """Its own; None: it is the application's."""
        if host is None:
            self.thread = threading.Thread(target=self._keep, name="sqla_jobs-loop", daemon=True)

    # -- life --------------------------------------------------------------------------------------

    def start(self, slots: Slots, watching: Watching | None) -> None:
        """Begin to run; never called by the loop itself.

        Parameters:
            slots, watching: of the runner that claims its jobs.

        Raises:
            ConfigurationError: the engine is none of psycopg, or its pool is too small.
        """
        if self.thread is not None:
            self.thread.start()
        try:
            self._wait_for(greenlet_spawn(self._make_runner, slots, watching))
        except BaseException:
            self.end()
            raise

    def end(self) -> None:
        """Close what it has open; a job that does not come to its end is left where it is."""
        runner, own = getattr(self, "_runner", None), self.thread

        async def close() -> None:
            if self._tasks:  # given up on, but they may come to their end after all, and have connections
                await asyncio.wait(self._tasks, timeout=_LAST)
            if runner is not None:
                await greenlet_spawn(runner.close)
                if own is not None:  # no other loop can use what is in its pool
                    await greenlet_spawn(runner.engine.dispose)

        with suppress(Exception):
            self._wait_for(close(), _END)
        self._tellers.shutdown(wait=False)
        if own is not None:
            self._ends = True
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._loop.stop)
            own.join(_END)

    def _keep(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            while not self._ends:
                # A task that a job has begun ends the whole loop by SystemExit, and any code by loop.stop():
                # the jobs on it, and those that are claimed for it, would be left where they are.
                with suppress(SystemExit, KeyboardInterrupt):
                    self._loop.run_forever()
        finally:
            self._loop.close()

    def _make_runner(self, slots: Slots, watching: Watching | None) -> None:
        def wait(seconds: float) -> None:
            await_only(asyncio.sleep(seconds))

        self._runner = Runner(
            self._registry,
            InnerSessions(self._sessions),
            partial(persist, self._crew, self._limit, pause=wait),
            turn=_Turn,
            slots=slots,
            watching=watching,
        )
        check_pool(self._runner.engine, self.concurrency, "coroutine")

    def _wait_for(self, coroutine: Coroutine[Any, Any, T], seconds: float | None = None) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(seconds)

    def refuse_to_block(self) -> None:
        """Raise JobsError in the loop's own thread: to wait there for what runs on it is to wait for ever."""
        with suppress(RuntimeError):
            if asyncio.get_running_loop() is self._loop:
                raise JobsError(
                    "join() would hold up the event loop that the worker's jobs run on; expected"
                    " `async with Worker(…)`, or await asyncio.to_thread(worker.join)"
                )

    # -- jobs --------------------------------------------------------------------------------------

    def reserve(self) -> bool:
        """Whether there is room for one more; who is told so gives it back by `release`, or uses it."""
        if self._free.acquire(blocking=False):
            return True
        self._wanted = True
        # It may have been given back before that was said, and nobody been told.
        return self._free.acquire(blocking=False)

    def release(self, *, tell: bool = True) -> None:
        """There is room again.

        Parameters:
            tell: wake who was told that there is none. Not after a claim that found nothing: of two threads
                each would refuse, and then wake, the other, for ever.
        """
        self._free.release()
        if tell and self._wanted:
            self._wanted = False
            self._crew.tell()

    def run(
        self, job: Claimed, *, begun: Callable[[], object], tell: Callable[[Finished], object], slow: bool
    ) -> None:
        """Run a job for which there is room; returns at once.

        Parameters:
            begun: called when it counts as running.
            tell: told of how it ended.
            slow: that may take its time, and so is done in another thread.
        """
        interrupter = LoopInterrupter(self._loop)
        running = Running(job, self._registry.timeout_for(job), interrupter, on_loop=True)
        self._crew.enlist()
        runs = ExitStack()
        runs.enter_context(self._crew.runs(running))
        begun()
        coroutine = self._run(running, runs, tell, slow)
        self._loop.call_soon_threadsafe(self._spawn, coroutine, interrupter)

    def _spawn(self, coroutine: Coroutine[Any, Any, None], interrupter: LoopInterrupter) -> None:
        task = JobTask(coroutine, loop=self._loop, interrupter=interrupter)
        self._tasks.add(task)  # the loop itself holds it by a weak reference
        task.add_done_callback(self._tasks.discard)

    async def _run(
        self,
        running: Running,
        runs: ExitStack,
        tell: Callable[[Finished], object],
        slow: bool,
    ) -> None:
        job = running.job
        perform = partial(self._runner.perform, job, running.interrupter, meter=running.meter)
        try:
            with runs:
                try:
                    finished = await greenlet_spawn(perform)
                except Exception as error:
                    # Nobody has recorded an outcome: the row is still ours, and is given back as a stray.
                    unrecorded(self._registry, job, error)
                    return
            if finished is None:
                return
            if slow:
                await self._loop.run_in_executor(self._tellers, tell, finished)
            else:
                tell(finished)
        except Exception as error:  # the application's logging, most likely
            report("telling what became of a job", error, 1)
        finally:
            if job.crashes:
                self._crew.leave_suspects()
            self.release()
            if job.task in self._registry.limited:
                self._crew.tell()  # its slot is free: who claims may have found it taken, and rest by now
            self._crew.dismiss()
