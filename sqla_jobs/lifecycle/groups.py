"""The verbs of several jobs at once: the fast lane's, and `exchange`, the ordinary lane's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.lifecycle.jobs import Claimed, Mark, behind, claim, claimed
from sqla_jobs.lifecycle.sent import LeftOut, Model, execute, fetch, left_out, selection, target
from sqla_jobs.outcome import Outcome
from sqla_jobs.statements import IS_NEW, IS_NEXT, IS_ORDINARY, Filter


def claim_either(
    connection: Connection,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None,
    fast: Sequence[str],
    *,
    innocent: bool = False,
    mark: Mark | None = None,
    only: Filter | None = None,
    left: LeftOut | None = None,
    now: dt.datetime | None = None,
) -> tuple[Claimed, bool] | None:
    """Claim the next job in the lane that it is for; None: there is none.

    Parameters:
        fast: the names of the tasks that may run in the fast lane.
        innocent, mark, only, left: as for `claim`.

    Returns:
        The job, and whether it is ``running`` and for the caller to commit at once; else it is locked.
    """
    chosen = selection(queues)
    rows = fetch(
        connection,
        model,
        statements.claim_either(model, not chosen, innocent, mark is not None, only, left is not None),
        p_worker_id=worker_id,
        fast=list(fast),
        now=now,
        **chosen,
        **behind(mark),
        **left_out(left),
    )
    return (claimed(rows[0]), rows[0][IS_ORDINARY]) if rows else None


def join(
    connection: Connection,
    model: Model,
    first: Claimed,
    queues: Sequence[str] | None,
    fast: Sequence[str],
    limit: int,
    *,
    only: Filter | None = None,
    now: dt.datetime | None = None,
) -> list[Claimed]:
    """Lock up to ``limit`` more fast-lane jobs in the transaction that has locked the first.

    Only such as come behind it, of its priority, and with a list of queues of its queue.
    """
    chosen = selection(queues and [first.queue])
    rows = fetch(
        connection,
        model,
        statements.join(model, not chosen, limit, only),
        p_worker_id=first.worker_id,
        fast=list(fast),
        now=now,
        **chosen,
        **behind(Mark.at(first)),
    )
    return [claimed(row) for row in rows]


def claim_group(
    connection: Connection,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None,
    fast: Sequence[str],
    limit: int,
    mark: Mark,
    *,
    only: Filter | None = None,
    now: dt.datetime | None = None,
) -> tuple[list[Claimed], bool]:
    """Lock up to ``limit`` fast-lane jobs behind a mark, of its priority; none, if the next job is no such.

    Then it is for `claim_either`. So it is if the lane is closed.

    Parameters:
        queues: at most one.

    Returns:
        The jobs, and whether the first of them is the next one, which nobody else had.
    """
    chosen = selection(queues)
    rows = fetch(
        connection,
        model,
        statements.claim_group(model, not chosen, limit, only),
        p_worker_id=worker_id,
        fast=list(fast),
        now=now,
        **chosen,
        **behind(mark),
    )
    return [claimed(row) for row in rows], bool(rows) and rows[0][IS_NEXT]


def finish_group(
    session: Session | Connection,
    model: Model,
    jobs: Sequence[Claimed],
    outcomes: Sequence[Outcome] = (),
    *,
    now: dt.datetime | None = None,
) -> bool:
    """Record that these jobs, locked in this transaction, have succeeded; False: some row is not as it was.

    One of them has changed its row, or let go of the lock on it: the caller rolls back.

    Parameters:
        outcomes: of each, for its result; none: there are none.
    """
    if not jobs:
        return True
    more = _more(outcomes)
    done = fetch(
        session,
        model,
        statements.finish_group(model, bool(more)),
        ids=[job.id for job in jobs],
        claims=[job.claim for job in jobs],
        p_started_at=jobs[0].started_at,
        p_worker_id=jobs[0].worker_id,
        now=now,
        **more,
    )
    return len(done) == len(jobs)


def _more(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The results and the progress of jobs as parameters; empty if no job has any."""
    if not any(each.leaves_more for each in outcomes):
        return {}
    return {
        "results": [None if each.result is None else each.result.text for each in outcomes],
        "progresses": [each.progress for each in outcomes],
    }


def remove(session: Session, model: Model, jobs: Sequence[Claimed], *, taken: bool = False) -> set[int]:
    """Delete jobs that have succeeded, in this transaction; returns the ids of those that are gone.

    The others are for `finish`: somebody refers to one of them, or is about to, or its claim does not hold.

    Parameters:
        taken: as for `finish`.
    """
    if not jobs:
        return set()
    connection = session.connection(bind_arguments=target(model))
    given: dict[str, Any] = {"ids": [job.id for job in jobs], "claims": [job.claim for job in jobs]}
    if not taken:
        given["p_worker_id"] = jobs[0].worker_id
    statement = statements.remove(model, "queued" if taken else "running")
    try:
        with connection.begin_nested():
            rows = execute(connection, model, statement, **given).all()
            # A deferred foreign key would refuse the commit, and with it what the job has done.
            connection.execute(statements.check_constraints())
    except IntegrityError:
        return set()
    return {row.id for row in rows}


def exchange(
    session: Session | Connection,
    model: Model,
    worker_id: int,
    done: Sequence[Claimed],
    queues: Sequence[str] | None,
    limit: int,
    *,
    outcomes: Sequence[Outcome] = (),
    innocent: bool = False,
    mark: Mark | None = None,
    only: Filter | None = None,
    left: LeftOut | None = None,
    now: dt.datetime | None = None,
) -> tuple[set[int], list[Claimed]]:
    """Record that running jobs of this worker have succeeded, and claim up to ``limit`` others.

    Parameters:
        done: jobs that have written nothing.
        outcomes: of each, for its result and its progress; none: there are none.
        innocent, mark, only, left: as for `claim`.

    Returns:
        The ids of those whose claim still held; and the jobs that were claimed.
    """
    given: dict[str, Any]
    if not done:
        given = {"limit": limit, "innocent": innocent, "mark": mark, "only": only, "left": left, "now": now}
        return set(), claim(session, model, worker_id, queues, **given)
    given = {
        "ids": [job.id for job in done],
        "claims": [job.claim for job in done],
        "p_worker_id": worker_id,
        "now": now,
        **_more(outcomes),
    }
    more = "results" in given
    if not limit:
        return {row[0] for row in fetch(session, model, statements.finish_running(model, more), **given)}, []
    chosen = selection(queues)
    statement = statements.exchange(
        model, not chosen, innocent, limit, mark is not None, more, only, left is not None
    )
    rows = fetch(session, model, statement, **given, **chosen, **behind(mark), **left_out(left))
    return {row[0] for row in rows if not row[IS_NEW]}, [claimed(row) for row in rows if row[IS_NEW]]
