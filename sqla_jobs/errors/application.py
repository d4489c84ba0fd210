"""What is wrong with the application: its definitions, its configuration, its tables."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from sqla_jobs.errors.root import JobsError, shown


class DefinitionError(JobsError):
    """A mistake in the application's code, raised where the code says it."""


class TaskDefinitionError(DefinitionError):
    """A function that cannot be a task: no Session parameter, `*args`, a type that cannot be stored, ..."""


class TaskAlreadyRegistered(DefinitionError):
    """Two tasks of one name: a worker could not tell which of them a job means.

    Attributes:
        name: the name that is taken.
    """

    def __init__(self, name: str, by: str = "") -> None:
        super().__init__(
            f"a task named {name!r} is already registered{f' by {by}' if by else ''}:"
            ' rename the function, or give one of them a name of its own, @jobs.task(name="...")'
        )
        self.name = name


class InvalidOption(DefinitionError, ValueError):
    """An option out of its range: queue, priority, delay, attempts, a cron line, ...

    Raised at the definition or in `using()`, not when the job runs.
    """


class InvalidQueueName(InvalidOption):
    """A queue's name that is empty, too long or has other characters than letters, digits, `_ - .`."""


class InvalidFilter(InvalidOption):
    """A filter of jobs that cannot be: an unknown state, an age that is none, a part that does not exist.

    Attributes:
        field: what is wrong: `state`, `older_than`, `cursor`, ...
        found: what is there.
        expected: what could stand there.
    """

    def __init__(self, field: str, found: object, expected: str) -> None:
        super().__init__(f"{field} is {shown(found)}; expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected


class InvalidSchedule(InvalidOption):
    """A cron line, a time zone or an interval that says no time.

    Attributes:
        field: what is wrong: `minute`, `day of week`, `cron line`, `timezone`, `interval`, ...
        found: what is there.
        expected: what could stand there.
        line: the cron line, or None if that is not what is wrong.
        schedule: the name of the schedule, if it has one already.
    """

    def __init__(
        self,
        field: str,
        found: object,
        expected: str,
        line: str | None = None,
        schedule: str | None = None,
    ) -> None:
        whose = "" if schedule is None else f"schedule {shown(schedule)}: "
        of = "" if line is None else f"cron line {shown(line)}: "
        super().__init__(f"{whose}{of}{field} is {shown(found)}; expected {expected}")
        self.field = field
        self.found = found
        self.expected = expected
        self.line = line
        self.schedule = schedule

    def of(self, schedule: str) -> InvalidSchedule:
        """The same error, said of a schedule of this name."""
        return InvalidSchedule(self.field, self.found, self.expected, self.line, schedule)


class UnknownTask(JobsError, LookupError):
    """No task of this name is registered here.

    Attributes:
        name: the name that was looked for.
        known: the names that are registered.
    """

    def __init__(self, name: str, known: Iterable[str] = ()) -> None:
        self.name = name
        self.known = tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.8)
        tail = name.rpartition(".")[2]
        near += [other for other in self.known if other.rpartition(".")[2] == tail and other not in near][:3]
        if near:
            hint = f"did you mean {' or '.join(map(repr, near))}?"
        elif self.known:
            hint = f"{len(self.known)} other tasks are."
        else:
            hint = "no task is."
        super().__init__(
            f"no task named {name!r} is registered; {hint} Is its module imported by the worker?"
        )


class SchemaError(JobsError):
    """The job tables or their version marker are missing, or of an older or newer revision than this code."""


class ConfigurationError(JobsError):
    """Something that only the caller can say was not said: no database URL, no such module, ..."""
