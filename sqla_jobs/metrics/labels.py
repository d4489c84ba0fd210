"""What may be a label: so few values that whoever stores them can.

A row may name any task and any queue. Nothing else of a job is ever a label: no argument, no error, no id.
"""

from __future__ import annotations

import threading
from collections.abc import Container
from typing import Final

UNKNOWN: Final = "unknown"
"""Stands for each task that is not registered in this process."""
OTHER: Final = "other"
"""Stands for each queue that came after so many others."""
MOST_QUEUES: Final = 100


class Labels:
    """The labels of one process.

    Parameters:
        tasks: the names of the tasks that are registered.
        most: how many queues have a label of their own: the first that are seen.
    """

    def __init__(self, tasks: Container[str], most: int = MOST_QUEUES) -> None:
        self._tasks = tasks
        self._most = most
        self._queues: set[str] = set()
        self._lock = threading.Lock()

    def task(self, name: object) -> str:
        """The label of a task."""
        return name if isinstance(name, str) and name in self._tasks else UNKNOWN

    def queue(self, name: object) -> str:
        """The label of a queue."""
        if not isinstance(name, str):
            return OTHER
        if name not in self._queues:
            with self._lock:
                if len(self._queues) >= self._most:
                    return OTHER
                self._queues.add(name)
        return name
