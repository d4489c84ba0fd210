"""Hooks of a worker that keep what they are told, for a test to wait on."""

from __future__ import annotations

import queue
from typing import Any

from sqla_jobs import Finished, Worker
from tests.support.work import PATIENCE


class Told:
    """Both hooks of a worker; `next` waits for the next job that has ended."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        """(hook, job), in order."""
        self._finished: queue.Queue[Finished] = queue.Queue()

    @property
    def hooks(self) -> dict[str, Any]:
        return {"on_failure": self.on_failure, "on_finish": self.on_finish}

    def on_failure(self, _: Worker, finished: Finished) -> None:
        self.calls.append(("failure", finished.job.id))

    def on_finish(self, _: Worker, finished: Finished) -> None:
        self.calls.append(("finish", finished.job.id))
        self._finished.put(finished)

    def next(self) -> Finished:
        return self._finished.get(timeout=PATIENCE)

    def take(self, number: int) -> list[Finished]:
        return [self.next() for _ in range(number)]

    @property
    def silent(self) -> bool:
        """Whether nothing has been told that was not taken."""
        return self._finished.empty()
