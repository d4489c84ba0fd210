"""`act`: many jobs retried, cancelled, deleted, in batches; nobody is waited for, and each reason is told."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, lifecycle
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection import Acted, JobFilter, act, list_jobs
from tests.support.ear import ear
from tests.support.server import Database
from tests.support.verbs import MINUTE, NOW, SECOND, add, row

FAILED = JobFilter(states=(JobState.FAILED,))


def each_state(session: Session) -> dict[str, Job]:
    return {
        state.value: add(session, state=state.value, **({"finished_at": NOW} if state.is_final else {}))
        for state in JobState
    }


def states(session: Session) -> list[str]:
    return list(session.execute(text("SELECT state FROM sqla_jobs ORDER BY id")).scalars())


# -- what becomes of each --------------------------------------------------------------------------


def test_retry(session: Session) -> None:
    jobs = each_state(session)
    acted = act(session, Job, "retry", ids=[job.id for job in jobs.values()] + [10**9], now=NOW + SECOND)
    assert acted == Acted(done=3, passed={"queued": 1, "running": 1, "succeeded": 1, "gone": 1})
    assert states(session) == ["queued", "queued", "running", "succeeded", "queued", "queued"]
    assert jobs["failed"].state == "queued"  # the Session has noticed
    assert row(session, jobs["failed"]).run_at == NOW + SECOND


def test_cancel(session: Session) -> None:
    jobs = each_state(session)
    acted = act(session, Job, "cancel", ids=[job.id for job in jobs.values()], now=NOW + SECOND)
    assert acted == Acted(done=3, passed={"finished": 3})
    assert states(session) == ["cancelled", "cancelled", "running", "succeeded", "failed", "cancelled"]
    assert jobs["running"].cancel_requested_at == NOW + SECOND
    assert jobs["queued"].finished_at == NOW + SECOND


def test_delete(session: Session) -> None:
    session.execute(text("CREATE TABLE receipts (job_id bigint REFERENCES sqla_jobs (id))"))
    jobs = each_state(session)
    session.execute(text("INSERT INTO receipts VALUES (:id)"), {"id": jobs["failed"].id})
    acted = act(session, Job, "delete", ids=[job.id for job in jobs.values()])
    assert acted == Acted(done=4, passed={"running": 1, "referenced": 1})
    assert states(session) == ["running", "failed"]


def test_a_key_that_is_taken_keeps_its_job_from_a_retry_and_no_other(session: Session) -> None:
    over = {"state": "failed", "finished_at": NOW}
    add(session, unique_key="taken", unique_held=True)
    jobs = [add(session, unique_key=key, **over) for key in ("taken", "free", None)]
    assert act(session, Job, "retry", where=FAILED) == Acted(done=2, passed={"duplicate": 1})
    assert [job.state for job in jobs] == ["failed", "queued", "queued"]
    assert [job.unique_held for job in jobs] == [False, True, False]


def test_a_key_is_let_go_by_a_cancel(session: Session) -> None:
    job = add(session, unique_key="k", unique_held=True)
    act(session, Job, "cancel", ids=[job.id])
    assert not job.unique_held


def test_workers_are_told(database: Database) -> None:
    with database.sessionmaker.begin() as session:
        failed = add(session, state="failed", finished_at=NOW, queue="mail").id
        running = add(session, state="running", worker_id=7, claim=3).id
    with ear(database) as workers, database.sessionmaker() as session:
        act(session, Job, "retry", ids=[failed])
        act(session, Job, "cancel", ids=[running])
        session.commit()
        assert {"queued:mail", f"cancel:7:{running}:3"} <= set(workers.heard())


# -- batches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_batches_come_to_all_jobs_of_a_filter_and_to_no_other(session: Session, verb: Any) -> None:
    state = "queued" if verb == "cancel" else "failed"
    for at in range(23):
        over = {"finished_at": NOW + at * SECOND} if state == "failed" else {}
        add(session, state=state, task="mine" if at % 2 else "other", run_at=NOW + at * SECOND, **over)
    where = JobFilter(states=(JobState(state),), task="mine")
    done, cursor, batches = 0, None, 0
    while True:
        acted = act(session, Job, verb, where=where, cursor=cursor, limit=4)
        done, batches = done + acted.done, batches + 1
        assert acted.done <= 4
        assert acted.passed == {}
        if (cursor := acted.next) is None:
            break
    assert (done, batches) == (11, 3)
    assert list_jobs(session, Job, where).jobs == ()
    assert len(list_jobs(session, Job, JobFilter(states=(JobState(state),), task="other")).jobs) == 12


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"verb": "kill", "ids": [1]}, "verb is 'kill'; expected one of retry, cancel, delete"),
        ({"verb": "retry"}, "what to act on is 'nothing'; expected ids, or a filter"),
        ({"verb": "retry", "ids": [1], "where": FAILED}, "what to act on is 'both'"),
        ({"verb": "retry", "ids": ["1"]}, "ids is '1'; expected the ids of jobs"),
        ({"verb": "retry", "ids": [2**63]}, "expected the ids of jobs"),
        ({"verb": "retry", "ids": range(6), "limit": 5}, "'6 of them'; expected at most 5"),
        ({"verb": "retry", "where": FAILED, "limit": 0}, "limit is 0"),
        ({"verb": "retry", "where": FAILED, "cursor": "x"}, "cursor is 'x'"),
    ],
    ids=["verb", "nothing", "both", "text", "large", "many", "limit", "cursor"],
)
def test_what_cannot_be_is_refused(session: Session, options: Any, told: str) -> None:
    with pytest.raises(InvalidFilter, match=told):
        act(session, Job, **options)


# -- beside others ---------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_a_job_that_somebody_has_locked_is_passed_over(database: Database, verb: Any) -> None:
    """It does not wait: the timeout would tell."""
    state = {"state": "scheduled", "run_at": NOW + MINUTE}
    with database.sessionmaker.begin() as session:
        locked, free = add(session, **state).id, add(session, **state).id
    with database.sessionmaker() as holder, database.sessionmaker() as session:
        holder.execute(text("SELECT FROM sqla_jobs WHERE id = :id FOR NO KEY UPDATE"), {"id": locked})
        session.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert act(session, Job, verb, ids=[locked, free]) == Acted(done=1, passed={"busy": 1})
        session.commit()
    assert database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=locked) == "scheduled"


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_a_job_that_was_chosen_and_has_changed_since_is_left_alone(database: Database, verb: Any) -> None:
    """Between the look at a filter's jobs and the lock of them somebody else has been at one."""
    with database.sessionmaker.begin() as session:
        ids = [add(session, state="scheduled", run_at=NOW).id for _ in range(2)]
    with database.sessionmaker() as session:
        database.execute(
            "UPDATE sqla_jobs SET state = 'failed', finished_at = now() WHERE id = :id", id=ids[0]
        )
        many = getattr(lifecycle, f"{verb}_many")
        done, passed = many(session, Job, ids, states=["scheduled"])
        session.commit()
    assert (done, passed) == ({ids[1]}, {ids[0]: "changed"})
    assert database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=ids[0]) == "failed"
