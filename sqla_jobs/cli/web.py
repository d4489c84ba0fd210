"""``sqla-jobs web``: the dashboard on a server of its own."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Final

import click
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from sqla_jobs import migrations
from sqla_jobs.cli import database, output, target
from sqla_jobs.cli.options import schema_option, url_option
from sqla_jobs.cli.place import model_in
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import Registry

VARIABLE: Final = "SQLA_JOBS_WEB_PASSWORD"
"""The hash of the password, where no file has it."""
_POOL: Final = 5
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class _Web(click.Group):
    """``web [MODULE:JOBS]`` beside ``web hash-password``: what is no command is the application."""

    allow_interspersed_args = True

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            return _serve.name, _serve, args
        return super().resolve_command(ctx, args)


@click.group(
    cls=_Web,
    invoke_without_command=True,
    subcommand_metavar="[MODULE:JOBS | hash-password]",
)
@schema_option
@click.option("--host", metavar="ADDRESS", default="127.0.0.1", show_default=True, help="Where to listen.")
@click.option("--port", type=click.IntRange(0, 65_535), default=8282, show_default=True, help="0: any.")
@click.option("--user", metavar="NAME", default="admin", show_default=True, help="Who may log in.")
@click.option(
    "--password-file",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help=f"With the line of `sqla-jobs web hash-password`; else {VARIABLE} from the environment.",
)
@click.option("--read-only", is_flag=True, help="Show everything, and let nobody act.")
@click.option(
    "--allow-host",
    metavar="NAME",
    multiple=True,
    help="A name that browsers know this server by, such as that of a proxy. Many times.",
)
@click.option(
    "--behind-proxy",
    is_flag=True,
    help="Believe X-Forwarded-For and -Proto of a proxy on this machine.",
)
@click.option("--log-format", type=click.Choice(["text", "json"]), default="text", show_default=True)
@url_option
@click.pass_context
def web(ctx: click.Context, /, **_: Any) -> None:
    """Serve the dashboard.

    On this machine alone, unless a password is given: `sqla-jobs web hash-password` makes the line that is
    kept of it. With MODULE:JOBS the schema, the tasks, and the database if none is named, are those of the
    application, which is imported for it.
    """
    if ctx.invoked_subcommand is None:
        _run(None, ctx.params)


def _application(target: str) -> None:
    _run(target, click.get_current_context().parent.params)  # type: ignore[union-attr]


_serve: Final = click.Command(
    "serve",
    params=[click.Argument(["target"], metavar="MODULE:JOBS")],
    callback=_application,
    help="Serve the dashboard of an application.",
)


@web.command("hash-password")
def hash_password() -> None:
    """Ask for a password, and print what is to be kept of it.

    From a pipe it is read without a question: its first line.
    """
    password = _extra("sqla_jobs.web.password")
    if sys.stdin.isatty():
        given = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        given = sys.stdin.readline().rstrip("\r\n")
    click.echo(password.hash_password(given))


def _extra(module: str) -> Any:
    """A module of the extra ``web``, of which nothing is imported before somebody asks for it.

    Raises:
        ConfigurationError: the extra is not installed.
    """
    return importlib.import_module(module)


def _run(name: str | None, options: dict[str, Any]) -> None:
    app, password, guard, serving = (
        _extra(f"sqla_jobs.web.{each}") for each in ("app", "password", "guard", "serving")
    )
    if name is not None and options["schema"] is not None:
        raise click.UsageError("MODULE:JOBS and --schema exclude each other: the job model has its schema.")
    host = options["host"]
    kept = _kept(options["password_file"])
    if kept is None and not guard.is_loopback(host):
        raise ConfigurationError(
            f"--host {host}: whoever reaches that address could read, cancel and delete jobs, and no "
            f"password is given; expected --password-file, or {VARIABLE}, with the line of `sqla-jobs web "
            "hash-password`, or no --host: then it is 127.0.0.1"
        )
    output.Display(False, "info", options["log_format"]).start_logging()
    registry, engine = _database(name, options["schema"], options["database_url"])
    try:
        door = None
        if kept is not None:
            door = serving.Door(options["user"], password.Password(*kept))
        names = {*_LOOPBACK, *options["allow_host"]}
        with_any = door is not None and not guard.is_loopback(host) and not options["allow_host"]
        made = app.Dashboard(
            registry,
            engine,
            authorize=None if door is not None else serving.anybody,
            door=door,
            read_only=options["read_only"],
            hosts=None if with_any else {*names, host},
        )
        serving.serve(made, host, options["port"], behind_proxy=options["behind_proxy"])
    finally:
        engine.dispose()


def _kept(file: Path | None) -> tuple[str, str] | None:
    """The hash of the password, and where it is from; None: there is none."""
    if file is None:
        given = os.environ.get(VARIABLE)
        return (given, VARIABLE) if given else None
    try:
        return file.read_text(), f"the text of {file}"
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--password-file {file} cannot be read: {error}") from None


def _database(name: str | None, schema: str | None, url: str | None) -> tuple[Registry[Any], Engine]:
    registry: Registry[Any] = Registry(model_in(schema)) if name is None else target.load(name)
    chosen = database.choose(url)
    if chosen is None and name is not None:
        engine = database.own_database(registry)[1]
    else:
        engine = database.engine(database.require(url), pool_size=_POOL, max_overflow=_POOL, pool_timeout=5)
    try:
        with engine.connect() as connection:
            migrations.check(connection, job_table(registry.model).schema)
    except OperationalError as error:
        # It may come; until then each page says that it is away.
        click.echo(f"the database says: {' '.join(str(error.orig).split())}", err=True)
    except BaseException:
        engine.dispose()
        raise
    return registry, engine
