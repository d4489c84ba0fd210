"""The life of the library's tables in an application with Alembic, by the real `alembic` command."""

from __future__ import annotations

from pathlib import Path

import pytest

from sqla_jobs import migrations
from sqla_jobs.errors import SchemaError
from tests.support.alembic_app import AlembicApp, copy_app, dump, psql
from tests.support.pages import blocks
from tests.support.python import python
from tests.support.server import Database, fresh_database
from tests.support.waiting import until_lock_waiters

CLEAN = "No new upgrade operations detected"


@pytest.fixture
def app(tmp_path: Path, empty_database: Database) -> AlembicApp:
    """The sample application at its own first revision, from before it had a job queue."""
    app = copy_app(tmp_path / "app", empty_database)
    app.run("upgrade", "head")
    return app


def test_autogenerate_writes_the_upgrade_and_downgrade_leaves_nothing(app: AlembicApp) -> None:
    before = app.objects()
    assert "[('sqla_jobs_upgrade', None, '0004', None), ('add_table', Table('reports'" in app.fails("check")

    upgrade, downgrade = app.revise("shop0002")
    # The library's tables first, since the application's refer to them; and the other way round.
    assert [line.split("(")[0] for line in upgrade] == ["sqla_jobs.migrations.upgrade", "op.create_table"]
    assert [line.split("(")[0] for line in downgrade] == ["op.drop_table", "sqla_jobs.migrations.downgrade"]
    assert upgrade[0] == "sqla_jobs.migrations.upgrade('0004')"
    assert downgrade[1] == "sqla_jobs.migrations.downgrade('base', since='0004')"
    assert "import sqla_jobs.migrations" in app.file("shop0002").read_text()

    app.run("upgrade", "head")
    assert app.run("heads").split() == ["shop0002", "(head)"]
    assert CLEAN in app.run("check")
    assert app.revise("shop0003") == (["pass"], ["pass"])
    with app.database.engine.connect() as connection:
        migrations.check(connection)

    app.run("upgrade", "head")
    app.run("downgrade", "shop0001")
    assert app.objects() == before


def test_offline_sql_makes_the_same_tables(app: AlembicApp) -> None:
    app.revise("shop0002")
    app.run("upgrade", "head")
    made = dump(app.database)
    online = app.database
    with fresh_database(online.server, "offline") as app.database:
        psql(app.database, app.run("upgrade", "head", "--sql"))
        assert dump(app.database) == made
        psql(app.database, app.run("downgrade", "shop0002:base", "--sql"))
        assert app.objects() == []


def test_an_async_env(app: AlembicApp) -> None:
    alembic = app.folder / "alembic"
    (alembic / "env_async.py").replace(alembic / "env.py")
    upgrade, _ = app.revise("shop0002")
    assert upgrade[0] == "sqla_jobs.migrations.upgrade('0004')"
    app.run("upgrade", "head")
    assert CLEAN in app.run("check")
    app.run("downgrade", "base")
    assert app.objects() == []


def test_two_processes_upgrade_at_once(app: AlembicApp) -> None:
    app.revise("shop0002")
    with app.database.engine.begin() as connection:
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext('alembic'))")
        both = [app.start("upgrade", "head") for _ in range(2)]
        until_lock_waiters(app.database, 2, both)
    for process in both:
        output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, output + errors
    assert CLEAN in app.run("check")


def test_tables_that_the_command_line_made_first(app: AlembicApp) -> None:
    migrations.migrate(app.database.engine)
    # Without the model that refers to a job, so that nothing but the library's tables could be found.
    app.environment["SHOP_MODELS"] = "only_library"
    assert CLEAN in app.run("check")
    app.environment["SHOP_MODELS"] = "default"
    made = dump(app.database)
    app.file("shop0001").with_name("shop0002_by_hand.py").write_text(
        "import sqla_jobs.migrations\n"
        "revision, down_revision = 'shop0002', 'shop0001'\n"
        "def upgrade(): sqla_jobs.migrations.upgrade('0004')\n"
        "def downgrade(): sqla_jobs.migrations.downgrade('base', since='0004')\n"
    )
    app.run("upgrade", "head")
    assert dump(app.database) == made


def test_a_target_metadata_without_the_library_is_refused(app: AlembicApp) -> None:
    cure = "target_metadata = [Base.metadata, sqla_jobs.metadata]"
    app.environment["SHOP_MODELS"] = "incomplete"
    said = app.fails("revision", "--autogenerate", "-m", "never")
    assert "The table reports has a foreign key to sqla_jobs, a table of sqla_jobs that is not in" in said
    assert cure in said

    migrations.migrate(app.database.engine)
    app.environment["SHOP_MODELS"] = "without"
    said = app.fails("check")
    assert "sqla_jobs_schema_version() says revision 0004" in said
    assert cure in said
    assert 'sqla_jobs.migrations.downgrade("base", since="0004")' in said

    # As the message says: after such a revision the application has no job queue, and no trace of it.
    migrations.migrate(app.database.engine, to="base")
    assert CLEAN in app.run("check")


def test_without_the_import_the_package_registers_itself(app: AlembicApp) -> None:
    env = app.folder / "alembic" / "env.py"
    lines = env.read_text().splitlines()
    env.write_text("\n".join(line for line in lines if "import sqla_jobs.alembic" not in line))
    upgrade, _ = app.revise("shop0002")
    assert upgrade[0] == "sqla_jobs.migrations.upgrade('0004')"


def test_it_does_so_where_it_is_imported_before_alembic(app: AlembicApp) -> None:
    # So do programs that run Alembic's commands themselves, such as Flask-Migrate.
    said = python("import sqla_jobs, sys; print('sqla_jobs.alembic' in sys.modules)", database=app.database)
    assert said == "True\n"


UNREGISTERED = """
import sqla_jobs
from alembic.autogenerate import comparators
comparators._registry.clear()
"""


def forget_the_import(app: AlembicApp) -> str:
    """Let env.py be one that never registered sqla_jobs.alembic; returns the right one's source."""
    env = app.folder / "alembic" / "env.py"
    right = env.read_text()
    # No model that refers to a job: the raw revision would make its table first, and fail.
    app.environment["SHOP_MODELS"] = "only_library"
    lines = [UNREGISTERED if "import sqla_jobs.alembic" in line else line for line in right.splitlines()]
    env.write_text("\n".join(lines))
    return right


def test_a_forgotten_import_is_caught_and_cured(app: AlembicApp) -> None:
    right = forget_the_import(app)
    upgrade, _ = app.revise("shop0002")
    assert [line for line in upgrade if line.startswith("op.create_table('sqla_jobs',")]
    app.run("upgrade", "head")

    said = (
        "The tables sqla_jobs, sqla_jobs_queues, sqla_jobs_schedules, sqla_jobs_workers are in the default "
        "schema, but not the function sqla_jobs_schema_version()"
    )
    cure = "add that line, undo the revision (alembic downgrade), delete its file"
    with app.database.engine.connect() as connection:
        for refusing in (migrations.check, migrations.migrate):
            with pytest.raises(SchemaError) as refused:
                refusing(connection)
            assert said in str(refused.value)
            assert cure in str(refused.value)

    (app.folder / "alembic" / "env.py").write_text(right)
    assert said in app.fails("check")
    app.run("downgrade", "-1")
    app.file("shop0002").unlink()
    upgrade, _ = app.revise("shop0002")
    assert upgrade[0] == "sqla_jobs.migrations.upgrade('0004')"
    app.run("upgrade", "head")
    assert CLEAN in app.run("check")


def test_a_forgotten_import_is_cured_where_data_must_be_kept(app: AlembicApp) -> None:
    right = forget_the_import(app)
    app.revise("shop0002")
    app.run("upgrade", "head")
    (app.folder / "alembic" / "env.py").write_text(right)

    # The tables are right but for the marker and, before SQLAlchemy 2.1, for their storage parameters.
    page = Path(__file__).parent.parent / "docs" / "migrations.md"
    (cure,) = (block.source for block in blocks(page) if block.language == "sql")
    psql(app.database, cure)
    assert CLEAN in app.run("check")
    with fresh_database(app.database.server, "by_revisions") as other:
        migrations.migrate(other.engine)
        assert dump(other, "sqla_jobs*") == dump(app.database, "sqla_jobs*")
