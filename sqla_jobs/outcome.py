"""What follows from one attempt: decided here, without I/O, and written by one statement elsewhere."""

from __future__ import annotations

import datetime as dt
import os
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from sqla_jobs.errors import Cancel, GiveBack, Snooze

HISTORY_LIMIT: Final = 20
"""Attempts that a row remembers; older ones are dropped."""
MESSAGE_LIMIT: Final = 2_000
"""Characters of an error's message that are kept."""
TRACEBACK_LIMIT: Final = 10_000
"""Characters of an error's traceback that are kept, from its end."""


Clean = Callable[[str], str]
"""Takes out of a text what is not to be shown."""


class JobState(str, Enum):
    """Where a job is in its life; a member equals the text in the column ``state``."""

    SCHEDULED = "scheduled"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    __str__ = str.__str__

    @property
    def is_final(self) -> bool:
        """True if nothing follows by itself."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Result:
    """What a task returned, in the form in which its row holds it."""

    value: Any
    """Plain JSON."""
    text: str
    """The same, written."""


@dataclass(frozen=True)
class Outcome:
    """What to write at the end of one attempt."""

    state: JobState
    error: BaseException | None = None
    """What went wrong, or the Cancel or Snooze that was raised or returned."""
    delay: dt.timedelta | None = None
    """From the moment it is written until the job is due again; None: ``run_at`` stays."""
    spent: bool = True
    """False: this run does not count as an attempt."""
    crashed: bool = False
    """True: the worker died."""
    record: dict[str, Any] | None = None
    """What the row's ``attempts`` gain; None: nothing."""
    result: Result | None = None
    """What the task returned, if it is kept."""
    progress: str | None = None
    """How far the attempt came, as JSON; None: it did not say."""

    @property
    def leaves_more(self) -> bool:
        """Whether more than the outcome itself is to be written."""
        return self.result is not None or self.progress is not None


SUCCEEDED: Final = Outcome(JobState.SUCCEEDED)


def decide(
    returned: object,
    error: BaseException | None,
    delay_for: Callable[[BaseException], dt.timedelta | None],
    clean: Clean | None = None,
) -> Outcome:
    """What follows from what an attempt returned or raised.

    Parameters:
        returned: the task's return value, when ``error`` is None; one that is kept as a `Result`.
        error: what the attempt raised, or was refused with at its commit.
        delay_for: the retry policy at this attempt: error -> delay, or None to give up.
        clean: takes out of what is recorded what is not to be shown; None: there is nothing of it.
    """
    signal = returned if error is None else error
    if isinstance(signal, Snooze):
        return Outcome(JobState.SCHEDULED, error=signal, delay=signal.delay, spent=False)
    if isinstance(signal, GiveBack):
        reason = signal.reason if clean is None else clean(signal.reason)
        return replace(given_back(reason), error=signal)
    if isinstance(signal, Cancel):
        return Outcome(JobState.CANCELLED, error=signal, record=describe(signal, clean))
    if error is None:
        return Outcome(JobState.SUCCEEDED, result=returned) if isinstance(returned, Result) else SUCCEEDED
    delay = delay_for(error)
    state = JobState.FAILED if delay is None else JobState.SCHEDULED
    return Outcome(state, error=error, delay=delay, record=describe(error, clean))


def died(error: BaseException, delay_for: Callable[[BaseException], dt.timedelta | None]) -> Outcome:
    """What follows when a job's worker died while it ran the job."""
    delay = delay_for(error)
    state = JobState.FAILED if delay is None else JobState.SCHEDULED
    return Outcome(state, error=error, delay=delay, crashed=True, record=describe(error))


def given_back(reason: str) -> Outcome:
    """What follows when a worker returns a job that it has claimed and will not run to its end."""
    record = {"error": "given back", "message": reason, "traceback": None}
    return Outcome(JobState.QUEUED, spent=False, record=record)


def describe(error: BaseException, clean: Clean | None = None) -> dict[str, Any]:
    """An error as the row's ``attempts`` keep it: class, message, traceback (JSON, bounded, storable).

    Frames of this package above the task's own are left out: they are the same for every job.

    Parameters:
        clean: takes out what is not to be shown; before anything is cut, or half of it might stay.
    """
    kind = type(error)
    name = f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")
    try:
        message = str(error)
    except BaseException as unprintable:
        message = f"<its message cannot be shown: {type(unprintable).__name__}>"
    try:
        lines = traceback.format_exception(kind, error, _below_this_package(error.__traceback__))
        trace = "".join(lines)
    except BaseException as unprintable:
        trace = f"<its traceback cannot be shown: {type(unprintable).__name__}>"
    if clean is not None:
        name, message = clean(name), clean(message)
        cleaned = clean(trace)
        if "\n" not in cleaned.strip():  # nothing is left: then at least where it was
            cleaned = "".join(traceback.format_tb(_below_this_package(error.__traceback__))) + cleaned
        trace = cleaned
    return {
        "error": storable(_head(name, MESSAGE_LIMIT)),
        "message": storable(_head(message, MESSAGE_LIMIT)),
        "traceback": storable(_tail(trace, TRACEBACK_LIMIT)),
    }


def storable(value: str) -> str:
    """``value`` without what PostgreSQL's jsonb refuses: NUL characters and lone surrogates."""
    return value.replace("\x00", "\ufffd").encode("utf-8", "replace").decode("utf-8")


_PACKAGE = str(Path(__file__).parent) + os.sep


def _below_this_package(trace: TracebackType | None) -> TracebackType | None:
    rest = trace
    while rest is not None and rest.tb_frame.f_code.co_filename.startswith(_PACKAGE):
        rest = rest.tb_next
    return rest or trace


def _head(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 1] + "…"


def _tail(value: str, limit: int) -> str:
    return value if len(value) <= limit else "…" + value[1 - limit :]
