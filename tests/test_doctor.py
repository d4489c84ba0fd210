"""The doctor as a whole: a healthy database, who may look, what becomes of a check that cannot."""

from __future__ import annotations

import datetime as dt
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, migrations
from sqla_jobs.doctor import CHECKS, CODES, Check, Finding, examine, look, people, work
from sqla_jobs.doctor.privileges import check_privileges, check_sight
from sqla_jobs.doctor.schema import check_revision
from sqla_jobs.doctor.work import check_queues
from sqla_jobs.statements import examined
from sqla_jobs.statements.examined.work import SAMPLE
from tests.support.doctor import codes, employ, heal, report, see
from tests.support.plans import Plan, explaining, fill
from tests.support.server import URL_VARIABLE, Database, Server
from tests.support.tenants import TenantJob
from tests.test_doctor_definitions import OddJob

ROWS = int(os.environ.get("SQLA_JOBS_TEST_ROWS", "50000"))
SAMPLED = {"ix_sqla_jobs_claim_any", "ix_sqla_jobs_promote", "ix_sqla_jobs_rescue"}
DOCS = (Path(__file__).parent.parent / "docs" / "doctor.md").read_text()


def test_a_healthy_database_has_no_finding(database: Database) -> None:
    assert report(database) == set()


def test_nor_has_one_of_an_applications_own_model(empty_database: Database) -> None:
    jobs: Jobs[Any] = Jobs(model=TenantJob)
    jobs.create_all(empty_database.engine)
    assert report(empty_database, TenantJob, jobs) == set()


@pytest.mark.skipif(URL_VARIABLE in os.environ, reason="the settings of a server that others use")
def test_nor_has_the_server_once_it_is_no_test_server(server: Server, database: Database) -> None:
    settings = ("autovacuum", "fsync", "full_page_writes")
    found = examine(database.engine, Job).findings
    assert {each.code for each in found} == {"autovacuum-off", "fsync-off"}
    try:
        for each in found:
            heal(database, each)
        assert examine(database.engine, Job).findings == []
    finally:
        with server.admin.connect() as connection:
            for name in settings:
                connection.exec_driver_sql(f"ALTER SYSTEM SET {name} = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")


# -- the tables ----------------------------------------------------------------------------------------


def test_no_tables(empty_database: Database) -> None:
    [found] = see(check_revision, empty_database)
    assert (found.code, found.severity) == ("tables-missing", "error")
    assert found.cure.endswith("sqla-jobs migrate")
    assert {each.split(":")[0] for each in report(empty_database)} == {"tables-missing"}


def test_tables_of_an_older_revision(empty_database: Database) -> None:
    migrations.migrate(empty_database.engine, to="0001")
    [found] = see(check_revision, empty_database)
    assert (found.code, found.severity, found.data["revision"]) == ("revision-behind", "error", "0001")
    assert {each.split(":")[0] for each in report(empty_database)} == {"revision-behind"}, "no other fails"
    migrations.migrate(empty_database.engine)
    assert see(check_revision, empty_database) == []


def test_tables_of_a_newer_revision(database: Database) -> None:
    database.execute(
        "CREATE OR REPLACE FUNCTION sqla_jobs_schema_version() RETURNS text LANGUAGE sql AS $$SELECT '9999'$$"
    )
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    assert {each.split(":")[0] for each in report(database)} == {"revision-ahead", "no-worker"}


def test_tables_that_somebody_else_has_made(database: Database) -> None:
    database.execute("DROP FUNCTION sqla_jobs_schema_version()")
    assert codes(see(check_revision, database)) == ["tables-unmarked"]


def test_tables_of_which_one_is_gone(database: Database) -> None:
    database.execute("DROP TABLE sqla_jobs_queues")
    [found] = see(check_revision, database)
    assert (found.code, found.data["missing"]) == ("tables-missing", ["sqla_jobs_queues"])
    assert {each.split(":")[0] for each in report(database)} == {"tables-missing"}


# -- who looks -----------------------------------------------------------------------------------------


@pytest.fixture
def stranger(server: Server, database: Database) -> Iterator[Database]:
    """The same database, for a role that may do nothing there."""
    role = f"stranger_{database.name}"
    with server.admin.connect() as connection:
        connection.exec_driver_sql(f'CREATE ROLE "{role}" LOGIN')
    database.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    theirs = Database(server, database.name)
    theirs.__dict__["engine"] = create_engine(database.url.set(username=role))
    yield theirs
    theirs.engine.dispose()
    database.execute(f'DROP OWNED BY "{role}"')
    with server.admin.connect() as connection:
        connection.exec_driver_sql(f'DROP ROLE "{role}"')


def test_a_role_that_may_do_nothing_is_told_what_it_needs(stranger: Database, database: Database) -> None:
    found = see(check_privileges, stranger)
    assert found == [], "without the schema it does not even see the tables"
    assert "tables-missing" in codes(see(check_revision, stranger))
    database.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    assert {each.split(":")[0] for each in report(stranger)} == {"privilege-missing", "sessions-hidden"}
    found = see(check_privileges, stranger)
    assert [each.data["missing"] for each in found] == [["SELECT", "INSERT", "UPDATE", "DELETE"]] * 4
    for each in found:
        heal(database, each)
    assert see(check_privileges, stranger) == []
    [found] = see(check_sight, stranger)
    heal(database, found)
    assert report(stranger) == set(), "no more than TEMP, which everybody has"


def test_a_role_that_may_only_read_learns_the_rest(stranger: Database, database: Database) -> None:
    database.execute("GRANT USAGE ON SCHEMA public TO PUBLIC")
    for table in ("", "_queues", "_schedules", "_workers"):
        database.execute(f"GRANT SELECT ON sqla_jobs{table} TO PUBLIC")
    database.execute("DROP INDEX ix_sqla_jobs_prune")
    assert {each.split(":")[0] for each in report(stranger)} == {
        *("privilege-missing", "sessions-hidden", "index-missing"),
    }


def test_a_named_schema_that_may_not_be_used(stranger: Database, database: Database) -> None:
    Jobs(model=OddJob).create_all(database.engine)
    found = see(check_privileges, stranger, OddJob)
    assert [each.data["missing"] for each in found[:1]] == [["USAGE"]]
    for each in found:
        heal(database, each)
    assert see(check_privileges, stranger, OddJob) == []
    assert see(check_revision, stranger, OddJob) == []


# -- checks that cannot look ---------------------------------------------------------------------------


def test_a_check_that_fails_is_a_finding_and_the_next_one_looks(database: Database) -> None:
    def check_by_sql(connection: Connection, *_: Any) -> list[Finding]:
        connection.execute(text("SELECT 1 / 0"))
        return []

    def check_by_python(*_: Any) -> list[Finding]:
        raise ValueError("\x1b[31mno\nmore")

    with database.engine.connect() as connection:
        [found] = look(check_by_sql, connection, Job, None, None)
        assert (found.code, found.data["check"], found.data["sqlstate"]) == (
            "check-failed",
            "by sql",
            "22012",
        )
        [found] = look(check_by_python, connection, Job, None, None)
        assert (found.code, found.data["error"]) == ("check-failed", "ValueError")
        assert look(check_queues, connection, Job, None, None) == []


def test_a_check_that_takes_too_long_is_given_up(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    def check_slowly(connection: Connection, *_: Any) -> list[Finding]:
        connection.execute(text("SELECT pg_sleep(10)"))
        return []

    monkeypatch.setattr("sqla_jobs.doctor.examination.STATEMENT", dt.timedelta(milliseconds=50))
    with database.engine.connect() as connection:
        [found] = look(check_slowly, connection, Job, None, None)
        assert (found.code, found.data["sqlstate"]) == ("check-timeout", "57014")
        assert connection.scalar(text("SHOW statement_timeout")) == "0", "it was that transaction's only"


def test_whoever_has_a_table_to_himself_is_not_waited_for(database: Database) -> None:
    employ(database)
    with database.engine.connect() as holder:
        holder.execute(text("LOCK TABLE sqla_jobs_queues IN ACCESS EXCLUSIVE MODE"))
        assert {each.split(":")[0] for each in report(database)} == {"check-timeout"}


def test_a_database_that_is_lost_is_no_finding(database: Database) -> None:
    def check_death(connection: Connection, *_: Any) -> list[Finding]:
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return []

    with database.engine.connect() as connection, pytest.raises(OperationalError):
        look(check_death, connection, Job, None, None)


def test_nothing_that_a_check_does_stays(database: Database) -> None:
    def check_and_write(connection: Connection, *_: Any) -> list[Finding]:
        connection.execute(text("INSERT INTO sqla_jobs (task) VALUES ('t')"))
        return []

    with database.engine.connect() as connection:
        assert look(check_and_write, connection, Job, None, None) == []
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


@pytest.mark.parametrize("level", ["AUTOCOMMIT", "SERIALIZABLE"])
def test_it_looks_the_same_through_any_engine(database: Database, level: Any) -> None:
    engine: Engine = create_engine(database.url, isolation_level=level)
    assert {each.code for each in examine(engine, Job).findings} <= {"autovacuum-off", "fsync-off"}
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        assert driver.autocommit == (level == "AUTOCOMMIT")
        assert driver.autocommit or connection.get_isolation_level() == level
    engine.dispose()


# -- the whole -----------------------------------------------------------------------------------------


LOOKS = {
    people.check_workers: {"ix_sqla_jobs_claim", *SAMPLED},
    people.check_running: {"ix_sqla_jobs_rescue"},
    work.check_tasks: SAMPLED,
    work.check_crashes: SAMPLED,
    work.check_queues: {"ix_sqla_jobs_claim"},
}
"""Those that read the job table, and by which indexes."""


@pytest.mark.big
def test_many_jobs_do_not_make_it_slow(database: Database) -> None:
    """Half a second for a million, of all states and without statistics; and no plan grows with them."""
    for state, part, later in (
        ("succeeded", 2, "0"), ("queued", 5, "0"), ("scheduled", 5, "1 h"), ("running", 10, "0"),
    ):  # fmt: skip
        fill(database, state, ROWS // part, later=later)
    database.execute(
        "INSERT INTO sqla_jobs (task, queue, state) SELECT 't', 'q' || i, 'queued'"
        " FROM generate_series(1, 2000) AS i"
    )
    database.execute("DELETE FROM sqla_jobs_workers")
    employ(database)
    examine(database.engine, Job)  # SQLAlchemy compiles each statement once
    for analyzed in (False, True):
        if analyzed:
            database.execute("VACUUM ANALYZE sqla_jobs")
        assert worked(database) < 0.5
        for check, indexes in LOOKS.items():
            found = plans(database, check)
            read = {node.get("Index Name", node["Node Type"]) for plan in found for node in plan.scans}
            assert read == indexes, f"{check.__name__}: {found}"
            for plan in found:
                assert plan.rows_read <= 3 * SAMPLE + 200, f"{check.__name__}: {plan}"


def plans(database: Database, check: Check) -> list[Plan]:
    """How the server does what a check asks, while a worker lives; or none, if it is about that."""
    now = dt.datetime(2126 if check is people.check_workers else 2021, 1, 1, tzinfo=dt.timezone.utc)

    def verb(session: Session) -> None:
        session.execute(examined.limits(), {"statement": "9s", "lock": "9s"})
        check(session.connection(), Job, None, now)

    with explaining(database, generic=False) as explain:
        return explain(verb)


def worked(database: Database) -> float:
    """Seconds that a look costs this process and the server's: the machine may be busy with other tests."""
    with database.engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    processes = [psutil.Process(each) for each in (os.getpid(), pid) if psutil.pid_exists(each)]

    def spent() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = spent()
    found = examine(database.engine, Job).findings
    took = spent() - before
    assert not [each for each in found if each.code.startswith("check-")]
    return took


def test_errors_come_first(database: Database) -> None:
    database.execute(
        "DROP INDEX ix_sqla_jobs_prune; ALTER TABLE sqla_jobs RESET (autovacuum_vacuum_scale_factor)"
    )
    told = examine(database.engine, Job)
    ranks = [each.rank for each in told.findings]
    assert ranks == sorted(ranks)
    assert told.worst == "error"
    assert told.checks == len(CHECKS)


def documented() -> dict[str, tuple[str, ...]]:
    """The codes of the tables in docs/doctor.md, with their severities."""
    rows = re.findall(r"^\| `([a-z-]+)` \| ([a-z, ]+) \|", DOCS, re.MULTILINE)
    return {code: tuple(severities.split(", ")) for code, severities in rows}


def test_every_code_is_documented_with_its_severities() -> None:
    assert documented() == dict(CODES)
