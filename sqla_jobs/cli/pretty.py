"""Log records in a terminal: the time, the level, and the message in the colour of what became of a job."""

from __future__ import annotations

import logging
from typing import Final

from rich.console import Console
from rich.text import Text

from sqla_jobs.cli.printing import plain

_LEVELS: Final = {
    logging.DEBUG: "dim",
    logging.WARNING: "yellow",
    logging.ERROR: "bold red",
    logging.CRITICAL: "bold red",
}
_OUTCOMES: Final = {"succeeded": "green", "failed": "red", "scheduled": "yellow", "cancelled": "magenta"}


class Pretty(logging.Handler):
    """Prints records to a terminal, above a progress bar if it has one.

    What a message or a traceback has in it cannot steer the terminal.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._errors = logging.Formatter()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.print(self._shown(record), soft_wrap=True)
        except Exception:
            self.handleError(record)

    def _shown(self, record: logging.LogRecord) -> Text:
        style = _LEVELS.get(record.levelno, "")
        outcome = _OUTCOMES.get(str(getattr(record, "state", "")), style)
        shown = Text()
        shown.append(self._errors.formatTime(record, "%H:%M:%S"), style="dim")
        shown.append(f" {record.levelname.lower():<7} ", style=style)
        if record.name != "sqla_jobs":
            shown.append(f"{plain(record.name)}: ", style="dim")
        shown.append(plain(record.getMessage(), lines=True), style=outcome)
        trace = record.exc_text
        if trace is None and record.exc_info:
            trace = self._errors.formatException(record.exc_info)
        if trace:
            shown.append(f"\n{plain(trace, lines=True)}", style="dim")
        return shown
