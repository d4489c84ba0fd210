"""What a flush checks of a schedule that is made or edited as data, and the times that it fills in."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

from sqlalchemy import ClauseElement, Connection, event, func, inspect, select
from sqlalchemy.orm import Mapper

from sqla_jobs.cron import Cron, Every, Rule
from sqla_jobs.errors import InvalidSchedule
from sqla_jobs.models.beside import ScheduleMixin
from sqla_jobs.models.terms import QUEUE_PATTERN

RESOLUTION: Final = dt.timedelta(seconds=1)
"""The shortest interval: workers keep time to within some milliseconds, and a job takes a few."""

CATCH_UP: Final = ("one", "all", "none")
OVERLAP: Final = ("allow", "skip")

_LONGEST: Final = dt.timedelta(days=36_525)
_SMALLINT: Final = range(-32_768, 32_768)
_RULE: Final = ("cron", "timezone", "every")

_DEFAULTS: Final = {
    "timezone": "UTC",
    "catch_up": "one",
    "overlap": "allow",
    "enabled": True,
    "arguments": {},
}
"""What the table fills in for a column that is left out."""


def rule_of(cron: str | None, timezone: str, every: dt.timedelta | None) -> Rule:
    """The rule that the columns of a schedule say.

    Raises:
        InvalidSchedule: they say none, or two, or the interval is below `RESOLUTION`.
    """
    if (cron is None) == (every is None):
        found = "neither" if cron is None else f"{cron!r} and {every}"
        raise InvalidSchedule("cron or every", found, "one of them: a cron line, or an interval")
    if cron is not None:
        return Cron(cron, timezone)
    if not isinstance(every, dt.timedelta) or every < RESOLUTION:
        raise InvalidSchedule(
            "interval", every, f"a timedelta of at least {RESOLUTION.total_seconds():g} second"
        )
    return Every(every)


def check_schedule(values: Mapping[str, Any]) -> Rule | None:
    """Check the columns of a schedule; returns its rule (None: an SQL expression, which says none yet).

    Parameters:
        values: by column; one that is missing or None is what the table makes of it.

    Raises:
        InvalidSchedule: with the name of the schedule, what was found, and what was expected.
    """
    values = _DEFAULTS | {key: value for key, value in values.items() if value is not None}
    name = values.get("name")
    for key, (fits, expected) in _CHECKS.items():
        value = values.get(key)
        if not isinstance(value, ClauseElement) and not fits(value):
            raise InvalidSchedule(key, value, expected, schedule=name if isinstance(name, str) else None)
    rule: tuple[Any, ...] = tuple(values.get(key) for key in _RULE)
    if any(isinstance(value, ClauseElement) for value in rule):
        return None
    try:
        return rule_of(*rule)
    except InvalidSchedule as error:
        raise error.of(str(name)) from error.__cause__


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\x00" not in value


def _number(allowed: range) -> Callable[[Any], bool]:
    return lambda value: value is None or (type(value) is int and value in allowed)


def _span(shortest: dt.timedelta) -> Callable[[Any], bool]:
    return lambda value: value is None or (isinstance(value, dt.timedelta) and shortest <= value <= _LONGEST)


def _one_of(allowed: tuple[str, ...]) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: value in allowed), " or ".join(repr(each) for each in allowed)


_CHECKS: Final[dict[str, tuple[Callable[[Any], bool], str]]] = {
    "name": (_is_text, "a text that is not empty"),
    "task": (_is_text, "the name of a task, such as 'shop.jobs.report'"),
    "arguments": (lambda value: isinstance(value, dict), "a dict, by the names of the task's parameters"),
    "queue": (
        lambda value: value is None or (isinstance(value, str) and bool(re.fullmatch(QUEUE_PATTERN, value))),
        "None, or 1 to 63 out of A-Z, a-z, 0-9, '_', '-' and '.'",
    ),
    "priority": (_number(_SMALLINT), "None, or a whole number from -32768 to 32767"),
    "max_attempts": (_number(range(1, 2**31)), "None, or a whole number from 1"),
    "timeout": (_span(dt.timedelta(microseconds=1)), "None, or a timedelta above zero"),
    "jitter": (_span(dt.timedelta(0)), "None, or a timedelta that is not below zero"),
    "catch_up": _one_of(CATCH_UP),
    "overlap": _one_of(OVERLAP),
    "enabled": (lambda value: isinstance(value, bool), "True or False"),
}


# -- at a flush ------------------------------------------------------------------------------------


@event.listens_for(ScheduleMixin, "before_insert", propagate=True)
def _before_insert(_: Mapper[Any], connection: Connection, row: ScheduleMixin) -> None:
    rule = _checked(row)
    if rule is not None and row.next_run_at is None:
        row.next_run_at = rule.next(_clock(connection))


@event.listens_for(ScheduleMixin, "before_update", propagate=True)
def _before_update(_: Mapper[Any], connection: Connection, row: ScheduleMixin) -> None:
    edited = {each.key for each in inspect(row).attrs if each.history.has_changes()}
    if not edited:
        return  # in the Session's list of dirty objects, but nothing is sent
    rule = _checked(row)
    now = row.updated_at = _clock(connection)
    if rule is None or "next_run_at" in edited:
        return
    next_run_at = row.next_run_at
    # What was due while it was switched off was not missed.
    again = "enabled" in edited and row.enabled is True and next_run_at is not None and next_run_at <= now
    if again or next_run_at is None or not edited.isdisjoint(_RULE):
        row.next_run_at = rule.next(now)


def _checked(row: ScheduleMixin) -> Rule | None:
    moment = row.next_run_at
    if isinstance(moment, dt.datetime) and moment.tzinfo is None:
        raise InvalidSchedule(
            "next_run_at", moment.isoformat(), "a datetime with a time zone", schedule=str(row.name)
        )
    return check_schedule({key: getattr(row, key) for key in (*_CHECKS, *_RULE)})


def _clock(connection: Connection) -> dt.datetime:
    now = connection.scalar(select(func.statement_timestamp()))
    assert isinstance(now, dt.datetime)
    return now
