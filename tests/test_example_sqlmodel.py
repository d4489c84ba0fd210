"""docs/examples/sqlmodel, run as its README says, on tables by autogenerate; and what that page claims."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.program import ROOT, Program
from tests.support.program import run as sqla_jobs
from tests.support.server import Database

EXAMPLE = ROOT / "docs" / "examples" / "sqlmodel"

pytest.importorskip("sqlmodel", reason="needs sqlmodel, of the extra `test`")
pytestmark = pytest.mark.timeout(300)  # ten processes, on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "heroes"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "migrations" / "versions").mkdir()
    return copy


def python(folder: Path, database: Database, *arguments: str) -> str:
    with Program(*arguments, folder=folder, environment={"DATABASE_URL": database.url_string}) as program:
        assert program.wait() == 0, program.errors
    return program.output + program.errors


def test_heroes_are_promoted(folder: Path, empty_database: Database) -> None:
    alembic = ("-m", "alembic")
    python(folder, empty_database, *alembic, "revision", "--autogenerate", "-m", "heroes and jobs")
    [revision] = (folder / "migrations" / "versions").glob("*.py")
    assert "sqla_jobs.migrations.upgrade(" in revision.read_text()
    python(folder, empty_database, *alembic, "upgrade", "head")
    assert "No new upgrade operations" in python(folder, empty_database, *alembic, "check")

    python(folder, empty_database, "enlist.py", "Deadpond", "Rusty-Man")
    found = empty_database.rows("SELECT task, arguments, hero_id, state FROM sqla_jobs ORDER BY id")
    assert found == [("tasks.promote", {"hero": each}, each, "queued") for each in (1, 2)]
    worker = sqla_jobs(
        "worker", "tasks:jobs", "--drain", folder=folder, DATABASE_URL=empty_database.url_string
    )
    assert worker.code == 0, worker.errors
    assert empty_database.rows("SELECT state FROM sqla_jobs") == [("succeeded",)] * 2
    assert sorted(empty_database.rows("SELECT name, rank FROM hero")) == [("Deadpond", 1), ("Rusty-Man", 2)]
    promoted = "SELECT hero_id FROM promotion JOIN sqla_jobs USING (hero_id) WHERE job_id = sqla_jobs.id"
    assert sorted(empty_database.rows(promoted)) == [(1,), (2,)]

    empty_database.execute("DELETE FROM sqla_jobs WHERE hero_id = 1")
    assert empty_database.scalar("SELECT count(*) FROM promotion WHERE job_id IS NULL") == 1
    empty_database.execute("DELETE FROM hero WHERE id = 2")
    assert empty_database.scalar("SELECT count(*) FROM sqla_jobs") == 0

    python(folder, empty_database, *alembic, "downgrade", "base")
    tables = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    assert empty_database.rows(tables) == [("alembic_version",)]


CLAIMS = """
from sqlalchemy import Column, ForeignKey
from sqlalchemy.orm import configure_mappers
from sqlmodel import Field, Relationship, Session, SQLModel, create_engine, select

from models import HeroJob
from sqla_jobs import Job, JobMixin, Jobs

try:
    class Direct(JobMixin, SQLModel, table=True): ...
except Exception as error:
    assert "Mapped" in str(error), error
else:
    raise AssertionError("SQLModel takes JobMixin now: let the README say so")


class Related(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    job_id: int | None = Field(default=None, foreign_key="sqla_jobs.id")
    job: HeroJob | None = Relationship()


class Alone(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    job_id: int | None = Field(sa_column=Column(ForeignKey(Job.id)))


class Page(SQLModel):
    title: str


configure_mappers()
assert Related.job.property.entity.class_ is HeroJob
assert list(Alone.__table__.c.job_id.foreign_keys)[0].column is Job.__table__.c.id

jobs = Jobs()


@jobs.task(name="print")
def print_page(session: Session, page: Page) -> None: ...


assert print_page.job(Page(title="a")).arguments == {"page": {"title": "a"}}
print(select(HeroJob).where(HeroJob.task == "x"))
"""


def test_what_the_readme_claims(folder: Path, empty_database: Database) -> None:
    (folder / "claims.py").write_text(CLAIMS)
    assert "FROM sqla_jobs" in python(folder, empty_database, "claims.py")
