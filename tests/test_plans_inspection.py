"""The plans of what only looks: no function reads a backlog, whatever its filter; see tests/test_plans.py.

The sizes follow SQLA_JOBS_TEST_ROWS, as there: so many jobs have succeeded within the last hour and as many
are queued; a tenth of it has failed, is scheduled, or was cancelled by one statement.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, inspection, statements
from sqla_jobs.inspection import JobFilter
from tests.support.plans import Plan, explaining
from tests.support.server import Database, Server, fresh_database
from tests.test_plans import CLAIM, ROWS

LOOK = 10_000
QUEUES, PRIORITIES = 20, 3


def of(*states: str, **more: object) -> JobFilter:
    return JobFilter(states=tuple(JobState(each) for each in states), **more)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Case:
    """What a function may read, of a table of any size."""

    call: Callable[[Session], object]
    rows: int
    """Rows or index entries of the job table."""
    buffers: int


def listed(where: JobFilter, rows: int = 4 * LOOK, buffers: int = 2 * LOOK) -> Case:
    return Case(lambda s: inspection.list_jobs(s, Job, where), rows, buffers)


def counted(where: JobFilter, rows: int, buffers: int) -> Case:
    return Case(lambda s: inspection.count_jobs(s, Job, where), rows, buffers)


NOBODY = {"task": "nobody"}
HOUR = dt.timedelta(hours=1)

CASES = {
    "list": listed(JobFilter()),
    **{f"list {each.value}": listed(of(each.value)) for each in JobState},
    "list by task": listed(JobFilter(task="shop.jobs.send_receipt")),
    "list no task": listed(JobFilter(**NOBODY)),  # type: ignore[arg-type]
    **{f"list {each.value}, no task": listed(of(each.value, **NOBODY)) for each in JobState},
    "list queued of a queue": listed(of("queued", queue="queue_3")),
    "list queued of a queue, no task": listed(of("queued", queue="queue_3", **NOBODY)),
    "list failed of a queue": listed(of("failed", queue="queue_3")),
    "list by argument": listed(JobFilter(arguments=((("order_id",), -1),))),
    "list failed by argument": listed(of("failed", arguments=((("order_id",), -1),))),
    "list by error": listed(JobFilter(error="no such text")),
    # Tracebacks lie beside the table, some twenty pages of index and table for each.
    "list failed by error": listed(of("failed", error="no such text"), 6_000, 60_000),
    "list old": listed(JobFilter(older_than=dt.timedelta(days=300))),
    "list of two states": listed(of("failed", "cancelled", **NOBODY)),
    "list of a schedule": listed(JobFilter(schedule="hourly")),
    "count": counted(JobFilter(), 11_000, 11_000),
    "count succeeded": counted(of("succeeded"), 11_000, 11_000),
    "count two states": counted(of("succeeded", "queued"), 22_000, 22_000),
    "count no task": counted(JobFilter(**NOBODY), 105_000, 15_000),  # type: ignore[arg-type]
    # Beside few jobs the planner reads all entries of failed and cancelled ones, to sort them.
    "count failed by error": counted(of("failed", error="no such text"), 15_000, 60_000),
    "count queued, no task": counted(of("queued", **NOBODY), 105_000, 60_000),
    "count states": Case(lambda s: inspection.count_states(s), 61_000, 70_000),
    "queues": Case(lambda s: inspection.list_queues(s), 60_000, 30_000),
    "workers": Case(lambda s: inspection.list_workers(s), 0, 10),
    "stats": Case(lambda s: inspection.stats(s), 160_000, 90_000),
    "stats of a day": Case(lambda s: inspection.stats(s, span=24 * HOUR, buckets=24), 160_000, 90_000),
    # Most of its buckets are empty, and of each no more is read than of a full one.
    "stats of ten years": Case(
        lambda s: inspection.stats(s, span=87_600 * HOUR, buckets=100), 160_000, 90_000
    ),
    "stats of a queue": Case(lambda s: inspection.stats(s, queue="queue_3"), 60_000, 60_000),
    "retry failed": Case(lambda s: inspection.act(s, Job, "retry", where=of("failed")), 7_000, 40_000),
    "cancel queued": Case(lambda s: inspection.act(s, Job, "cancel", where=of("queued")), 7_000, 40_000),
    "delete succeeded": Case(
        lambda s: inspection.act(s, Job, "delete", where=of("succeeded")), 7_000, 40_000
    ),
    "show": Case(lambda s: inspection.show_job(s, Job, 17), 1, 20),
}


def many(database: Database, state: str, number: int, *, finished_at: str = "NULL") -> None:
    """Jobs in all queues, with tracebacks if they failed, and of a schedule if they succeeded."""
    traceback = "(SELECT string_agg(md5((i + line)::text), E'\\n') FROM generate_series(1, 60) AS line)"
    attempts = f"jsonb_build_array(jsonb_build_object('error', 'E', 'message', i, 'traceback', {traceback}))"
    database.execute(
        f"""
        INSERT INTO sqla_jobs (task, arguments, queue, priority, state, run_at, started_at, finished_at,
                               attempts, schedule_id, tick_at)
        SELECT 'shop.jobs.send_receipt', jsonb_build_object('order_id', i), 'queue_' || i % :queues,
               i / :queues % :priorities, :state, statement_timestamp(),
               statement_timestamp() - '1 h'::interval * random(), {finished_at},
               {attempts if state == "failed" else "'[]'"},
               {"1, statement_timestamp() - i * '1 s'::interval" if state == "succeeded" else "NULL, NULL"}
        FROM generate_series(1, :number) AS i
        """,
        state=state, number=number, queues=QUEUES, priorities=PRIORITIES,
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(server: Server, template: str) -> Iterator[Database]:
    with fresh_database(server, "looks", template) as database:
        database.execute("INSERT INTO sqla_jobs_schedules (name, task, every) VALUES ('hourly', 't', '1 h')")
        lately = "statement_timestamp() - interval '1 h' * random()"
        many(database, "succeeded", ROWS, finished_at=lately)
        many(database, "queued", ROWS)
        many(
            database, "failed", ROWS // 10, finished_at="statement_timestamp() - '1 day'::interval * random()"
        )
        many(database, "scheduled", ROWS // 10)
        many(database, "cancelled", ROWS // 10, finished_at="statement_timestamp()")
        database.execute("VACUUM (ANALYZE) sqla_jobs")
        yield database


@pytest.mark.big
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_no_function_reads_a_backlog(filled: Database, generic: bool) -> None:
    wrong = []
    with explaining(filled, generic=generic) as explain:
        for name, case in CASES.items():
            plans = explain(case.call)
            if not told(name, plans, case):
                wrong.append(name)
    assert not wrong


@pytest.mark.big
@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
def test_queues_are_found_by_an_entry_of_each(filled: Database, generic: bool) -> None:
    """From one priority of a queue to the next, and from there to the next queue; not by their backlogs."""
    with explaining(filled, generic=generic) as explain:
        (plan,) = explain(lambda session: session.execute(statements.queue_heads(Job, 1000)).all())
    assert plan.indexes == {CLAIM}, plan
    assert plan.rows_read <= 2 * QUEUES * PRIORITIES, plan
    assert plan.buffers <= 20 * QUEUES * PRIORITIES, plan


def told(name: str, plans: list[Plan], case: Case) -> bool:
    """Whether that is within its bounds; it is printed, with the plans if it is not."""
    rows, buffers = sum(each.rows_read for each in plans), sum(each.buffers for each in plans)
    spent = sum(each.milliseconds for each in plans)
    print(f"{name}: {spent:.1f} ms, {buffers} buffers, {rows:g} rows, {len(plans)} statements")
    fine = rows <= case.rows and buffers <= case.buffers and not any(each.compiled for each in plans)
    if not fine or spent > 100:
        print(*[f"{each.milliseconds} {each}" for each in plans], sep="\n")
    return fine
