"""An application whose job model, on its own Base, has a column of its own: the tenant."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterable
from typing import Any

from sqlalchemy import JSON, Enum, LargeBinary, Text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_jobs import JobMixin, Jobs, Limit
from tests.support.server import Database


class Base(DeclarativeBase):
    pass


class Plan(enum.Enum):
    FREE = "free"
    PAID = "paid"


class TenantJob(JobMixin, Base):
    tenant_id: Mapped[int | None]
    is_vip: Mapped[bool] = mapped_column(server_default="false")
    plan: Mapped[Plan | None] = mapped_column(Enum(Plan, native_enum=False))
    note: Mapped[str | None] = mapped_column(Text)
    blob: Mapped[bytes | None] = mapped_column(LargeBinary)
    extra: Mapped[Any | None] = mapped_column(JSON)


class Other(Base):
    __tablename__ = "others"

    id: Mapped[int] = mapped_column(primary_key=True)
    tenant_id: Mapped[int]


class Tenants:
    """Jobs of several tenants, each of which writes its note down.

    Parameters:
        group_commit: for the fast lane.
        effect: whether a job uses its Session.
        limit: how many run at once.
    """

    def __init__(
        self,
        database: Database,
        *,
        group_commit: int | None = None,
        effect: bool = False,
        limit: Limit | None = None,
    ) -> None:
        self.database = database
        self.jobs: Jobs[TenantJob] = Jobs(model=TenantJob)
        self.ran: list[str] = []
        self.each = threading.Semaphore(0)
        self.effect = effect
        self.task = self.jobs.task(name="t", group_commit=group_commit, limit=limit)(self._run)
        self.jobs.create_all(database.engine)

    def _run(self, session: Session, note: str) -> None:
        if self.effect:
            session.connection().exec_driver_sql("SELECT 1")
        self.ran.append(note)
        self.each.release()

    def enqueue(self, notes: str | Iterable[str], **values: Any) -> list[int]:
        """One job for each note: its first letter is the queue, the digit behind it the tenant."""
        with self.database.sessionmaker.begin() as session:
            made = []
            for note in notes.split() if isinstance(notes, str) else notes:
                job = self.task.using(queue=note[0]).job(note)
                job.tenant_id = int(note[1])
                for name, value in values.items():
                    setattr(job, name, value)
                session.add(job)
                session.flush()
                made.append(job.id)
            return made

    def queued(self) -> list[str]:
        """The notes of what is queued, in order."""
        rows = self.database.rows("SELECT arguments FROM sqla_jobs WHERE state = 'queued' ORDER BY id")
        return [row.arguments["note"] for row in rows]
