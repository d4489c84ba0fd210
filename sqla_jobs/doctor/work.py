"""Tasks and queues that nobody serves, and jobs that wait for long or have killed their process."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection
from typing import Any, Final

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import MOST, Finding, command, counted, literal, span
from sqla_jobs.doctor.people import PATIENCE
from sqla_jobs.doctor.schema import tables_there
from sqla_jobs.statements import Model, examined, job_table
from sqla_jobs.statements.examined.work import OF_A_QUEUE, SAMPLE
from sqla_jobs.tasks import OWN_QUEUE, Registry

PAUSED: Final = 3600
"""Seconds that a queue may be paused while jobs wait in it."""


def known_tasks(
    connection: Connection, model: Model, registry: Registry[Any] | None, now: dt.datetime | None
) -> set[str] | None:
    """The tasks that living workers know, or if there are none the application; None: that is not known."""
    workers = list(connection.execute(examined.live_workers(model), {"now": now}))
    if not workers:
        return None if registry is None else set(registry.tasks)
    known: set[str] = set()
    for worker in workers:
        # Of a version that does not say what it knows; or raw SQL.
        if not isinstance(worker.tasks, list):
            return None
        known.update(worker.tasks)
    return known


def check_tasks(
    connection: Connection, model: Model, registry: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Tasks of unfinished jobs that no living worker knows: each attempt at such a job fails."""
    known = known_tasks(connection, model, registry, now)
    if known is None:
        return []
    strange = [row for row in connection.execute(examined.unfinished_tasks(model)) if row.task not in known]
    schema = job_table(model).schema
    findings = []
    for row in strange[:MOST]:
        text = (
            f"{counted(row.number, more=row.more)} of task {row.task!r}, which no worker knows that lives "
            f"(the first {SAMPLE:,} of each state were looked at): each attempt fails, until none is left"
        )
        cure = (
            f"deploy the code that has it, or {command('jobs', 'cancel', '--task', row.task, schema=schema)}"
        )
        data = {"task": row.task, "number": int(row.number), "exact": not row.more}
        findings.append(Finding("task-unknown", "warning", text, cure, data))
    if len(strange) > MOST:
        text = f"and {len(strange) - MOST:,} more tasks that no worker knows"
        findings.append(
            Finding("task-unknown", "warning", text, "deploy the code that has them", {"tasks": len(strange)})
        )
    return findings


def check_crashes(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Unfinished jobs under which a process has died."""
    schema = job_table(model).schema
    return [
        Finding(
            "job-crashes",
            "warning",
            f"job {row.id} ({row.task}) was running when its process died, {counted(row.crashes, 'time')} by "
            "now; at the max_crashes of its retry policy (3) it is failed",
            f"{command('jobs', 'show', str(row.id), schema=schema)}   # its attempts say when",
            {"job": row.id, "task": row.task, "crashes": row.crashes},
        )
        for row in connection.execute(examined.crashed(model))
    ]


def check_queues(
    connection: Connection, model: Model, _: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Queues in which jobs wait that nobody takes: paused, unserved, or served too slowly."""
    waiting = list(connection.execute(examined.queues_in_use(model), {"now": now}))
    paused = {
        row.name: row.seconds for row in connection.execute(examined.paused_queues(model), {"now": now})
    }
    served = _served(connection, model, now)
    queues = [row.qualified for row in tables_there(connection, model) if row.name == "sqla_jobs_queues"]
    findings = []
    for row in waiting:
        if row.queue in paused:
            findings += _paused(row, paused[row.queue], queues[0])
        elif served is not None and row.queue not in served:
            text = f"{_number(row)} in queue {row.queue}, which no worker serves that lives"
            cure = f"sqla-jobs worker MODULE:JOBS --queues {row.queue}"
            findings.append(Finding("queue-unserved", "warning", text, cure, _data(row)))
        elif served is not None and row.waits > PATIENCE:
            text = (
                f"a job in queue {row.queue} is due for {span(row.waits)} and not begun, of {_number(row)} "
                "that wait: its workers do not keep up"
            )
            cure = f"sqla-jobs worker MODULE:JOBS --queues {row.queue}   # more workers, or more --threads"
            findings.append(Finding("queue-waits", "warning", text, cure, _data(row)))
    return findings[:MOST]


def _served(connection: Connection, model: Model, now: dt.datetime | None) -> Collection[str] | None:
    """The queues that somebody serves; None: all, or nobody lives, which is a finding of its own."""
    workers = list(connection.execute(examined.live_workers(model), {"now": now}))
    if not workers or any(not isinstance(worker.queues, list) for worker in workers):
        return _Everything() if workers else None
    return {OWN_QUEUE, *(queue for worker in workers for queue in worker.queues)}


class _Everything(frozenset[str]):
    def __contains__(self, _: object) -> bool:
        return True


def _paused(row: Any, seconds: float, table: str) -> list[Finding]:
    if max(seconds, 0) <= PAUSED or row.waits <= PAUSED:
        return []
    text = (
        f"queue {row.queue} is paused for {span(seconds)} with {_number(row)} in it, the longest of which "
        f"waits for {span(row.waits)}"
    )
    cure = f"UPDATE {table} SET paused_at = NULL WHERE name = {literal(row.queue)};"  # noqa: S608 - to be copied
    return [Finding("queue-paused", "warning", text, cure, {**_data(row), "paused": seconds})]


def _number(row: Any) -> str:
    return counted(row.number, more=row.number >= OF_A_QUEUE)


def _data(row: Any) -> dict[str, Any]:
    return {
        "queue": row.queue, "number": row.number, "exact": row.number < OF_A_QUEUE, "waits": row.waits
    }  # fmt: skip
