"""Unique keys: who holds one, how long, and the part of it that is a window of time.

``unique_held`` is what counts: the index is on the keys of those rows only. It is set by the INSERT and by a
retry by hand; cleared by the claim (scope ``queued``), or by whatever ends the job (``active``); and stays
for a ``window``, whose keys end with its begin and its end, in seconds from 1970: ``@1893456000/1893459600``.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Executable,
    FromClause,
    Numeric,
    Text,
    and_,
    bindparam,
    cast,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
    true,
)

from sqla_jobs.statements.terms import Model, job_table, now, once, rows

_WINDOW: Final = "_sqla_jobs_window"


def held_while_it_runs(job: FromClause) -> ColumnElement[bool]:
    """What ``unique_held`` is once the job has begun."""
    return and_(job.c.unique_held, job.c.unique_scope.is_distinct_from(literal_column("'queued'", Text)))


def held_when_over(job: FromClause) -> ColumnElement[bool]:
    """What ``unique_held`` is once the job is over."""
    return and_(job.c.unique_held, job.c.unique_scope.is_not_distinct_from(literal_column("'window'", Text)))


def is_for_workers(job: FromClause) -> ColumnElement[bool]:
    """Whether its key is to be let go of when it begins, which must be committed before it does.

    A row that stays ``queued``, locked, until its outcome is there shows nobody that it has begun: what comes
    meanwhile would be taken for a duplicate of what has been read already.
    """
    return job.c.unique_scope.is_not_distinct_from(literal_column("'queued'", Text))


def is_free(job: FromClause) -> ColumnElement[bool]:
    """Whether a job that is over may go: it holds no key, or its window is over too. Parameter: ``now``."""
    end = func.substring(job.c.unique_key, literal_column("'/([0-9]+)$'", Text), type_=Text)
    is_over = cast(end, Numeric) <= func.extract("epoch", now())
    return or_(not_(job.c.unique_held), func.coalesce(is_over, true()))


def window(key: str, length: dt.timedelta, moment: ColumnElement[Any] | None = None) -> ColumnElement[str]:
    """``key`` in the window of that length that it is now, or at ``moment``: a value of ``unique_key``."""
    moment = func.statement_timestamp() if moment is None else moment
    seconds = literal_column(str(length // dt.timedelta(seconds=1)), BigInteger)
    start = cast(func.floor(func.extract("epoch", moment) / seconds) * seconds, BigInteger)
    made: Any = literal(f"{key}@", Text) + cast(start, Text) + literal_column("'/'", Text)
    made = made + cast(start + seconds, Text)
    vars(made)[_WINDOW] = key, length
    expression: ColumnElement[str] = made
    return expression


def window_of(expression: ColumnElement[Any]) -> tuple[str, dt.timedelta] | None:
    """The key and the length of what `window` has made; None: it is another expression."""
    found: tuple[str, dt.timedelta] | None = vars(expression).get(_WINDOW)
    return found


@once
def holders(model: Model) -> Executable:
    """Which jobs hold some of these keys: (id, unique_key). Parameter: ``p_keys``. Locks nothing.

    Index: ``uq_sqla_jobs_unique_key``. Each key is looked up by itself, and the LIMIT keeps it so: `= ANY` is
    planned for ten keys, for which the planner reads the whole of a table that was empty then, for ever.
    """
    job = job_table(model)
    keys = func.unnest(bindparam("p_keys", type_=ARRAY(Text))).table_valued("key").render_derived("given")
    found = select(job.c.id, job.c.unique_key).where(job.c.unique_key == keys.c.key, job.c.unique_held)
    each = found.limit(rows(1)).lateral("held")
    return select(each.c.id, each.c.unique_key).select_from(keys.join(each, true()))
