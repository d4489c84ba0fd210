"""A later library revision as one may come: a column, a changed CHECK, an index, a table."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from sqla_jobs.migrations import Brought, leave_marker, target_schema

revision = "sqla_jobs_0005"
down_revision = "sqla_jobs_0004"
branch_labels = None
depends_on = None

brought = Brought(
    columns={"sqla_jobs": "note", "sqla_jobs_notes": "id job_id note"},
    constraints={"sqla_jobs_notes": "pk_sqla_jobs_notes fk_sqla_jobs_notes_job_id"},
    indexes={"sqla_jobs": "ix_sqla_jobs_note"},
)


def upgrade() -> None:
    op.add_column("sqla_jobs", sa.Column("note", sa.Text()), schema=target_schema())
    _attempt("attempt >= 0 AND attempt < 1000")
    op.create_index(op.f("ix_sqla_jobs_note"), "sqla_jobs", ["note"], schema=target_schema())
    job = f"{target_schema()}.sqla_jobs.id" if target_schema() else "sqla_jobs.id"
    op.create_table(
        "sqla_jobs_notes",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("job_id", sa.BigInteger(), nullable=False),
        sa.Column("note", sa.Text()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_sqla_jobs_notes")),
        sa.ForeignKeyConstraint(["job_id"], [job], name=op.f("fk_sqla_jobs_notes_job_id")),
        schema=target_schema(),
    )
    leave_marker(revision)


def downgrade() -> None:
    op.drop_table("sqla_jobs_notes", schema=target_schema())
    op.drop_index(op.f("ix_sqla_jobs_note"), "sqla_jobs", schema=target_schema())
    _attempt("attempt >= 0")
    op.drop_column("sqla_jobs", "note", schema=target_schema())
    leave_marker(down_revision)


def _attempt(condition: str) -> None:
    name = op.f("ck_sqla_jobs_attempt")
    op.drop_constraint(name, "sqla_jobs", type_="check", schema=target_schema())
    op.create_check_constraint(name, "sqla_jobs", condition, schema=target_schema())
