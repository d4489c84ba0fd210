"""The options of a worker, checked."""

from __future__ import annotations

import datetime as dt
from typing import Final

from sqla_jobs.errors import InvalidOption

_LONGEST: Final = dt.timedelta(days=1)


def interval(name: str, value: object) -> float:
    """A time above zero and of at most a day, in seconds; else InvalidOption."""
    if not isinstance(value, dt.timedelta) or not dt.timedelta(0) < value <= _LONGEST:
        raise InvalidOption(f"{name} is {value!r}; expected a timedelta above zero and of at most a day")
    return value.total_seconds()


def grace_period(value: object) -> float:
    """A time of zero to a day, in seconds; else InvalidOption."""
    if not isinstance(value, dt.timedelta) or not dt.timedelta(0) <= value <= _LONGEST:
        raise InvalidOption(f"grace is {value!r}; expected a timedelta of zero to a day")
    return value.total_seconds()


def check_number(name: str, value: object) -> None:
    """Raise InvalidOption if this is no whole number from 1 up."""
    if type(value) is not int or value < 1:
        raise InvalidOption(f"{name} is {value!r}; expected a whole number from 1 up")


def check_limit(limit: object, interval: dt.timedelta) -> None:
    """Raise InvalidOption if one late heartbeat would cost a living worker its jobs."""
    if not isinstance(limit, dt.timedelta) or limit < 2 * interval:
        raise InvalidOption(
            f"heartbeat_limit is {limit!r}; expected at least twice the heartbeat_interval ({interval}), "
            "or one late heartbeat costs a living worker its jobs"
        )


def check_hook(name: str, hook: object) -> None:
    """Raise InvalidOption if this can be no hook."""
    if hook is not None and not callable(hook):
        raise InvalidOption(f"{name} is {hook!r}; expected a function of the worker and a Finished")
