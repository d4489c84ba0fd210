"""What finished when, in stretches of time; bounded also where a million jobs finished in one. None locks."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Executable,
    Float,
    FromClause,
    Integer,
    Interval,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal,
    literal_column,
    select,
    true,
    tuple_,
)

from sqla_jobs.statements.lines import MOMENT
from sqla_jobs.statements.terms import Model, finite, job_table, now, once, rows, state

_ORIGIN: Final = literal_column("timestamptz '2000-01-03 UTC'", MOMENT)
"""A Monday: buckets of a week begin with it."""
_SLICES: Final = 4
"""Parts of a bucket from each of which some jobs are taken."""
_OF_SLICE: Final = 10
_LOOK_OF_SLICE: Final = 25
"""Among how many jobs those of one queue are looked for."""


def _series(number: int, name: str) -> Any:
    last = literal_column(str(number - 1), Integer)
    return func.generate_series(literal_column("0", Integer), last).table_valued("i").render_derived(name)


def _begin(width: dt.timedelta, number: int, i: Any) -> ColumnElement[Any]:
    """The begin of one of ``number`` buckets, the last of which is the one that it is now."""
    step = cast(literal(width, Interval), Interval)
    back = literal_column(str(number - 1), Integer) - i
    begin: ColumnElement[Any] = func.date_bin(step, now(), _ORIGIN, type_=MOMENT) - back * step
    return begin


def since(job: FromClause, final: str, start: Any) -> list[ColumnElement[bool]]:
    """Whether a job comes not before a moment of a final state, in the order of ``ix_sqla_jobs_prune``.

    Others may be among them, behind those of the state; see `until`. Of rows, not of the moment alone: of a
    range of which it does not know the bounds the planner expects a few rows, and would sort them. And
    without an end: before version 18 the server does not stop at one that is a comparison of rows, and reads
    a million entries to find that a bucket is empty.
    """
    key = tuple_(job.c.state, job.c.finished_at)
    return [key >= tuple_(state(final), start), job.c.finished_at.is_not(None)]


def until(found: FromClause, final: str, end: Any) -> list[ColumnElement[bool]]:
    """Which of the jobs that were found `since` are of the state, and before a moment."""
    return [found.c.state == state(final), found.c.finished_at < end]


@once
def finished_by_bucket(
    model: Model, width: dt.timedelta, number: int, most: int, one_queue: bool
) -> Executable:
    """How many jobs came to each final state in each bucket: (at, and a number and ``looked`` of each).

    ``looked``: among how many they were counted, at most ``most`` + 1; of each bucket and state so many
    entries are read. Parameters: ``now``, and ``p_queue``
    if ``one_queue``. Index: ``ix_sqla_jobs_prune``, alone, or for one queue with that many rows.
    """
    job = job_table(model)
    each = _series(number, "each")
    bucket = select(_begin(width, number, each.c.i).label("at")).select_from(each).subquery("bucket")
    end = bucket.c.at + cast(literal(width, Interval), Interval)
    source: Any = bucket
    columns: list[ColumnElement[Any]] = [bucket.c.at]
    for final in ("succeeded", "failed", "cancelled"):
        is_counted = job.c.queue == bindparam("p_queue", type_=Text) if one_queue else literal_column("1")
        some = (
            select(is_counted.label("is_counted"), job.c.state, job.c.finished_at)
            .where(*since(job, final, bucket.c.at))
            .order_by(job.c.state, job.c.finished_at)
            .limit(rows(most + 1))
            .correlate(bucket)
            .subquery(f"some_{final}")
        )
        number_of = func.count().filter(some.c.is_counted) if one_queue else func.count()
        counted = (
            select(number_of.label("number"), func.count().label("looked"))
            .select_from(some)
            .where(*until(some, final, end))
            .correlate(bucket)
        )
        of_state = counted.lateral(f"of_{final}")
        source = source.join(of_state, true())
        columns += [of_state.c.number, of_state.c.looked]
    return select(*columns).select_from(source).order_by(bucket.c.at)


@once
def times_by_bucket(model: Model, width: dt.timedelta, number: int, one_queue: bool) -> Executable:
    """How long jobs of each bucket waited and ran: (i, waits, runs), each p50 and p95 in seconds.

    Of a sample; a bucket that has no such job has no row. Parameters: ``now``, and ``p_queue`` if
    ``one_queue``. Index: ``ix_sqla_jobs_prune``; at most 80 rows of each bucket, and of one queue among 200.
    """
    job = job_table(model)
    each, part = _series(number, "each"), _series(_SLICES, "part")
    step = cast(literal(width / _SLICES, Interval), Interval)
    slices = (
        select(each.c.i, (_begin(width, number, each.c.i) + part.c.i * step).label("at"))
        .select_from(each.join(part, true()))
        .subquery("slice")
    )
    taken = []
    for final in ("succeeded", "failed"):
        names = ("started_at", "finished_at", "run_at", "created_at", "queue", "state")
        some = (
            select(*[job.c[name] for name in names])
            .where(*since(job, final, slices.c.at))
            .order_by(job.c.state, job.c.finished_at)
            .limit(rows(_LOOK_OF_SLICE if one_queue else _OF_SLICE))
            .correlate(slices)
            .subquery(f"some_{final}")
        )
        chosen = select(*[some.c[name] for name in names[:-2]]).where(*until(some, final, slices.c.at + step))
        if one_queue:
            chosen = chosen.where(some.c.queue == bindparam("p_queue", type_=Text)).limit(rows(_OF_SLICE))
        taken.append(select(chosen.correlate(slices).subquery(f"of_{final}")))
    sample = taken[0].union_all(*taken[1:]).lateral("sample")
    began = finite(sample.c.started_at)
    ready = func.greatest(finite(sample.c.run_at), finite(sample.c.created_at), type_=MOMENT)
    waited = case((began >= ready, func.extract("epoch", began - ready)))
    ran = func.extract("epoch", sample.c.finished_at - began)
    parts = literal_column("ARRAY[0.5, 0.95]::double precision[]", ARRAY(Float))

    def percentiles(seconds: Any) -> ColumnElement[Any]:
        within: ColumnElement[Any] = func.percentile_cont(parts).within_group(cast(seconds, Float))
        return within

    return (
        select(slices.c.i, percentiles(waited), percentiles(ran))
        .select_from(slices.join(sample, true()))
        .where(sample.c.started_at.is_not(None))
        .group_by(slices.c.i)
    )
