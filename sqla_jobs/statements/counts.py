"""How many jobs there are, counted up to a limit. None of these locks anything."""

from __future__ import annotations

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    Float,
    Integer,
    Interval,
    Text,
    bindparam,
    cast,
    func,
    literal_column,
    select,
    true,
    tuple_,
)

from sqla_jobs.statements.lines import (
    DUE,
    FINISHED,
    MOMENT,
    QUEUED,
    RUNNING,
    Line,
    claim_order,
    entries,
    of_line,
)
from sqla_jobs.statements.terms import Model, is_, job_table, now, once, rows, state

_ONE = literal_column("1", Integer).label("one")


def number_of(
    model: Model, line: Line, where: ColumnElement[bool] | None, at_most: int, look: int
) -> Executable:
    """How many of the first ``look`` jobs of a line satisfy a condition; no more than ``at_most`` + 1.

    Parameters: those of the line and of the condition. Index: that of the line.
    """
    job = job_table(model)
    if where is None:
        look = min(look, at_most + 1)
    fits = _ONE if where is None else where.label("fits")
    some = entries(job, line, look, fits).subquery("some")
    fitting = select(_ONE).select_from(some).where(of_line(line, some))
    if where is not None:
        fitting = fitting.where(some.c.fits)
    return select(func.count()).select_from(fitting.limit(rows(at_most + 1)).subquery("fitting"))


@once
def numbers_by_state(model: Model, at_most: int) -> Executable:
    """How many jobs are in each state, a column each; no more than ``at_most`` + 1. By indexes alone.

    Indexes: ``ix_sqla_jobs_promote``, ``_claim_any``, ``_rescue``, ``_prune``.
    """
    job = job_table(model)
    counts = []
    for line in (DUE, QUEUED, RUNNING, *FINISHED.values()):
        assert line.state is not None
        some = entries(job, line, at_most + 1, _ONE).subquery(f"some_{line.state}")
        counted = select(func.count()).select_from(some).where(of_line(line, some))
        counts.append(counted.scalar_subquery().label(line.state))
    return select(*counts)


@once
def queue_heads(model: Model, most: int) -> Executable:
    """The queues that have queued jobs, each with the ``run_at`` of its oldest: (name, oldest).

    From one priority of a queue to the next by the index, so that it reads an entry or two of each, whatever
    their backlogs; at most ``most`` of these. Index: ``ix_sqla_jobs_claim``.
    """
    job = job_table(model)
    one = (
        select(job.c.queue, job.c.priority, job.c.run_at)
        .where(job.c.state == state("queued"))
        .order_by(*claim_order(job, one_queue=True))
        .limit(rows(1))
    )
    head = select(one.subquery("first")).cte("head", recursive=True)
    lower = one.where(job.c.queue == head.c.queue, job.c.priority < head.c.priority).correlate(head)
    next_queue = one.where(job.c.queue > head.c.queue).correlate(head)
    # The first part that has a row gives it, and the other one is not begun.
    following = (
        select(lower.subquery("lower"))
        .union_all(select(next_queue.subquery("next_queue")))
        .limit(rows(1))
        .lateral("following")
    )
    head = head.union_all(select(following).select_from(head.join(following, true())))
    found = select(head).limit(rows(most)).subquery("found")
    return select(found.c.queue, func.min(found.c.run_at, type_=MOMENT)).group_by(found.c.queue)


@once
def queue_depths(model: Model, at_most: int) -> Executable:
    """How many jobs are queued in each queue of ``:names``: (name, number), no more than ``at_most`` + 1.

    Index: ``ix_sqla_jobs_claim``, alone.
    """
    job = job_table(model)
    each = func.unnest(bindparam("names", type_=ARRAY(Text))).table_valued("name").render_derived("each")
    some = (
        select(_ONE)
        .where(job.c.state == state("queued"), is_(job.c.queue, each.c.name))
        .order_by(job.c.queue)
        .limit(rows(at_most + 1))
        .correlate(each)
        .subquery("some")
    )
    counted = select(func.count().label("number")).select_from(some).lateral("counted")
    return select(each.c.name, counted.c.number).select_from(each.join(counted, true()))


@once
def by_queue(model: Model, line: Line, look: int) -> Executable:
    """How many of the first ``look`` jobs of a line are in each queue: (queue, number)."""
    job = job_table(model)
    some = entries(job, line, look, job.c.queue).subquery("some")
    return select(some.c.queue, func.count()).where(of_line(line, some)).group_by(some.c.queue)


@once
def finished_since(model: Model, final: str, look: int) -> Executable:
    """How many jobs came to a final state lately, and how long ago the first: (queue, number, seconds).

    Of the last ``look`` of them, and those of the last ``:p_lately`` only. Parameters: that, ``now``. Index:
    ``ix_sqla_jobs_prune``.
    """
    job = job_table(model)
    key = tuple_(job.c.state, job.c.finished_at)
    some = (
        select(job.c.queue, job.c.state, job.c.finished_at)
        # Without an end, as in `buckets`: most often there is nothing behind it, and all would be read.
        .where(key <= tuple_(state(final), now()), job.c.finished_at.is_not(None))
        .order_by(job.c.state.desc(), job.c.finished_at.desc())
        .limit(rows(look))
        .subquery("some")
    )
    began = now() - cast(bindparam("p_lately", type_=Interval), Interval)
    age = func.extract("epoch", now() - func.min(some.c.finished_at, type_=MOMENT))
    return (
        select(some.c.queue, func.count(), cast(age, Float))
        .where(some.c.state == state(final), some.c.finished_at >= began)
        .group_by(some.c.queue)
    )
