"""The job that runs right now, as it sees itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from contextvars import ContextVar
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, overload

from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import awaited
from sqla_jobs.errors import JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.meter import NOTE_LIMIT, Meter, Progress
from sqla_jobs.outcome import Outcome
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.redaction import Redaction, mask

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

T = TypeVar("T")


class Around(Protocol):
    """Calls something, and has something to do before and after."""

    def around(self, body: Callable[[], Any], /) -> Any: ...


@dataclass(frozen=True)
class RunningJob:
    """One run of a job, as the job itself and the hooks see it; not mapped."""

    id: int
    task: str
    queue: str
    attempt: int
    max_attempts: int
    arguments: Mapping[str, Any]
    """By name, as the row holds them: plain JSON."""
    enqueued_at: dt.datetime
    _checkpoint: Callable[[Any], None] | None = field(default=None, repr=False, compare=False)
    _meter: Meter | None = field(default=None, repr=False, compare=False)
    """None: in the fast lane."""
    _watch: ClassVar[Around | None] = None
    """Calls the task, for those who observe it; see `observed_by`. No field: that would cost each job."""
    _redaction: ClassVar[Redaction | None] = None
    """What is not to be shown of it. No field either, nor is what follows."""
    _claimed: ClassVar[Claimed | None] = None
    _seconds: ClassVar[float | None] = None

    def __repr__(self) -> str:
        known = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        if self._redaction is not None:
            known["arguments"] = mask(self.arguments, self._redaction.names)
        return f"RunningJob({', '.join(f'{name}={value!r}' for name, value in known.items())})"

    @property
    def wait(self) -> dt.timedelta | None:
        """From when it could have been begun, enqueued and due, to when it was; None: nobody knows."""
        job = self._claimed
        if job is None or job.started_at is None:
            return None
        ready = max(job.run_at, job.created_at)
        return None if job.started_at < ready else job.started_at - ready

    @property
    def duration(self) -> dt.timedelta | None:
        """How long the task took, without what is around it; None: it was not called here, or runs."""
        return None if self._seconds is None else dt.timedelta(seconds=self._seconds)

    @property
    def seconds(self) -> float | None:
        """`duration`, as a number. Of the library itself."""
        return self._seconds

    @property
    def redaction(self) -> Redaction | None:
        """What is not to be shown of it; None: nothing. Of the library itself."""
        return self._redaction

    @property
    def clean(self) -> Callable[[str], str] | None:
        """Takes what is not to be shown out of a text; None: there is nothing of it. Likewise."""
        return None if self._redaction is None else self._redaction.clean

    def progress(self, done: float, total: float | None = None, note: str | None = None) -> None:
        """Say how far the job has come. It costs next to nothing: say it as often as you like.

        It sends nothing. The worker writes what was said last where others can see it (see `Jobs.progress`),
        at most once a second; and what was said last of all is kept with the outcome, whichever that is.

        Parameters:
            done, total: numbers from zero up, of whatever is counted; total None: nobody knows.
            note: what it is at, for people; 500 characters of it are kept.

        Raises:
            InvalidOption: no number, or one below zero, NaN or infinite; a note that is no text.
            JobsError: the job does not run any more; or its task has ``group_commit``: in the fast lane
                nobody sees a job before it is over.
        """
        if self._checkpoint is None:
            raise JobsError("progress() was called on a job that does not run; expected current_job()'s")
        if self._meter is None:
            raise JobsError(
                f"progress() was called by a job of {self.task}, which has group_commit: in the fast lane"
                " nobody sees a job before it is over; take group_commit off the task, or the call out of it"
            )
        if self._redaction is not None and isinstance(note, str):
            note = self._redaction.clean(note[: 4 * NOTE_LIMIT])
        self._meter.last = Progress.said(done, total, note, self.attempt)

    @overload
    def checkpoint(self, session: Session | scoped_session[Any]) -> None: ...
    @overload
    def checkpoint(self, session: AsyncSession | async_scoped_session[Any]) -> Coroutine[Any, Any, None]: ...
    def checkpoint(self, session: Any) -> Any:
        """Commit what the job has done so far, and go on in a new transaction.

        For a long job: what is committed stays whatever comes later, and is done exactly once for each
        claim. A job that is tried again after it has to find out itself how far it came. In ``work_once``,
        where the transaction is the caller's, it is the contained ``session.commit()``.

        Parameters:
            session: the Session that the task was given; on an AsyncSession it is awaited.

        Raises:
            ClaimLost: somebody else has taken over the job; nothing since the last checkpoint is kept.
            Cancel: the job is to be cancelled; likewise.
            JobsError: the job does not run any more, or it is another Session than the task's own.
        """
        if self._checkpoint is None:
            raise JobsError("checkpoint() was called on a job that does not run; expected current_job()'s")
        if awaited.is_awaited(session):
            return awaited.awaited(session, "RunningJob.checkpoint", self._checkpoint)
        return self._checkpoint(session)


def running(
    job: Claimed,
    policy: RetryPolicy,
    *,
    attempt: int | None = None,
    meter: Meter | None = None,
    redaction: Redaction | None = None,
) -> RunningJob:
    """What a claimed job shows of itself while it runs.

    Parameters:
        meter: where it may say how far it has come; None: it may not.
        redaction: what is not to be shown of it.
    """
    view = RunningJob(
        id=job.id,
        task=job.task,
        queue=job.queue,
        attempt=job.attempt if attempt is None else attempt,
        max_attempts=policy.max_attempts if job.max_attempts is None else job.max_attempts,
        arguments=_copied(job.arguments),
        enqueued_at=job.created_at,
        _meter=meter,
    )
    object.__setattr__(view, "_claimed", job)
    if redaction is not None:
        object.__setattr__(view, "_redaction", redaction)
    return view


def took(job: RunningJob, seconds: float) -> None:
    """Its task was called, and took so long."""
    object.__setattr__(job, "_seconds", seconds)


def observed_by(job: RunningJob, watch: Around) -> None:
    """Let the task be called by this, in the context that it runs in."""
    object.__setattr__(job, "_watch", watch)


def progressed(job: RunningJob, outcome: Outcome) -> Outcome:
    """The outcome of a run, with what the job has said last of its progress."""
    last = None if job._meter is None else job._meter.last
    return outcome if last is None else replace(outcome, progress=last.text())


def _copied(arguments: dict[str, Any]) -> dict[str, Any]:
    # deepcopy() costs more than all else that is done for a job which writes nothing.
    for value in arguments.values():
        if isinstance(value, (dict, list)):
            return deepcopy(arguments)
    return arguments.copy()


_current: ContextVar[RunningJob] = ContextVar("sqla_jobs_current_job")


def current_job() -> RunningJob:
    """The job that runs in this thread or asyncio task.

    Raises:
        JobsError: none does.
    """
    job = _current.get(None)
    if job is None:
        raise JobsError(
            "current_job() was called where no job runs; expected a call in a task that a worker or work_once"
            " runs, and in its own thread: a thread that a task starts runs no job"
        )
    return job


def as_current(job: RunningJob, checkpoint: Callable[[Any], None], run: Callable[[], T]) -> T:
    """Call ``run`` while ``job`` is what ``current_job()`` gives, and may commit in between."""
    token = _current.set(job)
    if job._meter is not None:
        job._meter.last = None  # it may be run again, and what the run before did is rolled back
    object.__setattr__(job, "_checkpoint", checkpoint)
    try:
        return run()
    finally:
        object.__setattr__(job, "_checkpoint", None)
        _current.reset(token)
