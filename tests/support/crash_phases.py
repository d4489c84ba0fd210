"""What each thread of a worker process is doing, in a file that outlives the process."""

from __future__ import annotations

import mmap
from enum import IntEnum
from pathlib import Path

SLOTS = 8
"""Threads of one process that can be told apart."""


class Phase(IntEnum):
    """Where in the life of a job a thread is."""

    ABSENT = 0
    """No thread has taken this slot yet."""
    BETWEEN = 1
    CLAIM = 2
    """From the claim statement to the end of its COMMIT."""
    JOB = 3
    """In the task."""
    FINISH = 4
    """From the statement that writes the outcome to its COMMIT."""
    COMMIT = 5
    """In the COMMIT of the job's effects and its outcome."""
    GROUP_JOB = 6
    """In a task, in the fast lane, as all that follow."""
    GROUP_BETWEEN = 7
    """Between two jobs of a group, or after the last one."""
    GROUP_FINISH = 8
    """From the statement that writes the group's outcomes to its COMMIT."""
    GROUP_COMMIT = 9
    """In the COMMIT of all effects and outcomes of the group."""


class Phases:
    """One byte a thread. The file is mapped, so that what a process wrote last is there once it is killed."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(SLOTS))
        with path.open("r+b") as file:
            self._bytes = mmap.mmap(file.fileno(), SLOTS)

    def write(self, slot: int, phase: Phase) -> None:
        self._bytes[slot] = phase

    def read(self) -> list[Phase]:
        """The phases of all threads that have run a job, or have tried to."""
        return [Phase(byte) for byte in self._bytes[:] if byte]

    def close(self) -> None:
        self._bytes.close()
