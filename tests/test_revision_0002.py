"""Revision 0002: the workers that have just died, and when the job table is vacuumed."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import DeclarativeBase

from sqla_jobs import JobMixin, Jobs, migrations
from tests.support.alembic_app import dump
from tests.support.server import Database

SCHEMAS = [None, 'Odd: "name" %s']

STORAGE = """
    SELECT option_name, option_value FROM pg_class CROSS JOIN pg_options_to_table(reloptions)
    WHERE relname = 'sqla_jobs' AND relkind = 'r'
"""


class Base(DeclarativeBase):
    pass


class OwnStorage(JobMixin, Base):
    __table_args__ = (
        {"schema": "own", "postgresql_with": {"autovacuum_vacuum_scale_factor": 0.5, "fillfactor": 80}},
    )


@pytest.mark.parametrize("schema", SCHEMAS, ids=["default schema", "odd schema"])
def test_up_and_down_again_leaves_what_was_there(empty_database: Database, schema: str | None) -> None:
    engine = empty_database.engine
    migrations.migrate(engine, to="0001", schema=schema)
    first = dump(empty_database)
    assert migrations.migrate(engine, to="0002", schema=schema) == "0002"
    assert dict(empty_database.rows(STORAGE)) == {
        "autovacuum_vacuum_scale_factor": "0.02",
        "autovacuum_analyze_scale_factor": "0.02",
    }
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


def test_a_model_of_ones_own_may_say_otherwise(empty_database: Database) -> None:
    Jobs(OwnStorage).create_all(empty_database.engine)
    assert dict(empty_database.rows(STORAGE)) == {
        "autovacuum_vacuum_scale_factor": "0.5",
        "autovacuum_analyze_scale_factor": "0.02",
        "fillfactor": "80",
    }
