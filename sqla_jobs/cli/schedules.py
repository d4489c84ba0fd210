"""``sqla-jobs schedules``: what there is, and what is done to one by hand."""

from __future__ import annotations

import datetime as dt
import difflib
from typing import Any, Final
from zoneinfo import ZoneInfo

import click
from rich.text import Text
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.cli.documents import chosen_fields, json_option, print_document
from sqla_jobs.cli.place import Place, place_options, placed
from sqla_jobs.cli.printing import plain, print_table, shown
from sqla_jobs.cron import Cron
from sqla_jobs.errors import ConfigurationError, InvalidSchedule
from sqla_jobs.lifecycle import ScheduleShown
from sqla_jobs.models import JobMixin
from sqla_jobs.scheduler import upcoming
from sqla_jobs.statements import clock
from sqla_jobs.tasks import Registry, meta_text

NEXT: Final = 5
"""How many of a schedule's next times are shown."""


@click.group(invoke_without_command=True)
@json_option
@place_options
@click.pass_context
def schedules(ctx: click.Context, /, as_json: bool, **_: str | None) -> None:
    """List the schedules, or run one, or switch it on or off.

    With each its rule, its next five times, its last job, and whether it is switched on. One is orphaned
    if no worker that runs now knows its task.
    """
    if ctx.invoked_subcommand is None:
        _show(placed(ctx), as_json)
    elif as_json:
        raise click.UsageError("--json is for the list, which `sqla-jobs schedules --json` prints.")


@schedules.command()
@click.argument("name")
@place_options
@click.pass_context
def run(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Make a job of a schedule now, beside its times."""
    _run(placed(ctx), name)


@schedules.command()
@click.argument("name")
@place_options
@click.pass_context
def enable(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Switch a schedule on; its next time is the first from now on."""
    _switch(placed(ctx), name, enabled=True)


@schedules.command()
@click.argument("name")
@place_options
@click.pass_context
def disable(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Switch a schedule off, until it is switched on again."""
    _switch(placed(ctx), name, enabled=False)


# -- list ------------------------------------------------------------------------------------------


def _show(place: Place, as_json: bool) -> None:
    """Print all schedules, by name."""
    found, now = place.look(
        lambda session, model, _: (
            lifecycle.list_schedules(session, model),
            session.scalars(clock(), {"now": None}).one(),
        )
    )
    if as_json:
        print_document({"now": now, "schedules": [_document(each, now) for each in found]})
    elif not found:
        click.echo("no schedule: a worker writes those of its code to the database when it starts")
    else:
        _print(found, now)


def _print(found: list[ScheduleShown], now: dt.datetime) -> None:
    print_table(
        ("name", "rule", "zone", f"next {NEXT} times", "last job", "enabled"),
        [
            (
                each.name,
                each.cron or f"every {_span(each.every or 0)}",
                each.timezone if each.cron is not None else "",
                _times_shown(each, now),
                "" if each.job_id is None else f"{each.job_id} {each.job_state}",
                f"{'yes' if each.enabled else 'no'}{', orphaned' if each.orphaned else ''}",
            )
            for each in found
        ],
    )
    for each in found:
        if error := _unreadable(each):
            click.echo(plain(f"{each.name}: no next time, until its row is corrected: {error}"))
    if orphans := [each for each in found if each.orphaned]:
        tasks = ", ".join(sorted({each.task for each in orphans}))
        click.echo(plain(f"orphaned: no worker that runs now knows the task: {tasks}"))


def _document(row: ScheduleShown, now: dt.datetime) -> dict[str, Any]:
    error = _unreadable(row)
    return {
        **chosen_fields(row, ("id", "name", "task", "cron")),
        "timezone": None if row.cron is None else row.timezone,
        **chosen_fields(row, ("every", "enabled", "orphaned", "last_tick_at")),
        "next_times": upcoming(row, now, NEXT) if row.enabled and error is None else [],
        "job": None if row.job_id is None else {"id": row.job_id, "state": row.job_state},
        "error": error,
    }


def _times_shown(row: ScheduleShown, now: dt.datetime) -> Text:
    if _unreadable(row):
        return Text("none, see below", style="red")
    if not row.enabled:
        return Text("")
    rule = row.rule()
    zone = ZoneInfo(rule.timezone) if isinstance(rule, Cron) else dt.timezone.utc
    found = upcoming(row, now, NEXT)
    lines = [shown(each.astimezone(zone)) for each in found]
    if found and found[0] <= now:
        lines[0] += " (due)"
    return Text("\n".join(lines))


def _unreadable(row: ScheduleShown) -> str | None:
    """What is wrong with a rule that was written by hand, with SQL."""
    try:
        row.rule()
    except (InvalidSchedule, OverflowError) as error:
        return str(error)
    return None


def _span(seconds: float) -> str:
    parts = []
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        number, seconds = divmod(seconds, size)
        parts += [_plural(number, unit)] if number else []
    parts += [_plural(seconds, "second")] if seconds or not parts else []
    return " ".join(parts)


def _plural(number: float, unit: str) -> str:
    return f"{number:g} {unit}{'' if number == 1 else 's'}"


# -- by hand ---------------------------------------------------------------------------------------


def _run(place: Place, name: str) -> None:
    """Make a job of a schedule now."""

    def verb(
        session: Session, model: type[JobMixin], jobs: Registry[Any] | None
    ) -> tuple[int, str, ScheduleShown]:
        row = _find(session, model, name)
        task = None if jobs is None else jobs.tasks.get(row.task)
        made = lifecycle.run_schedule(
            session,
            model,
            name,
            queue=None if task is None else task.options.queue,
            priority=None if task is None else task.options.priority,
            meta=None if task is None else meta_text(task.redact),
        )
        if made is None:
            raise ConfigurationError(f"schedule {name!r} was removed in this moment")
        return *made, row

    job, queue, row = place.transact(verb)
    click.echo(plain(f"job {job} of task {row.task} is queued in {queue}"))
    if row.orphaned:
        click.echo("It waits for a worker that knows the task: none that runs now does.", err=True)


def _switch(place: Place, name: str, *, enabled: bool) -> None:
    """Switch a schedule on or off."""

    def verb(session: Session, model: type[JobMixin], _: object) -> ScheduleShown:
        row = _find(session, model, name)
        lifecycle.switch_schedule(session, model, name, enabled=enabled)
        return row

    row = place.transact(verb)
    already = " already" if row.enabled == enabled else ""
    click.echo(plain(f"schedule {name} is {'enabled' if enabled else 'disabled'}{already}"))


def _find(session: Session, model: type[JobMixin], name: str) -> ScheduleShown:
    rows = {row.name: row for row in lifecycle.list_schedules(session, model)}
    if name in rows:
        return rows[name]
    near = difflib.get_close_matches(name, rows, n=3)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "`sqla-jobs schedules` lists them all"
    raise ConfigurationError(f"there is no schedule {name!r}; {hint}")
