"""An application whose worker processes write down what their threads are doing, and are killed in it.

Only for processes of their own: it listens to every engine.
"""

from __future__ import annotations

import itertools
import os
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from sqla_jobs import Job, Jobs, RetryPolicy, current_job
from tests.support.crash_phases import Phase, Phases
from tests.support.models import Effect

FILE_VARIABLE = "SQLA_JOBS_TEST_PHASES"

jobs: Jobs[Job] = Jobs()
phases = Phases(Path(os.environ[FILE_VARIABLE]))
slots = itertools.count()
mine = threading.local()


def enter(phase: Phase) -> None:
    phases.write(mine.slot, phase)
    mine.phase = phase


def phase() -> Phase:
    return getattr(mine, "phase", Phase.ABSENT)


@jobs.task(name="write", retry=RetryPolicy(max_attempts=1_000, max_crashes=1_000, base=timedelta(0)))
def write(session: Session) -> None:
    enter(Phase.JOB)
    session.add(Effect(job_id=current_job().id))
    session.flush()


@event.listens_for(Engine, "before_cursor_execute")
def before_statement(_: Any, __: Any, statement: str, *___: Any) -> None:
    # Only threads that claim have a slot, not those of heartbeats and ticks.
    if statement.startswith("WITH picked AS") and "worker_id=" in statement:
        if not hasattr(mine, "slot"):
            mine.slot = next(slots)
        enter(Phase.CLAIM)
    elif phase() is Phase.JOB and statement.startswith("UPDATE sqla_jobs SET"):
        enter(Phase.FINISH)


@event.listens_for(Engine, "commit")
def before_commit(_: Any) -> None:
    if phase() is Phase.FINISH:
        enter(Phase.COMMIT)


@event.listens_for(Pool, "checkin")
def after_transaction(*_: Any) -> None:
    if phase() is not Phase.ABSENT:
        enter(Phase.BETWEEN)
