"""Waiting for what the database shows, so that a race is staged rather than hoped for."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Sequence

from tests.support.server import Database

WAITERS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


def until_lock_waiters(
    database: Database, number: int, processes: Sequence[subprocess.Popen[str]], seconds: float = 30
) -> None:
    """Return when so many processes wait for an advisory lock; one that ends instead is a failure."""
    deadline = time.monotonic() + seconds
    while (found := database.scalar(WAITERS)) < number:
        assert time.monotonic() < deadline, f"{found} of {number} wait for an advisory lock"
        for process in processes:
            try:
                process.wait(timeout=0.01)
            except subprocess.TimeoutExpired:
                continue
            output, errors = process.communicate()
            raise AssertionError(f"a process did not wait for the lock:\n{output}{errors}")


def blocked(number: str) -> str:
    """A condition for `until`: so many connections to this database, e.g. ``= 1``, wait for a lock.

    Of this one only: other tests have theirs on the same server, and what waits there for a lock counts not.
    """
    here = "datname = current_database() AND wait_event_type = 'Lock'"
    return f"SELECT count(*) {number} FROM pg_stat_activity WHERE {here}"


def until(database: Database, condition: str, seconds: float = 30) -> None:
    """Return when a query says true; for what only the server knows, such as who waits for a lock."""
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not database.scalar(condition):
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        pause.wait(0.01)
