"""``sqla-jobs migrate``."""

from __future__ import annotations

import sys

import click
from sqlalchemy import Engine
from sqlalchemy.pool import NullPool

from sqla_jobs import migrations
from sqla_jobs.cli import database
from sqla_jobs.cli.options import url_option
from sqla_jobs.errors import ConfigurationError


@click.command()
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
    _migrate(database_url, schema=schema, to=to, confirmed=yes)


def _migrate(option: str | None, *, schema: str | None, to: str, confirmed: bool) -> None:
    """Bring the tables to a revision and say from which one to which."""
    chosen = database.require(option)
    # Not the server's own level: the revision that the tables are at is read after a wait at a lock.
    engine = database.engine(chosen, poolclass=NullPool, isolation_level="READ COMMITTED")
    if to == "base" and not confirmed:
        _confirm(engine, schema, chosen)
    with engine.connect() as connection, connection.begin():
        migrations.lock(connection)
        before = migrations.installed(connection, schema)
        after = migrations.migrate(connection, to=to, schema=schema)
    place = f'schema "{schema}"' if schema else "the default schema"
    told = f"at {_name(after)} already" if before == after else f"{_name(before)} → {_name(after)}"
    click.echo(f"sqla_jobs tables in {place}: {told}")


def _confirm(engine: Engine, schema: str | None, chosen: database.Chosen) -> None:
    with engine.connect() as connection:
        found = migrations.tables(connection, schema)
    if not found:
        return
    question = f"This drops {', '.join(found)} and all jobs from {chosen.url.render_as_string()}"
    if not sys.stdin.isatty():
        raise ConfigurationError(f"{question}: say --yes if that is what you want")
    click.confirm(f"{question}. Go on?", abort=True)


def _name(revision: str | None) -> str:
    return "nothing" if revision is None else revision
