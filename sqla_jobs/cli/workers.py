"""``sqla-jobs workers``: which processes run jobs, and what each does."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

import click
from rich.text import Text

from sqla_jobs import inspection
from sqla_jobs.cli.documents import chosen_fields, json_option, print_document
from sqla_jobs.cli.place import place_options, placed
from sqla_jobs.cli.printing import plain, print_table, span
from sqla_jobs.inspection import WorkerRow
from sqla_jobs.statements import clock

FIELDS: Final = (
    "id", "host", "pid", "version", "queues", "threads", "alive", "started_at", "heartbeat_at",
    "heartbeat_limit", "died_at", "tasks",
)  # fmt: skip
"""What ``--json`` tells of each worker, beside ``running``."""
RUNNING: Final = ("job_id", "task", "since", "progress")
"""What it tells of each job that a worker runs."""


@click.command()
@json_option
@place_options
@click.pass_context
def workers(ctx: click.Context, /, as_json: bool, **_: str | None) -> None:
    """List the worker processes, and the jobs that each of them runs.

    One lives if it has given a heartbeat within its own limit. One that has stopped is not in the list, one
    that was found dead stays for a minute.
    """
    found, now = placed(ctx).look(
        lambda session, model, _: (
            inspection.list_workers(session, model),
            session.scalars(clock(), {"now": None}).one(),
        )
    )
    if as_json:
        print_document({"now": now, "workers": [_document(each) for each in found]})
        return
    if not found:
        click.echo("no worker", err=True)
        return
    print_table(
        ("id", "process", "version", "queues", "threads", "up", "heartbeat", "lives", "runs"),
        [_cells(each, now) for each in found],
        right=("id", "threads", "up", "heartbeat", "runs"),
    )
    if any(each.running for each in found):
        click.echo()
        print_table(
            ("worker", "job", "task", "for", "progress"),
            [
                (
                    str(worker.id),
                    str(job.job_id),
                    job.task,
                    span(_age(job.since, now)),
                    progress(job.progress),
                )
                for worker in found
                for job in worker.running
            ],
            right=("worker", "job", "for"),
        )


def _document(row: WorkerRow) -> dict[str, Any]:
    return {**chosen_fields(row, FIELDS), "running": [chosen_fields(each, RUNNING) for each in row.running]}


def _cells(row: WorkerRow, now: dt.datetime) -> tuple[str | Text, ...]:
    lives = (
        Text("yes", style="green")
        if row.alive
        else Text("no" if row.died_at is None else "dead", style="red")
    )
    return (
        str(row.id), f"{row.host}:{row.pid}", row.version, ", ".join(row.queues or ["any"]),
        str(row.threads), span(_age(row.started_at, now)), f"{span(_age(row.heartbeat_at, now))} ago", lives,
        str(len(row.running)),
    )  # fmt: skip


def _age(since: dt.datetime | None, now: dt.datetime) -> dt.timedelta | None:
    return None if since is None else max(now - since, dt.timedelta(0))


def progress(said: Any) -> str:
    """How far a job has come, in few words; nothing if it has not said it."""
    if not isinstance(said, dict) or not isinstance(said.get("done"), (int, float)):
        return ""
    total, note = said.get("total"), said.get("note")
    far = f"{said['done']:,} of {total:,}" if isinstance(total, (int, float)) else f"{said['done']:,}"
    return plain(f"{far} {note}" if note else far)
