"""An application whose worker processes write down what their threads are doing, and are killed in it.

Only for processes of their own: it listens to every engine, and to each group.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, event
from sqlalchemy.orm import Session
from sqlalchemy.pool import Pool

from sqla_jobs import Job, Jobs, RetryPolicy, current_job
from sqla_jobs.scope import GroupScope, Ran
from tests.support.crash_phases import Phase, Phases
from tests.support.models import Effect

FILE_VARIABLE = "SQLA_JOBS_TEST_PHASES"
PLACE_VARIABLE = "SQLA_JOBS_TEST_PLACE"

jobs: Jobs[Job] = Jobs()
phases = Phases(Path(os.environ[FILE_VARIABLE]))
slots = itertools.count()
mine = threading.local()
never = threading.Event()

PLAIN = os.environ[PLACE_VARIABLE] == "0"
"""The first process has no fast lane, where a claim goes another way, and may be part of a finish."""
GROUP = None if PLAIN else 20
RETRY = RetryPolicy(max_attempts=1_000, max_crashes=1_000, base=timedelta(0))


def enter(phase: Phase) -> None:
    phases.write(mine.slot, phase)
    mine.phase = phase


def phase() -> Phase:
    return getattr(mine, "phase", Phase.ABSENT)


def leave_effect(session: Session) -> None:
    enter(Phase.GROUP_JOB if getattr(mine, "in_group", False) else Phase.JOB)
    session.add(Effect(job_id=current_job().id))
    session.flush()


@jobs.task(name="write", retry=RETRY)
def write(session: Session) -> None:
    leave_effect(session)


@jobs.task(name="fast", retry=RETRY, group_commit=GROUP)
def fast(session: Session) -> None:
    leave_effect(session)


@jobs.task(name="flaky", retry=RETRY, group_commit=GROUP)
def flaky(session: Session) -> None:
    leave_effect(session)
    if random.random() < 0.2:
        raise ValueError("one in five")


@jobs.task(name="slow", retry=RETRY, group_commit=GROUP)
def slow(session: Session) -> None:
    leave_effect(session)
    never.wait(0.005)


@event.listens_for(Engine, "before_cursor_execute")
def before_statement(_: Any, __: Any, statement: str, *___: Any) -> None:
    # Only threads that claim have a slot, not those of heartbeats and ticks.
    if "SET state='running'" in statement:
        if not hasattr(mine, "slot"):
            mine.slot = next(slots)
        if phase() is not Phase.FINISH:  # in whose transaction the next job may be claimed
            enter(Phase.CLAIM)
    elif statement.startswith("UPDATE sqla_jobs SET"):
        if phase() is Phase.JOB:
            enter(Phase.FINISH)
        elif phase() is Phase.GROUP_BETWEEN:
            enter(Phase.GROUP_FINISH)


@event.listens_for(Engine, "commit")
def before_commit(_: Any) -> None:
    if phase() in (Phase.FINISH, Phase.GROUP_FINISH):
        enter(Phase(phase() + 1))


@event.listens_for(Pool, "checkin")
def after_transaction(*_: Any) -> None:
    if phase() is not Phase.ABSENT:
        enter(Phase.BETWEEN)


@event.listens_for(Session, "after_commit")
def after_commit(_: Session) -> None:
    if phase() in (Phase.COMMIT, Phase.GROUP_COMMIT):  # the connection may be kept
        enter(Phase.BETWEEN)


run_in_group = GroupScope.run


def run(scope: GroupScope, body: Callable[[], Any]) -> Ran:
    mine.in_group = True
    try:
        return run_in_group(scope, body)
    finally:
        mine.in_group = False
        enter(Phase.GROUP_BETWEEN)


GroupScope.run = run  # type: ignore[method-assign]
