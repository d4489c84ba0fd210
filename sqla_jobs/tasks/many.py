"""Enqueue many jobs at once: what is given is checked before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from sqlalchemy import inspect
from sqlalchemy.orm import Mapper, Session, scoped_session
from sqlalchemy.orm.attributes import instance_state

from sqla_jobs import flush, lifecycle
from sqla_jobs.arguments import given_to, put
from sqla_jobs.errors import EnqueueError, InvalidOption, shown
from sqla_jobs.models import JobMixin

JobT = TypeVar("JobT", bound=JobMixin)


def enqueue_many(
    model: type[JobT], session: Session | scoped_session[Any], jobs: Iterable[JobT]
) -> list[int]:
    """Enqueue new jobs of a model in the Session's transaction; see `Jobs.enqueue_many`."""
    if not isinstance(session, (Session, scoped_session)):
        raise InvalidOption(
            f"enqueue_many({shown(session)}, …); expected a Session or scoped_session first"
            " (an AsyncSession runs it: await session.run_sync(jobs.enqueue_many, …))"
        )
    if not isinstance(jobs, Iterable):
        raise EnqueueError(f"enqueue_many(…, {shown(jobs)}); expected jobs: [task.job(…) for … in …]")
    given = list(jobs)
    _check(model, given)
    if not given:
        return []
    own: Session = session() if isinstance(session, scoped_session) else session
    if any(map(lifecycle.is_keyed, given)):
        return lifecycle.enqueue_many_unique(own, model, given, flush.tell_many)
    return lifecycle.enqueue_many(own, model, given, flush.tell_many)


def _check(model: type[JobMixin], given: Sequence[Any]) -> None:
    seen = set[int]()
    for number, job in enumerate(given):
        if not isinstance(job, model):
            raise EnqueueError(
                f"enqueue_many(…): number {number} is {shown(job)}; expected a new {model.__name__},"
                " as task.job(…) makes it, where the task is one of these jobs"
            )
        state = instance_state(job)
        if (state.key is not None or state.session_id is not None) and not state.transient:
            raise EnqueueError(
                f"enqueue_many(…): number {number} is {shown(job)}, which is or was in a Session already;"
                " expected a new one, as task.job(…) makes it"
            )
        if id(job) in seen:
            raise EnqueueError(
                f"enqueue_many(…): number {number} is {shown(job)}, which is in it already; expected a new"
                " one for each call, as task.job(…) makes it"
            )
        seen.add(id(job))
        objects = given_to(job)
        if objects is not None:
            put(job, objects.resolved())
    mapper: Mapper[Any] = inspect(model)
    for related in mapper.relationships:
        # Cascades are for what is in a Session; passed over, it would be a null in a foreign key.
        if any(vars(job).get(related.key) for job in given):
            raise EnqueueError(
                f"enqueue_many(…): {related.key!r} of a job is set, a relationship, which only a flush can"
                " follow; expected the columns of its foreign key, or session.add_all(…)"
            )
