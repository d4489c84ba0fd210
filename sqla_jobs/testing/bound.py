"""The helpers, for one Session and one ``Jobs``; what the fixture ``sqla_jobs_testing`` gives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, cast, overload

from sqlalchemy.orm import Session
from typing_extensions import TypeVar

from sqla_jobs.awaited import Awaited, Sync
from sqla_jobs.runner import Finished
from sqla_jobs.tasks import Registry, Task
from sqla_jobs.testing.runs import drain
from sqla_jobs.testing.waiting import assert_enqueued, enqueued, refute_enqueued

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
SessionT_co = TypeVar("SessionT_co", bound="Sync | Awaited", covariant=True, default=Session)


class _Bound(Protocol[P, R_co]):
    """A method of `InSession`, and what comes of it with either kind of session."""

    @overload
    def __get__(self, instance: InSession[Sync], owner: type, /) -> Callable[P, R_co]: ...
    @overload
    def __get__(
        self, instance: InSession[Awaited], owner: type, /
    ) -> Callable[P, Coroutine[Any, Any, R_co]]: ...


def _bound(function: Callable[Concatenate[Any, P], R], /) -> _Bound[P, R]:
    return cast("_Bound[P, R]", function)


class InSession(Generic[SessionT_co]):
    """`drain`, `enqueued`, `assert_enqueued` and `refute_enqueued` without saying of what each time.

    Attributes:
        session: what the jobs are in; with an AsyncSession each of them is awaited.
        jobs: the ``Jobs`` whose tasks they are of, and whose model they are.
    """

    def __init__(self, session: SessionT_co, jobs: Registry[Any]) -> None:
        self.session = session
        self.jobs = jobs

    @property
    def _own(self) -> Session:
        # The methods are written for this; with the other kind they return what the helpers do: a coroutine.
        return cast("Session", self.session)

    @_bound
    def drain(
        self,
        queues: Sequence[str] | None = None,
        *,
        now: dt.datetime | None = None,
        limit: int = 1000,
        raises: bool = True,
    ) -> list[Finished]:
        """Run jobs until none is queued or due; see `sqla_jobs.testing.drain`."""
        __tracebackhide__ = True
        return drain(self._own, self.jobs, queues, now=now, limit=limit, raises=raises)

    @_bound
    def enqueued(
        self,
        task: Task[..., Any, Any] | str | None = None,
        /,
        *,
        queue: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        **matching: Any,
    ) -> list[Any]:
        """The jobs that are not finished; see `sqla_jobs.testing.enqueued`."""
        which: Any = task
        return enqueued(self._own, which, model=self.jobs.model, queue=queue, arguments=arguments, **matching)

    @_bound
    def assert_enqueued(
        self,
        task: Task[..., Any, Any] | str | None = None,
        /,
        *,
        count: int | None = None,
        queue: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        **matching: Any,
    ) -> list[Any]:
        """See that a job is enqueued; see `sqla_jobs.testing.assert_enqueued`."""
        __tracebackhide__ = True
        return assert_enqueued(
            self._own,
            task,
            count=count,
            model=self.jobs.model,
            queue=queue,
            arguments=arguments,
            **matching,
        )

    @_bound
    def refute_enqueued(
        self,
        task: Task[..., Any, Any] | str | None = None,
        /,
        *,
        queue: str | None = None,
        arguments: Mapping[str, Any] | None = None,
        **matching: Any,
    ) -> None:
        """See that no such job is enqueued; see `sqla_jobs.testing.refute_enqueued`."""
        __tracebackhide__ = True
        return refute_enqueued(
            self._own, task, model=self.jobs.model, queue=queue, arguments=arguments, **matching
        )
