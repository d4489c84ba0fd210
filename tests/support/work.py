"""Workers of one test: run until nothing is left, or for as long as a block lasts."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs import Finished, Jobs, RetryPolicy, Worker, current_job
from tests.support.models import Effect
from tests.support.server import Database

SOON = dt.timedelta(milliseconds=20)
"""A poll interval for tests: nothing waits for it that has an event to wait for."""

NEVER_AGAIN = RetryPolicy(max_attempts=1)

PATIENCE = 30
"""Seconds to wait for what must happen; no test that passes takes as long."""


def drain(jobs: Jobs[Any], database: Database, **options: Any) -> list[Finished]:
    """Run jobs in a worker until none is queued or due; returns how each run ended, in order."""
    finished: list[Finished] = []
    given: dict[str, Any] = {
        "sessions": database.sessionmaker,
        "poll_interval": SOON,
        "on_finish": lambda _, done: finished.append(done),
        "drain": True,
    }
    worker = Worker(jobs, **(given | options))
    worker.start()
    assert worker.join(PATIENCE), "the worker found no end"
    return finished


class Recorder:
    """An application with one task that writes its argument down, and one that fails."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.ran: list[str] = []
        """The arguments of all runs, committed or not, in order."""
        self.record = self.jobs.task(name="record", retry=NEVER_AGAIN)(self._record)
        self.fail = self.jobs.task(name="fail", retry=NEVER_AGAIN)(self._fail)

    def _record(self, session: Session, note: str) -> None:
        self.ran.append(note)
        session.add(Effect(job_id=current_job().id, note=note))

    def _fail(self, session: Session, note: str) -> None:
        self._record(session, note)
        session.flush()
        raise ValueError(note)
