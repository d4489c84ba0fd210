"""What the doctor says of the server: settings, vacuum, what holds it up, connections, clocks."""

from __future__ import annotations

import datetime as dt
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from psycopg import pq
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import StaticPool

from sqla_jobs import Job, Jobs
from sqla_jobs.doctor import examine
from sqla_jobs.doctor.connections import check_capacity, check_own_pool, check_pooler
from sqla_jobs.doctor.horizon import check_prepared, check_slots, check_transactions
from sqla_jobs.doctor.settings import check_autovacuum, check_clock, check_durability, check_writable
from sqla_jobs.doctor.vacuum import check_dead_rows, check_index_sizes, check_parameters
from tests.support.doctor import codes, employ, heal, is_of_server, see
from tests.support.pgbouncer import PgBouncer, installed, running_pgbouncer
from tests.support.server import Database, Server, fresh_database
from tests.support.waiting import until

# -- settings ------------------------------------------------------------------------------------------


def test_synchronous_commit_that_is_off_for_this_database(database: Database) -> None:
    assert "synchronous-commit-off" not in codes(see(check_durability, database))
    database.execute(f'ALTER DATABASE "{database.name}" SET synchronous_commit = off')
    database.engine.dispose()
    [found] = [each for each in see(check_durability, database) if each.code != "fsync-off"]
    assert (found.code, found.severity) == ("synchronous-commit-off", "warning")
    heal(database, found)
    database.engine.dispose()
    assert "synchronous-commit-off" not in codes(see(check_durability, database))


def test_a_database_that_only_reads(database: Database) -> None:
    assert see(check_writable, database) == []
    database.execute(f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on')
    database.engine.dispose()
    [found] = see(check_writable, database)
    assert (found.code, found.severity, found.data) == ("read-only", "error", {"standby": False})


@pytest.mark.parametrize(
    ("ahead", "severity"),
    [(0, None), (1, None), (3, "info"), (-3, "info"), (31, "warning"), (-90, "warning")],
)
def test_a_clock_that_is_wrong(database: Database, ahead: float, severity: str | None) -> None:
    now = dt.datetime.now(dt.timezone.utc) + dt.timedelta(seconds=ahead)
    found = see(check_clock, database, now=now)
    assert [each.severity for each in found] == ([severity] if severity else [])
    for each in found:
        assert each.data["seconds"] == pytest.approx(ahead, abs=0.9)
        assert ("ahead of" if ahead > 0 else "behind") in each.found


def test_this_machine_and_its_own_server_agree(database: Database) -> None:
    assert see(check_clock, database) == []


# -- vacuum --------------------------------------------------------------------------------------------


def test_what_a_server_with_autovacuum_says(server: Server, database: Database) -> None:
    setting = database.scalar("SHOW autovacuum")
    assert codes(see(check_autovacuum, database)) == ([] if setting == "on" else ["autovacuum-off"])


def test_autovacuum_that_is_off_for_a_table(database: Database) -> None:
    assert see(check_parameters, database) == []
    database.execute("ALTER TABLE sqla_jobs_schedules SET (autovacuum_enabled = false)")
    [found] = see(check_parameters, database)
    assert (found.code, found.severity) == ("autovacuum-off", "error")
    heal(database, found)
    assert see(check_parameters, database) == []


@pytest.mark.parametrize(
    "change", ["RESET (autovacuum_vacuum_scale_factor)", "SET (autovacuum_vacuum_scale_factor = 0.4)"]
)
def test_autovacuum_that_comes_late(database: Database, change: str) -> None:
    database.execute(f"ALTER TABLE sqla_jobs {change}")
    [found] = see(check_parameters, database)
    assert (found.code, found.severity) == ("autovacuum-late", "warning")
    heal(database, found)
    assert see(check_parameters, database) == []


def test_dead_rows_that_nobody_takes_away(database: Database) -> None:
    with database.engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 10500)")
        connection.exec_driver_sql("DELETE FROM sqla_jobs WHERE id <= 9900")
        connection.commit()
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        connection.commit()
        assert see(check_dead_rows, database) == []
        connection.exec_driver_sql("DELETE FROM sqla_jobs WHERE id <= 10400")
        connection.commit()
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
        connection.commit()
    [found] = see(check_dead_rows, database)
    assert (found.code, found.data["dead"], found.data["live"]) == ("dead-rows", 10_400, 100)
    heal(database, found)
    assert see(check_dead_rows, database) == []


def test_an_index_that_is_large_for_what_is_in_it(database: Database) -> None:
    filled = (
        "INSERT INTO sqla_jobs (task, queue, state) SELECT 't', repeat('q', 63), 'queued'"
        " FROM generate_series(1, 90000)"
    )
    database.execute(filled)
    assert see(check_index_sizes, database) == [], "nobody has counted yet"
    database.execute("TRUNCATE sqla_jobs")
    database.execute("ANALYZE sqla_jobs")
    with database.engine.begin() as connection:
        connection.exec_driver_sql(filled)
        connection.exec_driver_sql("SELECT pg_stat_force_next_flush()")
    assert see(check_index_sizes, database) == [], "what came since then is not counted yet"
    database.execute("VACUUM ANALYZE sqla_jobs")
    assert see(check_index_sizes, database) == []
    database.execute("DELETE FROM sqla_jobs WHERE id % 1000 <> 0")
    database.execute("VACUUM ANALYZE sqla_jobs")
    [found] = see(check_index_sizes, database)
    assert (found.code, found.data["index"]) == ("index-bloat", "public.ix_sqla_jobs_claim")
    heal(database, found)
    assert see(check_index_sizes, database) == []


# -- what holds it up ----------------------------------------------------------------------------------


def test_a_transaction_in_which_nobody_does_anything(database: Database) -> None:
    with database.engine.connect() as holder:
        holder.exec_driver_sql("SET application_name = 'the culprit'")
        holder.commit()
        holder.exec_driver_sql("INSERT INTO sqla_jobs (task) VALUES ('t')")
        assert see(check_transactions, database) == []
        assert see(check_transactions, database, later=50) == []
        [found] = see(check_transactions, database, later=70)
        assert (found.code, found.data["application"]) == ("idle-in-transaction", "the culprit")
        assert "VACUUM" in found.found
        assert {"pid", "query_at", "begun_at"} <= found.data.keys()
        pid = holder.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
        assert found.cure.startswith(f"SELECT pg_terminate_backend({pid});")
        holder.rollback()
    assert see(check_transactions, database, later=7000) == []


def test_one_that_has_only_read_keeps_no_rows_and_it_says_so(database: Database) -> None:
    with database.engine.connect() as holder:
        holder.exec_driver_sql("SELECT count(*) FROM sqla_jobs")
        [found] = see(check_transactions, database, later=70)
        assert "VACUUM" not in found.found


def test_a_snapshot_that_is_kept_while_it_works(database: Database) -> None:
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(database.execute, "SELECT pg_sleep(60)")
        until(
            database,
            "SELECT count(*) = 1 FROM pg_stat_activity"
            " WHERE wait_event = 'PgSleep' AND datname = current_database()",
        )
        assert see(check_transactions, database, later=550) == []
        [found] = see(check_transactions, database, later=700)
        assert (found.code, found.severity) == ("long-transaction", "warning")
        heal(database, found)
        with pytest.raises(OperationalError):
            working.result(30)
    assert see(check_transactions, database, later=7000) == []


def test_what_is_open_in_another_database_keeps_nothing_here(server: Server, database: Database) -> None:
    with fresh_database(server, "other") as other, other.engine.connect() as holder:
        holder.exec_driver_sql("CREATE TABLE t ()")
        assert see(check_transactions, database, later=7000) == []


def test_a_prepared_transaction_that_nobody_ends(database: Database) -> None:
    if database.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("max_prepared_transactions is 0")
    with database.engine.connect() as connection:
        connection.exec_driver_sql("INSERT INTO sqla_jobs (task) VALUES ('t')")
        connection.exec_driver_sql(f"PREPARE TRANSACTION '{database.name} it''s'")
    assert see(check_prepared, database, later=500) == []
    [found] = see(check_prepared, database, later=700)
    assert (found.code, found.data["gid"]) == ("prepared-transaction", f"{database.name} it's")
    heal(database, found)
    assert see(check_prepared, database, later=700) == []


@pytest.fixture
def slot(database: Database) -> Iterator[str]:
    """A replication slot that a standby, which is gone by now, has left a snapshot in."""
    name = database.name
    database.execute("SELECT pg_create_physical_replication_slot(:name, true)", name=name)
    try:
        _feed_back(database, name)
        yield name
    finally:
        database.execute(
            "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = :name",
            name=name,
        )


def _feed_back(database: Database, slot: str) -> None:
    """What a standby does with ``hot_standby_feedback``: say by the protocol which rows it still reads."""
    url = database.url.set(drivername="postgresql").update_query_dict({"replication": "true"})
    standby = pq.PGconn.connect(url.render_as_string(hide_password=False).encode())
    try:
        # Not what is written: neighbours write more than is flushed yet, and behind that nothing can begin.
        at = database.scalar("SELECT pg_current_wal_flush_lsn()::text")
        answer = standby.exec_(f"START_REPLICATION SLOT {slot} PHYSICAL {at}".encode())
        assert answer.status == pq.ExecStatus.COPY_BOTH, standby.get_error_message()
        snapshot = int(database.scalar("SELECT pg_snapshot_xmin(pg_current_snapshot())::text"))
        epoch, xmin = divmod(snapshot, 2**32)
        standby.put_copy_data(struct.pack("!cqIIII", b"h", 0, xmin, epoch, 0, 0))
        standby.flush()
        until(database, f"SELECT xmin IS NOT NULL FROM pg_replication_slots WHERE slot_name = '{slot}'")
        assert [each for each in see(check_slots, database) if each.data["slot"] == slot] == []
    finally:
        standby.finish()
    until(database, f"SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{slot}'")


def test_the_slot_of_a_standby_that_is_gone(database: Database, slot: str) -> None:
    [found] = [each for each in see(check_slots, database) if each.data["slot"] == slot]
    assert (found.code, found.data["active"]) == ("replication-slot", False)
    heal(database, found)
    assert [each for each in see(check_slots, database) if each.data["slot"] == slot] == []


# -- connections ---------------------------------------------------------------------------------------


def test_workers_that_need_more_connections_than_there_are(database: Database) -> None:
    most = database.scalar(
        "SELECT current_setting('max_connections')::int"
        " - current_setting('superuser_reserved_connections')::int"
        " - COALESCE(current_setting('reserved_connections', true), '0')::int"
    )
    employ(database, threads=20)
    assert see(check_capacity, database) == []
    employ(database, threads=most - 20 - 8 - 10)
    [found] = see(check_capacity, database)
    assert (found.code, found.severity, found.data["needed"]) == ("connections-short", "warning", most - 10)
    employ(database, threads=7)
    [found] = see(check_capacity, database)
    assert (found.code, found.severity, found.data["needed"]) == ("connections-short", "error", most + 1)
    assert see(check_capacity, database, later=60) == [], "by then they live no more"


def test_a_limit_of_the_database_counts_too(database: Database) -> None:
    employ(database, threads=20)
    database.execute(f'ALTER DATABASE "{database.name}" CONNECTION LIMIT 23')
    [found] = see(check_capacity, database)
    assert (found.severity, found.data["most"], found.data["needed"]) == ("error", 23, 24)


def test_a_pool_that_is_too_small_for_the_workers_that_live(database: Database) -> None:
    engine = create_engine(database.url, pool_size=2, max_overflow=1)
    jobs: Jobs[Job] = Jobs(sessionmaker=sessionmaker(engine))
    assert see(check_own_pool, database, registry=jobs) == []
    employ(database, threads=2)
    assert see(check_own_pool, database, registry=jobs) == []
    employ(database, threads=3)
    [found] = see(check_own_pool, database, registry=jobs)
    assert (found.code, found.severity, found.data["needed"]) == ("pool-small", "error", 4)
    assert "pool_size=4" in found.cure
    assert see(check_own_pool, database) == [], "nobody has named an application"
    assert see(check_own_pool, database, registry=Jobs()) == [], "it has no engine of its own"
    unbound: Jobs[Job] = Jobs(sessionmaker=sessionmaker())
    assert see(check_own_pool, database, registry=unbound) == []
    shared: Jobs[Job] = Jobs(sessionmaker=sessionmaker(create_engine(database.url, poolclass=StaticPool)))
    assert codes(see(check_own_pool, database, registry=shared)) == ["pool-small"]


def test_nobody_is_between_us_and_our_own_server(database: Database) -> None:
    jobs: Jobs[Job] = Jobs(sessionmaker=sessionmaker(database.engine))
    assert see(check_pooler, database, registry=jobs) == []


@pytest.fixture(scope="module")
def pgbouncer(server: Server) -> Iterator[PgBouncer]:
    with running_pgbouncer(server) as running:
        yield running


@pytest.mark.skipif(installed() is None, reason="pgbouncer is not installed")
def test_pgbouncer_is_recognised(pgbouncer: PgBouncer, database: Database) -> None:
    engine = pgbouncer.engine(database.name)
    quiet: Jobs[Job] = Jobs(sessionmaker=sessionmaker(engine), notify=False)
    loud: Jobs[Job] = Jobs(sessionmaker=sessionmaker(engine))
    for registry, severity in ((None, "info"), (quiet, "info"), (loud, "warning")):
        findings = [each for each in examine(engine, Job, registry).findings if not is_of_server(each)]
        assert [(each.code, each.severity) for each in findings] == [("pooler", severity)]
    engine.dispose()


@pytest.mark.skipif(installed() is None, reason="pgbouncer is not installed")
def test_an_engine_that_prepares_behind_it_is_told_so_and_the_doctor_prepares_nothing(
    pgbouncer: PgBouncer, database: Database
) -> None:
    engine = create_engine(pgbouncer.url(database.name), pool_size=1)
    jobs: Jobs[Job] = Jobs(sessionmaker=sessionmaker(engine), notify=False)
    for _ in range(3):  # more often than what would be prepared
        findings = [each for each in examine(engine, Job, jobs).findings if not is_of_server(each)]
        assert [each.code for each in findings] == ["prepare-threshold", "pooler"]
    prepared = "SELECT count(*) FROM pg_prepared_statements"
    with engine.connect() as connection:
        assert connection.scalar(text(prepared)) == 0
    engine.dispose()
