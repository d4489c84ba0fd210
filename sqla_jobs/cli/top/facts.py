"""What is passed between the terminal and the database: what was read, what is asked for, what was done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, Literal

from sqla_jobs.inspection import Bucket, Count, JobDetail, JobRow, QueueRow, WorkerRow
from sqla_jobs.outcome import JobState

SPAN: Final = dt.timedelta(minutes=10)
"""Of which the throughput is shown."""
BUCKETS: Final = 60


class Panel(str, Enum):
    """What is shown beside each other, in the order of the tab key."""

    QUEUES = "queues"
    WORKERS = "workers"
    RUNNING = "running"
    WAITING = "waiting"
    FAILURES = "failures"

    __str__ = str.__str__


JOBS: Final = (Panel.RUNNING, Panel.WAITING, Panel.FAILURES)
"""The panels whose rows are jobs."""


@dataclass(frozen=True)
class Wish:
    """What the next snapshots are to hold."""

    filter: str = ""
    """Jobs whose task or queue contains it, in whichever case."""
    job: int | None = None

    def matches(self, *texts: str) -> bool:
        """Whether one of the texts contains the filter."""
        wanted = self.filter.casefold()
        return any(wanted in text.casefold() for text in texts)


@dataclass(frozen=True)
class Snapshot:
    """What was read, by the database's clock. A part that took too long is missing from it."""

    at: dt.datetime
    queues: tuple[QueueRow, ...] = ()
    workers: tuple[WorkerRow, ...] = ()
    jobs: Mapping[Panel, tuple[JobRow, ...]] = field(default_factory=dict)
    more: frozenset[Panel] = frozenset()
    """Of which panels there are more jobs than these."""
    buckets: tuple[Bucket, ...] = ()
    states: Mapping[JobState, Count] = field(default_factory=dict)
    late: frozenset[str] = frozenset()
    """Parts that the database did not give in the time that they have: those of before are shown."""
    wish: Wish = field(default_factory=Wish)
    """What was asked for."""
    detail: JobDetail | None = None
    """The job that was asked for; None: none was, or it is gone."""


Verb = Literal["pause", "resume", "retry", "cancel"]


@dataclass(frozen=True)
class Action:
    """One thing to do to a queue, by its name, or to a job, by its id."""

    verb: Verb
    target: str | int
    about: str = ""
    """What else is said of it in the question."""

    @property
    def named(self) -> str:
        """Its target, for a sentence."""
        return f"queue {self.target}" if isinstance(self.target, str) else f"job {self.target}"


# -- what a state is told ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Key:
    """A key was pressed."""

    name: str


@dataclass(frozen=True)
class Fresh:
    """The database was read."""

    snapshot: Snapshot


@dataclass(frozen=True)
class Away:
    """The database could not be read; it is tried again after so many seconds."""

    why: str
    seconds: float


@dataclass(frozen=True)
class Silent:
    """Nothing was heard of the database for so many seconds, neither good nor bad."""

    seconds: float


@dataclass(frozen=True)
class Said:
    """An action was done, or was not."""

    text: str
    good: bool = True


@dataclass(frozen=True)
class Resized:
    """The terminal has another size."""

    width: int
    height: int


Event = Key | Fresh | Away | Silent | Said | Resized


# -- what a state asks for -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Look:
    """Read the database now, and from now on this."""

    wish: Wish


@dataclass(frozen=True)
class Do:
    """Do this, once."""

    action: Action


@dataclass(frozen=True)
class Quit:
    """End."""


Command = Look | Do | Quit
