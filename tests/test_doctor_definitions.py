"""What the tables are, beside what the models would make; and that each cure cures."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Index, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from sqla_jobs import JobMixin, Jobs, migrations
from sqla_jobs.doctor.definitions import check_definitions, check_invalid_indexes, check_own_columns
from tests.support.doctor import codes, heal, report, see
from tests.support.server import Database, Server, fresh_database
from tests.support.tenants import TenantJob
from tests.support.waiting import until

BROKEN = {
    "a predicate": (
        ("DROP INDEX ix_sqla_jobs_claim; CREATE INDEX ix_sqla_jobs_claim ON sqla_jobs"
        " (queue, priority DESC, run_at, id) WHERE state IN ('queued', 'scheduled')"),
        "index-differs",
    ),
    "no predicate": (
        "DROP INDEX ix_sqla_jobs_promote; CREATE INDEX ix_sqla_jobs_promote ON sqla_jobs (run_at)",
        "index-differs",
    ),
    "an order": (
        ("DROP INDEX ix_sqla_jobs_claim_any; CREATE INDEX ix_sqla_jobs_claim_any ON sqla_jobs"
        " (priority, run_at, id) WHERE state = 'queued'"),
        "index-differs",
    ),
    "not unique": (
        ("DROP INDEX uq_sqla_jobs_unique_key;"
        " CREATE INDEX uq_sqla_jobs_unique_key ON sqla_jobs (unique_key) WHERE unique_held"),
        "index-differs",
    ),
    "no index": ("DROP INDEX uq_sqla_jobs_tick", "index-missing"),
    "no index of schedules": ("DROP INDEX ix_sqla_jobs_schedules_due", "index-missing"),
    "a CHECK": (
        ("ALTER TABLE sqla_jobs DROP CONSTRAINT ck_sqla_jobs_state,"
        " ADD CONSTRAINT ck_sqla_jobs_state CHECK (state <> '')"),
        "constraint-differs",
    ),
    "no CHECK": (
        "ALTER TABLE sqla_jobs_queues DROP CONSTRAINT ck_sqla_jobs_queues_name", "constraint-missing",
    ),
    "no key": ("ALTER TABLE sqla_jobs DROP CONSTRAINT pk_sqla_jobs", "constraint-missing"),
    "a CHECK of later rows only": (
        ("ALTER TABLE sqla_jobs DROP CONSTRAINT ck_sqla_jobs_attempt,"
        " ADD CONSTRAINT ck_sqla_jobs_attempt CHECK (attempt >= 0) NOT VALID"),
        "constraint-not-valid",
    ),
    "no default": ("ALTER TABLE sqla_jobs ALTER queue DROP DEFAULT", "default-differs"),
    "a default": ("ALTER TABLE sqla_jobs ALTER run_at SET DEFAULT clock_timestamp()", "default-differs"),
    "a default too many": ("ALTER TABLE sqla_jobs ALTER worker_id SET DEFAULT 7", "default-differs"),
    "no identity": ("ALTER TABLE sqla_jobs ALTER id DROP IDENTITY", "default-differs"),
    "a column of ours": ("ALTER TABLE sqla_jobs_workers DROP COLUMN died_at", "column-missing"),
    "a column with a default": ("ALTER TABLE sqla_jobs_schedules DROP COLUMN enabled", "column-missing"),
    "a type": ("ALTER TABLE sqla_jobs ALTER worker_id TYPE integer", "column-differs"),
    "no NOT NULL": ("ALTER TABLE sqla_jobs ALTER attempt DROP NOT NULL", "column-differs"),
    "NOT NULL": ("ALTER TABLE sqla_jobs ALTER limit_key SET NOT NULL", "column-differs"),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_what_differs_is_found_and_its_cure_cures(case: str, database: Database) -> None:
    broken, code = BROKEN[case]
    assert see(check_definitions, database) == []
    database.execute(broken)
    found = see(check_definitions, database)
    assert code in codes(found)
    for each in found:
        heal(database, each)
    assert see(check_definitions, database) == []


def test_an_id_that_is_healed_goes_on_behind_the_last_one(database: Database) -> None:
    database.execute("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 7)")
    database.execute("ALTER TABLE sqla_jobs ALTER id DROP IDENTITY")
    [found] = see(check_definitions, database)
    heal(database, found)
    assert database.scalar("INSERT INTO sqla_jobs (task) VALUES ('t') RETURNING id") == 8


def test_storage_parameters_of_an_index_are_nobodys_business(database: Database) -> None:
    database.execute("ALTER INDEX ix_sqla_jobs_claim SET (fillfactor = 70)")
    database.execute("ALTER INDEX ix_sqla_jobs_prune SET (fillfactor = 70, deduplicate_items = off)")
    assert see(check_definitions, database) == []


def test_it_leaves_nothing_behind(database: Database) -> None:
    """Not even for the one who looks: the copies are gone with their savepoint."""
    count = "SELECT count(*) FROM pg_class WHERE relname LIKE '%sqla_jobs%'"
    before = database.scalar(count)
    with database.engine.connect() as connection:
        assert check_definitions(connection, TenantJob, None, None) == []
        assert connection.scalar(text(count)) == before
        connection.commit()
    assert database.scalar(count) == before


# -- other schemas, other models -----------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class OddJob(JobMixin, Base):
    __table_args__ = (
        Index("ix_odd_customer", "customer", postgresql_where=text("customer IN ('a', 'b')")),
        {"schema": 'od"d % USING:x'},
    )

    customer: Mapped[str] = mapped_column(index=True)
    state_of_mind: Mapped[str | None]


@pytest.fixture
def odd(empty_database: Database) -> Iterator[tuple[Database, Jobs[OddJob]]]:
    """An application's own model, in a schema of which no statement can be made carelessly."""
    jobs = Jobs(model=OddJob)
    jobs.create_all(empty_database.engine)
    return empty_database, jobs


def test_an_applications_own_model_in_a_schema_of_its_own_is_in_order(
    odd: tuple[Database, Jobs[Any]],
) -> None:
    database, jobs = odd
    assert report(database, OddJob) == set()
    assert report(database, OddJob, jobs) == set()


@pytest.mark.parametrize("case", ["a predicate", "no CHECK", "no identity", "a column of ours", "no index"])
def test_it_is_healed_in_such_a_schema_too(case: str, odd: tuple[Database, Jobs[Any]]) -> None:
    database, _ = odd
    broken, code = BROKEN[case]
    with database.engine.begin() as connection:
        connection.exec_driver_sql('SET LOCAL search_path = "od""d %% USING:x"')
        connection.exec_driver_sql(broken)
    found = see(check_definitions, database, OddJob)
    assert code in codes(found)
    for each in found:
        heal(database, each)
    assert see(check_definitions, database, OddJob) == []


def test_what_the_applications_model_adds_must_be_there(odd: tuple[Database, Jobs[Any]]) -> None:
    database, jobs = odd
    place = '"od""d % USING:x".sqla_jobs'.replace(":", r"\:")
    database.execute(f"ALTER TABLE {place} DROP COLUMN customer")
    database.execute(f"ALTER TABLE {place} ADD COLUMN forgotten text NOT NULL")
    found = see(check_own_columns, database, OddJob, jobs)
    assert [(each.code, each.severity, each.data.get("column")) for each in found] == [
        ("column-missing", "error", "customer"),
        ("index-missing", "warning", None),
        ("index-missing", "warning", None),
        ("column-unknown", "error", "forgotten"),
    ]
    heal(database, found[-1])
    assert "column-unknown" not in codes(see(check_own_columns, database, OddJob, jobs))
    assert see(check_own_columns, database, OddJob) == [], "nobody has named an application"


def test_tables_that_the_revisions_have_made_are_in_order(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine)
    assert report(empty_database) == set()


def test_tables_that_were_restored_from_a_dump_are_in_order(
    server: Server, database: Database, empty_database: Database
) -> None:
    """The server has parsed what it had written down itself."""
    if server.bindir is None:
        pytest.skip("no pg_dump of the server's version here")
    dump = [server.bindir / "pg_dump", server.libpq(database.name)]
    told = subprocess.run(dump, check=True, capture_output=True, text=True)
    restore = [server.bindir / "psql", "-qv", "ON_ERROR_STOP=1", server.libpq(empty_database.name)]
    subprocess.run(restore, input=told.stdout, check=True, capture_output=True, text=True)
    assert report(empty_database) == set()


# -- who may not ---------------------------------------------------------------------------------------


def test_without_the_privilege_for_it_that_is_what_is_found(database: Database) -> None:
    database.execute(f'REVOKE TEMP ON DATABASE "{database.name}" FROM PUBLIC')
    with database.engine.connect() as connection, connection.begin():
        role = f"doctor_{database.name}"
        connection.exec_driver_sql(f'CREATE ROLE "{role}"')
        connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
        [found] = check_definitions(connection, TenantJob, None, None)
        assert (found.code, found.data) == ("definitions-unread", {"sqlstate": "42501"})
        assert connection.scalar(text("SELECT 1")) == 1, "the transaction goes on"
        connection.exec_driver_sql("RESET ROLE")
        connection.exec_driver_sql(found.cure)
        connection.exec_driver_sql(f'SET LOCAL ROLE "{role}"')
        assert check_definitions(connection, TenantJob, None, None) == []
        connection.get_transaction().rollback()  # type: ignore[union-attr]


def test_where_nothing_can_be_written_that_is_what_is_found(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.execution_options(postgresql_readonly=True)
        [found] = check_definitions(connection, TenantJob, None, None)
    assert (found.code, found.data) == ("definitions-unread", {"sqlstate": "25006"})


# -- invalid -------------------------------------------------------------------------------------------


def test_an_index_that_could_not_be_finished_is_found(database: Database) -> None:
    database.execute("CREATE TABLE once (id int); DROP INDEX uq_sqla_jobs_unique_key")
    database.execute(
        "INSERT INTO sqla_jobs (task, unique_key, unique_held) VALUES ('t', 'k', true), ('t', 'k', true)"
    )
    with pytest.raises(IntegrityError):
        database.execute(
            "CREATE UNIQUE INDEX CONCURRENTLY uq_sqla_jobs_unique_key ON sqla_jobs (unique_key)"
            " WHERE unique_held"
        )
    assert see(check_definitions, database) == [], "it is as the model says, as far as it has come"
    [found] = see(check_invalid_indexes, database)
    assert (found.code, found.severity) == ("index-invalid", "error")
    database.execute("UPDATE sqla_jobs SET unique_held = false WHERE id = 1")
    heal(database, found)
    assert see(check_invalid_indexes, database) == []


def test_what_a_failed_reindex_leaves_is_dropped(database: Database) -> None:
    database.execute("INSERT INTO sqla_jobs (task, unique_key) VALUES ('t', 'k'), ('t', 'k')")
    with pytest.raises(IntegrityError):
        database.execute("CREATE UNIQUE INDEX CONCURRENTLY ix_mine_ccnew1 ON sqla_jobs (unique_key)")
    [found] = see(check_invalid_indexes, database)
    heal(database, found)
    assert see(check_invalid_indexes, database) == []
    assert database.rows("SELECT FROM pg_class WHERE relname = 'ix_mine_ccnew1'") == []


def test_an_index_that_is_being_built_is_no_error(database: Database) -> None:
    """It waits for a transaction that was there before it."""
    with database.engine.connect() as holder:
        holder.execute(text("LOCK TABLE sqla_jobs IN ROW EXCLUSIVE MODE"))
        build = threading.Thread(
            target=database.execute, args=("CREATE INDEX CONCURRENTLY ix_mine ON sqla_jobs (task)",)
        )
        build.start()
        until(database, "SELECT count(*) = 1 FROM pg_index WHERE indexrelid = to_regclass('ix_mine')")
        [found] = see(check_invalid_indexes, database)
        assert (found.code, found.severity) == ("index-invalid", "info")
        holder.rollback()
        build.join()
    assert see(check_invalid_indexes, database) == []


def test_two_schemas_in_one_database_are_told_apart(server: Server) -> None:
    with fresh_database(server, "two") as database:
        for model in (OddJob, TenantJob):
            Jobs(model=model).create_all(database.engine)
        database.execute("DROP INDEX ix_sqla_jobs_rescue")
        assert see(check_definitions, database, OddJob) == []
        assert codes(see(check_definitions, database, TenantJob)) == ["index-missing"]
