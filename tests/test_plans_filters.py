"""The plans of a worker's statements with a claim filter, and of `holders`; see tests/test_plans.py.

The jobs of one tenant are few among those of another that come before them.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle, statements
from sqla_jobs.lifecycle import Claimed, Mark
from sqla_jobs.statements import filter_of, index_ddl
from tests.support.plans import Plan, Verb, explaining, fill, nodes_of
from tests.support.server import Database, Server, fresh_database
from tests.support.tenants import Base, TenantJob
from tests.support.verbs import employ
from tests.test_plans import PRIMARY, PROMOTE, QUEUES, RESCUE, ROWS, RUNNING, WORKERS, Case, check

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
    done = [Claimed(n, TASK, {}, "default", 0, 0, None, 0, 7, 0, LONG_AGO, LONG_AGO, LONG_AGO) for n in (1, 2)]
    return lambda s: lifecycle.exchange(s, TenantJob, 7, done, queues, 8, only=ONLY)


def has_work(queues: list[str] | None = None, **closed: Any) -> Verb:
    return lambda s: lifecycle.has_work(s, TenantJob, 7, queues, only=ONLY, **closed)


def open_queues(session: Session) -> object:
    return lifecycle.open_queues(session, TenantJob, None, ["paused"], ONLY)


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
    "join": Case(join(), {ANY, PRIMARY}, RARE + 9, 800, also=ALSO),
    "join by queue": Case(join(QUEUES), {BY_QUEUE, PRIMARY}, RARE + 9, 800, also=ALSO),
    "finish and claim": Case(exchange(), {ANY, PRIMARY}, 20, 800, also=ALSO),
    "finish and claim by queue": Case(exchange(QUEUES), {BY_QUEUE, PRIMARY}, 20, 800, also=ALSO),
    "has work": Case(has_work(), {ANY, PROMOTE, RESCUE}, 1, 10),
    "has work by queue": Case(has_work(QUEUES), {BY_QUEUE, PROMOTE, RESCUE}, 1, 20),
    "has work beside a paused queue": Case(has_work(closed=["paused"]), {BY_QUEUE, PROMOTE, RESCUE}, 2, 20),
    "open queues": Case(open_queues, {BY_QUEUE}, 2, 20, sorts=2),
}  # fmt: skip


def create(database: Database) -> None:
    statements_of = {"any": True, "queue": False}
    Base.metadata.tables["sqla_jobs"].create(database.engine)
    from sqla_jobs.models import companions

    companions(None).metadata.create_all(
        database.engine, [t for t in companions(None).metadata.sorted_tables if t.name != "sqla_jobs"]
    )
    for any_queue in statements_of.values():
        ddl = index_ddl(TenantJob, any_queue, ONLY, database.engine.dialect)
        name = ANY if any_queue else BY_QUEUE
        before, _, after = ddl.partition(" ON ")
        database.execute(f"CREATE INDEX {name} ON {after}")


def fill_queue(database: Database, others: int) -> None:
    """Of another tenant in the same queue, in a paused one and in others; and behind them our own."""
    fill(database, "queued", others)
    fill(database, "queued", others // 10, queue="paused")
    fill(database, "queued", RARE)
    ours = f"SELECT id FROM sqla_jobs WHERE state = 'queued' ORDER BY id DESC LIMIT {RARE}"
    database.execute(f"UPDATE sqla_jobs SET tenant_id = 7 WHERE id IN ({ours})")
    database.execute("UPDATE sqla_jobs SET tenant_id = 8 WHERE tenant_id IS NULL")
