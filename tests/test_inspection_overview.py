"""Counts, queues, workers, buckets of time; one job with all of its row."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, lifecycle
from sqla_jobs.errors import InvalidFilter, InvalidQueueName
from sqla_jobs.inspection import (
    Count,
    JobFilter,
    count_jobs,
    count_states,
    list_queues,
    list_workers,
    show_job,
    stats,
)
from sqla_jobs.outcome import decide
from tests.support.verbs import MINUTE, NOW, SECOND, add, claimed, employ

HOUR = dt.timedelta(hours=1)


def finish(session: Session, at: dt.datetime, state: str = "succeeded", **values: Any) -> Job:
    """A job that was due and enqueued 3 seconds before it began, and ran for 2."""
    began = at - 2 * SECOND
    ready = began - 3 * SECOND
    given = {"run_at": ready, "created_at": ready, "started_at": began, "finished_at": at, **values}
    return add(session, state=state, **given)


# -- counts ----------------------------------------------------------------------------------------


def test_a_count_goes_no_further_than_asked(session: Session) -> None:
    for _ in range(5):
        add(session)
    finish(session, NOW, "failed", task="other")
    assert count_jobs(session) == Count(6)
    assert count_jobs(session, Job, at_most=6) == Count(6)
    assert count_jobs(session, Job, at_most=5) == Count(5, exact=False)
    queued = JobFilter(states=(JobState.QUEUED,))
    assert count_jobs(session, Job, queued, at_most=4) == Count(4, exact=False)
    both = JobFilter(states=(JobState.QUEUED, JobState.FAILED))
    assert count_jobs(session, Job, both) == Count(6)
    assert count_jobs(session, Job, both, at_most=5) == Count(5, exact=False)
    assert count_jobs(session, Job, JobFilter(task="other")) == Count(1)
    assert count_jobs(session, Job, JobFilter(schedule="none")) == Count(0)
    assert str(Count(10_000, exact=False)) == "10,000+"
    assert str(Count(1234)) == "1,234"


def test_a_count_looks_no_further_than_asked(session: Session) -> None:
    for at in range(12):
        add(session, task="old" if at < 3 else "t")
    assert count_jobs(session, Job, JobFilter(task="t"), look=12) == Count(9, exact=False)
    assert count_jobs(session, Job, JobFilter(task="t"), look=13) == Count(9)
    assert count_jobs(session, Job, JobFilter(task="old"), look=10) == Count(1, exact=False)


@pytest.mark.parametrize(("name", "value"), [("at_most", 0), ("at_most", True), ("look", 9), ("look", "10")])
def test_a_count_without_bounds_is_refused(session: Session, name: str, value: Any) -> None:
    with pytest.raises(InvalidFilter, match=f"{name} is {value!r}; expected a whole number from"):
        count_jobs(session, Job, **{name: value})


def test_states_are_counted_each(session: Session) -> None:
    for number, state in enumerate(JobState):
        for _ in range(number):
            given = {"finished_at": NOW} if state.is_final else {}
            add(session, state=state.value, **given)
    expected = {state: Count(number) for number, state in enumerate(JobState)}
    assert count_states(session) == expected
    assert count_states(session, at_most=3) == {
        state: Count(min(each.number, 3), each.number <= 3) for state, each in expected.items()
    }


# -- queues ----------------------------------------------------------------------------------------


def test_queues_are_those_with_jobs_those_set_and_those_of_workers(session: Session) -> None:
    add(session, queue="backlog", run_at=NOW - MINUTE, priority=3)
    add(session, queue="backlog", run_at=NOW - HOUR, priority=-1)
    add(session, queue="backlog", run_at=NOW - SECOND, priority=3)
    add(session, queue="later", state="scheduled", run_at=NOW + HOUR)
    add(session, queue="busy", state="running", worker_id=7)
    finish(session, NOW - MINUTE, queue="done")
    finish(session, NOW - MINUTE, "failed", queue="done")
    finish(session, NOW - 4 * MINUTE, "cancelled", queue="done")
    finish(session, NOW - 6 * MINUTE, queue="forgotten")
    lifecycle.pause(session, Job, "paused", now=NOW)
    employ(session, 7)
    employ(session, 8)
    session.execute(
        text("UPDATE sqla_jobs_workers SET heartbeat_at = :now, queues = :queues WHERE id = :id"),
        [
            {"now": NOW, "queues": '["mine", 3]', "id": 7},
            {"now": NOW - HOUR, "queues": '["dead"]', "id": 8},
        ],
    )
    rows = {each.name: each for each in list_queues(session, now=NOW)}
    assert list(rows) == ["backlog", "busy", "done", "later", "mine", "paused"]
    assert (rows["backlog"].queued, rows["backlog"].oldest) == (Count(3), NOW - HOUR)
    assert (rows["later"].scheduled, rows["later"].queued) == (Count(1), Count(0))
    assert (rows["busy"].running, rows["mine"].running) == (1, 0)
    assert rows["paused"].paused_at == NOW
    assert rows["done"].per_minute == pytest.approx(3 / 5)
    assert rows["backlog"].per_minute == 0


def test_queues_of_an_empty_table(session: Session) -> None:
    assert list_queues(session) == []


# -- workers ---------------------------------------------------------------------------------------


def test_workers_say_what_they_run(session: Session) -> None:
    worker_id = lifecycle.register(
        session, Job, host="h", pid=3, version="1", queues=["a", "b"], threads=4,
        heartbeat_limit=30 * SECOND, tasks=["t"],
    )  # fmt: skip
    since = NOW - MINUTE
    entry = {"id": 9, "task": "t", "claim": 1, "attempt": 1, "since": since.isoformat()}
    lifecycle.heartbeat(session, Job, worker_id, [{**entry, "progress": {"done": 1}}], now=NOW)
    (worker,) = list_workers(session, now=NOW + 29 * SECOND)
    assert (worker.id, worker.host, worker.pid, worker.queues) == (worker_id, "h", 3, ["a", "b"])
    assert (worker.threads, worker.heartbeat_limit, worker.tasks) == (4, 30 * SECOND, ["t"])
    assert worker.alive
    assert worker.died_at is None
    [running] = worker.running
    assert (running.job_id, running.task, running.since, running.progress) == (9, "t", since, {"done": 1})
    (worker,) = list_workers(session, now=NOW + 31 * SECOND)
    assert not worker.alive
    session.execute(text("UPDATE sqla_jobs_workers SET died_at = :now"), {"now": NOW})
    (worker,) = list_workers(session, now=NOW)
    assert (worker.alive, worker.died_at) == (False, NOW)


def test_a_worker_row_of_raw_sql_is_shown_too(session: Session) -> None:
    employ(session, 7)
    session.execute(
        text(
            "UPDATE sqla_jobs_workers SET queues = '{}', tasks = '7', heartbeat_at = '-infinity', "
            """running = '[1, {}, {"id": 5, "since": 7, "task": []}]'"""
        )
    )
    (worker,) = list_workers(session)
    assert (worker.queues, worker.tasks) == (None, None)
    [running] = worker.running
    assert (running.job_id, running.task, running.since) == (5, None, None)


# -- buckets ---------------------------------------------------------------------------------------


def test_buckets_begin_at_multiples_of_their_length_and_hold_what_finished_in_them(session: Session) -> None:
    start = NOW.replace(minute=30)
    finish(session, start)
    finish(session, start + 59 * SECOND)
    finish(session, start + MINUTE, "failed", started_at=None)
    finish(session, start + MINUTE, "cancelled")
    finish(session, start - SECOND)
    finish(session, start + 3 * MINUTE)
    found = stats(session, span=3 * MINUTE, buckets=3, now=start + 2 * MINUTE + 30 * SECOND)
    assert [each.at for each in found] == [start, start + MINUTE, start + 2 * MINUTE]
    assert [each.seconds for each in found] == [60, 60, 60]
    assert [each.succeeded for each in found] == [Count(2), Count(0), Count(0)]
    assert [each.failed for each in found] == [Count(0), Count(1), Count(0)]
    assert [each.cancelled for each in found] == [Count(0), Count(1), Count(0)]
    assert (found[0].wait_p50, found[0].run_p95) == (3 * SECOND, 2 * SECOND)
    assert (found[1].wait_p50, found[1].run_p95) == (None, None)


def test_buckets_tell_the_median_and_the_slow_ones(session: Session) -> None:
    for number in range(1, 11):
        finish(session, NOW + SECOND, started_at=NOW + SECOND - number * SECOND, run_at=NOW - HOUR)
    (bucket,) = stats(session, span=MINUTE, buckets=1, now=NOW)
    assert bucket.run_p50 == 5.5 * SECOND
    assert bucket.run_p95 == 9.55 * SECOND
    assert bucket.wait_p50 is not None


def test_buckets_of_a_queue(session: Session) -> None:
    finish(session, NOW, queue="mine")
    for _ in range(3):
        finish(session, NOW)
    (bucket,) = stats(session, span=MINUTE, buckets=1, queue="mine", now=NOW)
    assert bucket.succeeded == Count(1)
    assert bucket.run_p50 == 2 * SECOND
    assert stats(session, span=MINUTE, buckets=1, queue="none", now=NOW)[0].succeeded == Count(0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"span": 7}, "span is 7; expected a timedelta from 60 seconds"),
        ({"span": MINUTE, "buckets": 61}, "expected a timedelta from 61 seconds, one for each bucket"),
        ({"buckets": 0}, "buckets is 0; expected a whole number from 1 to 500"),
        ({"buckets": 501}, "buckets is 501"),
    ],
    ids=["no-span", "short", "none", "many"],
)
def test_buckets_that_cannot_be_are_refused(session: Session, options: Any, told: str) -> None:
    with pytest.raises(InvalidFilter, match=told):
        stats(session, **options)
    with pytest.raises(InvalidQueueName):
        stats(session, queue="a b")


# -- one job ---------------------------------------------------------------------------------------


def test_a_job_is_shown_with_all_of_its_row(session: Session) -> None:
    employ(session)
    job = claimed(
        session,
        task="pay",
        arguments={"order": {"id": 7}, "card_number": "4242"},
        meta={"redact": ["card_number"]},
        timeout=5 * SECOND,
        unique_key="k",
        unique_held=True,
        created_at=NOW - SECOND,
    )
    failed = decide(None, ValueError("no such\norder"), lambda _: None)
    lifecycle.finish(session, Job, job, failed, now=NOW + SECOND)
    shown = show_job(session, Job, job.id)
    assert shown is not None
    assert (shown.task, shown.state, shown.attempt) == ("pay", JobState.FAILED, 1)
    assert shown.arguments == {"order": {"id": 7}, "card_number": "[redacted]"}
    assert shown.error == "ValueError: no such order"
    assert shown.attempts[0]["message"] == "no such\norder"
    assert (shown.timeout, shown.unique_key, shown.unique_held) == (5 * SECOND, "k", False)
    assert (shown.worker, shown.claim, shown.duration) == ("h:1", 1, SECOND)
    assert show_job(session, Job, job.id, redact=["order"]).arguments["order"] == "[redacted]"  # type: ignore[union-attr]
    assert show_job(session, Job, job.id + 1) is None
    with pytest.raises(InvalidFilter, match="job is 'x'; expected the id of a job"):
        show_job(session, Job, "x")  # type: ignore[arg-type]


def test_a_job_of_raw_sql_is_shown_however_odd(session: Session) -> None:
    odd = session.execute(
        text(
            "INSERT INTO sqla_jobs (task, state, arguments, attempts, started_at, finished_at, created_at, "
            "timeout, meta, progress, schedule_id) VALUES ('t', 'failed', CAST(:huge AS jsonb), "
            "'[1, \"x\"]', '-infinity', 'infinity', 'infinity', '1000000 years', '[]', '7', 12) RETURNING id"
        ),
        {"huge": '{"n": ' + "9" * 5000 + "}"},
    ).scalar_one()
    shown = show_job(session, Job, odd)
    assert shown is not None
    assert list(shown.arguments) == ["(not readable)"]
    assert (shown.attempts, shown.error, shown.meta, shown.progress) == ([], None, None, None)
    assert (shown.schedule, shown.worker) == (None, None)
