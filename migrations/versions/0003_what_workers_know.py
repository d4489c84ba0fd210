"""A worker's row says which tasks and schedules its code has."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.migrations import Brought, leave_marker, target_schema

revision = "sqla_jobs_0003"
down_revision = "sqla_jobs_0002"
branch_labels = None
depends_on = None

brought = Brought(columns={"sqla_jobs_workers": "tasks schedules"})


def upgrade() -> None:
    """Add ``tasks`` and ``schedules``; null in the rows of workers that run already."""
    for name in ("tasks", "schedules"):
        op.add_column("sqla_jobs_workers", sa.Column(name, JSONB()), schema=target_schema())
    leave_marker(revision)


def downgrade() -> None:
    """Take both back."""
    for name in ("schedules", "tasks"):
        op.drop_column("sqla_jobs_workers", name, schema=target_schema())
    leave_marker(down_revision)
