"""The application's own tables in the tests: what jobs write to, and what shows how often they ran."""

from __future__ import annotations

from sqlalchemy import BigInteger, Identity, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Effect(Base):
    """One row for each run of a job that was committed; two rows of one job are a job run twice."""

    __tablename__ = "effects"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    # Not unique: a test must be able to see the second effect, not have the database prevent it.
    job_id: Mapped[int] = mapped_column(BigInteger, index=True)
    note: Mapped[str | None] = mapped_column(Text)


class Item(Base):
    """A table with a unique name, for jobs that break a constraint."""

    __tablename__ = "items"

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    name: Mapped[str] = mapped_column(Text, unique=True)
