"""Retry by hand against every state of a job; who has the row locked is never waited for."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import Cancelled, Job, Jobs, JobState, Retried, cancel, lifecycle, retry
from sqla_jobs.errors import DuplicateJob, InvalidOption, JobNotFound
from tests.support.ear import ear
from tests.support.lane import NEVER, Lane, leave_effect
from tests.support.server import Database
from tests.support.verbs import add, claim, row

NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)
LATER = NOW + timedelta(hours=1)


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def retried(database: Database, job: int = 1, **options: Any) -> Retried:
    with database.sessionmaker.begin() as session:
        session.execute(text("SET LOCAL lock_timeout = '10s'"))  # it never waits
        return retry(session, job, **options)


# -- what it does ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_is_over_runs_as_if_it_never_had(session: Session, state: str) -> None:
    told = [{"attempt": 3, "error": "E"}]
    job = add(
        session, state=state, finished_at=NOW, run_at=NOW, attempt=3, claim=4, crashes=2, worker_id=77,
        started_at=NOW, cancel_requested_at=NOW, attempts=told, result=1, progress={"done": 1},
    )  # fmt: skip
    assert retry(session, job, now=LATER) is Retried.RETRIED
    assert job.state == "queued", "what the Session had loaded is read anew"
    found = row(session, job)
    assert (found.state, found.run_at, found.attempt, found.crashes) == ("queued", LATER, 0, 0)
    assert (found.finished_at, found.cancel_requested_at, found.worker_id) == (None, None, None)
    assert (found.result, found.progress) == (None, None)
    assert (found.claim, found.attempts) == (4, told), "the fencing number is never lowered"
    (claimed,) = claim(session, now=LATER)
    assert (claimed.id, claimed.claim, claimed.attempt) == (job.id, 5, 1)


def test_a_job_that_waits_for_its_time_does_not_any_more(session: Session) -> None:
    job = add(session, state="scheduled", run_at=LATER, attempt=2)
    assert retry(session, job.id, now=NOW) is Retried.RETRIED
    assert (job.state, job.run_at, job.attempt) == ("queued", NOW, 0)


def test_a_job_that_has_succeeded_only_if_that_is_said(session: Session) -> None:
    job = add(session, state="succeeded", finished_at=NOW)
    assert retry(session, job) is Retried.SUCCEEDED
    assert (job.state, job.finished_at) == ("succeeded", NOW)
    assert retry(session, job, again=True, now=LATER) is Retried.RETRIED
    assert (job.state, job.finished_at, job.run_at) == ("queued", None, LATER)


@pytest.mark.parametrize("again", [False, True])
def test_of_what_is_queued_or_runs_nothing_is_written(session: Session, again: bool) -> None:
    job = add(session, attempt=1)
    before = row(session, job)
    assert retry(session, job, again=again, now=LATER) is Retried.QUEUED
    assert row(session, job) == before
    claim(session)
    before = row(session, job)
    assert retry(session, job, again=again, now=LATER) is Retried.RUNNING
    assert row(session, job) == before


def test_an_unknown_job_is_an_error(session: Session) -> None:
    with pytest.raises(JobNotFound, match="there is no job 4711"):
        retry(session, 4711)


@pytest.mark.parametrize("given", ["1", None, True])
def test_what_is_no_job_is_refused(session: Session, given: Any) -> None:
    with pytest.raises(InvalidOption, match=r"retry\(…, .*\); expected the id of a job"):
        retry(session, given)
    with pytest.raises(InvalidOption, match="expected a Session, scoped_session, AsyncSession"):
        retry(1, session)  # type: ignore[arg-type]


def test_by_jobs_and_in_a_scoped_session(jobs: Jobs[Job], database: Database) -> None:
    scoped = scoped_session(database.sessionmaker)
    job = jobs.task(name="t")(leave_effect).enqueue(scoped)
    assert cancel(scoped, job) is Cancelled.CANCELLED
    assert jobs.retry(scoped, job) is Retried.RETRIED
    assert jobs.retry(scoped, job.id) is Retried.QUEUED
    assert jobs.cancel(scoped, job) is Cancelled.CANCELLED
    scoped.remove()


def test_workers_are_told(database: Database) -> None:
    database.execute(
        "INSERT INTO sqla_jobs (task, queue, state, finished_at) VALUES ('t', 'q', 'failed', now())"
    )
    with ear(database) as told:
        assert retried(database) is Retried.RETRIED
        assert told.heard() == ["queued:q"]
        assert retried(database) is Retried.QUEUED
        assert told.heard() == []


def test_a_rolled_back_retry_never_was(database: Database) -> None:
    database.execute("INSERT INTO sqla_jobs (task, state, finished_at) VALUES ('t', 'failed', now())")
    with database.sessionmaker() as session:
        assert retry(session, 1) is Retried.RETRIED
        session.rollback()
        assert session.get_one(Job, 1).state == "failed"


def test_a_failed_job_that_is_retried_succeeds(database: Database) -> None:
    lane = Lane(database)
    broken = [True]

    @lane.jobs.task(name="t", retry=NEVER)
    def task(session: Session) -> None:
        leave_effect(session)
        if broken.pop():
            broken.append(False)
            raise ValueError("it fails")

    job = lane.enqueue(task)
    ends = [lane.run()]
    assert retried(database, job) is Retried.RETRIED
    ends.append(lane.run())
    assert [end and end.state for end in ends] == [JobState.FAILED, JobState.SUCCEEDED]
    found = lane.row(job)
    assert (found.attempt, found.claim, len(found.attempts), lane.effects(job)) == (1, 2, 1, 1)


# -- against others --------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "scheduled", "running", "failed"])
def test_what_somebody_has_locked_is_busy_and_nobody_waits(database: Database, state: str) -> None:
    database.execute(
        "INSERT INTO sqla_jobs (task, state, finished_at)"
        " VALUES ('t', :state, CASE WHEN :state = 'failed' THEN now() END)",
        state=state,
    )
    with database.engine.connect() as locker:
        locker.execute(text("SELECT id FROM sqla_jobs FOR NO KEY UPDATE"))
        assert retried(database) is Retried.BUSY
    assert retried(database) is not Retried.BUSY


def test_the_finish_of_an_earlier_claim_does_not_fit(database: Database) -> None:
    """A worker that was taken for dead, its job failed and retried by hand, comes back."""
    from sqla_jobs.outcome import decide

    lane = Lane(database)
    job = lane.enqueue(lane.task(leave_effect, retry=NEVER))
    stale = lane.claim()
    database.execute("UPDATE sqla_jobs SET state = 'failed', finished_at = now()")
    assert retried(database, job) is Retried.RETRIED
    fresh = lane.claim()
    assert (fresh.attempt, fresh.claim) == (stale.attempt, stale.claim + 1)
    with database.sessionmaker.begin() as session:
        done = decide(None, None, lambda _: None)
        assert lifecycle.finish(session, Job, stale, done) is None
        assert lifecycle.finish(session, Job, fresh, done) is not None


# -- unique keys -----------------------------------------------------------------------------------


def keyed(session: Session, **values: Any) -> Job:
    return add(session, **{"unique_key": "k", "unique_scope": "active", **values})


def test_a_job_that_was_over_takes_its_key_again(session: Session) -> None:
    job = keyed(session, state="failed", finished_at=NOW)
    assert retry(session, job) is Retried.RETRIED
    assert job.unique_held


def test_not_if_another_holds_it_and_the_transaction_is_as_it_was(session: Session) -> None:
    job = keyed(session, state="failed", finished_at=NOW)
    other = keyed(session, unique_held=True)
    add(session, "also here")
    with pytest.raises(DuplicateJob, match=rf"job {job.id} cannot have .* held by job {other.id}") as caught:
        retry(session, job)
    assert (caught.value.unique_key, caught.value.holder, caught.value.job_id) == ("k", other.id, job.id)
    assert (job.state, other.state) == ("failed", "queued")
    assert session.scalar(text("SELECT count(*) FROM sqla_jobs WHERE task = 'also here'")) == 1


@pytest.mark.parametrize("held", [False, True])
def test_a_job_that_only_waits_has_its_key_or_let_go_of_it_when_it_began(
    session: Session, held: bool
) -> None:
    job = keyed(session, state="scheduled", unique_scope="queued", unique_held=held, attempt=1)
    if not held:
        keyed(session, unique_held=True)
    assert retry(session, job) is Retried.RETRIED
    assert job.unique_held is held
