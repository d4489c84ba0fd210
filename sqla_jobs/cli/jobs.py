"""``sqla-jobs jobs list`` and ``show``: which jobs there are, and all about one."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Final

import click
from rich.text import Text
from sqlalchemy.orm import Session

from sqla_jobs import inspection
from sqla_jobs.cli.documents import chosen_fields, json_option, print_document
from sqla_jobs.cli.filters import HIGHEST_ID, by_option_names, chosen_filter, filter_options, typed
from sqla_jobs.cli.page import job_page, masked
from sqla_jobs.cli.place import place_options, placed
from sqla_jobs.cli.printing import cell, moment, plain, print_table, span
from sqla_jobs.cli.refusals import NotAll
from sqla_jobs.inspection import JobFilter, JobRow, Page
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState

ROW: Final = (
    "id", "task", "queue", "priority", "state", "run_at", "attempt", "max_attempts", "crashes", "worker_id",
    "created_at", "started_at", "finished_at", "cancel_requested_at", "progress", "error", "wait", "duration",
    "schedule_id", "tick_at",
)  # fmt: skip
"""What ``--json`` tells of each job of a list."""
DETAIL: Final = (
    *ROW, "arguments", "attempts", "result", "timeout", "schedule", "worker", "unique_key", "unique_scope",
    "unique_held", "limit_key", "claim",
)  # fmt: skip
"""What ``--json`` tells of one job."""

PATIENCE: Final = 0.25
"""Seconds after which no other look is begun, if those before have not found enough."""
STYLES: Final = {
    JobState.RUNNING: "cyan",
    JobState.SUCCEEDED: "green",
    JobState.FAILED: "red",
    JobState.CANCELLED: "yellow",
}


@click.group()
@place_options
def jobs(**_: str | None) -> None:
    """List jobs, look at one, and retry, cancel or delete them."""


@jobs.command("list")
@filter_options
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--after", metavar="CURSOR", help="Go on behind a list that has ended with this.")
@json_option
@place_options
@click.pass_context
def list_(ctx: click.Context, /, limit: int, after: str | None, as_json: bool, **params: Any) -> None:
    """List jobs, page by page.

    The newest first; of one state those first that finished last, are due first, or would be begun first.
    However many jobs there are, the look at them is bounded: the end says whether it was all, and how to go
    on.
    """
    where = chosen_filter(params)
    with by_option_names(cursor="--after"):
        page = placed(ctx).look(lambda session, model, _: _page(session, model, where, after, limit))
    if as_json:
        told = {"jobs": [chosen_fields(each, ROW) for each in page.jobs]}
        print_document({**told, **chosen_fields(page, ("next", "looked_at", "complete"))})
        return
    if page.jobs:
        print_jobs(page.jobs)
    _tell_the_end(page, where, limit)


def _page(session: Session, model: type[JobMixin], where: JobFilter, cursor: str | None, limit: int) -> Page:
    """A page, after as many looks as there is `PATIENCE` for; but one."""
    deadline = time.monotonic() + PATIENCE
    page = inspection.list_jobs(session, model, where, cursor=cursor, limit=limit)
    while page.next and not page.complete and len(page.jobs) < limit and time.monotonic() < deadline:
        more = inspection.list_jobs(session, model, where, cursor=page.next, limit=limit - len(page.jobs))
        page = replace(more, jobs=page.jobs + more.jobs, looked_at=page.looked_at + more.looked_at)
    return page


def print_jobs(found: tuple[JobRow, ...]) -> None:
    """Print jobs as a table."""
    print_table(
        ("id", "state", "task", "queue", "attempt", "enqueued (UTC)", "wait", "ran", "error"),
        [
            (
                str(each.id),
                Text(each.state, style=STYLES.get(each.state, "")),
                each.task,
                each.queue,
                str(each.attempt) if each.max_attempts is None else f"{each.attempt}/{each.max_attempts}",
                moment(each.created_at),
                span(each.wait),
                span(each.duration),
                cell(each.error or "", style="red"),
            )
            for each in found
        ],
        right=("id", "attempt", "wait", "ran"),
    )


def _tell_the_end(page: Page, where: JobFilter, limit: int) -> None:
    # Beside the list, not in it: what counts its lines counts jobs.
    if not page.complete:
        click.echo(f"not all: {page.looked_at:,} jobs were looked at, and there are more", err=True)
    elif not page.jobs:
        click.echo("no such job" if where else "no job", err=True)
    if page.next is not None:
        limited = "" if limit == 50 else f" --limit {limit}"
        command = f"sqla-jobs jobs list{typed(where)}{limited} --after {page.next}"
        click.echo(f"go on: {plain(command)}", err=True)


@jobs.command()
@click.argument("job", metavar="ID", type=click.IntRange(1, HIGHEST_ID))
@json_option
@place_options
@click.pass_context
def show(ctx: click.Context, /, job: int, as_json: bool, **_: str | None) -> None:
    """Print all about one job.

    Its arguments, its attempts that did not succeed with their errors and tracebacks, its times, its
    schedule, its worker, its progress and its result. Exit code 4: there is none of this id.
    """
    found = placed(ctx).look(
        lambda session, model, app: masked(inspection.show_job(session, model, job), app)
    )
    if found is None:
        raise NotAll(f"there is no job {job}: it was deleted, or never made")
    if as_json:
        print_document(chosen_fields(found, DETAIL))
    else:
        click.echo(job_page(found))
