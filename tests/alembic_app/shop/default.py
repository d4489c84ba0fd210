"""The library's own models, referred to by one of the application's."""

from __future__ import annotations

from sqlalchemy import ForeignKey, PrimaryKeyConstraint, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

import sqla_jobs


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    __table_args__ = (PrimaryKeyConstraint("id", name="pk_customers"),)

    id: Mapped[int] = mapped_column()
    name: Mapped[str] = mapped_column(Text)


class Report(Base):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey(sqla_jobs.Job.id, ondelete="SET NULL"))
    job: Mapped[sqla_jobs.Job | None] = relationship()


target_metadata = [Base.metadata, sqla_jobs.metadata]
