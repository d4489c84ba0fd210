"""Jobs that kill their process: each fails in the end, and whoever ran beside it succeeds exactly once.

By the command line, with a supervisor that starts a dead process again at once.
"""

from __future__ import annotations

import json
import threading
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, RetryPolicy, lifecycle
from tests.support.program import Program, command
from tests.support.server import Database
from tests.support.verbs import NOW, WORKER, add, claimed, employ

PATIENCE = 90

COMMAND = [
    "worker",
    "tests.support.poison_app:jobs",
    *("--threads", "2", "--log-level", "error"),
    *("--poll-interval", "0.05"),
]
# One of eight on a busy machine must not be taken for dead while it lives; one alone has nobody to judge it.
HEARTBEATS = {
    1: ["--heartbeat-interval", "0.3", "--heartbeat-limit", "1"],
    8: ["--heartbeat-interval", "0.4", "--heartbeat-limit", "2"],
}


class Poison(NamedTuple):
    """A job that kills its process, and how often it gets to."""

    how: str
    task: str
    max_attempts: int | None
    deaths: int


POISONS = [
    Poison("exit", "poison", None, 3),
    Poison("segmentation fault", "twice", None, 2),
    Poison("killed", "poison", 1, 1),
    Poison("abort", "poison", 1, 1),
]


def enqueue_poison(database: Database, poison: Poison) -> int:
    (made,) = database.rows(
        "INSERT INTO sqla_jobs (task, arguments, max_attempts, state, priority) "
        "VALUES (:task, cast(:arguments AS jsonb), :most, 'queued', 1) RETURNING id",
        task=poison.task,
        arguments=json.dumps({"how": poison.how}),
        most=poison.max_attempts,
    )
    return int(made.id)


def feed(database: Database, number: int) -> None:
    """Innocent jobs, half of which may be tried once only."""
    database.execute(
        "INSERT INTO sqla_jobs (task, state) SELECT task, 'queued' "
        "FROM generate_series(1, :n), unnest(ARRAY['innocent', 'once']) AS task",
        n=number,
    )


def feed_until(database: Database, condition: str, workers: Program) -> None:
    """Give the processes innocent jobs all the time: there is always one to be in the middle of."""
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not database.scalar(condition):
        if time.monotonic() > deadline:
            found = database.rows("SELECT * FROM sqla_jobs WHERE state <> 'succeeded' ORDER BY id LIMIT 20")
            raise AssertionError(f"not within {PATIENCE} s: {condition}\n{found}\n{workers.errors}")
        feed(database, 4)
        pause.wait(0.1)


def rows(database: Database, condition: str) -> list[Any]:
    return list(database.rows(
        "SELECT *, (SELECT count(*) FROM effects WHERE job_id = sqla_jobs.id) AS effects "
        f"FROM sqla_jobs WHERE {condition} ORDER BY id"
    ))  # fmt: skip


@pytest.mark.parametrize(
    ("crashes", "max_crashes", "state"),
    [(0, 1, "failed"), (0, 2, "scheduled"), (1, 2, "failed"), (1, 3, "scheduled"), (2, 3, "failed")],
)
def test_a_job_is_given_up_at_max_crashes_whatever_attempts_are_left(
    session: Session, crashes: int, max_crashes: int, state: str
) -> None:
    policy = RetryPolicy(base=timedelta(0), max_crashes=max_crashes)
    job = claimed(session, crashes=crashes)  # by a worker that has no row any more
    (rescued,) = lifecycle.rescue(session, Job, lambda _: policy)
    assert (rescued.job.id, rescued.written.state) == (job.id, JobState(state))
    (found,) = session.execute(text("SELECT state, crashes, attempt FROM sqla_jobs")).all()
    assert found == (state, crashes + 1, 1)


def test_the_default_is_three() -> None:
    assert RetryPolicy().max_crashes == 3


def test_an_innocent_claim_passes_over_what_a_worker_has_died_of(session: Session) -> None:
    add(session, crashes=1, priority=1)
    innocent = add(session)
    employ(session)
    found = lifecycle.claim(session, Job, WORKER, innocent=True, limit=5, now=NOW)
    assert [job.id for job in found] == [innocent.id]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("processes", [*HEARTBEATS])
def test_b24_a_job_that_kills_its_process_fails_in_the_end_and_nobody_beside_it(
    database: Database, tmp_path: Path, processes: int
) -> None:
    """Improved: Byplay tries such a job again for ever, and Backtick 16 times with all those beside it."""
    poisons = {}
    arguments = [*COMMAND, *HEARTBEATS[processes], "--processes", str(processes)]
    with command(*arguments, folder=tmp_path, DATABASE_URL=database.url_string) as workers:
        for poison in POISONS:
            job = enqueue_poison(database, poison)
            poisons[job] = poison
            feed_until(database, f"SELECT state = 'failed' FROM sqla_jobs WHERE id = {job}", workers)
            # One poison job at a time: whoever was hit by this one is through before the next one comes.
            through = "SELECT count(*) = 0 FROM sqla_jobs WHERE state NOT IN ('succeeded', 'failed')"
            until_through(database, through, workers)
        workers.interrupt()
        assert workers.wait() == 0, workers.errors
    for job, poison in poisons.items():
        (found,) = rows(database, f"id = {job}")
        assert (found.state, found.effects) == ("failed", 0)
        assert (found.crashes, found.attempt) == (poison.deaths, poison.deaths)
        assert {each["error"] for each in found.attempts} == {"sqla_jobs.errors.WorkerDied"}
    for found in rows(database, "task = 'innocent'"):
        assert (found.state, found.effects) == ("succeeded", 1), found
        assert found.crashes <= 1, found
        assert found.attempt == 1 + found.crashes, found
    hit = rows(database, "task = 'once' AND state <> 'succeeded'")
    for found in hit:
        assert (found.state, found.crashes, found.attempt, found.effects) == ("failed", 1, 1, 0), found
        assert found.attempts[0]["error"] == "sqla_jobs.errors.WorkerDied", found
    for found in rows(database, "task = 'once' AND state = 'succeeded'"):
        assert (found.crashes, found.effects) == (0, 1), found
    # Each death had one beside it, in the other thread; and nothing else has ended a process.
    deaths = sum(poison.deaths for poison in POISONS)
    assert len(hit) + len(rows(database, "task = 'innocent' AND crashes = 1")) == deaths


def until_through(database: Database, condition: str, workers: Program) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not database.scalar(condition):
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {condition}\n{workers.errors}"
        pause.wait(0.05)
