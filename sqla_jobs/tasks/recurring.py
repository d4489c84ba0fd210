"""The part of Jobs that is about schedules: ``@jobs.every``, ``@jobs.cron``, and their rows."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from sqla_jobs.awaited import Sync, method, session_of
from sqla_jobs.cron import Cron, Rule
from sqla_jobs.lifecycle import Synced
from sqla_jobs.models import JobMixin
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
