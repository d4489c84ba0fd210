"""The verbs of a job before its end, at times that the test says: enqueue, promote, claim."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Claimed
from tests.support.verbs import MINUTE, NOW, SECOND, WORKER, add, claim, claim_as, employ, row

# -- enqueue, promote ------------------------------------------------------------------------------


def test_enqueue_flushes_so_that_the_job_has_its_id(session: Session) -> None:
    job = add(session, arguments={"order_id": 7})
    assert job.id is not None
    found = row(session, job)
    assert (found.state, found.attempt, found.claim, found.crashes) == ("queued", 0, 0, 0)
    assert found.arguments == {"order_id": 7}
    assert found.started_at is None


def test_a_row_from_raw_sql_is_a_whole_job(session: Session) -> None:
    inserted = text("INSERT INTO sqla_jobs (task) VALUES ('from anywhere') RETURNING id")
    number = session.scalar(inserted)
    assert claim(session) == []
    assert lifecycle.promote(session, Job) == 1, "at the database's own time it is due at once"
    (job,) = claim_as(WORKER, session)
    assert (job.id, job.task, job.arguments, job.queue) == (number, "from anywhere", {}, "default")


def test_promote_takes_what_is_due_and_nothing_else(session: Session) -> None:
    due = [add(session, state="scheduled", run_at=NOW - SECOND), add(session, state="scheduled", run_at=NOW)]
    later = add(session, state="scheduled", run_at=NOW + SECOND)
    done = add(session, state="succeeded", finished_at=NOW)

    assert lifecycle.promote(session, Job, now=NOW) == 2
    assert {row(session, job).state for job in due} == {"queued"}
    assert row(session, later).state == "scheduled"
    assert row(session, done).state == "succeeded"
    assert lifecycle.promote(session, Job, now=NOW) == 0


def test_promote_takes_at_most_a_thousand_the_longest_due_first(session: Session) -> None:
    session.execute(
        text(
            "INSERT INTO sqla_jobs (task, run_at)"
            " SELECT 't', CAST(:now AS timestamptz) - n * interval '1 second' FROM generate_series(1, 1002) n"
        ),
        {"now": NOW},
    )
    assert lifecycle.promote(session, Job, now=NOW) == 1000
    left = session.scalars(text("SELECT run_at FROM sqla_jobs WHERE state = 'scheduled'")).all()
    assert sorted(left) == [NOW - 2 * SECOND, NOW - SECOND]
    assert lifecycle.promote(session, Job, now=NOW) == 2


def test_next_due_is_the_time_until_the_first_of_those_that_wait(session: Session) -> None:
    assert lifecycle.next_due(session, Job, now=NOW) is None
    add(session)
    assert lifecycle.next_due(session, Job, now=NOW) is None, "a queued job waits for nothing"
    add(session, state="scheduled", run_at=NOW + 90 * SECOND)
    add(session, state="scheduled", run_at=NOW + timedelta(milliseconds=1500))
    assert lifecycle.next_due(session, Job, now=NOW) == timedelta(milliseconds=1500)
    assert lifecycle.next_due(session, Job, now=NOW + MINUTE) == timedelta(milliseconds=-58_500)


# -- what is left ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "counted", "work"),
    [
        ({"state": "queued"}, 1, True),
        ({"state": "scheduled"}, 1, True),
        ({"state": "scheduled", "run_at": NOW + SECOND}, 0, False),
        ({"state": "running", "worker_id": WORKER}, 1, True),
        ({"state": "running", "worker_id": WORKER + 1}, 1, False),
        ({"state": "succeeded", "finished_at": NOW}, 0, False),
    ],
)
def test_what_counts_as_left(session: Session, values: dict[str, Any], counted: int, work: bool) -> None:
    assert not lifecycle.has_work(session, Job, WORKER, now=NOW)
    add(session, **values)
    for queues in (None, ["other", "default"]):
        assert lifecycle.remaining(session, Job, queues, now=NOW) == counted
        assert lifecycle.has_work(session, Job, WORKER, queues, now=NOW) is work
    assert lifecycle.remaining(session, Job, ["other"], now=NOW) == 0
    mine = values["state"] == "running" and values["worker_id"] == WORKER
    assert lifecycle.has_work(session, Job, WORKER, ["other"], now=NOW) is mine


# -- claim -----------------------------------------------------------------------------------------


def test_a_claim_spends_an_attempt_raises_the_number_and_names_its_worker(session: Session) -> None:
    added = add(session, priority=3, max_attempts=5)
    (job,) = claim(session, now=NOW + SECOND)
    assert job == Claimed(
        id=added.id,
        task="t",
        arguments={},
        queue="default",
        priority=3,
        attempt=1,
        max_attempts=5,
        claim=1,
        worker_id=WORKER,
        crashes=0,
        run_at=NOW,
        created_at=job.created_at,
        started_at=NOW + SECOND,
    )
    found = row(session, job)
    assert (found.state, found.attempt, found.claim, found.worker_id) == ("running", 1, 1, WORKER)
    assert found.started_at == NOW + SECOND
    assert claim(session) == []


@pytest.mark.parametrize("state", ["scheduled", "running", "succeeded", "failed", "cancelled"])
def test_only_queued_jobs_are_claimed(session: Session, state: str) -> None:
    final = state in ("succeeded", "failed", "cancelled")
    add(session, state=state, finished_at=NOW if final else None)
    assert claim(session) == []
    assert claim(session, "default") == []


def test_higher_priority_first_then_the_longest_due_then_the_lowest_id(session: Session) -> None:
    expected = [
        add(session, priority=1, run_at=NOW + SECOND),
        add(session, run_at=NOW - SECOND),
        add(session, run_at=NOW),
        add(session, run_at=NOW),
        add(session, priority=-1, run_at=NOW - MINUTE),
    ]
    for queues in ((), ("default",)):
        savepoint = session.begin_nested()
        assert [claim(session, *queues)[0].id for _ in expected] == [job.id for job in expected]
        savepoint.rollback()


def test_all_of_the_first_queue_before_any_of_the_second(session: Session) -> None:
    jobs = {
        (queue, n): add(session, queue=queue, priority=n * 10, run_at=NOW + n * SECOND).id
        for queue in "abc"
        for n in range(2)
    }
    taken = [claim(session, "c", "a")[0].id for _ in range(4)]
    assert taken == [jobs["c", 1], jobs["c", 0], jobs["a", 1], jobs["a", 0]]
    assert claim(session, "c", "a") == []
    assert claim(session, "c", "b")[0].id == jobs["b", 1]


def test_a_claim_takes_no_more_than_its_limit(session: Session) -> None:
    for _ in range(4):
        add(session)
    assert len(claim(session, limit=3)) == 3
    assert len(claim(session, "default", limit=3)) == 1


def test_a_worker_that_was_taken_for_dead_claims_nothing(session: Session) -> None:
    """Its process may have been stopped between the moment when it decided to claim, and the claim."""
    job = add(session)
    assert lifecycle.claim(session, Job, WORKER) == []
    assert lifecycle.claim(session, Job, WORKER, [job.queue]) == []
    assert (row(session, job).state, row(session, job).claim) == ("queued", 0)
    employ(session)
    assert [each.id for each in lifecycle.claim(session, Job, WORKER)] == [job.id]
