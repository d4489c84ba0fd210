"""A job's row says what is to be known of it beside its call."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from sqla_jobs.migrations import Brought, leave_marker, target_schema

revision = "sqla_jobs_0004"
down_revision = "sqla_jobs_0003"
branch_labels = None
depends_on = None

brought = Brought(columns={"sqla_jobs": "meta"})


def upgrade() -> None:
    """Add ``meta``, null in the rows that are there: none is written, but the lock waits for running jobs."""
    op.add_column("sqla_jobs", sa.Column("meta", JSONB()), schema=target_schema())
    leave_marker(revision)


def downgrade() -> None:
    """Take it back."""
    op.drop_column("sqla_jobs", "meta", schema=target_schema())
    leave_marker(down_revision)
