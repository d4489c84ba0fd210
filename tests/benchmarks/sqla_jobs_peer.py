"""sqla_jobs as one of the queues that are compared, as it is shipped: nothing is switched off.

It needs nothing from here but `base`, so that a harness of another project can use a copy of it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any

from sqlalchemy import BigInteger, Engine, create_engine, insert, make_url
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqla_jobs import Finished, Job, Jobs, Worker
from sqla_jobs.cli.pool import ping_after_a_pause

from .base import Peer, hooks, order, pace, ready, timed


class Base(DeclarativeBase):
    pass


class Effect(Base):
    __tablename__ = "effects"

    job_id: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)


EFFECT = insert(Effect.__table__)  # type: ignore[arg-type]


class SqlaJobs(Peer):
    exactly_once = "yes: one transaction"
    remaining = "SELECT count(*) FROM sqla_jobs WHERE state IN ('scheduled', 'queued', 'running')"
    succeeded = "SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'"
    table = "sqla_jobs"
    finished = {
        "state": "'succeeded'",
        "attempt": "1",
        "claim": "1",
        "started_at": "now()",
        "finished_at": "now()",
    }
    scheduled = {"state": "'scheduled'", "run_at": "now() + interval '30 days'"}
    ahead = {"run_at": "run_at - interval '1 day'"}
    """Columns of jobs that come before all others, to be put into one of two places."""
    paused = {"queue": "'paused'"}
    pause = ("INSERT INTO sqla_jobs_queues (name, paused_at) VALUES ('paused', now())",)
    of_others = {"arguments": """'{"n": -1}'"""}
    indexes = tuple(
        f"CREATE INDEX ON sqla_jobs ({order}) "
        "WHERE state = 'queued' AND (CAST((arguments ->> 'n') AS INTEGER) >= 0)"
        for order in ("priority DESC, run_at, id", "queue, priority DESC, run_at, id")
    )
    """As a worker of that filter asks for them."""
    rescue = "at once where session locks work, else 30 s after the last heartbeat"

    def __init__(
        self, threads: int = 1, notify: str | bool | None = None, group_commit: int | None = None
    ) -> None:
        self.threads = threads
        told: dict[str, Any] = {} if notify is None else {"notify": notify}
        self.jobs: Jobs[Job] = Jobs(**told)
        options: dict[str, Any] = {} if group_commit is None else {"group_commit": group_commit}
        self.task = self.jobs.task(name="bench.noop", **options)(_noop)
        lane = f"fast lane, groups of up to {group_commit}" if group_commit else "ordinary lane"
        self.note = (
            f"one process, {threads} thread(s), {lane}; arguments, hooks and a line of log for each job"
        )

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
        return self._at_once(dsn, ns, lambda session, made: session.add_all(made))

    def enqueue_many(self, dsn: str, ns: Iterable[int]) -> float:
        many: Callable[..., object] = getattr(self.jobs, "enqueue_many")  # noqa: B009 -- may not be there
        return self._at_once(dsn, ns, many)

    def _at_once(self, dsn: str, ns: Iterable[int], enqueue: Callable[[Session, Any], object]) -> float:
        engine = _engine(dsn)
        engine.connect().close()

        def go() -> None:
            with Session(engine) as session, session.begin():
                enqueue(session, [self.task.job(n) for n in ns])

        return timed(go)

    def work(self, dsn: str) -> None:
        # As `sqla-jobs worker` does: a line for each job, and a connection that is asked after a pause.
        shape = "%(asctime)s %(levelname)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=shape, force=True)
        engine = _engine(dsn)
        ping_after_a_pause(engine)
        options: dict[str, Any] = {"where": Job.arguments["n"].as_integer() >= 0} if order.filtered else {}
        worker = Worker(self.jobs, engine, threads=self.threads, on_finish=_on_finish, **options)
        ready()
        worker.run()


def has_fast_lane() -> bool:
    return "group_commit" in inspect.signature(Jobs.task).parameters


def has_filters() -> bool:
    return "where" in inspect.signature(Worker).parameters


def has_enqueue_many() -> bool:
    return hasattr(Jobs, "enqueue_many")


def _noop(session: Session, n: int) -> None:
    hooks.tick(n)
    if hooks.mode == "add":
        session.add(Effect(job_id=n))
    elif hooks.effect:
        session.execute(EFFECT, {"job_id": n})


ends: dict[str, int] = {}


def _on_finish(_: Worker, finished: Finished) -> None:
    ends[finished.state] = ends.get(finished.state, 0) + 1


def _engine(dsn: str, **options: Any) -> Engine:
    url = make_url(dsn).set(drivername="postgresql+psycopg")
    return create_engine(url, pool_size=20, **options)
