"""What is refused becomes a message and an exit code, in this one place.

Exit codes: 0 done · 1 anything unexpected · 2 usage or configuration · 3 the tables are missing or of
another revision · 128 + n ended by signal n.
"""

from __future__ import annotations

from typing import Any

import click
from sqlalchemy.exc import OperationalError

from sqla_jobs.errors import ConfigurationError, DefinitionError, SchemaError


class BadUsage(click.ClickException):
    """The command line, the environment or the application says something that cannot work."""

    exit_code = 2


class BadSchema(click.ClickException):
    """The queue's tables are missing, or of another revision."""

    exit_code = 3


class Commands(click.Group):
    """A group of commands whose refusals become a message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SchemaError as error:
            raise BadSchema(str(error)) from error
        except (ConfigurationError, DefinitionError) as error:
            raise BadUsage(str(error)) from error
        except OperationalError as error:
            raise click.ClickException(f"the database says: {str(error.orig).strip()}") from error
