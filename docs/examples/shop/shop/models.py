"""What the shop keeps. The tables of the job queue are the library's, `sqla_jobs.metadata`."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import ClassVar

from sqlalchemy import CheckConstraint, ForeignKey, Numeric, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import sqla_jobs


class Base(DeclarativeBase):
    type_annotation_map: ClassVar = {str: Text, Decimal: Numeric(12, 2)}


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str]


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    number: Mapped[str] = mapped_column(unique=True)
    ordered_on: Mapped[dt.date]
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"), index=True)
    currency: Mapped[str]
    confirm_by: Mapped[str]

    customer: Mapped[Customer] = relationship()
    lines: Mapped[list[OrderLine]] = relationship(back_populates="order")

    @property
    def total(self) -> Decimal:
        return sum((line.quantity * line.price for line in self.lines), Decimal())


class OrderLine(Base):
    __tablename__ = "order_lines"
    __table_args__ = (CheckConstraint("quantity > 0", name="ck_order_lines_quantity"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    article: Mapped[str]
    quantity: Mapped[int]
    price: Mapped[Decimal]

    order: Mapped[Order] = relationship(back_populates="lines")


class Invoice(Base):
    """Written by a job. Not unique by order: the demo shall see a second one if there ever is one."""

    __tablename__ = "invoices"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    total: Mapped[Decimal]
    currency: Mapped[str]
    job_id: Mapped[int | None] = mapped_column(ForeignKey(sqla_jobs.Job.id, ondelete="SET NULL"), index=True)

    order: Mapped[Order] = relationship()


class Booking(Base):
    """An order in a foreign currency, in the books in euros; written by a job."""

    __tablename__ = "bookings"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"), index=True)
    euros: Mapped[Decimal]


class Fax(Base):
    """A fax that went out. None ever does."""

    __tablename__ = "faxes"

    id: Mapped[int] = mapped_column(primary_key=True)
    order_id: Mapped[int] = mapped_column(ForeignKey("orders.id"))
