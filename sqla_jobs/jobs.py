"""Jobs: the face of the library. Every method is one call down."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

from sqlalchemy import Connection, Engine

from sqla_jobs import lifecycle, runner
from sqla_jobs.awaited import Sync, method, session_of
from sqla_jobs.errors import InvalidOption, TaskDefinitionError, shown
from sqla_jobs.lifecycle import Cancelled, Deleted, Retried
from sqla_jobs.meter import Progress
from sqla_jobs.models import (
    Companions,
    Job,
    JobMixin,
    QueueMixin,
    ScheduleMixin,
    WorkerProcessMixin,
    check_queue,
)
from sqla_jobs.models import companions as companions_of
from sqla_jobs.models import create_all as create_tables
from sqla_jobs.outcome import JobState
from sqla_jobs.policy import RetryPolicy
from sqla_jobs.runner import Finished
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import (
    UNSET,
    AsyncSessions,
    By,
    ByName,
    Limit,
    Missing,
    Options,
    Recurring,
    Scope,
    Sessions,
    Task,
    Tracing,
    enqueue_many,
    keep_house,
)
from sqla_jobs.verbs import PRUNED, WEEK, cancel, delete, pause, progress, prune, resume, retry
from sqla_jobs.wakeup import DEFAULT_MODE, Mode

if TYPE_CHECKING:  # see tasks.sessions
    from sqlalchemy.ext.asyncio import AsyncEngine

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")
JobT = TypeVar("JobT", bound=JobMixin)


class Decorator(Protocol[JobT]):
    """What ``@jobs.task(…)`` gives: it makes a task of a function and keeps the function's signature."""

    def __call__(self, function: Callable[Concatenate[S, P], R], /) -> Task[P, R, JobT]: ...


class Jobs(Recurring[JobT]):
    """The job queue of an application: its tasks, and how its jobs are enqueued and run.

    Parameters:
        model: the job model; your own ``class MyJob(JobMixin, Base)`` or the library's ``Job``.
        sessionmaker: makes the Sessions of workers that are given none of their own.
        async_sessionmaker: the same of AsyncSessions, for tasks that are coroutines.
        notify: how workers are told of a new job. ``"transaction"``: with the commit that makes it.
            ``"after_commit"``: right after it, by a connection of its own; for many commits at once, since
            the server lets only one at a time notify. False: they are not, and find it by polling; behind
            PgBouncer in transaction mode, which keeps no connection for a client to listen on.
        prune_after: how long succeeded and cancelled jobs are kept. An hourly schedule of the library,
            ``sqla_jobs.prune``, deletes them. None: they are kept for ever.
        prune_failed_after: the same for failed jobs. With neither there is no such schedule.
        tracing: ``sqla_jobs.metrics.Tracing()``: jobs keep the trace that they are enqueued in, and each of
            their runs is a span that links to it. None: neither.

    Raises:
        InvalidOption: the model is no mapped class with `JobMixin`, ``notify`` none of its modes, an age
            no timedelta, or ``tracing`` no such object.
    """

    @overload
    def __init__(
        self: Jobs[Job],
        *,
        sessionmaker: Sessions | None = None,
        async_sessionmaker: AsyncSessions | AsyncEngine | None = None,
        notify: Mode = DEFAULT_MODE,
        prune_after: dt.timedelta | None = WEEK,
        prune_failed_after: dt.timedelta | None = None,
        tracing: Tracing | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        model: type[JobT],
        sessionmaker: Sessions | None = None,
        notify: Mode = DEFAULT_MODE,
        *,
        async_sessionmaker: AsyncSessions | AsyncEngine | None = None,
        prune_after: dt.timedelta | None = WEEK,
        prune_failed_after: dt.timedelta | None = None,
        tracing: Tracing | None = None,
    ) -> None: ...
    def __init__(
        self,
        model: type[Any] = Job,
        sessionmaker: Sessions | None = None,
        notify: Mode = DEFAULT_MODE,
        *,
        async_sessionmaker: AsyncSessions | AsyncEngine | None = None,
        prune_after: dt.timedelta | None = WEEK,
        prune_failed_after: dt.timedelta | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        super().__init__(model, sessionmaker, notify, async_sessionmaker, tracing)
        keep_house(self, prune_after, prune_failed_after)

    # -- tasks -------------------------------------------------------------------------------------

    @overload
    def task(self, function: Callable[Concatenate[S, P], R], /) -> Task[P, R, JobT]: ...
    @overload
    def task(
        self,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        retry: RetryPolicy | None = None,
        timeout: dt.timedelta | None = None,
        group_commit: int | None = None,
        retention: dt.timedelta | None = None,
        unique: By = False,
        unique_scope: Scope = "active",
        unique_for: dt.timedelta | None = None,
        on_missing: Missing = "cancel",
        result: bool = False,
        limit: Limit | None = None,
        redact: Sequence[str] = (),
    ) -> Decorator[JobT]: ...
    def task(
        self,
        function: Any = None,
        /,
        *,
        name: str | None = None,
        queue: str | None = None,
        priority: int = 0,
        retry: RetryPolicy | None = None,
        timeout: dt.timedelta | None = None,
        group_commit: int | None = None,
        retention: dt.timedelta | None = None,
        unique: By = False,
        unique_scope: Scope = "active",
        unique_for: dt.timedelta | None = None,
        on_missing: Missing = "cancel",
        result: bool = False,
        limit: Limit | None = None,
        redact: Sequence[str] = (),
    ) -> Any:
        """Make a task of a function whose first parameter is the Session; a decorator.

        Parameters:
            name: what jobs call it by; None: ``<module>.<qualname>``.
            queue, priority: of its jobs, unless ``using`` says otherwise; see `Options`.
            retry: None: the default `RetryPolicy`.
            timeout: after so long a run is interrupted, and has failed; None: it may take any time, or with
                ``group_commit`` a second.
            group_commit: the fast lane: up to so many of its jobs, 1 to 200, are claimed, run and committed
                together. For tasks that are short and have effects in this database only: after a crash
                all of a group run again. None: each job has transactions of its own.
            retention: ``timedelta(0)``: a job is deleted, and not kept as ``succeeded``, by the commit of its
                success, unless a row refers to it. None: it is kept.
            unique: names of arguments: while a job is there, another enqueue with the same values gives that
                one, with ``duplicate`` true. True: of all arguments. False: each enqueue makes a job, unless
                ``using(unique_key=…)``.
            unique_scope: while it is there: ``"active"`` until it is finished, ``"queued"`` until it begins.
            unique_for: or once for so long, whatever becomes of it, in fixed windows of the database's time:
                ``timedelta(hours=1)`` from each full hour (UTC) to the next.
            on_missing: what becomes of a job if a mapped object that it was given is gone when it runs.
                ``"cancel"``: it is cancelled. ``"fail"``: the attempt has failed with `RecordNotFound`, and
                the retry policy decides.
            result: True: what it returns is kept in the job's row, in the form that the return annotation
                says, for `Task.result`. A value that does not fit fails the attempt.
            limit: how many of its jobs may run at once, in all workers together: ``Limit(2)``, or
                ``Limit(2, key="customer_id")`` for so many of each customer. Not with ``group_commit``. None:
                any number.
            redact: names of arguments whose values are not to be shown: ``[redacted]`` stands for them in
                what is kept and logged of errors, in progress notes, and where tools show arguments.

        Raises:
            TaskDefinitionError: the function cannot be a task, or what it returns cannot be kept.
            TaskAlreadyRegistered: the name is taken.
            InvalidOption, InvalidQueueName: an option is out of its range.
        """
        if function is not None and not callable(function):
            raise TaskDefinitionError(
                f"@jobs.task({shown(function)}); expected a function, or options by name: "
                "@jobs.task(name='…', queue='…')"
            )
        keys = {"unique": unique, "unique_scope": unique_scope, "unique_for": unique_for}
        options = Options().changed({"queue": queue, "priority": priority, **keys})

        def register(function: Callable[..., Any]) -> Any:
            return self.register(
                function,
                name=name,
                options=options,
                retry=retry,
                timeout=timeout,
                group_commit=group_commit,
                retention=retention,
                on_missing=on_missing,
                result=result,
                limit=limit,
                redact=redact,
            )

        return register if function is None else register(function)

    # -- enqueue by name ---------------------------------------------------------------------------

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
    ) -> ByName[JobT]:
        """``jobs.using(queue="slow").enqueue(session, "shop.jobs.send", order_id=7)``; see `Options`.

        Raises:
            InvalidOption, InvalidQueueName
        """
        changes = {
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
        Options().changed(changes)  # a mistake is refused here rather than at the enqueue
        return ByName(self, {name: value for name, value in changes.items() if value is not UNSET})

    def job(self, task: str, /, **arguments: Any) -> JobT:
        """The job of a task given by name, not yet in any Session."""
        return ByName(self, {}).job(task, **arguments)

    @method
    def enqueue(self, session: Sync, task: str, /, **arguments: Any) -> JobT:
        """Enqueue a task by name in the Session's transaction; it need not be importable here.

        A task that is registered here checks and encodes the arguments; for any other they are plain
        JSON.

        Raises:
            InvalidArguments, ArgumentsNotStorable, InvalidOption
        """
        return ByName(self, {}).enqueue(session, task, **arguments)

    @method
    def enqueue_many(self, session: Sync, jobs: Iterable[JobT]) -> list[int]:
        """Enqueue new jobs in the Session's transaction by one statement; returns their ids, in order.

        The jobs themselves stay outside of the Session and without an id. What is pending in it is
        flushed first.

        Parameters:
            jobs: ``task.job(…)`` of each, or of `Jobs.job`; none is fine. Of a generator 2,000 at a time are
                in memory and in a statement, all of these in a savepoint: all are enqueued, or none.

        Raises:
            EnqueueError: one of them is no new job of this model; no job is enqueued then.
            InvalidOption: the first argument is no Session.
        """
        return enqueue_many(self.model, session, jobs)

    # -- cancel, retry, delete, prune, pause ----------------------------------------------------------

    @method
    def cancel(self, session: Sync, job: int | JobT, *, now: dt.datetime | None = None) -> Cancelled:
        """Cancel a job, in the Session's transaction; never waits. See `sqla_jobs.cancel`.

        Raises:
            JobNotFound: there is none of that id.
        """
        return cancel(session, job, model=self.model, now=now)

    @method
    def cancel_all(
        self,
        session: Sync,
        *,
        queue: str | None = None,
        task: str | Task[..., Any, Any] | None = None,
        now: dt.datetime | None = None,
    ) -> int:
        """Cancel all jobs that wait, due or not; those that run are left alone. Returns how many.

        Parameters:
            queue, task: only of this queue, or of this task or the one of this name; None: of any. With
                neither, all that wait are cancelled.

        Raises:
            InvalidOption, InvalidQueueName: it is none.
        """
        if queue is not None:
            check_queue(queue)
        if isinstance(task, Task):
            task = task.name
        if task is not None and not isinstance(task, str):
            raise InvalidOption(f"task {shown(task)}; expected a task, or the name of one")
        own = session_of(session, "cancel_all")
        return lifecycle.cancel_waiting(own, self.model, queue=queue, task=task, now=now)

    @method
    def retry(
        self,
        session: Sync,
        job: int | JobT,
        *,
        again: bool = False,
        now: dt.datetime | None = None,
    ) -> Retried:
        """Run a job once more, or at once, in the Session's transaction. See `sqla_jobs.retry`.

        Raises:
            JobNotFound: there is none of that id.
            DuplicateJob: another job holds its unique key.
        """
        return retry(session, job, again=again, model=self.model, now=now)

    @method
    def delete(self, session: Sync, job: int | JobT) -> Deleted:
        """Delete a job that does not run, in the Session's transaction. See `sqla_jobs.delete`.

        Raises:
            JobNotFound: there is none of that id.
        """
        return delete(session, job, model=self.model)

    @method
    def progress(self, session: Sync, job: int | JobT) -> Progress | None:
        """How far a job has come, as it says by ``current_job().progress(…)``; None: it has said nothing.

        While it runs, within a second of what it said; afterwards what it said last.

        Raises:
            JobNotFound: there is none of that id.
        """
        return progress(session, job, model=self.model)

    @method
    def prune(
        self,
        session: Sync,
        *,
        older_than: dt.timedelta = WEEK,
        states: Iterable[JobState | str] = PRUNED,
        limit: int | None = None,
        now: dt.datetime | None = None,
    ) -> int:
        """Delete jobs that finished long ago, in the Session's transaction. See `sqla_jobs.prune`.

        Raises:
            InvalidOption: an age below zero, a state that is not final, a limit below one.
        """
        return prune(session, older_than=older_than, states=states, limit=limit, model=self.model, now=now)

    @method
    def pause(self, session: Sync, queue: str, *, now: dt.datetime | None = None) -> bool:
        """Begin no more jobs of a queue; False: it is paused already. See `sqla_jobs.pause`.

        Raises:
            InvalidQueueName: it is none.
        """
        return pause(session, queue, model=self.model, now=now)

    @method
    def resume(self, session: Sync, queue: str) -> bool:
        """Begin the jobs of a queue again; False: it was not paused. See `sqla_jobs.resume`.

        Raises:
            InvalidQueueName: it is none.
        """
        return resume(session, queue, model=self.model)

    # -- run ---------------------------------------------------------------------------------------

    @method
    def work_once(
        self,
        session: Sync,
        queues: Sequence[str] | None = None,
        *,
        now: dt.datetime | None = None,
    ) -> Finished | None:
        """Claim, run and finish one job in the caller's transaction (savepoints only, no commit).

        Parameters:
            queues: in strict order; None or empty: any queue.
            now: what the time is taken to be; None: the database's clock.

        Returns:
            What became of the job, or None: there was none.

        Raises:
            JobEscaped: the job ended the caller's transaction, or changed its own row. Half a job may
                be in the transaction: it has been rolled back, and nothing is recorded.
            DBAPIError: a serialization failure or deadlock; the same.
            InvalidRequestError: the Session is in AUTOCOMMIT.
        """
        return runner.work_once(self, session, queues, now=now)

    # -- tables ------------------------------------------------------------------------------------

    @property
    def _companions(self) -> Companions:
        return companions_of(job_table(self.model).schema)

    @property
    def Schedule(self) -> type[ScheduleMixin]:  # noqa: N802 -- a model
        """The model of recurring rules in the schema of the job model."""
        return self._companions.Schedule

    @property
    def WorkerProcess(self) -> type[WorkerProcessMixin]:  # noqa: N802 -- a model
        """The model of living worker processes in the schema of the job model."""
        return self._companions.WorkerProcess

    @property
    def Queue(self) -> type[QueueMixin]:  # noqa: N802 -- a model
        """The model of what is set for queues in the schema of the job model."""
        return self._companions.Queue

    def create_all(self, bind: Engine | Connection) -> None:
        """Create the queue's tables where they are missing; for tests. Elsewhere: migrations."""
        create_tables(bind, self.model)
