"""One run of a job: call its task in its scope, and what hooks are told of it."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
import time
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Final, TypeAlias

from sqlalchemy.orm import Session, scoped_session
from sqlalchemy.util.concurrency import await_only

from sqla_jobs import lifecycle
from sqla_jobs.errors import (
    ArgumentsNotLoadable,
    Cancel,
    ConfigurationError,
    GiveBack,
    JobsError,
    RecordNotFound,
    Snooze,
    shown,
)
from sqla_jobs.lifecycle import Claimed, Written
from sqla_jobs.outcome import JobState, Outcome
from sqla_jobs.redaction import MASK
from sqla_jobs.scope import GroupScope, JobScope, Ran
from sqla_jobs.tasks import Registry, RunningJob, Task, as_current, async_of, shut, took

AnyTask: TypeAlias = "Task[..., Any, Any]"

_CALM_STEP: Final = 0.005
_CALM_TRIES: Final = 20

CANCELLED: Final = "cancelled while it ran"
CHANGED: Final = "the job changed its own row, or let go of the lock on it; its outcome cannot be recorded"

TAKEN: Final[ContextVar[tuple[int, ...]]] = ContextVar("sqla_jobs_taken", default=())
"""The jobs that `work_once`, or a group, runs in this context: their rows are `queued`, and a lock of the
same transaction does not hide them from a job that calls `work_once` itself."""


@dataclass(frozen=True)
class Finished:
    """The end of one run of a job.

    ``state`` is what the row says now: ``scheduled`` after a failure that is retried, or a snooze.
    ``error`` is what the run raised (or the Cancel or Snooze it returned); None: it succeeded.
    """

    job: RunningJob
    state: JobState
    error: BaseException | None = None
    run_at: dt.datetime | None = None
    """When it is due again, if it is ``scheduled``."""
    result: Any = None
    """What it returned, if the task keeps it: as the row holds it, plain JSON."""

    def __repr__(self) -> str:
        known = {each.name: getattr(self, each.name) for each in fields(self) if each.repr}
        text = f"Finished({', '.join(f'{name}={value!r}' for name, value in known.items())})"
        return text if self.job.clean is None else self.job.clean(text)

    @property
    def failed(self) -> bool:
        """Whether this run failed, be it retried or not; a Snooze or a Cancel is no failure."""
        return self.error is not None and not isinstance(self.error, (Cancel, GiveBack, Snooze))

    @property
    def wait(self) -> dt.timedelta | None:
        """How long the job could have been begun before it was, as `Job.wait`; None: nobody knows."""
        return self.job.wait

    @property
    def duration(self) -> dt.timedelta | None:
        """How long the task took; None: it was not called here, e.g. of a dead worker's job."""
        return self.job.duration


def run(
    registry: Registry[Any], job: Claimed, view: RunningJob, scope: JobScope | GroupScope, session: Session
) -> Ran:
    """Run the task in its scope; what keeps it from being called is an error of the job."""

    def checkpoint(given: Any) -> None:
        own = given() if isinstance(given, scoped_session) else given
        if own is not session:
            raise JobsError(
                f"checkpoint() was given {shown(given)}; expected the Session that the task was given"
            )
        scope.checkpoint(holds)

    def holds() -> bool:
        cancelled = lifecycle.hold(session, registry.model, job)
        if cancelled:
            raise Cancel(CANCELLED)
        return cancelled is not None

    def body() -> Any:
        began = time.perf_counter()
        try:
            return call()
        finally:
            took(view, time.perf_counter() - began)

    def call() -> Any:
        task = registry.find(job.task)
        if job.unreadable is not None:
            raise job.unreadable if view.redaction is None else _hidden(job.unreadable)
        args, kwargs = _decoded(task, job, session)
        if task.is_async:
            returned = _await(task, session, args, kwargs, owned=scope.owned)
        else:
            returned = _call(task, session, args, kwargs)
        if task.returns is None or isinstance(returned, (Cancel, Snooze)):
            return returned
        return task.returns.store(returned, session)

    called = body if view._watch is None else partial(view._watch.around, body)
    return as_current(view, checkpoint, lambda: scope.run(called))


def _hidden(error: ArgumentsNotLoadable) -> ArgumentsNotLoadable:
    """The same of a job that has something to hide: all of what the row holds, since nobody can read it."""
    return ArgumentsNotLoadable(error.task, error.argument, MASK, error.reason)


def _decoded(task: AnyTask, job: Claimed, session: Session) -> tuple[Sequence[Any], Mapping[str, Any]]:
    try:
        return task.signature.decode(job.arguments, session)
    except RecordNotFound as missing:
        if task.on_missing == "fail":
            raise
        raise Cancel(str(missing)) from missing


def _call(task: AnyTask, session: Session, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    returned = task.function(session, *args, **kwargs)
    if inspect.iscoroutine(returned) or inspect.isgenerator(returned):
        returned.close()
        kind = "generator" if inspect.isgenerator(returned) else "coroutine"
        raise TypeError(f"the task returned a {kind}, whose body nobody runs; expected def, or async def")
    return returned


def _await(
    task: AnyTask, session: Session, args: Sequence[Any], kwargs: Mapping[str, Any], *, owned: bool
) -> Any:
    """Call a coroutine function with the AsyncSession that this Session is the inner one of.

    Parameters:
        owned: it was made for this job.
    """
    own = async_of(session)
    if own is None:
        raise ConfigurationError(
            f"task {task.name!r} is an `async def` function, and was to run with a Session; expected a "
            "worker that has an async_sessionmaker, or work_once() and drain() on an AsyncSession"
        )
    # What a worker runs has a context apart from that of its asyncio task, in which the coroutine runs.
    here = copy_context()

    async def within() -> Any:
        for each in here:
            if each.get(None) is not here[each]:
                each.set(here[each])
        return await task.function(own, *args, **kwargs)

    try:
        return await_only(within())
    finally:
        if owned:
            shut(own)
            await_only(_calm(session))


async def _calm(session: Session) -> None:
    """Wait until nothing that the job has begun and not awaited is about to get a connection.

    Whose Session could neither be rolled back nor closed meanwhile, and the connection be lost.
    """
    for _ in range(_CALM_TRIES):
        begun = (session.get_transaction(), session.get_nested_transaction())
        if all(each is None or each._current_fn is None for each in begun):
            return
        await asyncio.sleep(_CALM_STEP)


def finished(job: RunningJob, outcome: Outcome, written: Written) -> Finished:
    """What hooks are told of a run whose outcome is written."""
    due = written.run_at if written.state is JobState.SCHEDULED else None
    result = None if outcome.result is None else outcome.result.value
    return Finished(job, written.state, outcome.error, due, result)


def told(result: Finished | None) -> tuple[JobState | None, BaseException | None]:
    """What observers are told of the end of a run; None: nothing is recorded of it."""
    return (None, None) if result is None else (result.state, result.error)


def facts(job: RunningJob) -> dict[str, Any]:
    """What log records say of a job, as ``extra``."""
    return {"job_id": job.id, "task": job.task, "queue": job.queue, "attempt": job.attempt}


def milliseconds(length: dt.timedelta | None) -> float | None:
    """As log records say it."""
    return None if length is None else round(length.total_seconds() * 1000, 3)
