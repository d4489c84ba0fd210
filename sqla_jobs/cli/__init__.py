"""The command line: parse, then call one function per command.

Exit codes: 0 done · 1 anything unexpected · 2 usage or configuration · 3 the tables are missing or of
another revision · 128 + n ended by signal n.
"""

from __future__ import annotations

import datetime as dt
import platform
import socket
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy.exc import OperationalError

from sqla_jobs.cli import database, example, explain, output, probe, schedules, supervise, tables, work
from sqla_jobs.errors import ConfigurationError, DefinitionError, SchemaError

Command = TypeVar("Command", bound=Callable[..., Any])


class BadUsage(click.ClickException):
    """The command line, the environment or the application says something that cannot work."""

    exit_code = 2


class BadSchema(click.ClickException):
    """The queue's tables are missing, or of another revision."""

    exit_code = 3


class Commands(click.Group):
    """A group of commands whose refusals become a message and an exit code, in this one place."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SchemaError as error:
            raise BadSchema(str(error)) from error
        except (ConfigurationError, DefinitionError) as error:
            raise BadUsage(str(error)) from error
        except OperationalError as error:
            raise click.ClickException(f"the database says: {str(error.orig).strip()}") from error


class Recorded(click.Command):
    """A command that knows, as ``ctx.obj``, the arguments that it was given."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.obj = list(args)
        return super().parse_args(ctx, args)


def _seconds(_: click.Context, __: click.Parameter, value: float) -> dt.timedelta:
    try:
        return dt.timedelta(seconds=value)
    except (ValueError, OverflowError):
        raise click.BadParameter(f"{value} is not a number of seconds.") from None


def _duration(name: str, default: float, text: str, *, or_zero: bool = False) -> Callable[[Command], Command]:
    return click.option(
        name,
        metavar="SECONDS",
        type=click.FloatRange(min=0, min_open=not or_zero),
        callback=_seconds,
        default=default,
        show_default=True,
        help=text,
    )


def _versions() -> str:
    def of(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:  # on the path, but not installed
            return "from a source tree"

    others = ", ".join(f"{name} {of(name)}" for name in ("SQLAlchemy", "alembic", "psycopg"))
    return f"sqla-jobs {of('sqla-jobs')} ({others}, Python {platform.python_version()})"


url_option = click.option(
    "--database-url",
    metavar="URL",
    help=f"postgresql://…; else {database.VARIABLES[0]}, else {database.VARIABLES[1]} from the environment.",
)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(message=_versions(), version="")
def main() -> None:
    """A job queue in your SQLAlchemy transactions, on PostgreSQL."""


@main.command(cls=Recorded)
@click.argument("target", metavar="MODULE:JOBS")
@click.option(
    "--queues", metavar="A,B", help="All of the first before any of the second. Default: any queue."
)
@click.option(
    "--threads", type=click.IntRange(min=1), default=1, show_default=True, help="Jobs that run at once."
)
@click.option(
    "--concurrency",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Jobs of `async def` tasks that run at once, besides those of the threads.",
)
@click.option(
    supervise.OPTION,
    metavar="M",
    type=click.IntRange(min=1),
    help="Run so many such processes, and start another for each that ends. Default: this one, alone.",
)
@url_option
@_duration("--poll-interval", 1, "How long an idle thread waits before it looks again.")
@_duration("--heartbeat-interval", 10, "How often this process says that it lives.")
@_duration("--heartbeat-limit", 30, "Without a heartbeat for so long, others rescue its jobs.")
@_duration(
    "--grace",
    30,
    "How long running jobs may go on after the first signal; then they are given back.",
    or_zero=True,
)
@click.option(
    "--max-jobs",
    metavar="N",
    type=click.IntRange(min=1),
    help="End after so many jobs; with --processes another process goes on.",
)
@click.option(
    "--max-memory",
    metavar="MB",
    type=click.IntRange(min=1),
    help="End after a job when the process has more than so many megabytes of memory.",
)
@click.option(
    "--drain", "--once", "drain", is_flag=True, help="End when nothing is queued, due or running here."
)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    help="Default: info; warning under the progress bar of a drain.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.pass_context
def worker(
    ctx: click.Context,
    target: str,
    queues: str | None,
    threads: int,
    concurrency: int,
    processes: int | None,
    database_url: str | None,
    poll_interval: dt.timedelta,
    heartbeat_interval: dt.timedelta,
    heartbeat_limit: dt.timedelta,
    grace: dt.timedelta,
    max_jobs: int | None,
    max_memory: int | None,
    drain: bool,
    log_level: str | None,
    log_format: str,
) -> None:
    """Run jobs.

    MODULE:JOBS is where the application's Jobs is, e.g. `sqla-jobs worker shop.tasks:jobs`.

    The first SIGTERM or SIGINT lets the running jobs finish; the second, or the end of the grace, gives
    them back; the third ends the process at once, and its jobs are rescued by another worker. The
    current directory can be imported from.

    The database is that of --database-url, else SQLA_JOBS_DATABASE_URL, else DATABASE_URL, else of
    the Jobs' own sessionmaker.
    """
    if processes is not None:
        display = output.Display(False, log_level, log_format)
        ctx.exit(supervise.run(ctx.obj, processes, display=display, drain=drain, grace=grace))
    work.run(
        target,
        database_url,
        log_level=log_level,
        log_format=log_format,
        queues=queues.split(",") if queues is not None else None,
        threads=threads,
        concurrency=concurrency,
        poll_interval=poll_interval,
        heartbeat_interval=heartbeat_interval,
        heartbeat_limit=heartbeat_limit,
        grace=grace,
        max_jobs=max_jobs,
        max_memory=None if max_memory is None else max_memory * 1024 * 1024,
        drain=drain,
    )


@main.command()
@click.option("--schema", metavar="NAME", help="Where the tables are to be. Default: the connection's own.")
@click.option(
    "--to",
    metavar="REVISION",
    default="head",
    show_default=True,
    help="E.g. 0001; base drops the tables.",
)
@url_option
@click.option("--yes", is_flag=True, help="Do not ask before dropping the tables.")
def migrate(schema: str | None, to: str, database_url: str | None, yes: bool) -> None:
    """Bring the queue's tables to a revision.

    For applications without Alembic; any number may run at once. With Alembic, `alembic revision
    --autogenerate` writes a revision of your own that does the same.
    """
    tables.migrate(database_url, schema=schema, to=to, confirmed=yes)


@main.command()
@click.argument("target", metavar="[MODULE:JOBS]", required=False)
@click.option("--schema", metavar="NAME", help="Where the tables are. Default: the connection's own.")
@click.option("--host", metavar="NAME", help="Whose workers. Default: those of this host.")
@click.option("--any-host", is_flag=True, help="Workers of all hosts: one that lives is enough.")
@url_option
def health(
    target: str | None, schema: str | None, host: str | None, any_host: bool, database_url: str | None
) -> None:
    """Say whether a worker lives here.

    For liveness and readiness probes. Exit code 0: the database answers, its tables are right, and at
    least one worker of this host has given a heartbeat within its own limit; 1: it is not so; 2 and 3
    as for the other commands.

    With MODULE:JOBS the schema, and the database if none is named, are those of the application, which
    is imported for it.
    """
    if target is not None and schema is not None:
        raise click.UsageError("MODULE:JOBS and --schema exclude each other: the job model has its schema.")
    if any_host and host is not None:
        raise click.UsageError("--host and --any-host exclude each other.")
    host = None if any_host else host or socket.gethostname()
    probe.run(target, database_url, schema=schema, host=host)


def _place(command: Command) -> Command:
    """The options that say where the schedules are; of a group they hold for its commands too."""
    for option in (
        url_option,
        click.option("--schema", metavar="NAME", help="Where the tables are. Default: the connection's own."),
        click.option(
            "--app", metavar="MODULE:JOBS", help="The application, which knows its schema and tasks."
        ),
    ):
        command = option(command)
    return command


def _placed(ctx: click.Context) -> schedules.Place:
    outer = {} if ctx.parent is None else ctx.parent.params
    given = {key: ctx.params[key] or outer.get(key) for key in ("app", "schema", "database_url")}
    if given["app"] is not None and given["schema"] is not None:
        raise click.UsageError("--app and --schema exclude each other: the job model has its schema.")
    return schedules.Place(**given)


@main.group("schedules", invoke_without_command=True)
@_place
@click.pass_context
def schedules_(ctx: click.Context, /, **_: str | None) -> None:
    """List the schedules, or run one, or switch it on or off.

    With each its rule, its next five times, its last job, and whether it is switched on. One is orphaned
    if no worker that runs now knows its task.
    """
    if ctx.invoked_subcommand is None:
        schedules.show(_placed(ctx))


@schedules_.command()
@click.argument("name")
@_place
@click.pass_context
def run(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Make a job of a schedule now, beside its times."""
    schedules.run(_placed(ctx), name)


@schedules_.command()
@click.argument("name")
@_place
@click.pass_context
def enable(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Switch a schedule on; its next time is the first from now on."""
    schedules.switch(_placed(ctx), name, enabled=True)


@schedules_.command()
@click.argument("name")
@_place
@click.pass_context
def disable(ctx: click.Context, /, name: str, **_: str | None) -> None:
    """Switch a schedule off, until it is switched on again."""
    schedules.switch(_placed(ctx), name, enabled=False)


@main.group()
def cron() -> None:
    """About cron lines; needs no database."""


@cron.command("explain")
@click.argument("line")
@click.option("--timezone", metavar="ZONE", default="UTC", show_default=True, help="An IANA name.")
@click.option("--count", type=click.IntRange(1, 1000), default=5, show_default=True, help="How many times.")
@click.option("--after", metavar="TIME", help="E.g. 2026-03-28T12:00, in the zone. Default: now.")
def explain_(line: str, timezone: str, count: int, after: str | None) -> None:
    """Print the next times of a cron line, in its zone and in UTC."""
    explain.explain(line, timezone, count, after)


@main.command()
@click.option(
    "--csv",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Your own orders instead of the 2,000 that come with it.",
)
@click.option(
    "--database-url",
    metavar="URL",
    help="An empty database that the demo may fill. Default: a PostgreSQL of its own, deleted afterwards.",
)
def demo(csv: Path | None, database_url: str | None) -> None:
    """Show it all at work.

    A shop imports orders, workers write invoices, one worker is killed.

    The example is docs/examples/shop of the source tree. Exit code 1: what is in the database at the
    end is not what must be there.
    """
    example.run(csv, database_url)
