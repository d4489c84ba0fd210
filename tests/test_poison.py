"""Rows that Python cannot read or the table will not take: they fail alone, not with their queue."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, RetryPolicy, lifecycle
from tests.support.lane import AT_ONCE, NEVER, Lane, leave_effect, logged
from tests.support.server import Database

UNREADABLE = {
    "more digits than Python reads": """'{"n": 1e5000}'""",
    "more levels than Python reads": "('{\"n\":' || repeat('[', 3000) || repeat(']', 3000) || '}')::jsonb",
}


@pytest.fixture
def lane(database: Database) -> Lane:
    return Lane(database)


@pytest.mark.parametrize("arguments", UNREADABLE.values(), ids=list(UNREADABLE))
def test_arguments_that_cannot_be_read_fail_their_own_job_only(lane: Lane, arguments: str) -> None:
    def take(session: Session, n: Any = None) -> None:
        leave_effect(session)

    task = lane.task(take, retry=NEVER)
    row = f"('take', 'queued', {arguments})"
    lane.database.execute(f"INSERT INTO sqla_jobs (task, state, arguments) VALUES {row}")
    sound = lane.enqueue(task)
    failed, succeeded = lane.run(), lane.run()
    assert failed is not None
    assert succeeded is not None
    assert (failed.state, dict(failed.job.arguments)) == (JobState.FAILED, {})
    kept = lane.database.scalar("SELECT attempts -> 0 FROM sqla_jobs WHERE id = :id", id=failed.job.id)
    name, message = kept["error"], kept["message"]
    assert name == "sqla_jobs.errors.ArgumentsNotLoadable"
    assert message.startswith("take: the arguments cannot be loaded from ")
    assert (succeeded.job.id, succeeded.state) == (sound, JobState.SUCCEEDED)


@pytest.mark.parametrize("arguments", UNREADABLE.values(), ids=list(UNREADABLE))
def test_and_are_rescued_and_given_back_like_any_other(lane: Lane, arguments: str) -> None:
    lane.database.execute(
        "INSERT INTO sqla_jobs (task, state, arguments, worker_id, attempt)"
        f" VALUES ('t', 'running', {arguments}, 4711, 1), ('t', 'running', {arguments}, {lane.worker_id}, 1)"
    )
    assert len(lane.runner.transact(lambda s: lifecycle.rescue(s, Job, lambda _: AT_ONCE))) == 1
    lane.runner.transact(lambda s: lifecycle.goodbye(s, Job, lane.worker_id))
    states = lane.database.rows("SELECT state FROM sqla_jobs ORDER BY state")
    assert list(states) == [("queued",), ("scheduled",)]


@pytest.mark.parametrize("time", ["-infinity", "4000-01-01 BC", "294000-01-01", "infinity"])
def test_a_time_that_python_does_not_have_is_no_obstacle(lane: Lane, time: str) -> None:
    """Of ``run_at`` the table refuses it; when the job was made matters to nobody."""
    lane.task(leave_effect)
    insert = (
        "INSERT INTO sqla_jobs (task, state, {}) VALUES ('leave_effect', 'queued', CAST(:t AS timestamptz))"
    )
    with pytest.raises(IntegrityError, match="ck_sqla_jobs_run_at"):
        lane.database.execute(insert.format("run_at"), t=time)
    lane.database.execute(insert.format("created_at"), t=time)
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert finished.job.enqueued_at.tzinfo is not None


def test_a_job_that_the_table_does_not_let_be_rescued_does_not_keep_the_others(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    lane.database.execute(
        "INSERT INTO sqla_jobs (task, state, worker_id)"
        " SELECT 't', 'running', 4711 FROM generate_series(1, 3)"
    )
    lane.database.execute(
        "ALTER TABLE sqla_jobs ADD CONSTRAINT stay CHECK (id <> 2 OR state = 'running') NOT VALID"
    )
    rescued = lane.runner.transact(lambda s: lifecycle.rescue(s, Job, lambda _: AT_ONCE))
    assert sorted(each.job.id for each in rescued) == [1, 3]
    assert logged(caplog) == ["job 2 (t) cannot be rescued"]


def test_a_policy_that_does_not_know_of_dead_workers_does_not_keep_the_others(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    class AsTheServerAsks(RetryPolicy):
        def delay(self, attempt: int, error: BaseException, **_: Any) -> timedelta | None:
            return timedelta(seconds=error.retry_after)  # type: ignore[attr-defined]

    lane.database.execute("INSERT INTO sqla_jobs (task, state, worker_id) VALUES ('t', 'running', 4711)")
    (rescued,) = lane.runner.transact(lambda s: lifecycle.rescue(s, Job, lambda _: AsTheServerAsks()))
    assert rescued.written.state is JobState.SCHEDULED
    assert lane.errors(1)[0][0] == "sqla_jobs.errors.WorkerDied"
    assert logged(caplog) == ["job 1 (t): its retry policy failed, so the default one decides"]
