"""What the shop does in the background: `sqla-jobs worker shop.tasks:jobs`."""

from __future__ import annotations

import time
from datetime import timedelta
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.orm import Session, joinedload

from shop.models import Booking, Fax, Invoice, Order
from sqla_jobs import Jobs, RetryPolicy, current_job

jobs = Jobs()

EUROS = {"SEK": Decimal("0.088"), "CHF": Decimal("1.04"), "GBP": Decimal("1.15"), "USD": Decimal("0.86")}

TYPESETTING = 0.02
"""Seconds that the page of an invoice takes."""


def soon(max_attempts: int) -> RetryPolicy:
    """Attempts that follow each other quickly: a demo cannot wait as long as one should."""
    return RetryPolicy(max_attempts, base=timedelta(milliseconds=200), cap=timedelta(seconds=1))


class RatesUnavailable(Exception):
    """The bank gives no exchange rates at the moment."""


class NoCarrier(Exception):
    """The fax line is dead."""


@jobs.task(queue="invoices", retry=soon(10))
def write_invoice(session: Session, number: str) -> None:
    order = order_of(session, number)
    invoice = Invoice(order=order, total=order.total, currency=order.currency, job_id=current_job().id)
    session.add(invoice)
    if order.confirm_by == "fax":
        send_fax.enqueue(session, number)
    session.flush()
    # A worker that is killed in here has written an invoice and enqueued a fax, but committed neither.
    time.sleep(TYPESETTING)


@jobs.task(queue="bookings", retry=soon(5))
def book_in_euros(session: Session, number: str) -> None:
    """Fails twice before it succeeds."""
    order = order_of(session, number)
    session.add(Booking(order_id=order.id, euros=round(order.total * EUROS[order.currency], 2)))
    session.flush()
    if current_job().attempt <= 2:
        raise RatesUnavailable("503 from the bank: try again later")


@jobs.task(queue="faxes", retry=soon(3))
def send_fax(session: Session, number: str) -> None:
    """Always fails."""
    session.add(Fax(order_id=order_of(session, number).id))
    session.flush()
    raise NoCarrier("the shop's fax line was cancelled in 2019")


def order_of(session: Session, number: str) -> Order:
    with_lines = select(Order).options(joinedload(Order.lines))
    return session.scalars(with_lines.where(Order.number == number)).unique().one()
