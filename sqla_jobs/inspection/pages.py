"""Lists of jobs, a page at a time, by a bounded look."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection.cursors import Cursor
from sqla_jobs.inspection.filters import ALL, JobFilter
from sqla_jobs.inspection.rows import Count, Page, row_of
from sqla_jobs.lifecycle.sent import execute
from sqla_jobs.models import Job, JobMixin
from sqla_jobs.outcome import JobState
from sqla_jobs.statements import Line

Model = type[JobMixin]

LOOK: Final = 10_000
_FEW: Final = 2_000
_UNPACKED: Final = 2_500
"""Jobs whose errors are looked through: each is to be unpacked, with its tracebacks."""
MOST: Final = 1_000
"""Jobs of a page."""
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_FIRST: Final = dt.datetime(1, 1, 2, tzinfo=dt.timezone.utc)
_LAST: Final = dt.datetime(9999, 12, 30, tzinfo=dt.timezone.utc)
"""What is shown of the infinities, and of all moments beyond."""


@verb
def list_jobs(
    session: Sync,
    model: Model = Job,
    where: JobFilter = ALL,
    *,
    cursor: str | None = None,
    limit: int = 50,
    look: int = LOOK,
    now: dt.datetime | None = None,
) -> Page:
    """The jobs that satisfy a filter, a page at a time; reads only, and waits for nobody.

    The order is that of an index. One state: finished jobs from the last one that finished, scheduled ones
    from the next that is due, queued ones as they are claimed, running ones from the one that began first.
    Else, of a schedule, from its last tick; else from the last that was enqueued. A page goes on behind the
    last job of the one before, so that jobs that come meanwhile change nothing of what follows.

    Parameters:
        cursor: ``next`` of the page before, for the same filter; None: the first one.
        limit: jobs of a page, at most 1,000.
        look: among so many jobs it looks for them, at least 10, and then gives what it has; the page says so,
            and its ``next`` goes on from there. A filter that no job satisfies does not read the table. By
            their errors, which take longest, it looks among 2,500 at most.
        now: what the time is taken to be, for ages; None: the database's clock.

    Raises:
        InvalidFilter: the cursor is of another list, or none; ``limit`` or ``look`` is out of its range.
    """
    own = session_of(session, "list_jobs")
    check_number("limit", limit, 1, MOST)
    check_number("look", look, 10, 1_000_000)
    return Walk(own, model, where, now).page(cursor, limit, look)


def check_filter(where: object) -> None:
    """Refuse what is no filter."""
    if not isinstance(where, JobFilter):
        raise InvalidFilter("where", where, "a JobFilter, such as JobFilter(task='shop.pay')")


def check_number(name: str, value: Any, least: int, most: int) -> None:
    """Refuse what is no whole number of that range."""
    if type(value) is not int or not least <= value <= most:
        raise InvalidFilter(name, value, f"a whole number from {least:,} to {most:,}")


@dataclass(frozen=True)
class _Order:
    """In which order a filter's jobs are, and what of the filter that order says already."""

    name: str
    line: Line
    says: frozenset[str] = frozenset()


def _order_of(where: JobFilter) -> _Order:
    if where.schedule is not None and not _has_own_order(where):
        return _Order("schedule", statements.TICKS, frozenset({"schedule"}))
    if len(where.states) != 1:
        return _Order("newest", statements.NEWEST)
    state = where.states[0]
    if state is JobState.QUEUED:
        line = statements.QUEUED if where.queue is None else statements.IN_QUEUE
        return _Order("queued", line, frozenset({"states", "queue"}))
    if state is JobState.RUNNING:
        return _Order("running", statements.RUNNING, frozenset({"states"}))
    line = statements.DUE if state is JobState.SCHEDULED else statements.FINISHED[state.value]
    return _Order(line.name, line, frozenset({"states"}))


def _has_own_order(where: JobFilter) -> bool:
    # Of these there are few, or their order is what one wants to see.
    return len(where.states) == 1 and where.states[0] in (JobState.QUEUED, JobState.RUNNING)


class Walk:
    """A way through the jobs of a filter."""

    def __init__(self, session: Session, model: Model, where: JobFilter, now: dt.datetime | None) -> None:
        check_filter(where)
        self._session, self._model, self._where = session, model, where
        self._order = _order_of(where)
        self._given: dict[str, Any] = {}
        if where.older_than is not None or where.newer_than is not None:
            self._given["now"] = now
        self._schedule_id: int | None = None

    def _execute(self, statement: Any, **parameters: Any) -> Any:
        return execute(self._session, self._model, statement, **parameters)

    def page(self, cursor: str | None, limit: int, look: int) -> Page:
        """The next jobs."""
        mark = None if cursor is None else Cursor.parse(cursor, self._order.name)
        look = self._bounded(look)
        if not self._find_schedule():
            return Page((), None, 0, True)
        if self._order.name == "queued":
            return self._queued(mark, limit, look)
        if self._order.name == "running":
            return self._running(mark, limit, look)
        return self._along(self._order.line, mark, limit, look)

    def _bounded(self, look: int) -> int:
        return look if self._where.error is None else min(look, _UNPACKED)

    def count(self, at_most: int, look: int) -> Count:
        """How many there are."""
        if not self._find_schedule():
            return Count(0)
        look = self._bounded(look)
        line, condition = self._order.line, self.condition()
        of_line = self._of_line(line)
        number = self._execute(
            statements.number_of(self._model, line, condition, at_most, look), **(of_line | self._given)
        ).scalar_one()
        if number > at_most:
            return Count(at_most, exact=False)
        if condition is None:
            return Count(number)
        seen = self._execute(statements.number_of(self._model, line, None, look, look), **of_line)
        return Count(number, exact=seen.scalar_one() < look)

    def _find_schedule(self) -> bool:
        name = self._where.schedule
        if name is None:
            return True
        self._schedule_id = self._execute(statements.schedule_id(self._model), p_name=name).scalar()
        return self._schedule_id is not None

    def condition(self) -> Any:
        """What of the filter the order does not say; None: nothing."""
        return statements.wanted(self._model, **self._said())

    def _said(self) -> dict[str, Any]:
        where = self._where
        said: dict[str, Any] = {
            "states": [each.value for each in where.states],
            "task": where.task,
            "queue": where.queue,
            "worker_id": where.worker_id,
            "schedule_id": self._schedule_id,
            "arguments": where.arguments,
            "error": where.error,
            "older_than": where.older_than,
            "newer_than": where.newer_than,
        }
        for name in self._order.says:
            said["schedule_id" if name == "schedule" else name] = None
        return said

    # -- by a key of one column --------------------------------------------------------------------

    def _along(self, line: Line, mark: Cursor | None, limit: int, look: int) -> Page:
        mark = mark or Cursor(line.name)
        condition = self.condition()
        if mark.tied:
            return self._among_tied(line, mark, limit, look)
        if line.by_id and condition is None:  # no job is looked at that is not shown
            return self._stretch(line, mark, None, limit, None, limit)
        # Where all that is looked at is shown, a few will do, unless too many of these are of one moment.
        page, stop = None, None
        for asked in [_FEW, look] if condition is None and look > _FEW else [look]:
            if page is not None and page.complete:
                break
            number, first, last = self._execute(
                statements.edge(self._model, line, asked), p_from=mark.key, **self._of_line(line)
            ).one()
            stop = last if number >= asked else None
            if stop is None or first != stop:
                page = self._stretch(line, mark, condition, limit, stop, number)
            else:
                page = None
        if page is None:
            return self._among_tied(line, Cursor(line.name, stop, None, None, True), limit, look)
        return page

    def _of_line(self, line: Line) -> dict[str, Any]:
        values = {"schedule_id": self._schedule_id, "queue": self._where.queue}
        return {} if line.of is None else {f"p_{line.of}": values[line.of]}

    def _stretch(
        self, line: Line, mark: Cursor, condition: Any, limit: int, stop: Any, looked_at: int
    ) -> Page:
        found = self._execute(
            statements.stretch(self._model, line, condition, limit + 1),
            p_from=mark.key, p_id=mark.id, p_to=stop, **(self._of_line(line) | self._given),
        ).all()  # fmt: skip
        jobs = tuple(row_of(row) for row in found[:limit])
        if len(found) > limit:
            return Page(
                jobs, str(Cursor(line.name, getattr(jobs[-1], line.key), jobs[-1].id)), looked_at, True
            )
        if stop is not None:
            return Page(jobs, str(Cursor(line.name, stop)), looked_at, False)
        return Page(jobs, None, looked_at, True)

    def _among_tied(self, line: Line, mark: Cursor, limit: int, look: int) -> Page:
        """More jobs than a look of the very same moment."""
        by_id = statements.NEWEST if line.descending else statements.OLDEST
        tied = statements.tied(self._model, line, mark.key)
        condition = self.condition()
        condition = tied if condition is None else tied & condition
        number, _, last = self._execute(statements.edge(self._model, by_id, look), p_from=mark.id).one()
        stop = last if number >= look else None
        found = self._execute(
            statements.stretch(self._model, by_id, condition, limit + 1),
            p_from=mark.id, p_id=mark.id, p_to=stop, **(self._of_line(line) | self._given),
        ).all()  # fmt: skip
        jobs = tuple(row_of(row) for row in found[:limit])
        if len(found) > limit:
            return Page(jobs, str(Cursor(line.name, mark.key, jobs[-1].id, None, True)), number, True)
        if stop is not None:
            # The first job beyond has not been looked at.
            beyond = stop + 1 if line.descending else stop - 1
            return Page(jobs, str(Cursor(line.name, mark.key, beyond, None, True)), number, False)
        assert isinstance(mark.key, dt.datetime)
        if mark.key <= _FIRST if line.descending else mark.key >= _LAST:  # beyond it is nothing
            return Page(jobs, None, number, True)
        following = mark.key - _MICROSECOND if line.descending else mark.key + _MICROSECOND
        return Page(jobs, str(Cursor(line.name, following)), number, False)

    # -- queued and running ------------------------------------------------------------------------

    def _queued(self, mark: Cursor | None, limit: int, look: int) -> Page:
        line = self._order.line
        given = self._given | self._of_line(line)
        if mark is not None:
            given |= {"p_priority": mark.priority, "p_run_at": mark.key, "p_id": mark.id}
        found = self._execute(
            statements.queued_page(
                self._model, self.condition(), limit + 1, look, line.of is not None, mark is not None
            ),
            **given,
        ).all()
        fitting = [row for row in found if row.fits]
        jobs = tuple(row_of(row) for row in fitting[:limit])

        def behind(row: Any) -> str:
            return str(Cursor("queued", row.run_at, row.id, row.priority))

        looked_at = found[-1].looked if found else 0
        if len(fitting) > limit:
            return Page(jobs, behind(jobs[-1]), looked_at, True)
        if looked_at >= look:
            return Page(jobs, behind(found[-1]), looked_at, False)
        return Page(jobs, None, looked_at, True)

    def _running(self, mark: Cursor | None, limit: int, look: int) -> Page:
        given = dict(self._given)
        if mark is not None:
            given |= {"p_from": mark.key, "p_id": mark.id}
        found = self._execute(
            statements.running_page(self._model, self.condition(), limit + 1, look, mark is not None), **given
        ).all()
        jobs = tuple(row_of(row) for row in found[:limit])
        looked_at = found[0].looked if found else 0
        # Of more than that, which no workers have threads for, the others are not shown.
        complete = looked_at < look
        following = (
            str(Cursor("running", found[limit - 1].began, jobs[-1].id)) if len(found) > limit else None
        )
        return Page(jobs, following, looked_at, complete)
