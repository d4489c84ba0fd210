"""Enqueue many jobs at once: what is given is checked before anything is written.

Of a generator, which may read a file or a table, that is a batch, and what is written already is not kept in
memory.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, inspect
from sqlalchemy.orm import Mapper, Session
from sqlalchemy.orm.attributes import instance_state

from sqla_jobs import commits, flush, lifecycle, wakeup
from sqla_jobs.arguments import given_to, put
from sqla_jobs.awaited import Sync, session_of
from sqla_jobs.errors import EnqueueError, shown
from sqla_jobs.models import JobMixin

JobT = TypeVar("JobT", bound=JobMixin)

BATCH = 2_000
"""Jobs of a generator that are in memory at once, and in one statement: more are not enqueued any faster."""
_CALL: Final = "_sqla_jobs_call"


def enqueue_many(model: type[JobT], session: Sync, jobs: Iterable[JobT]) -> list[int]:
    """Enqueue new jobs of a model in the Session's transaction; see `Jobs.enqueue_many`."""
    own = session_of(session, "enqueue_many")
    if not isinstance(jobs, Iterable):
        raise EnqueueError(f"enqueue_many(…, {shown(jobs)}); expected jobs: [task.job(…) for … in …]")
    call = _Call(model, own)
    coming = iter(jobs)
    # A list is in memory as it is; and in one statement unique keys are taken in their order.
    batch = list(islice(coming, len(jobs) if isinstance(jobs, Collection) else BATCH))
    more = list(islice(coming, 1))
    call.check(batch)
    if not batch:
        return []
    if more and call.has_savepoints():
        return call.in_batches(batch, chain(more, coming))
    rest = [*more, *coming]
    call.check(rest)
    return call.enqueue([*batch, *rest], flush.tell_many)


class _Call:
    """One call of `enqueue_many`."""

    def __init__(self, model: type[JobMixin], session: Session) -> None:
        self._model = model
        self._session = session
        self._clock = lifecycle.Clock(session, model)
        self._mark = object()
        self._checked = 0
        self._untold: dict[Any, JobMixin] = {}

    def in_batches(self, batch: list[Any], coming: Iterator[Any]) -> list[int]:
        """Enqueue jobs of which the first batch is checked, or none of them."""
        ids: list[int] = []
        # An error in the third batch, or in whoever makes the jobs, leaves nothing of the first.
        with self._session.begin_nested():
            while batch:
                ids += self.enqueue(batch, self._tell_later)
                batch.clear()  # before the next jobs are made
                batch += islice(coming, BATCH)
                self.check(batch)
        # Not in the savepoint: what is told in one that is over may have been rolled back, and is told again.
        flush.tell_many(self._session, self._connection(), list(self._untold.values()))
        return ids

    def enqueue(self, batch: Sequence[JobMixin], tell: lifecycle.Tell) -> list[int]:
        """Enqueue jobs that are checked."""

        def tell_and_count(session: Session, connection: Connection, jobs: Sequence[JobMixin]) -> None:
            commits.enqueued(session, jobs)
            tell(session, connection, jobs)

        if any(map(lifecycle.is_keyed, batch)):
            return lifecycle.enqueue_many_unique(
                self._session, self._model, batch, tell_and_count, self._clock
            )
        return lifecycle.enqueue_many(self._session, self._model, batch, tell_and_count)

    def has_savepoints(self) -> bool:
        """False in AUTOCOMMIT, where one statement is all that holds jobs together."""
        driver = self._connection().connection.dbapi_connection
        return getattr(driver, "autocommit", False) is not True

    def _connection(self) -> Connection:
        return self._session.connection(bind_arguments=lifecycle.target(self._model))

    def _tell_later(self, _: Session, __: Connection, jobs: Sequence[JobMixin]) -> None:
        for job in wakeup.unlike(jobs):
            self._untold[type(job), wakeup.mode_of(job), wakeup.payload_of(job)] = job

    def check(self, given: Sequence[Any]) -> None:
        """Raise EnqueueError for what is no new job, or one that only a flush can enqueue."""
        for number, job in enumerate(given, self._checked):
            self._check_job(number, job)
        self._checked += len(given)
        mapper: Mapper[Any] = inspect(self._model)
        for related in mapper.relationships:
            # Cascades are for what is in a Session; passed over, it would be a null in a foreign key.
            if any(vars(job).get(related.key) for job in given):
                raise EnqueueError(
                    f"enqueue_many(…): {related.key!r} of a job is set, a relationship, which only a flush"
                    " can follow; expected the columns of its foreign key, or session.add_all(…)"
                )

    def _check_job(self, number: int, job: Any) -> None:
        if not isinstance(job, self._model):
            raise EnqueueError(
                f"enqueue_many(…): number {number} is {shown(job)}; expected a new {self._model.__name__},"
                " as task.job(…) makes it, where the task is one of these jobs"
            )
        state = instance_state(job)
        if (state.key is not None or state.session_id is not None) and not state.transient:
            raise EnqueueError(
                f"enqueue_many(…): number {number} is {shown(job)}, which is or was in a Session already;"
                " expected a new one, as task.job(…) makes it"
            )
        if vars(job).get(_CALL) is self._mark:
            raise EnqueueError(
                f"enqueue_many(…): number {number} is {shown(job)}, which is in it already; expected a new"
                " one for each call, as task.job(…) makes it"
            )
        # On the job: its id() is another one's when it is gone.
        vars(job)[_CALL] = self._mark
        objects = given_to(job)
        if objects is not None:
            put(job, objects.resolved())
