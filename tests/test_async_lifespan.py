"""A worker on the application's event loop, which cancels it, takes its threads, or ends."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from sqla_jobs import Job, Jobs, Worker
from tests.support.lane import NEVER
from tests.support.loops import async_engine, leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE

EFFECTS = "SELECT count(*) FROM effects"
STATES = "SELECT state, count(*) FROM sqla_jobs GROUP BY 1 ORDER BY 1"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def enqueue(database: Database, task: Any, times: int = 1) -> None:
    with database.sessionmaker.begin() as session:
        for _ in range(times):
            task.enqueue(session)


@pytest.mark.parametrize("when", ["before the start", "after it"])
def test_a_worker_whose_entering_is_cancelled_stops(when: str, jobs: Jobs[Job], database: Database) -> None:
    """It would go on, and claim for a loop that has ended."""
    begun, gate = asyncio.Event(), threading.Event()

    class Slow(Worker):
        def start(self) -> Worker:  # type: ignore[override]
            if when == "after it":
                super().start()
            assert self._host is not None
            self._host.call_soon_threadsafe(begun.set)
            assert gate.wait(PATIENCE)
            return self if when == "after it" else super().start()

    @jobs.task(name="awaited")
    async def awaited(_: AsyncSession) -> None:
        pass

    async def application() -> Worker:
        engine = async_engine(database)
        worker = Slow(jobs, database.engine, async_sessionmaker=engine)
        entering = asyncio.create_task(worker.__aenter__())
        await begun.wait()
        entering.cancel()
        asyncio.get_running_loop().call_soon(gate.set)
        with pytest.raises(asyncio.CancelledError):
            await entering
        await engine.dispose()
        return worker

    worker = asyncio.run(application())
    assert worker.state == "stopped"
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_an_end_that_is_cancelled_gives_back_what_runs(jobs: Jobs[Job], database: Database) -> None:
    """The loop of the application ends next, and cancels all that is on it: that is no failure of the job."""
    begun = asyncio.Event()

    @jobs.task(name="endless", retry=NEVER)
    async def endless(session: AsyncSession) -> None:
        await leave_effect(session)
        begun.set()
        await asyncio.Event().wait()

    enqueue(database, endless)

    async def serve(engine: AsyncEngine) -> None:
        async with Worker(jobs, database.engine, async_sessionmaker=engine) as worker:
            workers.append(worker)
            await begun.wait()

    async def application() -> None:
        engine = async_engine(database)
        serving = asyncio.create_task(serve(engine))
        while not (workers and workers[0].state == "stopping"):  # noqa: ASYNC110 - of no event loop
            await asyncio.sleep(0)
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        await engine.dispose()

    workers: list[Worker] = []
    asyncio.run(application())
    assert workers[0].state == "stopped"
    assert database.rows("SELECT state, attempt FROM sqla_jobs") == [("queued", 0)]
    assert database.scalar(EFFECTS) == 0


def test_an_end_takes_no_thread_that_jobs_wait_for(jobs: Jobs[Job], database: Database) -> None:
    stopping = asyncio.Event()

    @jobs.task(name="threaded", retry=NEVER)
    async def threaded(session: AsyncSession) -> None:
        begun.set()
        await stopping.wait()
        await leave_effect(session)
        await asyncio.to_thread(threading.get_ident)

    enqueue(database, threaded)
    told, begun = Told(), asyncio.Event()

    async def tell(worker: Worker) -> None:
        while worker.state != "stopping":  # noqa: ASYNC110 - of no event loop
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)
        stopping.set()

    async def application() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        engine = async_engine(database)
        async with Worker(jobs, database.engine, async_sessionmaker=engine, **told.hooks) as worker:
            await begun.wait()
            telling = asyncio.create_task(tell(worker))
        await telling
        await engine.dispose()

    asyncio.run(application())
    assert database.rows(STATES) == [("succeeded", 1)]
    assert told.next().error is None


def test_threads_that_jobs_have_taken_keep_nobody_from_the_loop(jobs: Jobs[Job], database: Database) -> None:
    """What timed out has left a thread behind: the hooks are told all the same, and there is room again."""
    gate, told = threading.Event(), Told()

    @jobs.task(name="hangs", timeout=timedelta(milliseconds=50), retry=NEVER)
    async def hangs(_: AsyncSession) -> None:
        await asyncio.to_thread(gate.wait, PATIENCE)

    enqueue(database, hangs, times=5)

    async def application() -> None:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
        engine = async_engine(database)
        options: dict[str, Any] = {"concurrency": 2, **told.hooks}
        async with Worker(jobs, database.engine, async_sessionmaker=engine, **options):
            try:
                while len(told.calls) < 10 and not gate.is_set():  # noqa: ASYNC110 - of no event loop
                    await asyncio.sleep(0.01)
            finally:
                gate.set()
        await engine.dispose()

    async def in_time() -> None:
        await asyncio.wait_for(application(), PATIENCE / 2)

    asyncio.run(in_time())
    assert database.rows(STATES) == [("failed", 5)]
