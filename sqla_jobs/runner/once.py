"""One job in the caller's transaction."""

from __future__ import annotations

import datetime as dt
from asyncio import CancelledError
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import scoped_session

from sqla_jobs import lifecycle
from sqla_jobs.awaited import Sync, session_of
from sqla_jobs.errors import JobEscaped
from sqla_jobs.lifecycle import Written
from sqla_jobs.meter import Meter
from sqla_jobs.outcome import JobState, decide
from sqla_jobs.policy import policy_at
from sqla_jobs.runner.failures import is_conflict
from sqla_jobs.runner.run import CHANGED, TAKEN, Finished, finished, run, told
from sqla_jobs.scope import Interrupted, JobScope, keep_in_registry, refuse_autocommit, refuse_driver
from sqla_jobs.tasks import Registry, async_of, check_queues, progressed, running


def work_once(
    registry: Registry[Any],
    session: Sync,
    queues: Sequence[str] | None = None,
    *,
    now: dt.datetime | None = None,
    limited: bool = False,
) -> Finished | None:
    """Claim, run and finish one job in savepoints of the caller's transaction; None: there is no job.

    Nothing is committed: the caller's commit makes it all true, its rollback makes it unhappen.

    Parameters:
        limited: jobs of tasks with a limit, too, which else are left to workers: those cannot count what runs
            in a transaction that is not committed.

    Raises:
        InvalidOption: it is no Session; or ``queues`` is a text, or names what cannot be a queue.
        JobEscaped: the job ended the caller's transaction, or changed its own row.
        DBAPIError: a serialization failure or deadlock.
        InvalidRequestError: the Session is in AUTOCOMMIT.
        CancelledError: what awaits it on an AsyncSession was cancelled.

        Once it has claimed a job, whatever it raises, nothing is recorded and the caller's transaction
        has been rolled back: half a job may have been in it.
    """
    own = session_of(session, "work_once")
    queues = check_queues(queues)
    model = registry.model
    if isinstance(session, scoped_session):
        keep_in_registry(session)
    refuse_driver(own.get_bind(**lifecycle.target(model)).dialect)
    refuse_autocommit(own.connection(bind_arguments=lifecycle.target(model)))
    own.flush()  # a job that is pending in this Session is as good as one that is in the table
    left = None if limited else list(registry.limited)
    # Of the inner Session of an AsyncSession, in its run_sync, coroutines can be awaited.
    is_awaited = async_of(own) is not None
    others = () if is_awaited else registry.asynchronous
    job = lifecycle.take(own, model, queues, held=TAKEN.get(), limited=left, others=others, now=now)
    if job is None:
        return None
    policy = registry.policy_for(job.task)
    meter = None if job.task in registry.fast else Meter()
    redaction = registry.redaction_for(job)
    view = running(job, policy, attempt=job.attempt + 1, meter=meter, redaction=redaction)
    watch = registry.watching and registry.watching.begin(job, view, claimed=False)
    result: Finished | None = None
    scope = JobScope(own, model, owned=False)
    token = TAKEN.set((*TAKEN.get(), job.id))
    try:
        ran = run(registry, job, view, scope, own)
        if isinstance(ran.error, (KeyboardInterrupt, Interrupted)) or is_conflict(ran.error):
            raise ran.error
        if is_awaited and isinstance(ran.error, CancelledError):
            raise ran.error  # whoever awaits this is cancelled, which is not the job's failure
        delay_for = policy_at(policy, view.attempt, view.max_attempts)
        outcome = decide(ran.returned, ran.error, delay_for, view.clean)
        outcome = progressed(view, outcome)
        written: Written | None = Written(outcome.state, job.run_at)
        passes = job.task in registry.passing and outcome.state is JobState.SUCCEEDED
        if not (passes and lifecycle.remove(own, model, [job], taken=True)):
            written = lifecycle.finish(own, model, job, outcome, taken=True, now=now)
        if written is None:
            raise JobEscaped(CHANGED)
        result = finished(view, outcome, written)
        return result
    except BaseException as error:
        scope.abandon()
        if is_awaited and isinstance(error.__cause__, CancelledError):
            raise error.__cause__ from None  # the connection is gone with it, which is no news
        raise
    finally:
        TAKEN.reset(token)
        if watch:
            watch.over(*told(result))
