"""Schedules as data: rows that are added and edited through a Session, or by SQL."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import func, text
from sqlalchemy.orm import Session

from sqla_jobs import JobMixin, Jobs, Schedule
from sqla_jobs.errors import InvalidSchedule
from tests.support.ear import ear
from tests.support.server import Database
from tests.support.verbs import MINUTE, SECOND

HOUR = dt.timedelta(hours=1)


def add(session: Session, **values: Any) -> Schedule:
    row = Schedule(**({"name": "s", "task": "t"} | values))
    session.add(row)
    session.flush()
    return row


def clock(session: Session) -> dt.datetime:
    found = session.scalar(func.statement_timestamp())
    assert isinstance(found, dt.datetime)
    return found


def test_a_row_that_says_no_more_than_it_must(session: Session) -> None:
    before = clock(session)
    row = add(session, every=HOUR)
    assert before + HOUR <= row.next_run_at <= clock(session) + HOUR
    assert (row.enabled, row.catch_up, row.overlap, row.timezone) == (True, "one", "allow", "UTC")
    assert (row.definition, row.queue, row.arguments) == (None, None, {})


def test_the_next_time_of_a_line_is_in_its_zone(session: Session) -> None:
    row = add(session, cron="0 30 2 * * *", timezone="Asia/Tokyo")
    assert row.next_run_at.astimezone(dt.timezone.utc).time() == dt.time(17, 30)
    assert row.next_run_at > clock(session)


def test_a_next_time_that_is_given_is_kept(session: Session) -> None:
    at = clock(session) + 3 * SECOND
    assert add(session, every=HOUR, next_run_at=at).next_run_at == at


NAIVE = dt.datetime(2026, 1, 1)  # noqa: DTZ001
WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "cron or every is 'neither'; expected one of them"),
    ({"cron": "@daily", "every": HOUR}, "cron or every is"),
    ({"cron": "0 99 * * *"}, "hour is '99'"),
    ({"cron": "0 0 31 2 *"}, "one that fires"),
    ({"cron": "@daily", "timezone": "Europe/Lutetia"}, "timezone is 'Europe/Lutetia'"),
    ({"every": SECOND / 2}, "interval is datetime.timedelta.*at least 1 second"),
    ({"every": -HOUR}, "at least 1 second"),
    ({"every": 60}, "interval is 60"),
    ({"every": HOUR, "queue": "a b"}, "queue is 'a b'; expected None, or 1 to 63"),
    ({"every": HOUR, "priority": 10**6}, "priority is 1000000"),
    ({"every": HOUR, "priority": True}, "priority is True"),
    ({"every": HOUR, "max_attempts": 0}, "max_attempts is 0"),
    ({"every": HOUR, "timeout": 5}, "timeout is 5"),
    ({"every": HOUR, "jitter": -SECOND}, "jitter is"),
    ({"every": HOUR, "catch_up": "two"}, "catch_up is 'two'"),
    ({"every": HOUR, "overlap": "forbid"}, "overlap is 'forbid'"),
    ({"every": HOUR, "enabled": "yes"}, "enabled is 'yes'"),
    ({"every": HOUR, "arguments": [1]}, "arguments is"),
    ({"every": HOUR, "task": ""}, "task is ''"),
    ({"every": HOUR, "next_run_at": NAIVE}, "next_run_at is '2026-01-01T00:00:00'"),
]


@pytest.mark.parametrize(("values", "message"), WRONG, ids=[str(values) for values, _ in WRONG])
def test_a_flush_refuses_what_cannot_be_and_names_the_row(
    session: Session, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidSchedule, match=f"schedule 's': .*{message}"):
        add(session, **values)
    session.rollback()
    row = add(session, every=2 * HOUR)
    for name, value in values.items():
        setattr(row, name, value)
    if not values:
        row.every = None
    if "cron" in values and "every" not in values:
        row.every = None
    with pytest.raises(InvalidSchedule, match=f"schedule 's': .*{message}"):
        session.flush()


def test_a_row_without_a_name_says_so(session: Session) -> None:
    with pytest.raises(InvalidSchedule, match=r"^name is None; expected a text"):
        add(session, name=None, every=HOUR)


def test_another_rule_makes_another_next_time_and_any_other_edit_does_not(session: Session) -> None:
    row = add(session, every=HOUR)
    first, updated = row.next_run_at, row.updated_at
    row.queue, row.arguments, row.enabled = "slow", {"a": 1}, False
    session.flush()
    assert row.next_run_at == first
    assert row.updated_at > updated
    row.every = 2 * HOUR
    session.flush()
    assert row.next_run_at > first
    row.every, row.cron, row.timezone = None, "0 30 2 * * *", "Asia/Tokyo"
    session.flush()
    assert row.next_run_at.astimezone(dt.timezone.utc).time() == dt.time(17, 30)
    row.timezone = "UTC"
    session.flush()
    assert row.next_run_at.astimezone(dt.timezone.utc).time() == dt.time(2, 30)
    row.cron, row.next_run_at = "@yearly", first
    session.flush()
    assert row.next_run_at == first, "both were said"


def test_what_was_due_while_it_was_switched_off_was_not_missed(session: Session) -> None:
    row = add(session, every=HOUR, enabled=False, next_run_at=clock(session) - 5 * HOUR)
    row.enabled = True
    session.flush()
    assert row.next_run_at > clock(session) + 59 * MINUTE
    later = row.next_run_at
    row.enabled = False
    session.flush()
    row.enabled = True
    session.flush()
    assert row.next_run_at == later, "nothing was due"


def test_expired_attributes_are_looked_up_when_an_edit_is_checked(session: Session) -> None:
    row = add(session, cron="@daily")
    session.expire(row)
    row.timezone = "Asia/Tokyo"
    session.flush()
    assert row.next_run_at.astimezone(dt.timezone.utc).time() == dt.time(15)


def test_an_expression_is_the_server_s_to_check(session: Session) -> None:
    row = add(session, every=func.make_interval(0, 0, 0, 0, 2), queue=text("'slow'"))
    assert (row.every, row.queue, row.next_run_at) == (2 * HOUR, "slow", None)


def test_workers_are_told_of_a_row_that_is_added_or_edited(database: Database) -> None:
    with ear(database) as listening:
        with database.sessionmaker.begin() as session:
            add(session, every=HOUR)
            add(session, name="another", every=HOUR)
        assert listening.heard() == ["scheduled"]
        with database.sessionmaker.begin() as session:
            session.query(Schedule).filter_by(name="s").one().every = 2 * HOUR
        assert listening.heard() == ["scheduled"]


def test_of_another_schema(empty_database: Database) -> None:
    from sqlalchemy.orm import DeclarativeBase

    class Base(DeclarativeBase):
        pass

    class PrintJob(JobMixin, Base):
        __table_args__ = {"schema": "printing"}

    jobs = Jobs(PrintJob)
    jobs.create_all(empty_database.engine)
    with empty_database.sessionmaker.begin() as session:
        with pytest.raises(InvalidSchedule, match="schedule 's'"), session.begin_nested():
            session.add(jobs.Schedule(name="s", task="t", cron="x"))
            session.flush()
        row = jobs.Schedule(name="s", task="t", every=HOUR)
        session.add(row)
        session.flush()
        assert row.next_run_at is not None
        jobs.every(HOUR)(jobs.task(name="report")(lambda session: None))
        assert "report" in jobs.sync_schedules(session).added
    assert (
        empty_database.scalar("SELECT count(*) FROM printing.sqla_jobs_schedules WHERE name = 'report'") == 1
    )
