"""The indexes that the claims of a worker's `where` want, of a job model of one's own or of the library's."""

from __future__ import annotations

import os

from sqlalchemy import Index, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import sqla_jobs
from sqla_jobs import JobMixin
from sqla_jobs.models import Job as LibraryJob

ORDER = (text("priority DESC"), "run_at", "id")


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


if "SHOP_OWN" in os.environ:

    class Job(JobMixin, Base):
        __table_args__ = (
            Index("of_7", *ORDER, postgresql_where=text("state = 'queued' AND tenant_id = 7")),
            Index(
                "of_7_by_queue", "queue", *ORDER, postgresql_where=text("state = 'queued' AND tenant_id = 7")
            ),
            {"schema": os.environ.get("SHOP_SCHEMA")},
        )

        tenant_id: Mapped[int | None]

    where = Job.tenant_id == 7
    target_metadata = [Base.metadata]
else:
    where = LibraryJob.arguments["tenant"].as_string() == "7"
    QUEUED = text("state = 'queued' AND arguments ->> 'tenant' = '7'")
    rest = (LibraryJob.priority.desc(), LibraryJob.run_at, LibraryJob.id)
    Index("of_7", *rest, postgresql_where=QUEUED)
    Index("of_7_by_queue", LibraryJob.queue, *rest, postgresql_where=QUEUED)
    Job = LibraryJob
    target_metadata = [Base.metadata, sqla_jobs.metadata]
