"""Mapped objects as arguments: the row holds the primary key, in whichever order a flush inserts."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Iterator
from typing import Annotated, Any

import pytest
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, current_job
from sqla_jobs.errors import (
    ArgumentsNotStorable,
)
from tests.support.shop import (
    Base,
    Colour,
    Country,
    CycleBase,
    Day,
    Gate,
    Guest,
    Invoice,
    InvoiceJob,
    Line,
    Manager,
    Order,
    Paint,
    Person,
    Ticket,
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


@pytest.fixture
def sent(session: Session) -> Iterator[list[str]]:
    """The first words of the statements that are sent."""
    statements: list[str] = []

    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        statements.append(" ".join(sql.split()[:3]))

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    yield statements
    event.remove(connection, "before_cursor_execute", note)


def stored(session: Session, job: Job) -> Any:
    """What is in the row, whatever the object says."""
    found = session.scalar(text("SELECT arguments FROM sqla_jobs WHERE id = :id"), {"id": job.id})
    assert job.arguments == found
    return found


def added(session: Session, thing: Any) -> Any:
    session.add(thing)
    session.flush()
    return thing


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


# -- every order of a flush --------------------------------------------------------------------------


def test_pending_objects_are_resolved_by_one_update(session: Session, sent: list[str]) -> None:
    orders = [Order() for _ in range(3)]
    made = [ship.job(order) for order in orders] + [ship_all.job(orders, orders[0])]
    session.add_all([*made, *orders])
    session.flush()
    assert [sql for sql in sent if sql.startswith("UPDATE")] == ["UPDATE sqla_jobs SET"]
    ids = [order.id for order in orders]
    assert [stored(session, job) for job in made] == [
        *({"order": id_} for id_ in ids),
        {"orders": ids, "extra": ids[0]},
    ]
    assert not session.dirty
    assert not inspect(made[0]).modified


def test_a_job_of_objects_that_are_there_needs_no_update(session: Session, sent: list[str]) -> None:
    order = added(session, Order())
    sent.clear()
    session.add(ship.job(order))
    session.flush()
    ship.enqueue(session, order)
    assert [sql.split()[0] for sql in sent if "notify" not in sql] == ["INSERT", "INSERT"]


@pytest.mark.parametrize("first", ["job", "order"])
def test_either_is_added_first(session: Session, first: str) -> None:
    order = Order()
    job = ship.job(order)
    session.add_all([job, order] if first == "job" else [order, job])
    session.flush()
    assert stored(session, job) == {"order": order.id}


def test_an_object_that_refers_to_that_very_job(session: Session, sent: list[str]) -> None:
    """The job is inserted first: its row cannot hold the key yet."""
    order = Order()
    order.job = job = ship.job(order)
    session.add(order)
    session.flush()
    assert [sql for sql in sent if sql.startswith("INSERT")] == [
        "INSERT INTO sqla_jobs",
        "INSERT INTO orders",
    ]
    assert order.job_id == job.id
    assert stored(session, job) == {"order": order.id}
    assert worked(session)[0] is order


@pytest.mark.parametrize("refers", ["to the job", "to the object", "both"])
def test_a_job_and_an_object_that_refer_to_each_other(session: Session, refers: str) -> None:
    session.execute(text("CREATE SCHEMA cycle"))
    CycleBase.metadata.create_all(session.connection())
    registry = Jobs(InvoiceJob)
    registry.create_all(session.connection())

    @registry.task(name="pay")
    def pay(session: Session, invoice: Invoice) -> None:
        ran.append(invoice)

    invoice = Invoice()
    job = pay.job(invoice)
    if refers != "to the object":
        invoice.job = job
    if refers != "to the job":
        job.invoice = invoice
    session.add_all([job, invoice])
    session.flush()
    assert job.arguments == {"invoice": invoice.id}
    session.expire_all()
    assert job.arguments == {"invoice": invoice.id}
    finished = registry.work_once(session)
    assert finished is not None
    assert finished.error is None
    assert ran == [invoice]


def test_enqueue_flushes_a_pending_object_first(session: Session, sent: list[str]) -> None:
    order = Order()
    session.add(order)
    job = ship.enqueue(session, order)
    assert sent == ["INSERT INTO orders", "WITH made AS"]
    assert stored(session, job) == {"order": order.id}
    by_name = jobs.enqueue(session, "ship", order=order)
    assert stored(session, by_name) == {"order": order.id}


def test_a_key_that_changes_in_the_same_flush(session: Session) -> None:
    @Jobs().task(name="visit")
    def visit(session: Session, country: Country) -> None: ...

    country = added(session, Country(code="uk"))
    job = visit.job(country)
    session.add(job)
    country.code = "gb"
    later = visit.job(country)
    session.add(later)
    session.flush()
    assert stored(session, job) == stored(session, later) == {"country": "gb"}
    country.code = "g2"
    assert stored(session, visit.enqueue(session, country)) == {"country": "g2"}


# -- what takes back a flush -------------------------------------------------------------------------


def test_after_a_rollback_both_are_added_again(session: Session) -> None:
    order = Order()
    job = ship.job(order)
    with session.begin_nested() as savepoint:
        session.add_all([job, order])
        session.flush()
        savepoint.rollback()
    order.id = None  # type: ignore[assignment]
    job.id = None  # type: ignore[assignment]
    with pytest.raises(ArgumentsNotStorable, match="it is in no Session"), session.begin_nested():
        added(session, job)
    session.add_all([job, order])
    session.flush()
    assert stored(session, job) == {"order": order.id}


def test_a_flush_that_fails_leaves_nothing_for_the_next(session: Session) -> None:
    order = Order()
    job = ship.job(order)
    with pytest.raises(IntegrityError), session.begin_nested():
        session.add_all([job, order, Line(order_id=-1, number=1)])
        session.flush()
    session.add(Order())
    session.flush()
    session.add_all([job, order])
    session.flush()
    assert stored(session, job) == {"order": order.id}


def test_other_jobs_of_that_session_are_enqueued_without_a_flush_as_ever(
    session: Session, sent: list[str]
) -> None:
    order = Order()
    session.add_all([order, ship.job(order)])
    session.flush()
    sent.clear()
    jobs.using(queue="other").enqueue(session, "elsewhere")
    assert sent == ["WITH made AS"]
    heard: list[str] = []
    event.listen(session, "after_flush", lambda *_: heard.append("flush"))
    jobs.enqueue(session, "elsewhere")
    assert heard == ["flush"]
