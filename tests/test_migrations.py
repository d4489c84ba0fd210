"""sqla_jobs.migrations by itself: `migrate`, `check`, `installed`, and what the revisions make."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, create_engine
from sqlalchemy.engine.interfaces import IsolationLevel
from sqlalchemy.exc import InternalError, ProgrammingError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateSchema

import sqla_jobs
from sqla_jobs import JobMixin, migrations, models
from sqla_jobs.errors import SchemaError
from tests.support.alembic_app import OBJECTS, dump
from tests.support.python import start_python
from tests.support.server import Database, fresh_database
from tests.support.waiting import until_lock_waiters

HEAD = models.SCHEMA_VERSION


class Base(DeclarativeBase):
    pass


class PlacedJob(JobMixin, Base):
    __table_args__ = {"schema": "jobs"}


def objects(database: Database) -> list[str]:
    return [name for (name,) in database.rows(OBJECTS)]


@contextmanager
def revision_of(connection: Connection, **options: object) -> Iterator[io.StringIO]:
    """What Alembic sets up while a revision runs; with as_sql=True its output is in the buffer."""
    buffer = io.StringIO()
    dialect = {"dialect_name": connection.dialect.name} if options else {"connection": connection}
    context = MigrationContext.configure(**dialect, opts={**options, "output_buffer": buffer})
    with Operations.context(context):
        yield buffer


# The revisions


def test_one_line_of_revisions_ends_where_the_models_are() -> None:
    folder = migrations.__path__[0]
    scripts = ScriptDirectory(folder, version_locations=[f"{folder}/versions"])
    assert len(scripts.get_heads()) == len(scripts.get_bases()) == 1
    assert [script for script in scripts.walk_revisions() if script.is_merge_point] == []
    assert migrations.head() == models.SCHEMA_VERSION


def test_create_all_and_the_revisions_make_the_same_tables(empty_database: Database) -> None:
    assert migrations.migrate(empty_database.engine) == migrations.head()
    with fresh_database(empty_database.server, "create_all") as other:
        sqla_jobs.metadata.create_all(other.engine)
        assert dump(other) == dump(empty_database)
        sqla_jobs.metadata.drop_all(other.engine)
        assert objects(other) == []


@pytest.mark.parametrize("schema", [None, 'Odd: "name" %s'], ids=["default schema", "odd schema"])
def test_so_do_copies_of_the_tables(empty_database: Database, schema: str | None) -> None:
    migrations.migrate(empty_database.engine, schema=schema)
    copies = MetaData()
    for table in sqla_jobs.metadata.tables.values():
        table.to_metadata(copies, schema=schema)
    with fresh_database(empty_database.server, "create_all") as other:
        if schema:
            with other.engine.begin() as connection:
                connection.execute(CreateSchema(schema))
        copies.create_all(other.engine)
        assert dump(other) == dump(empty_database)
        with other.engine.connect() as connection:
            migrations.check(connection, schema)
        copies.drop_all(other.engine)
        assert objects(other) == []


def test_they_do_so_for_an_own_model_in_a_schema(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine, schema="jobs")
    with fresh_database(empty_database.server, "create_all") as other:
        other.execute("CREATE SCHEMA jobs")
        Base.metadata.create_all(other.engine)
        models.companions("jobs").metadata.create_all(other.engine)
        assert dump(other) == dump(empty_database)
        with other.engine.connect() as connection:
            migrations.check(connection, "jobs")


def test_autogenerate_knows_every_name_that_the_revisions_make(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine)
    made = {
        name: (set(columns), set(constraints), set(indexes))
        for name, columns, constraints, indexes in empty_database.rows("""
            SELECT relname,
                ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0),
                -- The names of NOT NULL constraints, which PostgreSQL 18 keeps, are not Alembic's business.
                ARRAY(SELECT conname::text FROM pg_constraint WHERE conrelid = t.oid AND contype <> 'n'),
                ARRAY(SELECT relname::text FROM pg_index JOIN pg_class i ON i.oid = indexrelid
                      WHERE indrelid = t.oid AND NOT indisprimary)
            FROM pg_class t WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        """)
    }
    owned = {
        name: (set(names.columns), set(names.constraints), set(names.indexes))
        for name, names in migrations.owned().items()
    }
    assert owned == made


# migrate


def test_migrate_up_twice_and_down_twice(empty_database: Database) -> None:
    engine = empty_database.engine
    for schema in (None, 'Odd: "name" %s'):
        assert migrations.migrate(engine, schema=schema) == HEAD
        made = objects(empty_database)
        assert migrations.migrate(engine, schema=schema) == HEAD
        assert objects(empty_database) == made
        with engine.connect() as connection:
            assert migrations.installed(connection, schema) == HEAD
            migrations.check(connection, schema)
        assert migrations.migrate(engine, to="base", schema=schema) is None
        assert migrations.migrate(engine, to="base", schema=schema) is None
        assert objects(empty_database) == []
    # The schema itself is the application's.
    assert empty_database.scalar('SELECT to_regnamespace(\'"Odd\\: ""name"" %s"\')') is not None


@pytest.mark.parametrize("isolation_level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_migrate_is_one_transaction_whatever_the_engine_says(
    empty_database: Database, isolation_level: IsolationLevel
) -> None:
    engine = create_engine(empty_database.url, isolation_level=isolation_level)
    empty_database.execute("CREATE TABLE uq_sqla_jobs_schedules_name ()")
    obstacle = objects(empty_database)
    with pytest.raises(ProgrammingError, match="already exists"):
        migrations.migrate(engine)
    assert objects(empty_database) == obstacle
    with pytest.raises(SchemaError, match="no alembic command is running"):
        migrations.upgrade()
    empty_database.execute("DROP TABLE uq_sqla_jobs_schedules_name")
    assert migrations.migrate(engine) == HEAD
    engine.dispose()


def test_migrate_is_part_of_a_transaction_that_is_already_there(empty_database: Database) -> None:
    with empty_database.engine.connect() as connection:
        with connection.begin() as transaction:
            assert migrations.migrate(connection) == HEAD
            transaction.rollback()
        assert objects(empty_database) == []
        assert migrations.migrate(connection) == HEAD
    assert "relation public.sqla_jobs" in objects(empty_database)


def test_migrate_on_an_async_connection(empty_database: Database) -> None:
    async def main() -> str | None:
        engine = create_async_engine(empty_database.url)
        async with engine.begin() as connection:
            revision = await connection.run_sync(migrations.migrate)
        await engine.dispose()
        return revision

    assert asyncio.run(main()) == HEAD
    assert "relation public.sqla_jobs" in objects(empty_database)


def test_migrate_refuses_a_connection_that_cannot_hold_its_lock(empty_database: Database) -> None:
    with empty_database.engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        with pytest.raises(SchemaError, match="needs a transaction"):
            migrations.migrate(connection)


def test_four_processes_migrate_at_once(empty_database: Database) -> None:
    program = """
        import os, sqlalchemy
        from sqla_jobs import migrations
        print(migrations.migrate(sqlalchemy.create_engine(os.environ["DATABASE_URL"])))
    """
    with empty_database.engine.begin() as connection:
        # All four come as far as the lock before the first may go on.
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtextextended('sqla_jobs.migrate', 0))")
        processes = [start_python(program, database=empty_database) for _ in range(4)]
        until_lock_waiters(empty_database, 4, processes)
    assert [process.communicate(timeout=60) for process in processes] == [(f"{HEAD}\n", "")] * 4


def test_a_reference_from_an_application_table_stops_the_downgrade(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine)
    empty_database.execute("CREATE TABLE reports (job_id bigint REFERENCES sqla_jobs)")
    made = dump(empty_database)
    with pytest.raises(InternalError, match="constraint reports_job_id_fkey on table reports depends on"):
        migrations.migrate(empty_database.engine, to="base")
    assert dump(empty_database) == made


# upgrade and downgrade, in an application's revision


def test_a_revision_that_this_version_does_not_have(empty_database: Database) -> None:
    with empty_database.engine.connect() as connection, revision_of(connection):
        for direction in (migrations.upgrade, migrations.downgrade):
            with pytest.raises(
                SchemaError, match=r"no sqla_jobs revision '0009'.* has base, 0001, 0002, 0003, 0004 and head"
            ):
                direction("0009")


def test_calls_outside_a_revision_name_the_function_for_that() -> None:
    with pytest.raises(SchemaError, match=r"no alembic command is running.*migrate\(engine\)"):
        migrations.upgrade()
    with pytest.raises(SchemaError, match=r"migrations\.downgrade\(\) is for the revisions"):
        migrations.downgrade()


def test_only_postgresql() -> None:
    engine = create_engine("sqlite://")
    with engine.connect() as connection, revision_of(connection):
        with pytest.raises(SchemaError, match="needs PostgreSQL, and this alembic command runs on sqlite"):
            migrations.upgrade()
    engine.dispose()


def test_upgrade_and_downgrade_do_nothing_where_there_is_nothing_to_do(empty_database: Database) -> None:
    with empty_database.engine.begin() as connection, revision_of(connection):
        migrations.downgrade("base", since=HEAD)
        assert migrations.installed(connection) is None
        migrations.upgrade(HEAD)
        # By its full name, and from where the application's revision believes to begin.
        migrations.upgrade(f"sqla_jobs_{HEAD}", since="base")
        migrations.downgrade(HEAD, since=HEAD)
        assert migrations.installed(connection) == HEAD


def test_offline_begins_where_since_says(empty_database: Database) -> None:
    with empty_database.engine.connect() as connection:
        with revision_of(connection, as_sql=True) as script:
            migrations.upgrade("0001", since="0001")
            assert script.getvalue() == ""
            migrations.upgrade("0001", schema="jobs")
            assert "CREATE SCHEMA IF NOT EXISTS jobs" in script.getvalue()
            assert "CREATE TABLE jobs.sqla_jobs (" in script.getvalue()
            with pytest.raises(SchemaError, match=r'say it, as in downgrade\(\'base\', since="0004"\)'):
                migrations.downgrade()


# check


def damaged(sql: str) -> Callable[[Database], None]:
    def damage(database: Database) -> None:
        migrations.migrate(database.engine)
        database.execute(sql)

    return damage


COMPLAINTS: dict[str, tuple[Callable[[Database], object], str]] = {
    "no tables": (
        lambda database: None,
        "The sqla_jobs tables are not in the default schema. With Alembic run `alembic revision --auto",
    ),
    "tables without a marker": (
        lambda database: models.Job.__table__.create(database.engine),
        "The tables sqla_jobs are in the default schema, but not the function sqla_jobs_schema_version()",
    ),
    "a table is lost": (
        damaged("DROP TABLE sqla_jobs_queues"),
        "says that the sqla_jobs tables in the default schema are at revision 0004, but sqla_jobs_queues",
    ),
}


@pytest.mark.parametrize(("make", "complaint"), COMPLAINTS.values(), ids=COMPLAINTS.keys())
def test_check_says_what_is_wrong_and_what_to_do(
    empty_database: Database, make: Callable[[Database], object], complaint: str
) -> None:
    make(empty_database)
    with empty_database.engine.connect() as connection, pytest.raises(SchemaError) as refused:
        migrations.check(connection)
    assert complaint in str(refused.value)


def test_tables_of_another_schema_do_not_count(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine)
    with empty_database.engine.connect() as connection:
        assert migrations.installed(connection, "jobs") is None
        with pytest.raises(SchemaError, match=r'not in schema "jobs".*`sqla-jobs migrate --schema jobs`'):
            migrations.check(connection, "jobs")
