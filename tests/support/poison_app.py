"""An application with jobs that kill the process they run in; for processes of their own only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, RetryPolicy, current_job
from sqla_jobs.runner import group
from tests.support.models import Effect

DEATHS: Final[dict[str, Callable[[], object]]] = {
    "exit": lambda: os._exit(0),
    "segmentation fault": lambda: ctypes.string_at(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    # What C++ does when there is no memory left; the kernel's own way is SIGKILL.
    "abort": os.abort,
}

LONG: Final = 60

poison_waits, beside = threading.Event(), threading.Event()
never = threading.Event()

jobs: Jobs[Job] = Jobs()


def leave_effect(session: Session) -> None:
    session.add(Effect(job_id=current_job().id))
    session.flush()


def die(session: Session, how: str) -> None:
    """Wait until another thread is in the middle of an innocent job, and end the process."""
    leave_effect(session)
    poison_waits.set()
    beside.wait(LONG)
    DEATHS[how]()


def work(session: Session) -> None:
    """An innocent job: it stays for as long as somebody is about to kill the process."""
    leave_effect(session)
    if poison_waits.is_set():
        beside.set()
        never.wait(LONG)


def die_at_once(session: Session, how: str) -> None:
    """In a group the jobs before it are not committed yet."""
    leave_effect(session)
    DEATHS[how]()


def hold(session: Session) -> None:
    """Stay in the middle of a group, in Python: the server sees its connection idle."""
    leave_effect(session)
    print(f"holding job {current_job().id}", file=sys.stderr, flush=True)
    never.wait(LONG)


AT_ONCE = timedelta(0)
FAST: Final = 20
"""The size of a group."""

# The default of max_crashes is 3.
jobs.task(name="poison", retry=RetryPolicy(base=AT_ONCE))(die)
jobs.task(name="twice", retry=RetryPolicy(base=AT_ONCE, max_crashes=2))(die)
jobs.task(name="innocent", retry=RetryPolicy(base=AT_ONCE))(work)
jobs.task(name="once", retry=RetryPolicy(max_attempts=1))(work)

quiet: Jobs[Job] = Jobs(notify=False)
"""Its workers do not listen, and so hold no lock."""

# On a busy machine too there is more than one job in a group.
group.BUDGET = LONG  # type: ignore[misc]

for app in (jobs, quiet):
    twice = RetryPolicy(base=AT_ONCE, max_crashes=2)
    app.task(name="fast_poison", retry=twice, group_commit=FAST)(die_at_once)
    app.task(name="fast_once", retry=RetryPolicy(max_attempts=1), group_commit=FAST)(leave_effect)
    app.task(name="fast_hold", group_commit=FAST, timeout=timedelta(seconds=LONG))(hold)
    app.task(name="beside", retry=RetryPolicy(base=AT_ONCE))(leave_effect)
