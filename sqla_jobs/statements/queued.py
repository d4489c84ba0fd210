"""The next jobs to run: claimed for a worker, or locked in the caller's own transaction."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    FromClause,
    SmallInteger,
    Table,
    Text,
    and_,
    bindparam,
    case,
    false,
    func,
    not_,
    or_,
    select,
    true,
    tuple_,
    update,
)

from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.liveness import lives
from sqla_jobs.statements.terms import (
    ONE,
    PROMOTE_BATCH,
    Model,
    claimed,
    durable,
    each_queue,
    is_,
    job_table,
    now,
    once,
    one_of,
    queues,
    rows,
    state,
    worker_table,
)
from sqla_jobs.statements.unique import held_while_it_runs, is_for_workers

_ANY_ROW: Final = true()


def following(
    job: Table,
    any_queue: bool,
    *columns: ColumnElement[Any],
    limit: int = 1,
    where: Any = _ANY_ROW,
    marked: bool = False,
    locked: bool = True,
) -> Any:
    """The next queued rows, locked, in the order in which they are to run.

    ``marked``: only behind the mark ``mark_priority``, ``mark_run_at``, ``mark_id``, and of its priority. The
    index entries of jobs that were queued before it and are not any more stay until VACUUM may remove them,
    which it may not while any transaction is as old as they are; each claim would read all of them again.

    With queues: all of the first before any of the second. The lateral runs once a queue, in the
    array's order, and stops at the limit. There is no ORDER BY above it: that would sort the
    backlog of every queue (measured at 1M rows: 150 ms instead of 0.5).
    """
    order: list[Any] = [job.c.priority.desc(), job.c.run_at, job.c.id]
    first = select(*columns).where(job.c.state == state("queued"), where).limit(rows(limit))
    if marked:
        first = first.where(*_behind_mark(job))
    if locked:
        first = first.with_for_update(skip_locked=True, key_share=True)
    if any_queue:
        return first.order_by(*order)
    queue = each_queue()
    # Ordered by the queue too, and `is_` rather than `==`, with which that would be no order at all. Only
    # the queue's own index has this order. Else, where most jobs are in one queue, the planner walks the
    # any-queue index, past that queue's whole backlog, to find that another queue is empty.
    each = first.where(is_(job.c.queue, queue.c.name)).order_by(job.c.queue, *order).lateral("job")
    return select(*each.c).select_from(queue.join(each, true())).limit(rows(limit))


def _behind_mark(job: Table) -> list[ColumnElement[bool]]:
    # One comparison of two rows, which the index can begin with; three, joined by OR, it cannot.
    run_at = bindparam("mark_run_at", type_=DateTime(timezone=True))
    return [
        job.c.priority == bindparam("mark_priority", type_=SmallInteger),
        tuple_(job.c.run_at, job.c.id) > tuple_(run_at, bindparam("mark_id", type_=BigInteger)),
    ]


def registered(model: Model) -> ColumnElement[bool]:
    """Whether the worker of ``:p_worker_id`` is not taken for dead.

    Evaluated once, before anything is read: a process that was stopped between its last look at the clock and
    the statement, and was taken for dead meanwhile, claims nothing under the id of a dead worker.
    """
    known = worker_table(model).alias("known")
    mine = select(known.c.id).where(known.c.id == bindparam("p_worker_id", type_=BigInteger), lives(known))
    return mine.scalar_subquery().is_not(None)


def eligible(model: Model, innocent: bool, only: Filter | None, limited: bool = False) -> ColumnElement[bool]:
    """Which queued jobs the worker of ``:p_worker_id`` may claim.

    ``innocent``: only those that no worker has died of; ``only``: those that satisfy its filter; ``limited``:
    those of no key in ``:full``.
    """
    job = job_table(model)
    conditions = [registered(model)]
    if innocent:
        conditions.append(job.c.crashes < ONE)
    if only is not None:
        conditions.append(only.clause)
    if limited:
        # As a subquery it is hashed once. Of an array that is a parameter each row is compared with each key.
        full = func.unnest(bindparam("full", type_=ARRAY(Text))).table_valued("key")
        passed = job.c.limit_key.in_(select(full.render_derived("passed").c.key))
        conditions.append(_as_it_is(or_(job.c.limit_key.is_(None), not_(passed))))
    return and_(*conditions)


def is_unlimited(job: FromClause) -> ColumnElement[bool]:
    """Whether a job is begun without a count: it has no key of a limit, and is of no task in ``:limited``.

    For `claim` to be asked of rows that are chosen already: beside the order it would pass over the next one.
    """
    limited = bindparam("limited", [], ARRAY(Text))
    return _as_it_is(and_(job.c.limit_key.is_(None), job.c.task != func.all(limited)))


def _as_it_is(condition: ColumnElement[bool]) -> ColumnElement[bool]:
    # Of a CASE the planner expects that half of the rows pass. Of what is in it, that none does, where all
    # jobs are of one key or task, and then it would sort the backlog.
    return case((condition, true()), else_=false())


def run_under(job: Table) -> dict[str, Any]:
    """What makes a queued job ``running`` for ``:p_worker_id``."""
    return {
        "state": state("running"),
        "attempt": job.c.attempt + ONE,
        "claim": job.c.claim + ONE,
        "worker_id": bindparam("p_worker_id", type_=BigInteger),
        "started_at": now(),
        "unique_held": held_while_it_runs(job),
    }


@once
def claim(
    model: Model,
    any_queue: bool,
    innocent: bool = False,
    limit: int = 1,
    marked: bool = False,
    only: Filter | None = None,
    limited: bool = False,
) -> Executable:
    """Ordinary lane: ``queued`` -> ``running`` for up to ``limit`` jobs, for ``:p_worker_id``.

    Parameters: ``p_worker_id``, ``now``, ``queues`` unless ``any_queue``, those of `following`.
    ``innocent``, ``only``: see `eligible`.
    ``limited``: jobs of ``:full`` keys are passed over, and of the next ones those that have to be counted
    first, see `is_unlimited`, are left as they are: they count towards ``limit``, and are for `choose`.
    Nothing if that worker has no row: it was taken for dead. Locks the rows it takes, passing over
    locked ones. Index: ``ix_sqla_jobs_claim``, or ``ix_sqla_jobs_claim_any``; with ``only`` that of
    `index_ddl`, or else it reads past all that it may not claim. The CTE is there because an UPDATE with a
    LIMIT in a plain subquery may run that subquery more than once, and then takes more than the limit.
    """
    job = job_table(model)
    columns = [job.c.id, job.c.task, job.c.limit_key] if limited else [job.c.id]
    wanted = eligible(model, innocent, only, limited)
    picked = following(job, any_queue, *columns, limit=limit, where=wanted, marked=marked).cte("picked")
    unlimited = [is_unlimited(picked)] if limited else []
    return (
        update(job)
        .where(is_(job.c.id, picked.c.id), *one_of(picked), *unlimited)
        .values(run_under(job))
        .returning(*claimed(job), durable())
    )


@once
def take(model: Model, any_queue: bool, every: bool = False, choosy: bool = False) -> Executable:
    """``work_once``: lock the next queued job for the rest of the caller's transaction.

    Parameters: ``held``, ``now``, and ``queues`` unless ``any_queue``. The row stays
    ``queued``; ``started_at`` is the statement's time. Left to workers are jobs that have killed one, whose
    attempts are counted before they run, those of `is_for_workers`, and unless ``every`` those of a limit
    (parameter ``limited``, the names of its tasks): who counts does not see what runs here; and if ``choosy``
    those of the tasks in ``others``. Indexes as for ``claim``.

    ``held``: ids that this transaction has taken before. SKIP LOCKED does not pass over its own locks.
    """
    job = job_table(model)
    columns = [now().label("started_at") if c.key == "started_at" else c for c in claimed(job)]
    free = job.c.id != func.all(bindparam("held", [], ARRAY(BigInteger)))
    where = and_(_is_for_anybody(job, every, choosy), free)
    taken: Executable = following(job, any_queue, *columns, where=where)
    return taken


def _is_for_anybody(job: Table, every: bool, choosy: bool) -> ColumnElement[bool]:
    conditions = [job.c.crashes < ONE, not_(is_for_workers(job))]
    if not every:
        conditions.append(is_unlimited(job))
    if choosy:
        conditions.append(job.c.task != func.all(bindparam("others", type_=ARRAY(Text))))
    return and_(*conditions)


@once
def take_due(
    model: Model, any_queue: bool, closed: bool = False, every: bool = False, choosy: bool = False
) -> Executable:
    """``work_once``, when nothing is queued: promote the one due job that it would take, and lock it.

    That is the first one of those that ``promote`` would make ``queued`` now: of the 1,000 that have
    been due for the longest. Parameters: ``now``, ``queues`` unless ``any_queue``, and if ``closed`` those of
    which none is taken; ``every``, ``limited``, ``choosy`` and ``others`` as for
    `take`. Locks one row, passing over locked ones.
    Index: ``ix_sqla_jobs_promote``, then the primary key.
    """
    job = job_table(model)
    due = select(job.c.id, job.c.state, job.c.run_at, job.c.priority, job.c.queue).where(
        job.c.state == state("scheduled"),
        job.c.run_at <= now(),
        _is_for_anybody(job, every, choosy),
    )
    if not any_queue:
        due = due.where(job.c.queue == func.any(queues()))
    if closed:
        due = due.where(job.c.queue != func.all(bindparam("closed", type_=ARRAY(Text))))
    oldest = due.order_by(job.c.run_at).limit(rows(PROMOTE_BATCH)).cte("oldest")
    order: list[Any] = [oldest.c.priority.desc(), oldest.c.run_at, oldest.c.id]
    if not any_queue:
        order.insert(0, func.array_position(queues(), oldest.c.queue))
    ranked = select(oldest).order_by(*order).cte("ranked")
    # As for the queues of a claim: the lateral runs in the order of the ranked rows, and locks until one
    # is got. A row that was changed meanwhile is compared again, and passed over if it is not due any more.
    unchanged = [job.c[name] == ranked.c[name] for name in ("id", "state", "run_at")]
    got = (
        select(job.c.id)
        .where(*unchanged, job.c.crashes < ONE)
        .with_for_update(skip_locked=True, key_share=True)
        .lateral("got")
    )
    picked = select(got.c.id).select_from(ranked.join(got, true())).limit(rows(1)).cte("picked")
    columns = [now().label("started_at") if c.key == "started_at" else c for c in claimed(job)]
    return update(job).where(is_(job.c.id, picked.c.id)).values(state=state("queued")).returning(*columns)
