"""``sqla-jobs doctor``: what is wrong with the queue and its database, with a cure for each."""

from __future__ import annotations

import contextlib
from typing import Any, Final

import click
from rich.console import Console
from rich.padding import Padding
from rich.text import Text
from sqlalchemy import Engine

from sqla_jobs.cli import database
from sqla_jobs.cli.documents import json_option, print_document
from sqla_jobs.cli.place import place_options, placed
from sqla_jobs.cli.printing import console, plain
from sqla_jobs.doctor import Finding, Report, Severity, examine
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.tasks import Registry

_STYLES: Final[dict[Severity, str]] = {"error": "bold red", "warning": "yellow", "info": "cyan"}


@click.command()
@place_options
@json_option
@click.option("--strict", is_flag=True, help="Exit with 1 for warnings too.")
@click.pass_context
def doctor(ctx: click.Context, /, as_json: bool, strict: bool, **_: str | None) -> None:
    """Look for what is wrong, and say how to mend it.

    The tables beside the models, the server's settings, what keeps VACUUM from its work, connections,
    workers, jobs and schedules. It changes nothing. With --app also what only the application knows: its
    pool, its own job model, its tasks.

    Exit code 0: nothing worse than a warning, with --strict nothing worse than an info; 1: there is, or the
    database cannot be reached; 2: usage or configuration.
    """
    engine, model, jobs = placed(ctx).lead()
    report = examine(_own(jobs, engine), model, jobs)
    if as_json:
        print_document(
            {
                "worst": report.worst,
                "checks": report.checks,
                "findings": [found.as_json() for found in report.findings],
            }
        )
    else:
        _print(report)
    bad = ("error", "warning") if strict else ("error",)
    ctx.exit(1 if report.worst in bad else 0)


def _own(jobs: Registry[Any] | None, engine: Engine) -> Engine:
    """The application's own engine if it leads to the same place: how it connects is looked at too."""
    if jobs is not None and jobs.sessionmaker is not None:
        with contextlib.suppress(ConfigurationError):  # bound to nothing: the URL alone says where
            own = database.own_database(jobs)[1]
            return own if database.same(own.url, engine.url) else engine
    return engine


def _print(report: Report) -> None:
    out = console()
    for found in report.findings:
        _tell(out, found)
    numbers = [
        f"{number} {severity}{'s' if number != 1 and severity != 'info' else ''}"
        for severity in _STYLES
        if (number := sum(found.severity == severity for found in report.findings))
    ]
    out.print(f"{report.checks} checks: {', '.join(numbers) or 'nothing found'}")


def _tell(out: Console, found: Finding) -> None:
    head = Text.assemble((found.severity, _STYLES[found.severity]), " ", (found.code, "bold"))
    out.print(head)
    out.print(Padding(Text(plain(found.found)), (0, 0, 0, 2), expand=False))
    # Never wrapped: it is to be copied.
    for line in found.cure.splitlines():
        out.print(Text(f"    {plain(line)}", style="green"), soft_wrap=True)
    out.print()
