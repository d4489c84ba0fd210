"""Enqueue unique jobs: whoever comes second is given the job that holds the key.

The INSERT waits for a transaction that is about to take the key, or to let go of it; then it either inserts,
or the holder can be read. If that one has let go of it in between, the INSERT is sent again.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import ColumnElement
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.errors import DuplicateJob
from sqla_jobs.lifecycle.enqueued import Tell, enqueue_many, insert_in_lists
from sqla_jobs.lifecycle.jobs import enqueue
from sqla_jobs.lifecycle.retries import is_duplicate
from sqla_jobs.lifecycle.sent import Model, execute, target
from sqla_jobs.models import JobMixin

JobT = TypeVar("JobT", bound=JobMixin)

TRIES: Final = 100
"""After so many nobody lets go of the key in between: the holder is none that this transaction can see."""
_EPOCH: Final = dt.datetime(1970, 1, 1, tzinfo=dt.timezone.utc)


class Clock:
    """The database's time, asked for once: a window that begins meanwhile is for the next call."""

    def __init__(self, session: Session, model: Model, now: dt.datetime | None = None) -> None:
        self._session = session
        self._model = model
        self._now = now
        self._read: dt.datetime | None = None

    def read(self) -> dt.datetime:
        """The time."""
        if self._read is None:
            found: dt.datetime = execute(
                self._session, self._model, statements.clock(), now=self._now
            ).scalar_one()
            self._read = found
        return self._read


def is_keyed(job: JobMixin) -> bool:
    """Whether a new job asks for a unique key."""
    values = vars(job)
    if not values.get("unique_held"):
        return False
    key = values.get("unique_key")
    return isinstance(key, str) or _window(key) is not None


def enqueue_unique(
    session: Session,
    job: JobT,
    insert: Callable[[Session, JobT], bool],
    *,
    now: dt.datetime | None = None,
) -> JobT:
    """Enqueue a job, or get the one that holds its key, which says that it is a duplicate then.

    Parameters:
        insert: adds a job to the Session and inserts it; False: another holds its key.

    Raises:
        DuplicateJob: a job that this transaction cannot see holds it: above READ COMMITTED, one that was
            committed since its snapshot. The transaction is as it was.
    """
    model = type(job)
    session.flush()
    _resolve([job], Clock(session, model, now))
    key = str(job.unique_key)
    for _ in range(TRIES):
        if insert(session, job):
            return job
        for job_id in _holders(session, model, [key]).values():
            found = session.get(model, job_id, populate_existing=True, bind_arguments=target(model))
            if found is not None and found.unique_held:  # it may have come to its end since
                found.mark_duplicate()
                return found
    raise DuplicateJob(key)


def enqueue_in_savepoint(session: Session, job: JobMixin) -> bool:
    """Enqueue a job; False: another holds its unique key, and nothing is left of this one."""
    if _holders(session, type(job), [str(job.unique_key)]):
        return False  # asked first: a refused INSERT is an error in the server's log
    try:
        with session.begin_nested():
            enqueue(session, job)
    except IntegrityError as error:
        if is_duplicate(error):
            return False
        raise
    return True


def enqueue_many_unique(
    session: Session, model: Model, jobs: Sequence[JobMixin], tell: Tell, clock: Clock
) -> list[int]:
    """`enqueue_many` of jobs some of which have unique keys; for a duplicate the id of the holder.

    Parameters:
        clock: for keys with a window.

    Raises:
        DuplicateJob: as for `enqueue_unique`.
    """
    session.flush()
    _resolve(jobs, clock)
    plain = [job for job in jobs if not is_keyed(job)]
    ids = iter(enqueue_many(session, model, plain, tell) if plain else ())
    # In the order of the keys: two transactions that take the same ones in another order block each other.
    wanted = {str(job.unique_key): job for job in reversed(jobs) if is_keyed(job)}
    missing = dict(sorted(wanted.items()))
    found: dict[str, int] = {}
    for _ in range(TRIES):
        if not missing:
            return [found[str(job.unique_key)] if is_keyed(job) else next(ids) for job in jobs]
        found |= insert_in_lists(session, model, list(missing.values()), tell, enqueue_in_savepoint)
        missing = {key: job for key, job in missing.items() if key not in found}
        found |= _holders(session, model, missing)
        missing = {key: job for key, job in missing.items() if key not in found}
    raise DuplicateJob(next(iter(missing)))


def _holders(session: Session, model: Model, keys: Iterable[str]) -> dict[str, int]:
    """The ids of the jobs that hold these keys."""
    asked = list(keys)
    rows = execute(session, model, statements.holders(model), p_keys=asked) if asked else ()
    return {row.unique_key: row.id for row in rows}


def _resolve(jobs: Iterable[JobMixin], clock: Clock) -> None:
    """Make texts of keys with a window, at the database's time."""
    for job in jobs:
        if (asked := _window(vars(job).get("unique_key"))) is not None:
            job.unique_key = windowed(*asked, clock.read())


def _window(key: Any) -> tuple[str, dt.timedelta] | None:
    return statements.window_of(key) if isinstance(key, ColumnElement) else None


def windowed(key: str, length: dt.timedelta, moment: dt.datetime) -> str:
    """What ``statements.window`` makes at that moment."""
    seconds = length // dt.timedelta(seconds=1)
    start = (moment - _EPOCH) // length * seconds
    return f"{key}@{start}/{start + seconds}"
