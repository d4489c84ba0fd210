"""What a worker shows: log records as text or JSON, and how far a drain has come."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import Self

from sqla_jobs.cli.pretty import Pretty
from sqla_jobs.outcome import JobState
from sqla_jobs.runner import Finished
from sqla_jobs.worker import Worker

log = logging.getLogger("sqla_jobs")

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at how many jobs are left; the count's cost grows with the backlog."""
TELL_EVERY: Final = 10
"""Looks between two lines of progress where there is no terminal."""


_TEXT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Display:
    """Where a worker's words go: stderr, below it a progress bar when a drain runs in a terminal."""

    def __init__(self, drain: bool, log_level: str | None, log_format: str | None) -> None:
        console = Console(stderr=True)
        terminal = console if console.is_terminal and not console.is_dumb_terminal else None
        self._bar = terminal if drain else None
        self._level = (log_level or ("info" if self._bar is None else "warning")).upper()
        self._json = log_format == "json"
        # Where there is no terminal there is nothing to be pretty for.
        self._pretty = terminal if log_format in (None, "pretty") else None

    def start_logging(self) -> None:
        """Give the root logger a handler, before the application is imported and may set up its own."""
        handler: logging.Handler
        if self._pretty is not None:
            handler = Pretty(self._pretty)
        else:
            handler = logging.StreamHandler() if self._bar is None else AboveTheBar(self._bar)
            handler.setFormatter(Json() if self._json else logging.Formatter(_TEXT))
        logging.basicConfig(handlers=[handler], level=self._level)
        logging.captureWarnings(True)

    def progress(self, remaining: Callable[[], int] | None) -> DrainProgress:
        """The progress of a drain, to be entered while it runs."""
        return DrainProgress(remaining, self._bar)


_STANDARD: Final = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName"}


class Json(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, message, whatever is in ``extra``, exception."""

    def format(self, record: logging.LogRecord) -> str:
        at = dt.datetime.fromtimestamp(record.created, dt.timezone.utc)
        fields: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for name, value in vars(record).items():
            if name not in _STANDARD:
                fields.setdefault(name, value)
        if record.exc_info:
            fields.setdefault("exception", self.formatException(record.exc_info))
        elif record.exc_text:  # of a job whose errors are not shown as they are
            fields.setdefault("exception", record.exc_text)
        return json.dumps(fields, default=str, ensure_ascii=False)


class AboveTheBar(logging.Handler):
    """Prints records above a progress bar, as they are."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.out(self.format(record), highlight=False)
        except Exception:
            self.handleError(record)


class DrainProgress:
    """Counts what one worker does and shows it: a bar in a terminal, else a log record now and then.

    The total is what this worker has finished plus what is queued, running or due; it grows with jobs
    that enqueue jobs.

    Parameters:
        remaining: counts what is left; None: that is shared with other processes, and only the end is told.
    """

    def __init__(self, remaining: Callable[[], int] | None, console: Console | None) -> None:
        self._remaining = remaining
        self._finished = self._failed = self._retried = 0
        self._left = 0
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="sqla_jobs-progress", daemon=True)
        self._console = console
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f} jobs"),
            TextColumn("[red]{task.fields[failed]:,} failed[/] [yellow]{task.fields[retried]:,} retried[/]"),
            TimeElapsedColumn(),
            console=console,
            disable=console is None,
        )
        self._task = self._bar.add_task("", total=0, failed=0, retried=0)

    def note(self, _: Worker, finished: Finished) -> None:
        """Count one run of a job; the worker's ``on_finish``."""
        with self._lock:
            if finished.state.is_final:
                self._finished += 1
            if finished.state is JobState.FAILED:
                self._failed += 1
            elif finished.failed:
                self._retried += 1
            self._left = max(0, self._left - finished.state.is_final)
        self._show()

    def __enter__(self) -> Self:
        self._bar.start()
        self._bar.console.show_cursor(True)  # a third Ctrl-C ends the process before it could come back
        if self._remaining is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if kind is None and self._thread.ident is not None:
            self._thread.join(LOOK_EVERY)
        self._show()
        self._bar.stop()
        if kind is None:
            self._summarise()

    def _look(self) -> None:
        assert self._remaining is not None
        looks = 0
        while True:
            try:
                left = self._remaining()
            except SQLAlchemyError as error:  # no concern of the jobs'; the worker tells of outages
                log.debug("the number of jobs left could not be read: %s", error)
            else:
                with self._lock:
                    self._left = left
                self._show()
                if looks % TELL_EVERY == 0 and self._console is None and not self._over.is_set():
                    log.info("%s of %s jobs finished", *self._counts(), extra=self._extra())
            looks += 1
            if self._over.wait(LOOK_EVERY):
                return

    def _counts(self) -> tuple[int, int]:
        return self._finished, self._finished + self._left

    def _extra(self) -> dict[str, int]:
        finished, total = self._counts()
        return {"finished": finished, "total": total, "failed": self._failed, "retried": self._retried}

    def _show(self) -> None:
        finished, total = self._counts()
        self._bar.update(
            self._task, completed=finished, total=total, failed=self._failed, retried=self._retried
        )

    def _summarise(self) -> None:
        told = f"finished {self._finished:,} ({self._failed:,} failed), retried {self._retried:,}"
        if self._console is None:
            log.info("%s", told, extra=self._extra())
        else:
            self._console.print(told, highlight=False)
