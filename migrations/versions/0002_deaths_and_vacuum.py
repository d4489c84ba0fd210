"""Workers that have just died stay visible for a minute; the job table is vacuumed often enough."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sqla_jobs.migrations import Brought, leave_marker, reset_storage, set_storage, target_schema

revision = "sqla_jobs_0002"
down_revision = "sqla_jobs_0001"
branch_labels = None
depends_on = None

brought = Brought(columns={"sqla_jobs_workers": "died_at"})

# Of the job table. The default, a fifth of all rows that are kept, is for tables which do not turn over: see
# sqla_jobs.models.job. In this order, which pg_dump shows.
STORAGE = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.02"}


def upgrade() -> None:
    """Add ``died_at``, and set when the job table is vacuumed and analyzed."""
    op.add_column(
        "sqla_jobs_workers", sa.Column("died_at", sa.DateTime(timezone=True)), schema=target_schema()
    )
    set_storage("sqla_jobs", STORAGE)
    leave_marker(revision)


def downgrade() -> None:
    """Take both back. Without the column a row is a living worker, so those of the dead go first."""
    workers = sa.table("sqla_jobs_workers", sa.column("died_at"), schema=target_schema())
    op.execute(workers.delete().where(workers.c.died_at.is_not(None)))
    op.drop_column("sqla_jobs_workers", "died_at", schema=target_schema())
    reset_storage("sqla_jobs", STORAGE)
    leave_marker(down_revision)
