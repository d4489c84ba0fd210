"""What is typed at the command line, and what is in the queue meanwhile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import click
from click.testing import CliRunner, Result
from sqlalchemy import text

from sqla_jobs.cli import main
from tests.support.server import Database

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\u202eback\r\x08[bold]x[/bold] :smile: \\x1b"
"""What would steer a terminal, or be taken for markup; and a text that looks like an escape of ours."""
STEERS = ("\x1b", "\x07", "\x9b", "\u202e", "\r", "\x08")


@dataclass(frozen=True)
class Shell:
    """`sqla-jobs` on the database of a test."""

    database: Database

    def __call__(self, *arguments: str, typed: str | None = None) -> Result:
        result = CliRunner().invoke(
            main, list(arguments), input=typed, env={"DATABASE_URL": self.database.url_string}
        )
        # A traceback is what nothing that is typed may cause.
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
        assert not any(each in result.output for each in STEERS), repr(result.output)
        return result

    def json(self, *arguments: str) -> Any:
        """The document of a command that succeeds, in which nothing but ASCII is."""
        result = self(*arguments, "--json")
        assert result.exit_code == 0, result.output
        assert result.stdout.isascii()
        return json.loads(result.stdout)

    def job(self, task: str = "t", state: str = "queued", **values: Any) -> int:
        """A job that is there; returns its id."""
        values = {"task": task, "state": state, **values}
        if state in ("succeeded", "failed", "cancelled"):
            values.setdefault("finished_at", "2031-05-17 12:00:05+00")
        for name, value in values.items():
            if isinstance(value, (dict, list)):
                values[name] = json.dumps(value)
        names = ", ".join(values)
        given = ", ".join(f":{name}" for name in values)
        with self.database.engine.begin() as connection:
            sql = f"INSERT INTO sqla_jobs ({names}) VALUES ({given}) RETURNING id"
            return int(connection.execute(text(sql), values).scalar_one())


def commands(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """All commands that do something, by what is typed."""
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found[f"{before}{name}"] = command
        if isinstance(command, click.Group):
            found |= commands(command, f"{before}{name} ")
    return found
