from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import uvloop
from oban import Oban, worker
from oban.schema import install as install_schema

from tests.benchmarks.base import Peer, apace, atimed, hooks, ready
from tests.benchmarks.limit import EFFECT

pools: list[Any] = []
"""The worker's, once it works."""


@worker(queue="default")
class Noop:
    async def process(self, job: Any) -> None:
        n = job.args["n"]
        hooks.tick(n)
        if hooks.effect:
            async with pools[0].connection() as connection:
                await connection.execute(EFFECT, (n,))


def new(n: int) -> Any:
    make: Any = Noop
    return make.new({"n": n})


class ObanPeer(Peer):
    exactly_once = "no: at least once"
    remaining = (
        "SELECT count(*) FROM oban_jobs"
        " WHERE state IN ('available', 'executing', 'scheduled', 'retryable', 'suspended')"
    )
    succeeded = "SELECT count(*) FROM oban_jobs WHERE state = 'completed'"
    table = "oban_jobs"
    finished = {"state": "'completed'::oban_job_state", "completed_at": "now()"}

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.note = f"queue limit {concurrency}, its own psycopg pool of 10 for queue and jobs, uvloop"

    def install(self, dsn: str) -> None:
        async def run() -> None:
            await install_schema(await Oban.create_pool(dsn))

        asyncio.run(run())

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        async def run() -> float:
            oban = Oban(pool=await Oban.create_pool(dsn))
            await oban.enqueue(new(-1))

            async def each() -> None:
                for n in ns:
                    await oban.enqueue(new(n))

            return await atimed(each)

        return asyncio.run(run())

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        async def run() -> list[tuple[int, float]]:
            oban = Oban(pool=await Oban.create_pool(dsn))
            return await apace(lambda n: oban.enqueue(new(n)), ns, interval)

        return asyncio.run(run())

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        async def run() -> float:
            oban = Oban(pool=await Oban.create_pool(dsn))
            jobs = [new(n) for n in ns]
            return await atimed(lambda: oban.enqueue_many(jobs))

        return asyncio.run(run())

    def work(self, dsn: str) -> None:
        uvloop.run(self._work(dsn))

    async def _work(self, dsn: str) -> None:
        pool = await Oban.create_pool(dsn, min_size=10, max_size=10)
        pools.append(pool)
        oban = Oban(pool=pool, queues={"default": self.concurrency})
        await asyncio.to_thread(ready)
        await oban.start()
        await asyncio.Event().wait()
