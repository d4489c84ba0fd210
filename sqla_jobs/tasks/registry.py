"""Registry: the tasks of an application, the model of its jobs and the maker of its Sessions."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from sqlalchemy.orm import Session

# flush: for what it does at every flush that has jobs
from sqla_jobs import flush, lifecycle, wakeup  # noqa: F401
from sqla_jobs.arguments import Returned, encode_untyped
from sqla_jobs.awaited import Sync, method
from sqla_jobs.cron import Rule
from sqla_jobs.errors import (
    InvalidOption,
    InvalidSchedule,
    TaskAlreadyRegistered,
    TaskDefinitionError,
    UnknownTask,
    shown,
)
from sqla_jobs.lifecycle import Claimed, Definition, Limited, Synced
from sqla_jobs.models import JobMixin
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.redaction import Redaction
from sqla_jobs.tasks.kinds import check_kind
from sqla_jobs.tasks.limits import Limit, check_limit
from sqla_jobs.tasks.made import make
from sqla_jobs.tasks.meta import meta_of
from sqla_jobs.tasks.observed import Tracing, Watching, check_observer
from sqla_jobs.tasks.one import enqueue
from sqla_jobs.tasks.options import (
    GROUP_TIMEOUT,
    Missing,
    Options,
    check_group,
    check_missing,
    check_result,
    check_retention,
    check_timeout,
)
from sqla_jobs.tasks.redacted import redaction, signature_hiding
from sqla_jobs.tasks.schedules import check_findable, check_is_task, definition, package_of
from sqla_jobs.tasks.sessions import Sessions, async_maker, maker
from sqla_jobs.tasks.task import Task, check_session
from sqla_jobs.tasks.unique import check_names

R = TypeVar("R")
JobT = TypeVar("JobT", bound=JobMixin)


class Registry(Generic[JobT]):
    """The tasks of an application, the model of its jobs and the maker of its Sessions.

    Raises:
        InvalidOption: the model is no mapped class with `JobMixin`, or ``notify`` none of its modes.
        ConfigurationError: what is given makes no Sessions.
    """

    def __init__(
        self,
        model: type[JobT],
        sessionmaker: Sessions | None = None,
        notify: wakeup.Mode = wakeup.DEFAULT_MODE,
        async_sessionmaker: Any = None,
        tracing: Tracing | None = None,
    ) -> None:
        given: Any = model
        if not (isinstance(given, type) and issubclass(given, JobMixin) and hasattr(given, "__table__")):
            raise InvalidOption(
                f"model {shown(model)}; expected a mapped class with JobMixin: class MyJob(JobMixin, Base): …"
            )
        self.model = model
        self.sessionmaker = maker(sessionmaker)
        self.async_sessionmaker = async_maker(async_sessionmaker)
        self.notify: wakeup.Mode = wakeup.check_mode(notify)
        self.tracing = check_observer("tracing", tracing, "carried", "enqueuing")
        self.watching = None if tracing is None else Watching([tracing])
        """Who observes the jobs that ``work_once`` runs; None: nobody."""
        self._tasks: dict[str, Task[..., Any, JobT]] = {}
        self._schedules: dict[str, Definition] = {}
        self.fast: dict[str, int] = {}
        """How many jobs may be in a group, by the name of the task, of those with ``group_commit``."""
        self.limited: dict[str, Limited] = {}
        """How many of their jobs may run at once, of the tasks with a ``limit``, by their names."""
        self.passing: set[str] = set()
        """The names of the tasks whose jobs are deleted when they have succeeded."""
        self.asynchronous: set[str] = set()
        """The names of the tasks that are coroutine functions."""

    @property
    def tasks(self) -> Mapping[str, Task[..., Any, JobT]]:
        """Every registered task by its name; read-only."""
        return MappingProxyType(self._tasks)

    @property
    def schedules(self) -> Mapping[str, Definition]:
        """Every schedule that the code defines, by its name; read-only."""
        return MappingProxyType(self._schedules)

    def register(
        self,
        function: Callable[..., R],
        *,
        name: str | None = None,
        options: Options | None = None,
        retry: RetryPolicy | None = None,
        timeout: dt.timedelta | None = None,
        group_commit: int | None = None,
        retention: dt.timedelta | None = None,
        on_missing: Missing = "cancel",
        result: bool = False,
        limit: Limit | None = None,
        redact: Collection[str] = (),
    ) -> Task[..., R, JobT]:
        """Make a task of a callable.

        Parameters:
            name: None: ``<module>.<qualname>``.
            timeout: how long a run may take; None: as long as it wants, or with ``group_commit`` a second.
            group_commit: how many of its jobs may share a transaction, 1 to 200; None: each has its own.
            retention: zero: its jobs are deleted when they have succeeded; None: they are kept.
            on_missing: what becomes of a job whose mapped objects are gone.
            result: whether what it returns is kept, by its return annotation.
            limit: how many of its jobs may run at once; None: any number.
            redact: the names of the arguments whose values are not to be shown.

        Raises:
            TaskDefinitionError: it cannot be a task.
            TaskAlreadyRegistered: the name is taken.
            InvalidOption: ``retry`` is no `RetryPolicy`, ``timeout`` no time, or another out of its range.
        """
        check_timeout(timeout)
        check_group(group_commit)
        check_retention(retention)
        check_missing(on_missing)
        check_result(result, retention)
        if isinstance(function, Task):
            raise TaskDefinitionError(f"{function.name!r} is a task already; expected a plain function")
        if not callable(function):
            raise TaskDefinitionError(f"{shown(function)} cannot be called; expected a function")
        name = _name_of(function) if name is None else name
        if not _can_be_name(name):
            raise TaskDefinitionError(f"task name {shown(name)}; expected a text that is not empty")
        if retry is not None and not isinstance(retry, RetryPolicy):
            raise InvalidOption(f"retry {shown(retry)} of task {name!r}; expected a RetryPolicy")
        if name in self._tasks:
            raise TaskAlreadyRegistered(name, _place(self._tasks[name].function))
        check_kind(function, name, group_commit)
        task: Task[..., R, JobT] = Task(
            name,
            function,
            signature_hiding(redact, function, name),
            self.model,
            options or Options(),
            retry or RetryPolicy(),
            GROUP_TIMEOUT if timeout is None and group_commit else timeout,
            self.notify,
            group_commit,
            on_missing,
            Returned(function, name) if result else None,
            check_limit(limit, name, function, group_commit),
            self.tracing,
        )
        check_names(task.options.unique.by, name, function)
        self._tasks[name] = task
        if group_commit:
            self.fast[name] = group_commit
        if limit is not None:
            self.limited[name] = Limited(limit.number, task.limit_key)
        if retention is not None:
            self.passing.add(name)
        if task.is_async:
            self.asynchronous.add(name)
        return task

    def unregister(self, task: str | Task[..., Any, Any] | Callable[..., Any]) -> None:
        """Forget a task, given by its name, itself or its function.

        Raises:
            UnknownTask: it is not registered.
        """
        name = self.find(task).name
        del self._tasks[name]
        for schedule in [each.name for each in self._schedules.values() if each.task == name]:
            del self._schedules[schedule]
        self.fast.pop(name, None)
        self.limited.pop(name, None)
        self.passing.discard(name)
        self.asynchronous.discard(name)

    def find(self, task: str | Task[..., Any, Any] | Callable[..., Any]) -> Task[..., Any, JobT]:
        """A task by its name, itself or its function.

        Raises:
            UnknownTask: with the names that come near.
        """
        if isinstance(task, str):
            known = self._tasks.get(task)
        else:
            function = task.function if isinstance(task, Task) else task
            known = next((each for each in self._tasks.values() if each.function == function), None)
        if known is not None:
            return known
        raise UnknownTask(task if isinstance(task, str) else _name_of(task), list(self._tasks))

    def schedule(
        self, task: Task[..., Any, JobT], rule: Rule | None, *, decorator: str = "every", **options: Any
    ) -> Definition:
        """Define a schedule of a task; its row is written by `sync`, or when a worker starts.

        Parameters:
            rule: `Cron`, `Every`, or None: the schedule is switched off, and has no row.
            options: ``name``, ``kwargs``, ``queue``, ``priority``, ``max_attempts``, ``timeout``, ``jitter``,
                ``catch_up``, ``overlap``, ``enabled``; see `Jobs.every`.

        Raises:
            TaskDefinitionError: it is no task that is registered here.
            InvalidSchedule: an option is out of its range, or the name is taken.
            InvalidOption, InvalidQueueName, InvalidArguments, ArgumentsNotStorable: likewise.
        """
        check_is_task(task, decorator, self._tasks)
        made = definition(task, rule, **options)
        if made.name in self._schedules:
            raise InvalidSchedule(
                "name",
                made.name,
                "one that no other schedule here has; give one of them a name of its own:"
                f" @jobs.{decorator}(…, name='…')",
                schedule=made.name,
            )
        self._schedules[made.name] = made
        return made

    def known(self) -> dict[str, Any]:
        """What a worker's row says of this registry: its ``tasks``, and its ``schedules`` by fingerprint."""
        return {
            "tasks": sorted(self._tasks),
            "schedules": {name: each.fingerprint for name, each in sorted(self._schedules.items())},
        }

    def sync(
        self,
        session: Session,
        *,
        prune: bool = False,
        force: bool = False,
        waited: Collection[str] = (),
        now: dt.datetime | None = None,
    ) -> Synced:
        """Write the schedules to their rows, in the Session's transaction; see `Jobs.sync_schedules`.

        Parameters:
            waited: see `lifecycle.sync`.
        """
        for each in self._schedules.values():
            check_findable(each.task, each.name)
        session.flush()  # a row of a schedule may be pending
        synced = lifecycle.sync(
            session, self.model, self._schedules.values(), force=force, waited=waited, now=now
        )
        if not prune:
            return synced
        disabled = lifecycle.disable_absent(
            session,
            self.model,
            list(self._schedules),
            tasks=list(self._tasks),
            packages=sorted({package_of(each) for each in self._tasks.values()}),
            now=now,
        )
        return replace(synced, disabled=disabled)

    def policy_for(self, task: str) -> RetryPolicy:
        """The retry policy of a task; of an unknown one the default."""
        known = self._tasks.get(task)
        return RetryPolicy() if known is None else known.retry

    def redaction_for(self, job: Claimed) -> Redaction | None:
        """What is not to be shown of a job; None: nothing."""
        known = self._tasks.get(job.task)
        return redaction(None if known is None else known.signature, job.arguments, job.meta)

    def timeout_for(self, job: Claimed) -> float | None:
        """How many seconds a run of this job may take; None: as many as it wants."""
        if job.timeout is not None:
            return job.timeout
        known = self._tasks.get(job.task)
        return None if known is None or known.timeout is None else known.timeout.total_seconds()


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
        if not _can_be_name(task):
            raise InvalidOption(
                f"task name {shown(task)}; expected the name of a task, e.g. 'shop.jobs.send'"
                " (with the task itself at hand: task.enqueue(session, …))"
            )
        known = self.registry.tasks.get(task)
        if known is not None:
            return known.changed(self.changes).job_by_name(arguments)
        options = Options().changed(self.changes)
        stored = encode_untyped(task, arguments)
        key = options.unique.columns(task, stored)
        values = {"task": task, "arguments": stored, **options.columns(), **key}
        if (meta := meta_of(tracing=self.registry.tracing)) is not None:
            values["meta"] = meta
        job = make(self.registry.model, values)
        wakeup.mark(job, self.registry.notify)
        return job

    @method
    def enqueue(self, session: Sync, task: str, /, **arguments: Any) -> JobT:
        """Make a job of the task of that name in the Session's transaction; see `job`."""
        check_session(session, str(task))
        tracing = self.registry.tracing
        if tracing is None:
            return enqueue(session, self.job(task, **arguments))
        with tracing.enqueuing(task) as tell:
            job = enqueue(session, self.job(task, **arguments))
            tell(job.id, job.queue)
            return job


def _can_be_name(name: object) -> bool:
    """Whether it is a text that is not empty and that PostgreSQL can hold."""
    if not isinstance(name, str) or not name.strip() or "\x00" in name:
        return False
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _name_of(function: Any) -> str:
    if isinstance(function, Task):
        return function.name
    module, qualname = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not qualname or qualname.endswith("<lambda>"):
        raise TaskDefinitionError(
            f"{shown(function)} has no name that a worker could find it by; give it one: @jobs.task(name='…')"
        )
    return f"{module}.{qualname}"


def _place(function: Any) -> str:
    """Where a function is defined, for a message."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    return shown(function) if code is None else f"{code.co_filename}, line {code.co_firstlineno}"
