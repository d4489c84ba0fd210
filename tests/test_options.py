"""The options of a job: what they may be, and what the row says of them."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Task
from sqla_jobs.errors import InvalidOption, InvalidQueueName, shown

UTC = dt.timezone.utc
NOON = dt.datetime(2030, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def task(jobs: Jobs[Job]) -> Task[[], None, Job]:
    return jobs.task(name="task")(lambda session: None)


def now(session: Session) -> dt.datetime:
    found = session.scalar(text("SELECT statement_timestamp()"))
    assert isinstance(found, dt.datetime)
    return found


# -- queue -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("queue", ["a", "mail", "A-b_c.9", "0", "-", "." * 63])
def test_a_queue_name_may_have_letters_digits_and_three_signs(
    session: Session, task: Task[[], None, Job], queue: str
) -> None:
    """And the table's own CHECK agrees."""
    assert task.using(queue=queue).enqueue(session).queue == queue


@pytest.mark.parametrize(
    "queue",
    [
        "",
        " ",
        "a b",
        "mail\n",
        "a/b",
        "a:b",
        "a,b",
        "naïve",
        "почта",
        "٣",
        "a\x00",
        "x" * 64,
        5,
        b"mail",
        ["a"],
    ],
    ids=repr,
)
def test_any_other_queue_name_is_refused(jobs: Jobs[Job], task: Task[[], None, Job], queue: Any) -> None:
    with pytest.raises(InvalidQueueName, match="expected 1 to 63 out of A-Z"):
        task.using(queue=queue)
    with pytest.raises(InvalidQueueName):
        jobs.using(queue=queue)
    with pytest.raises(InvalidQueueName):
        jobs.task(name="other", queue=queue)


def test_the_length_is_told_of_a_name_that_is_too_long(task: Task[[], None, Job]) -> None:
    with pytest.raises(InvalidQueueName, match="of 64 characters"):
        task.using(queue="x" * 64)


# -- priority and max_attempts ---------------------------------------------------------------------


@pytest.mark.parametrize("priority", [-32_768, -1, 0, 32_767])
def test_a_priority_in_its_range_is_stored(
    session: Session, task: Task[[], None, Job], priority: int
) -> None:
    assert task.using(priority=priority).enqueue(session).priority == priority


@pytest.mark.parametrize("priority", [-32_769, 32_768, 1.0, "high", True, None, 10**5000], ids=shown)
def test_any_other_priority_is_refused(task: Task[[], None, Job], priority: Any) -> None:
    with pytest.raises(InvalidOption, match="expected a whole number from -32768 to 32767"):
        task.using(priority=priority)


def test_max_attempts_of_a_job_is_stored_or_left_to_the_policy(
    session: Session, task: Task[[], None, Job]
) -> None:
    assert task.using(max_attempts=1).enqueue(session).max_attempts == 1
    assert task.using(max_attempts=2**31 - 1).enqueue(session).max_attempts == 2**31 - 1
    assert task.enqueue(session).max_attempts is None
    assert task.using(max_attempts=1).using(max_attempts=None).enqueue(session).max_attempts is None


@pytest.mark.parametrize("attempts", [0, -1, 2**31, 1.5, "1", True], ids=str)
def test_any_other_max_attempts_is_refused(task: Task[[], None, Job], attempts: Any) -> None:
    with pytest.raises(InvalidOption, match="expected a whole number from 1 to"):
        task.using(max_attempts=attempts)


# -- when ------------------------------------------------------------------------------------------


def test_a_job_that_is_not_delayed_is_queued(session: Session, task: Task[[], None, Job]) -> None:
    for each in (task, task.using(delay=dt.timedelta(0)), task.using(delay=None), task.using(run_at=None)):
        job = each.enqueue(session)
        session.refresh(job)
        assert job.state == "queued"
        assert job.run_at <= now(session)


def test_a_delay_counts_from_the_statement_by_the_databases_clock(
    session: Session, task: Task[[], None, Job]
) -> None:
    """Not from the beginning of the transaction, nor by this machine's clock."""
    session.execute(text("SELECT pg_sleep(0.01)"))
    began, before = session.scalar(text("SELECT now()")), now(session)
    job = task.using(delay=dt.timedelta(hours=1)).enqueue(session)
    after = now(session)
    session.refresh(job)
    assert job.state == "scheduled"
    assert began is not None
    assert began < before <= job.run_at - dt.timedelta(hours=1) <= after


def test_the_longest_delay_can_be_stored_and_read(session: Session, task: Task[[], None, Job]) -> None:
    job = task.using(delay=dt.timedelta(days=36_525)).enqueue(session)
    session.refresh(job)
    assert job.run_at - now(session) > dt.timedelta(days=36_524)


@pytest.mark.parametrize(
    "delay",
    [dt.timedelta.max, dt.timedelta.min, dt.timedelta(days=36_525, microseconds=1), -dt.timedelta(seconds=1)],
    ids=str,
)
def test_a_delay_out_of_its_range_is_refused_where_it_is_given(
    jobs: Jobs[Job], task: Task[[], None, Job], delay: dt.timedelta
) -> None:
    for using in (task.using, jobs.using):
        with pytest.raises(InvalidOption, match="expected zero to 36525 days"):
            using(delay=delay)


@pytest.mark.parametrize("delay", [60, 1.5, "1 hour", NOON], ids=str)
def test_a_delay_is_a_timedelta(task: Task[[], None, Job], delay: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected a timedelta, e\.g\."):
        task.using(delay=delay)


@pytest.mark.parametrize(
    "run_at",
    [
        NOON,
        dt.datetime(1990, 1, 1, tzinfo=UTC),
        dt.datetime(2030, 6, 1, 12, tzinfo=ZoneInfo("Asia/Tokyo")),
        dt.datetime(9998, 12, 31, tzinfo=dt.timezone(-dt.timedelta(hours=23))),
        dt.datetime(2, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=23))),
    ],
    ids=str,
)
def test_a_job_runs_from_a_moment_on_in_whatever_zone(
    session: Session, task: Task[[], None, Job], run_at: dt.datetime
) -> None:
    """What is past is due at once: promotion, not the enqueue, says so."""
    for zone in ("Pacific/Kiritimati", "Pacific/Niue"):
        session.execute(text(f"SET TIME ZONE '{zone}'"))
        job = task.using(run_at=run_at).enqueue(session)
        session.refresh(job)
        assert job.state == "scheduled"
        assert job.run_at == run_at


@pytest.mark.parametrize("run_at", [NOON.replace(tzinfo=None), NOON.replace(tzinfo=None, year=9999)], ids=str)
def test_a_moment_without_a_zone_is_refused(task: Task[[], None, Job], run_at: dt.datetime) -> None:
    with pytest.raises(InvalidOption, match="has no time zone; expected an aware datetime"):
        task.using(run_at=run_at)


@pytest.mark.parametrize(
    "run_at", [dt.datetime.max.replace(tzinfo=UTC), dt.datetime.min.replace(tzinfo=UTC)], ids=str
)
def test_a_moment_that_a_reader_could_not_hold_is_refused(
    task: Task[[], None, Job], run_at: dt.datetime
) -> None:
    with pytest.raises(InvalidOption, match="expected a year from 2 to 9998"):
        task.using(run_at=run_at)


@pytest.mark.parametrize("run_at", [NOON.date(), "tomorrow", 1, dt.timedelta(hours=1)], ids=str)
def test_a_moment_is_a_datetime(task: Task[[], None, Job], run_at: Any) -> None:
    with pytest.raises(InvalidOption, match="expected a datetime with a time zone"):
        task.using(run_at=run_at)


def test_delay_and_moment_exclude_each_other(task: Task[[], None, Job]) -> None:
    """In one call; in a chain the later one replaces the earlier."""
    with pytest.raises(InvalidOption, match="are both given; expected one"):
        task.using(delay=dt.timedelta(1), run_at=NOON)
    delayed = task.using(delay=dt.timedelta(1))
    assert (delayed.using(run_at=NOON).options.delay, delayed.using(run_at=NOON).options.run_at) == (
        None,
        NOON,
    )
    timed = task.using(run_at=NOON)
    assert (timed.using(delay=dt.timedelta(1)).options.run_at, timed.options.run_at) == (None, NOON)
    assert timed.using(run_at=None).options.run_at is None
    assert timed.using(queue="slow").options.run_at == NOON
