"""A job model on the application's own Base, with columns, constraints and indexes of its own."""

from __future__ import annotations

import enum
import os
from decimal import Decimal

from sqlalchemy import (
    CheckConstraint,
    Enum,
    ForeignKey,
    Index,
    MetaData,
    Numeric,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from sqla_jobs import JobMixin

CONVENTION = {
    "ix": "the_ix_%(column_0_label)s",
    "uq": "the_uq_%(table_name)s_%(column_0_name)s",
    "ck": "the_ck_%(table_name)s_%(constraint_name)s",
    "fk": "the_fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "the_pk_%(table_name)s",
}
SCHEMA = os.environ.get("SHOP_SCHEMA")
NAMED = "SHOP_CONVENTION" in os.environ


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=CONVENTION) if NAMED else MetaData()


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(Text)


class Tenant(Base):
    __tablename__ = "tenants"

    id: Mapped[int] = mapped_column(primary_key=True)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Job(JobMixin, Base):
    # Without a naming convention these are as nameless as many applications leave them.
    __table_args__ = (
        UniqueConstraint("tenant_id", "reference"),
        CheckConstraint("cost >= 0", name="cost" if NAMED else None),
        CheckConstraint("cost % 1 < 0.99", name="cost_limit" if NAMED else None),
        Index("by_task_and_state", "task", "state", postgresql_where=text("state = 'failed'")),
        {"schema": SCHEMA, "comment": "Jobs of the shop"},
    )

    tenant_id: Mapped[int | None] = mapped_column(ForeignKey("tenants.id"), index=True)
    reference: Mapped[str | None] = mapped_column(Text, unique=True, comment="The customer's own")
    cost: Mapped[Decimal] = mapped_column(Numeric(10, 2), server_default=text("0"))
    colour: Mapped[Colour | None] = mapped_column(Enum(Colour, native_enum=False, create_constraint=True))
    if "SHOP_LATER" in os.environ:
        later: Mapped[str | None] = mapped_column(Text)

    tenant: Mapped[Tenant | None] = relationship()


class Report(Base):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey(Job.id))
    job: Mapped[Job] = relationship()


target_metadata = Base.metadata
OPTIONS = {
    "compare_type": True,
    "compare_server_default": True,
    "include_schemas": "SHOP_INCLUDE_SCHEMAS" in os.environ,
}
