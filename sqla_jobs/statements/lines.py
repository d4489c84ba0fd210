"""The orders of jobs that an index has, for statements that read no more of them than they say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    Text,
    bindparam,
    case,
    func,
    literal_column,
    select,
    true,
    tuple_,
)

from sqla_jobs.statements.terms import FIRST, LAST, rows, state

MOMENT: Final = DateTime(timezone=True)
FIRST_ID: Final = literal_column(f"'{-(2**63)}'", BigInteger)
LAST_ID: Final = literal_column(f"'{2**63 - 1}'", BigInteger)
EVER: Final = literal_column("'-infinity'", MOMENT)
NEVER: Final = literal_column("'infinity'", MOMENT)


@dataclass(frozen=True)
class Line:
    """An order of jobs by a key of one column, and within it by the id."""

    name: str
    key: str
    descending: bool
    state: str | None = None
    """Only jobs of this state are on it."""
    of: str | None = None
    """Only jobs with the value of the parameter ``p_<column>`` in this column."""

    @property
    def by_id(self) -> bool:
        """Whether the key is the id, so that no two jobs have the same."""
        return self.key == "id"


NEWEST: Final = Line("newest", "id", descending=True)
OLDEST: Final = Line("oldest", "id", descending=False)
DUE: Final = Line("scheduled", "run_at", descending=False, state="scheduled")
TICKS: Final = Line("schedule", "tick_at", descending=True, of="schedule_id")
FINISHED: Final = {
    each: Line(each, "finished_at", descending=True, state=each)
    for each in ("succeeded", "failed", "cancelled")
}
QUEUED: Final = Line("queued", "priority", descending=True, state="queued")
"""In the order of claims, which is one of three columns: see `claim_order`. As the next, not for `edge`."""
IN_QUEUE: Final = Line("queued", "priority", descending=True, state="queued", of="queue")
RUNNING: Final = Line("running", "worker_id", descending=False, state="running")

_KINDS: Final[dict[str, Any]] = {"queue": Text(), "schedule_id": BigInteger()}


def claim_order(job: FromClause, one_queue: bool) -> list[ColumnElement[Any]]:
    """The order of ``ix_sqla_jobs_claim_any``, or of ``ix_sqla_jobs_claim`` in one queue."""
    order: list[ColumnElement[Any]] = [job.c.priority.desc(), job.c.run_at, job.c.id]
    return [job.c.queue, *order] if one_queue else order


def on_line(job: FromClause, line: Line) -> list[ColumnElement[bool]]:
    """Whether a job is on the line. Parameter: that of ``line.of``."""
    conditions: list[ColumnElement[bool]] = []
    if line.state is not None:
        conditions.append(job.c.state == state(line.state))
    if line.of is not None:
        conditions.append(job.c[line.of] == bindparam(f"p_{line.of}", type_=_KINDS[line.of]))
    if line.key == "tick_at":
        conditions.append(job.c.tick_at.is_not(None))
    return conditions


def ends_of(line: Line) -> tuple[ColumnElement[Any], ColumnElement[Any], Any]:
    """The key before all others and the one behind them, in the order of the line, and the key's type."""
    ends = (FIRST_ID, LAST_ID, BigInteger()) if line.by_id else (EVER, NEVER, MOMENT)
    return (ends[1], ends[0], ends[2]) if line.descending else ends


def start_of(line: Line) -> ColumnElement[Any]:
    """The parameter ``p_from``, a key; null: the first. At a limit of `finite`: the infinity it was."""
    first, _, kind = ends_of(line)
    given = bindparam("p_from", None, kind)
    if line.by_id:
        return func.coalesce(given, first, type_=kind)
    return case((given >= LAST, NEVER), (given <= FIRST, EVER), else_=func.coalesce(given, first, type_=kind))


def reached(line: Line, key: Any, start: Any) -> ColumnElement[bool]:
    """Whether a key is not before another."""
    is_reached: ColumnElement[bool] = key <= start if line.descending else key >= start
    return is_reached


def entries(
    job: FromClause, line: Line, look: int, *columns: ColumnElement[Any], start: Any = None
) -> Select[Any]:
    """The first ``look`` jobs of a line, or from a key on; `of_line` says which of them are on it.

    Read by the index alone if that has the columns, and VACUUM has been there. Of a final state others may be
    among them, as in `prunable`: a range of which the planner knows no bounds it takes for a few rows, which
    it would rather sort.
    """
    key = job.c[line.key]
    order: list[Any]
    if line.key == "finished_at":
        assert line.state is not None
        columns = (*columns, job.c.state.label("on_line"))
        begin = ends_of(line)[0] if start is None else start
        chosen = select(*columns).where(
            tuple_(job.c.state, key) <= tuple_(state(line.state), begin), key.is_not(None)
        )
        order = [job.c.state.desc(), key.desc()]
    else:
        chosen = select(*columns).select_from(job).where(*on_line(job, line))
        if start is not None:
            chosen = chosen.where(reached(line, key, start))
        order = [key.desc()] if line.descending else [key]
        if line.key == "priority":
            order = claim_order(job, line.of is not None)
        elif line.of is not None:
            order = [job.c[line.of].desc(), *order]
    return chosen.order_by(*order).limit(rows(look))


def of_line(line: Line, found: FromClause) -> ColumnElement[bool]:
    """Which of the `entries` are on the line."""
    if line.key != "finished_at":
        return true()
    assert line.state is not None
    is_on: ColumnElement[bool] = found.c.on_line == state(line.state)
    return is_on
