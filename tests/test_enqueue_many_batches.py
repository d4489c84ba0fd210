"""More jobs than fit one statement, out of a generator: in bounded memory, and all of them or none."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any
from weakref import ref

import pytest
from sqlalchemy import event, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs
from sqla_jobs.errors import EnqueueError, InvalidArguments
from sqla_jobs.tasks import many
from tests.support.ear import ear
from tests.support.models import Item
from tests.support.server import Database

jobs = Jobs()


@jobs.task(name="send", queue="mail")
def send(session: Session, number: int) -> None: ...


@jobs.task(name="pack", unique=("order",))
def pack(session: Session, order: int) -> None: ...


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> int:
    """So many jobs go into a statement: few."""
    monkeypatch.setattr(many, "BATCH", 4)
    return 4


def numbers(session: Session) -> list[int]:
    """What the jobs are to send, in the order of their ids."""
    number = Job.arguments["number"].as_integer()
    return list(session.scalars(select(number).order_by(Job.id)))


# -- memory ----------------------------------------------------------------------------------------


def test_a_hundred_thousand_take_the_memory_of_a_few_thousand(database: Database) -> None:
    count = 100_000
    with database.sessionmaker() as session:
        jobs.enqueue_many(session, (send.job(number) for number in range(count // 10)))  # caches are filled
        session.rollback()
        tracemalloc.start()
        try:
            held = [send.job(number) for number in range(count // 10)]
            of_a_tenth, _ = tracemalloc.get_traced_memory()
            del held
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            ids = jobs.enqueue_many(session, (send.job(number) for number in range(count)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        session.commit()
    assert len(ids) == count
    assert peak - before < of_a_tenth, "less than a tenth of them would take as objects, the ids included"
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == count


@pytest.mark.parametrize("task", [send, pack])
def test_jobs_that_are_inserted_are_garbage(session: Session, batch: int, task: Any) -> None:
    alive: list[ref[Job]] = []
    most = 0

    def watched() -> Iterator[Job]:
        nonlocal most
        for job in map(task.job, range(10 * batch)):
            alive[:] = [each for each in alive if each() is not None]
            most = max(most, len(alive))
            alive.append(ref(job))
            yield job

    jobs.enqueue_many(session, watched())
    # The batch, one that is looked ahead at, and one of each kind that workers will be told of.
    assert batch <= most <= batch + 2


# -- what is made ----------------------------------------------------------------------------------


def test_ids_are_in_the_order_of_the_jobs(session: Session) -> None:
    count = 2 * many.BATCH + 7
    ids = jobs.enqueue_many(session, (send.job(number) for number in range(count)))
    assert ids == sorted(set(ids))
    assert numbers(session) == list(range(count))
    assert ids == list(session.scalars(select(Job.id).order_by(Job.id)))


@pytest.mark.parametrize("extra", [-1, 0, 1, 3, 4, 5])
def test_the_last_batch_is_as_long_as_it_is(session: Session, batch: int, extra: int) -> None:
    ids = jobs.enqueue_many(session, iter([send.job(number) for number in range(2 * batch + extra)]))
    assert len(ids) == 2 * batch + extra
    assert numbers(session) == list(range(2 * batch + extra))


def test_what_fits_one_statement_needs_no_savepoint(session: Session, batch: int, sent: list[str]) -> None:
    jobs.enqueue_many(session, (send.job(number) for number in range(batch)))
    assert [sql.split()[0] for sql in sent] == ["WITH", "SELECT"]
    sent.clear()
    jobs.enqueue_many(session, (send.job(number) for number in range(batch + 1)))
    words = [sql.split()[0] for sql in sent]
    assert words == ["SAVEPOINT", "WITH", "WITH", "RELEASE"], "workers have been told"


def test_a_list_is_one_statement_however_long(session: Session, batch: int, sent: list[str]) -> None:
    """And takes its keys in their order, which no other transaction can be in the way of."""
    orders = list(range(3 * batch, 0, -1))
    for given in (
        [pack.job(order) for order in orders],
        {order: send.job(order) for order in orders}.values(),
    ):
        sent.clear()
        assert len(jobs.enqueue_many(session, given)) == 3 * batch
        assert sum("INSERT" in sql for sql in sent) == 1
        assert not any("SAVEPOINT" in sql for sql in sent)


def test_a_key_is_taken_once_in_a_batch_and_across_batches(session: Session, batch: int) -> None:
    there = pack.enqueue(session, 3).id
    orders = [1, 2, 1, 3, 4, 2, 3, 5, 4, 1, 5]
    ids = jobs.enqueue_many(session, (pack.job(order) for order in orders))
    by_order = {order: ids[orders.index(order)] for order in orders}
    assert ids == [by_order[order] for order in orders]
    assert by_order[3] == there
    found = session.execute(select(Job.arguments["order"].as_integer(), Job.id)).all()
    assert sorted(tuple(row) for row in found) == sorted(by_order.items())


def test_with_and_without_keys(session: Session, batch: int) -> None:
    given = [send, send, pack, send, send, send, send, send, pack]
    ids = jobs.enqueue_many(session, (task.job(7) for task in given))
    assert ids[2] == ids[8]
    assert len(set(ids)) == 8
    assert list(session.scalars(select(Job.task).where(Job.id == ids[2]))) == ["pack"]


def test_all_are_in_the_window_of_the_call(session: Session, batch: int, sent: list[str]) -> None:
    window = send.using(unique_key="k", unique_for=timedelta(seconds=1))
    ids = jobs.enqueue_many(session, (window.job(number) for number in range(3 * batch)))
    assert len(set(ids)) == 1
    assert len([sql for sql in sent if sql.startswith("SELECT coalesce")]) == 1, "of the database's time"


def test_where_a_flush_has_to_do_it(session: Session, batch: int) -> None:
    def listener(*_: Any) -> None: ...

    event.listen(Job, "before_insert", listener)
    try:
        ids = jobs.enqueue_many(session, (send.job(number) for number in range(10)))
        assert len(ids) == len(set(ids)) == 10
        with pytest.raises(EnqueueError):
            jobs.enqueue_many(session, (send.job(number) if number < 9 else None for number in range(10)))
    finally:
        event.remove(Job, "before_insert", listener)
    assert numbers(session) == list(range(10))
    assert not session.new


# -- all or none -----------------------------------------------------------------------------------


class NoMore(Exception):
    """The file ends in the middle of a line."""


def ends_early() -> Iterator[Job]:
    yield from map(send.job, range(10))
    raise NoMore


def wrong_in_the_third(wrong: Callable[[], Any]) -> Iterator[Any]:
    yield from map(send.job, range(5))
    yield from map(pack.job, range(5))
    yield wrong()


WRONG: Any = "x"
REFUSED: dict[str, tuple[Callable[[], Iterator[Any]], type[Exception]]] = {
    "whoever makes them fails": (ends_early, NoMore),
    "one is none": (lambda: wrong_in_the_third(lambda: WRONG), EnqueueError),
    "one is a wrong call": (lambda: wrong_in_the_third(lambda: send.job(WRONG)), InvalidArguments),
    "the table refuses one": (lambda: wrong_in_the_third(lambda: Job(task="t", queue="?")), IntegrityError),
}


@pytest.mark.parametrize("why", REFUSED)
def test_nothing_is_left_of_the_first_batches(database: Database, batch: int, why: str) -> None:
    given, error = REFUSED[why]
    with ear(database) as told, database.sessionmaker() as session:
        kept = Item(name="before")
        session.add(kept)
        send.using(queue="other").enqueue(session, 77)
        session.add(Item(name="pending"))
        with pytest.raises(error):
            jobs.enqueue_many(session, given())
        assert numbers(session) == [77]
        assert kept.name == "before"
        session.add(Item(name="after"))
        session.commit()
        assert told.heard() == ["queued:other"]
    assert database.rows("SELECT name FROM items ORDER BY name") == [("after",), ("before",), ("pending",)]
    assert database.rows("SELECT arguments FROM sqla_jobs") == [({"number": 77},)]


def test_after_a_refusal_the_same_jobs_are_enqueued(database: Database, batch: int) -> None:
    made = [*map(send.job, range(5)), *map(pack.job, range(5))]
    with ear(database) as told, database.sessionmaker() as session:
        with pytest.raises(EnqueueError, match="number 10 is None"):
            jobs.enqueue_many(session, iter([*made, None]))  # type: ignore[list-item]
        assert len(jobs.enqueue_many(session, iter(made))) == 10
        session.commit()
        assert sorted(told.next() for _ in range(2)) == ["queued:default", "queued:mail"]
        assert told.heard() == []


def test_the_same_object_in_another_batch_is_refused(session: Session, batch: int) -> None:
    job = send.job(0)
    with pytest.raises(EnqueueError, match=r"number 9 is .*which is in it already"):
        jobs.enqueue_many(session, iter([job, *map(send.job, range(8)), job]))
    assert numbers(session) == []
    assert len(jobs.enqueue_many(session, [job])) == 1, "by another call it may be"


def test_its_number_is_that_of_the_call(session: Session, batch: int) -> None:
    pending = send.job(1)
    session.add(pending)
    with session.no_autoflush, pytest.raises(EnqueueError, match=r"number 6 is .*is or was in a Session"):
        jobs.enqueue_many(session, iter([*map(send.job, range(6)), pending]))
