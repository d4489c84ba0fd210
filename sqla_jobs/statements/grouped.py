"""The fast lane: jobs that are claimed, run and finished within one transaction."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    FromClause,
    Table,
    Text,
    and_,
    bindparam,
    false,
    func,
    not_,
    null,
    or_,
    select,
    text,
    true,
    union_all,
    update,
)

from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.liveness import died_lately, is_doubtful, is_free
from sqla_jobs.statements.queued import eligible, following, is_unlimited, run_under
from sqla_jobs.statements.terms import (
    CLAIMED,
    ONE,
    Model,
    among_claims,
    claimed,
    done_jobs,
    durable,
    is_,
    job_table,
    left,
    now,
    once,
    rows,
    state,
    worker_table,
)
from sqla_jobs.statements.unique import held_when_over, is_for_workers

NEAR: Final = 200
"""How far from the first job others are looked for that may join it. In a queue of other tasks the search
would go on to its end."""


def _is_fast(task: ColumnElement[str]) -> ColumnElement[bool]:
    return task == func.any(bindparam("fast", type_=ARRAY(Text)))


def _is_slow(task: ColumnElement[str]) -> ColumnElement[bool]:
    # Not by not_(): of `= ANY` SQLAlchemy 2.0 makes `!= ANY`.
    return task != func.all(bindparam("fast", type_=ARRAY(Text)))


def _waiting(job: Table) -> list[ColumnElement[Any]]:
    """The columns of a claim, of a row that stays ``queued``: this worker starts it now."""
    worker = bindparam("p_worker_id", type_=BigInteger).label("worker_id")
    now_known: dict[str | None, ColumnElement[Any]] = {
        "started_at": now().label("started_at"),
        "worker_id": worker,
    }
    return [now_known.get(each.key, each) for each in claimed(job)]


def _somebody_died(model: Model) -> ColumnElement[bool]:
    """Whether a worker is dead, or may be, or was found dead within the last minute: the lane is closed."""
    worker = worker_table(model)
    others = worker.c.id != bindparam("p_worker_id", type_=BigInteger)
    died = or_(is_free(worker, true()), died_lately(worker), and_(others, is_doubtful(worker)))
    return select(worker.c.id).where(died).exists()


@once
def claim_either(
    model: Model,
    any_queue: bool,
    innocent: bool,
    marked: bool,
    only: Filter | None = None,
    limited: bool = False,
) -> Executable:
    """The next job, in the lane that it is for: the columns of a claim, and whether it is the ordinary one.

    A job of one of the tasks in ``:fast`` is locked, and stays ``queued``: it is for the caller to run and
    finish it before it commits. Any other is made ``running``, as `claim` does, for the caller to commit at
    once; so is one that lets go of its unique key when it begins, and each while a worker is dead or may be,
    for a minute after it was found dead, or if one has died of the job. What kills its process in the fast
    lane leaves no trace; in the ordinary one attempts are counted before the job runs.

    ``limited``: as for `claim`; a next job that has to be counted first is left as it is: there is no row.

    Parameters: ``fast``, and those of `claim`. Locks one job, passing over locked ones, and the free locks of
    dead workers in the shared form. Indexes as for `claim`.
    """
    job = job_table(model)
    columns = [*_waiting(job), job.c.unique_scope, *([job.c.limit_key] if limited else [])]
    wanted = eligible(model, innocent, only, limited)
    picked = following(job, any_queue, *columns, where=wanted, marked=marked).cte("picked")
    unlimited = [is_unlimited(picked)] if limited else []
    taken = (
        update(job)
        .where(
            is_(job.c.id, picked.c.id),
            or_(
                _is_slow(picked.c.task),
                is_for_workers(picked),
                picked.c.crashes >= ONE,
                _somebody_died(model),
            ),
            *unlimited,
        )
        .values(run_under(job))
        .returning(*claimed(job), durable())
        .cte("taken")
    )
    ordinary = [taken.c[name] for name in CLAIMED]
    fast = [picked.c[name] for name in CLAIMED]
    return union_all(
        select(*ordinary, true().label("is_ordinary"), taken.c.durable),
        select(*fast, false(), null()).where(~select(taken.c.id).exists(), *unlimited),
    )


@once
def join(model: Model, any_queue: bool, limit: int, only: Filter | None = None) -> Executable:
    """More fast-lane jobs for a transaction that has one: those of the tasks in ``:fast``, in their order.

    Parameters: ``fast``, ``p_worker_id``, ``now``, ``queues`` unless ``any_queue``, and as a mark (see
    `following`) the job that it has. Looks at the next `NEAR` rows behind that, and locks up to ``limit`` of
    them, passing over locked ones; of another task none is locked. ``only``: see `claim`. Indexes: as for
    that, then the primary key. Without the mark the planner, where its statistics are old, sorts the backlog
    for so many rows.
    """
    near, got = _near_by(model, any_queue, only)
    chosen = select(*got.c).select_from(near.join(got, true()))
    return chosen.where(_is_fast(near.c.task), near.c.crashes < ONE).limit(rows(limit))


@once
def claim_group(model: Model, any_queue: bool, limit: int, only: Filter | None = None) -> Executable:
    """`join` behind the last job of the group before: `claim_either` and `join` in one.

    Nothing, if the very next job is for the ordinary lane, or all are, because somebody died: it is for
    `claim_either` to say so. Else jobs of the fast lane would pass over it for as long as there are some. The
    last column says of each job whether it is that one; if none is, others have it.

    Parameters, locks and indexes: as for `join`; the free locks of dead workers in the shared form.
    """
    near, got = _near_by(model, any_queue, only)
    # In the order of the rows, which are read one by one: nobody asks for the last of them.
    first = select(*near.c).limit(rows(1)).subquery("first")
    fast = [_is_fast(first.c.task), first.c.crashes < ONE, not_(is_for_workers(first))]
    next_one = select(first.c.id).where(*fast, first.c.limit_key.is_(None)).scalar_subquery()
    return (
        select(*got.c, (got.c.id == next_one).label("is_next"))
        .select_from(near.join(got, true()))
        .where(_is_fast(near.c.task), near.c.crashes < ONE, next_one.is_not(None), ~_somebody_died(model))
        .limit(rows(limit))
    )


def _near_by(model: Model, any_queue: bool, only: Filter | None) -> tuple[FromClause, FromClause]:
    """The next rows behind a mark, and each of them locked, if it may run in the fast lane."""
    job = job_table(model)
    near = following(
        job,
        any_queue,
        *(job.c.id, job.c.task, job.c.crashes, job.c.unique_scope, job.c.limit_key),
        limit=NEAR,
        where=eligible(model, False, only),
        marked=True,
        locked=False,
    ).cte("near")
    # As for the queues of a claim: the lateral runs in the order of the rows, and locks until there are
    # enough. A row that was changed meanwhile is compared again.
    unchanged = [] if only is None else [only.clause]
    got = (
        select(*_waiting(job))
        .where(
            job.c.id == near.c.id,
            job.c.state.op("||")(text("''")) == state("queued"),  # see finish
            job.c.crashes < ONE,
            not_(is_for_workers(job)),
            job.c.limit_key.is_(None),  # of when its task had a limit: it is for claim_either
            *unchanged,
        )
        .with_for_update(skip_locked=True, key_share=True)
        .lateral("got")
    )
    return near, got


@once
def finish_group(model: Model, more: bool = False) -> Executable:
    """``queued`` -> ``succeeded`` for the jobs that this transaction has locked and run; returns their ids.

    Parameters: those of `done_jobs`, ``p_started_at``, ``p_worker_id``, ``now``. A job whose row says
    anything else than when it was locked is left out. Index: the primary key.
    """
    job, done = job_table(model), done_jobs(more)
    values: dict[str, Any] = left(job, done.c.result, done.c.progress) if more else {}
    return (
        update(job)
        .where(
            *among_claims(job, done),
            job.c.state.op("||")(text("''")) == state("queued"),  # see finish
        )
        .values(
            state=state("succeeded"),
            attempt=job.c.attempt + ONE,
            claim=job.c.claim + ONE,
            worker_id=bindparam("p_worker_id", type_=BigInteger),
            started_at=bindparam("p_started_at", type_=DateTime(timezone=True)),
            finished_at=now(),
            unique_held=held_when_over(job),
            **values,
        )
        .returning(job.c.id)
    )
