"""The job table, its schedules, worker processes and queues."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.migrations import Brought, leave_marker, make_schema, remove_marker, target_schema

revision = "sqla_jobs_0001"
down_revision = None
branch_labels = ("sqla_jobs",)
depends_on = None

brought = Brought(
    columns={
        "sqla_jobs": (
            "id task arguments queue priority state run_at attempt max_attempts timeout claim crashes"
            " worker_id cancel_requested_at created_at started_at finished_at attempts progress result"
            " unique_key unique_scope unique_held limit_key schedule_id tick_at"
        ),
        "sqla_jobs_schedules": (
            "id name task arguments queue priority max_attempts timeout cron timezone every jitter catch_up"
            " overlap enabled definition next_run_at last_tick_at created_at updated_at"
        ),
        "sqla_jobs_workers": (
            "id host pid version queues threads heartbeat_limit locked running started_at heartbeat_at"
        ),
        "sqla_jobs_queues": "name paused_at",
    },
    constraints={
        "sqla_jobs": (
            "pk_sqla_jobs ck_sqla_jobs_state ck_sqla_jobs_finished_at ck_sqla_jobs_arguments"
            " ck_sqla_jobs_attempts ck_sqla_jobs_queue ck_sqla_jobs_run_at ck_sqla_jobs_attempt"
            " ck_sqla_jobs_max_attempts ck_sqla_jobs_unique_scope"
        ),
        "sqla_jobs_schedules": (
            "pk_sqla_jobs_schedules ck_sqla_jobs_schedules_rule ck_sqla_jobs_schedules_every"
            " ck_sqla_jobs_schedules_arguments ck_sqla_jobs_schedules_queue"
            " ck_sqla_jobs_schedules_max_attempts ck_sqla_jobs_schedules_catch_up"
            " ck_sqla_jobs_schedules_overlap"
        ),
        "sqla_jobs_workers": "pk_sqla_jobs_workers ck_sqla_jobs_workers_running",
        "sqla_jobs_queues": "pk_sqla_jobs_queues ck_sqla_jobs_queues_name",
    },
    indexes={
        "sqla_jobs": (
            "ix_sqla_jobs_claim ix_sqla_jobs_claim_any ix_sqla_jobs_promote ix_sqla_jobs_rescue"
            " ix_sqla_jobs_prune uq_sqla_jobs_unique_key uq_sqla_jobs_tick"
        ),
        "sqla_jobs_schedules": "uq_sqla_jobs_schedules_name ix_sqla_jobs_schedules_due",
    },
)

QUEUE = "'^[A-Za-z0-9_.-]{1,63}$'"


def upgrade() -> None:
    """Make the four tables."""
    make_schema()
    _jobs()
    _schedules()
    _workers()
    _queues()
    leave_marker(revision)


def downgrade() -> None:
    """Drop the four tables. The schema stays: the application may have made it, or use it."""
    for table in ("sqla_jobs_queues", "sqla_jobs_workers", "sqla_jobs_schedules", "sqla_jobs"):
        op.drop_table(table, schema=target_schema())
    remove_marker()


def _jobs() -> None:
    op.create_table(
        "sqla_jobs",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("arguments", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("queue", sa.Text(), server_default=sa.text("'default'"), nullable=False),
        sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("state", sa.Text(), server_default=sa.text("'scheduled'"), nullable=False),
        _moment("run_at", default="statement_timestamp()"),
        sa.Column("attempt", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("max_attempts", sa.Integer()),
        sa.Column("timeout", sa.Interval()),
        sa.Column("claim", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("crashes", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("worker_id", sa.BigInteger()),
        _moment("cancel_requested_at"),
        _moment("created_at", default="statement_timestamp()"),
        _moment("started_at"),
        _moment("finished_at"),
        sa.Column("attempts", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        sa.Column("progress", JSONB()),
        sa.Column("result", JSONB()),
        sa.Column("unique_key", sa.Text()),
        sa.Column("unique_scope", sa.Text()),
        sa.Column("unique_held", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("limit_key", sa.Text()),
        sa.Column("schedule_id", sa.BigInteger()),
        _moment("tick_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sqla_jobs")),
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
        _check("ck_sqla_jobs_queue", f"queue ~ {QUEUE}"),
        _check("ck_sqla_jobs_run_at", "run_at BETWEEN '0001-01-02 UTC' AND '9999-12-30 UTC'"),
        _check("ck_sqla_jobs_attempt", "attempt >= 0"),
        _check("ck_sqla_jobs_max_attempts", "max_attempts >= 1"),
        _check("ck_sqla_jobs_unique_scope", "unique_scope IN ('active', 'queued', 'window')"),
        schema=target_schema(),
    )
    _index("ix_sqla_jobs_claim", "queue", "priority DESC", "run_at", "id", where="state = 'queued'")
    _index("ix_sqla_jobs_claim_any", "priority DESC", "run_at", "id", where="state = 'queued'")
    _index("ix_sqla_jobs_promote", "run_at", where="state = 'scheduled'")
    _index("ix_sqla_jobs_rescue", "worker_id", where="state = 'running'")
    _index("ix_sqla_jobs_prune", "state", "finished_at", where="finished_at IS NOT NULL")
    _index("uq_sqla_jobs_unique_key", "unique_key", where="unique_held", unique=True)
    _index("uq_sqla_jobs_tick", "schedule_id", "tick_at", where="schedule_id IS NOT NULL", unique=True)


def _schedules() -> None:
    op.create_table(
        "sqla_jobs_schedules",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("task", sa.Text(), nullable=False),
        sa.Column("arguments", JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
        sa.Column("queue", sa.Text()),
        sa.Column("priority", sa.SmallInteger()),
        sa.Column("max_attempts", sa.Integer()),
        sa.Column("timeout", sa.Interval()),
        sa.Column("cron", sa.Text()),
        sa.Column("timezone", sa.Text(), server_default=sa.text("'UTC'"), nullable=False),
        sa.Column("every", sa.Interval()),
        sa.Column("jitter", sa.Interval()),
        sa.Column("catch_up", sa.Text(), server_default=sa.text("'one'"), nullable=False),
        sa.Column("overlap", sa.Text(), server_default=sa.text("'allow'"), nullable=False),
        sa.Column("enabled", sa.Boolean(), server_default=sa.text("true"), nullable=False),
        sa.Column("definition", JSONB()),
        _moment("next_run_at"),
        _moment("last_tick_at"),
        _moment("created_at", default="statement_timestamp()"),
        _moment("updated_at", default="statement_timestamp()"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sqla_jobs_schedules")),
        _check("ck_sqla_jobs_schedules_rule", "(cron IS NULL) <> (every IS NULL)"),
        _check("ck_sqla_jobs_schedules_every", "every > '0'::interval"),
        _check("ck_sqla_jobs_schedules_arguments", "jsonb_typeof(arguments) = 'object'"),
        _check("ck_sqla_jobs_schedules_queue", f"queue ~ {QUEUE}"),
        _check("ck_sqla_jobs_schedules_max_attempts", "max_attempts >= 1"),
        _check("ck_sqla_jobs_schedules_catch_up", "catch_up IN ('one', 'all', 'none')"),
        _check("ck_sqla_jobs_schedules_overlap", "overlap IN ('allow', 'skip')"),
        schema=target_schema(),
    )
    _index("uq_sqla_jobs_schedules_name", "name", table="sqla_jobs_schedules", unique=True)
    _index("ix_sqla_jobs_schedules_due", "next_run_at", table="sqla_jobs_schedules", where="enabled")


def _workers() -> None:
    op.create_table(
        "sqla_jobs_workers",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("host", sa.Text(), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.Text(), nullable=False),
        sa.Column("queues", JSONB()),
        sa.Column("threads", sa.Integer(), nullable=False),
        sa.Column("heartbeat_limit", sa.Interval(), nullable=False),
        sa.Column("locked", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("running", JSONB(), server_default=sa.text("'[]'::jsonb"), nullable=False),
        _moment("started_at", default="statement_timestamp()"),
        _moment("heartbeat_at", default="statement_timestamp()"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sqla_jobs_workers")),
        _check("ck_sqla_jobs_workers_running", "jsonb_typeof(running) = 'array'"),
        schema=target_schema(),
    )


def _queues() -> None:
    op.create_table(
        "sqla_jobs_queues",
        sa.Column("name", sa.Text(), nullable=False),
        _moment("paused_at"),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_sqla_jobs_queues")),
        _check("ck_sqla_jobs_queues_name", f"name ~ {QUEUE}"),
        schema=target_schema(),
    )


def _moment(name: str, *, default: str | None = None) -> sa.Column[object]:
    return sa.Column(
        name,
        sa.DateTime(timezone=True),
        server_default=sa.text(default) if default else None,
        nullable=default is None,
    )


def _check(name: str, sql: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(sql, name=op.f(name))


def _index(
    name: str, *columns: str, where: str | None = None, unique: bool = False, table: str = "sqla_jobs"
) -> None:
    op.create_index(
        op.f(name),
        table,
        [sa.text(column) if " " in column else column for column in columns],
        unique=unique,
        postgresql_where=sa.text(where) if where else None,
        schema=target_schema(),
    )
