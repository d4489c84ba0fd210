from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from typing import Any

import psycopg_pool
from chancy import Chancy, Job, Queue, Worker

from tests.benchmarks.base import Peer, hooks, pace, ready, timed
from tests.benchmarks.limit import EFFECT

log = logging.getLogger("chancy")
log.setLevel(logging.ERROR)
pools: list[Any] = []
"""The worker's, once it works."""


async def noop(*, n: int) -> None:
    hooks.tick(n)
    if hooks.effect:
        async with pools[0].connection() as connection:
            await connection.execute(EFFECT, (n,))


def new(n: int) -> Any:
    return Job.from_func(noop, kwargs={"n": n})


class ChancyPeer(Peer):
    exactly_once = "no: at least once"
    remaining = "SELECT count(*) FROM chancy_jobs WHERE state IN ('pending', 'running', 'retrying')"
    succeeded = "SELECT count(*) FROM chancy_jobs WHERE state = 'succeeded'"
    table = "chancy_jobs"
    finished = {"state": "'succeeded'", "completed_at": "now()"}

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.note = (
            f"async executor, concurrency={concurrency}, eager_polling; it writes results once a second; "
            "a psycopg pool of 10 for the jobs"
        )

    def install(self, dsn: str) -> None:
        async def run() -> None:
            async with Chancy(dsn, log=log) as chancy:
                await chancy.migrate()
                executor = Chancy.Executor.Async
                await chancy.declare(
                    Queue("default", executor=executor, concurrency=self.concurrency, eager_polling=True)
                )

        asyncio.run(run())

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        with Chancy(dsn, log=log) as chancy:
            chancy.sync_push(new(-1))
            return timed(lambda: [chancy.sync_push(new(n)) for n in ns])

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        with Chancy(dsn, log=log) as chancy:
            return pace(lambda n: chancy.sync_push(new(n)), ns, interval)

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        with Chancy(dsn, log=log) as chancy:
            jobs = [new(n) for n in ns]
            return timed(lambda: list(chancy.sync_push_many(jobs)))

    def work(self, dsn: str) -> None:
        asyncio.run(self._work(dsn))

    async def _work(self, dsn: str) -> None:
        async with Chancy(dsn, log=log) as chancy:
            if hooks.effect:
                pool = psycopg_pool.AsyncConnectionPool(
                    dsn, min_size=10, max_size=10, open=False, kwargs={"autocommit": True}
                )
                await pool.open(wait=True)
                pools.append(pool)
            await asyncio.to_thread(ready)
            async with Worker(chancy, register_signal_handlers=False) as worker:
                await worker.wait_for_shutdown()
