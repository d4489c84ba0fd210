"""A later version of the library, one revision ahead, reaches an application by its own autogenerate."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqla_jobs import migrations
from sqla_jobs.errors import SchemaError
from tests.support.alembic_app import AlembicApp, copy_app
from tests.support.later_library import later_library
from tests.support.python import python
from tests.support.server import Database


def installed_app(folder: Path, database: Database, **environment: str) -> AlembicApp:
    """The sample application with the job queue of the present version in its second revision."""
    app = copy_app(folder, database, **environment)
    app.run("upgrade", "head")
    app.revise("shop0002")
    app.run("upgrade", "head")
    return app


def test_flows_in_by_autogenerate_and_out_by_downgrade(empty_database: Database, tmp_path: Path) -> None:
    app = installed_app(tmp_path / "app", empty_database)
    before = app.objects()
    app.library = later_library(tmp_path / "later")

    # A new version of the library alone breaks no deployment: its revision waits until it is asked for.
    app.run("upgrade", "head")
    assert app.objects() == before
    assert "('sqla_jobs_upgrade', '0004', '0005', None)]" in app.fails("check")

    assert app.revise("shop0003") == (
        ["sqla_jobs.migrations.upgrade('0005', since='0004')"],
        ["sqla_jobs.migrations.downgrade('0004', since='0005')"],
    )
    app.run("upgrade", "head")
    assert "No new upgrade operations" in app.run("check")

    app.run("downgrade", "-1")
    assert app.objects() == before
    app.run("downgrade", "base")
    assert app.objects() == []


def test_with_an_own_job_model_in_a_schema(empty_database: Database, tmp_path: Path) -> None:
    app = installed_app(tmp_path / "app", empty_database, SHOP_MODELS="own_job", SHOP_SCHEMA="jobs")
    before = app.objects()
    app.library = later_library(tmp_path / "later")

    # In the same revision: the application's column comes after the library's, and goes before it.
    app.environment["SHOP_LATER"] = "1"
    add = "op.add_column('sqla_jobs', sa.Column('later', sa.Text(), nullable=True), schema='jobs')"
    assert app.revise("shop0003") == (
        ["sqla_jobs.migrations.upgrade('0005', since='0004', schema='jobs')", add],
        [
            "op.drop_column('sqla_jobs', 'later', schema='jobs')",
            "sqla_jobs.migrations.downgrade('0004', since='0005', schema='jobs')",
        ],
    )
    app.run("upgrade", "head")
    assert "No new upgrade operations" in app.run("check")
    app.run("downgrade", "-1")
    assert app.objects() == before


def test_a_worker_is_told_that_the_tables_are_behind(empty_database: Database, tmp_path: Path) -> None:
    migrations.migrate(empty_database.engine, schema="jobs")
    later = later_library(tmp_path)
    said = python(
        """
        import os, sqlalchemy
        from sqla_jobs import errors, migrations
        engine = sqlalchemy.create_engine(os.environ["DATABASE_URL"])
        with engine.connect() as connection:
            try:
                migrations.check(connection, "jobs")
            except errors.SchemaError as error:
                print(error)
        print(migrations.migrate(engine, schema="jobs"))
        with engine.connect() as connection:
            migrations.check(connection, "jobs")
        print(migrations.migrate(engine, to="0004", schema="jobs"))
        """,
        library=later,
        database=empty_database,
    )
    complaint, up, down = said.splitlines()
    assert complaint.startswith(
        'The sqla_jobs tables in schema "jobs" are at revision 0004, and this version'
    )
    assert "of sqla_jobs needs 0005." in complaint
    assert "alembic revision --autogenerate" in complaint
    assert "`sqla-jobs migrate --schema jobs`" in complaint
    assert (up, down) == ("0005", "0004")


def test_an_older_library_says_that_the_database_is_ahead_of_it(
    empty_database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = copy_app(tmp_path / "app", empty_database)
    older, app.library = app.library, later_library(tmp_path / "later")
    app.run("upgrade", "head")
    upgrade, _ = app.revise("shop0002")
    assert upgrade[0] == "sqla_jobs.migrations.upgrade('0005')"
    app.run("upgrade", "head")
    app.library = older

    said = "are at revision 0005, which this version of sqla_jobs does not know (its newest is 0004)"
    assert said in app.fails("check")
    with pytest.raises(SchemaError, match="pip install --upgrade sqla-jobs"):
        migrations.migrate(empty_database.engine)
    # A worker of the old version, started once more in the middle of a rolling deploy, is let in.

    with empty_database.engine.connect() as connection:
        migrations.check(connection)
    assert [record.revision for record in caplog.records if record.name == migrations.__name__] == ["0005"]
