"""`Jobs.run_schedule` and `Jobs.switch_schedule`: schedules by hand, in the caller's transaction."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Schedule
from sqla_jobs.errors import InvalidOption

NOW = dt.datetime(2026, 3, 2, 12, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)

jobs = Jobs(prune_after=None)


@jobs.every(HOUR, name="hourly", kwargs={"number": 7})
@jobs.task(name="report", queue="reports", priority=3)
def report(_: Session, number: int) -> None: ...


@pytest.fixture
def scheduled(session: Session) -> Session:
    jobs.sync_schedules(session, now=NOW)
    return session


def test_a_job_beside_the_ticks(scheduled: Session) -> None:
    before = scheduled.scalars(select(Schedule.next_run_at)).all()
    job_id = jobs.run_schedule(scheduled, "hourly", now=NOW)
    job = scheduled.get_one(Job, job_id)
    assert (job.task, job.arguments, job.queue, job.priority) == ("report", {"number": 7}, "reports", 3)
    assert (job.state, job.run_at, job.tick_at) == ("queued", NOW, NOW)
    assert scheduled.scalars(select(Schedule.next_run_at)).all() == before


def test_one_that_is_switched_off_runs_by_hand(scheduled: Session) -> None:
    assert jobs.switch_schedule(scheduled, "hourly", enabled=False, now=NOW)
    assert jobs.run_schedule(scheduled, "hourly", now=NOW) is not None


def test_the_row_says_more_than_the_task(session: Session) -> None:
    session.add(
        Schedule(name="data", task="report", arguments={"number": 1}, every=HOUR, queue="own", priority=9)
    )
    job = session.get_one(Job, jobs.run_schedule(session, "data", now=NOW))  # pending until then
    assert (job.queue, job.priority) == ("own", 9)


def test_of_a_task_that_is_not_known_here(scheduled: Session) -> None:
    job = scheduled.get_one(Job, Jobs().run_schedule(scheduled, "hourly", now=NOW))
    assert (job.queue, job.priority) == ("default", 0)


def test_a_switch_and_what_was_due_meanwhile(scheduled: Session) -> None:
    assert jobs.switch_schedule(scheduled, "hourly", enabled=False, now=NOW)
    assert scheduled.scalars(select(Schedule.enabled)).all() == [False]
    later = NOW + 3 * HOUR
    assert jobs.switch_schedule(scheduled, "hourly", enabled=True, now=later)
    [(enabled, due)] = scheduled.execute(select(Schedule.enabled, Schedule.next_run_at)).all()
    assert (enabled, due) == (True, None), "the next worker that looks counts from then"


def test_there_is_none_of_that_name(session: Session) -> None:
    assert jobs.run_schedule(session, "hourly") is None
    assert jobs.switch_schedule(session, "hourly", enabled=True) is False


@pytest.mark.parametrize("enabled", [None, "no", 1])
def test_what_is_no_switch(session: Session, enabled: Any) -> None:
    with pytest.raises(InvalidOption, match=r"enabled .*; expected True or False"):
        jobs.switch_schedule(session, "hourly", enabled=enabled)


def test_what_is_no_session() -> None:
    for verb in (jobs.run_schedule, lambda s, name: jobs.switch_schedule(s, name, enabled=True)):
        with pytest.raises(InvalidOption, match="a Session"):
            verb("hourly", "hourly")


def test_what_its_task_redacts(session: Session) -> None:
    own = Jobs(prune_after=None)

    @own.every(HOUR, name="charges", kwargs={"card": "4929 1234"})
    @own.task(name="charge", redact=("card",))
    def _(_: Session, card: str) -> None: ...

    own.sync_schedules(session, now=NOW)
    known = session.get_one(Job, own.run_schedule(session, "charges", now=NOW))
    assert known.meta == {"redact": ["card"]}
    unknown = session.get_one(Job, Jobs().run_schedule(session, "charges", now=NOW + HOUR))
    assert unknown.meta == {"redact": ["card"]}, "as its last job"
