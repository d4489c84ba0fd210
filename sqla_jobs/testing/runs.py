"""Run jobs in the test's own transaction until none is left."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.errors import InvalidOption, JobsError, shown
from sqla_jobs.outcome import JobState
from sqla_jobs.runner import Finished, work_once
from sqla_jobs.tasks import Registry, async_of


@verb
def drain(
    session: Sync,
    jobs: Registry[Any],
    queues: Sequence[str] | None = None,
    *,
    now: dt.datetime | None = None,
    limit: int = 1000,
    raises: bool = True,
) -> list[Finished]:
    """Run jobs in the Session's transaction, by `Jobs.work_once`, until none is queued or due.

    Also those that jobs enqueue. A job that waits for its time is run when ``now`` has reached it; a failed
    attempt is tried again, and a snoozed job goes on, in a later call with a later ``now``. What is left to
    workers by ``work_once``, and what is in a paused queue, is left here too; but jobs of tasks with a limit
    are run, since here there is never more than one at a time.

    Parameters:
        jobs: the ``Jobs`` of the application.
        queues: in strict order; None or empty: any queue.
        now: what the time is taken to be for what is due, and for when a failed job is tried again. None: the
            database's clock. The ``delay`` of what a job enqueues is counted by that clock in any case.
        limit: how many runs there may be.
        raises: raise the error of the first run that fails, once it is recorded; a `Snooze` or `Cancel` is no
            failure. False: go on; each error is in its ``Finished``.

    Returns:
        How each run ended, in order.

    Raises:
        JobsError: there were more runs than ``limit``; or on a Session jobs of `async def` tasks are left.
        InvalidOption: no Session, no ``Jobs``, or a limit below one.
        Exception: what a task has raised, and what `Jobs.work_once` raises.
    """
    own = session_of(session, "drain")
    if not isinstance(jobs, Registry):
        raise InvalidOption(f"drain(session, {shown(jobs)}); expected the Jobs of the application")
    if type(limit) is not int or limit < 1:
        raise InvalidOption(f"limit {shown(limit)}; expected a whole number from 1")
    ended: list[Finished] = []
    while (finished := work_once(jobs, session, queues, now=now, limited=True)) is not None:
        ended.append(finished)
        _expire(own, jobs, finished.job.id)
        if raises and finished.failed and finished.error is not None:
            raise finished.error
        if len(ended) > limit:
            most = Counter(each.job.task for each in ended).most_common(5)
            tasks = ", ".join(f"{task} \u00d7 {runs}" for task, runs in most)
            raise JobsError(
                f"drain has run {len(ended)} jobs, and expected no more than {limit}: {tasks}. Does a job "
                "enqueue itself, or is it tried again at once? If there are so many, say limit=…"
            )
    _refuse_to_leave(own, jobs, queues)
    return ended


def _expire(session: Session, jobs: Registry[Any], job_id: int) -> None:
    """Let the test's own object of a job show what became of it: the run wrote its row past the Session."""
    found = session.identity_map.get(session.identity_key(jobs.model, job_id))
    if found is None:
        return
    session.expire(found)
    if async_of(session) is not None:  # where nobody could load it at a mere look
        with suppress(InvalidRequestError):  # its row is gone
            session.refresh(found)


def _refuse_to_leave(session: Session, jobs: Registry[Any], queues: Sequence[str] | None) -> None:
    """A test that goes on as if all had been run would be green for nothing."""
    if async_of(session) is not None:
        return
    for name in sorted(jobs.asynchronous):
        waiting = lifecycle.unfinished(session, jobs.model, task=name)
        if any(job.state == JobState.QUEUED and (not queues or job.queue in queues) for job in waiting):
            raise JobsError(
                f"drain(session) has left jobs of {name!r}, which is an `async def` task; expected an"
                " AsyncSession: await drain(async_session, jobs), or queues=[…] without theirs"
            )
