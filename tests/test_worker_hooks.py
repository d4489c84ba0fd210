"""Hooks: after the commit, on_failure before on_finish, and whatever they raise changes no outcome."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, Finished, Job, Jobs, JobState, Snooze, Worker
from tests.support.lane import NEVER, leave_effect, logged
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, SOON, drain


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def enqueue(database: Database, *jobs: Job) -> list[int]:
    with database.sessionmaker.begin() as session:
        session.add_all(jobs)
        session.flush()
        return [job.id for job in jobs]


def test_on_failure_comes_before_on_finish_and_only_for_failures(jobs: Jobs[Job], database: Database) -> None:
    told = Told()

    @jobs.task(name="t", retry=NEVER)
    def end(session: Session, how: str) -> Any:
        match how:
            case "fails":
                raise ValueError
            case "snoozes":
                raise Snooze(timedelta(hours=1))
            case "is cancelled":
                return Cancel()

    numbers = {
        how: enqueue(database, end.job(how))[0] for how in ("fails", "snoozes", "is cancelled", "succeeds")
    }
    drain(jobs, database, **told.hooks)
    failed = numbers.pop("fails")
    assert told.calls == [
        ("failure", failed),
        ("finish", failed),
        *[("finish", number) for number in numbers.values()],
    ]


def test_hooks_are_called_after_the_commit_and_once_a_job(jobs: Jobs[Job], database: Database) -> None:
    seen: list[tuple[Worker, str, int]] = []

    def look(worker: Worker, finished: Finished) -> None:
        assert finished.job.id
        (row,) = database.rows(
            "SELECT state, (SELECT count(*) FROM effects WHERE job_id = j.id) AS effects"
            " FROM sqla_jobs j WHERE id = :id",
            id=finished.job.id,
        )
        seen.append((worker, row.state, row.effects))

    enqueue(database, *[jobs.task(name="t")(leave_effect).job() for _ in range(1)])
    worker = Worker(jobs, database.engine, poll_interval=SOON, on_finish=look, drain=True).start()
    assert worker.join(PATIENCE)
    assert seen == [(worker, "succeeded", 1)], "and none for polls that found nothing"


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()], ids=lambda e: type(e).__name__)
def test_a_hook_that_raises_changes_nothing(
    jobs: Jobs[Job], database: Database, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    told = Told()

    @jobs.task(name="t", retry=NEVER)
    def fail(session: Session) -> None:
        raise LookupError

    def broken(worker: Worker, finished: Finished) -> None:
        raise error

    enqueue(database, fail.job(), fail.job())
    drain(jobs, database, on_failure=broken, on_finish=told.on_finish)
    assert [each.state for each in told.take(2)] == [JobState.FAILED] * 2
    assert logged(caplog).count("a hook failed; the job's outcome stands") == 2


def test_system_exit_in_a_hook_ends_that_thread_only(
    jobs: Jobs[Job], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    told, together = Told(), threading.Barrier(2)
    threads: list[str] = []

    @jobs.task(name="t")
    def meet(session: Session, wait: bool) -> None:
        threads.append(threading.current_thread().name)
        if wait:
            together.wait(PATIENCE)

    def leave(worker: Worker, finished: Finished) -> None:
        told.on_finish(worker, finished)
        if len(told.calls) == 1:
            raise SystemExit

    first = enqueue(database, meet.job(wait=True), meet.job(wait=True))
    more = enqueue(database, *[meet.job(wait=False) for _ in range(5)])
    drain(jobs, database, threads=2, on_finish=leave)
    assert sorted(each.job.id for each in told.take(7)) == first + more
    assert len(set(threads[:2])) == 2
    assert len(set(threads[2:])) == 1, "the other thread goes on alone"
    assert logged(caplog) == ["a hook raised SystemExit: this thread runs no more jobs"]


def test_without_any_thread_left_the_worker_stops(jobs: Jobs[Job], database: Database) -> None:
    def leave(worker: Worker, finished: Finished) -> None:
        raise SystemExit

    task = jobs.task(name="t")(leave_effect)
    enqueue(database, *[task.job() for _ in range(3)])
    worker = Worker(jobs, database.engine, threads=2, poll_interval=SOON, on_finish=leave).start()
    assert worker.join(PATIENCE)
    assert worker.state == "stopped"
    states = "SELECT state FROM sqla_jobs ORDER BY id"
    assert list(database.rows(states)) == [("succeeded",), ("succeeded",), ("queued",)]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_a_hook_may_stop_its_worker(jobs: Jobs[Job], database: Database) -> None:
    task = jobs.task(name="t")(leave_effect)
    enqueue(database, task.job(), task.job())
    worker = Worker(jobs, database.engine, poll_interval=SOON, on_finish=lambda w, _: w.stop()).start()
    assert worker.join(PATIENCE)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'queued'") == 1


def test_nobody_is_told_of_a_job_that_was_lost(jobs: Jobs[Job], database: Database) -> None:
    told = Told()

    @jobs.task(name="t")
    def lose(session: Session) -> None:
        database.execute("UPDATE sqla_jobs SET claim = claim + 1 WHERE task = 't'")

    other = jobs.task(name="other")(leave_effect)
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
        enqueue(database, lose.job(), other.job())
        assert told.next().job.task == "other"
    assert told.silent
    assert [name for name, _ in told.calls] == ["finish"]
