"""The plans of the statements that jobs with a limit need, beside many that may not run."""

from __future__ import annotations

import time
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle, statements
from sqla_jobs.lifecycle import LeftOut, Limited
from tests.support.plans import Explainer, Plan, explaining, fill
from tests.support.server import Database
from tests.test_plans import CLAIM, CLAIM_ANY, PRIMARY, RESCUE, WORKERS

BLOCKED = 10_000
FULL = '["shop.jobs.send_receipt",{"order_id":7}]'
TASKS = {"shop.jobs.send_receipt": Limited(2, lambda arguments: FULL)}


def block(database: Database) -> None:
    """So many jobs of a full key before others, one of which may run."""
    fill(database, "succeeded", 5000)
    fill(database, "running", 20)
    database.execute("UPDATE sqla_jobs SET limit_key = 'k' || id, worker_id = 7 WHERE state = 'running'")
    database.execute(
        """
        INSERT INTO sqla_jobs (task, arguments, limit_key, state)
        SELECT 'shop.jobs.send_receipt', '{"order_id": 7}', :full, 'queued' FROM generate_series(1, :number)
        """,
        full=FULL, number=BLOCKED,
    )  # fmt: skip
    fill(database, "queued", 100, later="1 second")


@pytest.mark.parametrize("queues", [None, ["empty", "default"]], ids=["any", "given"])
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("analyzed", [False, True], ids=["never", "analyzed"])
def test_blocked_jobs_are_passed_over_in_order(
    database: Database, generic: bool, analyzed: bool, queues: list[str] | None
) -> None:
    block(database)
    if analyzed:
        database.execute("ANALYZE")

    def claim(session: Session) -> None:
        left = LeftOut(list(TASKS), [FULL])
        lifecycle.claim(session, Job, 7, queues, left=left)

    def count(session: Session) -> None:
        lifecycle.claim_counted(session, Job, 7, queues, TASKS, [FULL])

    with explaining(database, generic=generic) as explain:
        (plan,) = explain(claim)
        check(plan, CLAIM if queues else CLAIM_ANY)
        plan, *_ = explain(count)
        check(plan, CLAIM if queues else CLAIM_ANY)


def check(plan: Plan, index: str) -> None:
    assert plan.indexes - {WORKERS, PRIMARY} == {index}, plan
    assert BLOCKED <= plan.rows_read <= BLOCKED + 2, plan
    assert plan.rows_sorted == 0, plan
    assert plan.buffers < BLOCKED + 500, plan
    assert not plan.compiled, plan


@pytest.mark.parametrize("others", [0, 2000])
@pytest.mark.parametrize("queues", [None, ["empty", "default"]], ids=["any", "given"])
def test_beside_ten_thousand_blocked_jobs_another_is_claimed_in_milliseconds(
    database: Database, queues: list[str] | None, others: int
) -> None:
    """The best of several: the machine may be busy with other things. However many keys are full."""
    block(database)
    took: list[float] = []
    full = [*(FULL.replace("7", str(number)) for number in range(10, 10 + others)), FULL]
    with database.engine.connect() as connection:
        # As it is after some claims: the driver has prepared it, and the keys are no constants to the plan.
        connection.execute(text("SET plan_cache_mode = force_generic_plan"))
        connection.commit()
        for _ in range(20):
            began = time.perf_counter()
            assert lifecycle.claim(connection, Job, 7, queues, left=LeftOut([], full))
            took.append(time.perf_counter() - began)
            connection.commit()
    print(sorted(took))
    assert min(took) < (0.040 if others else 0.020)


def begin(session: Session) -> None:
    given: dict[str, Any] = {
        "p_id": [6000], "p_key": [FULL], "p_number": [2], "p_rank": [1], "p_worker_id": 7, "now": None,
    }  # fmt: skip
    session.execute(statements.begin(Job), given)


def at_work(session: Session) -> None:
    session.execute(statements.at_work(Job))


def check_running(explain: Explainer) -> None:
    for verb, also in ((begin, {PRIMARY, WORKERS}), (at_work, set())):
        (plan,) = explain(verb)
        assert plan.indexes - also == {RESCUE}, plan
        assert plan.rows_read <= 22, plan
        assert plan.buffers < 100, plan
        assert not plan.compiled, plan


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("analyzed", [False, True], ids=["never", "analyzed"])
def test_the_count_reads_what_runs_and_no_more(database: Database, generic: bool, analyzed: bool) -> None:
    block(database)
    if analyzed:
        database.execute("ANALYZE")
    with explaining(database, generic=generic) as explain:
        check_running(explain)


def test_a_plan_made_for_the_empty_table_serves_the_full_one(database: Database) -> None:
    with explaining(database, generic=True) as explain:
        for verb in (begin, at_work):
            explain(verb)
        block(database)
        check_running(explain)
