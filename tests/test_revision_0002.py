"""Revision 0002: the workers that have just died, and when the job table is vacuumed."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text

from sqla_jobs import migrations
from tests.support.alembic_app import dump
from tests.support.server import Database
from tests.support.storage import VACUUM, storage

SCHEMAS = [None, 'Odd: "name" %s']


@pytest.mark.parametrize("schema", SCHEMAS, ids=["default schema", "odd schema"])
def test_up_and_down_again_leaves_what_was_there(empty_database: Database, schema: str | None) -> None:
    engine = empty_database.engine
    migrations.migrate(engine, to="0001", schema=schema)
    first = dump(empty_database)
    assert migrations.migrate(engine, to="0002", schema=schema) == "0002"
    assert storage(empty_database) == {f"{schema}.sqla_jobs" if schema else "sqla_jobs": VACUUM}
    assert migrations.migrate(engine, to="0001", schema=schema) == "0001"
    assert dump(empty_database).replace("'0002'", "'0001'") == first


def test_the_dead_do_not_rise_by_a_downgrade(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine)
    empty_database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, died_at)"
        " VALUES ('living', 1, '0', 1, '1 min', NULL), ('dead', 2, '0', 1, '1 min', now())"
    )
    migrations.migrate(empty_database.engine, to="0001")
    assert empty_database.rows("SELECT host FROM sqla_jobs_workers") == [("living",)]


@pytest.mark.parametrize("way", ["0002", "0001"])
def test_it_does_not_wait_for_running_jobs(empty_database: Database, way: str) -> None:
    """A job may hold rows of the job table for hours."""
    migrations.migrate(empty_database.engine, to="0001" if way == "0002" else "0002")
    empty_database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    impatient = create_engine(empty_database.url, connect_args={"options": "-c lock_timeout=1ms"})
    with empty_database.engine.connect() as job:
        job.execute(text("UPDATE sqla_jobs SET state = 'queued'"))
        assert migrations.migrate(impatient, to=way) == way
    impatient.dispose()
