"""Groups whose jobs change the same rows in opposite orders: nobody's fault, so no attempt is spent on it.

A group holds the locks of all its jobs until it commits: two of them may wait for each other although no two
of their jobs do.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker, current_job
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import RERUNS, Finished, Groups, Pace, group
from sqla_jobs.scope import Interrupter
from sqla_jobs.worker.crew import Crew, Running
from tests.support.lane import AT_ONCE, NEVER, Lane, leave_effect, logged
from tests.support.server import Database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON

ITEMS = ("one", "two")
DEADLOCKS = "SELECT deadlocks > 0 FROM pg_stat_database WHERE datname = current_database()"


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """An engine whose connections find a deadlock soon."""
    database.execute("INSERT INTO items (name) VALUES ('one'), ('two')")
    options = "-c deadlock_timeout=20ms"
    engine = create_engine(database.url, pool_size=10, connect_args={"options": options})
    yield engine
    engine.dispose()


def change(session: Session, name: str) -> None:
    session.execute(text("UPDATE items SET name = name WHERE name = :name"), {"name": name})


def work(lane: Lane, queue: str, pace: Pace) -> Claimed | list[Finished] | None:
    groups = Groups(lane.runner, begins=lambda _: Interrupter(), may_go_on=lambda: True)
    return groups.work(lane.worker_id, [queue], pace)


def test_two_groups_that_wait_for_each_other(
    database: Database, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One goes on; the other has all jobs but the one that met it, which runs again, by itself."""
    monkeypatch.setattr(group, "BUDGET", float(PATIENCE))
    jobs, met = Jobs(), threading.Barrier(2)
    ran: list[int] = []

    @jobs.task(name="cross", retry=NEVER, group_commit=10, timeout=dt.timedelta(minutes=1))
    def cross(session: Session, name: str, first: bool) -> None:
        ran.append(current_job().id)
        leave_effect(session)
        change(session, name)
        if first:
            met.wait(PATIENCE)

    lanes = [Lane(database, engine, jobs) for _ in ITEMS]
    paces = [Pace(size=8) for _ in ITEMS]
    for queue, names in (("a", ITEMS), ("b", ITEMS[::-1])):
        for name in names:
            lanes[0].enqueue(cross, name, name == names[0], queue=queue)
    with ThreadPoolExecutor(2) as threads:
        ended = list(threads.map(work, lanes, ("a", "b"), paces))
    assert sorted(len(each) for each in ended if isinstance(each, list)) == [1, 2]
    assert sorted(ran) == [1, 2, 3, 4]
    loser = min((0, 1), key=lambda place: len(ended[place]))  # type: ignore[arg-type]
    assert [pace.alone for pace in paces] == [1 - loser, loser]
    # As if it had not begun: free for anyone, and nothing is counted.
    left = 2 * loser + 2
    row = lanes[0].row(left)
    assert (row.state, row.attempt, row.claim, row.attempts) == ("queued", 0, 0, [])
    assert lanes[0].effects(left) == 0
    finished = lanes[loser].run()
    assert finished is not None
    for job in (1, 2, 3, 4):
        row = lanes[0].row(job)
        assert (row.state, row.attempt, row.crashes) == ("succeeded", 1, 0)
        assert lanes[0].effects(job) == 1


@pytest.mark.timeout(180)
def test_workers_whose_groups_meet_again_and_again_all_come_through(
    database: Database, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Until each has changed both rows, in either order, many times."""
    jobs: Jobs[Job] = Jobs()
    ran: list[int] = []
    number = 200

    @jobs.task(name="cross", retry=AT_ONCE, group_commit=10)
    def cross(session: Session, names: list[str]) -> None:
        ran.append(current_job().id)
        leave_effect(session)
        change(session, names[current_job().id % 2])
        change(session, names[1 - current_job().id % 2])

    with database.sessionmaker.begin() as session:
        jobs.enqueue_many(session, [cross.job(list(ITEMS)) for _ in range(number)])
    told = Told()
    workers = [
        Worker(jobs, engine, threads=2, poll_interval=SOON, drain=True, **told.hooks) for _ in range(2)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        assert worker.join(PATIENCE * 3), "the jobs do not come to their end"
    found = database.rows("SELECT state, crashes, count(*) FROM sqla_jobs GROUP BY 1, 2")
    assert found == [("succeeded", 0, number)]
    # In its group a job has met one of them at most. Then it ran by itself, and again, before that counted.
    runs = Counter(ran)
    for row in database.rows("SELECT id, attempt FROM sqla_jobs WHERE attempt > 1"):
        assert runs[row.id] >= row.attempt + (row.attempt - 1) * RERUNS
    counted = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert counted == [(number, number)]
    until(database, DEADLOCKS)
    # Each is told of, also where a thread was at a job before another one had let go of it.
    assert {job for hook, job in told.calls if hook == "finish"} == {*range(1, number + 1)}
    assert not [said for said in logged(caplog) if said.startswith("claiming")]


def test_a_thread_lets_go_of_a_job_that_another_one_runs_already() -> None:
    """A group's commit frees its rows before the thread has said that it runs none of them any more."""
    now = dt.datetime.now(dt.timezone.utc)
    job = Claimed(1, "t", {}, "default", 0, 0, None, 0, 7, 0, now, now, now)
    crew = Crew()
    one, other = Running(job), Running(job)
    crew.passes(None, one)
    crew.passes(None, other)
    crew.passes(one, None)
    assert [each is other for each in crew.running()] == [True]
    crew.passes(other, None)
    assert crew.running() == []
