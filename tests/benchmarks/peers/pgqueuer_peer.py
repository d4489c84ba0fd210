from __future__ import annotations

import asyncio
from collections.abc import Iterable

import asyncpg
import uvloop
from pgqueuer import PgQueuer as App
from pgqueuer.db import AsyncpgDriver
from pgqueuer.models import Job
from pgqueuer.queries import Queries

from tests.benchmarks.base import Peer, apace, atimed, hooks, ready


class PgQueuer(Peer):
    exactly_once = "no: at least once"
    remaining = "SELECT count(*) FROM pgqueuer"
    table = "pgqueuer"

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.note = f"asyncpg and uvloop, batch_size={batch}, an asyncpg pool of 10 for the jobs"

    @staticmethod
    async def _queries(dsn: str) -> Queries:
        return Queries(AsyncpgDriver(await asyncpg.connect(dsn)))

    def install(self, dsn: str) -> None:
        async def run() -> None:
            await (await self._queries(dsn)).install()

        asyncio.run(run())

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        async def run() -> float:
            queries = await self._queries(dsn)
            await queries.enqueue("noop", b"-1")

            async def each() -> None:
                for n in ns:
                    await queries.enqueue("noop", b"%d" % n)

            return await atimed(each)

        return asyncio.run(run())

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        async def run() -> list[tuple[int, float]]:
            queries = await self._queries(dsn)
            return await apace(lambda n: queries.enqueue("noop", b"%d" % n), ns, interval)

        return asyncio.run(run())

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        async def run() -> float:
            queries = await self._queries(dsn)
            numbers = list(ns)
            payloads: list[bytes | None] = [b"%d" % n for n in numbers]
            return await atimed(
                lambda: queries.enqueue(["noop"] * len(numbers), payloads, [0] * len(numbers))
            )

        return asyncio.run(run())

    def work(self, dsn: str) -> None:
        uvloop.run(self._work(dsn))

    async def _work(self, dsn: str) -> None:
        pool = await asyncpg.create_pool(dsn, min_size=10, max_size=10) if hooks.effect else None
        app = App(AsyncpgDriver(await asyncpg.connect(dsn)))

        @app.entrypoint("noop")
        async def noop(job: Job) -> None:
            n = int(job.payload or b"")
            hooks.tick(n)
            if pool is not None:
                await pool.execute("INSERT INTO effects (job_id) VALUES ($1)", n)

        await asyncio.to_thread(ready)
        await app.run(batch_size=self.batch)
