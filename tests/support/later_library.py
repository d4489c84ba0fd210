"""A copy of the package as its next version might be: one more revision, and the models to match."""

from __future__ import annotations

import shutil
from pathlib import Path

import sqla_jobs

REVISION = Path(__file__).parents[1] / "alembic_app" / "later" / "0002_notes.py"

NOTE = """
class Note(Base):
    __tablename__ = "sqla_jobs_notes"
    __table_args__ = _merge(
        (), (PrimaryKeyConstraint("id", name=conv("pk_sqla_jobs_notes")),), "note"
    )
    id: Mapped[int] = mapped_column(BigInteger, Identity())
    job_id: Mapped[int] = mapped_column(ForeignKey(Job.id, name=conv("fk_sqla_jobs_notes_job_id")))
    note: Mapped[str | None] = mapped_column(Text)


class Queue("""

EDITS = {
    'SCHEMA_VERSION: Final = "0001"': 'SCHEMA_VERSION: Final = "0002"',
    "    Identity,\n": "    ForeignKey,\n    Identity,\n",
    'conv("pk_sqla_jobs")': 'conv("pk_sqla_jobs")), Index(conv("ix_sqla_jobs_note"), "note"',
    '"attempt >= 0"': '"attempt >= 0 AND attempt < 1000"',
    "    def __init_subclass__(": (
        "    note: Mapped[str | None] = mapped_column(Text, sort_order=-74)\n\n    def __init_subclass__("
    ),
    "\nclass Queue(": NOTE,
}


def later_library(folder: Path) -> Path:
    """Copy the package into ``folder``, one revision ahead; returns the folder, for PYTHONPATH."""
    package = folder / "sqla_jobs"
    shutil.copytree(Path(sqla_jobs.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REVISION, package / "migrations" / "versions")
    models = package / "models.py"
    source = models.read_text()
    for old, new in EDITS.items():
        assert source.count(old) == 1, f"models.py has {source.count(old)} times {old!r}, expected once"
        source = source.replace(old, new)
    models.write_text(source)
    return folder
