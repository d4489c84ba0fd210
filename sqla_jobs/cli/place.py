"""Where the queue is: the options that say so, and a transaction there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import click
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker
from sqlalchemy.pool import NullPool

from sqla_jobs import migrations
from sqla_jobs.cli import database, target
from sqla_jobs.cli.options import Command, schema_option, url_option
from sqla_jobs.cli.refusals import of_database
from sqla_jobs.models import Job, JobMixin
from sqla_jobs.statements import job_table
from sqla_jobs.tasks import Registry

T = TypeVar("T")


def place_options(command: Command) -> Command:
    """The options that say where the queue is; of a group they hold for its commands too."""
    for option in (
        url_option,
        schema_option,
        click.option(
            "--app", metavar="MODULE:JOBS", help="The application, which knows its schema and tasks."
        ),
    ):
        command = option(command)
    return command


def placed(ctx: click.Context) -> Place:
    """What the options of `place_options` say, given to the command or to the group that it is in."""
    outer = {} if ctx.parent is None else ctx.parent.params
    given = {key: ctx.params[key] or outer.get(key) for key in ("app", "schema", "database_url")}
    if given["app"] is not None and given["schema"] is not None:
        raise click.UsageError("--app and --schema exclude each other: the job model has its schema.")
    return Place(**given)


@dataclass(frozen=True)
class Place:
    """Where the queue is, on which a command works.

    Parameters:
        app: MODULE:JOBS, whose job table is in the schema to look into; None: ``schema`` says where.
        schema: None: the connection's own.
        database_url: None: that of the environment, else that of the application.
    """

    app: str | None
    schema: str | None
    database_url: str | None

    def transact(self, verb: Callable[[Session, type[JobMixin], Registry[Any] | None], T]) -> T:
        """Call a verb with a Session, the job model, and the application's Jobs if it was named; commit.

        Raises:
            SchemaError: the tables are missing, or of another revision.
            ConfigurationError: nothing names a database.
        """
        with self.opened() as there, there.sessions.begin() as session:
            return verb(session, there.model, there.jobs)

    def look(self, verb: Callable[[Session, type[JobMixin], Registry[Any] | None], T]) -> T:
        """`transact`, in a transaction that cannot write, and sees all as it is at one moment."""
        with self.opened(postgresql_readonly=True, isolation_level="REPEATABLE READ") as there:
            with there.sessions.begin() as session:
                return verb(session, there.model, there.jobs)

    @contextmanager
    def opened(self, **options: Any) -> Iterator[Opened]:
        """The queue there, for several transactions.

        Parameters:
            options: execution options of their engine.

        Raises:
            SchemaError, ConfigurationError: as `transact`.
            ClickException: what the database says of an error.
        """
        engine, model, jobs = self.lead()
        try:
            with engine.connect() as connection:
                migrations.check(connection, job_table(model).schema)
            yield Opened(sessionmaker(engine.execution_options(**options)), model, jobs)
        except DBAPIError as error:
            raise of_database(error) from error

    def lead(self) -> tuple[Engine, type[JobMixin], Registry[Any] | None]:
        """An engine that leads there, the job model, and the application's Jobs if it was named.

        Raises:
            ConfigurationError: nothing names a database.
        """
        jobs = None if self.app is None else target.load(self.app)
        model = model_in(self.schema) if jobs is None else jobs.model
        chosen = database.choose(self.database_url)
        if chosen is None and jobs is not None:
            return database.own_database(jobs)[1], model, jobs
        return database.engine(database.require(self.database_url), poolclass=NullPool), model, jobs


@dataclass(frozen=True)
class Opened:
    """The queue, and the application's Jobs if it was named."""

    sessions: sessionmaker[Session]
    model: type[JobMixin]
    jobs: Registry[Any] | None


def model_in(schema: str | None) -> type[JobMixin]:
    """The library's own job model, in a schema; None: in the connection's own."""
    if schema is None:
        return Job

    class Base(DeclarativeBase):
        """Of one table."""

    return type("JobThere", (JobMixin, Base), {"__table_args__": {"schema": schema}})
