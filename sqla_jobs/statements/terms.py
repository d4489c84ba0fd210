"""What the statements are made of."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from functools import cache
from typing import Any, Final, TypeVar

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    DateTime,
    Float,
    FromClause,
    Integer,
    Interval,
    Table,
    TableValuedAlias,
    Text,
    any_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql import JSONB, array

from sqla_jobs.models import JobMixin, companions

Model = type[JobMixin]

PROMOTE_BATCH: Final = 1000
RESCUE_BATCH: Final = 100

_DELAY: Final = "_sqla_jobs_delay"

ONE: Final = literal_column("1", Integer)

CLAIMED: Final = (
    "id", "task", "arguments", "queue", "priority", "attempt", "max_attempts", "claim", "worker_id",
    "crashes", "run_at", "created_at", "started_at", "timeout", "meta",
)  # fmt: skip
"""The columns of a job that whoever runs it needs, in the order of ``lifecycle.Claimed``."""
IS_ORDINARY: Final = len(CLAIMED)
IS_NEW: Final = len(CLAIMED)
IS_NEXT: Final = len(CLAIMED)
"""Where in a row of `claim_either`, and of `exchange`, that is said of the job before it."""

Builder = TypeVar("Builder", bound=Callable[..., Any])


def once(build: Builder) -> Builder:
    """`functools.cache`, with the function's own type kept."""
    return cache(build)  # type: ignore[return-value]


def job_table(model: Model) -> Table:
    """The table of a job model."""
    table = model.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def worker_table(model: Model) -> Table:
    """The table of the worker processes beside a job model."""
    table = companions(job_table(model).schema).WorkerProcess.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def queue_table(model: Model) -> Table:
    """The table of what is set for queues beside a job model."""
    table = companions(job_table(model).schema).Queue.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def schedule_table(model: Model) -> Table:
    """The table of the schedules beside a job model."""
    table = companions(job_table(model).schema).Schedule.__table__  # type: ignore[attr-defined]
    assert isinstance(table, Table)
    return table


def state(value: str) -> ColumnElement[str]:
    """A state, as a literal: a generic plan could not prove of a parameter that a partial index applies."""
    return literal_column(f"'{value}'", Text)


def is_(column: ColumnElement[Any], value: ColumnElement[Any]) -> ColumnElement[bool]:
    """``column = value``, by an index only: the planner cannot hash or merge ``= ANY (ARRAY[value])``."""
    return column == any_(array([value]))


def done_jobs(more: bool = False) -> TableValuedAlias:
    """The parameters ``ids`` and ``claims`` as rows of ``id`` and ``claim``.

    With ``more`` also ``results`` and ``progresses``, JSON as text or null: ``result`` and ``progress``.
    """
    arrays: list[Any] = [bindparam(name, type_=ARRAY(BigInteger)) for name in ("ids", "claims")]
    names = ["id", "claim"]
    if more:
        arrays += [bindparam(name, type_=ARRAY(Text)) for name in ("results", "progresses")]
        names += ["result", "progress"]
    return func.unnest(*arrays).table_valued(*names).render_derived("done")


def among_claims(job: Table, done: TableValuedAlias | None = None) -> list[ColumnElement[bool]]:
    """Whether a job is one of `done_jobs`, and its claim that at the same place.

    By the primary key. To the planner a range of an unknown column leaves a single one of them, and for that
    the key is best, whatever it knows of the table. For fifty it would read all of a table that it takes for
    small, and go on to do so when it is not small any more.
    """
    done = done_jobs() if done is None else done
    first, last = (literal_column(f"'{number}'", BigInteger) for number in (-(2**63), 2**63 - 1))
    return [is_(job.c.id, done.c.id), is_(job.c.claim, done.c.claim), done.c.id.between(first, last)]


def each_id() -> TableValuedAlias:
    """The parameter ``ids`` as rows of one column, ``id``."""
    return func.unnest(bindparam("ids", type_=ARRAY(BigInteger))).table_valued("id").render_derived("each")


def one_of(each: FromClause) -> list[ColumnElement[bool]]:
    """What leaves the planner a single row of `each_id`, or of the jobs that a claim has picked.

    For that the primary key is best: see among_claims.

    A range of an unknown column does.
    """
    first, last = (literal_column(f"'{number}'", BigInteger) for number in (-(2**63), 2**63 - 1))
    return [each.c.id.between(first, last)]


def left(job: Table, result: ColumnElement[Any], progress: ColumnElement[Any]) -> dict[str, Any]:
    """What a finish leaves of ``result`` and ``progress``, which are JSON as text.

    A null leaves the progress of an earlier attempt as it is.
    """
    return {
        "result": cast(result, JSONB),
        "progress": func.coalesce(cast(progress, JSONB), job.c.progress, type_=JSONB),
    }


def rows(number: int) -> ColumnElement[int]:
    """A LIMIT, as a literal: for an unknown one the planner reckons with a tenth of the table."""
    return literal_column(str(number), Integer)


def queues() -> ColumnElement[Any]:
    """The parameter ``queues``: a list of names."""
    return bindparam("queues", type_=ARRAY(Text))


def each_queue() -> TableValuedAlias:
    """The parameter ``queues`` as rows of one column, ``name``, in the order of the list."""
    return func.unnest(queues()).table_valued("name").render_derived("queue")


def claimed(table: Table) -> list[ColumnElement[Any]]:
    """The columns of ``CLAIMED``, in forms that Python can load from any row.

    A row that it cannot, from raw SQL, would be the first one of its queue for every claim from then on:
    ``arguments`` and ``meta`` are text, since a number may have more digits and a list more levels than
    Python reads.
    """
    forms: dict[str, ColumnElement[Any]] = {
        "arguments": cast(table.c.arguments, Text).label("arguments"),
        "created_at": finite(table.c.created_at).label("created_at"),
        "timeout": seconds(table.c.timeout).label("timeout"),
        "meta": cast(table.c.meta, Text).label("meta"),
    }
    return [forms.get(name, table.c[name]) for name in CLAIMED]


FIRST: Final = literal_column("timestamptz '0001-01-02 UTC'", DateTime(timezone=True))
LAST: Final = literal_column("timestamptz '9999-12-30 UTC'", DateTime(timezone=True))


def finite(moment: ColumnElement[Any]) -> ColumnElement[dt.datetime]:
    """A moment that Python can hold, which no infinity is; of a null it makes the first."""
    zoned = DateTime(timezone=True)
    return func.least(func.greatest(moment, FIRST, type_=zoned), LAST, type_=zoned)


def seconds(length: ColumnElement[Any]) -> ColumnElement[float | None]:
    """An interval as seconds, from zero to some thirty years."""
    thirty_years = literal_column("1e9", Float)
    zero = literal_column("0e0", Float)
    told = func.least(func.extract("epoch", length).cast(Float), thirty_years, type_=Float)
    told = func.greatest(told, zero, type_=Float)
    return case((length.is_not(None), told))  # least() passes over nulls


def now() -> ColumnElement[dt.datetime]:
    """The parameter ``now``, or the database's clock."""
    given = bindparam("now", None, DateTime(timezone=True), unique=False)
    return func.coalesce(given, func.statement_timestamp(), type_=DateTime(timezone=True))


def after(delay: dt.timedelta) -> ColumnElement[dt.datetime]:
    """The database's clock plus ``delay``, as a value for ``run_at``."""
    moment = func.statement_timestamp(type_=DateTime(timezone=True)) + cast(delay, Interval)
    vars(moment)[_DELAY] = delay
    return moment


def delay_of(moment: ColumnElement[Any]) -> dt.timedelta | None:
    """The delay of what `after` has made; None: it is another expression."""
    delay: dt.timedelta | None = vars(moment).get(_DELAY)
    return delay


def durable() -> ColumnElement[Any]:
    """To be returned by a statement whose transaction must outlive a crash of the server."""
    # A claim or a worker's id that is forgotten is a fencing number given twice: where the database is
    # set to synchronous_commit = off, this transaction is not.
    return literal_column(
        "CASE WHEN current_setting('synchronous_commit') = 'off' "
        "THEN set_config('synchronous_commit', 'on', true) END"
    ).label("durable")
