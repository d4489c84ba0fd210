"""Jobs of mapped objects, in whichever order a flush inserts both, and after one that was taken back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import event, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import Jobs
from sqla_jobs.errors import (
    ArgumentsNotStorable,
)
from tests.support.shop import (
    Base,
    Country,
    CycleBase,
    Invoice,
    InvoiceJob,
    Line,
    Order,
    added,
    begins,
    stored,
)

jobs = Jobs()
ran: list[Any] = []


@jobs.task(name="ship")
def ship(session: Session, order: Order) -> None:
    ran.append(order)


@jobs.task(name="ship_all")
def ship_all(session: Session, orders: list[Order], extra: Order | None = None) -> None: ...


@pytest.fixture
def session(session: Session) -> Session:
    ran.clear()
    Base.metadata.create_all(session.connection())
    return session


# -- every order of a flush --------------------------------------------------------------------------


def test_pending_objects_are_resolved_by_one_update(session: Session, sent: list[str]) -> None:
    orders = [Order() for _ in range(3)]
    made = [ship.job(order) for order in orders] + [ship_all.job(orders, orders[0])]
    session.add_all([*made, *orders])
    session.flush()
    assert [sql for sql in begins(sent) if sql.startswith("UPDATE")] == ["UPDATE sqla_jobs SET"]
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
    assert [sql for sql in begins(sent) if sql.startswith("INSERT")] == [
        "INSERT INTO sqla_jobs",
        "INSERT INTO orders",
    ]
    assert order.job_id == job.id
    assert stored(session, job) == {"order": order.id}
    assert jobs.work_once(session) is not None
    assert ran == [order]


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
    assert begins(sent) == ["INSERT INTO orders", "WITH made AS"]
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
    assert begins(sent) == ["WITH made AS"]
    heard: list[str] = []
    event.listen(session, "after_flush", lambda *_: heard.append("flush"))
    jobs.enqueue(session, "elsewhere")
    assert heard == ["flush"]
