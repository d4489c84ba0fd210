"""What a task, or its worker, says of the job by raising it: no errors."""

from __future__ import annotations

from datetime import timedelta

from sqla_jobs.errors.application import InvalidOption
from sqla_jobs.errors.root import shown

_LONGEST_SNOOZE = timedelta(days=36_525)


class Interrupted(BaseException):
    """Raised in a job's thread. Not an Exception: a job's own `except Exception` shall not stop it."""


class Cancel(Exception):
    """Stop this job for good: its state becomes `cancelled`, and it is not tried again.

    Raised, it rolls the job's writes back; returned, they are kept.

    >>> def charge(session, order_id):
    ...     order = session.get(Order, order_id)
    ...     if order is None:
    ...         raise Cancel("the order was deleted")

    Parameters:
        reason: kept in the job's `attempts`.

    Raises:
        InvalidOption: the reason is not text.
    """

    def __init__(self, reason: str = "") -> None:
        if not isinstance(reason, str):
            raise InvalidOption(f"Cancel(reason) is {shown(reason)}: expected text, for example str(error)")
        super().__init__(reason)
        self.reason = reason


class GiveBack(Exception):
    """The worker ends the job before it is through: its writes are rolled back, and it is ``queued`` again.

    Raised by the worker, not by tasks. The attempt does not count.

    Parameters:
        reason: kept in the job's `attempts`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Snooze(Exception):
    """Run this job again later; the attempt does not count.

    Raised, it rolls the job's writes back; returned, they are kept.

    >>> def fetch_report(session, report_id):
    ...     if not ready(report_id):
    ...         return Snooze(timedelta(minutes=5))

    Parameters:
        delay: how long from now; zero is allowed, at most 100 years.

    Raises:
        InvalidOption: the delay is not a timedelta, is negative or too long.
    """

    def __init__(self, delay: timedelta) -> None:
        if not isinstance(delay, timedelta):
            raise InvalidOption(
                f"Snooze(delay) is {shown(delay)}: expected a timedelta, for example timedelta(minutes=5)"
            )
        if not timedelta(0) <= delay <= _LONGEST_SNOOZE:
            raise InvalidOption(
                f"Snooze(delay) is {delay!r}: expected zero to {_LONGEST_SNOOZE.days} days;"
                " to stop the job for good, raise Cancel"
            )
        super().__init__(delay)
        self.delay = delay
