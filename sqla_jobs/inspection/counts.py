"""How many jobs there are, up to a limit."""

from __future__ import annotations

import datetime as dt
from typing import Final

from sqla_jobs import statements
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.inspection.filters import ALL, JobFilter
from sqla_jobs.inspection.pages import Walk, check_filter, check_number
from sqla_jobs.inspection.rows import Count
from sqla_jobs.lifecycle.sent import execute
from sqla_jobs.models import Job, JobMixin
from sqla_jobs.outcome import JobState

MOST: Final = 10_000
LOOK: Final = 50_000


@verb
def count_jobs(
    session: Sync,
    model: type[JobMixin] = Job,
    where: JobFilter = ALL,
    *,
    at_most: int = MOST,
    look: int = LOOK,
    now: dt.datetime | None = None,
) -> Count:
    """How many jobs satisfy a filter; reads only, and waits for nobody.

    Parameters:
        at_most: it counts no further; at most 1,000,000.
        look: nor does it look at more jobs than that; by their errors at 2,500 at most.
        now: what the time is taken to be, for ages; None: the database's clock.

    Returns:
        Not ``exact`` if it came to one of the two: there are at least so many.

    Raises:
        InvalidFilter: ``at_most`` or ``look`` is out of its range.
    """
    own = session_of(session, "count_jobs")
    check_number("at_most", at_most, 1, 1_000_000)
    check_number("look", look, 10, 10_000_000)
    check_filter(where)
    if len(where.states) > 1 and where == JobFilter(states=where.states):
        counts = [
            Walk(own, model, JobFilter(states=(each,)), now).count(at_most, look) for each in where.states
        ]
        total = sum((each.number for each in counts), 0)
        return Count(min(total, at_most), total <= at_most and all(each.exact for each in counts))
    return Walk(own, model, where, now).count(at_most, look)


@verb
def count_states(session: Sync, model: type[JobMixin] = Job, *, at_most: int = MOST) -> dict[JobState, Count]:
    """How many jobs are in each state, none of them counted further than ``at_most``; reads only."""
    own = session_of(session, "count_states")
    check_number("at_most", at_most, 1, 100_000)
    row = execute(own, model, statements.numbers_by_state(model, at_most)).one()
    return {each: counted(getattr(row, each.value), at_most) for each in JobState}


def counted(number: int, at_most: int) -> Count:
    """A number that was counted to one more than ``at_most``."""
    return Count(min(number, at_most), number <= at_most)
