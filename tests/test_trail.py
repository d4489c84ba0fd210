"""Where the next claim may begin to look: the low-water mark of a worker that is busy."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.runner import trail
from tests.support.server import Database
from tests.support.work import PATIENCE

LANES: Any = pytest.mark.parametrize("lane", [{}, {"group_commit": 1}], ids=["ordinary", "fast"])
NEVER = timedelta(hours=1)


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """The worker's own, so that what is listened to is not the test's."""
    engine = create_engine(database.url)
    yield engine
    engine.dispose()


class Busy:
    """A worker in the middle of a backlog, which stands still while the test does something.

    The clock of its marks is the test's.
    """

    def __init__(
        self, database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch, lane: dict[str, Any]
    ) -> None:
        self.now = 0.0
        clock = type("Clock", (), {"monotonic": staticmethod(lambda: self.now)})
        monkeypatch.setattr(trail, "time", clock)
        self.database = database
        self.jobs: Jobs[Job] = Jobs(notify=False)
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.order: list[int] = []
        self.task = self.jobs.task(name="t", timeout=timedelta(hours=1), **lane)(self._run)
        self.marked = 0
        event.listen(engine, "before_cursor_execute", self._look)
        self.worker = Worker(self.jobs, engine, poll_interval=timedelta(milliseconds=50))

    def _run(self, session: Session, n: int) -> None:
        session.execute(text("SELECT 1"))
        self.order.append(n)
        self.begun.release()
        assert self.go_on.acquire(timeout=PATIENCE)

    def _look(self, *arguments: Any) -> None:
        self.marked += "mark_id" in str(arguments[2]) and "picked" in str(arguments[2])

    def enqueue(self, *numbers: int, **options: Any) -> None:
        with self.database.sessionmaker.begin() as session:
            for n in numbers:
                self.task.using(**options).enqueue(session, n)

    def step(self, number: int = 1) -> None:
        """Let so many jobs end, and as many begin."""
        for _ in range(number):
            self.go_on.release()
            assert self.begun.acquire(timeout=PATIENCE)

    def end(self, number: int) -> None:
        """Let the rest end, of so many in all."""
        while len(self.order) < number:
            self.step()
        self.go_on.release()
        self.worker.stop()
        assert self.worker.join(PATIENCE)


@pytest.fixture
def busy(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Busy]:
    busy = Busy(database, engine, monkeypatch, request.param)
    busy.enqueue(*range(10))
    busy.worker.start()
    assert busy.begun.acquire(timeout=PATIENCE)
    busy.step(3)
    yield busy
    for _ in range(100):
        busy.go_on.release()
    busy.worker.stop()
    busy.worker.join(PATIENCE)


lanes: Any = pytest.mark.parametrize(
    "busy", [{}, {"group_commit": 1}], ids=["ordinary", "fast"], indirect=True
)


@lanes
def test_a_busy_worker_looks_behind_its_mark(busy: Busy) -> None:
    busy.end(10)
    assert busy.order == list(range(10))
    assert busy.marked >= 6


@lanes
@pytest.mark.parametrize("what", ["of a higher priority", "tried again", "rolled back"])
def test_what_comes_before_the_mark_waits_a_second_at_most(busy: Busy, what: str) -> None:
    if what == "of a higher priority":
        busy.enqueue(99, priority=1)
    else:
        # Its time to run is that of a job which was enqueued before all others.
        busy.enqueue(99)
        busy.database.execute(
            "UPDATE sqla_jobs SET run_at = now() - interval '1 hour' WHERE arguments ->> 'n' = '99'"
        )
    busy.step(2)
    assert 99 not in busy.order
    busy.now += trail.BLIND + 0.01
    busy.step(2)  # the next may be claimed already
    assert 99 in busy.order
    busy.end(11)
    assert sorted(busy.order) == [*range(10), 99]


@lanes
def test_what_the_worker_was_told_of_waits_a_tenth(busy: Busy) -> None:
    busy.enqueue(99, priority=1)
    busy.worker._crew.hear()
    busy.now += trail.BLIND_TO_NEWS + 0.01
    busy.step(2)
    assert 99 in busy.order
    busy.end(11)


@lanes
def test_at_the_end_of_the_backlog_all_is_looked_through(busy: Busy) -> None:
    busy.enqueue(99, priority=1)
    busy.end(11)
    assert busy.order[-1] == 99


def test_a_worker_that_drains_has_no_mark(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(database, engine, monkeypatch, {})
    busy.worker = Worker(busy.jobs, engine, drain=True)
    busy.enqueue(*range(5))
    busy.worker.start()
    for _ in range(100):
        busy.go_on.release()
    assert busy.worker.join(PATIENCE)
    assert busy.marked == 0
    assert busy.order == list(range(5))


def test_with_several_queues_only_the_first_is_looked_through_from_a_mark(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    busy = Busy(database, engine, monkeypatch, {})
    busy.worker = Worker(
        busy.jobs, engine, queues=["first", "second"], poll_interval=timedelta(milliseconds=50)
    )
    busy.enqueue(*range(5), queue="second")
    busy.worker.start()
    assert busy.begun.acquire(timeout=PATIENCE)
    busy.step()
    busy.enqueue(99, queue="first")
    busy.step(2)  # the next may be claimed already
    assert 99 in busy.order
    busy.end(6)
