"""What is refused becomes a message and an exit code, in this one place.

Exit codes: 0 done · 1 anything unexpected · 2 usage or configuration · 3 the tables are missing or of
another revision · 4 a job that was named is not there, or was passed over · 128 + n ended by signal n.
"""

from __future__ import annotations

from typing import Any

import click
from sqlalchemy.exc import DBAPIError, OperationalError

from sqla_jobs.cli.printing import plain
from sqla_jobs.errors import ConfigurationError, DefinitionError, SchemaError


class BadUsage(click.ClickException):
    """The command line, the environment or the application says something that cannot work."""

    exit_code = 2


class BadSchema(click.ClickException):
    """The queue's tables are missing, or of another revision."""

    exit_code = 3


class NotAll(click.ClickException):
    """A job that was named is not there, or was passed over."""

    exit_code = 4


def of_database(error: DBAPIError) -> click.ClickException:
    """What the database says; never with the statement or its parameters."""
    return click.ClickException(f"the database says: {plain(str(error.orig).strip(), lines=True)}")


class Commands(click.Group):
    """A group of commands whose refusals become a message and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        for each in args:
            # What the terminal has sent in another encoding came through as lone surrogates.
            if "\x00" in each or any("\ud800" <= character <= "\udfff" for character in each):
                raise click.UsageError(f"{each!r} is no text in UTF-8.")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SchemaError as error:
            raise BadSchema(plain(error, lines=True)) from error
        except (ConfigurationError, DefinitionError) as error:
            raise BadUsage(plain(error, lines=True)) from error
        except OperationalError as error:
            raise of_database(error) from error
