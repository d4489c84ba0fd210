"""Jobs that somebody wants to run again, or at once."""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Executable,
    Integer,
    Table,
    bindparam,
    case,
    literal_column,
    null,
    select,
    update,
)

from sqla_jobs.statements.terms import Model, job_table, now, once, state

_ZERO = literal_column("0", Integer)


@once
def stopped(model: Model) -> Executable:
    """Lock one job and tell (state, queue, unique_key); no row: it is locked, or there is none.

    Parameter: ``p_id``. Never waits. Index: the primary key.
    """
    job = job_table(model)
    return (
        select(job.c.state, job.c.queue, job.c.unique_key)
        .where(job.c.id == bindparam("p_id", type_=BigInteger))
        .with_for_update(skip_locked=True, key_share=True)
    )


@once
def retry(model: Model) -> Executable:
    """Make one job ``queued`` now, as if it had never run. Parameters: ``p_id``, ``now``.

    For a row that the transaction has locked by `stopped`. ``claim`` stays: an outcome of an earlier run that
    is still on its way must not fit. A job that was over takes its unique key again, and waits for a
    transaction that is about to take it or to let go of it; one that only waits for its time holds it, or has
    let go of it when it began. Indexes: the primary key, ``uq_sqla_jobs_unique_key``.
    """
    job = job_table(model)
    return update(job).where(job.c.id == bindparam("p_id", type_=BigInteger)).values(retried_values(job))


def retried_values(job: Table) -> dict[str, Any]:
    """What a retry sets of a job."""
    waits = job.c.state == state("scheduled")
    return {
        "state": state("queued"),
        "run_at": now(),
        "attempt": _ZERO,
        "crashes": _ZERO,
        "worker_id": null(),
        "cancel_requested_at": null(),
        "finished_at": null(),
        "progress": null(),
        "result": null(),
        "unique_held": case((waits, job.c.unique_held), else_=job.c.unique_key.is_not(None)),
    }
