"""What the queues hold, for a scrape: looked at rarely, and never at the expense of a job."""

from __future__ import annotations

import datetime as dt
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from sqla_jobs import inspection, lifecycle, wakeup
from sqla_jobs.models import JobMixin
from sqla_jobs.runner.sessions import apart
from sqla_jobs.tasks import Sessions

log = logging.getLogger("sqla_jobs")

EVERY: Final = 10.0
"""Seconds between two looks, at least, however often somebody asks."""
PATIENCE: Final = 5.0
"""Seconds that somebody who asks waits for a look."""
TIMEOUT: Final = 2.0
"""Seconds that each statement of a look may take."""


class Row(NamedTuple):
    """One queue."""

    name: str
    queued: int
    scheduled: int
    oldest: float
    """Seconds for which its oldest queued job has been due; zero: there is none."""
    paused: bool


class Queues:
    """Looks at the queues, by a connection of its own: it waits for none that jobs have, nor takes one away.

    Parameters:
        sessions: lead to the database; none of them is used.
    """

    def __init__(
        self, model: type[JobMixin], sessions: Sessions, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._model = model
        self._sessions = sessions
        self._clock = clock
        self._lock = threading.Lock()
        self._next = clock()
        self._done = threading.Event()
        self._done.set()
        self._rows: Sequence[Row] | None = None
        self._failed = False

    def rows(self) -> Sequence[Row] | None:
        """The queues as they were ten seconds ago, or since; None: the last look failed, or is late."""
        with self._lock:
            now = self._clock()
            if self._done.is_set() and now >= self._next:
                self._next = now + EVERY
                self._done.clear()
                threading.Thread(target=self._look, name="sqla_jobs-queues", daemon=True).start()
        return self._rows if self._done.wait(PATIENCE) else None

    def _look(self) -> None:
        try:
            rows = self._read()
        except Exception as error:
            self._rows = None
            if not self._failed:  # said once, until it works again
                told = (str(error).splitlines() or [type(error).__name__])[0]
                log.warning("the queues could not be looked at for the metrics: %s", told)
            self._failed = True
        else:
            self._rows, self._failed = rows, False
        finally:
            self._done.set()

    def _read(self) -> list[Row]:
        with apart(self._sessions) as session:
            bind = session.get_bind(**lifecycle.target(self._model))
        engine = wakeup.apart(bind if isinstance(bind, Engine) else bind.engine)
        try:
            with Session(engine) as session, session.begin():
                options: dict[str, Any] = {"isolation_level": "READ COMMITTED"}
                connection = session.connection(execution_options=options)
                connection.exec_driver_sql(f"SET LOCAL statement_timeout = {TIMEOUT * 1000:.0f}")
                now = connection.exec_driver_sql("SELECT statement_timestamp()").scalar_one()
                return [_row(each, now) for each in inspection.list_queues(session, self._model)]
        finally:
            engine.dispose()


def _row(row: inspection.QueueRow, now: dt.datetime) -> Row:
    oldest = 0.0 if row.oldest is None else max(0.0, (now - row.oldest).total_seconds())
    return Row(row.name, row.queued.number, row.scheduled.number, oldest, row.paused_at is not None)
