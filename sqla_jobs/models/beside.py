"""The tables beside the job table: schedules, worker processes, queues."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    DateTime,
    Identity,
    Index,
    Integer,
    Interval,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import conv

from sqla_jobs.models.terms import EMPTY_ARRAY, EMPTY_OBJECT, FALSE, NOW, QUEUE_PATTERN, check, index


class ScheduleMixin:
    """The columns of ``sqla_jobs_schedules``: one recurring rule, which makes jobs."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} of task {self.task!r}>"

    id: Mapped[int] = mapped_column(BigInteger, Identity())
    name: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    arguments: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=EMPTY_OBJECT)
    queue: Mapped[str | None] = mapped_column(Text)
    priority: Mapped[int | None] = mapped_column(SmallInteger)
    max_attempts: Mapped[int | None] = mapped_column(Integer)
    timeout: Mapped[dt.timedelta | None] = mapped_column(Interval)
    cron: Mapped[str | None] = mapped_column(Text)
    timezone: Mapped[str] = mapped_column(Text, server_default=text("'UTC'"))
    every: Mapped[dt.timedelta | None] = mapped_column(Interval)
    jitter: Mapped[dt.timedelta | None] = mapped_column(Interval)
    catch_up: Mapped[str] = mapped_column(Text, server_default=text("'one'"))
    overlap: Mapped[str] = mapped_column(Text, server_default=text("'allow'"))
    enabled: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))
    definition: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True))
    """The definition in the code that made the row; null: the row was made as data."""
    next_run_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    last_tick_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    created_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)


def schedule_items() -> tuple[SchemaItem, ...]:
    """The constraints and indexes of ``sqla_jobs_schedules``."""
    return (
        PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs_schedules")),
        check("ck_sqla_jobs_schedules_rule", "(cron IS NULL) <> (every IS NULL)"),
        check("ck_sqla_jobs_schedules_every", "every > '0'::interval"),
        check("ck_sqla_jobs_schedules_arguments", "jsonb_typeof(arguments) = 'object'"),
        check("ck_sqla_jobs_schedules_queue", f"queue ~ '{QUEUE_PATTERN}'"),
        check("ck_sqla_jobs_schedules_max_attempts", "max_attempts >= 1"),
        check("ck_sqla_jobs_schedules_catch_up", "catch_up IN ('one', 'all', 'none')"),
        check("ck_sqla_jobs_schedules_overlap", "overlap IN ('allow', 'skip')"),
        Index(conv("uq_sqla_jobs_schedules_name"), "name", unique=True),
        index("ix_sqla_jobs_schedules_due", "next_run_at", where="enabled"),
    )


class WorkerProcessMixin:
    """The columns of ``sqla_jobs_workers``: a worker process, one that lives or has just died."""

    id: Mapped[int] = mapped_column(BigInteger, Identity())
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(Text)
    queues: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    """In strict order; null: any queue."""
    threads: Mapped[int] = mapped_column(Integer)
    heartbeat_limit: Mapped[dt.timedelta] = mapped_column(Interval)
    """After this long without a heartbeat anyone may take the process for dead."""
    locked: Mapped[bool] = mapped_column(Boolean, server_default=FALSE)
    running: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=EMPTY_ARRAY)
    started_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)
    heartbeat_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=NOW)
    died_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))
    """When it was found dead, and its jobs were taken away; its row is kept for a minute after that."""
    tasks: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    """The names of the tasks that it knows; null: a version of the library that does not say so."""
    schedules: Mapped[dict[str, str] | None] = mapped_column(JSONB(none_as_null=True))
    """The schedules in its code: the fingerprint of each one's definition, by name; null: likewise."""


def worker_items() -> tuple[SchemaItem, ...]:
    """The constraints and indexes of ``sqla_jobs_workers``."""
    return (
        PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs_workers")),
        check("ck_sqla_jobs_workers_running", "jsonb_typeof(running) = 'array'"),
    )


class QueueMixin:
    """The columns of ``sqla_jobs_queues``: what is set for a queue; a queue without a row has defaults."""

    name: Mapped[str] = mapped_column(Text)
    paused_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))


def queue_items() -> tuple[SchemaItem, ...]:
    """The constraints and indexes of ``sqla_jobs_queues``."""
    return (
        PrimaryKeyConstraint("name", name=conv("pk_sqla_jobs_queues")),
        check("ck_sqla_jobs_queues_name", f"name ~ '{QUEUE_PATTERN}'"),
    )
