"""``sqla-jobs queues``: how full they are, and which begin no jobs."""

from __future__ import annotations

import datetime as dt
import difflib
from typing import Any, Final

import click
from rich.text import Text
from sqlalchemy.orm import Session

from sqla_jobs import inspection, verbs
from sqla_jobs.cli.documents import chosen_fields, json_option, print_document
from sqla_jobs.cli.place import Place, place_options, placed
from sqla_jobs.cli.printing import cell, moment, plain, print_table, span
from sqla_jobs.inspection import QueueRow
from sqla_jobs.models import JobMixin
from sqla_jobs.statements import clock

FIELDS: Final = ("name", "queued", "scheduled", "running", "oldest", "per_minute", "paused_at")
"""What ``--json`` tells of each queue."""


@click.group(invoke_without_command=True)
@json_option
@place_options
@click.pass_context
def queues(ctx: click.Context, /, as_json: bool, **_: str | None) -> None:
    """List the queues, or pause or resume one.

    With each how many jobs are queued, how many wait for a later time, how many run, since when the oldest
    queued one could have been begun, how many finished per minute in the last five, and since when it is
    paused.
    """
    if ctx.invoked_subcommand is None:
        _show(placed(ctx), as_json)
    elif as_json:
        raise click.UsageError("--json is for the list, which `sqla-jobs queues --json` prints.")


@queues.command()
@click.argument("name")
@place_options
@click.pass_context
def pause(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Begin no more jobs of a queue, until it is resumed.

    Those that run go on to their end. It need not have jobs yet.
    """
    _switch(placed(ctx), name, pause=True)


@queues.command()
@click.argument("name")
@place_options
@click.pass_context
def resume(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Begin the jobs of a queue again."""
    _switch(placed(ctx), name, pause=False)


def _show(place: Place, as_json: bool) -> None:
    found, now = place.look(
        lambda session, model, _: (
            inspection.list_queues(session, model),
            session.scalars(clock(), {"now": None}).one(),
        )
    )
    if as_json:
        print_document({"now": now, "queues": [chosen_fields(each, FIELDS) for each in found]})
    elif not found:
        click.echo("no queue: there is no job that is not finished, and no worker", err=True)
    else:
        print_table(
            ("queue", "queued", "scheduled", "running", "oldest waits", "per minute", "paused since (UTC)"),
            [_cells(each, now) for each in found],
            right=("queued", "scheduled", "running", "oldest waits", "per minute"),
        )


def _cells(row: QueueRow, now: dt.datetime) -> tuple[str | Text, ...]:
    waits = "" if row.oldest is None else span(max(now - row.oldest, dt.timedelta(0)))
    return (
        row.name, str(row.queued), str(row.scheduled), f"{row.running:,}", waits, f"{row.per_minute:,.1f}",
        cell(moment(row.paused_at), style="yellow"),
    )  # fmt: skip


def _switch(place: Place, name: str, *, pause: bool) -> None:
    def verb(session: Session, model: type[JobMixin], _: Any) -> tuple[bool, list[QueueRow]]:
        known = inspection.list_queues(session, model)
        change = verbs.pause if pause else verbs.resume
        return change(session, name, model=model), known

    new, known = place.transact(verb)
    state = "paused" if pause else "resumed"
    already = "" if new else ("paused already" if pause else "not paused")
    click.echo(plain(f"queue {name} is {already or state}"))
    names = [each.name for each in known]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=3)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        click.echo(plain(f"No waiting job and no worker names a queue {name}{hint}"), err=True)
