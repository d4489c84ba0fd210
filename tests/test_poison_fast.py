"""Jobs of the fast lane that kill their process, where nothing is counted before they run.

Each fails in the end, and whoever ran beside it, or before it in its group, succeeds exactly once.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.program import Program, command
from tests.support.server import Database
from tests.test_poison_jobs import PATIENCE, rows

LIMIT = 2
HEARTBEATS = ("--heartbeat-interval", "0.4", "--heartbeat-limit", str(LIMIT))
COMMAND = ("--threads", "2", "--log-level", "error", "--poll-interval", "0.05", *HEARTBEATS)

MAX_CRASHES = 2
GROUP = """
    SELECT EXISTS (
        SELECT FROM sqla_jobs WHERE task = 'fast_once' AND state = 'succeeded' AND started_at > :since
        GROUP BY xmin HAVING count(*) > 1)
"""
"""Whether some have been committed together: the lane is open."""


def feed_until(database: Database, workers: Program, met: Callable[[], object]) -> None:
    """Give the processes innocent jobs all the time: there is always one to be in the middle of."""
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not met():
        if time.monotonic() > deadline:
            found = database.rows("SELECT * FROM sqla_jobs WHERE state <> 'succeeded' ORDER BY id LIMIT 20")
            raise AssertionError(f"not within {PATIENCE} s\n{found}\n{workers.errors}")
        database.execute(
            "INSERT INTO sqla_jobs (task, state) SELECT task, 'queued'"
            " FROM generate_series(1, 4), unnest(ARRAY['fast_once', 'beside']) AS task"
        )
        pause.wait(0.1)


def enqueue_poison(database: Database, how: str) -> None:
    """A job in the middle of a group of innocent ones, before all that is queued."""
    database.execute(
        "INSERT INTO sqla_jobs (task, arguments, state, priority) SELECT"
        " CASE n WHEN 2 THEN 'fast_poison' ELSE 'fast_once' END,"
        " CASE n WHEN 2 THEN CAST(:arguments AS jsonb) ELSE '{}' END, 'queued', 1"
        " FROM generate_series(1, 4) AS n",
        arguments=json.dumps({"how": how}),
    )


def started(database: Database) -> int:
    return int(database.scalar("SELECT last_value FROM sqla_jobs_workers_id_seq"))


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("application", "processes", "how", "at_start"),
    [
        ("jobs", 1, "segmentation fault", False),
        ("jobs", 4, "killed", False),
        ("quiet", 4, "exit", False),
        # Each process meets it before anything else, and nobody lives to find the one before it dead.
        ("quiet", 1, "killed", True),
    ],
)
def test_a_job_that_kills_its_process_fails_in_the_end(
    database: Database, tmp_path: Path, application: str, processes: int, how: str, at_start: bool
) -> None:
    """By `jobs` a death is seen at once, by the lock; by `quiet`, which does not listen, by heartbeats."""
    if at_start:
        enqueue_poison(database, how)
    given = ("worker", f"tests.support.poison_app:{application}", *COMMAND, "--processes", str(processes))
    with command(*given, folder=tmp_path, DATABASE_URL=database.url_string) as workers:
        if not at_start:
            feed_until(database, workers, lambda: started(database) == processes)
            since = database.scalar("SELECT statement_timestamp()")
            feed_until(database, workers, lambda: database.scalar(GROUP, since=since))
            enqueue_poison(database, how)
        failed = "SELECT state = 'failed' FROM sqla_jobs WHERE task = 'fast_poison'"
        feed_until(database, workers, lambda: database.scalar(failed))
        deadline, pause = time.monotonic() + PATIENCE, threading.Event()
        while database.scalar("SELECT count(*) FROM sqla_jobs WHERE state NOT IN ('succeeded', 'failed')"):
            assert time.monotonic() < deadline, workers.errors
            pause.wait(0.05)
        while started(database) < processes + MAX_CRASHES:  # the last one's successor may be slow
            assert time.monotonic() < deadline, workers.errors
            pause.wait(0.05)
        workers.interrupt()
        assert workers.wait() == 0, workers.errors
    (poison,) = rows(database, "task = 'fast_poison'")
    assert (poison.crashes, poison.attempt, poison.effects) == (MAX_CRASHES, MAX_CRASHES, 0)
    assert {each["error"] for each in poison.attempts} == {"sqla_jobs.errors.WorkerDied"}
    for found in rows(database, "task = 'beside'"):
        assert (found.state, found.effects, found.crashes <= 1) == ("succeeded", 1, True), found
    # They may be tried once: one that fails ran in the ordinary lane, in the process that it died with.
    hit = rows(database, "task = 'fast_once' AND state <> 'succeeded'")
    for found in hit:
        assert (found.state, found.crashes, found.attempt, found.effects) == ("failed", 1, 1, 0), found
        assert found.attempts[0]["error"] == "sqla_jobs.errors.WorkerDied", found
    for found in rows(database, "task = 'fast_once' AND state = 'succeeded'"):
        assert (found.crashes, found.attempt, found.effects) == (0, 1, 1), found
    # A death has one beside it, in the other thread. Those in the fast lane, which closes with the first of
    # them, are not counted: at most one of each process that was there; none if it was closed just then.
    beside = len(hit) + len(rows(database, "task = 'beside' AND crashes = 1"))
    assert beside <= MAX_CRASHES + processes
    assert MAX_CRASHES <= started(database) - processes <= MAX_CRASHES + processes + 1
