"""What an idle worker asks once a poll, and what a tick reads, with many schedules and many jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Knowledge
from tests.support.plans import Plan, explaining, fill
from tests.support.server import Database, Server, fresh_database

SCHEDULES, JOBS = 10_000, 20_000
DUE, TICK = "ix_sqla_jobs_schedules_due", "uq_sqla_jobs_tick"
KNOWN = Knowledge([f"task {number}" for number in range(50)] + ["t"], ["some rule"], [1, 2])


@pytest.fixture(scope="module")
def full(server: Server, template: str) -> Iterator[Database]:
    """10,000 schedules, five of them due; 20,000 finished jobs of one of them, and as many that wait."""
    with fresh_database(server, "schedules", template) as database:
        database.execute(
            "INSERT INTO sqla_jobs_schedules (name, task, every, next_run_at, overlap)"
            " SELECT n::text, 't', '1 hour', now() + make_interval(mins => n - 5), 'skip'"
            " FROM generate_series(1, :number) n",
            number=SCHEDULES,
        )
        database.execute(
            "INSERT INTO sqla_jobs (task, state, finished_at, schedule_id, tick_at)"
            " SELECT 't', 'succeeded', now(), 3, now() - make_interval(mins => n)"
            " FROM generate_series(1, :number) n",
            number=JOBS,
        )
        fill(database, "scheduled", JOBS, later="1 hour")
        database.execute("ANALYZE")
        yield database


def plans(database: Database, generic: bool, *, at: dt.timedelta = dt.timedelta(0)) -> list[Plan]:
    now = database.scalar("SELECT now()") + at

    def verb(session: Session) -> None:
        lifecycle.next_times(session, Job, KNOWN, now=now)
        lifecycle.due_schedules(session, Job, KNOWN, now=now)
        lifecycle.busy_schedules(session, Job, [1, 2, 3])

    with explaining(database, generic=generic) as explain:
        return explain(verb)


@pytest.mark.parametrize("generic", [False, True], ids=["custom", "generic"])
@pytest.mark.parametrize("at", [dt.timedelta(0), -dt.timedelta(days=1)], ids=["five due", "none due"])
def test_only_what_is_due_is_read(full: Database, generic: bool, at: dt.timedelta) -> None:
    times, due, untimed, busy = plans(full, generic, at=at)
    assert times.indexes == {"ix_sqla_jobs_promote", DUE}, f"\n{times}"
    assert due.indexes == {DUE}, f"\n{due}"
    assert untimed.indexes == {DUE}, f"\n{untimed}"
    assert busy.indexes == {TICK}, f"\n{busy}"
    assert busy.rows_read <= 3 * 20, f"\n{busy}"
    for plan in (times, due, untimed, busy):
        assert "Seq Scan" not in plan.kinds, f"\n{plan}"
        assert plan.buffers < 60, f"\n{plan}"
        assert plan is busy or plan.rows_read <= 3, f"\n{plan}"
        assert not plan.compiled, f"\n{plan}"
