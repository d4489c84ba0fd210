"""A group whose process, or whose connection, is gone in the middle of it: as if none of it had been."""

from __future__ import annotations

import queue
import signal
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, Worker, current_job
from sqla_jobs.runner import group
from tests.support.lane import NEVER, leave_effect, logged
from tests.support.program import command
from tests.support.server import Database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON, drain

WORKING = """
    pid FROM pg_stat_activity JOIN pg_locks USING (pid)
    WHERE state = 'idle in transaction' AND relation = 'effects'::regclass
"""
"""The connection of the group, which has written an effect."""


def free(number: int) -> str:
    """Whether so many jobs are queued, and nobody has locked them."""
    return (
        f"SELECT count(*) = {number} FROM"
        " (SELECT FROM sqla_jobs WHERE state = 'queued' FOR UPDATE SKIP LOCKED) AS free"
    )


def untouched(database: Database) -> bool:
    """Whether the rows show nothing of the group that is gone."""
    rows = database.rows(
        "SELECT DISTINCT state, attempt, claim, crashes, worker_id, started_at FROM sqla_jobs"
    )
    return rows == [("queued", 0, 0, 0, None, None)]


def effects(database: Database) -> list[int]:
    return [job for (job,) in database.rows("SELECT job_id FROM effects ORDER BY job_id")]


def enqueue(database: Database, *tasks: str) -> None:
    for task in tasks:
        database.execute("INSERT INTO sqla_jobs (task, state) VALUES (:task, 'queued')", task=task)


def test_after_kill_9_its_rows_are_free_and_nobody_has_to_find_the_worker_dead(
    database: Database, tmp_path: Path
) -> None:
    """A first job by itself makes the group that follows it a larger one; so does a second."""
    enqueue(database, *["fast_once"] * 8, "fast_hold")
    worker = ("worker", "tests.support.poison_app:jobs", "--log-level", "error")
    with command(*worker, folder=tmp_path, DATABASE_URL=database.url_string) as program:
        program.wait_for("holding job 9")
        # Those before it in its group have run, and are not committed.
        done = effects(database)
        assert len(done) < 8
        assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'queued'") == 9 - len(done)
        assert database.scalar(free(0))
        program.send(signal.SIGKILL)
        assert program.wait() == -signal.SIGKILL
    until(database, free(9 - len(done)))
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers WHERE died_at IS NULL") == 1
    database.execute("DELETE FROM sqla_jobs WHERE state = 'succeeded'")
    assert untouched(database)
    assert effects(database) == done
    jobs = Jobs()
    for task in ("fast_once", "fast_hold"):
        jobs.task(name=task, retry=NEVER, group_commit=10)(leave_effect)
    drain(jobs, database)
    assert effects(database) == [*range(1, 10)]
    assert database.rows("SELECT DISTINCT state, attempt, crashes FROM sqla_jobs") == [("succeeded", 1, 0)]


@pytest.fixture
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine too there is more than one job in a group."""
    monkeypatch.setattr(group, "BUDGET", float(PATIENCE))


class Holding:
    """An application whose job `hold` waits in the middle of its group until it is let go."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.held: queue.Queue[int] = queue.Queue()
        self.go = threading.Event()
        self.jobs.task(name="fast", retry=NEVER, group_commit=10)(leave_effect)
        long = timedelta(minutes=1)
        self.jobs.task(name="hold", retry=NEVER, group_commit=10, timeout=long)(self._hold)

    def _hold(self, session: Session) -> None:
        leave_effect(session)
        session.flush()
        if not self.go.is_set():
            self.held.put(current_job().id)
            assert self.go.wait(PATIENCE)


def end_the_backend(database: Database) -> None:
    assert database.rows(f"SELECT pg_terminate_backend(pid) FROM (SELECT DISTINCT {WORKING}) AS it") == [
        (True,)
    ]


@pytest.mark.usefixtures("unhurried")
def test_when_its_backend_is_ended_each_of_its_jobs_runs_again_by_itself(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    app, told = Holding(), Told()
    enqueue(database, *["fast"] * 8, "hold", "fast")
    with Worker(app.jobs, database.engine, poll_interval=SOON, **told.hooks):
        assert app.held.get(timeout=PATIENCE) == 9
        done = effects(database)
        assert len(done) < 8
        end_the_backend(database)
        until(database, free(10 - len(done)))
        assert effects(database) == done
        app.go.set()
        ended = told.take(10)
    assert sorted(each.job.id for each in ended) == [*range(1, 11)]
    assert told.silent
    assert {each.error for each in ended} == {None}
    assert effects(database) == [*range(1, 11)]
    assert database.rows("SELECT DISTINCT state, attempt, crashes FROM sqla_jobs") == [("succeeded", 1, 0)]
    (said,) = logged(caplog)
    assert "could not be committed, and each runs again by itself" in said


@pytest.mark.usefixtures("unhurried")
def test_what_another_worker_has_done_meanwhile_is_done(database: Database) -> None:
    """While the thread whose backend is gone is still at it, and knows nothing."""
    app, other = Holding(), Holding()
    other.go.set()
    enqueue(database, *["fast"] * 4, "hold", "fast")
    with Worker(app.jobs, database.engine, poll_interval=SOON):
        assert app.held.get(timeout=PATIENCE) == 5
        end_the_backend(database)
        until(database, free(6 - len(effects(database))))
        drain(other.jobs, database)
        assert effects(database) == [*range(1, 7)]
        app.go.set()
    assert effects(database) == [*range(1, 7)]
    assert database.rows("SELECT DISTINCT state, attempt, crashes FROM sqla_jobs") == [("succeeded", 1, 0)]
