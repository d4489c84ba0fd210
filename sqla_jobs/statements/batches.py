"""Many jobs at once, that somebody has chosen: cancelled, retried, deleted."""

from __future__ import annotations

from sqlalchemy import ARRAY, Executable, Text, bindparam, delete, func, literal_column, select, update

from sqla_jobs.statements.cancelled import cancelled_values
from sqla_jobs.statements.retried import retried_values
from sqla_jobs.statements.terms import Model, each_id, is_, job_table, once, one_of


@once
def seize_all(model: Model, to_delete: bool = False) -> Executable:
    """Lock those of the jobs ``:ids`` that are in one of the ``:states``, and tell what they are.

    (id, state, queue, unique_key, worker_id, claim). Passes over those that somebody has locked;
    ``to_delete``: also over those to which somebody is about to refer. One that changes at this moment is
    looked at again, as it is then. Index: the primary key.
    """
    job, each = job_table(model), each_id()
    # In a form that no index serves: see among_claims.
    now_in = job.c.state.op("||")(literal_column("''", Text)) == func.any(
        bindparam("states", type_=ARRAY(Text))
    )
    told = (job.c.id, job.c.state, job.c.queue, job.c.unique_key, job.c.worker_id, job.c.claim)
    return (
        select(*told)
        .where(is_(job.c.id, each.c.id), now_in, *one_of(each))
        .with_for_update(of=job, skip_locked=True, key_share=not to_delete)
    )


@once
def states_of(model: Model) -> Executable:
    """In which states jobs are, whoever has locked them: (id, state). Parameter: ``ids``. Locks nothing.

    Index: the primary key.
    """
    job, each = job_table(model), each_id()
    return select(job.c.id, job.c.state).where(is_(job.c.id, each.c.id), *one_of(each))


@once
def cancel_seized(model: Model) -> Executable:
    """`cancel` of the jobs ``:ids``, which the transaction has locked by `seize_all`. Parameter: ``now``."""
    job, each = job_table(model), each_id()
    return update(job).where(is_(job.c.id, each.c.id), *one_of(each)).values(cancelled_values(job))


@once
def retry_seized(model: Model) -> Executable:
    """`retry` of the jobs ``:ids``, which the transaction has locked by `seize_all`. Parameter: ``now``."""
    job, each = job_table(model), each_id()
    return update(job).where(is_(job.c.id, each.c.id), *one_of(each)).values(retried_values(job))


@once
def delete_seized(model: Model) -> Executable:
    """Delete the jobs ``:ids``, which the transaction has locked by `seize_all`; returns their ids.

    A row that refers to one makes it fail, or what a foreign key says is done. Index: the primary key.
    """
    job, each = job_table(model), each_id()
    return delete(job).where(is_(job.c.id, each.c.id), *one_of(each)).returning(job.c.id)
