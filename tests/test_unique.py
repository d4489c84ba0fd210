"""Unique jobs: what the key is made of, who holds it and until when, in one Session."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Retried, RetryPolicy, cancel, lifecycle, retry
from sqla_jobs.errors import DuplicateJob, WorkerDied
from sqla_jobs.outcome import decide, died
from tests.support.verbs import NOW, claim, row

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def send(session: Session, order: int, *, copies: int = 1) -> None:
    if copies == 13:
        raise ValueError


def keys(session: Session) -> list[tuple[int, bool]]:
    return [(row.id, row.unique_held) for row in session.execute(text("SELECT * FROM sqla_jobs ORDER BY id"))]


# -- a duplicate -----------------------------------------------------------------------------------


def test_the_second_is_given_the_first(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send")(send)
    first = task.using(unique_key="order-7").enqueue(session, 7)
    assert not first.duplicate
    session.expire_all()
    second = task.using(unique_key="order-7", priority=9).enqueue(session, 8)
    assert second is first
    assert second.duplicate
    assert (second.arguments, second.priority) == ({"order": 7}, 0), "it is as it was"
    assert not task.using(unique_key="order-8").enqueue(session, 8).duplicate
    assert not task.enqueue(session, 7).duplicate
    assert session.scalar(text("SELECT count(*) FROM sqla_jobs")) == 3
    assert not session.new


def test_what_the_session_has_pending_is_kept_and_so_is_its_transaction(
    jobs: Jobs[Job], session: Session
) -> None:
    task = jobs.task(name="send")(send)
    task.using(unique_key="k").enqueue(session, 7)
    pending = task.job(9)
    session.add(pending)
    with session.begin_nested():
        assert task.using(unique_key="k").enqueue(session, 7).duplicate
    session.commit()
    assert pending.id is not None
    assert len(keys(session)) == 2


def test_the_name_of_the_task_is_part_of_it(jobs: Jobs[Job], session: Session) -> None:
    one = jobs.task(name="one")(send).using(unique_key="k").enqueue(session, 7)
    two = jobs.task(name="two")(send).using(unique_key="k").enqueue(session, 7)
    three = jobs.using(unique_key="k").enqueue(session, "not.known.here", order=7)
    assert len({one.id, two.id, three.id}) == 3
    assert jobs.using(unique_key="k").enqueue(session, "not.known.here").id == three.id
    assert jobs.using(unique_key="k").enqueue(session, "one", order=8) is one
    assert (one.unique_key, one.unique_scope, one.unique_held) == ('["one","k"]', "active", True)


@pytest.mark.parametrize("by", [("order",), ["order", "order"]])
def test_derived_from_some_arguments(jobs: Jobs[Job], session: Session, by: Any) -> None:
    task = jobs.task(name="send", unique=by)(send)
    first = task.enqueue(session, 7)
    assert first.unique_key == '["send",{"order":7}]'
    assert task.enqueue(session, order=7, copies=2) is first
    assert task.enqueue(session, 8) is not first
    assert task.using(unique_key=None).enqueue(session, 7) is not first
    assert task.using(unique_key="own").enqueue(session, 7) is not first
    assert jobs.enqueue(session, "send", order=7) is first


def test_derived_from_all_arguments_also_those_left_to_their_default(
    jobs: Jobs[Job], session: Session
) -> None:
    task = jobs.task(name="send", unique=True)(send)
    first = task.enqueue(session, 7)
    assert task.enqueue(session, 7, copies=1) is first
    assert task.enqueue(session, 7, copies=2) is not first


def test_a_long_key_is_stored_as_its_hash(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send")(send)
    first = task.using(unique_key="x" * 10_000).enqueue(session, 7)
    assert len(first.unique_key or "") < 120
    assert task.using(unique_key="x" * 10_000).enqueue(session, 7) is first
    assert task.using(unique_key="x" * 9_999).enqueue(session, 7) is not first


def test_added_to_a_session_a_duplicate_is_refused_by_the_flush(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send", unique=("order",))(send)
    session.add(task.job(7))
    session.flush()
    with pytest.raises(IntegrityError, match="uq_sqla_jobs_unique_key"), session.begin_nested():
        session.add(task.job(7))
    assert len(keys(session)) == 1


# -- until when ------------------------------------------------------------------------------------


def end(session: Session, how: str, job: Job) -> None:
    """Let a job come to its end in one of all ways."""
    if how == "cancelled":
        cancel(session, job)
    elif how == "cancelled with all":
        lifecycle.cancel_waiting(session, Job)
    else:
        (claimed,) = claim(session, now=NOW + 99 * DAY)
        if how == "handed in":
            lifecycle.exchange(session, Job, claimed.worker_id or 0, [claimed], None, 0)
        else:
            error = {"failed": ValueError(), "died": WorkerDied(), "succeeded": None}[how]
            decided = died(error, lambda _: None) if how == "died" else decide(None, error, lambda _: None)
            assert lifecycle.finish(session, Job, claimed, decided)


ENDS = ["succeeded", "failed", "died", "handed in", "cancelled", "cancelled with all"]


@pytest.mark.parametrize("how", ENDS)
def test_active_until_it_is_finished(jobs: Jobs[Job], session: Session, how: str) -> None:
    task = jobs.task(name="send", unique=("order",))(send)
    first = task.enqueue(session, 7)
    end(session, how, first)
    session.expire_all()
    assert (first.unique_held, first.unique_key) == (False, '["send",{"order":7}]')
    second = task.enqueue(session, 7)
    assert second is not first
    assert not second.duplicate


def test_active_while_it_runs_and_while_it_waits_to_be_tried_again(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send", unique=("order",))(send)
    first = task.enqueue(session, 7)
    (claimed,) = claim(session, now=NOW)
    assert task.enqueue(session, 7).id == first.id
    lifecycle.finish(session, Job, claimed, decide(None, ValueError(), lambda _: HOUR), now=NOW)
    assert task.enqueue(session, 7).id == first.id
    assert first.state == "scheduled"


def test_queued_until_it_begins_and_never_again(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send", unique=("order",), unique_scope="queued")(send)
    first = task.enqueue(session, 7)
    assert task.enqueue(session, 7) is first
    (claimed,) = claim(session, now=NOW)
    second = task.enqueue(session, 7)
    assert second is not first, "what it does it may have read already"
    lifecycle.finish(session, Job, claimed, decide(None, ValueError(), lambda _: HOUR), now=NOW)
    session.expire_all()
    assert (first.state, first.unique_held) == ("scheduled", False)
    assert task.enqueue(session, 7) is second


def test_queued_also_if_many_are_claimed_at_once(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send", unique=("order",), unique_scope="queued")(send)
    for order in range(3):
        task.enqueue(session, order)
    claim(session, limit=4, now=NOW + DAY)
    assert [held for _, held in keys(session)] == [False, False, False]


@pytest.mark.parametrize("how", ENDS)
def test_for_a_window_whatever_becomes_of_it(jobs: Jobs[Job], session: Session, how: str) -> None:
    task = jobs.task(name="send", unique=("order",), unique_for=36_500 * DAY)(send)
    first = task.enqueue(session, 7)
    assert (first.unique_scope, first.unique_key) == ("window", '["send",{"order":7}]@0/3153600000')
    end(session, how, first)
    assert task.enqueue(session, 7) is first
    assert first.state in ("succeeded", "failed", "cancelled")
    assert task.enqueue(session, 8) is not first


@pytest.mark.parametrize("length", [timedelta(seconds=1), HOUR, DAY, 36_500 * DAY], ids=str)
@pytest.mark.parametrize("moment", [NOW, NOW - timedelta(microseconds=1), NOW + 7 * HOUR / 3], ids=str)
def test_windows_are_the_same_by_python_and_by_sql(
    session: Session, length: timedelta, moment: datetime
) -> None:
    from sqlalchemy import literal

    from sqla_jobs.lifecycle.unique import windowed
    from sqla_jobs.statements import window

    made = session.scalar(select(window("k", length, literal(moment))))
    assert made == windowed("k", length, moment)
    begin, end = (int(each) for each in str(made).partition("@")[2].split("/"))
    assert begin <= moment.timestamp() < end
    assert end - begin == length.total_seconds()


def test_each_window_has_a_job(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send").__call__(send).using(unique_key="k", unique_for=HOUR)

    def enqueue(now: datetime) -> Job:
        return lifecycle.enqueue_unique(session, task.job(7), lifecycle.enqueue_in_savepoint, now=now)

    noon = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)
    first = enqueue(noon)
    assert enqueue(noon + timedelta(minutes=59)) is first
    assert enqueue(noon + HOUR) is not first
    assert enqueue(noon - timedelta(microseconds=1)) is not first


def test_a_window_by_a_flush_is_the_servers(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send")(send).using(unique_key="k", unique_for=36_500 * DAY)
    job = task.job(7)
    session.add(job)
    session.flush()
    assert job.unique_key == '["send","k"]@0/3153600000'
    assert task.enqueue(session, 7) is job


# -- run in the caller's transaction, pruned, passing -----------------------------------------------


def test_work_once_lets_go_of_a_key_and_leaves_what_lets_go_at_its_beginning(
    jobs: Jobs[Job], session: Session
) -> None:
    active = jobs.task(name="active", unique=True)(send)
    queued = jobs.task(name="queued", unique=True, unique_scope="queued")(send)
    first = active.enqueue(session, 7)
    queued.enqueue(session, 7)
    queued.using(delay=timedelta(microseconds=1)).enqueue(session, 8)
    ended = jobs.work_once(session)
    assert ended is not None
    assert ended.job.id == first.id
    assert jobs.work_once(session) is None, "nobody would see that it has begun"
    assert active.enqueue(session, 7) is not first


def test_a_failed_attempt_in_work_once_keeps_the_key(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send", unique=("order",), retry=RetryPolicy(base=HOUR))(send)
    first = task.enqueue(session, 7, copies=13)
    ended = jobs.work_once(session)
    assert ended is not None
    assert ended.failed
    assert task.enqueue(session, 7) is first


def test_a_job_that_passes_stays_for_its_window(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send", unique=("order",), retention=timedelta(0))(send)
    gone = task.enqueue(session, 7).id
    stays = task.using(unique_key="k", unique_for=36_500 * DAY).enqueue(session, 7)
    states = [str(ended and ended.state) for ended in (jobs.work_once(session), jobs.work_once(session))]
    assert states == ["succeeded", "succeeded"]
    assert gone not in [each for each, _ in keys(session)] == [stays.id]


def test_a_job_is_pruned_when_its_window_is_over(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="send")(send).using(unique_key="k", unique_for=DAY)
    window = task.job(7)
    made = lifecycle.enqueue_unique(session, window, lifecycle.enqueue_in_savepoint, now=NOW)
    cancel(session, made, now=NOW)
    active = jobs.task(name="active", unique=("order",))(send).enqueue(session, 7)
    cancel(session, active, now=NOW)
    assert jobs.prune(session, older_than=timedelta(0), now=NOW + HOUR) == 1
    assert jobs.prune(session, older_than=timedelta(0), now=NOW + DAY) == 1


# -- retry by hand ---------------------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["active", "queued"])
def test_retry_takes_the_key_again(jobs: Jobs[Job], session: Session, scope: Any) -> None:
    task = jobs.task(name="send", unique=("order",), unique_scope=scope)(send)
    first = task.enqueue(session, 7)
    cancel(session, first)
    assert retry(session, first) is Retried.RETRIED
    assert task.enqueue(session, 7) is first
    cancel(session, first)
    second = task.enqueue(session, 7)
    with pytest.raises(DuplicateJob):
        retry(session, first)
    assert (row(session, first).state, row(session, second).unique_held) == ("cancelled", True)
