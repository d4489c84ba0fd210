"""The verbs for who wants to know what became of a job, or how far it has come."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.errors import JobCancelled, JobFailed, JobNotFinished, JobNotFound, NoResult
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.meter import Progress
from sqla_jobs.outcome import JobState


@dataclass(frozen=True)
class Left:
    """What a job's row says of its end."""

    job_id: int
    task: str
    state: JobState
    text: str | None
    """The result as JSON; None: there is none."""
    last: dict[str, Any]
    """The last of its ``attempts``; empty: there is none."""

    def result(self) -> str:
        """Its result as JSON.

        Raises:
            JobNotFinished, JobFailed, JobCancelled, NoResult: there is none.
        """
        if not self.state.is_final:
            raise JobNotFinished(self.job_id, self.task, self.state.value)
        error, message = self._said("error"), self._said("message")
        if self.state is JobState.FAILED:
            raise JobFailed(self.job_id, self.task, error, message, self._said("traceback"))
        if self.state is JobState.CANCELLED:
            # Not the error of an attempt that was to be tried again, when somebody cancelled it.
            by_itself = error == "sqla_jobs.errors.Cancel"
            raise JobCancelled(self.job_id, self.task, message if by_itself else None)
        if self.text is None:
            raise NoResult(self.job_id, self.task)
        return self.text

    def _said(self, key: str) -> str | None:
        value = self.last.get(key)
        return value if isinstance(value, str) else None


def left(session: Session, model: Model, job_id: int) -> Left:
    """What a job has left, as this transaction sees it.

    Raises:
        JobNotFound: there is none of that id.
    """
    row = execute(session, model, statements.result(model), p_id=job_id).first()
    if row is None:
        raise JobNotFound(job_id)
    last = json.loads(row.last) if row.last else None
    return Left(job_id, row.task, JobState(row.state), row.result, last if isinstance(last, dict) else {})


def progress(session: Session, model: Model, job_id: int) -> Progress | None:
    """What a job said last of how far it has come, as far as it is written; None: nothing.

    Raises:
        JobNotFound: there is none of that id.
    """
    row = execute(session, model, statements.progress(model), p_id=job_id).first()
    if row is None:
        raise JobNotFound(job_id)
    try:
        return None if row.progress is None else Progress.loaded(json.loads(row.progress))
    except (ValueError, RecursionError):  # raw SQL: more digits, or levels, than Python reads
        return None
