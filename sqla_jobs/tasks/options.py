"""How a job is enqueued."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, TypeAlias, get_args

from sqla_jobs import statements
from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.models import DEFAULT_QUEUE, check_queue
from sqla_jobs.outcome import JobState
from sqla_jobs.tasks.unique import Unique, split

_SMALLINT: Final = range(-32_768, 32_768)
_MOST_ATTEMPTS: Final = 2**31 - 1
GROUP_SIZES: Final = range(1, 201)
"""How many jobs may share a transaction."""
GROUP_TIMEOUT: Final = dt.timedelta(seconds=1)
"""How long a run may take that others wait for."""
_LONGEST_DELAY: Final = dt.timedelta(days=36_525)
# Nearer to the ends of Python's calendar a time may be in another year, and so no datetime, in the time zone
# of whoever reads the row.
_YEARS: Final = range(2, 9999)

Missing: TypeAlias = Literal["cancel", "fail"]
"""What becomes of a job whose mapped objects are gone: it is cancelled, or the attempt has failed."""


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final[Any] = _Unset()
"""The default of an option that is left as it is."""


def check_queues(names: Sequence[str] | None) -> list[str] | None:
    """A list of queues to work on, checked; None: any queue, as for an empty one.

    Raises:
        InvalidOption: a text, whose characters would be taken for names.
        InvalidQueueName: one of them is none.
    """
    if isinstance(names, str):
        raise InvalidOption(f"queues is the text {shown(names)}; expected a list of names: [{shown(names)}]")
    return [check_queue(name) for name in names] if names else None


@dataclass(frozen=True)
class Options:
    """How a job is enqueued; checked when it is made.

    Parameters:
        queue: 1 to 63 letters, digits, ``_ - .``; None: ``default``.
        priority: -32768 to 32767; higher runs first.
        max_attempts: None: the retry policy's.
        delay: from the moment of the enqueue, by the database's clock; zero to 100 years.
        run_at: the earliest time to run, with a time zone; not together with ``delay``.
        timeout: how long a run may take, above zero and at most 100 years; None: as the task says.
        unique: which jobs are taken for the same one.

    Raises:
        InvalidOption, InvalidQueueName: with what was found and what was expected.
    """

    queue: str | None = DEFAULT_QUEUE
    priority: int = 0
    max_attempts: int | None = None
    delay: dt.timedelta | None = None
    run_at: dt.datetime | None = None
    timeout: dt.timedelta | None = None
    unique: Unique = field(default_factory=Unique)

    def __post_init__(self) -> None:
        if self.queue is None:
            object.__setattr__(self, "queue", DEFAULT_QUEUE)
        check_queue(self.queue)
        _check_number("priority", self.priority, _SMALLINT)
        if self.max_attempts is not None:
            _check_number("max_attempts", self.max_attempts, range(1, _MOST_ATTEMPTS + 1))
        if self.delay is not None:
            _check_delay(self.delay)
        if self.run_at is not None:
            _check_run_at(self.run_at)
        check_timeout(self.timeout)
        if self.delay is not None and self.run_at is not None:
            raise InvalidOption(
                f"delay {self.delay} and run_at {self.run_at.isoformat()} are both given; expected one"
            )

    def changed(self, changes: Mapping[str, Any]) -> Options:
        """A copy with these options; a new ``delay`` replaces a ``run_at`` and the other way round."""
        known = {name: value for name, value in changes.items() if value is not UNSET}
        if "delay" in known and "run_at" not in known:
            known["run_at"] = None
        elif "run_at" in known and "delay" not in known:
            known["delay"] = None
        keys, others = split(known)
        unique = self.unique.changed(keys) if keys else self.unique
        return replace(self, **others, unique=unique)

    def columns(self) -> dict[str, Any]:
        """The values for the job's row that follow from these options."""
        values: dict[str, Any] = {"queue": self.queue, "priority": self.priority}
        if self.max_attempts is not None:
            values["max_attempts"] = self.max_attempts
        if self.timeout is not None:
            values["timeout"] = self.timeout
        if self.run_at is not None:
            values |= {"state": JobState.SCHEDULED.value, "run_at": self.run_at}
        elif self.delay:
            values |= {"state": JobState.SCHEDULED.value, "run_at": statements.after(self.delay)}
        else:
            values["state"] = JobState.QUEUED.value
        return values


def _check_number(name: str, value: object, allowed: range) -> None:
    if type(value) is not int or value not in allowed:  # a bool is no number here
        raise InvalidOption(
            f"{name} {shown(value)}; expected a whole number from {allowed.start} to {allowed.stop - 1}"
        )


def check_timeout(timeout: object) -> None:
    """Raise InvalidOption if this is no time that a job may take; None: any."""
    if timeout is None:
        return
    if not isinstance(timeout, dt.timedelta):
        raise InvalidOption(f"timeout {shown(timeout)}; expected a timedelta, e.g. timedelta(seconds=30)")
    if not dt.timedelta(0) < timeout <= _LONGEST_DELAY:
        raise InvalidOption(f"timeout {timeout}; expected above zero and at most {_LONGEST_DELAY.days} days")


def check_missing(on_missing: object) -> None:
    """Raise InvalidOption if it says nothing of what becomes of a job whose mapped objects are gone."""
    if on_missing not in get_args(Missing):
        raise InvalidOption(f"on_missing {shown(on_missing)}; expected 'cancel' or 'fail'")


def check_group(size: object) -> None:
    """Raise InvalidOption if so many jobs cannot share a transaction; None: each has its own."""
    if size is not None:
        _check_number("group_commit", size, GROUP_SIZES)


def check_retention(retention: object) -> None:
    """Raise InvalidOption if it is neither zero nor None."""
    if retention is not None and retention != dt.timedelta(0):
        raise InvalidOption(
            f"retention {shown(retention)}; expected timedelta(0), to delete a job when it has succeeded, or "
            "None, to keep it"
        )


def check_result(result: object, retention: dt.timedelta | None) -> None:
    """Raise InvalidOption if it is no bool, or the result would be kept in a row that is deleted."""
    if type(result) is not bool:
        raise InvalidOption(f"result {shown(result)}; expected True, to keep what the task returns, or False")
    if result and retention is not None:
        raise InvalidOption(
            "result=True and retention=timedelta(0) are both given; expected one: the row that would hold the"
            " result is deleted when the job has succeeded"
        )


def _check_delay(delay: object) -> None:
    if not isinstance(delay, dt.timedelta):
        raise InvalidOption(f"delay {shown(delay)}; expected a timedelta, e.g. timedelta(minutes=5)")
    if not dt.timedelta(0) <= delay <= _LONGEST_DELAY:
        raise InvalidOption(
            f"delay {delay}; expected zero to {_LONGEST_DELAY.days} days; for a time that may be past: run_at"
        )


def _check_run_at(run_at: object) -> None:
    if not isinstance(run_at, dt.datetime):
        raise InvalidOption(
            f"run_at {shown(run_at)}; expected a datetime with a time zone, or delay=timedelta(…)"
        )
    if run_at.utcoffset() is None:
        raise InvalidOption(
            f"run_at {run_at.isoformat()} has no time zone; "
            "expected an aware datetime, e.g. datetime(…, tzinfo=timezone.utc)"
        )
    if run_at.year not in _YEARS:
        raise InvalidOption(
            f"run_at {run_at.isoformat()}; expected a year from {_YEARS.start} to {_YEARS.stop - 1}"
        )
