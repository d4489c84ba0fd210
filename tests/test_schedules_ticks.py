"""What a tick makes of schedules that are due, in one Session and at times that the test says."""

from __future__ import annotations

import datetime as dt
import logging
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Schedule, lifecycle
from sqla_jobs.scheduler import MOST, Schedules
from tests.support.verbs import MINUTE, NOW, SECOND

HOUR = dt.timedelta(hours=1)
LATER = NOW + 17 * MINUTE
"""The schedules here are due every five minutes from `NOW` on."""


@pytest.fixture
def jobs() -> Jobs[Job]:
    jobs = Jobs(prune_after=None)
    jobs.task(name="t", queue="mail", priority=7)(lambda session, **arguments: None)
    return jobs


@pytest.fixture
def schedules(jobs: Jobs[Job]) -> Schedules:
    return Schedules(jobs, draw=lambda: 0.5)


def add(session: Session, name: str = "s", **values: Any) -> Schedule:
    row = Schedule(name=name, **({"task": "t", "every": 5 * MINUTE, "next_run_at": NOW} | values))
    session.add(row)
    session.flush()
    return row


def made(session: Session) -> list[Job]:
    session.expire_all()
    return session.query(Job).order_by(Job.tick_at, Job.id).all()


def ticks(session: Session) -> list[dt.datetime | None]:
    return [job.tick_at for job in made(session)]


# -- the job ---------------------------------------------------------------------------------------


def test_a_job_is_what_its_schedule_says(session: Session, schedules: Schedules) -> None:
    row = add(
        session, arguments={"a": [1, None]}, queue="slow", priority=3, max_attempts=2, timeout=MINUTE
    )  # fmt: skip
    assert schedules.tick(session, now=NOW) == 1
    (job,) = made(session)
    assert (job.task, job.arguments, job.queue, job.priority) == ("t", {"a": [1, None]}, "slow", 3)
    assert (job.max_attempts, job.timeout, job.state, job.run_at) == (2, MINUTE, "queued", NOW)
    assert (job.schedule_id, job.tick_at) == (row.id, NOW)
    assert (row.next_run_at, row.last_tick_at) == (NOW + 5 * MINUTE, NOW)


def test_what_it_does_not_say_the_task_does(session: Session, schedules: Schedules) -> None:
    add(session)
    schedules.tick(session, now=NOW)
    (job,) = made(session)
    assert (job.queue, job.priority, job.max_attempts, job.timeout) == ("mail", 7, None, None)


def test_before_its_time_nothing_happens(session: Session, schedules: Schedules) -> None:
    row = add(session)
    assert schedules.tick(session, now=NOW - dt.timedelta(microseconds=1)) == 0
    assert (made(session), row.next_run_at) == ([], NOW)
    assert schedules.next_times(session, now=NOW - SECOND).schedules == SECOND
    assert schedules.next_times(session, now=NOW + SECOND).schedules == -SECOND


@pytest.mark.parametrize("jitter", ["infinity", "178000000 years", "-1 day"])
def test_a_jitter_that_is_none_stops_no_other_schedule(
    session: Session, schedules: Schedules, jitter: str
) -> None:
    """From SQL: nothing has checked it."""
    for name in ("odd", "sound"):
        add(session, name)
    try:
        with session.begin_nested():
            session.execute(
                text("UPDATE sqla_jobs_schedules SET jitter = CAST(:jitter AS interval) WHERE name = 'odd'"),
                {"jitter": jitter},
            )
    except DataError:
        pytest.skip("this server has no such interval")
    assert schedules.tick(session, now=NOW) == 2
    assert ticks(session) == [NOW, NOW]
    assert all(NOW <= job.run_at <= NOW + dt.timedelta(days=36_525) for job in made(session))


def test_jitter_puts_off_the_run_but_not_the_tick(session: Session, schedules: Schedules) -> None:
    add(session, jitter=2 * MINUTE)
    schedules.tick(session, now=NOW)
    (job,) = made(session)
    assert (job.tick_at, job.run_at, job.state) == (NOW, NOW + MINUTE, "scheduled")
    schedules.tick(session, now=LATER)
    assert [(job.run_at, job.state) for job in made(session)][1:] == [(NOW + 16 * MINUTE, "queued")]


def test_a_tick_that_has_a_job_already_makes_no_other(session: Session, schedules: Schedules) -> None:
    """The second fence, should anything have set the schedule back."""
    row = add(session)
    schedules.tick(session, now=NOW)
    session.refresh(row)
    row.next_run_at = NOW
    session.flush()
    assert schedules.tick(session, now=NOW) == 1
    assert (ticks(session), row.next_run_at) == ([NOW], NOW + 5 * MINUTE)


def test_those_that_are_off_or_of_other_tasks_are_left_alone(session: Session, schedules: Schedules) -> None:
    off, strange = add(session, enabled=False), add(session, "strange", task="elsewhere.t")
    assert schedules.next_times(session, now=LATER).schedules is None
    assert schedules.tick(session, now=LATER) == 0
    assert (made(session), off.next_run_at, strange.next_run_at) == ([], NOW, NOW)


def test_several_at_once(session: Session, schedules: Schedules) -> None:
    for number in range(3):
        add(session, f"s{number}", next_run_at=NOW + number * SECOND)
    assert schedules.tick(session, now=NOW + SECOND) == 2
    assert ticks(session) == [NOW, NOW + SECOND]
    assert schedules.next_times(session, now=NOW + SECOND).schedules == SECOND


# -- missed runs -----------------------------------------------------------------------------------


def test_k24_missed_runs_become_one_and_the_next_is_after_now(session: Session, schedules: Schedules) -> None:
    row = add(session)
    schedules.tick(session, now=LATER)
    assert ticks(session) == [NOW + 15 * MINUTE]
    assert (row.next_run_at, row.last_tick_at) == (NOW + 20 * MINUTE, NOW + 15 * MINUTE)
    assert schedules.tick(session, now=LATER) == 0


def test_all_missed_runs(session: Session, schedules: Schedules) -> None:
    add(session, catch_up="all")
    schedules.tick(session, now=LATER)
    assert ticks(session) == [NOW + number * MINUTE for number in (0, 5, 10, 15)]
    assert {job.state for job in made(session)} == {"queued"}


def test_of_very_many_the_last_thousand_and_other_schedules_come_next(
    session: Session, schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    add(session, catch_up="all", every=SECOND)
    add(session, "other", next_run_at=NOW + SECOND)  # at the same moment either may come first
    with caplog.at_level(logging.WARNING, "sqla_jobs"):
        assert schedules.tick(session, now=NOW + HOUR) == 1, "a transaction of its own for so many jobs"
    assert "the last 1000 runs that were missed are made up for, and 2601 before them left out" in caplog.text
    found = ticks(session)
    assert (len(found), found[0], found[-1]) == (MOST, NOW + HOUR - (MOST - 1) * SECOND, NOW + HOUR)
    assert schedules.tick(session, now=NOW + HOUR) == 1
    assert len(made(session)) == MOST + 1


def test_no_missed_run(session: Session, schedules: Schedules, caplog: pytest.LogCaptureFixture) -> None:
    row = add(session, catch_up="none")
    with caplog.at_level(logging.INFO, "sqla_jobs"):
        schedules.tick(session, now=LATER)
    assert (made(session), row.next_run_at, row.last_tick_at) == ([], NOW + 20 * MINUTE, None)
    assert "schedule 's': 4 run(s)" in caplog.text
    schedules.tick(session, now=NOW + 20 * MINUTE + SECOND)
    assert ticks(session) == [NOW + 20 * MINUTE]


# -- overlap ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["scheduled", "queued", "running"])
def test_overlap_skip_waits_for_the_end_of_the_last_job(
    session: Session, schedules: Schedules, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    row = add(session, overlap="skip")
    schedules.tick(session, now=NOW)
    session.execute(text("UPDATE sqla_jobs SET state = :state"), {"state": state})
    with caplog.at_level(logging.INFO, "sqla_jobs"):
        assert schedules.tick(session, now=NOW + 5 * MINUTE) == 1
    assert "is left out, since a job of it is not finished" in caplog.text
    assert (ticks(session), row.next_run_at, row.last_tick_at) == ([NOW], NOW + 10 * MINUTE, NOW)
    told = len(caplog.records)
    with caplog.at_level(logging.INFO, "sqla_jobs"):
        schedules.tick(session, now=NOW + 10 * MINUTE)
        assert len(caplog.records) == told, "it is told once, not at each tick"
        session.execute(text("UPDATE sqla_jobs SET state = 'failed', finished_at = now()"))
        schedules.tick(session, now=NOW + 15 * MINUTE)
    assert ticks(session) == [NOW, NOW + 15 * MINUTE]
    assert "2 runs were left out until its job was finished" in caplog.text


def test_overlap_skip_sees_an_earlier_job_behind_one_that_was_run_by_hand(
    session: Session, schedules: Schedules
) -> None:
    row = add(session, overlap="skip")
    schedules.tick(session, now=NOW)
    made = lifecycle.run_schedule(session, Job, "s", now=NOW + MINUTE)
    assert made is not None
    session.execute(
        text("UPDATE sqla_jobs SET state = 'succeeded', finished_at = now() WHERE id = :id"), {"id": made[0]}
    )
    assert schedules.tick(session, now=LATER) == 1
    assert ticks(session) == [NOW, NOW + MINUTE], "the first is still queued"
    assert row.last_tick_at == NOW


def test_overlap_allow_does_not(session: Session, schedules: Schedules) -> None:
    add(session)
    schedules.tick(session, now=NOW)
    schedules.tick(session, now=NOW + 5 * MINUTE)
    assert ticks(session) == [NOW, NOW + 5 * MINUTE]


def test_overlap_is_of_one_schedule_only_and_of_missed_runs_there_is_one(
    session: Session, schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    add(session)
    add(session, "other", overlap="skip", catch_up="all")
    with caplog.at_level(logging.WARNING, "sqla_jobs"):
        schedules.tick(session, now=LATER)
    assert caplog.text == "", "that is what skip says"
    assert [job.schedule_id for job in made(session)] == sorted(job.schedule_id for job in made(session))
    assert ticks(session) == [NOW + 15 * MINUTE] * 2


# -- rows of raw SQL -------------------------------------------------------------------------------


def raw(session: Session, name: str, columns: str, values: str) -> None:
    session.execute(
        text(f"INSERT INTO sqla_jobs_schedules (name, task, {columns}) VALUES ('{name}', 't', {values})")
    )


def state_of(session: Session, name: str) -> Any:
    return session.execute(
        text("SELECT cron, every, next_run_at FROM sqla_jobs_schedules WHERE name = :name"), {"name": name}
    ).one()


def test_a_row_of_raw_sql_gets_its_next_time_from_the_first_who_looks(
    session: Session, schedules: Schedules
) -> None:
    raw(session, "cron", "cron", "'0 30 14 * * *'")
    raw(session, "every", "every", "'5 minutes'")
    assert schedules.next_times(session, now=NOW).schedules == dt.timedelta(0)
    assert schedules.tick(session, now=NOW) == 2
    assert made(session) == []
    assert state_of(session, "cron").next_run_at == NOW.replace(hour=14, minute=30)
    assert state_of(session, "every").next_run_at == NOW + 5 * MINUTE


@pytest.mark.parametrize(
    ("columns", "values", "repaired"),
    [
        ("cron", "'every tuesday'", "cron = '@daily'"),
        ("cron, timezone", "'@daily', 'Europe/Lutetia'", "timezone = 'Europe/Paris'"),
        ("every", "'1 millisecond'", "every = '1 minute'"),
        ("every", "'10000000 years'", "every = '1 minute'"),
    ],
)
def test_one_that_cannot_be_read_is_logged_once_and_does_not_stop_the_others(
    session: Session,
    schedules: Schedules,
    columns: str,
    values: str,
    repaired: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, at in (("new", "NULL"), ("due", "'2000-01-01Z'")):
        raw(session, name, f"{columns}, next_run_at", f"{values}, {at}")
    before = state_of(session, "due")
    add(session)
    assert schedules.tick(session, now=NOW) == 1
    assert ticks(session) == [NOW]
    assert schedules.tick(session, now=NOW) == 0
    assert schedules.next_times(session, now=NOW).schedules == 5 * MINUTE, "nobody would look all the time"
    assert state_of(session, "due") == before
    assert len([record for record in caplog.records if "cannot be read" in record.message]) <= 2
    session.execute(text(f"UPDATE sqla_jobs_schedules SET {repaired} WHERE name = 'new'"))
    assert schedules.tick(session, now=NOW) == 1
    assert state_of(session, "new").next_run_at > NOW


@pytest.mark.parametrize("moment", ["-infinity", "infinity"])
def test_an_infinite_time_is_due_at_once_or_never(
    session: Session, schedules: Schedules, moment: str
) -> None:
    raw(session, "s", "every, next_run_at", f"'5 minutes', '{moment}'")
    assert schedules.tick(session, now=NOW) == (1 if moment == "-infinity" else 0)
    wait = schedules.next_times(session, now=NOW).schedules
    assert wait is not None
    assert wait > dt.timedelta(0)


def test_a_job_that_the_table_refuses_does_not_stop_the_others(
    session: Session, schedules: Schedules, caplog: pytest.LogCaptureFixture
) -> None:
    bad = add(session, "bad", arguments={"forbidden": 1})
    add(session, "good")
    session.execute(text("ALTER TABLE sqla_jobs ADD CONSTRAINT no CHECK (NOT arguments ? 'forbidden')"))
    assert schedules.tick(session, now=NOW) == 1
    assert [job.arguments for job in made(session)] == [{}]
    assert "schedule 'bad': its job cannot be made; the next try is in 60 s" in caplog.text
    assert schedules.next_times(session, now=NOW).schedules == 5 * MINUTE
    session.execute(text("ALTER TABLE sqla_jobs DROP CONSTRAINT no"))
    assert Schedules(schedules._registry).tick(session, now=NOW) == 1
    assert bad.next_run_at == NOW + 5 * MINUTE


# -- the list --------------------------------------------------------------------------------------


def test_the_list_shows_the_last_job_and_who_knows_the_task(
    session: Session, jobs: Jobs[Job], schedules: Schedules
) -> None:
    add(session, "data")
    jobs.cron("0 30 2 * * *", timezone="Europe/Paris", name="code")(jobs.tasks["t"])
    jobs.sync_schedules(session, now=NOW)
    schedules.tick(session, now=NOW)
    code, data = lifecycle.list_schedules(session, Job)
    assert (code.name, data.name, code.data, data.data) == ("code", "data", False, True)
    assert (code.rule(), data.rule()) == (jobs.schedules["code"].rule, type(data.rule())(5 * MINUTE))
    (job,) = made(session)
    assert (data.job_id, data.job_state, data.last_tick_at) == (job.id, "queued", NOW)
    assert (code.job_id, code.job_state, code.last_tick_at) == (None, None, None)
    assert (code.orphaned, data.orphaned) == (True, True), "there is no worker"
    worker: dict[str, Any] = {"host": "h", "pid": 1, "version": "1", "queues": None, "threads": 1}
    lifecycle.register(session, Job, **worker, heartbeat_limit=MINUTE, tasks=["u"], schedules={})
    assert all(each.orphaned for each in lifecycle.list_schedules(session, Job))
    lifecycle.register(session, Job, **worker, heartbeat_limit=MINUTE, **jobs.known())
    assert not any(each.orphaned for each in lifecycle.list_schedules(session, Job))
