"""Jobs that somebody wants to end."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    DateTime,
    Executable,
    Table,
    Text,
    and_,
    bindparam,
    case,
    func,
    null,
    or_,
    select,
    update,
)

from sqla_jobs.statements.terms import Model, job_table, now, once, state
from sqla_jobs.statements.unique import held_when_over


@once
def seize(model: Model) -> Executable:
    """Lock one job and tell (state, worker_id, claim); no row: it is locked, or there is none.

    Parameter: ``p_id``. Never waits. Index: the primary key.
    """
    job = job_table(model)
    return (
        select(job.c.state, job.c.worker_id, job.c.claim)
        .where(job.c.id == bindparam("p_id", type_=BigInteger))
        .with_for_update(skip_locked=True, key_share=True)
    )


@once
def glance(model: Model) -> Executable:
    """The state of a job, whoever has locked it. Parameter: ``p_id``. Locks nothing."""
    job = job_table(model)
    return select(job.c.state).where(job.c.id == bindparam("p_id", type_=BigInteger))


@once
def cancel(model: Model) -> Executable:
    """Make one job that waits ``cancelled``; of one that runs, ask for it. Parameters: ``p_id``, ``now``.

    For a row that the transaction has locked by `seize`.
    """
    job = job_table(model)
    return update(job).where(job.c.id == bindparam("p_id", type_=BigInteger)).values(cancelled_values(job))


def cancelled_values(job: Table) -> dict[str, Any]:
    """What a cancel sets of a job: of one that runs, only that it is asked for."""
    runs = job.c.state == state("running")
    asked = func.coalesce(job.c.cancel_requested_at, now(), type_=DateTime(timezone=True))
    return {
        "state": case((runs, job.c.state), else_=state("cancelled")),
        "finished_at": case((runs, null()), else_=now()),
        "cancel_requested_at": asked,
        "unique_held": case((runs, job.c.unique_held), else_=held_when_over(job)),
    }


@once
def cancel_waiting(model: Model) -> Executable:
    """Make all jobs that wait ``cancelled``; returns their ids.

    Parameters: ``p_queue`` and ``p_task``, each null for any, and ``now``. Passes over locked rows: those
    are about to run. Indexes: those of the two states, whose rows it reads all.
    """
    job = job_table(model)

    def wanted(name: str) -> Any:
        given = bindparam(f"p_{name}", type_=Text)
        return or_(given.is_(None), job.c[name] == given)

    waiting = (
        select(job.c.id)
        .where(job.c.state.in_([state("scheduled"), state("queued")]), and_(wanted("queue"), wanted("task")))
        .with_for_update(skip_locked=True, key_share=True)
        .cte("waiting")
    )
    return (
        update(job)
        .where(job.c.id == waiting.c.id)
        .values(
            state=state("cancelled"),
            finished_at=now(),
            cancel_requested_at=now(),
            unique_held=held_when_over(job),
        )
        .returning(job.c.id)
    )
