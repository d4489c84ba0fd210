"""Task: a registered function, whose calls become jobs."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Mapping
from functools import update_wrapper
from typing import Any, Generic, ParamSpec, TypeVar, overload

from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import lifecycle, wakeup
from sqla_jobs.arguments import Given, Returned, Signature, keep
from sqla_jobs.awaited import ANY_SESSION, Awaited, Sync, method
from sqla_jobs.errors import (
    Cancel,
    InvalidArguments,
    InvalidOption,
    ResultNotLoadable,
    Snooze,
    TaskDefinitionError,
    shown,
)
from sqla_jobs.models import JobMixin
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.tasks.kinds import is_async
from sqla_jobs.tasks.limits import Limit
from sqla_jobs.tasks.made import make
from sqla_jobs.tasks.meta import meta_of
from sqla_jobs.tasks.observed import Tracing
from sqla_jobs.tasks.one import enqueue
from sqla_jobs.tasks.options import UNSET, Missing, Options
from sqla_jobs.tasks.redacted import without_hidden
from sqla_jobs.tasks.unique import Scope, check_lane
from sqla_jobs.wakeup import DEFAULT_MODE, Mode

P = ParamSpec("P")
R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
JobT = TypeVar("JobT", bound=JobMixin)


class Task(Generic[P, R_co, JobT]):
    """A registered function. It can still be called as one; ``enqueue`` makes a job of the call.

    Attributes:
        name: what its jobs call it by.
        function: what a worker calls, with its Session first.
        options: how its jobs are enqueued.
        retry: when a failed attempt is followed by another.
        timeout: how long a run may take; None: as long as it wants.
        notify: how workers are told of its jobs.
        group_commit: how many of its jobs may share a transaction; None: each has its own.
        on_missing: what becomes of a job whose mapped objects are gone.
        returns: how what it returns is kept; None: it is not.
        limit: how many of its jobs may run at once; None: any number.
        tracing: who knows in which trace its jobs are made; None: nobody.
        redact: the names of the arguments whose values are not to be shown.
        is_async: whether it is a coroutine function, and is given an AsyncSession.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., R_co],
        signature: Signature,
        model: type[JobT],
        options: Options,
        retry: RetryPolicy,
        timeout: dt.timedelta | None = None,
        notify: Mode = DEFAULT_MODE,
        group_commit: int | None = None,
        on_missing: Missing = "cancel",
        returns: Returned | None = None,
        limit: Limit | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        # Not what is in its __dict__: an attribute `job` of a callable object would hide the method.
        update_wrapper(self, function, updated=())
        self.name = name
        self.function = function
        self.signature = signature
        self.model = model
        self.options = options
        self.retry = retry
        self.timeout = timeout
        self.notify: Mode = notify
        self._columns = options.columns()
        check_lane(options.unique, name, group_commit)
        self.group_commit = group_commit
        self.on_missing: Missing = on_missing
        self.returns = returns
        self.limit = limit
        self.tracing = tracing
        self.redact = tuple(sorted(signature.hidden))
        self.is_async = is_async(function)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"

    def __call__(self, session: Any, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
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
        timeout: dt.timedelta | None = UNSET,
        unique_key: str | None = UNSET,
        unique_scope: Scope = UNSET,
        unique_for: dt.timedelta | None = UNSET,
    ) -> Task[P, R_co, JobT]:
        """The same task with other options for its jobs; see `Options`, and for unique ones `Jobs.task`.

        Raises:
            InvalidOption, InvalidQueueName
        """
        return self.changed(
            {
                "queue": queue,
                "priority": priority,
                "delay": delay,
                "run_at": run_at,
                "max_attempts": max_attempts,
                "timeout": timeout,
                "unique_key": unique_key,
                "unique_scope": unique_scope,
                "unique_for": unique_for,
            }
        )

    def changed(self, changes: Mapping[str, Any]) -> Task[P, R_co, JobT]:
        """`using`, with the options in a mapping."""
        options = self.options.changed(changes)
        return Task(
            self.name,
            self.function,
            self.signature,
            self.model,
            options,
            self.retry,
            self.timeout,
            self.notify,
            self.group_commit,
            self.on_missing,
            self.returns,
            self.limit,
            self.tracing,
        )

    def job(self, /, *args: P.args, **kwargs: P.kwargs) -> JobT:
        """The job of this call, not yet in any Session: ``session.add(task.job(…))`` enqueues it.

        Raises:
            InvalidArguments: the call does not fit the task.
            ArgumentsNotStorable: a value cannot be kept as it is.
            TaskDefinitionError: the task has no name that a worker could know it by.
        """
        return self._job(*self.signature.draft(args, kwargs))

    def job_by_name(self, arguments: Mapping[str, Any]) -> JobT:
        """`job`, for a caller that knows all arguments by their names, positional-only ones too."""
        return self._job(*self.signature.draft((), arguments, by_name=True))

    def _job(self, arguments: dict[str, Any], given: Given | None) -> JobT:
        if self.name.startswith("__main__."):
            raise TaskDefinitionError(
                f"task {self.name!r} is defined in the program that was started, which a worker imports "
                "by another name; give it one: @jobs.task(name='…')"
            )
        values = {"task": self.name, "arguments": arguments, **self._columns, **self._keys(arguments)}
        if (meta := meta_of(self.redact, self.tracing)) is not None:
            values["meta"] = meta
        job = make(self.model, values)
        wakeup.mark(job, self.notify)
        if given is not None:
            keep(job, given)
        return job

    def _keys(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        unique, limit = self.options.unique, self.limit
        if not unique.is_asked and limit is None:
            return {}
        is_known = limit is None and unique.key is not None
        known = arguments if is_known else self._of_keys(arguments)
        keys = unique.columns(self.name, known)
        return keys if limit is None else {**keys, "limit_key": limit.key_for(self.name, known)}

    def limit_key(self, arguments: Mapping[str, Any]) -> str | None:
        """What a job with these stored arguments is counted by; None: the task has no limit."""
        if self.limit is None:
            return None
        return self.limit.key_for(self.name, self._of_keys(arguments))

    def _of_keys(self, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        return without_hidden(self.signature.with_defaults(arguments), self.signature)

    @method
    def enqueue(self, session: Sync, /, *args: P.args, **kwargs: P.kwargs) -> JobT:
        """Make a job of this call in the Session's transaction; it is flushed, not committed.

        ``await`` it with an AsyncSession, as every verb.

        If another job holds its unique key, that one is returned, as it is: its ``duplicate`` is true.

        Raises:
            InvalidArguments: the call does not fit the task.
            ArgumentsNotStorable: a value cannot be kept as it is.
            EnqueueError: the unique key, or that of the limit, is derived from a mapped object that has no
                primary key yet.
            DuplicateJob: the job that holds the unique key is none that this transaction can see.
            TaskDefinitionError: the task has no name that a worker could know it by.
        """
        check_session(session, self.name)
        if self.tracing is None:
            return enqueue(session, self.job(*args, **kwargs))
        with self.tracing.enqueuing(self.name) as tell:
            job = enqueue(session, self.job(*args, **kwargs))
            tell(job.id, job.queue)
            return job

    @overload
    def result(
        self: Task[P, Coroutine[Any, Any, T | Snooze | Cancel], JobT], session: Sync, job: int | JobMixin
    ) -> T: ...
    @overload
    def result(
        self: Task[P, Coroutine[Any, Any, T | Snooze | Cancel], JobT], session: Awaited, job: int | JobMixin
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def result(self: Task[P, T | Snooze | Cancel, JobT], session: Sync, job: int | JobMixin) -> T: ...
    @overload
    def result(
        self: Task[P, T | Snooze | Cancel, JobT], session: Awaited, job: int | JobMixin
    ) -> Coroutine[Any, Any, T]: ...
    @method
    def result(self, session: Sync, job: int | JobMixin) -> Any:
        """What a job of this task, which has ``result=True``, returned.

        A mapped object is loaded by this Session. `Snooze` and `Cancel` are no results.

        Parameters:
            job: its id, or itself.

        Raises:
            JobNotFound: there is none of that id; it may have been pruned.
            JobNotFinished: it waits, or runs.
            JobFailed: with its last error.
            JobCancelled: with its reason.
            NoResult: it ran when the task had no ``result=True``.
            ResultNotLoadable: the result does not fit the return annotation that the task has now.
            RecordNotFound: it is a mapped object that is gone.
            InvalidOption: it is no job, or another task's.
            TaskDefinitionError: the task has no ``result=True``.
        """
        check_session(session, self.name, "result")
        own: Session = session() if isinstance(session, scoped_session) else session
        if self.returns is None:
            raise TaskDefinitionError(
                f"task {self.name!r} keeps no results; expected @jobs.task(result=True) at its definition"
            )
        left = lifecycle.left(own, self.model, self._id_of(own, job))
        if left.task != self.name:
            raise InvalidOption(
                f"{self.name}.result(…, {left.job_id}): that is a job of {left.task}; expected one of"
                f" {self.name}"
            )

        def refuse(value: object, reason: str) -> ResultNotLoadable:
            return ResultNotLoadable(left.job_id, self.name, value, reason)

        return self.returns.load(left.result(), own, refuse)

    def _id_of(self, session: Session, job: object) -> int:
        if isinstance(job, self.model):
            session.flush()  # it may be pending
            job = job.id
        if type(job) is not int:
            raise InvalidOption(
                f"{self.name}.result(…, {shown(job)}); expected the id of a job, or a {self.model.__name__}"
                " that is enqueued"
            )
        return job


def check_session(session: object, task: str, verb: str = "enqueue") -> None:
    """Raise InvalidArguments if this is nothing that a job could be enqueued in."""
    if not isinstance(session, (Session, scoped_session)):
        raise InvalidArguments(
            task,
            f"{task}: {verb}(session, …)",
            f"the first argument is {shown(session)}; expected {ANY_SESSION}",
        )
