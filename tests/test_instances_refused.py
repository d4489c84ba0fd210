"""Mapped objects that no job can be given are refused at the call or the flush; wrong keys, at the load."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import insert, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs
from sqla_jobs.errors import (
    ArgumentsNotLoadable,
    ArgumentsNotStorable,
    EnqueueError,
    InvalidArguments,
    TaskDefinitionError,
)
from tests.support.shop import Base, Letter, Line, Order, Parcel, Ticket, added

jobs = Jobs()


@jobs.task(name="ship")
def ship(session: Session, order: Order) -> None: ...


@jobs.task(name="ship_all")
def ship_all(session: Session, orders: list[Order]) -> None: ...


@pytest.fixture
def session(session: Session) -> Session:
    Base.metadata.create_all(session.connection())
    return session


def test_a_transient_object_is_refused_when_its_job_is_flushed(session: Session) -> None:
    job = ship.job(Order())
    assert "Order, not flushed yet" in repr(job.arguments)
    session.add(job)
    with pytest.raises(ArgumentsNotStorable, match=r"ship: order = <new Order> .*it is in no Session; ses"):
        session.flush()
    session.rollback()


def test_enqueue_refuses_a_transient_object_and_one_of_another_session(session: Session) -> None:
    with pytest.raises(ArgumentsNotStorable, match="it is in no Session"):
        ship.enqueue(session, Order())
    with pytest.raises(ArgumentsNotStorable, match=r"ship_all: orders\[1\] = <new Order>"):
        ship_all.enqueue(session, [added(session, Order()), Order()])
    with Session() as other:
        order = Order()
        other.add(order)
        with pytest.raises(ArgumentsNotStorable, match="it is not flushed yet"):
            ship.enqueue(session, order)
    assert session.scalar(text("SELECT count(*) FROM sqla_jobs")) == 0


def test_an_object_that_another_session_has_still_to_flush_is_refused_at_the_flush(session: Session) -> None:
    """It has a key already, of its own making."""

    @Jobs().task(name="check")
    def check(session: Session, ticket: Ticket) -> None: ...

    with Session() as other:
        ticket = Ticket(id=uuid.UUID(int=7))
        other.add(ticket)
        session.add(check.job(ticket))
        with pytest.raises(ArgumentsNotStorable, match="it is not flushed yet"):
            session.flush()
    session.rollback()


def test_an_expired_or_detached_object_is_known_by_its_identity(session: Session, sent: list[str]) -> None:
    order = added(session, Order())
    id_ = order.id
    session.expire(order)
    sent.clear()
    assert ship.job(order).arguments == {"order": id_}
    session.expunge(order)
    assert ship.job(order).arguments == {"order": id_}
    assert not sent


def test_a_deleted_object_is_refused(session: Session) -> None:
    order = added(session, Order())
    job = ship.job(order)
    session.delete(order)
    with pytest.raises(ArgumentsNotStorable, match=r"order = <Order \d+> .*it is deleted"):
        ship.job(order)
    with pytest.raises(ArgumentsNotStorable, match="it is deleted"):
        ship.enqueue(session, order)
    session.flush()
    with pytest.raises(ArgumentsNotStorable, match="it is deleted"):
        ship.enqueue(session, order)
    session.add(job)
    with pytest.raises(ArgumentsNotStorable, match="it is deleted"):
        session.flush()
    session.rollback()


def test_an_object_that_the_same_flush_deletes_is_refused(session: Session) -> None:
    order = added(session, Order())
    session.add(ship.job(order))
    session.delete(order)
    with pytest.raises(ArgumentsNotStorable, match="it is deleted"):
        session.flush()
    session.rollback()


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (7, "order: Input should be an instance of Order; found 7"),
        (None, "Input should be an instance of Order; found None"),
        (Ticket(), "Input should be an instance of Order"),
        ([Order()], "Input should be an instance of Order"),
    ],
    ids=lambda given: type(given).__name__ if not isinstance(given, str) else None,
)
def test_what_is_no_such_object_is_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidArguments, match=words):
        ship.job(value)
    with pytest.raises(InvalidArguments, match=r"orders\[1\]: Input should be an instance of Order"):
        ship_all.job([Order(), value])
    with pytest.raises(InvalidArguments, match="orders: Input should be a valid list"):
        ship_all.job(value) if not isinstance(value, list) else ship_all.job({})  # type: ignore[arg-type]


def test_an_object_that_has_another_identity_than_its_class_is_refused() -> None:
    registry = Jobs()

    @registry.task(name="post")
    def post(session: Session, parcel: Parcel) -> None: ...

    with pytest.raises(InvalidArguments, match="instance of Parcel"):
        post.job(Letter(id=1))


@pytest.mark.parametrize("annotation", [dict[str, Order], Order | Ticket, Order | int, tuple[Order, ...]])
def test_an_annotation_that_is_not_one_of_those_is_refused(annotation: Any) -> None:
    def take(session: Session, order) -> None: ...  # type: ignore[no-untyped-def]

    take.__annotations__ = {"order": annotation}
    with pytest.raises(TaskDefinitionError, match=r"Order is a mapped class, expected it as Order, Order \|"):
        Jobs().task(take)


def test_enqueue_many_takes_objects_that_are_there(session: Session) -> None:
    there, order = added(session, Order()), Order()
    job = ship.job(order)
    session.add(order)
    with pytest.raises(ArgumentsNotStorable, match="it is not flushed yet"):
        jobs.enqueue_many(session, [ship.job(there), job])
    session.flush()
    assert session.scalar(text("SELECT count(*) FROM sqla_jobs")) == 0
    ids = jobs.enqueue_many(session, [job, ship.job(order)])
    found = [session.get_one(Job, id_).arguments for id_ in ids]
    assert found == [{"order": order.id}] * 2


@pytest.mark.parametrize(
    "write",
    [
        lambda session, job: session.bulk_save_objects([job]),
        lambda session, job: session.execute(insert(Job).values(task="ship", arguments=job.arguments)),
        lambda session, job: session.execute(insert(Job), [{"task": "ship", "arguments": job.arguments}]),
    ],
)
def test_what_passes_by_a_flush_stores_no_null_for_them(session: Session, write: Any) -> None:
    order = added(session, Order())
    write(session, ship.job(order))
    assert session.scalar(text("SELECT arguments FROM sqla_jobs")) == {"order": order.id}
    with pytest.raises(TypeError, match="NotFlushedYet is not JSON serializable"):
        write(session, ship.job(Order()))
    session.rollback()


def test_a_schedule_takes_objects_that_are_there() -> None:
    with pytest.raises(ArgumentsNotStorable, match="it is in no Session"):
        jobs.every(dt.timedelta(hours=1), kwargs={"order": Order()}, name="late")(ship)


def test_a_unique_key_may_be_derived_from_an_object_that_is_there(session: Session) -> None:
    @Jobs().task(name="once", unique=("order",))
    def bill(session: Session, order: Order) -> None: ...

    order = added(session, Order())
    job = bill.enqueue(session, order)
    again = bill.enqueue(session, order)
    assert again.id == job.id
    assert again.duplicate


Enqueue = Callable[[Jobs[Job], Session, Order], Any]
ENQUEUES: dict[str, Enqueue] = {
    "enqueue": lambda registry, session, order: registry.find("once").enqueue(session, order),
    "by name": lambda registry, session, order: registry.enqueue(session, "once", order=order),
    "add": lambda registry, session, order: session.add(registry.find("once").job(order)),
    "many": lambda registry, session, order: registry.enqueue_many(
        session, map(registry.find("once").job, [order])
    ),
}


@pytest.mark.parametrize("by", [True, ("order",)], ids=["of all", "of one"])
@pytest.mark.parametrize("way", ENQUEUES)
def test_no_unique_key_is_derived_from_an_object_that_is_not_flushed(
    session: Session, sent: list[str], way: str, by: Any
) -> None:
    """A key without the object's would be that of all such objects."""
    registry = Jobs()

    @registry.task(name="once", unique=by)
    def bill(session: Session, order: Order) -> None: ...

    order = Order()
    session.add(order)
    with pytest.raises(EnqueueError, match=r"derived from <Order, not flushed yet>.*; flush it first"):
        ENQUEUES[way](registry, session, order)
    assert sent == [], "the transaction is as it was"
    session.flush()
    ENQUEUES[way](registry, session, order)
    session.flush()
    key = session.scalar(text("SELECT unique_key FROM sqla_jobs"))
    assert str(order.id) in str(key)


def test_a_row_that_holds_no_key_is_said_to(session: Session) -> None:
    registry = Jobs()

    @registry.task(name="take")
    def take(session: Session, line: Line) -> None: ...

    for number, wrong in enumerate([7, [1], [1, "x"], None, {"a": 1}]):
        Jobs().enqueue(session, "take", line=wrong)
        finished = registry.work_once(session)
        assert finished is not None, number
        assert isinstance(finished.error, ArgumentsNotLoadable)
    Jobs().enqueue(session, "ship_all", orders=7)
    finished = jobs.work_once(session)
    assert finished is not None
    assert "expected a list of primary keys" in str(finished.error)
