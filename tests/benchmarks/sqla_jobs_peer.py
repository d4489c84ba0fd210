"""sqla_jobs as one of the queues that a benchmark compares, as it is shipped: nothing is switched off.

The benchmark has a package `peers` with a module `base`, which says what each queue must do and counts the
runs of the jobs. Copy this file there, and name it in its `__init__`:

    "sqla_jobs": ("sqla_jobs_peer", "SqlaJobs", {}),
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Finished, Job, Jobs, Worker

try:
    from .base import Peer, hooks, pace, ready, timed
except ImportError:  # where it is kept, not where it runs
    if not TYPE_CHECKING:
        Peer, hooks, pace, ready, timed = object, None, None, None, None

EFFECT = text("INSERT INTO effects (job_id) VALUES (:n)")


class SqlaJobs(Peer):
    exactly_once = "yes (one transaction)"
    remaining = "SELECT count(*) FROM sqla_jobs WHERE state IN ('scheduled', 'queued', 'running')"
    table = "sqla_jobs"
    finished = {
        "state": "'succeeded'",
        "attempt": "1",
        "claim": "1",
        "started_at": "now()",
        "finished_at": "now()",
    }
    rescue = "at once where session locks work, else 30 s after the last heartbeat"

    def __init__(self, threads: int = 1, notify: str | bool | None = None) -> None:
        self.threads = threads
        options: dict[str, Any] = {} if notify is None else {"notify": notify}
        self.jobs: Jobs[Job] = Jobs(**options)
        self.task = self.jobs.task(name="bench.noop")(_noop)
        self.note = f"one process, {threads} thread(s), a commit for each claim and each job"

    def install(self, dsn: str) -> None:
        self.jobs.create_all(_engine(dsn))

    def _one(self, dsn: str) -> Callable[[int], None]:
        new_session = sessionmaker(_engine(dsn))

        def one(n: int) -> None:
            with new_session.begin() as session:
                self.task.enqueue(session, n)

        return one

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        one = self._one(dsn)
        one(-1)
        return timed(lambda: [one(n) for n in ns])

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        return pace(self._one(dsn), ns, interval)

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        engine = _engine(dsn)
        engine.connect().close()

        def go() -> None:
            with Session(engine) as session, session.begin():
                session.add_all([self.task.job(n) for n in ns])

        return timed(go)

    def work(self, dsn: str) -> None:
        # As `sqla-jobs worker` does: a line for each job, and a connection that is asked before it is used.
        shape = "%(asctime)s %(levelname)s %(message)s"
        logging.basicConfig(level=logging.INFO, format=shape, force=True)
        worker = Worker(
            self.jobs, _engine(dsn, pool_pre_ping=True), threads=self.threads, on_finish=_on_finish
        )
        ready()
        worker.run()


def _noop(session: Session, n: int) -> None:
    hooks.tick(n)
    if hooks.effect:
        session.execute(EFFECT, {"n": n})


ends: dict[str, int] = {}


def _on_finish(_: Worker, finished: Finished) -> None:
    ends[finished.state] = ends.get(finished.state, 0) + 1


def _engine(dsn: str, **options: Any) -> Engine:
    url = make_url(dsn).set(drivername="postgresql+psycopg")
    return create_engine(url, pool_size=20, **options)
