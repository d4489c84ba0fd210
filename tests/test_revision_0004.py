"""Revision 0004: a job's row has room for what is to be known of it beside its call."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from sqla_jobs import Job, migrations
from tests.support.alembic_app import dump
from tests.support.server import Database

SCHEMAS = [None, 'Odd: "name" %s']


@pytest.mark.parametrize("schema", SCHEMAS, ids=["default schema", "odd schema"])
def test_up_and_down_again_leaves_what_was_there(empty_database: Database, schema: str | None) -> None:
    engine = empty_database.engine
    migrations.migrate(engine, to="0003", schema=schema)
    third = dump(empty_database)
    assert migrations.migrate(engine, to="0004", schema=schema) == "0004"
    assert dump(empty_database) != third
    assert migrations.migrate(engine, to="0003", schema=schema) == "0003"
    assert dump(empty_database) == third


def test_jobs_that_are_there_have_nothing_and_their_rows_are_not_written(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine, to="0003")
    empty_database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    where = "SELECT pg_relation_filenode('sqla_jobs')::text || ctid::text || xmin::text FROM sqla_jobs"
    before = empty_database.scalar(where)
    migrations.migrate(empty_database.engine, to="0004")
    assert empty_database.scalar(where) == before
    with Session(empty_database.engine) as session:
        assert session.query(Job).one().meta is None


@pytest.mark.parametrize("way", ["0004", "0003"])
def test_it_waits_for_running_jobs_or_gives_up(empty_database: Database, way: str) -> None:
    start = "0003" if way == "0004" else "0004"
    migrations.migrate(empty_database.engine, to=start)
    empty_database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    impatient = create_engine(empty_database.url, connect_args={"options": "-c lock_timeout=1ms"})
    with empty_database.engine.connect() as job:
        job.execute(text("UPDATE sqla_jobs SET state = 'queued'"))
        with pytest.raises(OperationalError, match="lock timeout"):
            migrations.migrate(impatient, to=way)
    assert migrations.migrate(impatient, to=way) == way
    impatient.dispose()
