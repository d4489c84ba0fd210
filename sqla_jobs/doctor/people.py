"""The workers, and what they run."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import MOST, Finding, command, counted, span
from sqla_jobs.statements import Model, examined, job_table
from sqla_jobs.tasks import Registry

PATIENCE: Final = 900
"""Seconds that a job may wait before it is worth a word."""
FAR: Final = 2.0
"""Timeouts, and a minute; a worker interrupts a job after one."""
DYING: Final = 60
"""Seconds; so long others keep the row of one that they have found dead."""


def check_workers(
    connection: Connection, model: Model, _: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Whether anybody is there, if there is something to do."""
    if connection.execute(examined.live_workers(model), {"now": now}).first() is not None:
        return []
    queues = list(connection.execute(examined.queues_in_use(model), {"now": now}))
    tasks = list(connection.execute(examined.unfinished_tasks(model)))
    rules = list(connection.execute(examined.rules(model), {"now": now}))
    if not tasks and not rules:
        return []
    jobs = sum(row.number for row in tasks)
    longest = max((row.waits for row in queues), default=0.0)
    waits = f", the longest of them for {span(longest)}" if queues and longest > 0 else ""
    text = (
        f"no worker lives: {counted(jobs, more=any(row.more for row in tasks))} not finished{waits}; "
        f"{counted(len(rules), 'schedule')} without jobs"
    )
    cure = "sqla-jobs worker MODULE:JOBS"
    data = {"jobs": int(jobs), "schedules": len(rules), "waits": longest}
    return [Finding("no-worker", "error" if longest > PATIENCE else "warning", text, cure, data)]


def check_dead_workers(
    connection: Connection, model: Model, _: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Rows of workers that are dead; one that others have found lately is no more than worth knowing."""
    findings: list[Finding] = []
    for row in connection.execute(examined.dead_workers(model), {"now": now}):
        if len(findings) == MOST:
            break
        who = f"worker {row.id} (process {row.pid} on {row.host})"
        data = {
            "worker": row.id,
            "host": row.host,
            "pid": row.pid,
            "noted": row.noted,
            "seconds": row.seconds,
        }
        if row.noted and row.seconds <= DYING:
            text = f"{who} has died {span(row.seconds)} ago, and its jobs were rescued"
            findings.append(Finding("worker-dead", "info", text, "look into its log", data))
            continue
        text = (
            f"{who} is dead since {span(row.seconds)}, and no other worker has taken its row away"
            if row.noted
            else f"{who} gives no heartbeat since {span(row.seconds)}, and nobody has rescued its jobs"
        )
        cure = "sqla-jobs worker MODULE:JOBS   # any worker does both within seconds"
        findings.append(Finding("worker-dead", "warning", text, cure, data))
    return findings


def check_running(
    connection: Connection, model: Model, registry: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Jobs that run far beyond their timeout, or under a worker that does not live."""
    schema = job_table(model).schema
    findings: list[Finding] = []
    for row in connection.execute(examined.running_jobs(model), {"now": now}):
        if len(findings) == MOST:
            break
        data: dict[str, Any] = {
            "job": row.id,
            "task": row.task,
            "worker": row.worker_id,
            "seconds": row.seconds,
        }
        if row.ownerless:
            text = (
                f"job {row.id} ({row.task}) runs under "
                + ("no worker" if row.worker_id is None else f"worker {row.worker_id}")
                + ", which does not live: it waits for its rescue"
            )
            cure = "sqla-jobs worker MODULE:JOBS   # any worker rescues it within seconds"
            findings.append(Finding("job-ownerless", "warning", text, cure, data))
            continue
        timeout = row.timeout if row.timeout is not None else _timeout(registry, row.task)
        if timeout is None or row.seconds is None or row.seconds <= FAR * timeout + 60:
            continue
        text = (
            f"job {row.id} ({row.task}) runs for {span(row.seconds)}, and its timeout is {span(timeout)}: "
            "its worker cannot interrupt it. Code that is blocked in C does not see it; --processes replaces "
            "such a process"
        )
        cure = command("jobs", "cancel", str(row.id), schema=schema)
        data |= {"seconds": row.seconds, "timeout": timeout}
        findings.append(Finding("job-overdue", "warning", text, cure, data))
    return findings


def _timeout(registry: Registry[Any] | None, task: str) -> float | None:
    known = None if registry is None else registry.tasks.get(task)
    return None if known is None or known.timeout is None else known.timeout.total_seconds()
