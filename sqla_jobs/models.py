"""The mapped tables: ``Job`` (or your own, by ``JobMixin``), ``Schedule``, ``WorkerProcess``, ``Queue``.

Every constraint and index bears an explicit name in ``conv()``, so that an application's naming
convention changes nothing and Alembic's comparison stays clean. Every column but ``task`` has a
server default or is nullable: ``INSERT INTO sqla_jobs (task) VALUES ('…')`` from any language is a
complete job.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Connection,
    DateTime,
    Engine,
    Identity,
    Index,
    Integer,
    Interval,
    MetaData,
    PrimaryKeyConstraint,
    SmallInteger,
    Table,
    Text,
    event,
    inspect,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedColumn,
    declared_attr,
    has_inherited_table,
    mapped_column,
)
from sqlalchemy.schema import DDL, CreateSchema, SchemaItem
from sqlalchemy.sql.elements import conv

from sqla_jobs.errors import InvalidOption

SCHEMA_VERSION: Final = "0001"
"""The revision of ``migrations/`` that these models are the result of."""

INFO: Final = "sqla_jobs"
"""Key in ``Table.info`` that marks a library table; ``sqla_jobs.alembic`` looks for it."""

QUEUE_PATTERN: Final = "^[A-Za-z0-9_.-]{1,63}$"
DEFAULT_QUEUE: Final = "default"

_EMPTY_OBJECT = text("'{}'::jsonb")
_EMPTY_ARRAY = text("'[]'::jsonb")
_NOW = text("statement_timestamp()")
_ZERO = text("0")
_FALSE = text("false")


def _check(name: str, sql: str) -> CheckConstraint:
    return CheckConstraint(sql, name=conv(name))


def _index(name: str, *columns: Any, where: str, unique: bool = False) -> Index:
    return Index(conv(name), *columns, unique=unique, postgresql_where=text(where))


class JobMixin:
    """The columns, constraints and indexes of a job table, for an application's own ``Base``.

    ``class Job(JobMixin, Base)`` may add columns, relationships, constraints and indexes, and may
    set ``__table_args__ = {"schema": "…"}``; what it says there is merged with the library's.
    The table's name is fixed. A ``Base`` that is a ``MappedAsDataclass`` does not take plain mixins:
    see ``docs/models.md`` for the two lines that solve it.
    """

    if TYPE_CHECKING:  # as every declarative base has it; a subclass without one gets its base's

        def __init__(self, **values: Any) -> None: ...

    @declared_attr.directive
    def __tablename__(cls) -> str | None:  # noqa: N805
        return None if has_inherited_table(cls) else "sqla_jobs"  # type: ignore[arg-type]

    id: Mapped[int] = mapped_column(BigInteger, Identity(), sort_order=-100)
    task: Mapped[str] = mapped_column(Text, sort_order=-99)
    arguments: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY_OBJECT, sort_order=-98)
    queue: Mapped[str] = mapped_column(Text, server_default=text("'default'"), sort_order=-97)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=_ZERO, sort_order=-96)
    state: Mapped[str] = mapped_column(Text, server_default=text("'scheduled'"), sort_order=-95)
    run_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW, sort_order=-94)
    attempt: Mapped[int] = mapped_column(Integer, server_default=_ZERO, sort_order=-93)
    max_attempts: Mapped[int | None] = mapped_column(Integer, sort_order=-92)
    timeout: Mapped[dt.timedelta | None] = mapped_column(Interval, sort_order=-91)
    claim: Mapped[int] = mapped_column(BigInteger, server_default=_ZERO, sort_order=-90)
    crashes: Mapped[int] = mapped_column(Integer, server_default=_ZERO, sort_order=-89)
    worker_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=-88)
    cancel_requested_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-87)
    created_at: Mapped[dt.datetime] = mapped_column(
        DateTime(timezone=True), server_default=_NOW, sort_order=-86
    )
    started_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-85)
    finished_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-84)
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=_EMPTY_ARRAY, sort_order=-83)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), sort_order=-82)
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True), sort_order=-81)
    unique_key: Mapped[str | None] = mapped_column(Text, sort_order=-80)
    unique_scope: Mapped[str | None] = mapped_column(Text, sort_order=-79)
    unique_held: Mapped[bool] = mapped_column(Boolean, server_default=_FALSE, sort_order=-78)
    limit_key: Mapped[str | None] = mapped_column(Text, sort_order=-77)
    schedule_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=-76)
    tick_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-75)

    def __repr__(self) -> str:
        # What is loaded: a repr must not send a query, nor fail on a detached job.
        known = vars(self)
        told = [str(known[name]) for name in ("id", "task", "state") if known.get(name) is not None]
        return f"<{' '.join([type(self).__name__, *told])}>"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A model's own __table_args__ would replace a mixin's, and with it the claim's indexes: merge.
        if not cls.__dict__.get("__abstract__") and not hasattr(cls, "__table__"):
            _refuse_overrides(cls)
            merged = _merge(getattr(cls, "__table_args__", ()), _job_items(), "job")
            cls.__table_args__ = merged  # type: ignore[attr-defined]
        super().__init_subclass__(**kwargs)


def _refuse_overrides(model: type[JobMixin]) -> None:
    name = model.__dict__.get("__tablename__")
    if isinstance(name, str) and name != "sqla_jobs":
        raise InvalidOption(
            f"{model.__name__}.__tablename__ is {name!r}; the job table is always 'sqla_jobs', which the "
            'revisions make: to have it elsewhere, set __table_args__ = {"schema": "…"}'
        )
    if taken := sorted(vars(model).keys() & _columns()):
        raise InvalidOption(
            f"{model.__name__} has attributes of its own with the names of columns of the queue: "
            f"{', '.join(taken)}; give them other names"
        )


@cache
def _columns() -> frozenset[str]:
    return frozenset(name for name, value in vars(JobMixin).items() if isinstance(value, MappedColumn))


def _merge(own: Any, library: tuple[SchemaItem, ...], role: str) -> tuple[Any, ...]:
    items = (own,) if isinstance(own, dict) else tuple(own or ())
    options = dict(items[-1]) if items and isinstance(items[-1], dict) else {}
    if items and isinstance(items[-1], dict):
        items = items[:-1]
    options["info"] = {**options.get("info", {}), INFO: role}
    # A mixin of the application's own, between JobMixin and the model, has them already.
    names = {getattr(item, "name", None) for item in library}
    return (*library, *(item for item in items if getattr(item, "name", None) not in names), options)


def _job_items() -> tuple[SchemaItem, ...]:
    return (
        PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs")),
        _check(
            "ck_sqla_jobs_state",
            "state IN ('scheduled', 'queued', 'running', 'succeeded', 'failed', 'cancelled')",
        ),
        _check(
            "ck_sqla_jobs_finished_at",
            "(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))",
        ),
        _check("ck_sqla_jobs_arguments", "jsonb_typeof(arguments) = 'object'"),
        _check("ck_sqla_jobs_attempts", "jsonb_typeof(attempts) = 'array'"),
        _check("ck_sqla_jobs_queue", f"queue ~ '{QUEUE_PATTERN}'"),
        # No infinity, nor what Python has no datetime for: one such row would fail every claim that meets it.
        _check("ck_sqla_jobs_run_at", "run_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC'"),
        _check("ck_sqla_jobs_attempt", "attempt >= 0"),
        _check("ck_sqla_jobs_max_attempts", "max_attempts >= 1"),
        _check("ck_sqla_jobs_unique_scope", "unique_scope IN ('active', 'queued', 'window')"),
        _index(
            "ix_sqla_jobs_claim", "queue", literal_column("priority DESC"), "run_at", "id",
            where="state = 'queued'",
        ),
        _index(
            "ix_sqla_jobs_claim_any", literal_column("priority DESC"), "run_at", "id",
            where="state = 'queued'",
        ),
        _index("ix_sqla_jobs_promote", "run_at", where="state = 'scheduled'"),
        _index("ix_sqla_jobs_rescue", "worker_id", where="state = 'running'"),
        # state first: a prune of succeeded jobs must not walk over all the failed ones that are kept.
        _index("ix_sqla_jobs_prune", "state", "finished_at", where="finished_at IS NOT NULL"),
        _index("uq_sqla_jobs_unique_key", "unique_key", where="unique_held", unique=True),
        _index(
            "uq_sqla_jobs_tick", "schedule_id", "tick_at", where="schedule_id IS NOT NULL", unique=True
        ),
    )  # fmt: skip


class ScheduleMixin:
    """The columns of ``sqla_jobs_schedules``: one recurring rule, which makes jobs."""

    id: Mapped[int] = mapped_column(BigInteger, Identity())
    name: Mapped[str] = mapped_column(Text)
    task: Mapped[str] = mapped_column(Text)
    arguments: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=_EMPTY_OBJECT)
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
    created_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW)
    updated_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW)


def _schedule_items() -> tuple[SchemaItem, ...]:
    return (
        PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs_schedules")),
        _check("ck_sqla_jobs_schedules_rule", "(cron IS NULL) <> (every IS NULL)"),
        _check("ck_sqla_jobs_schedules_every", "every > '0'::interval"),
        _check("ck_sqla_jobs_schedules_arguments", "jsonb_typeof(arguments) = 'object'"),
        _check("ck_sqla_jobs_schedules_queue", f"queue ~ '{QUEUE_PATTERN}'"),
        _check("ck_sqla_jobs_schedules_max_attempts", "max_attempts >= 1"),
        _check("ck_sqla_jobs_schedules_catch_up", "catch_up IN ('one', 'all', 'none')"),
        _check("ck_sqla_jobs_schedules_overlap", "overlap IN ('allow', 'skip')"),
        Index(conv("uq_sqla_jobs_schedules_name"), "name", unique=True),
        _index("ix_sqla_jobs_schedules_due", "next_run_at", where="enabled"),
    )


class WorkerProcessMixin:
    """The columns of ``sqla_jobs_workers``: one living worker process and what it runs."""

    id: Mapped[int] = mapped_column(BigInteger, Identity())
    host: Mapped[str] = mapped_column(Text)
    pid: Mapped[int] = mapped_column(Integer)
    version: Mapped[str] = mapped_column(Text)
    queues: Mapped[list[str] | None] = mapped_column(JSONB(none_as_null=True))
    """In strict order; null: any queue."""
    threads: Mapped[int] = mapped_column(Integer)
    heartbeat_limit: Mapped[dt.timedelta] = mapped_column(Interval)
    """After this long without a heartbeat anyone may take the process for dead."""
    locked: Mapped[bool] = mapped_column(Boolean, server_default=_FALSE)
    running: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=_EMPTY_ARRAY)
    started_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW)
    heartbeat_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=_NOW)


def _worker_items() -> tuple[SchemaItem, ...]:
    return (
        PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs_workers")),
        _check("ck_sqla_jobs_workers_running", "jsonb_typeof(running) = 'array'"),
    )


class QueueMixin:
    """The columns of ``sqla_jobs_queues``: what is set for a queue; a queue without a row has defaults."""

    name: Mapped[str] = mapped_column(Text)
    paused_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True))


def _queue_items() -> tuple[SchemaItem, ...]:
    return (
        PrimaryKeyConstraint("name", name=conv("pk_sqla_jobs_queues")),
        _check("ck_sqla_jobs_queues_name", f"name ~ '{QUEUE_PATTERN}'"),
    )


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
    __table_args__ = _merge((), _schedule_items(), "schedule")


class WorkerProcess(WorkerProcessMixin, Base):
    """One living worker process: its heartbeat and what it runs."""

    __tablename__ = "sqla_jobs_workers"
    __table_args__ = _merge((), _worker_items(), "worker")


class Queue(QueueMixin, Base):
    """What is set for one queue, e.g. that it is paused."""

    __tablename__ = "sqla_jobs_queues"
    __table_args__ = _merge((), _queue_items(), "queue")


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
        __table_args__ = _merge(placed, _schedule_items(), "schedule")

    class _WorkerProcess(WorkerProcessMixin, SchemaBase):
        __tablename__ = "sqla_jobs_workers"
        __table_args__ = _merge(placed, _worker_items(), "worker")

    class _Queue(QueueMixin, SchemaBase):
        __tablename__ = "sqla_jobs_queues"
        __table_args__ = _merge(placed, _queue_items(), "queue")

    _leave_marker(_table(_WorkerProcess))
    return Companions(schema, _Schedule, _WorkerProcess, _Queue, SchemaBase.metadata)


def _table(model: type[Any]) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


def marker(schema: str | None) -> str:
    """The quoted name of the function whose result says which revision of the tables is there.

    A function, because Alembic does not compare functions: a table it would offer to drop.
    """
    name = "sqla_jobs_schema_version"
    # By hand: a dialect's quoting doubles percent signs for a driver's sake.
    return '"{}".{}'.format(schema.replace('"', '""'), name) if schema else name


def marker_ddl(schema: str | None, version: str | None) -> str:
    """The DDL that makes the marker say ``version``; None: that removes it."""
    if version is None:
        return f"DROP FUNCTION IF EXISTS {marker(schema)}()"
    return (
        f"CREATE OR REPLACE FUNCTION {marker(schema)}() RETURNS text "
        f"LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$SELECT '{version}'::text$$"
    )


def _leave_marker(workers: Table) -> None:
    # On the workers' table, not the jobs': an application's own create_all() makes only the latter,
    # and a worker that starts on half a schema should say so rather than stumble over it.
    for moment, version in (("after_create", SCHEMA_VERSION), ("after_drop", None)):
        ddl = DDL(marker_ddl(workers.schema, version).replace("%", "%%"))  # type: ignore[no-untyped-call]
        event.listen(workers, moment, ddl.execute_if(dialect="postgresql"))


_leave_marker(_table(WorkerProcess))


def create_all(bind: Engine | Connection, model: type[JobMixin]) -> None:
    """Create the tables of a job model and its companions, and their schema, where they are missing."""
    table = _table(model)
    beside = companions(table.schema)
    if isinstance(bind, Engine):
        with bind.begin() as connection:
            create_all(connection, model)
        return
    if table.schema is not None and not inspect(bind).has_schema(table.schema):
        bind.execute(CreateSchema(table.schema, if_not_exists=True))
    table.create(bind, checkfirst=True)
    companion_tables = [_table(each) for each in (beside.Schedule, beside.WorkerProcess, beside.Queue)]
    beside.metadata.create_all(bind, companion_tables)
