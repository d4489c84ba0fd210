"""Two who enqueue the same at once, and one who enqueues while the holder ends, in a staged order."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, lifecycle
from sqla_jobs.errors import DuplicateJob
from sqla_jobs.outcome import decide
from tests.support.lane import Lane, leave_effect
from tests.support.server import Database
from tests.support.waiting import until
from tests.support.work import PATIENCE

WAITS = """
    SELECT count(*) = 1 FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock'
"""


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.fixture(params=["insert", "savepoint", "many"])
def enqueue(request: pytest.FixtureRequest, jobs: Jobs[Job]) -> Callable[..., tuple[int, bool]]:
    """The ways in which a job is enqueued; each returns its id, and whether it was there before."""
    task = jobs.task(name="t")(leave_effect).using(unique_key="k")

    def insert(session: Session) -> tuple[int, bool]:
        made = task.enqueue(session)
        return made.id, made.duplicate

    def savepoint(session: Session) -> tuple[int, bool]:
        made = lifecycle.enqueue_unique(session, task.job(), lifecycle.enqueue_in_savepoint)
        return made.id, made.duplicate

    def many(session: Session) -> tuple[int, bool]:
        before = session.scalar(text("SELECT max(id) FROM sqla_jobs"))
        (made,) = jobs.enqueue_many(session, [task.job()])
        return made, before is not None and made <= before

    chosen: Callable[..., tuple[int, bool]] = {"insert": insert, "savepoint": savepoint, "many": many}[
        request.param
    ]
    return chosen


def second(database: Database, enqueue: Callable[[Session], Any]) -> Any:
    """Enqueue in a transaction that has done something else before, and goes on after it."""
    with database.sessionmaker.begin() as session:
        session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('before')"))
        made = enqueue(session)
        session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('after')"))
    return made


@pytest.mark.parametrize("commits", [True, False])
def test_the_second_waits_for_the_first(
    commits: bool, enqueue: Callable[..., tuple[int, bool]], database: Database, pool: ThreadPoolExecutor
) -> None:
    with database.sessionmaker() as session:
        first, _ = enqueue(session)
        other: Future[tuple[int, bool]] = pool.submit(second, database, enqueue)
        until(database, WAITS)
        session.commit() if commits else session.rollback()
    made, _ = other.result(PATIENCE)
    assert (made == first) is commits
    found = database.rows("SELECT task, count(*) FROM sqla_jobs GROUP BY task ORDER BY task")
    assert [tuple(each) for each in found] == [("after", 1), ("before", 1), ("t", 1)]


@pytest.mark.parametrize("moment", ["unique_key = given.key", "where sqla_jobs.id = "])
def test_the_holder_ends_between_the_insert_and_the_look(
    moment: str, jobs: Jobs[Job], database: Database
) -> None:
    """It was a duplicate, and is none any more when its id is looked for, or when it is read."""
    lane = Lane(database, jobs=jobs)
    task = jobs.task(name="t")(leave_effect)
    first = lane.enqueue(task, unique_key="k")
    claimed = lane.claim()
    looks: list[str] = []

    def finish_first(_: Any, __: Any, statement: str, *___: Any) -> None:
        if moment in " ".join(statement.lower().split()):
            looks.append(statement)
            if len(looks) == 1:
                with database.sessionmaker.begin() as other:
                    done = decide(None, None, lambda _: None)
                    assert lifecycle.finish(other, Job, claimed, done)

    with database.sessionmaker.begin() as session:
        connection = session.connection()
        event.listen(connection, "before_cursor_execute", finish_first)
        made = task.using(unique_key="k").enqueue(session)
        event.remove(connection, "before_cursor_execute", finish_first)
        assert (made.duplicate, len(looks)) == (False, 1)
        assert made.id > first


@pytest.mark.parametrize("way", ["insert", "many"])
def test_who_enqueues_while_the_holder_is_finished_waits_for_that(
    way: str, jobs: Jobs[Job], database: Database, pool: ThreadPoolExecutor
) -> None:
    lane = Lane(database, jobs=jobs)
    task = jobs.task(name="t")(leave_effect)
    first = lane.enqueue(task, unique_key="k")
    claimed = lane.claim()
    keyed = task.using(unique_key="k")

    def enqueue(session: Session) -> int:
        return keyed.enqueue(session).id if way == "insert" else jobs.enqueue_many(session, [keyed.job()])[0]

    with database.sessionmaker() as session:
        assert lifecycle.finish(session, Job, claimed, decide(None, None, lambda _: None))
        other: Future[int] = pool.submit(second, database, enqueue)
        until(database, WAITS)
        session.commit()
    assert other.result(PATIENCE) > first


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_holder_that_a_snapshot_does_not_show(level: str, jobs: Jobs[Job], database: Database) -> None:
    """By the savepoint, since ON CONFLICT ends such a transaction by 40001: nothing can be returned."""
    keyed = jobs.task(name="t")(leave_effect).using(unique_key="k")
    with database.sessionmaker() as session:
        session.connection(execution_options={"isolation_level": level})
        session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('before')"))
        with database.sessionmaker.begin() as other:
            keyed.enqueue(other)
        with pytest.raises(DuplicateJob, match="a job that this transaction does not see"):
            lifecycle.enqueue_unique(session, keyed.job(), lifecycle.enqueue_in_savepoint)
        session.commit()
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE task = 'before'") == 1


def test_many_at_once_in_any_order_never_block_each_other(jobs: Jobs[Job], database: Database) -> None:
    """Two transactions take the same hundred keys, one forwards and one backwards."""
    task = jobs.task(name="t")(leave_effect)
    start = threading.Barrier(2)

    def enqueue(order: range) -> list[int]:
        with database.sessionmaker.begin() as session:
            start.wait(PATIENCE)
            made = jobs.enqueue_many(session, [task.using(unique_key=str(n)).job() for n in order])
        return made

    with ThreadPoolExecutor(2) as both:
        one = both.submit(enqueue, range(100))
        two = both.submit(enqueue, range(99, -1, -1))
        assert one.result(PATIENCE) == two.result(PATIENCE)[::-1]
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 100


def test_a_fast_lane_task_whose_job_lets_go_when_it_begins_takes_the_other_lane(
    jobs: Jobs[Job], database: Database
) -> None:
    """Enqueued by a program that does not know of the lane; in a group nobody would see it begin."""
    lane = Lane(database, jobs=jobs)
    task = lane.task(leave_effect, group_commit=5)
    with database.sessionmaker.begin() as session:
        elsewhere = Jobs().using(unique_key="k", unique_scope="queued")
        queued = elsewhere.enqueue(session, task.name).id
        active = task.using(unique_key="k2").enqueue(session).id
    with database.engine.begin() as connection:
        given = lifecycle.claim_either(connection, Job, lane.worker_id, None, [task.name])
    assert given is not None
    assert (given[0].id, given[1], lane.row(queued).unique_held) == (queued, True, False)
    with database.engine.begin() as connection:
        given = lifecycle.claim_either(connection, Job, lane.worker_id, None, [task.name])
        assert given is not None
        assert (given[0].id, given[1]) == (active, False)
        with database.sessionmaker.begin() as session:
            joins = elsewhere.enqueue(session, task.name).id
        assert lifecycle.join(connection, Job, given[0], None, [task.name], 5) == []
        assert lifecycle.finish_group(connection, Job, [given[0]])
    assert (lane.row(active).unique_held, lane.row(joins).unique_held) == (False, True)


def test_a_thousandth_of_a_second_of_patience_is_enough(jobs: Jobs[Job], database: Database) -> None:
    """A duplicate of what is committed waits for nobody, also while its row is locked."""
    keyed = jobs.task(name="t")(leave_effect).using(unique_key="k")
    with database.sessionmaker.begin() as session:
        first = keyed.enqueue(session).id
    with database.engine.connect() as locker, database.sessionmaker.begin() as session:
        locker.execute(text("SELECT id FROM sqla_jobs FOR NO KEY UPDATE"))
        session.execute(text("SET LOCAL lock_timeout = '1ms'"))
        assert keyed.using(delay=timedelta(hours=1)).enqueue(session).id == first
