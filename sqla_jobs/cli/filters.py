"""The options that say which jobs, of all commands that are about several."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import click
from click.shell_completion import CompletionItem

from sqla_jobs.cli.options import Command
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection import JobFilter
from sqla_jobs.inspection.filters import NAMES
from sqla_jobs.outcome import JobState

HIGHEST_ID: Final = 2**63 - 1


def _states(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """For the shell; whether it is a state is `JobFilter`'s to say."""
    return [CompletionItem(each.value) for each in JobState if each.value.startswith(incomplete)]


def filter_options(command: Command) -> Command:
    """The options of `JobFilter`, by its own names."""
    for option in reversed((
        click.option(
            "--state", metavar="STATE", shell_complete=_states, multiple=True,
            help="scheduled, queued, running, succeeded, failed or cancelled; several: once each.",
        ),
        click.option("--task", metavar="NAME", help="Jobs of this task."),
        click.option("--queue", metavar="NAME", help="Jobs in this queue."),
        click.option("--worker", metavar="ID", help="Jobs of this worker, which `sqla-jobs workers` lists."),
        click.option("--schedule", metavar="NAME", help="Jobs that this schedule has made."),
        click.option(
            "--arg", metavar="PATH=VALUE", multiple=True,
            help="Jobs with this argument, e.g. order.id=7; JSON if it can be read so, else text.",
        ),
        click.option("--error", metavar="TEXT", help="Jobs whose last error has this text in it."),
        click.option("--older-than", metavar="AGE", help="Enqueued longer ago than e.g. 90s, 15m, 2h, 7d."),
        click.option("--newer-than", metavar="AGE", help="Enqueued since then."),
    )):  # fmt: skip
        command = option(command)
    return command


def chosen_filter(params: Mapping[str, Any]) -> JobFilter:
    """What the options of `filter_options` say.

    Raises:
        InvalidFilter: with the option that is wrong.
        UsageError: an option without a text, which may be a variable of the shell that is not set. To take it
            for no option at all would mean all jobs, in a command that deletes them.
    """
    given = {name: params[name] for name in NAMES if params[name] not in (None, ())}
    for name, texts in given.items():
        if not all(each.strip() for each in ([texts] if isinstance(texts, str) else texts)):
            raise click.UsageError(f"{_option(name)} is empty: say what it is to be, or leave it out.")
    with by_option_names():
        return JobFilter.parse(given)


@contextmanager
def by_option_names(**others: str) -> Iterator[None]:
    """Let an InvalidFilter name the option that it is about."""
    try:
        yield
    except InvalidFilter as error:
        option = others.get(error.field) or (_option(error.field) if error.field in NAMES else error.field)
        raise InvalidFilter(option, error.found, error.expected) from error


def typed(where: JobFilter) -> str:
    """The options that say this filter, as they are typed in a shell."""
    return "".join(f" {_option(name)} {shlex.quote(value)}" for name, value in where.to_query())


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
