"""The ordinary lane without a worker's threads: one job after the other, in the test's own thread."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Job, Jobs, RetryPolicy, Task, current_job, lifecycle
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import Runner
from sqla_jobs.tasks import Sessions, sessions_of
from sqla_jobs.worker import outages
from sqla_jobs.worker.crew import Crew
from tests.support.models import Effect
from tests.support.server import Database

AT_ONCE = RetryPolicy(base=timedelta(0))
NEVER = RetryPolicy(max_attempts=1)


def register(session: Session, *, limit: timedelta = timedelta(minutes=5)) -> int:
    """A worker process that exists only as a row."""
    return lifecycle.register(
        session, Job, host="h", pid=1, version="v", queues=None, threads=1, heartbeat_limit=limit
    )


def persist(call: Callable[[], Any]) -> Any:
    """What a worker gives its runner, for a test's own thread."""
    crew = Crew()
    crew.start()
    return outages.persist(crew, timedelta(0), call)


@dataclass
class Lane:
    """Jobs of one registry, run by one worker id.

    Parameters:
        source: what makes the jobs' Sessions; None: the database's own engine.
    """

    database: Database
    source: Sessions | Engine | None = None
    jobs: Jobs[Job] = field(default_factory=Jobs)

    def __post_init__(self) -> None:
        with self.database.sessionmaker.begin() as session:
            self.worker_id = register(session)
            # Not a new one, without a lock: beside that the fast lane is closed.
            session.execute(text("UPDATE sqla_jobs_workers SET started_at = started_at - interval '1 day'"))
        source = self.database.engine if self.source is None else self.source
        self.runner = Runner(self.jobs, sessions_of(source), persist)
        self.database.at_end(self.runner.close)

    def task(self, function: Callable[..., Any], **options: Any) -> Task[..., Any, Job]:
        return self.jobs.task(name=function.__name__, **options)(function)

    def enqueue(self, task: Task[..., Any, Job], *arguments: Any, **options: Any) -> int:
        with self.database.sessionmaker.begin() as session:
            return task.using(**options).enqueue(session, *arguments).id

    def claim(self) -> Claimed:
        job = self.runner.claim(self.worker_id, None)
        assert job is not None, "no job is queued"
        return job

    def run(self) -> Finished | None:
        """Claim the next job and perform it; None: it was lost."""
        return self.runner.perform(self.claim())

    def row(self, job: int) -> Any:
        (row,) = self.database.rows("SELECT * FROM sqla_jobs WHERE id = :id", id=job)
        return row

    def errors(self, job: int) -> list[tuple[str, str]]:
        """(class, first line) of what the row's attempts say."""
        return [(each["error"], each["message"].partition("\n")[0]) for each in self.row(job).attempts]

    def effects(self, job: int) -> int:
        return int(self.database.scalar("SELECT count(*) FROM effects WHERE job_id = :id", id=job))


def leave_effect(session: Session) -> None:
    """What every job of these tests writes: one committed run, one row."""
    session.add(Effect(job_id=current_job().id))


def logged(caplog: Any, level: int = logging.WARNING) -> list[str]:
    """The messages of the library's logger from this level up."""
    return [r.getMessage() for r in caplog.records if r.name == "sqla_jobs" and r.levelno >= level]
