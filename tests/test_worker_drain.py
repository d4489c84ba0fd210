"""Draining: until nothing is queued or due or running here, and not one job less."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, Snooze, Worker, current_job
from tests.support.lane import AT_ONCE, leave_effect
from tests.support.proxy import proxy
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, SOON, drain

HOUR = timedelta(hours=1)
NOT_DONE = "SELECT count(*) FROM sqla_jobs WHERE state <> 'succeeded'"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def enqueue(database: Database, *jobs: Job) -> list[int]:
    with database.sessionmaker.begin() as session:
        session.add_all(jobs)
        session.flush()
        return [job.id for job in jobs]


def looking(database: Database) -> threading.Semaphore:
    """Released each time that a worker of this database's engine has looked whether anything is left."""
    looked = threading.Semaphore(0)

    def note(*args: Any) -> None:
        if args[2].count("IS NOT NULL OR") == 2:
            looked.release()

    event.listen(database.engine, "after_cursor_execute", note)
    return looked


def test_nothing_to_do_is_the_end(jobs: Jobs[Job], database: Database) -> None:
    assert drain(jobs, database, threads=3) == []


@pytest.mark.parametrize("threads", [1, 4])
def test_jobs_that_enqueue_jobs_are_followed_to_the_last(
    jobs: Jobs[Job], database: Database, threads: int
) -> None:
    @jobs.task(name="t")
    def spread(session: Session, depth: int) -> None:
        leave_effect(session)
        if depth:
            for _ in range(2):
                spread.enqueue(session, depth - 1)

    enqueue(database, spread.job(5))
    finished = drain(jobs, database, threads=threads)
    assert Counter(each.job.id for each in finished) == Counter(range(1, 2**6))
    assert (database.scalar(NOT_DONE), database.scalar("SELECT count(*) FROM effects")) == (0, 2**6 - 1)


@pytest.mark.parametrize("threads", [1, 4])
def test_jobs_that_are_due_again_at_once_are_waited_for(
    jobs: Jobs[Job], database: Database, threads: int
) -> None:
    """Between their finish and their promotion they are neither queued nor running."""
    runs: Counter[int] = Counter()

    @jobs.task(name="t", retry=AT_ONCE)
    def again(session: Session) -> None:
        number = current_job().id
        runs[number] += 1
        if runs[number] == 2:
            raise Snooze(timedelta(0))
        if runs[number] < 5:
            raise ValueError("not yet")

    expected = enqueue(database, *[again.job() for _ in range(5)])
    drain(jobs, database, threads=threads)
    assert runs == dict.fromkeys(expected, 5)
    assert database.scalar(NOT_DONE) == 0


def test_what_is_due_is_run_and_what_is_for_later_or_for_others_is_left(
    jobs: Jobs[Job], database: Database
) -> None:
    task = jobs.task(name="t")(leave_effect)
    due = Job(task="t", state="scheduled")
    expected = enqueue(database, due, task.using(delay=HOUR).job(), task.using(queue="other").job())[:1]
    assert [each.job.id for each in drain(jobs, database, queues=["default"])] == expected
    assert database.scalar(NOT_DONE) == 2


def test_a_job_that_another_worker_is_promoting_is_waited_for(jobs: Jobs[Job], database: Database) -> None:
    """Its row is locked: a claim and a promotion pass it over, as if there were none."""
    jobs.task(name="t")(leave_effect)
    enqueue(database, Job(task="t", state="scheduled"))
    looked = looking(database)
    told = Told()
    with database.engine.connect() as other:
        other.execute(text("UPDATE sqla_jobs SET state = 'queued'"))
        worker = Worker(jobs, database.engine, poll_interval=SOON, drain=True, **told.hooks).start()
        for _ in range(3):
            assert looked.acquire(timeout=PATIENCE)
        assert worker.state == "running"
        other.commit()
    assert worker.join(PATIENCE)
    assert told.next().state is JobState.SUCCEEDED


def test_a_job_of_a_thread_that_is_still_at_it_is_waited_for(jobs: Jobs[Job], database: Database) -> None:
    idle, runs = looking(database), threading.Event()
    may_end = threading.Event()

    @jobs.task(name="t")
    def hold(session: Session) -> None:
        runs.set()
        assert may_end.wait(PATIENCE)
        other.enqueue(session)

    other = jobs.task(name="other")(leave_effect)
    enqueue(database, hold.job())
    worker = Worker(jobs, database.engine, threads=3, poll_interval=SOON, drain=True).start()
    assert runs.wait(PATIENCE)
    assert not idle.acquire(timeout=0.1), "nobody looks while one is at work"
    may_end.set()
    assert worker.join(PATIENCE)
    assert database.scalar(NOT_DONE) == 0


def test_a_claim_whose_answer_was_lost_is_waited_for(jobs: Jobs[Job], database: Database) -> None:
    """The job runs under this worker, and only the heartbeats find out that nobody knows of it."""
    told, task = Told(), jobs.task(name="t")(leave_effect)
    with proxy(database) as between:
        engine = between.engine()
        (job,) = enqueue(database, task.job())
        loss = between.lose("WITH picked", carried_out=True)
        worker = Worker(
            jobs,
            engine,
            poll_interval=SOON,
            heartbeat_interval=timedelta(milliseconds=100),
            drain=True,
            **told.hooks,
        ).start()
        assert worker.join(PATIENCE)
        assert loss.happened.is_set()
        engine.dispose()
    (finished,) = told.take(1)
    assert (finished.state, finished.job.attempt, told.silent) == (JobState.SUCCEEDED, 1, True)
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert (row.id, row.attempt, row.claim, row.crashes) == (job, 1, 2, 0)
    assert [each["error"] for each in row.attempts] == ["given back"]
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_threads_that_share_a_backlog_run_each_job_once(jobs: Jobs[Job], database: Database) -> None:
    task = jobs.task(name="t")(leave_effect)
    expected = enqueue(database, *[task.job() for _ in range(200)])
    finished = drain(jobs, database, threads=4)
    assert Counter(each.job.id for each in finished) == Counter(expected)
    (counted,) = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert counted == (200, 200)
