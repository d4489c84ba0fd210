"""The verbs of a schedule's row: what is due, the jobs of its ticks, its next time; and a list of all."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.cron import Rule
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.models import rule_of
from sqla_jobs.outcome import JobState


@dataclass(frozen=True)
class Knowledge:
    """Which schedules a process turns into jobs."""

    tasks: Collection[str]
    """The tasks that it knows."""
    unreadable: Collection[str] = ()
    """Rules that are none, as `DueSchedule.text` shows them."""
    refused: Collection[int] = ()
    """The ids of schedules whose jobs the table has just refused."""

    def parameters(self) -> dict[str, object]:
        """For the statements."""
        return {
            "tasks": list(self.tasks),
            "unreadable": list(self.unreadable),
            "refused": list(self.refused),
        }


class NextTimes(NamedTuple):
    """How long until something is due (zero or less: it is); None: nothing waits."""

    jobs: dt.timedelta | None
    schedules: dt.timedelta | None

    @property
    def first(self) -> dt.timedelta | None:
        """The sooner of the two."""
        return min((each for each in self if each is not None), default=None)


def next_times(
    session: Session | Connection, model: Model, known: Knowledge, *, now: dt.datetime | None = None
) -> NextTimes:
    """The time until the next scheduled job is due, and until the next schedule is."""
    row = execute(session, model, statements.next_times(model), now=now, **known.parameters()).one()
    return NextTimes(*(None if each is None else dt.timedelta(seconds=float(each)) for each in row))


@dataclass(frozen=True)
class DueSchedule:
    """The row of a schedule that is due; locked."""

    id: int
    name: str
    task: str
    queue: str | None
    priority: int | None
    cron: str | None
    timezone: str
    every: float | None
    """Seconds."""
    jitter: float | None
    """Seconds."""
    catch_up: str
    overlap: str
    next_run_at: dt.datetime | None
    """None: it was made by SQL, which has left it to the first who looks."""
    text: str
    """Its rule, for people; and to know one again that cannot be read."""
    now: dt.datetime
    arguments: str
    """The JSON of its jobs' arguments."""

    def rule(self) -> Rule:
        """Its rule.

        Raises:
            InvalidSchedule, OverflowError: a row that was made by SQL may hold anything.
        """
        return rule_of(self.cron, self.timezone, _span(self.every))


def due_schedules(
    session: Session, model: Model, known: Knowledge, *, now: dt.datetime | None = None
) -> list[DueSchedule]:
    """Lock the schedules that are due or have no next time yet, up to 100 of either that nobody holds."""
    return [
        DueSchedule(*row)
        for timed in (True, False)
        for row in execute(session, model, statements.due(model, timed), now=now, **known.parameters())
    ]


def busy_schedules(session: Session, model: Model, ids: Collection[int]) -> set[int]:
    """Which of these schedules have a job that is not finished; after they were locked."""
    return set(execute(session, model, statements.busy_schedules(model), ids=list(ids)).scalars())


class Tick(NamedTuple):
    """One job that a schedule is to make."""

    schedule_id: int
    tick_at: dt.datetime
    run_at: dt.datetime
    queue: str
    """If the schedule says none."""
    priority: int
    """Likewise."""
    limit_key: str | None = None
    """What the job is counted by; None: its task has no limit."""
    meta: str | None = None
    """The JSON of its ``meta``; None: there is nothing to say."""


class Advance(NamedTuple):
    """When a schedule is due next."""

    schedule_id: int
    next_run_at: dt.datetime
    tick_at: dt.datetime | None
    """The last one that had its job; None: it stays as it was."""


def make_due(
    session: Session,
    model: Model,
    ticks: Sequence[Tick],
    advances: Sequence[Advance],
    *,
    now: dt.datetime | None = None,
) -> int:
    """Make the jobs of ticks, and write when their schedules are due next; how many jobs were made.

    Both in one transaction, the caller's: a tick is neither lost nor made twice, wherever a process dies.
    """
    made = []
    if ticks:
        ids, times, moments, queues, priorities, keys, metas = zip(*ticks, strict=True)
        made = execute(
            session,
            model,
            statements.make_due(model),
            ids=list(ids),
            ticks=list(times),
            moments=list(moments),
            queues=list(queues),
            priorities=list(priorities),
            keys=list(keys),
            metas=list(metas),
            now=now,
        ).all()
    ids, moments, last = zip(*advances, strict=True)
    execute(session, model, statements.advance(model), ids=list(ids), moments=list(moments), ticks=list(last))
    told = {wakeup.queued(row.queue) if row.state == JobState.QUEUED else wakeup.SCHEDULED for row in made}
    wakeup.announce(session, model, told)
    return len(made)


@dataclass(frozen=True)
class ScheduleShown:
    """A schedule as lists of them show it."""

    id: int
    name: str
    task: str
    cron: str | None
    timezone: str
    every: float | None
    """Seconds."""
    enabled: bool
    data: bool
    """It was made as data; otherwise by a definition in the code."""
    next_run_at: dt.datetime | None
    last_tick_at: dt.datetime | None
    job_id: int | None
    """Its last job, if the table still has one."""
    job_state: JobState | None
    orphaned: bool
    """No living worker knows its task."""

    def rule(self) -> Rule:
        """Its rule.

        Raises:
            InvalidSchedule, OverflowError: a row that was made by SQL may hold anything.
        """
        return rule_of(self.cron, self.timezone, _span(self.every))


def list_schedules(session: Session | Connection, model: Model) -> list[ScheduleShown]:
    """All schedules, by name."""
    return [
        ScheduleShown(**{**row._mapping, "job_state": row.job_state and JobState(row.job_state)})
        for row in execute(session, model, statements.all_schedules(model))
    ]


def _span(seconds: float | None) -> dt.timedelta | None:
    return None if seconds is None else dt.timedelta(seconds=seconds)
