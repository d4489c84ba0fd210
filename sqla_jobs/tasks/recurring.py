"""The part of Jobs that is about schedules: ``@jobs.every``, ``@jobs.cron``, and their rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from sqla_jobs import lifecycle
from sqla_jobs.awaited import Sync, method, session_of
from sqla_jobs.cron import Cron, Rule
from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.lifecycle import Synced
from sqla_jobs.models import JobMixin
from sqla_jobs.tasks.meta import meta_text
from sqla_jobs.tasks.registry import Registry
from sqla_jobs.tasks.schedules import Scheduled, TaskT, interval

JobT = TypeVar("JobT", bound=JobMixin)


class Recurring(Registry[JobT]):
    """A registry whose tasks may have schedules."""

    def every(
        self,
        every: dt.timedelta,
        /,
        *,
        name: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        timeout: dt.timedelta | None = None,
        jitter: dt.timedelta | None = None,
        catch_up: Literal["one", "all", "none"] = "one",
        overlap: Literal["allow", "skip"] = "allow",
        enabled: bool = True,
    ) -> Scheduled:
        """Run a task again and again, at an interval; a decorator, above ``@jobs.task``.

        The first run is one interval after the row was made, by `sync_schedules` or by a worker that starts.

        Parameters:
            every: at least a second. Zero switches the schedule off: its row is removed.
            name: of the schedule, of which a task may have several; None: the task's own.
            kwargs: the arguments of its jobs, by the names of the task's parameters.
            queue, priority: of its jobs; None: the task's.
            max_attempts, timeout: of its jobs; see `Options`.
            jitter: each job starts up to so much later, at random.
            catch_up: what becomes of runs that were missed, since no worker was there: ``one`` job for all of
                them, a job for each (``all``, of the last 1,000), or ``none``, if the last is more than a
                minute ago.
            overlap: ``skip``: no new job while one of its last 20 is not finished.
            enabled: False: the row is made, and does nothing until it is switched on.

        Raises:
            TaskDefinitionError: below it is no task.
            InvalidSchedule: an option is out of its range, or the name is taken.
            InvalidOption, InvalidQueueName: likewise.
            InvalidArguments, ArgumentsNotStorable: ``kwargs`` do not fit the task, or one is missing.
        """
        rule = interval(every)
        return self._decorator(
            "every", rule, name=name, kwargs=kwargs, queue=queue, priority=priority,
            max_attempts=max_attempts, timeout=timeout, jitter=jitter, catch_up=catch_up, overlap=overlap,
            enabled=enabled,
        )  # fmt: skip

    def cron(
        self,
        line: str,
        /,
        *,
        timezone: str = "UTC",
        name: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        queue: str | None = None,
        priority: int | None = None,
        max_attempts: int | None = None,
        timeout: dt.timedelta | None = None,
        jitter: dt.timedelta | None = None,
        catch_up: Literal["one", "all", "none"] = "one",
        overlap: Literal["allow", "skip"] = "allow",
        enabled: bool = True,
    ) -> Scheduled:
        """Run a task at the times of a cron line; a decorator, above ``@jobs.task``.

        Parameters:
            line: six fields with the second first, or five as in crontab; see `Cron`.
            timezone: the IANA name of the zone whose clock the line means.

        The others are those of `every`, as are the errors.
        """
        rule = Cron(line, timezone)
        return self._decorator(
            "cron", rule, name=name, kwargs=kwargs, queue=queue, priority=priority,
            max_attempts=max_attempts, timeout=timeout, jitter=jitter, catch_up=catch_up, overlap=overlap,
            enabled=enabled,
        )  # fmt: skip

    def _decorator(self, decorator: str, rule: Rule | None, **options: Any) -> Scheduled:
        def decorate(task: TaskT) -> TaskT:
            self.schedule(task, rule, decorator=decorator, **options)
            return task

        return decorate

    @method
    def sync_schedules(
        self,
        session: Sync,
        *,
        prune: bool = False,
        force: bool = False,
        now: dt.datetime | None = None,
    ) -> Synced:
        """Write the schedules of the code to their rows, in the Session's transaction.

        Every worker does it when it starts (without ``prune`` and ``force``), and any number of processes may
        at once. By name: one that is new is inserted, one that says the same is left as it is, with its
        ``next_run_at``. One that says another rule or time zone gets a new ``next_run_at``; any other change
        leaves that as it is.

        Left alone is a row that was made or edited as data: whose columns, but for ``enabled``, are not
        what a definition has written. And one whose definition is newer: the row had the one of this
        process before, and a living worker has the one that it has now.

        Parameters:
            prune: switch off the schedules that this registry does not define any more: those of its tasks,
                and those that were defined in a package of its tasks; but none that a living worker has.
            force: write also what would be left alone.
            now: what the time is taken to be; None: the database's clock.

        Returns:
            What became of each, by name.

        Raises:
            TaskDefinitionError: a task has no name that a worker could know it by.
            InvalidOption: the first argument is no Session.
        """
        own = session_of(session, "sync_schedules")
        return self.sync(own, prune=prune, force=force, now=now)

    @method
    def run_schedule(self, session: Sync, name: str, *, now: dt.datetime | None = None) -> int | None:
        """Make a job of a schedule now, beside its ticks, in the Session's transaction.

        Also of one that is switched off. Where its row says no queue or priority, those of its task are
        taken; of a task that is not registered here, those of its last job.

        Parameters:
            name: of the schedule.
            now: what the time is taken to be; None: the database's clock.

        Returns:
            The id of the job; None: there is no schedule of that name.

        Raises:
            InvalidOption: the first argument is no Session.
        """
        own = session_of(session, "run_schedule")
        own.flush()  # the schedule itself may be pending
        rows = {row.name: row for row in lifecycle.list_schedules(own, self.model)}
        if name not in rows:
            return None
        task = self.tasks.get(rows[name].task)
        queue, priority = (None, None) if task is None else (task.options.queue, task.options.priority)
        meta = meta_text(() if task is None else task.redact, self.tracing)
        made = lifecycle.run_schedule(
            own, self.model, name, queue=queue, priority=priority, meta=meta, now=now
        )
        return None if made is None else made[0]

    @method
    def switch_schedule(
        self, session: Sync, name: str, *, enabled: bool, now: dt.datetime | None = None
    ) -> bool:
        """Switch a schedule on or off, in the Session's transaction; workers are told.

        One that comes back does not make up for what was due meanwhile. It waits for a tick of the schedule
        that is being made in this moment. A `Schedule` that the Session has loaded is not read anew.

        Parameters:
            name: of the schedule.
            now: what the time is taken to be; None: the database's clock.

        Returns:
            Whether there is one of that name; it may have been so already.

        Raises:
            InvalidOption: the first argument is no Session, or ``enabled`` neither True nor False.
        """
        own = session_of(session, "switch_schedule")
        if not isinstance(enabled, bool):
            raise InvalidOption(f"enabled {shown(enabled)}; expected True or False")
        own.flush()
        return lifecycle.switch_schedule(own, self.model, name, enabled=enabled, now=now)
