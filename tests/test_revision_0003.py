"""Revision 0003: a worker's row says which tasks and schedules it has."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from sqla_jobs import migrations
from tests.support.alembic_app import dump
from tests.support.server import Database

SCHEMAS = [None, 'Odd: "name" %s']


@pytest.mark.parametrize("schema", SCHEMAS, ids=["default schema", "odd schema"])
def test_up_and_down_again_leaves_what_was_there(empty_database: Database, schema: str | None) -> None:
    engine = empty_database.engine
    migrations.migrate(engine, to="0002", schema=schema)
    second = dump(empty_database)
    assert migrations.migrate(engine, to="0003", schema=schema) == "0003"
    assert dump(empty_database) != second
    assert migrations.migrate(engine, to="0002", schema=schema) == "0002"
    assert dump(empty_database) == second


@pytest.mark.parametrize("way", ["0003", "0002"])
def test_it_does_not_wait_for_running_jobs(empty_database: Database, way: str) -> None:
    migrations.migrate(empty_database.engine, to="0002" if way == "0003" else "0003")
    empty_database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    impatient = create_engine(empty_database.url, connect_args={"options": "-c lock_timeout=1ms"})
    with empty_database.engine.connect() as job:
        job.execute(text("UPDATE sqla_jobs SET state = 'queued'"))
        assert migrations.migrate(impatient, to=way) == way
    impatient.dispose()
