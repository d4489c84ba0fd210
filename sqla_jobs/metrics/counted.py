"""What counts runs, by whatever means: of which registry, under which labels; and its clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.metrics.labels import Labels
from sqla_jobs.metrics.queues import Queues
from sqla_jobs.tasks import Registry, Sessions, sessions_of


class Counted:
    """The runs of one registry's jobs.

    Parameters:
        jobs: the ``Jobs`` of the application.
        sessions: an Engine or a sessionmaker, by which the queues are looked at; None: the registry's own
            sessionmaker. Without either they are not.
        queues: how many queues have a label of their own; all others are ``other``.

    Raises:
        InvalidOption: ``jobs`` is no Jobs, ``queues`` no number.
    """

    def __init__(self, jobs: Registry[Any], sessions: Sessions | Engine | None, queues: int) -> None:
        if not isinstance(jobs, Registry):
            raise InvalidOption(
                f"jobs {shown(jobs)}; expected the Jobs of the application: {type(self).__name__}(jobs)"
            )
        if type(queues) is not int or queues < 1:
            raise InvalidOption(f"queues is {shown(queues)}; expected a whole number from 1 up")
        self.jobs = jobs
        self.labels = Labels(jobs.tasks, queues)
        self._states: list[Callable[[], str]] = []
        self._queues: Queues | None = None
        self.look_at(jobs.sessionmaker if sessions is None else sessions)

    def look_at(self, sessions: Sessions | Engine | None) -> None:
        """Where the queues are looked at from now on; None: nowhere."""
        self._queues = None if sessions is None else Queues(self.jobs.model, sessions_of(sessions))

    def joins(self, state: Callable[[], str]) -> None:
        """A worker starts."""
        self._states = [each for each in self._states if each() != "stopped"] + [state]

    def workers_up(self) -> int:
        """How many workers of this process take jobs."""
        return sum(state() == "running" for state in self._states)


class Timed:
    """One run of a job, and how long the task takes in it."""

    __slots__ = ("_began", "_ended")

    def __init__(self) -> None:
        self._began = self._ended = 0.0

    def enter(self) -> None:
        """The task is called."""
        self._began = self._began or time.monotonic()

    def leave(self) -> None:
        """It has come to its end."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float | None:
        """How long it took; None: it was not called."""
        # One that cannot be interrupted has not left when its end is recorded in its stead.
        return (self._ended or time.monotonic()) - self._began if self._began else None
