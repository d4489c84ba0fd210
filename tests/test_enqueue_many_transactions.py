"""Jobs out of a generator: in the caller's transaction, beside others, in a job; and who is told of them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Worker
from sqla_jobs.tasks import many
from tests.support.ear import ear
from tests.support.models import Item
from tests.support.server import Database
from tests.support.waiting import blocked, until

jobs = Jobs()


@jobs.task(name="send", queue="mail")
def send(session: Session, number: int) -> None: ...


@jobs.task(name="pack", unique=("order",))
def pack(session: Session, order: int) -> None: ...


@jobs.task(name="send all")
def send_all(session: Session, number: int) -> None:
    ids = jobs.enqueue_many(session, (send.job(each) for each in range(number)))
    session.add(Item(name=f"{len(ids)} sent"))


@pytest.fixture(autouse=True)
def batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few jobs go into a statement."""
    monkeypatch.setattr(many, "BATCH", 4)


def numbers(session: Session) -> list[int]:
    """What the jobs are to send, in the order of their ids."""
    number = Job.arguments["number"].as_integer()
    return list(session.scalars(select(number).order_by(Job.id)))


class NoMore(Exception):
    """The file ends in the middle of a line."""


def ends_early() -> Iterator[Job]:
    yield from map(send.job, range(10))
    raise NoMore


# -- the Session -----------------------------------------------------------------------------------


def test_jobs_for_rows_that_are_read_meanwhile(database: Database) -> None:
    with database.sessionmaker.begin() as session:
        session.add_all(Item(name=str(number)) for number in range(20))
    with database.sessionmaker.begin() as session:
        items = session.scalars(select(Item).order_by(Item.id).execution_options(yield_per=3))
        ids = jobs.enqueue_many(session, (send.job(int(item.name)) for item in items))
        assert len(ids) == 20
        assert numbers(session) == list(range(20))


def test_in_a_scoped_session_and_its_savepoint(database: Database) -> None:
    registry = scoped_session(database.sessionmaker)
    with registry.begin_nested() as savepoint:
        jobs.enqueue_many(registry, (send.job(number) for number in range(9)))
        savepoint.rollback()
    jobs.enqueue_many(registry, (send.job(number) for number in range(9)))
    registry.commit()
    registry.remove()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 9


def test_in_a_job(session: Session) -> None:
    send_all.enqueue(session, 11)
    end = jobs.work_once(session, queues=["default"])
    assert end is not None
    assert end.state is JobState.SUCCEEDED
    assert session.scalar(select(Item.name)) == "11 sent"
    assert session.scalar(select(func.count()).where(Job.task == "send")) == 11


@pytest.mark.parametrize("commits", [True, False])
def test_a_transaction_that_takes_the_same_keys_is_waited_for(database: Database, *, commits: bool) -> None:
    def enqueue(session: Session) -> list[int]:
        return jobs.enqueue_many(session, (pack.job(order) for order in range(10)))

    def second() -> list[int]:
        with database.sessionmaker.begin() as session:
            return enqueue(session)

    with ThreadPoolExecutor(1) as pool, database.sessionmaker() as session:
        ids = enqueue(session)
        other = pool.submit(second)
        until(database, blocked("= 1"))
        session.commit() if commits else session.rollback()
        found = other.result(60)
    assert (found == ids) is commits
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 10


@pytest.mark.parametrize("options", [{}, {"group_commit": 50, "timeout": timedelta(minutes=1)}])
def test_in_jobs_of_a_worker(database: Database, options: dict[str, Any]) -> None:
    """In its savepoint: a job that fails afterwards has enqueued none."""
    registry = Jobs()

    @registry.task(name="send some", queue="first", retry=RetryPolicy(max_attempts=1), **options)
    def send_some(session: Session, number: int) -> None:
        jobs.enqueue_many(session, (send.job(each) for each in range(number)))
        if number == 10:
            raise NoMore

    with database.sessionmaker.begin() as session:
        registry.enqueue_many(session, [send_some.job(number) for number in (9, 10, 11)])
    Worker(registry, database.engine, queues=["first"], drain=True).run()
    rows = database.rows("SELECT task, state, count(*) FROM sqla_jobs GROUP BY 1, 2 ORDER BY 1, 2")
    assert [tuple(row) for row in rows] == [
        ("send", "queued", 20),
        ("send some", "failed", 1),
        ("send some", "succeeded", 2),
    ]


def test_whoever_makes_them_must_not_end_the_transaction(database: Database) -> None:
    def made() -> Iterator[Job]:
        for number in range(10):
            yield send.job(number)
            if number == 6:
                session.rollback()

    with database.sessionmaker() as session, pytest.raises(InvalidRequestError, match="closed transaction"):
        jobs.enqueue_many(session, made())
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_without_a_transaction_it_is_one_statement(database: Database) -> None:
    engine = create_engine(database.url, isolation_level="AUTOCOMMIT")
    with Session(engine) as session:
        with pytest.raises(NoMore):
            jobs.enqueue_many(session, ends_early())
        assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0
        ids = jobs.enqueue_many(session, (send.job(number) for number in range(10)))
        assert database.rows("SELECT id FROM sqla_jobs ORDER BY id") == [(each,) for each in ids]
    engine.dispose()


# -- who is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "after_commit"])
def test_workers_are_told_once_a_queue(database: Database, mode: Any) -> None:
    telling = Jobs(notify=mode)
    task = telling.task(name="work")(lambda session: None)

    def made() -> Iterator[Job]:
        for number in range(20):
            yield task.using(queue="ab"[number % 2]).job()
        yield task.using(delay=timedelta(hours=1)).job()

    statements: list[str] = []
    with ear(database) as told, database.sessionmaker() as session:
        event.listen(
            session.connection(), "before_cursor_execute", lambda _, __, sql, *___: statements.append(sql)
        )
        telling.enqueue_many(session, made())
        telling.enqueue_many(session, made())
        assert sum("pg_notify" in sql for sql in statements) == (3 if mode == "transaction" else 0)
        assert told.heard() == []
        session.commit()
        assert sorted(told.next() for _ in range(3)) == ["queued:a", "queued:b", "scheduled"]


def test_workers_are_told_of_new_jobs_only(database: Database) -> None:
    with ear(database) as told:
        for expected in (["queued:default"], []):
            with database.sessionmaker.begin() as session:
                jobs.enqueue_many(session, (pack.job(order) for order in range(10)))
            assert told.heard() == expected


def test_of_jobs_that_are_rolled_back_nobody_hears(database: Database) -> None:
    with ear(database) as told:
        with database.sessionmaker() as session:
            jobs.enqueue_many(session, (send.job(number) for number in range(10)))
            session.rollback()
        assert told.heard() == []
    assert database.rows("SELECT 1 FROM sqla_jobs") == []
