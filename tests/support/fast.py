"""Fast-lane jobs in tests: groups as large as they can be, however slow the machine is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Final

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Job, Jobs, Task, current_job
from sqla_jobs.runner import Pace, group
from sqla_jobs.tasks import GROUP_SIZES
from sqla_jobs.worker import hands
from tests.support.models import Effect
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, drain

FAST: Final[dict[str, Any]] = {"group_commit": 50, "timeout": timedelta(minutes=1)}
"""Options of a task whose jobs share a transaction, and are not interrupted on a busy machine."""


@contextmanager
def unhurried(budget: float = 600.0) -> Iterator[None]:
    """Groups as large as may be from the first one on, with so many seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(group, "BUDGET", budget)
        patch.setattr(hands, "Pace", partial(Pace, size=GROUP_SIZES[-1]))
        yield


class Fast:
    """Jobs of the fast lane in a database, and what became of them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs: Jobs[Job] = Jobs()
        self.ran: list[str] = []
        """What the tasks of `note` were called with, in order, committed or not."""
        self.note = self.task(self._note, name="note")
        self.plain = self.jobs.register(self._note, name="plain")

    def _note(self, session: Session, what: str = "") -> None:
        self.ran.append(what)
        session.add(Effect(job_id=current_job().id, note=what))

    def task(self, function: Callable[..., Any], **options: Any) -> Task[..., Any, Job]:
        """A task with ``group_commit``; it is not tried again unless it is told to be."""
        given = {"name": getattr(function, "__name__", None), "retry": NEVER_AGAIN}
        return self.jobs.register(function, **(FAST | given | options))

    def enqueue(self, *jobs: Job) -> list[int]:
        """In one transaction, in order."""
        with self.database.sessionmaker.begin() as session:
            session.add_all(jobs)
            session.flush()
            return [job.id for job in jobs]

    def drain(self, *, budget: float = 600.0, **options: Any) -> list[Finished]:
        """Run all in one thread, in as large groups as may be."""
        with unhurried(budget):
            return drain(self.jobs, self.database, **options)

    def groups(self) -> list[list[int]]:
        """The ids of the jobs whose rows were last written by the same transaction."""
        rows = self.database.rows(
            "SELECT array_agg(id ORDER BY id) AS ids FROM sqla_jobs GROUP BY xmin::text ORDER BY min(id)"
        )
        return [row.ids for row in rows]

    def row(self, job: int) -> Any:
        (row,) = self.database.rows("SELECT * FROM sqla_jobs WHERE id = :id", id=job)
        return row

    def states(self) -> list[str]:
        return [row.state for row in self.database.rows("SELECT state FROM sqla_jobs ORDER BY id")]

    def effects(self) -> list[int]:
        """The jobs whose effects are committed; one that ran twice is in it twice."""
        return [row.job_id for row in self.database.rows("SELECT job_id FROM effects ORDER BY job_id")]

    def errors(self, job: int) -> list[tuple[str, str]]:
        """(class, first line) of what the row's attempts say."""
        kept = self.row(job).attempts
        return [(each["error"].rpartition(".")[2], each["message"].partition("\n")[0]) for each in kept]
