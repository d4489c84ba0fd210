"""The plans of the fast lane's statements, and of claims behind a mark; see tests/test_plans.py."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy import text

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Claimed, Mark
from sqla_jobs.outcome import SUCCEEDED, Outcome
from tests.support.plans import Explainer, Plan, Verb, explaining, fill
from tests.support.server import Database, Server, fresh_database
from tests.test_plans import (
    CLAIM,
    CLAIM_ANY,
    PRIMARY,
    QUEUES,
    RETURNED,
    ROWS,
    RUNNING,
    WORKERS,
    Case,
    check,
)

TASK = "shop.jobs.send_receipt"
"""The task of all jobs that `fill` makes."""
NEAR = 200
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)
FIRST = Mark(0, LONG_AGO, 0)
"""Before every job."""


def either(
    queues: list[str] | None = None, *, fast: str = TASK, mark: Mark | None = None, innocent: bool = True
) -> Verb:
    return lambda session: lifecycle.claim_either(
        session.connection(), Job, 7, queues, [fast], mark=mark, innocent=innocent
    )


def claim(limit: int, queues: list[str] | None = None, mark: Mark | None = FIRST) -> Verb:
    return lambda session: lifecycle.claim(session, Job, 7, queues, limit=limit, mark=mark)


def held(number: int = 0) -> Claimed:
    return Claimed(number, TASK, {}, "default", 0, 0, None, 0, 7, 0, LONG_AGO, LONG_AGO, LONG_AGO)


def join(limit: int, queues: list[str] | None = None, *, fast: str = TASK) -> Verb:
    return lambda session: lifecycle.join(session.connection(), Job, held(), queues, [fast], limit)


def group(limit: int, queues: list[str] | None = None, *, fast: str = TASK) -> Verb:
    return lambda session: lifecycle.claim_group(session.connection(), Job, 7, queues, [fast], limit, FIRST)


def finish_group(number: int, outcome: Outcome = SUCCEEDED) -> Verb:
    done = [held(i) for i in range(1, number + 1)]
    return lambda session: lifecycle.finish_group(session, Job, done, [outcome] * number)


def exchange(
    number: int, limit: int, queues: list[str] | None = None, *, outcome: Outcome = SUCCEEDED
) -> Verb:
    done = [held(i) for i in range(1, number + 1)]
    return lambda session: lifecycle.exchange(
        session, Job, 7, done, queues, limit, outcomes=[outcome] * number, mark=FIRST
    )


def near(limit: int) -> int:
    """Rows that a join may look at: those near by, and again each that it locks."""
    return NEAR + limit


ALSO = {WORKERS}
CASES = {
    "either, ordinary": Case(either(fast="other"), {CLAIM_ANY, PRIMARY}, 2, 100, also=ALSO),
    "either, fast": Case(either(), {CLAIM_ANY, PRIMARY}, 2, 100, also=ALSO),
    "either by queue, ordinary": Case(either(QUEUES, fast="other"), {CLAIM, PRIMARY}, 2, 100, also=ALSO),
    "either by queue, fast": Case(either(QUEUES), {CLAIM, PRIMARY}, 2, 100, also=ALSO),
    "either, any": Case(either(innocent=False), {CLAIM_ANY, PRIMARY}, 2, 100, also=ALSO),
    "either, behind a mark": Case(either(mark=FIRST), {CLAIM_ANY, PRIMARY}, 2, 100, also=ALSO),
    "either by queue, behind a mark": Case(either(QUEUES, mark=FIRST), {CLAIM, PRIMARY}, 2, 100, also=ALSO),
    "claim, behind a mark": Case(claim(1), {CLAIM_ANY, PRIMARY}, 2, 100, also=ALSO),
    "claim by queue, behind a mark": Case(claim(1, QUEUES), {CLAIM, PRIMARY}, 2, 100, also=ALSO),
    "claim 16, behind a mark": Case(claim(16), {CLAIM_ANY, PRIMARY}, 32, 800, also=ALSO),
    "claim 16 by queue, behind a mark": Case(claim(16, QUEUES), {CLAIM, PRIMARY}, 32, 800, also=ALSO),
    "join": Case(join(49), {CLAIM_ANY, PRIMARY}, near(49), 800, also=ALSO),
    "join by queue": Case(join(49, QUEUES), {CLAIM, PRIMARY}, near(49), 800, also=ALSO),
    "join one": Case(join(1), {CLAIM_ANY, PRIMARY}, near(1), 800, also=ALSO),
    "join, others": Case(join(9, fast="other"), {CLAIM_ANY, PRIMARY}, near(0), 800, also=ALSO),
    "join by queue, others": Case(join(9, QUEUES, fast="other"), {CLAIM, PRIMARY}, near(0), 800, also=ALSO),
    "group": Case(group(99), {CLAIM_ANY, PRIMARY}, near(99), 1200, also=ALSO),
    "group by queue": Case(group(99, QUEUES), {CLAIM, PRIMARY}, near(99), 1200, also=ALSO),
    "group, others": Case(group(99, fast="other"), {CLAIM_ANY, PRIMARY}, near(0), 800, also=ALSO),
    "group by queue, others": Case(group(9, QUEUES, fast="other"), {CLAIM, PRIMARY}, near(0), 800, also=ALSO),
    "finish a group": Case(finish_group(50), {PRIMARY}, 100, 1500),
    "finish a group with results": Case(finish_group(50, RETURNED), {PRIMARY}, 100, 1500),
    "finish one": Case(finish_group(1), {PRIMARY}, 1, 60),
    "finish and claim": Case(exchange(16, 16), {CLAIM_ANY, PRIMARY}, 64, 1500, also=ALSO),
    "finish with results and claim": Case(
        exchange(16, 16, outcome=RETURNED), {CLAIM_ANY, PRIMARY}, 64, 1500, also=ALSO
    ),
    "finish and claim by queue": Case(exchange(16, 16, QUEUES), {CLAIM, PRIMARY}, 64, 1500, also=ALSO),
    "finish, and claim nothing": Case(exchange(16, 0), {PRIMARY}, 32, 1500),
}  # fmt: skip


def check_all(explain: Explainer) -> None:
    for name, case in CASES.items():
        (plan,) = explain(case.verb)
        print(f"{name}: {plan.milliseconds} ms, {plan.buffers} buffers, {plan.rows_read:g} rows")
        check(plan, case)


@dataclass(frozen=True)
class History:
    """How many are finished, and what the planner knows."""

    finished: int
    analyzed: str


HISTORIES = [History(rows, known) for rows in (0, ROWS) for known in ("never", "stale", "current")]


@pytest.fixture(
    scope="module", params=HISTORIES, ids=lambda it: f"{it.finished}-finished-{it.analyzed}-analyzed"
)
def filled(request: pytest.FixtureRequest, server: Server, template: str) -> Iterator[Database]:
    """Jobs in every state, all in one queue. Stale: ANALYZE saw the finished ones only."""
    history: History = request.param
    with fresh_database(server, "plans", template) as database:
        fill(database, "succeeded", history.finished)
        if history.analyzed == "stale":
            database.execute("ANALYZE")
        fill(database, "queued", ROWS // 10)
        fill(database, "scheduled", ROWS // 10, later="1 hour")
        fill(database, "running", RUNNING)
        if history.analyzed == "current":
            database.execute("ANALYZE")
        yield database


@pytest.mark.big
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_each_statement_reads_what_it_needs_by_its_index(filled: Database, generic: bool) -> None:
    with explaining(filled, generic=generic) as explain:
        check_all(explain)


def test_a_plan_made_for_the_empty_table_serves_the_full_one(database: Database) -> None:
    with explaining(database, generic=True) as explain:
        for case in CASES.values():
            explain(case.verb)
        fill(database, "succeeded", 2000)
        fill(database, "queued", 2000)
        fill(database, "scheduled", 2000, later="1 hour")
        fill(database, "running", RUNNING)
        check_all(explain)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_statistics_of_an_empty_table_do_no_harm(database: Database, generic: bool) -> None:
    """ANALYZE has seen it, and empty pages: to the planner nothing is cheaper than to read them."""
    fill(database, "queued", 10)
    database.execute("DELETE FROM sqla_jobs")
    database.execute("VACUUM (ANALYZE, TRUNCATE off) sqla_jobs")
    fill(database, "succeeded", 3000)
    fill(database, "queued", 3000)
    with explaining(database, generic=generic) as explain:
        check_all(explain)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_statistics_of_a_table_that_had_only_queued_jobs_do_no_harm(
    database: Database, generic: bool
) -> None:
    fill(database, "queued", 3000)
    database.execute("ANALYZE")
    database.execute("UPDATE sqla_jobs SET state = 'succeeded', finished_at = run_at WHERE id > 10")
    fill(database, "succeeded", 5000)
    database.execute("VACUUM (INDEX_CLEANUP ON) sqla_jobs")
    with explaining(database, generic=generic) as explain:
        for name, case in CASES.items():
            (plan,) = explain(case.verb)
            check(plan, case)
            assert plan.rows_read <= 100, f"{name}\n{plan}"


# -- dead index entries before the mark ------------------------------------------------------------


@pytest.mark.parametrize("ordinary", [True, False], ids=["claim", "either"])
@pytest.mark.parametrize("queues", [None, QUEUES], ids=["any", "by queue"])
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_behind_a_mark_no_entry_of_a_job_that_is_gone_is_read(
    database: Database, ordinary: bool, queues: list[str] | None, generic: bool
) -> None:
    """While somebody's snapshot is older than their end, a claim without a mark reads each of them again."""
    number = 3000
    fill(database, "queued", number + 100)
    mark = Mark(0, database.scalar("SELECT run_at FROM sqla_jobs LIMIT 1"), number)
    with database.engine.connect() as pin, explaining(database, generic=generic) as explain:
        pin.execution_options(isolation_level="REPEATABLE READ").execute(
            text("SELECT count(*) FROM sqla_jobs")
        )
        database.execute(
            "UPDATE sqla_jobs SET state = 'succeeded', finished_at = run_at WHERE id <= :number",
            number=number,
        )

        def read(mark: Mark | None) -> Plan:
            (plan,) = explain(claim(1, queues, mark) if ordinary else either(queues, mark=mark))
            return plan

        without = read(None)
        plan = read(mark)
        assert plan.buffers < without.buffers / 2, f"{without}\n{plan}"
        assert plan.rows_read <= 2, plan
