from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import procrastinate
import psycopg_pool

from tests.benchmarks.base import Peer, hooks, pace, ready, timed
from tests.benchmarks.limit import EFFECT


class Procrastinate(Peer):
    exactly_once = "no: at least once"
    remaining = "SELECT count(*) FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    succeeded = "SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'"
    table = "procrastinate_jobs"
    finished = {"status": "'succeeded'::procrastinate_job_status"}

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.note = f"async task, concurrency={concurrency}, psycopg pools of 10"

    def _client(self, dsn: str) -> tuple[Any, Any]:
        app = procrastinate.App(connector=procrastinate.SyncPsycopgConnector(conninfo=dsn))
        return app, app.task(name="noop", queue="default")(lambda n: None)

    def install(self, dsn: str) -> None:
        app, _ = self._client(dsn)
        with app.open():
            app.schema_manager.apply_schema()

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        app, noop = self._client(dsn)
        with app.open():
            noop.defer(n=-1)
            return timed(lambda: [noop.defer(n=n) for n in ns])

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        app, noop = self._client(dsn)
        with app.open():
            return pace(lambda n: noop.defer(n=n), ns, interval)

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        app, noop = self._client(dsn)
        with app.open():
            return timed(lambda: noop.batch_defer(*[{"n": n} for n in ns]))

    def work(self, dsn: str) -> None:
        asyncio.run(self._work(dsn))

    async def _work(self, dsn: str) -> None:
        connector = procrastinate.PsycopgConnector(conninfo=dsn, min_size=10, max_size=10)
        app = procrastinate.App(connector=connector)
        pool: Any = None

        @app.task(name="noop", queue="default")
        async def noop(n: int) -> None:
            hooks.tick(n)
            if pool is not None:
                async with pool.connection() as connection:
                    await connection.execute(EFFECT, (n,))

        async with app.open_async():
            if hooks.effect:
                pool = psycopg_pool.AsyncConnectionPool(
                    dsn, min_size=10, max_size=10, open=False, kwargs={"autocommit": True}
                )
                await pool.open(wait=True)
            await asyncio.to_thread(ready)
            await app.run_worker_async(concurrency=self.concurrency, install_signal_handlers=False)
