"""What is enqueued, and whether it is what a test expects."""

from __future__ import annotations

import json
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, TypeVar, overload

from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.arguments import encode_untyped
from sqla_jobs.awaited import Awaited, Sync, session_of, verb
from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.models import Job, JobMixin, check_queue
from sqla_jobs.outcome import JobState
from sqla_jobs.tasks import Task

JobT = TypeVar("JobT", bound=JobMixin)

_SHOWN = 20
"""How many jobs a failure shows."""


@overload
def enqueued(
    session: Sync,
    task: Task[..., Any, JobT],
    /,
    *,
    model: type[JobT] | None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> list[JobT]: ...
@overload
def enqueued(
    session: Sync,
    task: str | None = None,
    /,
    *,
    model: type[JobT],
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> list[JobT]: ...
@overload
def enqueued(
    session: Sync,
    task: str | None = None,
    /,
    *,
    model: None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> list[Job]: ...
@overload
def enqueued(
    session: Awaited,
    task: Task[..., Any, JobT],
    /,
    *,
    model: type[JobT] | None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> Coroutine[Any, Any, list[JobT]]: ...
@overload
def enqueued(
    session: Awaited,
    task: str | None = None,
    /,
    *,
    model: type[JobT],
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> Coroutine[Any, Any, list[JobT]]: ...
@overload
def enqueued(
    session: Awaited,
    task: str | None = None,
    /,
    *,
    model: None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> Coroutine[Any, Any, list[Job]]: ...
@verb
def enqueued(
    session: Sync,
    task: Task[..., Any, Any] | str | None = None,
    /,
    *,
    model: type[Any] | None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> Any:
    """The jobs that are not finished, in the order in which they were enqueued.

    Also those that wait for their time, or to be tried again. What is pending in the Session is flushed.

    Parameters:
        task: only of this task, or of the one of this name; None: of any.
        model: the job model, for a task given by name, or none; None: that of the task, or `Job`.
        queue: only of this queue.
        arguments: the same as ``matching``, for arguments named ``queue``, ``count``, ``model`` or
            ``arguments``.
        matching: only with these arguments, and whatever others. With a task each is converted as by its
            ``enqueue``, and one that was left to its default has that value; else they are plain JSON.

    Raises:
        InvalidArguments, ArgumentsNotStorable: the task has no such argument, or none of such a value; so a
            misspelt name does not pass for a job that is not there.
        InvalidOption, InvalidQueueName: an option is out of its range.
    """
    own = _flushed(session, "enqueued")
    return _Wanted(task, model, queue, arguments, matching).among(own)


@verb
def assert_enqueued(
    session: Sync,
    task: Task[..., Any, Any] | str | None = None,
    /,
    *,
    count: int | None = None,
    model: type[Any] | None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> list[Any]:
    """See that a job is enqueued, not finished; returns those that match, see `enqueued`.

    Parameters:
        count: exactly so many; None: at least one.

    Raises:
        AssertionError: it is not so; says what is enqueued.
        InvalidArguments, ArgumentsNotStorable, InvalidOption, InvalidQueueName: see `enqueued`.
    """
    __tracebackhide__ = True
    if count is not None and (type(count) is not int or count < 0):
        raise InvalidOption(
            f"count {shown(count)}; expected how many jobs, or None for one or more. An argument of the task "
            'that is named so is matched by arguments={"count": …}'
        )
    own = _flushed(session, "assert_enqueued")
    wanted = _Wanted(task, model, queue, arguments, matching)
    found = wanted.among(own)
    if found if count is None else len(found) == count:
        return found
    expected = "a job" if count is None else f"{count} job{'s' * (count != 1)}"
    raise AssertionError(
        f"expected {expected}{wanted} to be enqueued, found {len(found) or 'none'}; {wanted.there(own)}"
    )


@verb
def refute_enqueued(
    session: Sync,
    task: Task[..., Any, Any] | str | None = None,
    /,
    *,
    model: type[Any] | None = None,
    queue: str | None = None,
    arguments: Mapping[str, Any] | None = None,
    **matching: Any,
) -> None:
    """See that no such job is enqueued, see `enqueued`.

    Raises:
        AssertionError: there is one; says which.
        InvalidArguments, ArgumentsNotStorable, InvalidOption, InvalidQueueName: see `enqueued`.
    """
    __tracebackhide__ = True
    own = _flushed(session, "refute_enqueued")
    wanted = _Wanted(task, model, queue, arguments, matching)
    if found := wanted.among(own):
        number = f"{len(found)} of them"
        raise AssertionError(f"expected no job{wanted} to be enqueued, found {number}:{_listed(found)}")


def _flushed(given: Sync, caller: str) -> Session:
    # Before anything is matched: an object among the arguments may be pending, and has its key after that.
    own = session_of(given, caller)
    own.flush()
    return own


class _Wanted:
    """Which jobs are looked for."""

    def __init__(
        self,
        task: Task[..., Any, Any] | str | None,
        model: type[Any] | None,
        queue: str | None,
        arguments: Mapping[str, Any] | None,
        matching: Mapping[str, Any],
    ) -> None:
        if not (task is None or isinstance(task, (Task, str))):
            raise InvalidOption(f"task {shown(task)}; expected a task, the name of one, or nothing for any")
        if model is not None and isinstance(task, Task) and model is not task.model:
            raise InvalidOption(f"model {shown(model)}; expected none with {task!r}, which has its own")
        self.name = task.name if isinstance(task, Task) else task
        self.model: type[Any] = task.model if isinstance(task, Task) else model or Job
        self.queue = None if queue is None else check_queue(queue)
        self.signature = task.signature if isinstance(task, Task) else None
        given = {**(arguments or {}), **matching}
        if self.signature is not None:
            self.arguments = self.signature.encode_some(given)
        else:
            self.arguments = encode_untyped(self.name or "any task", given)

    def among(self, session: Session) -> list[Any]:
        found = lifecycle.unfinished(session, self.model, task=self.name, queue=self.queue)
        return [job for job in found if self._fits(job)]

    def _fits(self, job: JobMixin) -> bool:
        if not self.arguments:
            return True
        known = job.arguments if self.signature is None else self.signature.with_defaults(job.arguments)
        return all(name in known and known[name] == value for name, value in self.arguments.items())

    def there(self, session: Session) -> str:
        """What is enqueued, for a message."""
        jobs = lifecycle.unfinished(session, self.model)
        if not jobs:
            return "no job is, of any task"
        return f"enqueued {'is' if len(jobs) == 1 else 'are'}:{_listed(jobs)}"

    def __str__(self) -> str:
        parts = [f" of {self.name}"] if self.name is not None else []
        parts += [f" in queue {self.queue!r}"] if self.queue is not None else []
        parts += [f" with {json.dumps(self.arguments, ensure_ascii=False)}"] if self.arguments else []
        return "".join(parts)


def _listed(jobs: Sequence[JobMixin]) -> str:
    lines = [f"\n  {_line(job)}" for job in jobs[:_SHOWN]]
    more = len(jobs) - _SHOWN
    return "".join([*lines, *([f"\n  and {more} more"] if more > 0 else [])])


def _line(job: JobMixin) -> str:
    due = f" for {job.run_at.isoformat()}" if job.state == JobState.SCHEDULED else ""
    arguments = json.dumps(job.arguments, ensure_ascii=False)
    return f"job {job.id}: {job.task} {arguments} in queue {job.queue!r}, {job.state}{due}"
