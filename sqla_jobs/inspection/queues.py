"""The queues: what waits in each, and how fast it goes."""

from __future__ import annotations

import datetime as dt
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.awaited import Sync, session_of, verb
from sqla_jobs.inspection.counts import MOST, counted
from sqla_jobs.inspection.rows import Count, loaded
from sqla_jobs.inspection.workers import MOST_WORKERS
from sqla_jobs.lifecycle.sent import execute
from sqla_jobs.models import Job, JobMixin

MOST_QUEUES: Final = 1_000
_LATELY: Final = dt.timedelta(minutes=5)
_LOOK: Final = 5_000
_BACKLOG: Final = 60_000
"""Queued jobs that are counted, in all queues together."""


@dataclass(frozen=True, kw_only=True)
class QueueRow:
    """A queue: one that has jobs, or is paused, or that a worker works for."""

    name: str
    queued: Count
    scheduled: Count
    """Of the next 5,000 that are due, of all queues; not exact if there are more."""
    running: int
    oldest: dt.datetime | None
    """``run_at`` of the oldest queued job; None: none is queued."""
    paused_at: dt.datetime | None
    per_minute: float
    """Finished within the last five minutes, by the minute; or the last 5,000 of a state, if more did."""


@verb
def list_queues(
    session: Sync, model: type[JobMixin] = Job, *, now: dt.datetime | None = None
) -> list[QueueRow]:
    """The queues, by name; reads only, and waits for nobody.

    Those that have jobs that are queued, running, among the next 5,000 that are due, or have finished within
    the last five minutes; those that are paused; and those of the workers. At most 1,000. A number of queued
    jobs is counted to 10,000, with more than 6 queues to 1,000, with more than 60 to 100.

    Parameters:
        now: what the time is taken to be; None: the database's clock.
    """
    own = session_of(session, "list_queues")
    heads = _pairs(own, model, statements.queue_heads(model, 2 * MOST_QUEUES))
    set_for = _pairs(own, model, statements.all_queues(model, MOST_QUEUES))
    scheduled = _pairs(own, model, statements.by_queue(model, statements.DUE, _LOOK + 1))
    running = _pairs(own, model, statements.by_queue(model, statements.RUNNING, _LOOK + 1))
    rates = _rates(own, model, now)
    known = {*heads, *set_for, *scheduled, *running, *rates, *_of_workers(own, model, now)}
    names = sorted(known)[:MOST_QUEUES]
    depths = _depths(own, model, [name for name in names if name in heads])
    all_scheduled = sum(scheduled.values()) <= _LOOK
    return [
        QueueRow(
            name=name,
            queued=depths.get(name, Count(0)),
            scheduled=Count(scheduled.get(name, 0), all_scheduled),
            running=running.get(name, 0),
            oldest=heads.get(name),
            paused_at=set_for.get(name),
            per_minute=rates.get(name, 0.0),
        )
        for name in names
    ]


def _pairs(session: Session, model: type[JobMixin], statement: Any) -> dict[str, Any]:
    return dict(execute(session, model, statement).all())


def _depths(session: Session, model: type[JobMixin], names: list[str]) -> Mapping[str, Count]:
    if not names:
        return {}
    # One of a few numbers: each of them is another statement.
    at_most = next((each for each in (MOST, 1_000) if each * len(names) <= _BACKLOG), 100)
    found = execute(session, model, statements.queue_depths(model, at_most), names=names)
    return {name: counted(number, at_most) for name, number in found}


def _rates(session: Session, model: type[JobMixin], now: dt.datetime | None) -> Mapping[str, float]:
    rates: defaultdict[str, float] = defaultdict(float)
    for final in statements.FINISHED:
        statement = statements.finished_since(model, final, _LOOK)
        found = execute(session, model, statement, p_lately=_LATELY, now=now).all()
        seconds = _LATELY.total_seconds()
        if sum(number for _, number, _ in found) >= _LOOK:
            seconds = max(age for _, _, age in found) or seconds
        for queue, number, _ in found:
            rates[queue] += number * 60 / seconds
    return rates


def _of_workers(session: Session, model: type[JobMixin], now: dt.datetime | None) -> set[str]:
    names: set[str] = set()
    for row in execute(session, model, statements.all_workers(model, MOST_WORKERS), now=now):
        queues = loaded(row.queues)
        if row.alive and isinstance(queues, list):
            names |= {each for each in queues if isinstance(each, str)}
    return names
