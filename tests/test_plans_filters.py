"""The plans of a worker's statements with a claim filter; see tests/test_plans.py.

The jobs of one tenant are few among those of another that come before them.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, Session

from sqla_jobs import JobMixin, lifecycle
from sqla_jobs.lifecycle import Claimed, Mark
from sqla_jobs.lifecycle.sent import LeftOut
from sqla_jobs.models import create_all
from sqla_jobs.statements import filter_of, index_ddl
from tests.support.plans import Plan, Verb, explaining, fill, walk
from tests.support.server import Database, Server, fresh_database
from tests.test_plans import PRIMARY, PROMOTE, QUEUES, RESCUE, ROWS, RUNNING, WORKERS, Case, check


class Base(DeclarativeBase):
    pass


class TenantJob(JobMixin, Base):
    tenant_id: Mapped[int | None]


TASK = "shop.jobs.send_receipt"
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)
FIRST = Mark(0, LONG_AGO, 0)
RARE = 20
"""Jobs of the tenant."""
ONLY = filter_of(TenantJob, TenantJob.tenant_id == 7)
ANY, BY_QUEUE = "ix_jobs_of_7", "ix_jobs_of_7_by_queue"


def claim(limit: int, queues: list[str] | None = None, mark: Mark | None = None) -> Verb:
    return lambda s: lifecycle.claim(s, TenantJob, 7, queues, limit=limit, mark=mark, only=ONLY)


def either(queues: list[str] | None = None, mark: Mark | None = None) -> Verb:
    return lambda s: lifecycle.claim_either(
        s.connection(), TenantJob, 7, queues, [TASK], mark=mark, only=ONLY
    )


def join(queues: list[str] | None = None) -> Verb:
    first = Claimed(0, TASK, {}, "default", 0, 0, None, 0, 7, 0, LONG_AGO, LONG_AGO, LONG_AGO)
    return lambda s: lifecycle.join(s.connection(), TenantJob, first, queues, [TASK], 9, only=ONLY)


def exchange(queues: list[str] | None = None) -> Verb:
    done = [
        Claimed(n, TASK, {}, "default", 0, 0, None, 0, 7, 0, LONG_AGO, LONG_AGO, LONG_AGO) for n in (1, 2)
    ]
    return lambda s: lifecycle.exchange(s, TenantJob, 7, done, queues, 8, only=ONLY)


def has_work(queues: list[str] | None = None, **closed: Any) -> Verb:
    return lambda s: lifecycle.has_work(s, TenantJob, 7, queues, only=ONLY, **closed)


def open_queues(session: Session) -> object:
    return lifecycle.open_queues(session, TenantJob, None, ["paused"], ONLY)


def counted(queues: list[str] | None = None) -> Verb:
    left = LeftOut(["limited"], ["full"])
    return lambda s: lifecycle.claim(s, TenantJob, 7, queues, only=ONLY, left=left)


ALSO = {WORKERS}
CASES = {
    "claim": Case(claim(1), {ANY, PRIMARY}, 2, 100, also=ALSO),
    "claim, 10 jobs": Case(claim(10), {ANY, PRIMARY}, 20, 500, also=ALSO),
    "claim by queue": Case(claim(1, QUEUES), {BY_QUEUE, PRIMARY}, 2, 100, also=ALSO),
    "claim by queue, 10 jobs": Case(claim(10, QUEUES), {BY_QUEUE, PRIMARY}, 20, 500, also=ALSO),
    "claim, behind a mark": Case(claim(1, mark=FIRST), {ANY, PRIMARY}, 2, 100, also=ALSO),
    "claim by queue, behind a mark": Case(claim(1, QUEUES, FIRST), {BY_QUEUE, PRIMARY}, 2, 100, also=ALSO),
    "either": Case(either(), {ANY, PRIMARY}, 2, 100, also=ALSO),
    "either by queue": Case(either(QUEUES), {BY_QUEUE, PRIMARY}, 2, 100, also=ALSO),
    "either, behind a mark": Case(either(mark=FIRST), {ANY, PRIMARY}, 2, 100, also=ALSO),
    "claim, beside a limit": Case(counted(), {ANY, PRIMARY}, 2, 100, also=ALSO),
    "claim by queue, beside a limit": Case(counted(QUEUES), {BY_QUEUE, PRIMARY}, 2, 100, also=ALSO),
    "join": Case(join(), {ANY, PRIMARY}, RARE + 9, 800, also=ALSO),
    "join by queue": Case(join(QUEUES), {BY_QUEUE, PRIMARY}, RARE + 9, 800, also=ALSO),
    "finish and claim": Case(exchange(), {ANY, PRIMARY}, 20, 800, also=ALSO),
    "finish and claim by queue": Case(exchange(QUEUES), {BY_QUEUE, PRIMARY}, 20, 800, also=ALSO),
    "has work": Case(has_work(), {ANY, PROMOTE, RESCUE}, 1, 10),
    "has work by queue": Case(has_work(QUEUES), {BY_QUEUE, PROMOTE, RESCUE}, 1, 20),
    "has work beside a paused queue": Case(has_work(closed=["paused"]), {BY_QUEUE, PROMOTE, RESCUE}, 2, 20),
    "open queues": Case(open_queues, {BY_QUEUE}, 10, 20, sorts=2),
}  # fmt: skip


def create(database: Database) -> None:
    """The tables, and the indexes as a worker asks for them, but for their names."""
    create_all(database.engine, TenantJob)
    for name, any_queue in ((ANY, True), (BY_QUEUE, False)):
        ddl = index_ddl(TenantJob, any_queue, ONLY, database.engine.dialect)
        database.execute(f"CREATE INDEX {name} ON {ddl.partition(' ON ')[2]}")


def fill_all(database: Database, others: int) -> None:
    """Queued jobs of another tenant, in the same queue and in a paused one; behind them a few of our own."""
    queued(database, others, tenant=8)
    queued(database, others // 10, tenant=8, queue="paused")
    queued(database, RARE, tenant=7)


def queued(database: Database, number: int, *, tenant: int, queue: str = "default") -> None:
    fill(database, "queued", number, queue=queue)
    database.execute("UPDATE sqla_jobs SET tenant_id = :tenant WHERE tenant_id IS NULL", tenant=tenant)


# -- on much data ----------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["never", "stale", "current"], ids=lambda kind: f"{kind}-analyzed")
def filled(request: pytest.FixtureRequest, server: Server) -> Iterator[Database]:
    """As many queued jobs of others as the measure says. Stale: ANALYZE saw finished jobs only."""
    with fresh_database(server, "plans") as database:
        create(database)
        fill(database, "succeeded", ROWS // 20)
        database.execute("UPDATE sqla_jobs SET tenant_id = 8")
        if request.param == "stale":
            database.execute("ANALYZE")
        fill_all(database, ROWS)
        fill(database, "scheduled", ROWS // 20, later="1 hour")
        fill(database, "running", RUNNING)
        if request.param == "current":
            database.execute("ANALYZE")
        yield database


@pytest.mark.big
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_with_its_index_a_filter_reads_nothing_of_others(filled: Database, generic: bool) -> None:
    """However many of them are queued before its own."""
    with explaining(filled, generic=generic) as explain:
        for name, case in CASES.items():
            *_, plan = explain(case.verb)
            print(f"{name}: {plan.milliseconds} ms, {plan.buffers} buffers, {plan.rows_read:g} rows")
            check(plan, case)


@pytest.mark.big
def test_the_statement_that_the_driver_has_prepared_uses_it(filled: Database) -> None:
    """What a worker really sends: prepared by the driver, and planned by the server once for all values."""
    with filled.engine.connect() as connection:
        for _ in range(12):  # and no rollback in between, at which the driver forgets what it has prepared
            assert len(lifecycle.claim(connection, TenantJob, 7, only=ONLY)) == 1
        name, sql, generic = connection.exec_driver_sql(
            "SELECT name, statement, generic_plans FROM pg_prepared_statements WHERE statement LIKE %(like)s",
            {"like": "%picked%tenant_id%"},
        ).one()
        assert "(sqla_jobs.tenant_id = 7)" in sql
        assert generic > 0, "so it was planned without knowing a value"
        told = connection.exec_driver_sql(
            f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE {name} ({values(sql)})".replace("%", "%%")
        ).scalar_one()[0]
        connection.rollback()
    plan = Plan(sql, tuple(walk(told["Plan"])), told["Execution Time"], "JIT" in told)
    check(plan, CASES["claim"])


def values(sql: str) -> str:
    """The values of a claim: its parameters are the time, which is null, and the worker."""
    places = {int(place): cast for place, cast in re.findall(r"\$(\d+)::(\w+)", sql)}
    return ", ".join("7" if places[n] == "BIGINT" else "NULL" for n in sorted(places))


# -- a plan that was made while the table was small ------------------------------------------------


def test_a_plan_made_for_the_empty_table_serves_the_full_one(empty_database: Database) -> None:
    create(empty_database)
    with explaining(empty_database, generic=True) as explain:
        for case in CASES.values():
            explain(case.verb)
        fill(empty_database, "succeeded", 2000)
        fill_all(empty_database, 2000)
        for case in CASES.values():
            *_, plan = explain(case.verb)
            check(plan, case)
