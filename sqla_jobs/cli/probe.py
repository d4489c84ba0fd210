"""``sqla-jobs health``."""

from __future__ import annotations

import socket
from typing import Final

import click
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from sqla_jobs import lifecycle, migrations
from sqla_jobs.cli import database, target
from sqla_jobs.cli.documents import json_option, print_document
from sqla_jobs.cli.options import schema_option, url_option
from sqla_jobs.cli.printing import plain
from sqla_jobs.statements import job_table

CONNECT_TIMEOUT: Final = 5
"""Seconds; a probe that waits for minutes says nothing."""


@click.command()
@click.argument("target", metavar="[MODULE:JOBS]", required=False)
@schema_option
@click.option("--host", metavar="NAME", help="Whose workers. Default: those of this host.")
@click.option("--any-host", is_flag=True, help="Workers of all hosts: one that lives is enough.")
@json_option
@url_option
def health(
    target: str | None,
    schema: str | None,
    host: str | None,
    any_host: bool,
    as_json: bool,
    database_url: str | None,
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
    found = _look(target, database_url, schema=schema, host=host)
    if as_json:
        print_document(
            {
                "healthy": found.living > 0,
                "host": host,
                "known": found.known,
                "living": found.living,
                "heartbeat_age": found.last,
                "living_heartbeat_age": found.last_living,
            }
        )
    judged = _judged(found, "any host" if host is None else host)
    if not as_json:
        click.echo(judged)


def _look(name: str | None, option: str | None, *, schema: str | None, host: str | None) -> lifecycle.Health:
    """How the workers of a host are, or of any.

    Parameters:
        name: MODULE:JOBS, whose job table is in the schema to look into.
        host: None: any.
    """
    if name is None:
        engine = _engine(database.require(option))
    else:
        jobs = target.load(name)
        schema = job_table(jobs.model).schema
        chosen = database.choose(option)
        engine = database.own_database(jobs)[1] if chosen is None else _engine(chosen)
    try:
        with engine.connect() as connection:
            migrations.check(connection, schema)
            return lifecycle.health(Session(connection), schema, host)
    except DBAPIError as error:
        # On one line, whatever the driver makes of it.
        raise click.ClickException(
            f"the database says: {plain(' '.join(str(error.orig).split()))}"
        ) from error


def _engine(chosen: database.Chosen) -> Engine:
    if "connect_timeout" in chosen.url.query:
        return database.engine(chosen, poolclass=NullPool)
    url = chosen.url.update_query_dict({"connect_timeout": str(CONNECT_TIMEOUT)})
    return database.engine(database.Chosen(url, chosen.source), poolclass=NullPool)


def _judged(found: lifecycle.Health, host: str) -> str:
    """What is said of the workers.

    Raises:
        ClickException: none of them lives.
    """
    if found.last is None:
        raise click.ClickException(f"no worker on {host}")
    if found.last_living is None:
        raise click.ClickException(
            f"{_workers(found.known)} on {host}, but the last heartbeat was "
            f"{found.last.total_seconds():.1f} s ago, which is beyond the heartbeat limit"
        )
    late = f" ({found.known - found.living} more without)" if found.known > found.living else ""
    seconds = found.last_living.total_seconds()
    return f"{_workers(found.living)} on {host}{late}, last heartbeat {seconds:.1f} s ago"


def _workers(number: int) -> str:
    return f"{number} worker" if number == 1 else f"{number} workers"
