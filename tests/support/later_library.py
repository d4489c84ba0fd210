"""A copy of the package as its next version might be: one more revision, and the models to match."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqla_jobs

REVISION = Path(__file__).parents[1] / "alembic_app" / "later" / "0005_notes.py"

NOTE = """
class Note(Base):
    __tablename__ = "sqla_jobs_notes"
    __table_args__ = merge(
        (), (PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs_notes")),), "note"
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity())
    job_id: Mapped[int] = mapped_column(ForeignKey(Job.id, name=conv("fk_sqla_jobs_notes_job_id")))
    note: Mapped[str | None] = mapped_column(Text)


class Queue("""

EDITS = {
    "version.py": {'SCHEMA_VERSION: Final = "0004"': 'SCHEMA_VERSION: Final = "0005"'},
    "job.py": {
        "    Identity,\n": "    Identity,\n    Index,\n",
        'conv("pk_sqla_jobs")': 'conv("pk_sqla_jobs")), Index(conv("ix_sqla_jobs_note"), "note"',
        '"attempt >= 0"': '"attempt >= 0 AND attempt < 1000"',
        "    def __init_subclass__(": (
            "    note: Mapped[str | None] = mapped_column(Text, sort_order=-73)\n\n    def __init_subclass__("
        ),
    },
    "mapped.py": {
        "from sqlalchemy import ": (
            "from sqlalchemy import BigInteger, ForeignKey, Identity, PrimaryKeyConstraint, Text\n"
            "from sqlalchemy.orm import Mapped, mapped_column\n"
            "from sqlalchemy.sql.elements import conv\n"
            "from sqlalchemy import "
        ),
        "\nclass Queue(": NOTE,
    },
}


def later_library(folder: Path) -> Path:
    """Copy the package into ``folder``, one revision ahead; returns the folder, for PYTHONPATH."""
    package = folder / "sqla_jobs"
    shutil.copytree(Path(sqla_jobs.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REVISION, package / "migrations" / "versions")
    for name, edits in EDITS.items():
        module = package / "models" / name
        source = module.read_text()
        for old, new in edits.items():
            assert source.count(old) == 1, f"{name} has {source.count(old)} times {old!r}, expected once"
            source = source.replace(old, new)
        module.write_text(source)
    return folder
