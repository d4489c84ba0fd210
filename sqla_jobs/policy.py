"""RetryPolicy: (attempt, error) -> the delay until the next attempt, or None to give up. Pure."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass

from sqla_jobs.errors import InvalidOption, WorkerDied

_LONGEST = dt.timedelta(days=36_525)
"""A hundred years; far beyond, a row could not hold the time."""


@dataclass(frozen=True)
class RetryPolicy:
    """When a failed attempt is followed by another.

    After attempt ``n`` the delay is uniform in ``[base * 2**(n-1), 2 * base * 2**(n-1))``, at most
    ``cap``: exponential backoff with jitter, as Backtick has it.

    Parameters:
        max_attempts: attempts in all, the first included; 1: never retried.
        base: the shortest delay after the first attempt.
        cap: the longest delay after any attempt.
        retry_on: only errors of these classes are retried.
        give_up_on: errors of these classes are never retried; wins over ``retry_on``.
        max_crashes: how often its worker may die while it runs; a job that kills its process is
            failed then, whatever attempts are left.

    ``retry_on`` and ``give_up_on`` speak of what the task raises; an attempt that ended because its
    worker died is retried as long as attempts are left and ``max_crashes`` is not reached.

    Raises:
        InvalidOption: an option is out of its range.
    """

    max_attempts: int = 16
    base: dt.timedelta = dt.timedelta(seconds=10)
    cap: dt.timedelta = dt.timedelta(days=1)
    retry_on: tuple[type[BaseException], ...] = (BaseException,)
    give_up_on: tuple[type[BaseException], ...] = ()
    max_crashes: int = 3

    def __post_init__(self) -> None:
        for name in ("max_attempts", "max_crashes"):
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise InvalidOption(f"{name} is {number!r}; expected a whole number from 1 up")
        for name in ("base", "cap"):
            value = getattr(self, name)
            if not isinstance(value, dt.timedelta) or not dt.timedelta(0) <= value <= _LONGEST:
                raise InvalidOption(
                    f"{name} is {value!r}; expected a timedelta of zero to {_LONGEST.days} days"
                )
        for name in ("retry_on", "give_up_on"):
            value = getattr(self, name)
            classes = tuple(value) if isinstance(value, (tuple, list, set, frozenset)) else (value,)
            if not all(isinstance(item, type) and issubclass(item, BaseException) for item in classes):
                raise InvalidOption(f"{name} is {value!r}; expected exception classes")
            object.__setattr__(self, name, classes)

    def delay(
        self,
        attempt: int,
        error: BaseException,
        *,
        max_attempts: int | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> dt.timedelta | None:
        """The delay from the end of ``attempt`` (counted from 1) to the next one; None: give up.

        Parameters:
            max_attempts: the job's own limit, where it has one.
            uniform: gives a number in [0, 1).
        """
        if attempt >= (self.max_attempts if max_attempts is None else max_attempts):
            return None
        if not isinstance(error, WorkerDied) and (
            isinstance(error, self.give_up_on) or not isinstance(error, self.retry_on)
        ):
            return None
        # 2**62 seconds are beyond any cap; a float of a larger power could overflow.
        least = self.base.total_seconds() * 2.0 ** min(max(attempt, 1) - 1, 62)
        return dt.timedelta(seconds=min(least * (1.0 + uniform()), self.cap.total_seconds()))


def policy_at(
    policy: RetryPolicy, attempt: int, max_attempts: int | None
) -> Callable[[BaseException], dt.timedelta | None]:
    """A retry policy at one attempt of a job: error -> delay, or None to give up."""
    return lambda error: policy.delay(attempt, error, max_attempts=max_attempts)
