"""Storage parameters of the job table: in CREATE TABLE or, before SQLAlchemy 2.1, set right after it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import DDL, Column, Integer, MetaData, Table, create_mock_engine, event
from sqlalchemy.dialects import postgresql
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.schema import CreateTable, ExecutableDDLElement

from sqla_jobs import Job, JobMixin, metadata
from sqla_jobs.models.job import AUTOVACUUM
from sqla_jobs.models.storage import ACCEPTED
from sqla_jobs.models.version import leave_marker
from tests.support.alembic_app import dump, psql
from tests.support.server import Database, fresh_database
from tests.support.storage import VACUUM, storage

ODD = 'Odd: "name" %s'


def job_table() -> Table:
    table = Job.__table__
    assert isinstance(table, Table)
    return table


def followed(*own_listeners: tuple[str, Any]) -> Table:
    """A table whose parameters are set after it was made, whatever this SQLAlchemy can do."""
    listeners = [*own_listeners, ("after_parent_attach", AUTOVACUUM.follow)]
    return Table("sqla_jobs", MetaData(), Column("id", Integer, primary_key=True), listeners=listeners)


TABLES = [pytest.param(job_table, id="the job table"), pytest.param(followed, id="set afterwards")]


def script(tables: MetaData, dialect: str = "postgresql") -> str:
    """What `create_all` would execute."""
    # Named parameters: for a driver's own every percent sign would be doubled.
    written = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    told: list[str] = []

    def note(statement: ExecutableDDLElement, *_: object, **__: object) -> None:
        told.append(f"{statement.compile(dialect=written if dialect == 'postgresql' else engine.dialect)};\n")

    engine = create_mock_engine(f"{dialect}://", note)
    tables.create_all(engine, checkfirst=False)
    return "".join(told)


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize("schema", [None, ODD])
def test_a_copy_has_them_too(make: Any, schema: str | None, empty_database: Database) -> None:
    empty_database.execute(f'CREATE SCHEMA "{ODD.replace(chr(34), chr(34) * 2)}"')
    copy = make().to_metadata(MetaData(), schema=schema)
    copy.to_metadata(MetaData()).metadata.create_all(empty_database.engine)
    assert storage(empty_database) == {f"{ODD}.sqla_jobs" if schema else "sqla_jobs": VACUUM}


@pytest.mark.parametrize("make", TABLES)
def test_a_translated_schema_is_where_they_are_set(make: Any, empty_database: Database) -> None:
    empty_database.execute(f'CREATE SCHEMA "{ODD.replace(chr(34), chr(34) * 2)}"')
    make().create(empty_database.engine)
    engine = empty_database.engine.execution_options(schema_translate_map={None: ODD})
    empty_database.execute("ALTER TABLE sqla_jobs RESET (autovacuum_vacuum_scale_factor)")
    make().create(engine)
    assert storage(empty_database)[f"{ODD}.sqla_jobs"] == VACUUM
    assert storage(empty_database)["sqla_jobs"] != VACUUM


def test_a_script_of_create_all_makes_what_it_makes(empty_database: Database) -> None:
    psql(empty_database, script(metadata))
    with fresh_database(empty_database.server, "create_all") as other:
        metadata.create_all(other.engine)
        assert dump(other) == dump(empty_database)


def test_create_table_by_itself_has_them_where_it_can() -> None:
    sql = str(CreateTable(job_table()).compile(dialect=postgresql.dialect()))  # type: ignore[no-untyped-call]
    assert ("autovacuum_vacuum_scale_factor = 0.02" in sql) is ACCEPTED


def test_other_databases_are_left_alone() -> None:
    table = followed()
    leave_marker(table)
    ours = {"SET", "FUNCTION"}
    assert ours <= set(script(table.metadata).split())
    assert ours.isdisjoint(script(table.metadata, "sqlite").split())


def test_they_are_set_once_however_many_mixins_there_are() -> None:
    class Base(DeclarativeBase):
        pass

    class Customers(JobMixin):
        __table_args__ = {"comment": "ours"}

    class Orders(Customers):
        pass

    class Own(Orders, Base):
        pass

    assert script(Base.metadata).count("autovacuum_vacuum_scale_factor") == 1


BEFORE = DDL("ALTER TABLE %(fullname)s SET (autovacuum_vacuum_scale_factor = 0.5)")
AFTER = DDL("ALTER TABLE %(fullname)s SET (autovacuum_analyze_scale_factor = 0.5)")


def own_model() -> Table:
    class Base(DeclarativeBase):
        pass

    class Own(JobMixin, Base):
        __table_args__ = {"listeners": [("after_create", BEFORE)]}

    return Base.metadata.tables["sqla_jobs"]


def own_table() -> Table:
    return followed(("after_create", BEFORE))


@pytest.mark.parametrize("make", [own_model, own_table])
def test_listeners_of_ones_own_say_otherwise(make: Any, empty_database: Database) -> None:
    table = make()
    event.listen(table, "after_create", AFTER)
    table.create(empty_database.engine)
    assert storage(empty_database) == {"sqla_jobs": dict.fromkeys(VACUUM, "0.5")}


@pytest.mark.skipif(not ACCEPTED, reason="SQLAlchemy 2.1 brought postgresql_with for tables")
def test_a_models_own_parameters_win(empty_database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class Own(JobMixin, Base):
        __table_args__ = {"postgresql_with": {"autovacuum_vacuum_scale_factor": 0.5, "fillfactor": 80}}

    Base.metadata.create_all(empty_database.engine)
    assert storage(empty_database) == {
        "sqla_jobs": {**VACUUM, "autovacuum_vacuum_scale_factor": "0.5", "fillfactor": "80"}
    }
