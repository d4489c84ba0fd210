"""Task, the Registry of tasks, and the job that runs right now."""

from __future__ import annotations

import datetime as dt
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import update_wrapper
from types import MappingProxyType
from typing import Any, Final, Generic, ParamSpec, TypeVar, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import lifecycle, statements
from sqla_jobs.arguments import Signature, encode_untyped
from sqla_jobs.errors import (
    ConfigurationError,
    InvalidOption,
    InvalidQueueName,
    JobsError,
    TaskAlreadyRegistered,
    TaskDefinitionError,
    UnknownTask,
)
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.models import DEFAULT_QUEUE, QUEUE_PATTERN, JobMixin
from sqla_jobs.outcome import JobState
from sqla_jobs.policy import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")
JobT = TypeVar("JobT", bound=JobMixin)

Sessions = Callable[[], AbstractContextManager[Session]]
"""Makes the Sessions of a worker: a sessionmaker, a scoped_session, or any callable whose result is a
context manager that gives a Session (a Flask application's enters its app context there)."""

_SMALLINT: Final = range(-32768, 32768)


# -- options ---------------------------------------------------------------------------------------


def check_queue(name: object) -> str:
    """``name`` if it can be a queue's name.

    Raises:
        InvalidQueueName: empty, longer than 63, or other characters than letters, digits, ``_ - .``
    """
    if isinstance(name, str) and re.fullmatch(QUEUE_PATTERN[1:-1], name, re.ASCII):
        return name
    raise InvalidQueueName(
        f"queue name {name!r}; expected 1 to 63 characters out of letters, digits, '_', '-' and '.'"
    )


@dataclass(frozen=True)
class Options:
    """How a job is enqueued; checked when it is made.

    Parameters:
        queue: 1 to 63 letters, digits, ``_ - .``; None: ``default``.
        priority: -32768 to 32767; higher runs first.
        max_attempts: None: the retry policy's.
        delay: from the moment of the enqueue, by the database's clock.
        run_at: the earliest time to run, with a time zone; not together with ``delay``.

    Raises:
        InvalidOption, InvalidQueueName: with what was found and what was expected.
    """

    queue: str | None = DEFAULT_QUEUE
    priority: int = 0
    max_attempts: int | None = None
    delay: dt.timedelta | None = None
    run_at: dt.datetime | None = None

    def __post_init__(self) -> None:
        if self.queue is None:
            object.__setattr__(self, "queue", DEFAULT_QUEUE)
        check_queue(self.queue)
        if type(self.priority) is not int or self.priority not in _SMALLINT:
            raise InvalidOption(f"priority {self.priority!r}; expected a whole number from -32768 to 32767")
        most = self.max_attempts
        if most is not None and (type(most) is not int or not 1 <= most <= 2**31 - 1):
            raise InvalidOption(f"max_attempts {most!r}; expected a whole number from 1 up, or None")
        if self.delay is not None and not isinstance(self.delay, dt.timedelta):
            raise InvalidOption(f"delay {self.delay!r}; expected a timedelta")
        if self.run_at is not None:
            if not isinstance(self.run_at, dt.datetime):
                raise InvalidOption(f"run_at {self.run_at!r}; expected a datetime with a time zone")
            if self.run_at.utcoffset() is None:
                raise InvalidOption(
                    f"run_at {self.run_at.isoformat()} has no time zone; "
                    "expected an aware datetime, e.g. datetime(…, tzinfo=timezone.utc)"
                )
        if self.delay is not None and self.run_at is not None:
            raise InvalidOption("delay and run_at are both given; expected one of them")

    def changed(self, changes: Mapping[str, Any]) -> Options:
        """A copy with these options; a new ``delay`` replaces a ``run_at`` and the other way round."""
        known = {name: value for name, value in changes.items() if value is not UNSET}
        if "delay" in known and "run_at" not in known:
            known["run_at"] = None
        elif "run_at" in known and "delay" not in known:
            known["delay"] = None
        return replace(self, **known)

    def columns(self) -> dict[str, Any]:
        """The values for the job's row that follow from these options."""
        values: dict[str, Any] = {"queue": self.queue, "priority": self.priority}
        if self.max_attempts is not None:
            values["max_attempts"] = self.max_attempts
        if self.run_at is not None:
            values |= {"state": JobState.SCHEDULED.value, "run_at": self.run_at}
        elif self.delay is not None and self.delay > dt.timedelta(0):
            values |= {"state": JobState.SCHEDULED.value, "run_at": statements.after(self.delay)}
        else:
            values["state"] = JobState.QUEUED.value
        return values


class _Unset:
    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final[Any] = _Unset()
"""The default of an option that is left as it is."""


# -- task ------------------------------------------------------------------------------------------


class Task(Generic[P, R, JobT]):
    """A registered function. It can still be called as one; ``enqueue`` makes a job of the call."""

    def __init__(
        self,
        name: str,
        function: Callable[..., R],
        signature: Signature,
        model: type[JobT],
        options: Options,
        retry: RetryPolicy,
    ) -> None:
        update_wrapper(self, function)
        self.name = name
        self.function = function
        self.signature = signature
        self.model = model
        self.options = options
        self.retry = retry

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, session: Any, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function itself, here and now."""
        return self.function(session, *args, **kwargs)

    def using(
        self,
        *,
        queue: str | None = UNSET,
        priority: int = UNSET,
        delay: dt.timedelta | None = UNSET,
        run_at: dt.datetime | None = UNSET,
        max_attempts: int | None = UNSET,
    ) -> Task[P, R, JobT]:
        """The same task with other options for its jobs; see `Options`.

        Raises:
            InvalidOption, InvalidQueueName
        """
        changes = {
            "queue": queue,
            "priority": priority,
            "delay": delay,
            "run_at": run_at,
            "max_attempts": max_attempts,
        }
        options = self.options.changed(changes)
        return Task(self.name, self.function, self.signature, self.model, options, self.retry)

    def job(self, *args: P.args, **kwargs: P.kwargs) -> JobT:
        """The job of this call, not yet in any Session: ``session.add(task.job(…))`` enqueues it.

        Raises:
            InvalidArguments: the call does not fit the task.
            ArgumentsNotStorable: a value cannot be kept as it is.
        """
        return self._made(self.signature.encode(args, kwargs))

    def job_of(self, arguments: Mapping[str, Any]) -> JobT:
        """The same, of arguments that are all given by name, positional-only ones too."""
        return self._made(self.signature.encode((), dict(arguments), by_name=True))

    def _made(self, arguments: dict[str, Any]) -> JobT:
        if self.name.startswith("__main__."):
            raise TaskDefinitionError(
                f"task {self.name!r} is defined in the program that was started, which a worker imports "
                "by another name; give it one: @jobs.task(name='…')"
            )
        return self.model(task=self.name, arguments=arguments, **self.options.columns())

    def enqueue(self, session: Session | scoped_session[Any], /, *args: P.args, **kwargs: P.kwargs) -> JobT:
        """Make a job of this call in the Session's transaction; it is flushed, not committed.

        Raises:
            InvalidArguments: the call does not fit the task.
            ArgumentsNotStorable: a value cannot be kept as it is.
        """
        return lifecycle.enqueue(session, self.job(*args, **kwargs))


@dataclass(frozen=True)
class ByName(Generic[JobT]):
    """Enqueues tasks by name, with options of their own; the task need not be importable here."""

    registry: Registry[JobT] = field(repr=False)
    changes: Mapping[str, Any]

    def job(self, task: str, /, **arguments: Any) -> JobT:
        """The job of this call, not yet in any Session.

        A task that is registered here checks and encodes the arguments; for any other they are
        plain JSON.
        """
        known = self.registry.tasks.get(task)
        if known is not None:
            return known.using(**self.changes).job_of(arguments)
        if not task.strip():
            raise InvalidOption(f"task name {task!r}; expected the name of a task, e.g. 'shop.jobs.send'")
        options = Options().changed(self.changes)
        stored = encode_untyped(task, arguments)
        return self.registry.model(task=task, arguments=stored, **options.columns())

    def enqueue(self, session: Session | scoped_session[Any], task: str, /, **arguments: Any) -> JobT:
        """Make a job of the task of that name in the Session's transaction; see `job`."""
        return lifecycle.enqueue(session, self.job(task, **arguments))


# -- registry --------------------------------------------------------------------------------------


class Registry(Generic[JobT]):
    """The tasks of an application, the model of its jobs and the maker of its Sessions."""

    def __init__(self, model: type[JobT], sessionmaker: Sessions | None = None) -> None:
        self.model = model
        self.sessionmaker = sessionmaker
        self._tasks: dict[str, Task[..., Any, JobT]] = {}

    @property
    def tasks(self) -> Mapping[str, Task[..., Any, JobT]]:
        """Every registered task by its name; read-only."""
        return MappingProxyType(self._tasks)

    def register(
        self,
        function: Callable[..., R],
        *,
        name: str | None = None,
        options: Options | None = None,
        retry: RetryPolicy | None = None,
    ) -> Task[..., R, JobT]:
        """Make a task of a callable.

        Parameters:
            name: None: ``<module>.<qualname>``.

        Raises:
            TaskDefinitionError: it cannot be a task.
            TaskAlreadyRegistered: the name is taken.
        """
        if isinstance(function, Task):
            raise TaskDefinitionError(f"{function.name!r} is a task already; expected a plain function")
        if not callable(function):
            raise TaskDefinitionError(f"{function!r} cannot be called; expected a function")
        name = _name_of(function) if name is None else name
        if not name.strip() or "\x00" in name:
            raise TaskDefinitionError(f"task name {name!r}; expected a text that is not empty")
        if name in self._tasks:
            raise TaskAlreadyRegistered(name)
        _refuse_lazy(function, name)
        task: Task[..., R, JobT] = Task(
            name,
            function,
            Signature.of(function, name),
            self.model,
            options or Options(),
            retry or RetryPolicy(),
        )
        self._tasks[name] = task
        return task

    def unregister(self, task: str | Task[..., Any, Any] | Callable[..., Any]) -> None:
        """Forget a task, given by its name, itself or its function.

        Raises:
            UnknownTask: it is not registered.
        """
        del self._tasks[self.find(task).name]

    def find(self, task: str | Task[..., Any, Any] | Callable[..., Any]) -> Task[..., Any, JobT]:
        """A task by its name or its function.

        Raises:
            UnknownTask: with the names that come near.
        """
        for name, known in self._tasks.items():
            if task == name or task is known or task is known.function:
                return known
        raise UnknownTask(task if isinstance(task, str) else _name_of(task), list(self._tasks))

    def policy_for(self, task: str) -> RetryPolicy:
        """The retry policy of a task; of an unknown one the default."""
        known = self._tasks.get(task)
        return RetryPolicy() if known is None else known.retry


def _refuse_lazy(function: Callable[..., Any], name: str) -> None:
    body = function if inspect.isroutine(function) else type(function).__call__
    for is_lazy, kind in (
        (inspect.iscoroutinefunction, "an `async def` function"),
        (inspect.isasyncgenfunction, "an async generator function"),
        (inspect.isgeneratorfunction, "a generator function"),
    ):
        if is_lazy(function) or is_lazy(body):
            raise TaskDefinitionError(
                f"task {name!r} is {kind}: calling it runs nothing of its body; expected an ordinary function"
            )


def _name_of(function: Any) -> str:
    if isinstance(function, Task):
        return function.name
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not qualname or qualname.endswith("<lambda>"):
        raise TaskDefinitionError(
            f"{function!r} has no name that a worker could find it by; give it one: @jobs.task(name='…')"
        )
    return f"{module}.{qualname}"


def sessions_of(source: Any) -> Sessions:
    """A maker of Sessions out of what a user has: an Engine, a sessionmaker, or such a callable."""
    if isinstance(source, Engine):
        return sessionmaker(source)
    if callable(source):
        return cast("Sessions", source)
    raise ConfigurationError(
        f"{source!r} makes no Sessions; expected an Engine, a sessionmaker, or a callable that gives a "
        "Session as a context manager"
    )


# -- the running job -------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunningJob:
    """One run of a job, as the job itself and the hooks see it; not mapped."""

    id: int
    task: str
    queue: str
    attempt: int
    max_attempts: int
    arguments: Mapping[str, Any]
    enqueued_at: dt.datetime


def running(job: Claimed, policy: RetryPolicy, *, attempt: int | None = None) -> RunningJob:
    """What a claimed job shows of itself while it runs."""
    return RunningJob(
        id=job.id,
        task=job.task,
        queue=job.queue,
        attempt=job.attempt if attempt is None else attempt,
        max_attempts=policy.max_attempts if job.max_attempts is None else job.max_attempts,
        arguments=MappingProxyType(job.arguments),
        enqueued_at=job.created_at,
    )


_current: ContextVar[RunningJob] = ContextVar("sqla_jobs_current_job")


def current_job() -> RunningJob:
    """The job that runs in this thread or asyncio task.

    Raises:
        JobsError: none does.
    """
    job = _current.get(None)
    if job is None:
        raise JobsError("current_job() was called outside a job; only a task run by a worker has one")
    return job


@contextmanager
def as_current(job: RunningJob) -> Iterator[None]:
    """Make ``job`` the one that ``current_job()`` gives."""
    token = _current.set(job)
    try:
        yield
    finally:
        _current.reset(token)
