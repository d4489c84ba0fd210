"""Schedules in the code: what is refused at the definition, and what `sync_schedules` makes of the rest."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, Schedule
from sqla_jobs.errors import (
    InvalidArguments,
    InvalidOption,
    InvalidQueueName,
    InvalidSchedule,
    TaskDefinitionError,
)
from sqla_jobs.lifecycle import Synced
from tests.support.verbs import MINUTE, NOW, SECOND

PRUNE = "sqla_jobs.prune"
"""The library's own, which every application has."""
HOUR = dt.timedelta(hours=1)
ZERO = dt.timedelta(0)


def application(**options: Any) -> Jobs[Any]:
    """One task, ``report``, with one schedule."""
    jobs = Jobs()
    rule = options.pop("rule", jobs.every(options.pop("every", HOUR), **options))

    @rule
    @jobs.task(name="report")
    def report(session: Session, kind: str = "short") -> None: ...

    return jobs


def by_cron(line: str, timezone: str = "UTC", **options: Any) -> Jobs[Any]:
    jobs = Jobs()
    jobs.cron(line, timezone=timezone, name="report", **options)(
        jobs.task(name="report")(lambda session, kind="short": None)
    )
    return jobs


def row(session: Session, name: str = "report") -> Schedule:
    session.expire_all()
    return session.query(Schedule).filter_by(name=name).one()


def names(session: Session) -> list[str]:
    return [name for (name,) in session.query(Schedule.name).order_by(Schedule.name) if name != PRUNE]


def defined(jobs: Jobs[Any]) -> list[str]:
    return sorted(set(jobs.schedules) - {PRUNE})


# -- at the definition -----------------------------------------------------------------------------


def test_the_task_stays_as_it_is_and_may_have_several_schedules() -> None:
    jobs = Jobs()

    @jobs.every(HOUR, kwargs={"kind": "short"})
    @jobs.cron("0 30 2 * * *", timezone="Europe/Paris", name="nightly", kwargs={"kind": "long"})
    @jobs.task(queue="reports")
    def report(session: Session, kind: str) -> str:
        return kind

    assert report.name in jobs.tasks
    assert report(None, "now") == "now"
    assert defined(jobs) == ["nightly", report.name]
    assert jobs.schedules["nightly"].arguments == {"kind": "long"}
    assert {jobs.schedules[name].task for name in defined(jobs)} == {report.name}
    jobs.unregister(report)
    assert defined(jobs) == []


@pytest.mark.parametrize("decorator", ["every", "cron"])
def test_above_a_plain_function_it_says_what_is_missing(decorator: str) -> None:
    jobs = Jobs()
    rule = jobs.every(HOUR) if decorator == "every" else jobs.cron("@daily")
    with pytest.raises(TaskDefinitionError, match=rf"put @jobs\.task between them, below @jobs\.{decorator}"):
        rule(lambda session: None)  # type: ignore[type-var]


def test_a_task_of_another_registry_or_with_other_options_is_refused() -> None:
    jobs, others = Jobs(), Jobs()
    task = jobs.task(name="t")(lambda session: None)
    with pytest.raises(TaskDefinitionError, match="not registered here"):
        others.every(HOUR)(task)
    with pytest.raises(TaskDefinitionError, match=r"@jobs\.every\(…, queue='…'\)"):
        jobs.every(HOUR)(task.using(queue="slow"))


def test_a_second_schedule_of_the_same_name_is_refused() -> None:
    jobs = application()
    with pytest.raises(InvalidSchedule, match=r"'report'.*name of its own: @jobs\.cron\(…, name='…'\)"):
        jobs.cron("@daily")(jobs.tasks["report"])
    assert defined(jobs) == ["report"]


@pytest.mark.parametrize(
    ("kwargs", "error"),
    [
        (None, "missing argument 'kind'"),
        ({}, "missing argument 'kind'"),
        ({"kind": 5}, "kind"),
        ({"kind": "short", "knd": "x"}, "unexpected argument 'knd'"),
    ],
)
def test_k03_arguments_are_checked_at_the_definition(kwargs: dict[str, Any] | None, error: str) -> None:
    """The recurring half: a required argument that nobody would give is refused; or one that does not fit."""
    jobs = Jobs()

    @jobs.task
    def report(session: Session, kind: str) -> None: ...

    with pytest.raises(InvalidArguments, match=error):
        jobs.every(HOUR, kwargs=kwargs)(report)
    assert defined(jobs) == []


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"queue": "a b"}, InvalidQueueName, "a b"),
        ({"priority": 2**15}, InvalidOption, "priority 32768"),
        ({"max_attempts": 0}, InvalidOption, "max_attempts 0"),
        ({"timeout": ZERO}, InvalidOption, "timeout"),
        ({"jitter": -SECOND}, InvalidSchedule, "schedule 'report': jitter is"),
        ({"jitter": 5}, InvalidSchedule, "jitter is 5; expected None, or a timedelta"),
        ({"catch_up": "two"}, InvalidSchedule, "catch_up is 'two'; expected 'one' or 'all' or 'none'"),
        ({"overlap": "forbid"}, InvalidSchedule, "expected 'allow' or 'skip'"),
        ({"enabled": 1}, InvalidSchedule, "enabled is 1"),
        ({"name": " "}, InvalidSchedule, "name is ' '; expected a text"),
        ({"kwargs": ["short"]}, InvalidSchedule, "kwargs is"),
        ({"every": ZERO, "catch_up": "two"}, InvalidSchedule, "catch_up"),
    ],
)
def test_an_option_out_of_its_range_is_refused_at_the_definition(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        application(**options)


def test_a_bad_line_or_zone_is_refused_before_there_is_a_task() -> None:
    jobs = Jobs()
    with pytest.raises(InvalidSchedule, match="hour"):
        jobs.cron("0 99 * * *")
    with pytest.raises(InvalidSchedule, match="timezone"):
        jobs.cron("@daily", timezone="Europe/Lutetia")


# -- K18 -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [-SECOND, SECOND / 2, 60, "1 min", None])
def test_k18_an_interval_is_refused_that_is_negative_too_short_or_none(every: Any) -> None:
    """Improved: what is below the resolution, one second, is refused rather than silently made longer."""
    with pytest.raises(InvalidSchedule, match=r"at least 1 second, or zero, which switches it off"):
        Jobs().every(every)


def test_k18_the_first_run_is_one_interval_from_now(session: Session) -> None:
    application(every=7 * MINUTE).sync_schedules(session, now=NOW)
    assert row(session).next_run_at == NOW + 7 * MINUTE


def test_k18_zero_removes_the_row(session: Session) -> None:
    application().sync_schedules(session, now=NOW)
    assert names(session) == ["report"]
    off = application(every=ZERO)
    assert off.sync_schedules(session, now=NOW) == Synced(removed=("report",))
    assert names(session) == []
    assert off.sync_schedules(session, now=NOW) == Synced(), "nothing is there to remove"


# -- K19 -------------------------------------------------------------------------------------------


def test_k19_the_same_definition_changes_nothing(session: Session) -> None:
    application().sync_schedules(session, now=NOW)
    before = dict(vars(row(session)))
    assert application().sync_schedules(session, now=NOW + 5 * MINUTE) == Synced()
    assert {**vars(row(session)), "_sa_instance_state": None} == {**before, "_sa_instance_state": None}


@pytest.mark.parametrize(
    ("first", "then", "next_run_at"),
    [
        (application(), application(every=2 * HOUR), NOW + MINUTE + 2 * HOUR),
        (by_cron("0 0 3 * * *"), by_cron("0 0 4 * * *"), NOW.replace(hour=4) + dt.timedelta(days=1)),
        (
            by_cron("0 0 3 * * *"),
            by_cron("0 0 3 * * *", "Asia/Tokyo"),
            NOW.replace(hour=18),
        ),
        (application(), by_cron("0 0 13 * * *"), NOW.replace(hour=13)),
        (by_cron("0 0 13 * * *"), application(), NOW + MINUTE + HOUR),
    ],
    ids=["interval", "line", "zone", "interval to cron", "cron to interval"],
)
def test_k19_another_rule_makes_another_next_time(
    session: Session, first: Jobs[Any], then: Jobs[Any], next_run_at: dt.datetime
) -> None:
    first.sync_schedules(session, now=NOW)
    number = row(session).id
    assert then.sync_schedules(session, now=NOW + MINUTE) == Synced(changed=("report",))
    now = row(session)
    assert (now.id, now.next_run_at) == (number, next_run_at)
    assert (now.cron is None) != (now.every is None), "the other one is null"
    assert now.timezone == then.schedules["report"].columns()["timezone"]


@pytest.mark.parametrize(
    "options",
    [
        {"kwargs": {"kind": "long"}},
        {"queue": "slow"},
        {"priority": 5},
        {"max_attempts": 2},
        {"timeout": 0.5 * SECOND},
        {"jitter": MINUTE},
        {"catch_up": "all"},
        {"overlap": "skip"},
        {"enabled": False},
    ],
    ids=lambda options: next(iter(options)),
)
def test_k19_any_other_change_keeps_the_next_time(session: Session, options: dict[str, Any]) -> None:
    application().sync_schedules(session, now=NOW)
    changed = application(**options)
    assert changed.sync_schedules(session, now=NOW + MINUTE) == Synced(changed=("report",))
    now = row(session)
    ((name, value),) = options.items()
    assert getattr(now, "arguments" if name == "kwargs" else name) == value
    assert now.next_run_at == NOW + HOUR
    assert changed.sync_schedules(session, now=NOW + MINUTE) == Synced(), "what was written is what was meant"


def test_k19_a_new_one_is_added_beside_the_others(session: Session) -> None:
    jobs = application()
    jobs.sync_schedules(session, now=NOW)
    jobs.cron("@daily", name="daily")(jobs.tasks["report"])
    assert jobs.sync_schedules(session, now=NOW) == Synced(added=("daily",))
    assert row(session, "daily").next_run_at == NOW.replace(hour=0) + dt.timedelta(days=1)


def test_a_task_of_the_program_that_was_started_is_refused(session: Session) -> None:
    jobs = Jobs()
    jobs.every(HOUR)(jobs.task(name="__main__.report")(lambda session: None))
    with pytest.raises(TaskDefinitionError, match=r"@jobs\.task\(name='…'\)"):
        jobs.sync_schedules(session)
    with pytest.raises(InvalidOption, match="expected a Session"):
        jobs.sync_schedules(session.connection())  # type: ignore[arg-type]
