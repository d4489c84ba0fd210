"""What Backtick's cleaners do, by the numbers of its behaviours; see tests/test_seeds_backtick.py.

Its `revive` gives back what nobody runs any more, its `remove-old` deletes what finished long ago.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import func, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Schedule, lifecycle
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.tasks import PRUNE
from tests.support.lane import register
from tests.support.verbs import claim_as

NOON = dt.datetime(2030, 1, 1, 12, tzinfo=dt.timezone.utc)
LIMIT = dt.timedelta(seconds=30)
WEEK = dt.timedelta(days=7)
TICK = dt.timedelta(microseconds=1)
FINAL = ("succeeded", "failed", "cancelled")


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def states(session: Session) -> dict[int, str]:
    return {row.id: row.state for row in session.execute(text("SELECT id, state FROM sqla_jobs ORDER BY id"))}


def run_under(session: Session, worker_id: int, **values: Any) -> Claimed:
    lifecycle.enqueue(session, Job(task="t", state="queued", **values))
    (job,) = claim_as(worker_id, session, now=NOON)
    return job


def test_k15_running_jobs_that_nobody_runs_are_given_back_or_failed(session: Session) -> None:
    """By the retry policy; what runs, is queued or done is not touched.

    Improved: not every 5 minutes, by each job's `started_at` and twice its timeout, which takes jobs of an
    hour from living workers, but within seconds, by the heartbeats and the lock of the worker. A `started_at`
    of null is of no meaning any more: a claim sets it.
    """
    alive = register(session, limit=LIMIT)
    dead = register(session, limit=LIMIT)
    lifecycle.heartbeat(session, Job, alive, [], now=NOON + 2 * LIMIT)
    lifecycle.heartbeat(session, Job, dead, [], now=NOON)
    fresh, lost, last = (
        run_under(session, alive),
        run_under(session, dead),
        run_under(session, dead, max_attempts=1),
    )
    unknown = run_under(session, dead)
    session.execute(
        text("UPDATE sqla_jobs SET worker_id = NULL, started_at = NULL WHERE id = :id"), {"id": unknown.id}
    )
    others = {
        lifecycle.enqueue(
            session, Job(task="t", state=state, finished_at=NOON if state in FINAL else None)
        ).id: state
        for state in ("scheduled", "queued", *FINAL)
    }
    policy = RetryPolicy(max_attempts=16, base=dt.timedelta(seconds=10))
    rescued = lifecycle.rescue(session, Job, lambda _: policy, now=NOON + 2 * LIMIT)
    assert {each.job.id for each in rescued} == {lost.id, last.id, unknown.id}
    assert states(session) == {
        fresh.id: "running", lost.id: "scheduled", last.id: "failed", unknown.id: "scheduled", **others,
    }  # fmt: skip
    for row in session.execute(text("SELECT * FROM sqla_jobs WHERE crashes = 1 AND state = 'scheduled'")):
        delay = row.run_at - (NOON + 2 * LIMIT)
        assert dt.timedelta(seconds=10) <= delay < dt.timedelta(seconds=20), "K13"
        assert row.attempt == 1
    failed = session.execute(text("SELECT finished_at FROM sqla_jobs WHERE id = :id"), {"id": last.id}).one()
    assert failed.finished_at == NOON + 2 * LIMIT, "K14"


def test_k16_jobs_that_finished_or_were_cancelled_seven_days_ago_are_deleted(
    session: Session, jobs: Jobs[Job]
) -> None:
    """Queued, running and failed (Backtick's `exceeded`) ones never are.

    A cancelled job has a `finished_at` here, so that it need not go by `updated_at`.
    """
    kept = {}
    for state in JobState:
        for age in (WEEK - TICK, WEEK, 100 * WEEK):
            finished_at = NOON - age if state.is_final else None
            job = Job(task="t", state=state.value, run_at=NOON - age, finished_at=finished_at)
            lifecycle.enqueue(session, job)
            if age < WEEK or state not in ("succeeded", "cancelled"):
                kept[job.id] = state.value
    assert jobs.prune(session, now=NOON) == 4
    assert states(session) == kept


def test_k17_prune_is_an_ordinary_task_with_a_schedule_that_the_library_registers(
    session: Session, jobs: Jobs[Job]
) -> None:
    """Improved: rescue is none, but a tick of every worker, which nobody can switch off."""
    assert jobs.tasks[PRUNE].options.queue == "sqla_jobs"
    jobs.sync_schedules(session, now=NOON)
    schedule = session.query(Schedule).one()
    assert (schedule.name, schedule.task, schedule.every) == (PRUNE, PRUNE, dt.timedelta(hours=1))
    assert schedule.next_run_at == NOON + dt.timedelta(hours=1)
    for age in (WEEK - dt.timedelta(minutes=1), WEEK + dt.timedelta(minutes=1)):
        done = Job(task="t", state="succeeded")
        done.finished_at = func.statement_timestamp() - age
        lifecycle.enqueue(session, done)
    jobs.enqueue(session, PRUNE)
    finished = jobs.work_once(session)
    assert finished is not None
    assert (finished.job.task, finished.state) == (PRUNE, JobState.SUCCEEDED)
    assert len(states(session)) == 2, "the young one, and the prune itself"
