"""The plans of `prune`'s statements; see tests/test_plans.py."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest

from sqla_jobs import Job, lifecycle, statements
from sqla_jobs.outcome import JobState
from tests.support.plans import Verb, explaining, fill
from tests.support.server import Database, Server, fresh_database
from tests.test_plans import PRIMARY, ROWS, Case, check

PRUNE = "ix_sqla_jobs_prune"
AGE = dt.timedelta(hours=1)
BATCH = 1000


def prunable(final: str = "succeeded", *, start: dt.datetime | None = None) -> Verb:
    given: dict[str, Any] = {"p_from": start, "passed": [-1, -2], "older_than": AGE, "now": None}
    return lambda session: session.execute(statements.prunable(Job, final, BATCH), given).all()


def prune(number: int) -> Verb:
    """Of jobs in a row, of which most are there."""
    given = {"ids": list(range(1, number + 1)), "older_than": AGE, "now": None}
    return lambda session: session.execute(statements.prune(Job, "succeeded"), given).all()


CASES = {
    "prunable": Case(prunable(), {PRUNE}, BATCH, 1100),
    "prunable, none": Case(prunable("cancelled"), {PRUNE}, BATCH, 1100),
    "prunable, from": Case(
        prunable(start=dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)), {PRUNE}, BATCH, 1100
    ),
    "prune": Case(prune(BATCH), {PRIMARY}, 2 * BATCH, 14_000),
    "prune one": Case(prune(1), {PRIMARY}, 2, 60),
    "which table": Case(
        lambda session: session.execute(statements.which_table(Job), {"p_id": 1}).all(), {PRIMARY}, 1, 10
    ),
}


@pytest.fixture(scope="module", params=["never", "stale", "current"], ids=lambda kind: f"{kind}-analyzed")
def filled(request: pytest.FixtureRequest, server: Server, template: str) -> Iterator[Database]:
    """Old jobs, as many that are too young, failed ones, a backlog. Stale: ANALYZE saw the backlog only."""
    with fresh_database(server, "plans", template) as database:
        fill(database, "queued", 1)  # so that no id is that of a finished one by chance
        database.execute("DELETE FROM sqla_jobs")
        database.execute("ALTER TABLE sqla_jobs ALTER id RESTART")
        fill(database, "succeeded", ROWS)
        database.execute(
            "UPDATE sqla_jobs SET finished_at = now() - interval '1 day' * random() - interval '2 h'"
        )
        fill(database, "succeeded", ROWS)
        fill(database, "failed", ROWS)
        if request.param == "current":
            database.execute("ANALYZE")
        database.execute("VACUUM sqla_jobs")
        yield database


@pytest.mark.big
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_a_batch_reads_a_batch(filled: Database, generic: bool) -> None:
    """However many are kept, failed, or too young."""
    with explaining(filled, generic=generic) as explain:
        for name, case in CASES.items():
            (plan,) = explain(case.verb)
            print(f"{name}: {plan.milliseconds} ms, {plan.buffers} buffers, {plan.rows_read:g} rows")
            check(plan, case)


def test_a_plan_made_for_the_empty_table_deletes_from_the_full_one(database: Database) -> None:
    """Which jobs are next may be sorted by such a plan: it is asked for once a batch, and hours apart."""
    with explaining(database, generic=True) as explain:
        cases = [case for case in CASES.values() if case.indexes == {PRIMARY}]
        for case in cases:
            explain(case.verb)
        fill(database, "succeeded", 3000)
        database.execute("UPDATE sqla_jobs SET finished_at = finished_at - interval '2 h'")
        fill(database, "failed", 3000)
        for case in cases:
            (plan,) = explain(case.verb)
            check(plan, case)


@pytest.mark.big
def test_the_next_batch_does_not_walk_over_the_one_before(filled: Database) -> None:
    """Deleted rows are in the index until the next VACUUM: it goes on behind them."""
    with explaining(filled, generic=False) as explain:
        ages = {JobState.SUCCEEDED: AGE}
        plans = explain(lambda session: list(lifecycle.prune(session, Job, ages, limit=5 * BATCH)))
        found = [plan for plan in plans if "oldest" in plan.statement]
        assert len(found) == 5
        assert max(plan.buffers for plan in found) < 1500
