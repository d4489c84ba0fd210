"""A bounded look at the jobs, in an order that an index has: for whoever reads the queue, not for workers.

A filter may be one that no job satisfies. So it is not asked of the table, but of a stretch of it: `edge`
says where the stretch ends, by the index alone, and `stretch` looks at no job beyond. Where many jobs have
the same key (a million that were cancelled by one statement) a stretch cannot end between them, and they are
looked at by their ids.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Executable,
    SmallInteger,
    Text,
    and_,
    bindparam,
    case,
    func,
    literal_column,
    or_,
    select,
    tuple_,
    union_all,
)

from sqla_jobs.statements.details import shown_columns
from sqla_jobs.statements.lines import (
    FIRST_ID,
    LAST_ID,
    MOMENT,
    NEVER,
    Line,
    claim_order,
    ends_of,
    entries,
    of_line,
    on_line,
    reached,
    start_of,
)
from sqla_jobs.statements.terms import Model, finite, is_, job_table, once, rows, state


@once
def edge(model: Model, line: Line, look: int) -> Executable:
    """The next ``look`` jobs of a line: how many there are, the first key and the last one. Locks nothing.

    Parameters: ``p_from``, the key to begin with, null for the first; ``p_schedule_id`` for `TICKS`. Reads as
    many entries of an index and, where VACUUM has been there, no rows: the primary key,
    ``ix_sqla_jobs_prune``, ``ix_sqla_jobs_promote`` or ``uq_sqla_jobs_tick``. Of a final state in the way of
    `prunable`: a range of which the planner knows no bounds it takes for a few rows, and sorts them.
    """
    job = job_table(model)
    key = job.c[line.key].label("key")
    found = entries(job, line, look, key, start=start_of(line)).subquery("found")
    ends: list[ColumnElement[Any]] = [func.max(found.c.key), func.min(found.c.key)]
    if not line.by_id:
        ends = [case((each.is_not(None), finite(each))) for each in ends]
    told = select(func.count(), *(ends if line.descending else reversed(ends)))
    return told.where(of_line(line, found))


def stretch(model: Model, line: Line, where: ColumnElement[bool] | None, limit: int) -> Executable:
    """The jobs of a line up to an `edge` that satisfy a condition, as `shown_columns`. Locks nothing.

    Parameters: ``p_from`` and ``p_id``, the last job that is known already (its key null: none; its id null:
    none of that key); ``p_to``, the key at which to stop, which does not count, null for none;
    ``p_schedule_id`` for `TICKS`. Index: that of `edge`, whose stretch it reads up to the last job found.
    """
    job = job_table(model)
    key, start = job.c[line.key], start_of(line)
    _, last, kind = ends_of(line)
    first_id = LAST_ID if line.descending else FIRST_ID
    known = func.coalesce(bindparam("p_id", None, BigInteger), first_id, type_=BigInteger)
    stop = func.coalesce(bindparam("p_to", None, kind), last, type_=kind)
    further = job.c.id < known if line.descending else job.c.id > known
    chosen = select(*shown_columns(job)).where(
        *on_line(job, line),
        reached(line, key, start),
        key > stop if line.descending else key < stop,
        or_(key != start, further),
    )
    if where is not None:
        chosen = chosen.where(where)
    order = [key, job.c.id][line.by_id :]
    return chosen.order_by(*[each.desc() if line.descending else each for each in order]).limit(rows(limit))


def tied(model: Model, line: Line, key: Any) -> ColumnElement[bool]:
    """Whether a job is on the line, at this key: for a `stretch` by ids, so in forms that no index serves."""
    job = job_table(model)
    conditions: list[ColumnElement[bool]] = [
        finite(func.coalesce(job.c[line.key], NEVER, type_=MOMENT)) == key
    ]
    if line.state is not None:
        conditions.append(job.c.state.op("||")(literal_column("''", Text)) == state(line.state))
    if line.of is not None:
        number = func.coalesce(job.c[line.of], FIRST_ID, type_=BigInteger)
        conditions.append(number == bindparam(f"p_{line.of}", type_=BigInteger))
    return and_(*conditions)


def queued_page(
    model: Model, where: ColumnElement[bool] | None, limit: int, look: int, one_queue: bool, goes_on: bool
) -> Executable:
    """Queued jobs in the order of claims, as `shown_columns`, ``fits``, ``looked`` and ``is_last``.

    The last one that was looked at comes too, also if it does not satisfy the condition. Parameters:
    ``p_queue`` if ``one_queue``; ``p_priority``, ``p_run_at`` and ``p_id`` if ``goes_on``: behind that job.
    Locks nothing. Index: ``ix_sqla_jobs_claim_any``, or ``ix_sqla_jobs_claim``; reads at most ``look`` rows.
    """
    job = job_table(model)
    fits = where if where is not None else literal_column("true")
    one = select(job.c.id, fits.label("fits")).where(job.c.state == state("queued")).limit(rows(look))
    if one_queue:
        one = one.where(job.c.queue == bindparam("p_queue", type_=Text))
    one = one.order_by(*claim_order(job, one_queue))
    if goes_on:
        # Two ranges of the index, one behind the other: priorities go down while times go up, which no
        # single comparison of rows says.
        priority = bindparam("p_priority", type_=SmallInteger)
        mark = tuple_(bindparam("p_run_at", type_=MOMENT), bindparam("p_id", type_=BigInteger))
        same = one.where(job.c.priority == priority, tuple_(job.c.run_at, job.c.id) > mark).subquery("same")
        below = one.where(job.c.priority < priority).subquery("below")
        # No ORDER BY: it would sort the whole look. An Append gives its parts in turn.
        looked = union_all(select(same), select(below)).limit(rows(look)).subquery("looked")
    else:
        looked = one.subquery("looked")
    number = func.row_number().over().label("looked")
    is_last = func.lead(looked.c.id).over().is_(None).label("is_last")
    counted = select(looked.c.id, looked.c.fits, number, is_last).subquery("counted")
    page = select(counted).where(or_(counted.c.fits, counted.c.is_last)).limit(rows(limit)).subquery("page")
    return (
        select(*shown_columns(job), page.c.fits, page.c.looked, page.c.is_last)
        .select_from(page.join(job, is_(job.c.id, page.c.id)))
        .order_by(page.c.looked)
    )


def running_page(
    model: Model, where: ColumnElement[bool] | None, limit: int, look: int, goes_on: bool
) -> Executable:
    """Running jobs, those that run the longest first, as `shown_columns` and ``looked``. Locks nothing.

    Parameters if ``goes_on``: ``p_from`` and ``p_id``, behind that job. There are as many as workers have
    threads: it reads them all, but no more than ``look``, and sorts them. Index: ``ix_sqla_jobs_rescue``.
    """
    job = job_table(model)
    began = finite(func.coalesce(job.c.started_at, job.c.run_at, type_=MOMENT))
    some = (
        select(
            job.c.id,
            began.label("began"),
            (where if where is not None else literal_column("true")).label("fits"),
        )
        .where(job.c.state == state("running"))
        .order_by(job.c.worker_id)
        .limit(rows(look))
        .subquery("some")
    )
    number = func.count().over().label("looked")
    counted = select(some, number).subquery("counted")
    chosen = select(counted).where(counted.c.fits)
    if goes_on:
        mark = tuple_(bindparam("p_from", type_=MOMENT), bindparam("p_id", type_=BigInteger))
        chosen = chosen.where(tuple_(counted.c.began, counted.c.id) > mark)
    page = chosen.order_by(counted.c.began, counted.c.id).limit(rows(limit)).subquery("page")
    return (
        select(*shown_columns(job), page.c.looked, page.c.began)
        .select_from(page.join(job, is_(job.c.id, page.c.id)))
        .order_by(page.c.began, page.c.id)
    )
