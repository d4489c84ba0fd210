"""Schedules that can make no job."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import MOST, Finding, command
from sqla_jobs.doctor.schema import tables_there
from sqla_jobs.doctor.work import known_tasks
from sqla_jobs.errors import InvalidSchedule
from sqla_jobs.models import rule_of
from sqla_jobs.statements import Model, examined, job_table
from sqla_jobs.tasks import Registry

UNTIMED: Final = 60
"""Seconds; a worker that knows the task gives it a time within one."""


def check_schedules(
    connection: Connection, model: Model, registry: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Schedules whose rule cannot be read, that nobody knows, or to which nobody gives a time."""
    known = known_tasks(connection, model, registry, now)
    somebody = connection.execute(examined.live_workers(model), {"now": now}).first() is not None
    [table] = [row for row in tables_there(connection, model) if row.name == "sqla_jobs_schedules"]
    findings: list[Finding] = []
    for row in connection.execute(examined.rules(model), {"now": now}):
        if len(findings) == MOST:
            break
        data: dict[str, Any] = {"schedule": row.name, "task": row.task}
        update = f"UPDATE {table.qualified} SET %s WHERE id = {row.id};"  # noqa: S608 - to be copied
        if error := _unreadable(row):
            text = f"the rule of schedule {row.name!r} cannot be read, so it makes no job: {error}"
            what = "cron = '0 3 * * *', every = NULL, next_run_at = NULL"
            findings.append(Finding("schedule-unreadable", "error", text, update.replace("%s", what), data))
        elif known is not None and row.task not in known:
            text = (
                f"schedule {row.name!r} is orphaned: no worker knows its task {row.task!r}, so it makes none"
            )
            off = command("schedules", "disable", row.name, schema=job_table(model).schema)
            cure = f"deploy the code that has it, or {off}"
            findings.append(Finding("schedule-orphaned", "warning", text, cure, data))
        elif somebody and not row.timed and row.seconds > UNTIMED:
            text = f"schedule {row.name!r} has no next time, although workers live: none of them gives it one"
            what = "next_run_at = statement_timestamp()"
            findings.append(Finding("schedule-untimed", "warning", text, update.replace("%s", what), data))
    return findings


def _unreadable(row: Any) -> str | None:
    try:
        rule_of(row.cron, row.timezone, None if row.every is None else dt.timedelta(seconds=row.every))
    except (InvalidSchedule, OverflowError) as error:
        return str(error)
    return None
