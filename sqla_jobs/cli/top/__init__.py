"""``sqla-jobs top``: the queue in a terminal, live.

Pure: `facts` are what is read and asked for, `state` what a key or a look makes of it, `frame` the lines of a
screen. `source` reads and acts, in the thread of `reader`; `terminal` is taken over and given back; `program`
joins them.
"""

from __future__ import annotations

import os
import signal
import sys

import click
from sqlalchemy import URL, Engine

from sqla_jobs.cli.place import place_options, placed
from sqla_jobs.cli.top import program
from sqla_jobs.cli.top.source import Source
from sqla_jobs.cli.top.state import State
from sqla_jobs.errors import ConfigurationError


@click.command()
@click.argument("target", metavar="[MODULE:JOBS]", required=False)
@place_options
@click.option(
    "--interval",
    metavar="SECONDS",
    type=click.FloatRange(0.2, 3600),
    default=2,
    show_default=True,
    help="How long it waits between two looks.",
)
@click.option("--read-only", is_flag=True, help="No key changes anything.")
@click.option("--once", is_flag=True, help="Print one frame and end; needs no terminal.")
@click.pass_context
def top(
    ctx: click.Context, /, target: str | None, interval: float, read_only: bool, once: bool, **_: str | None
) -> None:
    """Watch the queue, live, and act on it.

    Queues, workers, running and waiting jobs, failures, throughput. The key ? lists the others: pause a
    queue, retry or cancel a job, see one. MODULE:JOBS means the same as --app MODULE:JOBS.
    """
    if target is not None:
        if ctx.params["app"] not in (None, target):
            raise click.UsageError(f"MODULE:JOBS is {target} and --app is {ctx.params['app']}: give one.")
        ctx.params["app"] = target
    if not once:
        _require_terminal()
    with placed(ctx).opened() as there:
        engine: Engine = there.sessions.kw["bind"]
        source = Source(engine, there.model, read_only, there.jobs)
        state = State(_name(engine.url), interval, read_only)
        if once:
            program.once(source, state)
            return
        number = program.live(source, state)
    if number is not None:
        _end_by(ctx, number)


def _name(url: URL) -> str:
    """Which database, in few words and without its password."""
    host = url.host or url.query.get("host") or "this machine"
    return f"{url.database or url.username or 'the default database'} on {host}"


def _require_terminal() -> None:
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigurationError(
            "top draws on a terminal, and standard input or output is none: run it in one, or say --once for "
            "one frame"
        )
    if os.environ.get("TERM", "dumb") in ("dumb", "unknown", ""):
        raise ConfigurationError(
            f"top moves the cursor, and TERM is {os.environ.get('TERM', '')!r}, which cannot: set it to the "
            "name of your terminal, e.g. xterm-256color, or say --once for one frame"
        )


def _end_by(ctx: click.Context, number: int) -> None:
    """As the signal would have: so the shell, or who else waits, learns of it."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    ctx.exit(128 + number)  # the first process of a container has no default for signals
