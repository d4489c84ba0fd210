"""What to do while the database cannot be reached: say so, wait, call again."""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, TypeVar

from sqla_jobs.lifecycle import Claimed
from sqla_jobs.redaction import hiding_row, log_error
from sqla_jobs.runner import is_transient
from sqla_jobs.tasks import Registry
from sqla_jobs.worker.crew import Crew

T = TypeVar("T")
log = logging.getLogger("sqla_jobs")

_BACKOFF: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


def backoff(failures: int) -> float:
    """Seconds to wait after the first, second, … failure in a row."""
    return _BACKOFF[min(failures, len(_BACKOFF)) - 1]


def report(what: str, error: Exception, failures: int) -> None:
    """Log a failure; with its traceback unless it is one that every outage brings."""
    told = (str(error).splitlines() or [type(error).__name__])[0]
    # An application's log filter or record factory that raises must not end the thread that reports.
    with suppress(Exception):
        log_error(
            logging.ERROR, "%s failed (%s in a row), trying again: %s", what, failures, told,
            error=None if is_transient(error) else error, clean=hiding_row(error),
        )  # fmt: skip


def unrecorded(registry: Registry[Any], job: Claimed, error: Exception) -> None:
    """Log that the outcome of a job could not be recorded."""
    redaction = registry.redaction_for(job)
    log_error(
        logging.ERROR, "job %s (%s): its outcome could not be recorded", job.id, job.task,
        error=error, clean=None if redaction is None else redaction.clean,
    )  # fmt: skip


def persist(
    crew: Crew,
    limit: dt.timedelta,
    call: Callable[[], T],
    pause: Callable[[float], object] | None = None,
) -> T:
    """Call until the database can be reached; once the worker stops, for at most ``limit``.

    Parameters:
        pause: waits between two calls; None: in this thread.

    Raises:
        Exception: what ``call`` raised, if it is no outage, or at the end of the limit.
    """
    failures, stopping_since = 0, None
    while True:
        try:
            return call()
        except Exception as error:
            if not is_transient(error):
                raise
            if crew.state != "running":
                stopping_since = stopping_since or time.monotonic()
                if time.monotonic() - stopping_since > limit.total_seconds():
                    raise
            failures += 1
            report("recording an outcome", error, failures)
        (pause or crew.pause)(backoff(failures))
