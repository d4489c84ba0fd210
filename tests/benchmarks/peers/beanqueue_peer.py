"""The nearest relative: SQLAlchemy models, SKIP LOCKED, the job's Session."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import Engine, create_engine, make_url
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import SingletonThreadPool

from tests.benchmarks.base import Peer, pace, ready, timed


class BeanQueuePeer(Peer):
    exactly_once = "yes in its sequential mode: one transaction"
    remaining = "SELECT count(*) FROM bq_tasks WHERE state IN ('PENDING', 'PROCESSING')"
    succeeded = "SELECT count(*) FROM bq_tasks WHERE state = 'DONE'"
    table = "bq_tasks"
    finished = {"state": "'DONE'::taskstate"}

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.note = f"sequential, BATCH_SIZE={batch}, psycopg2, whose poll() it calls"

    @staticmethod
    def _engine(dsn: str, **options: Any) -> Engine:
        return create_engine(make_url(dsn).set(drivername="postgresql+psycopg2"), **options)

    def install(self, dsn: str) -> None:
        import bq.models  # noqa: F401 -- its tables
        from bq.db.base import Base

        Base.metadata.create_all(self._engine(dsn))

    def _one(self, dsn: str) -> Callable[[int], None]:
        from tests.benchmarks.peers.beanqueue_tasks import noop

        new_session = sessionmaker(self._engine(dsn))

        def one(n: int) -> None:
            with new_session.begin() as session:
                session.add(noop.run(n=n))

        return one

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        one = self._one(dsn)
        one(-1)
        return timed(lambda: [one(n) for n in ns])

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        return pace(self._one(dsn), ns, interval)

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        from tests.benchmarks.peers.beanqueue_tasks import noop

        new_session = sessionmaker(self._engine(dsn))

        def go() -> None:
            with new_session.begin() as session:
                session.add_all([noop.run(n=n) for n in ns])

        return timed(go)

    def work(self, dsn: str) -> None:
        from tests.benchmarks.peers.beanqueue_tasks import app

        app.config = app.config.model_copy(update={"BATCH_SIZE": self.batch})
        app._engine = self._engine(dsn, poolclass=SingletonThreadPool)
        ready()
        app.process_tasks(channels=("default",))
