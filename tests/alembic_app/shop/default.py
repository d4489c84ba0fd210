"""The library's own models, referred to by one of the application's."""

from __future__ import annotations

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

import sqla_jobs
from shop.without import Base


class Report(Base):
    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int | None] = mapped_column(ForeignKey(sqla_jobs.Job.id, ondelete="SET NULL"))
    job: Mapped[sqla_jobs.Job | None] = relationship()


target_metadata = [Base.metadata, sqla_jobs.metadata]
