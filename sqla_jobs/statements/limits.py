"""Jobs of tasks with a limit: chosen first, counted under a lock, and only then begun.

By a statement for each of the three: what a statement counts is what was committed before it began, so one
that took the lock as well would not see whoever has let go of it in between.
"""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Executable,
    Integer,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
    update,
)

from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.queued import eligible, following, registered, run_under
from sqla_jobs.statements.terms import Model, claimed, durable, is_, job_table, once, state

KEY_BATCH: Final = 1000
"""How many jobs that were enqueued without a limit's key are given theirs at once."""


def _seed() -> ColumnElement[int]:
    """Of the keys' hashes, so that two schemas of one database do not share locks."""
    return cast(literal_column("tableoid"), BigInteger).label("seed")


def _given(**columns: Any) -> Any:
    """Parameters ``p_<name>``, lists of the same length, as rows."""
    lists = [bindparam(f"p_{name}", type_=ARRAY(type_)) for name, type_ in columns.items()]
    return func.unnest(*lists).table_valued(*columns).render_derived("given")


@once
def choose(
    model: Model, any_queue: bool, innocent: bool, limit: int, marked: bool, only: Filter | None = None
) -> Executable:
    """The next ``limit`` jobs of any task, locked: the columns of a claim, the limit's key, and a seed.

    Parameters, locks and indexes: those of `claim`; and ``full``, the keys that are passed over. Of a backlog
    of such a key each entry is read, and its row.
    """
    job = job_table(model)
    columns = [*claimed(job), job.c.limit_key, _seed()]
    wanted = eligible(model, innocent, only, limited=True)
    chosen: Executable = following(job, any_queue, *columns, limit=limit, where=wanted, marked=marked)
    return chosen


@once
def try_keys() -> Executable:
    """Try to lock keys until the transaction ends; returns those that were got.

    Parameters: ``p_key``, a list, and ``p_seed``. It does not wait: whoever waits for one while it has
    another may wait for ever. A key that was not got is as good as full: somebody is about to begin a job of
    it.
    """
    given = _given(key=Text)
    seed = bindparam("p_seed", type_=BigInteger)
    got = func.pg_try_advisory_xact_lock(func.hashtextextended(given.c.key, seed), type_=Boolean)
    return select(given.c.key, got)


@once
def begin(model: Model) -> Executable:
    """``queued`` -> ``running``, for ``:p_worker_id``, of those among chosen jobs for which there is room.

    Returns the columns of a claim. Parameters: ``p_worker_id``, ``now``, and lists of the same length:
    ``p_id``; ``p_key`` (null: it has no limit); ``p_number``, how many of the key may run; ``p_rank``, the
    how-manieth of its key in this list it is. The rows and the keys are locked by this transaction: from the
    count to the commit nobody else begins a job of these keys. Indexes: ``ix_sqla_jobs_rescue``, which has
    what runs only, and the primary key.
    """
    job = job_table(model)
    other = job.alias("other")
    given = _given(id=BigInteger, key=Text, number=Integer, rank=Integer)
    at_work = (
        select(func.count())
        .select_from(other)
        .where(other.c.state == state("running"), other.c.limit_key == given.c.key)
        .scalar_subquery()
    )
    has_room = at_work + given.c.rank <= given.c.number
    chosen = select(given.c.id, given.c.key).where(registered(model), has_room).cte("chosen")
    # Of a row that was enqueued where nobody knew of the limit it is written here.
    key = func.coalesce(job.c.limit_key, chosen.c.key)
    return (
        update(job)
        .where(is_(job.c.id, chosen.c.id))
        .values({**run_under(job), "limit_key": key})
        .returning(*claimed(job), durable())
    )


@once
def at_work(model: Model) -> Executable:
    """How many jobs run of each task and key: (task, limit_key, number). Locks nothing.

    Index: ``ix_sqla_jobs_rescue``, which has what runs only.
    """
    job = job_table(model)
    return (
        select(job.c.task, job.c.limit_key, func.count())
        .where(job.c.state == state("running"), job.c.limit_key.is_not(None))
        .group_by(job.c.task, job.c.limit_key)
    )


@once
def without_key(
    model: Model, any_queue: bool, innocent: bool, marked: bool, only: Filter | None = None
) -> Executable:
    """Those of the next 1,000 jobs that are of the tasks ``:limited`` and have no key: (id, task, arguments).

    Parameters and indexes: those of `choose`. Locks them, passing over locked ones.
    """
    job = job_table(model)
    wanted = eligible(model, innocent, only, limited=True)
    columns = [job.c.id, job.c.task, job.c.limit_key]
    options: Any = {"limit": KEY_BATCH, "where": wanted, "marked": marked, "locked": False}
    near = following(job, any_queue, *columns, **options).cte("near")
    # As for `join`: the lateral locks row by row, and a row that was changed meanwhile is compared again.
    got = (
        select(job.c.id, job.c.task, cast(job.c.arguments, Text).label("arguments"))
        .where(
            is_(job.c.id, near.c.id),
            job.c.state.op("||")(literal_column("''", Text)) == state("queued"),  # see finish
            job.c.limit_key.is_(None),
        )
        .with_for_update(skip_locked=True, key_share=True)
        .lateral("got")
    )
    mine = near.c.task == func.any(bindparam("limited", type_=ARRAY(Text)))
    return select(got).select_from(near.join(got, true())).where(and_(mine, near.c.limit_key.is_(None)))


@once
def set_keys(model: Model) -> Executable:
    """Write the keys of jobs that `without_key` has locked. Parameters, lists: ``p_id``, ``p_key``.

    Index: the primary key.
    """
    job = job_table(model)
    given = _given(id=BigInteger, key=Text)
    return update(job).where(is_(job.c.id, given.c.id)).values(limit_key=given.c.key)
