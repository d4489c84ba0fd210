"""An application's models, whose objects are arguments of jobs: keys of every kind, hierarchies, cycles."""

from __future__ import annotations

import datetime as dt
import enum
import uuid
from typing import Any, TypeVar

from sqlalchemy import CHAR, BigInteger, ForeignKey, Identity, Text, TypeDecorator, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from sqla_jobs import Job, JobMixin

T = TypeVar("T")


class Base(DeclarativeBase):
    pass


class Order(Base):
    """Refers to a job, perhaps to the very one that is given it."""

    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    note: Mapped[str | None] = mapped_column(Text)
    job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.__table__.c.id, ondelete="SET NULL"))
    job: Mapped[Job | None] = relationship(Job)


class Line(Base):
    """A key of two columns, the first of which is another object's."""

    __tablename__ = "lines"

    order_id: Mapped[int] = mapped_column(ForeignKey(Order.id), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    order: Mapped[Order] = relationship()


class Colour(enum.Enum):
    RED = "red"


class Guid(TypeDecorator[uuid.UUID]):
    """A type of an application's own, which tells nobody its type in Python."""

    impl = CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.hex

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else uuid.UUID(value)


class Ticket(Base):
    __tablename__ = "tickets"
    id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)


class Gate(Base):
    __tablename__ = "gates"
    id: Mapped[uuid.UUID] = mapped_column(Guid, primary_key=True)


class Day(Base):
    __tablename__ = "days"
    day: Mapped[dt.date] = mapped_column(primary_key=True)


class Paint(Base):
    __tablename__ = "paints"
    colour: Mapped[Colour] = mapped_column(primary_key=True)


class Country(Base):
    """A key that may change."""

    __tablename__ = "countries"
    code: Mapped[str] = mapped_column("iso_code", primary_key=True)


class Person(Base):
    __tablename__ = "people"
    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "person"}

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    kind: Mapped[str]


class Manager(Person):
    __tablename__ = "managers"
    __mapper_args__ = {"polymorphic_identity": "manager"}

    # Not of the name that it has in the table that it joins.
    manager_id: Mapped[int] = mapped_column(ForeignKey(Person.id), primary_key=True)
    budget: Mapped[int] = mapped_column(default=0)


class Guest(Person):
    __mapper_args__ = {"polymorphic_identity": "guest"}


class Parcel(Base):
    __tablename__ = "parcels"
    id: Mapped[int] = mapped_column(primary_key=True)


class Letter(Parcel):
    """Joined, but without a discriminator: a Session knows it by another identity than its Parcel."""

    __tablename__ = "letters"
    id: Mapped[int] = mapped_column(ForeignKey(Parcel.id), primary_key=True)


class CycleBase(DeclarativeBase):
    pass


class Invoice(CycleBase):
    """Refers to a job that refers to it."""

    __tablename__ = "invoices"
    __table_args__ = {"schema": "cycle"}

    id: Mapped[int] = mapped_column(BigInteger, Identity(), primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey("cycle.sqla_jobs.id", use_alter=True))
    job: Mapped[InvoiceJob | None] = relationship(foreign_keys=job_id, post_update=True)


class InvoiceJob(JobMixin, CycleBase):
    __table_args__ = {"schema": "cycle"}

    invoice_id: Mapped[int | None] = mapped_column(ForeignKey(Invoice.id))
    invoice: Mapped[Invoice | None] = relationship(foreign_keys=invoice_id)


# -- for tests of them -------------------------------------------------------------------------------


def added(session: Session, thing: T) -> T:
    """The object, flushed."""
    session.add(thing)
    session.flush()
    return thing


def stored(session: Session, job: Job) -> Any:
    """The arguments that are in the job's row, which are those of the object too."""
    found = session.scalar(text("SELECT arguments FROM sqla_jobs WHERE id = :id"), {"id": job.id})
    assert job.arguments == found
    return found


def begins(statements: list[str]) -> list[str]:
    """The first three words of each."""
    return [" ".join(sql.split()[:3]) for sql in statements]
