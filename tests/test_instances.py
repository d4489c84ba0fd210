"""Mapped objects as arguments: the row holds the primary key, and the task gets the object."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Annotated, Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, current_job
from tests.support.shop import (
    Base,
    Colour,
    Country,
    Day,
    Gate,
    Guest,
    Line,
    Manager,
    Order,
    Paint,
    Person,
    Ticket,
    added,
    stored,
)

jobs = Jobs()
ran: list[Any] = []


@jobs.task(name="ship")
def ship(session: Session, order: Order, *, copies: int = 1) -> None:
    ran.append((order, copies, current_job().arguments))


@jobs.task(name="ship_all")
def ship_all(session: Session, orders: list[Order], extra: Order | None = None) -> None:
    ran.append((orders, extra, current_job().arguments))


@pytest.fixture
def session(session: Session) -> Session:
    ran.clear()
    Base.metadata.create_all(session.connection())
    return session


def worked(session: Session) -> Any:
    """What the one job was called with."""
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.error is None
    return ran.pop()


# -- what is stored, and comes back ------------------------------------------------------------------


KEYS = [
    (Order(), int),
    (Ticket(), str),
    (Gate(id=uuid.UUID(int=7)), str(uuid.UUID(int=7))),
    (Day(day=dt.date(2030, 1, 31)), "2030-01-31"),
    (Paint(colour=Colour.RED), "red"),
    (Country(code="fr"), "fr"),
    (Line(order=Order(), number=3), [int, 3]),
    (Person(), int),
    (Manager(budget=5), int),
    (Guest(), int),
]


def kinds(value: Any) -> Any:
    """The value with the types of what the server gave."""
    return [type(each) if index == 0 else each for index, each in enumerate(value)]


@pytest.mark.parametrize(("thing", "expected"), KEYS, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("pending", [False, True], ids=["persistent", "pending"])
def test_the_row_holds_the_primary_key_and_the_task_gets_the_object(
    session: Session, thing: Any, expected: Any, *, pending: bool
) -> None:
    registry = Jobs()
    cls = type(thing)
    names = [attribute.key for attribute in inspect(cls).column_attrs if attribute.key != "kind"]
    fresh = cls(**{name: vars(thing)[name] for name in names if name in vars(thing)})
    if cls is Line:
        fresh.order = Order()
    session.add(fresh)
    if not pending:
        session.flush()

    def take(session: Session, it, many, none) -> None:  # type: ignore[no-untyped-def]
        ran.append((it, many, none))

    take.__annotations__ = {"it": cls, "many": list[cls], "none": cls | None}  # type: ignore[valid-type]
    task = registry.task(name="take")(take)
    job = task.enqueue(session, fresh, [fresh, fresh], none=None)
    row = stored(session, job)
    key = row["it"]
    assert row == {"it": key, "many": [key, key], "none": None}
    if isinstance(expected, type):
        assert type(key) is expected
    else:
        assert (kinds(key) if isinstance(key, list) else key) == expected
    session.expunge_all()
    finished = registry.work_once(session)
    assert finished is not None
    assert finished.error is None
    it, many, none = ran.pop()
    assert type(it) is cls
    assert inspect(it).persistent
    assert inspect(it).key[1] == inspect(fresh).key[1]
    assert many == [it, it]
    assert none is None
    assert finished.job.arguments == row


def test_an_object_of_a_subclass_comes_back_as_what_it_is(session: Session) -> None:
    registry = Jobs()

    @registry.task(name="greet")
    def greet(session: Session, person: Person) -> None:
        ran.append(person)

    for each in (Manager(), Guest()):
        greet.enqueue(session, added(session, each))
        session.expunge_all()
        finished = registry.work_once(session)
        assert finished is not None
        assert finished.error is None
        assert type(ran.pop()) is type(each)


def test_the_arguments_of_the_running_job_are_the_keys(session: Session) -> None:
    order = added(session, Order())
    ship.enqueue(session, order, copies=2)
    assert worked(session) == (order, 2, {"order": order.id, "copies": 2})


@pytest.mark.parametrize(
    "annotation", [Order, "Order", Annotated[Order, "x"], Order | None, "Order | None"], ids=str
)
def test_annotations(session: Session, annotation: Any) -> None:
    registry = Jobs()

    def take(session: Session, order) -> None: ...  # type: ignore[no-untyped-def]

    take.__annotations__ = {"order": annotation}
    task = registry.task(name="take")(take)
    order = added(session, Order())
    assert stored(session, task.enqueue(session, order)) == {"order": order.id}


def test_a_task_may_take_any_number_of_objects_by_name(session: Session) -> None:
    registry = Jobs()

    @registry.task(name="take")
    def take(session: Session, /, **orders: Order) -> None:
        ran.append(orders)

    first, second = added(session, Order()), Order()
    session.add(second)
    job = take.enqueue(session, first=first, second=second)
    assert stored(session, job) == {"first": first.id, "second": second.id}
    registry.work_once(session)
    assert ran.pop() == {"first": first, "second": second}


def test_a_program_that_knows_no_task_gives_the_key(session: Session) -> None:
    order = added(session, Order())
    Jobs().enqueue(session, "ship", order=order.id)
    assert worked(session)[0] is order
