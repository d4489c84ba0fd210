"""Finish: what each outcome writes, and whose finish is refused."""

from __future__ import annotations

from datetime import datetime

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, Job, JobState, Snooze, lifecycle
from sqla_jobs.outcome import HISTORY_LIMIT, Outcome, decide, given_back
from tests.support.verbs import MINUTE, NOW, SECOND, WORKER, add, claim, claimed, row

SUCCESS = decide(None, None, lambda _: None)
RETRY = decide(None, ValueError("again"), lambda _: MINUTE)
FAILURE = decide(None, ValueError("over"), lambda _: None)
SNOOZE = decide(Snooze(MINUTE), None, lambda _: None)
CANCEL = decide(Cancel("why"), None, lambda _: None)
GIVEN_BACK = given_back("why")


# -- finish ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "state", "run_at", "attempt"),
    [
        (SUCCESS, "succeeded", NOW, 1),
        (FAILURE, "failed", NOW, 1),
        (CANCEL, "cancelled", NOW, 1),
        (RETRY, "scheduled", NOW + MINUTE + SECOND, 1),
        (SNOOZE, "scheduled", NOW + MINUTE + SECOND, 0),
        (GIVEN_BACK, "queued", NOW, 0),
    ],
)
def test_what_each_outcome_writes(
    session: Session, outcome: Outcome, state: str, run_at: datetime, attempt: int
) -> None:
    job = claimed(session)
    written = lifecycle.finish(session, Job, job, outcome, now=NOW + SECOND)
    assert written is not None
    assert (written.state, written.run_at) == (JobState(state), run_at)
    found = row(session, job)
    assert (found.state, found.run_at, found.attempt, found.claim) == (state, run_at, attempt, 1)
    assert found.crashes == 0
    final = JobState(state).is_final
    assert found.finished_at == (NOW + SECOND if final else None)
    assert found.worker_id == (WORKER if final else None), "a job that waits belongs to nobody"


def test_a_retry_is_due_when_its_delay_is_over_and_counts_on(session: Session) -> None:
    job = claimed(session)
    lifecycle.finish(session, Job, job, RETRY, now=NOW)
    assert lifecycle.promote(session, Job, now=NOW + MINUTE - SECOND) == 0
    assert lifecycle.promote(session, Job, now=NOW + MINUTE) == 1
    (again,) = claim(session)
    assert (again.id, again.attempt, again.claim) == (job.id, 2, 2)


def test_a_snooze_does_not_spend_the_attempt_but_raises_the_claim(session: Session) -> None:
    job = claimed(session, max_attempts=1)
    for number in range(1, 4):
        assert (job.attempt, job.claim) == (1, number)
        lifecycle.finish(session, Job, job, SNOOZE, now=NOW)
        lifecycle.promote(session, Job, now=NOW + MINUTE)
        (job,) = claim(session)
    assert row(session, job).attempts == []


def test_attempts_are_kept_with_who_when_and_why(session: Session) -> None:
    job = claimed(session)
    lifecycle.finish(session, Job, job, RETRY, now=NOW + SECOND)
    (kept,) = row(session, job).attempts
    assert {key: kept[key] for key in ("attempt", "worker_id", "error", "message")} == {
        "attempt": 1,
        "worker_id": WORKER,
        "error": "ValueError",
        "message": "again",
    }
    assert datetime.fromisoformat(kept["started_at"]) == NOW
    assert datetime.fromisoformat(kept["finished_at"]) == NOW + SECOND
    assert kept["traceback"].endswith("ValueError: again\n")


def test_no_more_than_the_last_attempts_are_kept(session: Session) -> None:
    added = add(session)
    for _ in range(HISTORY_LIMIT + 5):
        (job,) = claim(session)
        lifecycle.finish(session, Job, job, RETRY, now=NOW)
        lifecycle.promote(session, Job, now=NOW + MINUTE)
    kept = [each["attempt"] for each in row(session, added).attempts]
    assert kept == list(range(6, HISTORY_LIMIT + 6))
    assert HISTORY_LIMIT == 20


@pytest.mark.parametrize("outcome", [RETRY, SNOOZE, GIVEN_BACK], ids=["retry", "snooze", "give back"])
def test_a_requested_cancel_wins_over_whatever_would_run_again(session: Session, outcome: Outcome) -> None:
    job = claimed(session)
    session.execute(text("UPDATE sqla_jobs SET cancel_requested_at = now()"))
    written = lifecycle.finish(session, Job, job, outcome, now=NOW)
    assert written is not None
    assert written.state is JobState.CANCELLED
    found = row(session, job)
    assert (found.state, found.finished_at) == ("cancelled", NOW)


@pytest.mark.parametrize("outcome", [SUCCESS, FAILURE], ids=["success", "failure"])
def test_a_requested_cancel_comes_too_late_for_an_end(session: Session, outcome: Outcome) -> None:
    job = claimed(session)
    session.execute(text("UPDATE sqla_jobs SET cancel_requested_at = now()"))
    written = lifecycle.finish(session, Job, job, outcome, now=NOW)
    assert written is not None
    assert written.state is outcome.state


@pytest.mark.parametrize(
    "change",
    ["claim = claim + 1", "worker_id = worker_id + 1", "worker_id = NULL", "state = 'queued'"],
)
@pytest.mark.parametrize("outcome", [SUCCESS, RETRY, GIVEN_BACK], ids=["success", "retry", "give back"])
def test_a_finish_is_refused_once_the_claim_is_taken_over(
    session: Session, outcome: Outcome, change: str
) -> None:
    job = claimed(session)
    session.execute(text(f"UPDATE sqla_jobs SET {change}"))
    before = row(session, job)
    assert lifecycle.finish(session, Job, job, outcome, now=NOW) is None
    assert row(session, job) == before


def test_a_job_is_finished_once(session: Session) -> None:
    job = claimed(session)
    assert lifecycle.finish(session, Job, job, SUCCESS, now=NOW) is not None
    assert lifecycle.finish(session, Job, job, FAILURE, now=NOW) is None
    assert row(session, job).state == "succeeded"


# -- work_once's claim and finish ------------------------------------------------------------------


def test_a_job_that_is_taken_stays_queued_and_counts_when_it_is_finished(session: Session) -> None:
    add(session)
    job = lifecycle.take(session, Job, now=NOW)
    assert job is not None
    assert (job.attempt, job.claim, job.started_at) == (0, 0, NOW)
    assert row(session, job).state == "queued"
    written = lifecycle.finish(session, Job, job, RETRY, taken=True, now=NOW + SECOND)
    assert written is not None
    found = row(session, job)
    assert (found.state, found.attempt, found.claim, found.started_at) == ("scheduled", 1, 1, NOW)
    assert found.attempts[0]["attempt"] == 1


def test_a_taken_job_that_snoozes_has_spent_nothing_but_its_claim(session: Session) -> None:
    add(session)
    job = lifecycle.take(session, Job, now=NOW)
    assert job is not None
    lifecycle.finish(session, Job, job, SNOOZE, taken=True, now=NOW)
    assert (row(session, job).attempt, row(session, job).claim) == (0, 1)


def test_take_promotes_the_one_due_job_that_it_would_take(session: Session) -> None:
    later = add(session, state="scheduled", queue="b", run_at=NOW - MINUTE)
    first = add(session, state="scheduled", queue="a", priority=-1)
    add(session, state="scheduled", queue="a", priority=9, run_at=NOW + SECOND)
    job = lifecycle.take(session, Job, ["a", "b"], now=NOW)
    assert job is not None
    assert job.id == first.id
    assert row(session, first).state == "queued"
    assert row(session, later).state == "scheduled"


def test_take_leaves_jobs_that_have_killed_a_worker_to_workers(session: Session) -> None:
    add(session, crashes=1)
    add(session, crashes=1, state="scheduled")
    assert lifecycle.take(session, Job, now=NOW) is None


@pytest.mark.parametrize("change", ["claim = claim + 1", "state = 'running'", "state = 'scheduled'"])
def test_a_taken_job_that_changed_hands_is_not_finished(session: Session, change: str) -> None:
    add(session)
    job = lifecycle.take(session, Job, now=NOW)
    assert job is not None
    session.execute(text(f"UPDATE sqla_jobs SET {change}"))
    assert lifecycle.finish(session, Job, job, SUCCESS, taken=True, now=NOW) is None


# -- what a row says of a claim --------------------------------------------------------------------


def test_a_claim_holds_until_anything_of_it_changes(session: Session) -> None:
    job = claimed(session)

    def holds() -> bool:
        standing = lifecycle.standing(session, Job, job.id)
        assert standing is not None
        return standing.holds(job)

    assert holds()
    for change in ("claim = 9", "worker_id = 9", "worker_id = NULL", "state = 'queued'"):
        savepoint = session.begin_nested()
        session.execute(text(f"UPDATE sqla_jobs SET {change}"))
        assert not holds()
        savepoint.rollback()
    session.execute(text("DELETE FROM sqla_jobs"))
    assert lifecycle.standing(session, Job, job.id) is None


@pytest.mark.parametrize(
    ("outcome", "state", "shown"),
    [
        (SUCCESS, "succeeded", True),
        (SUCCESS, "cancelled", False),
        (SUCCESS, "scheduled", False),
        (RETRY, "scheduled", True),
        (RETRY, "queued", True),
        (RETRY, "cancelled", True),
        (RETRY, "failed", False),
        (FAILURE, "failed", True),
        (FAILURE, "cancelled", False),
    ],
)
def test_what_a_row_shows_of_a_finish_whose_answer_was_lost(
    session: Session, outcome: Outcome, state: str, shown: bool
) -> None:
    job = claimed(session)
    final = JobState(state).is_final
    session.execute(
        text("UPDATE sqla_jobs SET state = :state, finished_at = :end"),
        {"state": state, "end": NOW if final else None},
    )
    standing = lifecycle.standing(session, Job, job.id)
    assert standing is not None
    assert standing.shows(job, outcome) is shown
    session.execute(text("UPDATE sqla_jobs SET claim = claim + 1"))
    taken_over = lifecycle.standing(session, Job, job.id)
    assert taken_over is not None
    assert not taken_over.shows(job, outcome)
