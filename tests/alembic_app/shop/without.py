"""The application when it had no job queue yet, or has none any more."""

from __future__ import annotations

from sqlalchemy import PrimaryKeyConstraint, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    __table_args__ = (PrimaryKeyConstraint("id", name="pk_customers"),)

    id: Mapped[int] = mapped_column()
    name: Mapped[str] = mapped_column(Text)


target_metadata = Base.metadata
