"""Schedules that are due become jobs: each tick exactly one, whoever ticks, and wherever a process dies."""

from __future__ import annotations

import datetime as dt
import json
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import InvalidSchedule
from sqla_jobs.lifecycle import Advance, DueSchedule, Knowledge, NextTimes, Tick
from sqla_jobs.outcome import Clean
from sqla_jobs.redaction import MASK, log_error
from sqla_jobs.scheduler.missed import MOST, missed
from sqla_jobs.tasks import Options, Registry, meta_text, redaction

log = logging.getLogger("sqla_jobs")

_AGAIN: Final = 60.0
"""Seconds after which a schedule is tried again whose jobs the table has refused."""


@dataclass(frozen=True)
class _Plan:
    """What is to be written for a schedule that is due."""

    row: DueSchedule
    advance: Advance
    ticks: Sequence[Tick] = field(default=())


class Schedules:
    """The schedules whose tasks a registry knows. One thread's: it remembers what it could not read.

    Parameters:
        draw: gives a number from 0 to 1, for the jitter.
    """

    def __init__(self, registry: Registry[Any], *, draw: Callable[[], float] = random.random) -> None:
        self._registry = registry
        self._draw = draw
        self._unreadable: set[str] = set()
        self._skipped: dict[int, int] = {}
        """How many runs of a schedule were left out since its last job began."""
        self._refused: dict[int, float] = {}
        """Until when a schedule is passed over, by `time.monotonic`."""

    def next_times(self, session: Session | Connection, *, now: dt.datetime | None = None) -> NextTimes:
        """The time until the next scheduled job is due, and until the next schedule is; one statement."""
        return lifecycle.next_times(session, self._registry.model, self._known(), now=now)

    def tick(self, session: Session, *, now: dt.datetime | None = None) -> int:
        """Make jobs of schedules that are due, and advance these, in the caller's transaction.

        Returns:
            How many schedules were advanced. There may be more: tick again, in a new transaction.
        """
        model = self._registry.model
        rows = lifecycle.due_schedules(session, model, self._known(), now=now)
        if not rows:
            return 0
        skipping = [row.id for row in rows if row.overlap == "skip"]
        busy = lifecycle.busy_schedules(session, model, skipping) if skipping else set()
        plans: list[_Plan] = []
        jobs = 0
        for row in rows:
            if (plan := self._plan(row, row.id in busy)) is not None:
                plans.append(plan)
                jobs += len(plan.ticks)
            if jobs >= MOST:
                break  # the others in a transaction of their own
        return self._write(session, plans, now) if plans else 0

    def _known(self) -> Knowledge:
        clock = time.monotonic()
        self._refused = {key: until for key, until in self._refused.items() if clock < until}
        return Knowledge(self._registry.tasks, self._unreadable, self._refused)

    # -- what is to be done ------------------------------------------------------------------------

    def _plan(self, row: DueSchedule, busy: bool) -> _Plan | None:
        """None: its rule cannot be read. It is left alone, and not looked at again until it is edited."""
        try:
            rule = row.rule()
            if row.next_run_at is None:
                return _Plan(row, Advance(row.id, rule.next(row.now), None))
            # Beside each other none of them may run: so of several there is one.
            catch_up = "one" if row.overlap == "skip" and row.catch_up == "all" else row.catch_up
            found = missed(rule, row.next_run_at, row.now, catch_up)
        except (InvalidSchedule, ValueError, OverflowError) as error:
            self._unreadable.add(row.text)
            log.log(
                logging.ERROR, "schedule %r cannot be read, and is left alone until it is edited: %s",
                row.name, error, extra={"schedule": row.name},
            )  # fmt: skip
            return None
        ticks = found.ticks
        if not ticks:
            log.info(
                "schedule %r: %s run(s) up to %s missed and left out, as its catch_up says",
                row.name, found.left_out, row.now.isoformat(), extra={"schedule": row.name},
            )  # fmt: skip
        elif busy:
            self._leave_out(row, ticks[-1])
            ticks = ()
        elif found.left_out and catch_up == "all":
            log.warning(
                "schedule %r: the last %s runs that were missed are made up for, and %s before them left out",
                row.name, len(ticks), found.left_out, extra={"schedule": row.name},
            )  # fmt: skip
        if ticks and (skipped := self._skipped.pop(row.id, 0)) > 1:
            log.info(
                "schedule %r: %s runs were left out until its job was finished", row.name, skipped,
                extra={"schedule": row.name},
            )  # fmt: skip
        advance = Advance(row.id, found.following, ticks[-1] if ticks else None)
        return _Plan(row, advance, [self._tick(row, moment) for moment in ticks])

    def _leave_out(self, row: DueSchedule, moment: dt.datetime) -> None:
        # Told once: if nobody serves its queue, it would be told each second.
        self._skipped[row.id] = number = self._skipped.get(row.id, 0) + 1
        if number == 1:
            log.info(
                "schedule %r: the run of %s is left out, since a job of it is not finished; so are those "
                "that follow until it is", row.name, moment.isoformat(), extra={"schedule": row.name},
            )  # fmt: skip

    def _tick(self, row: DueSchedule, moment: dt.datetime) -> Tick:
        task = self._registry.tasks.get(row.task)
        options = Options() if task is None else task.options
        later = dt.timedelta(seconds=(row.jitter or 0.0) * self._draw())
        limited = self._registry.limited.get(row.task)
        key = limited and lifecycle.limit_key(limited, row.arguments)
        meta = meta_text(() if task is None else task.redact)
        return Tick(row.id, moment, moment + later, options.queue or "", options.priority, key, meta)

    # -- and is done -------------------------------------------------------------------------------

    def _write(self, session: Session, plans: Sequence[_Plan], now: dt.datetime | None) -> int:
        """All at once; if the table refuses that, each by itself, so that one does not stop the others."""
        try:
            self._write_at_once(session, plans, now)
        except DBAPIError as error:
            if error.connection_invalidated:
                raise
            if len(plans) > 1:
                return sum(self._write(session, [plan], now) for plan in plans)
            (plan,) = plans
            self._refused[plan.row.id] = time.monotonic() + _AGAIN
            log_error(
                logging.ERROR, "schedule %r: its job cannot be made; the next try is in %.0f s",
                plan.row.name, _AGAIN, error=error, clean=self._cleaning(plan.row),
                extra={"schedule": plan.row.name},
            )  # fmt: skip
            return 0
        return len(plans)

    def _cleaning(self, row: DueSchedule) -> Clean | None:
        """Takes out of a text what is not to be shown of a schedule's jobs; None: nothing."""
        task = self._registry.tasks.get(row.task)
        if task is None or not task.redact:
            return None
        try:
            arguments = json.loads(row.arguments)
        except (ValueError, RecursionError):
            return lambda _: MASK
        hidden = redaction(task.signature, arguments)
        return None if hidden is None else hidden.clean

    def _write_at_once(self, session: Session, plans: Sequence[_Plan], now: dt.datetime | None) -> None:
        ticks = [tick for plan in plans for tick in plan.ticks]
        with session.begin_nested():
            lifecycle.make_due(
                session, self._registry.model, ticks, [each.advance for each in plans], now=now
            )
