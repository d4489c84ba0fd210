"""The mapped classes: the default ones, and those beside a job model in a schema of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from sqlalchemy import Connection, Engine, MetaData, inspect
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateSchema

from sqla_jobs.models.beside import (
    QueueMixin,
    ScheduleMixin,
    WorkerProcessMixin,
    queue_items,
    schedule_items,
    worker_items,
)
from sqla_jobs.models.job import JobMixin
from sqla_jobs.models.terms import merge, table_of
from sqla_jobs.models.version import leave_marker

metadata = MetaData()
"""The tables of the default models; for ``target_metadata`` in an application's Alembic env."""


class Base(DeclarativeBase):
    """The library's own declarative base, which the default models live on."""

    metadata = metadata


class Job(JobMixin, Base):
    """One row of ``sqla_jobs``: one call of a task.

    Refer to it from application models by the column object, ``ForeignKey(Job.id)``, and by the
    class, ``Mapped[Job]``: names do not cross declarative registries.
    """


class Schedule(ScheduleMixin, Base):
    """One recurring rule (cron or interval) that makes jobs."""

    __tablename__ = "sqla_jobs_schedules"
    __table_args__ = merge((), schedule_items(), "schedule")


class WorkerProcess(WorkerProcessMixin, Base):
    """One worker process: its heartbeat and what it runs; or one that has just died."""

    __tablename__ = "sqla_jobs_workers"
    __table_args__ = merge((), worker_items(), "worker")


class Queue(QueueMixin, Base):
    """What is set for one queue, e.g. that it is paused."""

    __tablename__ = "sqla_jobs_queues"
    __table_args__ = merge((), queue_items(), "queue")


@dataclass(frozen=True)
class Companions:
    """The library's other models in the schema of one job model."""

    schema: str | None
    Schedule: type[ScheduleMixin]
    WorkerProcess: type[WorkerProcessMixin]
    Queue: type[QueueMixin]
    metadata: MetaData


@cache
def companions(schema: str | None) -> Companions:
    """The models that live beside a job table in ``schema``: made once per schema."""
    if schema is None:
        return Companions(None, Schedule, WorkerProcess, Queue, metadata)

    class SchemaBase(DeclarativeBase):
        metadata = MetaData()

    placed = {"schema": schema}

    class _Schedule(ScheduleMixin, SchemaBase):
        __tablename__ = "sqla_jobs_schedules"
        __table_args__ = merge(placed, schedule_items(), "schedule")

    class _WorkerProcess(WorkerProcessMixin, SchemaBase):
        __tablename__ = "sqla_jobs_workers"
        __table_args__ = merge(placed, worker_items(), "worker")

    class _Queue(QueueMixin, SchemaBase):
        __tablename__ = "sqla_jobs_queues"
        __table_args__ = merge(placed, queue_items(), "queue")

    leave_marker(table_of(_WorkerProcess))
    return Companions(schema, _Schedule, _WorkerProcess, _Queue, SchemaBase.metadata)


leave_marker(table_of(WorkerProcess))


def create_all(bind: Engine | Connection, model: type[JobMixin]) -> None:
    """Create the tables of a job model and its companions, and their schema, where they are missing."""
    table = table_of(model)
    beside = companions(table.schema)
    if isinstance(bind, Engine):
        with bind.begin() as connection:
            create_all(connection, model)
        return
    if table.schema is not None and not inspect(bind).has_schema(table.schema):
        bind.execute(CreateSchema(table.schema, if_not_exists=True))
    table.create(bind, checkfirst=True)
    companion_tables = [table_of(each) for each in (beside.Schedule, beside.WorkerProcess, beside.Queue)]
    beside.metadata.create_all(bind, companion_tables)
