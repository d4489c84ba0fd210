"""Groups whose jobs change the same rows in opposite orders: nobody's fault, so no attempt is spent on it.

A group holds the locks of all its jobs until it commits: two of them may wait for each other although no two
of their jobs do.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, Worker, current_job
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import Finished, Groups, Pace
from sqla_jobs.scope import Interrupter
from tests.support.lane import NEVER, Lane, leave_effect
from tests.support.server import Database
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


def test_two_groups_that_wait_for_each_other(database: Database, engine: Engine) -> None:
    """One goes on; the other has all jobs but the one that met it, which runs again, by itself."""
    jobs, met = Jobs(), threading.Barrier(2)
    ran: list[int] = []

    @jobs.task(name="cross", retry=NEVER, group_commit=10, timeout=timedelta(minutes=1))
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
    database: Database, engine: Engine
) -> None:
    """Until each has changed both rows, in either order, many times."""
    jobs: Jobs = Jobs()  # type: ignore[type-arg]
    number = 200

    @jobs.task(name="cross", retry=NEVER, group_commit=10)
    def cross(session: Session, names: list[str]) -> None:
        leave_effect(session)
        change(session, names[current_job().id % 2])
        change(session, names[1 - current_job().id % 2])

    with database.sessionmaker.begin() as session:
        jobs.enqueue_many(session, [cross.job(list(ITEMS)) for _ in range(number)])
    workers = [Worker(jobs, engine, threads=2, poll_interval=SOON, drain=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        assert worker.join(PATIENCE * 3), "the jobs do not come to their end"
    found = database.rows("SELECT state, attempt, crashes, count(*) FROM sqla_jobs GROUP BY 1, 2, 3")
    assert found == [("succeeded", 1, 0, number)]
    counted = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert counted == [(number, number)]
    until(database, DEADLOCKS)
