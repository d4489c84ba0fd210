"""``sqla-jobs worker --processes M``."""

from __future__ import annotations

import datetime as dt
import sys
from collections.abc import Sequence
from typing import Final

from sqla_jobs.cli.output import Display
from sqla_jobs.supervisor import Supervisor

OPTION: Final = "--processes"


def run(
    arguments: Sequence[str], processes: int, *, display: Display, drain: bool, grace: dt.timedelta
) -> int:
    """Run worker processes until a signal, or until the queue is drained; returns the exit code.

    Parameters:
        arguments: as ``sqla-jobs worker`` was given them.
    """
    display.start_logging()
    command = [sys.executable, "-m", "sqla_jobs", "worker", *without_processes(arguments)]
    return Supervisor(command, processes, drain=drain, grace=grace.total_seconds()).run()


def without_processes(arguments: Sequence[str]) -> list[str]:
    """The arguments of one worker process: all but ``--processes M``."""
    rest = iter(arguments)
    kept: list[str] = []
    for argument in rest:
        if argument == OPTION:
            next(rest, None)
        elif argument == "--":  # what follows are no options
            kept += [argument, *rest]
        elif not argument.startswith(f"{OPTION}="):
            kept.append(argument)
    return kept
