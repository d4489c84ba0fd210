"""The verbs of what is there already, as plain functions: cancel, retry, delete, prune, pause. Session first.

Each is awaited on an AsyncSession.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.lifecycle import Cancelled, Deleted, Retried
from sqla_jobs.meter import Progress
from sqla_jobs.models import Job, JobMixin, check_queue
from sqla_jobs.outcome import JobState

WEEK: Final = dt.timedelta(days=7)
PRUNED: Final = (JobState.SUCCEEDED, JobState.CANCELLED)
"""What `prune` deletes unless it is told otherwise: whoever looks after failed jobs may come late."""
_FINAL: Final = tuple(each.value for each in JobState if each.is_final)


@verb
def cancel(
    session: Sync,
    job: int | JobMixin,
    *,
    model: type[JobMixin] = Job,
    now: dt.datetime | None = None,
) -> Cancelled:
    """Cancel a job, in the Session's transaction; never waits.

    Parameters:
        job: its id, or itself.
        model: the job model, for an id; `Jobs.cancel` knows its own.
        now: what the time is taken to be; None: the database's clock.

    Returns:
        What was done: ``cancelled`` (it waited), ``requested`` (it runs, and its worker interrupts it),
        ``finished`` (too late), ``busy`` (somebody has it locked: nothing was written, ask again).

    Raises:
        JobNotFound: there is none of that id.
        InvalidOption: it is no id, nor a job that is enqueued.
    """
    own = session_of(session, "cancel")
    model, job_id = _found(own, "cancel", model, job)
    return lifecycle.cancel(own, model, job_id, now=now)


@verb
def retry(
    session: Sync,
    job: int | JobMixin,
    *,
    again: bool = False,
    model: type[JobMixin] = Job,
    now: dt.datetime | None = None,
) -> Retried:
    """Run a job once more: one that failed or was cancelled, or at once one that waits for its time.

    In the Session's transaction; never waits for who runs the job. It is ``queued`` then for this very
    moment, with all its attempts before it; what its row says of the earlier ones stays. If it had a unique
    key, it takes that again, for which it waits as an enqueue does.

    Parameters:
        job: its id, or itself.
        again: also if it has succeeded; what it did then is not undone.
        model: the job model, for an id; `Jobs.retry` knows its own.
        now: what the time is taken to be; None: the database's clock.

    Returns:
        What was done: ``retried``; or nothing was written, because it is ``queued`` already, or ``running``,
        or has ``succeeded``, or is ``busy`` (somebody has it locked: ask again).

    Raises:
        JobNotFound: there is none of that id.
        DuplicateJob: another job holds its unique key; the transaction is as it was.
        InvalidOption: it is no id, nor a job that is enqueued.
    """
    own = session_of(session, "retry")
    model, job_id = _found(own, "retry", model, job)
    return lifecycle.retry(own, model, job_id, again=again, now=now)


@verb
def delete(session: Sync, job: int | JobMixin, *, model: type[JobMixin] = Job) -> Deleted:
    """Delete a job that does not run, in the Session's transaction; waits for nobody who has it locked.

    Nothing of it is left, and its unique key is free. A foreign key with ON DELETE CASCADE or SET NULL does
    what it says, and waits for the rows that it changes.

    Parameters:
        job: its id, or itself.
        model: the job model, for an id; `Jobs.delete` knows its own.

    Returns:
        What was done: ``deleted``; or nothing was written, because it is ``running``, or ``busy`` (somebody
        has it locked: ask again), or ``referenced`` by a row whose foreign key does not let it go.

    Raises:
        JobNotFound: there is none of that id.
        InvalidOption: it is no id, nor a job that is enqueued.
    """
    own = session_of(session, "delete")
    model, job_id = _found(own, "delete", model, job)
    return lifecycle.delete(own, model, job_id)


@verb
def progress(session: Sync, job: int | JobMixin, *, model: type[JobMixin] = Job) -> Progress | None:
    """How far a job has come, as it has said by `RunningJob.progress`. Waits for nobody.

    While it runs, this is what its worker has written, within a second of what the job said; afterwards what
    it said last. ``attempt`` tells which attempt said it: one that has just begun has said nothing yet.

    Parameters:
        job: its id, or itself.
        model: the job model, for an id; `Jobs.progress` knows its own.

    Returns:
        None: it has said nothing.

    Raises:
        JobNotFound: there is none of that id.
        InvalidOption: it is no id, nor a job that is enqueued.
    """
    own = session_of(session, "progress")
    model, job_id = _found(own, "progress", model, job)
    return lifecycle.progress(own, model, job_id)


@verb
def prune(
    session: Sync,
    *,
    older_than: dt.timedelta = WEEK,
    states: Iterable[JobState | str] = PRUNED,
    limit: int | None = None,
    model: type[JobMixin] = Job,
    now: dt.datetime | None = None,
) -> int:
    """Delete jobs that finished long ago, the oldest first, in the Session's transaction.

    A job that somebody has locked is passed over, and so is one whose deletion a foreign key refuses: how
    many, and which tables refer to them, is logged.

    Parameters:
        older_than: since when they have been finished; zero: all that are.
        states: out of ``succeeded``, ``failed``, ``cancelled``. Failed jobs are kept unless asked for.
        limit: at most so many. None: all, in this one transaction; for many give a limit, commit, and call
            again while it returns as many.
        model: the job model; `Jobs.prune` knows its own.
        now: what the time is taken to be; None: the database's clock.

    Returns:
        How many were deleted.

    Raises:
        InvalidOption: an age below zero, a state that is not final, a limit below one.
    """
    own = session_of(session, "prune")
    ages = dict.fromkeys(_final(states), lifecycle.check_age("older_than", older_than))
    if limit is not None and (type(limit) is not int or limit < 1):
        raise InvalidOption(f"limit {shown(limit)}; expected a whole number from 1, or None for all")
    own.flush()
    return sum(lifecycle.prune(own, model, ages, limit=limit, now=now))


@verb
def pause(
    session: Sync,
    queue: str,
    *,
    model: type[JobMixin] = Job,
    now: dt.datetime | None = None,
) -> bool:
    """Begin no more jobs of a queue, from the commit of the Session's transaction on.

    Every worker obeys within a second, and `Jobs.work_once` at once. Jobs that run go on to their end; others
    may still be enqueued, and wait; schedules go on to make them.

    Parameters:
        queue: its name; it need not have jobs yet.
        model: the job model; `Jobs.pause` knows its own.
        now: what the time is taken to be, for ``paused_at``; None: the database's clock.

    Returns:
        Whether that is new; False: it was paused already, and stays so.

    Raises:
        InvalidQueueName: it cannot be the name of a queue.
    """
    return lifecycle.pause(session_of(session, "pause"), model, check_queue(queue), now=now)


@verb
def resume(session: Sync, queue: str, *, model: type[JobMixin] = Job) -> bool:
    """Begin the jobs of a queue again, from the commit of the Session's transaction on; undoes `pause`.

    Parameters:
        queue, model: as for `pause`.

    Returns:
        Whether it was paused.

    Raises:
        InvalidQueueName: it cannot be the name of a queue.
    """
    return lifecycle.resume(session_of(session, "resume"), model, check_queue(queue))


def _final(states: Iterable[JobState | str]) -> list[JobState]:
    if isinstance(states, str):
        raise InvalidOption(f"states is the text {shown(states)}; expected several: [{shown(states)}]")
    asked = list(states)
    for each in asked:
        if each not in _FINAL:
            raise InvalidOption(
                f"prune of {shown(each)} jobs; expected states out of {', '.join(_FINAL)}: others are not "
                "finished, and cancel() or cancel_all() ends them first"
            )
    return [JobState(each) for each in asked]


def _found(
    session: Session, name: str, model: type[JobMixin], job: int | JobMixin
) -> tuple[type[JobMixin], int]:
    session.flush()  # the job itself may be pending
    if isinstance(job, JobMixin):
        model, job = type(job), job.id
    if type(job) is not int:
        raise InvalidOption(f"{name}(…, {shown(job)}); expected the id of a job, or a job that is enqueued")
    return model, job
