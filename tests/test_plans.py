"""The plans of every statement on the hot path: the right index, no sort of a backlog, bounded reads.

The sizes follow SQLA_JOBS_TEST_ROWS: finished rows 0, a twentieth of it and all of it; a tenth of it waits
for a later time and a tenth is queued. The project's own measure is 1,000,000.
"""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, lifecycle, statements
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.outcome import SUCCEEDED, Outcome, Result
from tests.support.plans import Plan, Verb, explaining, fill
from tests.support.server import Database, Server, fresh_database

ROWS = int(os.environ.get("SQLA_JOBS_TEST_ROWS", "50000"))
RUNNING = 10
QUEUES = ["empty", "default"]
"""A worker's list whose first queue is empty, while all jobs are in the second."""

CLAIM, CLAIM_ANY = "ix_sqla_jobs_claim", "ix_sqla_jobs_claim_any"
PROMOTE, RESCUE, PRIMARY = "ix_sqla_jobs_promote", "ix_sqla_jobs_rescue", "pk_sqla_jobs"
WORKERS = "pk_sqla_jobs_workers"


RETURNED = Outcome(JobState.SUCCEEDED, result=Result(7, "7"), progress='{"done": 1}')


def later() -> dt.datetime:
    """A time at which the waiting jobs are due."""
    return dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=2)


def claim(limit: int, queues: list[str] | None = None) -> Verb:
    return lambda session: lifecycle.claim(session, Job, 7, queues, limit=limit)


def take(queues: list[str] | None = None) -> Verb:
    given: dict[str, Any] = {"queues": queues} if queues else {}
    statement = statements.take(Job, any_queue=not queues)
    return lambda session: session.execute(statement, {"now": None, **given}).all()


def take_due(queues: list[str] | None = None) -> Verb:
    given: dict[str, Any] = {"queues": queues} if queues else {}
    statement = statements.take_due(Job, any_queue=not queues)
    return lambda session: session.execute(statement, {"now": later(), **given}).all()


def finish(taken: bool, outcome: Outcome = SUCCEEDED) -> Verb:
    def verb(session: Session) -> None:
        at = dt.datetime.now(dt.timezone.utc)
        job = Claimed(1, "t", {}, "default", 0, 0, None, 0, 7, 0, at, at, at)
        lifecycle.finish(session, Job, job, outcome, taken=taken)

    return verb


@dataclass(frozen=True)
class Case:
    """A verb that sends one statement, and what its plan may do."""

    verb: Verb
    indexes: set[str]
    rows: int
    """Rows of the job table that it may look at."""
    buffers: int
    sorts: int = 0
    """Rows that it may sort."""
    due: bool = False
    """Whether it is about jobs that are due: without any statistics it may sort those, never the others."""
    also: set[str] = field(default_factory=set)
    """Tables other than that of the jobs, and their indexes: small, and not looked at here."""


CASES = {
    "claim": Case(claim(1), {CLAIM_ANY, PRIMARY}, 2, 100, also={WORKERS}),
    "claim, 10 jobs": Case(claim(10), {CLAIM_ANY, PRIMARY}, 20, 500, also={WORKERS}),
    "claim by queue": Case(claim(1, QUEUES), {CLAIM, PRIMARY}, 2, 100, also={WORKERS}),
    "claim by queue, 10 jobs": Case(claim(10, QUEUES), {CLAIM, PRIMARY}, 20, 500, also={WORKERS}),
    "take": Case(take(), {CLAIM_ANY}, 1, 30),
    "take by queue": Case(take(QUEUES), {CLAIM}, 1, 30),
    "take a due job": Case(take_due(), {PROMOTE, PRIMARY}, 1002, 1500, sorts=1000, due=True),
    "take a due job by queue": Case(take_due(QUEUES), {PROMOTE, PRIMARY}, 1002, 1500, sorts=1000, due=True),
    "promote": Case(
        lambda session: lifecycle.promote(session, Job, now=later()),
        {PROMOTE, PRIMARY}, 2000, 40_000, due=True,
    ),
    "promote nothing": Case(lambda session: lifecycle.promote(session, Job), {PROMOTE, PRIMARY}, 0, 10),
    "next due": Case(lambda session: lifecycle.next_due(session, Job), {PROMOTE}, 1, 10),
    "has work": Case(
        lambda session: lifecycle.has_work(session, Job, 7), {CLAIM_ANY, PROMOTE, RESCUE}, 1, 10
    ),
    "has work by queue": Case(
        lambda session: lifecycle.has_work(session, Job, 7, QUEUES), {CLAIM, PROMOTE, RESCUE}, 1, 20
    ),
    "orphans": Case(
        lambda session: session.execute(statements.orphans(Job)).all(),
        {RESCUE}, RUNNING, 100, sorts=RUNNING, also={WORKERS},
    ),
    "running under a worker": Case(
        lambda session: session.execute(statements.running_under(Job), {"p_worker_id": 7}).all(),
        {RESCUE}, RUNNING, 100,
    ),
    "finish": Case(finish(taken=False), {PRIMARY}, 1, 60),
    "finish what was taken": Case(finish(taken=True), {PRIMARY}, 1, 60),
    "finish with a result": Case(finish(False, RETURNED), {PRIMARY}, 1, 60),
    "a result": Case(
        lambda session: session.execute(statements.result(Job), {"p_id": 1}).all(), {PRIMARY}, 1, 20
    ),
    "progress": Case(
        lambda session: session.execute(statements.progress(Job), {"p_id": 1}).all(),
        {PRIMARY}, 1, 20, also={WORKERS},
    ),
    "standing": Case(lambda session: lifecycle.standing(session, Job, 1), {PRIMARY}, 1, 20),
}  # fmt: skip


def check(plan: Plan, case: Case, *, due: int = 0) -> None:
    """Hold a plan to its case; ``due``: so many due jobs may be read and sorted besides."""
    told = f"\n{plan}"
    assert plan.indexes - case.also == case.indexes, told
    assert "Seq Scan" not in {node["Node Type"] for node in plan.scans}, told
    # A bitmap has no order: of the queued jobs the whole backlog would be sorted.
    bitmaps = {node["Index Name"] for node in plan.nodes if node["Node Type"] == "Bitmap Index Scan"}
    assert bitmaps <= {PROMOTE, RESCUE}, told
    assert plan.rows_read <= case.rows + due, told
    assert plan.rows_sorted <= max(case.sorts, due), told
    assert plan.buffers <= case.buffers + due, told
    # From jit_above_cost (100,000) up it would be compiled first, which takes longer than the claim.
    assert plan.cost <= (10_000 if PROMOTE in case.indexes else 100 * case.rows), told
    assert not plan.compiled, told
    joins = plan.kinds & {"Nested Loop", "Hash Join", "Merge Join", "Materialize"}
    assert joins <= {"Nested Loop"} or case.also, told


# -- on much data ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Filled:
    """A database with a history, a backlog and waiting jobs."""

    database: Database
    analyzed: bool


@pytest.fixture(scope="module", params=[0, ROWS // 20, ROWS], ids=lambda rows: f"{rows}-finished")
def finished(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module", params=["never", "stale", "current"], ids=lambda kind: f"{kind}-analyzed")
def filled(request: pytest.FixtureRequest, server: Server, template: str, finished: int) -> Iterator[Filled]:
    """Jobs in every state, all in one queue. Stale: ANALYZE saw the finished ones only."""
    with fresh_database(server, "plans", template) as database:
        fill(database, "succeeded", finished)
        if request.param == "stale":
            database.execute("ANALYZE")
        fill(database, "queued", ROWS // 10)
        fill(database, "scheduled", ROWS // 10, later="1 hour")
        fill(database, "running", RUNNING)
        if request.param == "current":
            database.execute("ANALYZE")
        yield Filled(database, request.param == "current")


@pytest.mark.big
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_each_statement_reads_what_it_needs_by_its_index(filled: Filled, generic: bool) -> None:
    """Whatever is finished or waits, and whether or not the planner has, or has right, statistics."""
    with explaining(filled.database, generic=generic) as explain:
        for name, case in CASES.items():
            (plan,) = explain(case.verb)
            print(f"{name}: {plan.milliseconds} ms, {plan.buffers} buffers, {plan.rows_read:g} rows")
            due = ROWS // 10 if case.due and not filled.analyzed else 0
            check(plan, case, due=due)


# -- a plan that was made while the table was small ------------------------------------------------


def test_a_plan_made_for_the_empty_table_serves_the_full_one(database: Database) -> None:
    """A worker that starts on a new database prepares its statements there, and keeps their plans."""
    with explaining(database, generic=True) as explain:
        for case in CASES.values():
            explain(case.verb)
        fill(database, "succeeded", 2000)
        fill(database, "queued", 2000)
        fill(database, "scheduled", 2000, later="1 hour")
        fill(database, "running", RUNNING)
        for case in CASES.values():
            (plan,) = explain(case.verb)
            check(plan, case)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_statistics_from_a_time_when_nothing_was_finished_do_no_harm(
    database: Database, generic: bool
) -> None:
    """To the planner a job in the wanted state is then on every page; in truth there is none."""
    for state in ("queued", "scheduled", "running"):
        fill(database, state, 700)
    database.execute("UPDATE sqla_jobs SET worker_id = 7 WHERE state = 'running'")
    database.execute("ANALYZE")
    database.execute("UPDATE sqla_jobs SET state = 'succeeded', finished_at = run_at, worker_id = NULL")
    fill(database, "succeeded", 5000)
    database.execute("VACUUM (INDEX_CLEANUP ON) sqla_jobs")
    with explaining(database, generic=generic) as explain:
        for case in CASES.values():
            (plan,) = explain(case.verb)
            check(plan, case)
            assert plan.rows_read <= 1, f"\n{plan}"


@pytest.mark.parametrize("queue", ["other", "default"])
def test_a_claim_does_not_walk_the_backlog_of_another_queue(database: Database, queue: str) -> None:
    """All queued jobs are in one queue, as the planner well knows; the worker wants another one's first."""
    fill(database, "queued", 3000, queue=queue)
    database.execute("ANALYZE")
    with explaining(database, generic=True) as explain:
        for limit in (1, 10):
            (plan,) = explain(claim(limit, ["empty", queue]))
            assert plan.indexes - {WORKERS} == {CLAIM, PRIMARY}, plan
            assert plan.rows_read <= 2 * limit, plan
            (plan,) = explain(claim(limit, ["empty", "void"]))
            assert plan.rows_read == 0, plan


# -- with a paused queue ---------------------------------------------------------------------------


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("analyzed", [False, True], ids=["never", "analyzed"])
def test_a_paused_queue_is_passed_over_without_its_backlog(
    database: Database, generic: bool, analyzed: bool
) -> None:
    """The queues that are left are found one by one, by an index entry each."""
    fill(database, "succeeded", ROWS // 10)
    fill(database, "queued", ROWS // 10, queue="paused")
    for number in range(10):
        fill(database, "queued", 20, queue=f"open_{number}")
    if analyzed:
        database.execute("ANALYZE")
    with explaining(database, generic=generic) as explain:
        (plan,) = explain(lambda session: lifecycle.open_queues(session, Job, None, ["paused"]))
        assert plan.indexes == {CLAIM}, plan
        # Averages of the loops, which PostgreSQL rounds up before 18.
        assert round(plan.rows_read) in (11, 12), plan
        assert plan.rows_sorted == 10, plan
        assert plan.buffers <= 60, plan
        assert not plan.compiled, plan
        (plan,) = explain(lambda session: lifecycle.has_work(session, Job, 7, closed=["paused"]))
        assert plan.indexes == {CLAIM, PROMOTE, RESCUE}, plan
        assert plan.rows_read <= 2, plan
        (*_, plan) = explain(lambda session: lifecycle.paused(session, Job))
        assert plan.buffers <= 2, plan


# -- unique keys -----------------------------------------------------------------------------------


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("analyzed", [False, True], ids=["never", "analyzed"])
def test_who_holds_a_key_is_found_by_its_index(database: Database, generic: bool, analyzed: bool) -> None:
    """Of many keys that are held, and many more that were; also by a plan made for the empty table."""

    def look(number: int) -> Verb:
        keys = [f"t:{each}" for each in range(1, number + 1)]
        return lambda session: session.execute(statements.holders(Job), {"p_keys": keys}).all()

    with explaining(database, generic=generic) as explain:
        if not analyzed:
            explain(look(1))
        fill(database, "succeeded", ROWS // 5)
        database.execute("UPDATE sqla_jobs SET unique_key = 't:' || id % 1000, unique_scope = 'active'")
        fill(database, "queued", ROWS // 10)
        database.execute(
            "UPDATE sqla_jobs SET unique_key = 't:' || id - :first, unique_scope = 'active', "
            "unique_held = true WHERE state = 'queued'",
            first=ROWS // 5,
        )
        if analyzed:
            database.execute("ANALYZE")
        for number in (1, 100):
            (plan,) = explain(look(number))
            assert plan.indexes == {"uq_sqla_jobs_unique_key"}, plan
            assert "Seq Scan" not in plan.kinds, plan
            assert plan.rows_read == number, plan
            assert plan.buffers <= 10 + 5 * number, plan
