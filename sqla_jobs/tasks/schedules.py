"""Schedules in the code: what ``@jobs.every(…)`` and ``@jobs.cron(…)`` make of a task and their options."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final, Protocol, TypeVar

from sqla_jobs.cron import Rule
from sqla_jobs.errors import InvalidSchedule, TaskDefinitionError, shown
from sqla_jobs.lifecycle import Definition
from sqla_jobs.models import RESOLUTION, check_schedule, rule_of
from sqla_jobs.tasks.options import Options
from sqla_jobs.tasks.task import Task

TaskT = TypeVar("TaskT", bound=Task[..., Any, Any])

_OF_JOBS: Final = ("queue", "priority", "max_attempts", "timeout")


class Scheduled(Protocol):
    """What ``@jobs.every(…)`` gives: it schedules a task, and returns it as it is."""

    def __call__(self, task: TaskT, /) -> TaskT: ...


def interval(given: object) -> Rule | None:
    """The rule of an interval; None: it is zero, which switches the schedule off.

    Raises:
        InvalidSchedule: it is none, negative, or below `RESOLUTION`.
    """
    if not isinstance(given, dt.timedelta) or dt.timedelta(0) != given < RESOLUTION:
        raise InvalidSchedule(
            "interval",
            given,
            f"a timedelta of at least {RESOLUTION.total_seconds():g} second, or zero, which switches it off",
        )
    return rule_of(None, "UTC", given) if given else None


def definition(
    task: Task[..., Any, Any],
    rule: Rule | None,
    *,
    name: str | None = None,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Definition:
    """The definition of a schedule of a task, checked.

    Parameters:
        rule: None: it is switched off.
        name: None: the task's.
        kwargs: the arguments of its jobs, by the names of the task's parameters.
        options: of `Definition`; None: its default.

    Raises:
        InvalidSchedule, InvalidOption, InvalidQueueName: an option is out of its range.
        InvalidArguments, ArgumentsNotStorable: ``kwargs`` do not fit the task, or one is missing.
    """
    of_jobs = {key: options[key] for key in _OF_JOBS if options.get(key) is not None}
    Options().changed(of_jobs)
    name = task.name if name is None else name
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise InvalidSchedule(
            "kwargs", kwargs, "a dict, by the names of the task's parameters", schedule=name
        )
    arguments = task.signature.encode((), kwargs or {}, by_name=True)
    given = {key: value for key, value in options.items() if value is not None}
    made = Definition(
        name=name,
        task=task.name,
        rule=rule,
        package=package_of(task),
        arguments=arguments,
        **given,
    )
    if rule is None:
        # Checked like any other: whoever switches it on again shall find nothing wrong with the rest.
        check_schedule({**made.columns(), "name": name, "enabled": made.enabled, "every": RESOLUTION})
    else:
        check_schedule({**made.columns(), "name": name, "enabled": made.enabled})
    return made


def package_of(task: Task[..., Any, Any]) -> str:
    """The package that the task's function is in: whose schedules its own are."""
    module: str = getattr(task.function, "__module__", None) or ""
    return module.partition(".")[0]


def check_is_task(given: object, decorator: str, known: Mapping[str, Task[..., Any, Any]]) -> None:
    """Raise TaskDefinitionError if this is no task that is registered here."""
    if not isinstance(given, Task):
        raise TaskDefinitionError(
            f"@jobs.{decorator}(…) stands above {shown(given)}, which is no task; put @jobs.task between"
            f" them, below @jobs.{decorator}(…)"
        )
    if known.get(given.name) is not given:
        raise TaskDefinitionError(
            f"@jobs.{decorator}(…) stands above {given!r}, which is not registered here as it is; expected"
            f" what @jobs.task of the same Jobs made; options of its jobs: @jobs.{decorator}(…, queue='…')"
        )


def check_findable(task: str, schedule: str) -> None:
    """Raise TaskDefinitionError if a worker would not know the task of a schedule by this name."""
    if task.startswith("__main__."):
        raise TaskDefinitionError(
            f"schedule {schedule!r} is of task {task!r}, which is defined in the program that was started and"
            " which a worker imports by another name; give it one: @jobs.task(name='…')"
        )
