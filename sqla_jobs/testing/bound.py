"""The helpers, for one Session and one ``Jobs``; what the fixture ``sqla_jobs_testing`` gives."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session, scoped_session

from sqla_jobs.runner import Finished
from sqla_jobs.tasks import Registry, Task
from sqla_jobs.testing.runs import drain
from sqla_jobs.testing.waiting import assert_enqueued, enqueued, refute_enqueued


class InSession:
    """`drain`, `enqueued`, `assert_enqueued` and `refute_enqueued` without saying of what each time.

    Attributes:
        session: what the jobs are in.
        jobs: the ``Jobs`` whose tasks they are of, and whose model they are.
    """

    def __init__(self, session: Session | scoped_session[Any], jobs: Registry[Any]) -> None:
        self.session = session
        self.jobs = jobs

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
        return drain(self.session, self.jobs, queues, now=now, limit=limit, raises=raises)

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
        return enqueued(
            self.session, which, model=self.jobs.model, queue=queue, arguments=arguments, **matching
        )

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
            self.session,
            task,
            count=count,
            model=self.jobs.model,
            queue=queue,
            arguments=arguments,
            **matching,
        )

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
        refute_enqueued(
            self.session, task, model=self.jobs.model, queue=queue, arguments=arguments, **matching
        )
