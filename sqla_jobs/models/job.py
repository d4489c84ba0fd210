"""The job table, on whichever declarative base."""

from __future__ import annotations

import datetime as dt
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    ColumnElement,
    DateTime,
    Identity,
    Integer,
    Interval,
    PrimaryKeyConstraint,
    SmallInteger,
    Text,
    case,
    func,
    literal_column,
    text,
    type_coerce,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, MappedColumn, declared_attr, has_inherited_table, mapped_column
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import conv

from sqla_jobs.errors import InvalidOption
from sqla_jobs.models.storage import Storage
from sqla_jobs.models.terms import (
    EMPTY_ARRAY,
    EMPTY_OBJECT,
    FALSE,
    NOW,
    QUEUE_PATTERN,
    ZERO,
    check,
    index,
    merge,
)

AUTOVACUUM: Final = Storage(autovacuum_vacuum_scale_factor=0.02, autovacuum_analyze_scale_factor=0.02)
"""Storage parameters of the job table; a model's own ``postgresql_with`` may say otherwise.

Each job leaves an entry in the claim's index that only VACUUM takes away, and all of them lie before the next
job: the cost of a claim grows with every job since the last VACUUM, and the server's default is to wait for
as many dead rows as a fifth of all rows that are kept. Beside 1,000,000 kept jobs a claim reads 4 pages
after a VACUUM, up to 53 with 20,000 dead rows, 571 with 200,000. Not lower than 0.02: a VACUUM that finds
dead rows on less than 2 % of the pages leaves the indexes as they are. And ANALYZE: how many jobs are
queued changes within minutes, however many finished ones are kept. docs/migrations.md has the figures, and
what is left to the server's settings.
"""

_DUPLICATE: Final = "_sqla_jobs_duplicate"


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
    arguments: Mapped[dict[str, Any]] = mapped_column(JSONB, server_default=EMPTY_OBJECT, sort_order=-98)
    queue: Mapped[str] = mapped_column(Text, server_default=text("'default'"), sort_order=-97)
    priority: Mapped[int] = mapped_column(SmallInteger, server_default=ZERO, sort_order=-96)
    state: Mapped[str] = mapped_column(Text, server_default=text("'scheduled'"), sort_order=-95)
    run_at: Mapped[dt.datetime] = mapped_column(DateTime(timezone=True), server_default=NOW, sort_order=-94)
    attempt: Mapped[int] = mapped_column(Integer, server_default=ZERO, sort_order=-93)
    max_attempts: Mapped[int | None] = mapped_column(Integer, sort_order=-92)
    timeout: Mapped[dt.timedelta | None] = mapped_column(Interval, sort_order=-91)
    claim: Mapped[int] = mapped_column(BigInteger, server_default=ZERO, sort_order=-90)
    crashes: Mapped[int] = mapped_column(Integer, server_default=ZERO, sort_order=-89)
    worker_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=-88)
    cancel_requested_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-87)
    created_at: Mapped[dt.datetime] = mapped_column(
        DateTime(timezone=True), server_default=NOW, sort_order=-86
    )
    started_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-85)
    finished_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-84)
    attempts: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=EMPTY_ARRAY, sort_order=-83)
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), sort_order=-82)
    result: Mapped[Any | None] = mapped_column(JSONB(none_as_null=True), sort_order=-81)
    unique_key: Mapped[str | None] = mapped_column(Text, sort_order=-80)
    unique_scope: Mapped[str | None] = mapped_column(Text, sort_order=-79)
    unique_held: Mapped[bool] = mapped_column(Boolean, server_default=FALSE, sort_order=-78)
    limit_key: Mapped[str | None] = mapped_column(Text, sort_order=-77)
    schedule_id: Mapped[int | None] = mapped_column(BigInteger, sort_order=-76)
    tick_at: Mapped[dt.datetime | None] = mapped_column(DateTime(timezone=True), sort_order=-75)
    meta: Mapped[dict[str, Any] | None] = mapped_column(JSONB(none_as_null=True), sort_order=-74)

    @property
    def duplicate(self) -> bool:
        """Whether the last ``enqueue`` that gave this object made no new job: this one holds the key."""
        return bool(vars(self).get(_DUPLICATE))

    def mark_duplicate(self) -> None:
        """Let `duplicate` be true; no column, and gone with the object."""
        vars(self)[_DUPLICATE] = True

    @hybrid_property
    def is_finished(self) -> bool:
        """Whether it is ``succeeded``, ``failed`` or ``cancelled``."""
        return self.finished_at is not None

    @is_finished.inplace.expression
    @classmethod
    def _is_finished(cls) -> ColumnElement[bool]:
        return cls.finished_at.is_not(None)

    @hybrid_property
    def duration(self) -> dt.timedelta | None:
        """From the begin of the last attempt to the end of the job; None: no end, or never begun."""
        if self.finished_at is None or self.started_at is None:
            return None
        return self.finished_at - self.started_at

    @duration.inplace.expression
    @classmethod
    def _duration(cls) -> ColumnElement[dt.timedelta | None]:
        return type_coerce(cls.finished_at - cls.started_at, Interval)

    @hybrid_property
    def wait(self) -> dt.timedelta | None:
        """From when it could have been begun, enqueued and due, to the begin of the last attempt.

        None: it was not begun yet, or waits for the next attempt.
        """
        if self.started_at is None or self.started_at < (ready := max(self.run_at, self.created_at)):
            return None
        return self.started_at - ready

    @wait.inplace.expression
    @classmethod
    def _wait(cls) -> ColumnElement[dt.timedelta | None]:
        ready = func.greatest(cls.run_at, cls.created_at, type_=DateTime(timezone=True))
        return type_coerce(case((cls.started_at >= ready, cls.started_at - ready)), Interval)

    def __repr__(self) -> str:
        # What is loaded: a repr must not send a query, nor fail on a detached job.
        known = vars(self)
        told = [str(known[name]) for name in ("id", "task", "state") if known.get(name) is not None]
        return f"<{' '.join([type(self).__name__, *told])}>"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        # A model's own __table_args__ would replace a mixin's, and with it the claim's indexes: merge.
        if not cls.__dict__.get("__abstract__") and not hasattr(cls, "__table__"):
            _refuse_overrides(cls)
            merged = merge(getattr(cls, "__table_args__", ()), job_items(), "job", AUTOVACUUM)
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


def job_items() -> tuple[SchemaItem, ...]:
    """The constraints and indexes of ``sqla_jobs``."""
    return (
        PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs")),
        check(
            "ck_sqla_jobs_state",
            "state IN ('scheduled', 'queued', 'running', 'succeeded', 'failed', 'cancelled')",
        ),
        check(
            "ck_sqla_jobs_finished_at",
            "(finished_at IS NOT NULL) = (state IN ('succeeded', 'failed', 'cancelled'))",
        ),
        check("ck_sqla_jobs_arguments", "jsonb_typeof(arguments) = 'object'"),
        check("ck_sqla_jobs_attempts", "jsonb_typeof(attempts) = 'array'"),
        check("ck_sqla_jobs_queue", f"queue ~ '{QUEUE_PATTERN}'"),
        # No infinity, nor what Python has no datetime for: one such row would fail every claim that meets it.
        check("ck_sqla_jobs_run_at", "run_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC'"),
        check("ck_sqla_jobs_attempt", "attempt >= 0"),
        check("ck_sqla_jobs_max_attempts", "max_attempts >= 1"),
        check("ck_sqla_jobs_unique_scope", "unique_scope IN ('active', 'queued', 'window')"),
        index(
            "ix_sqla_jobs_claim", "queue", literal_column("priority DESC"), "run_at", "id",
            where="state = 'queued'",
        ),
        index(
            "ix_sqla_jobs_claim_any", literal_column("priority DESC"), "run_at", "id",
            where="state = 'queued'",
        ),
        index("ix_sqla_jobs_promote", "run_at", where="state = 'scheduled'"),
        index("ix_sqla_jobs_rescue", "worker_id", where="state = 'running'"),
        # state first: a prune of succeeded jobs must not walk over all the failed ones that are kept.
        index("ix_sqla_jobs_prune", "state", "finished_at", where="finished_at IS NOT NULL"),
        index("uq_sqla_jobs_unique_key", "unique_key", where="unique_held", unique=True),
        index(
            "uq_sqla_jobs_tick", "schedule_id", "tick_at", where="schedule_id IS NOT NULL", unique=True
        ),
    )  # fmt: skip
