"""No wake-up is lost: workers that would sleep for a day find every job at once."""

from __future__ import annotations

import random
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.runner import Runner
from sqla_jobs.worker.crew import Crew
from sqla_jobs.worker.upkeep import Upkeep
from tests.support.lane import persist
from tests.support.server import Database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE

DAY = timedelta(days=1)
ROUNDS = 2000


def sleeper(jobs: Jobs[Job], database: Database, told: Told, **options: Any) -> Worker:
    """A worker that never polls: what it finds after its start, it was told of."""
    return Worker(jobs, database.engine, poll_interval=DAY, **told.hooks, **options)


def listening(database: Database, number: int = 1) -> None:
    until(database, f"SELECT count(*) = {number} FROM sqla_jobs_workers WHERE locked")


@pytest.mark.parametrize("threads", [1, 3])
def test_between_the_last_empty_claim_and_the_wait(database: Database, threads: int) -> None:
    """The next job comes at a random moment after the end of the last one, when its thread looks again
    in vain and goes to rest."""
    jobs, told, chance = Jobs(), Told(), random.Random(threads)
    task = jobs.task(name="t")(lambda session: None)
    pause = threading.Event()
    with sleeper(jobs, database, told, threads=threads), database.sessionmaker() as session:
        listening(database)
        for _ in range(ROUNDS):
            task.enqueue(session)
            pause.wait(chance.random() * 0.002)
            session.commit()
            assert told.next().state == "succeeded"


def test_of_several_workers_and_enqueuers_none_is_left_with_a_job(database: Database) -> None:
    jobs, told = Jobs(), Told()
    task = jobs.task(name="t")(lambda session: None)
    each, enqueuers = 300, 4

    def enqueue() -> None:
        with database.sessionmaker() as session:
            for _ in range(each):
                task.enqueue(session)
                session.commit()

    with sleeper(jobs, database, told, threads=2), sleeper(jobs, database, told, threads=2):
        listening(database, 2)
        threads = [threading.Thread(target=enqueue) for _ in range(enqueuers)]
        for thread in threads:
            thread.start()
        assert len({done.job.id for done in told.take(each * enqueuers)}) == each * enqueuers
        for thread in threads:
            thread.join(PATIENCE)


def test_a_job_that_was_there_before_the_worker_listened(database: Database) -> None:
    jobs, told = Jobs(), Told()
    task = jobs.task(name="t")(lambda session: None)
    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    with sleeper(jobs, database, told):
        assert told.next().state == "succeeded"


def test_a_job_whose_time_comes_while_all_sleep(database: Database) -> None:
    jobs, told = Jobs(), Told()
    task = jobs.task(name="t")(lambda session: None)
    with sleeper(jobs, database, told), database.sessionmaker() as session:
        listening(database)
        for delay in (timedelta(milliseconds=30), timedelta(microseconds=1), timedelta(milliseconds=5)):
            task.using(delay=delay).enqueue(session)
            session.commit()
            assert told.next().state == "succeeded"


def test_a_job_that_becomes_due_between_promoting_and_asking_for_the_next(database: Database) -> None:
    """It is due, and was not promoted: as if somebody held its row, as that of another job is held."""
    database.execute("INSERT INTO sqla_jobs (task, run_at) VALUES ('held', statement_timestamp())")
    database.execute(
        "INSERT INTO sqla_jobs (task, run_at) VALUES ('t', statement_timestamp() + interval '1 hour')"
    )
    asked: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def make_due(_: Any, __: Any, sql: str, *___: Any) -> None:
        if "EXTRACT(epoch" in sql:
            asked.append(sql)
            if len(asked) == 2:  # the first is the look of an idle worker
                database.execute("UPDATE sqla_jobs SET run_at = statement_timestamp() WHERE task = 't'")

    # After the listener, so that the connection which is kept for such looks has it too.
    runner = Runner(Jobs(), database.sessionmaker, persist)
    upkeep = Upkeep(
        Crew(), None, runner, Jobs(), poll=86400.0, beat=86400.0, announce=print,  # type: ignore[arg-type]
    )  # fmt: skip
    with database.engine.connect() as holder:
        holder.execute(text("SELECT id FROM sqla_jobs WHERE task = 'held' FOR UPDATE"))
        upkeep._look()
    runner.close()
    assert len(asked) == 3
    assert database.scalar("SELECT state FROM sqla_jobs WHERE task = 't'") == "queued"


@pytest.mark.parametrize("write", ["NOTIFY sqla_jobs, 'queued:mail'", "NOTIFY sqla_jobs, 'queued'"])
def test_a_writer_of_raw_sql_can_tell_it_himself(database: Database, write: str) -> None:
    jobs, told = Jobs(), Told()
    jobs.task(name="t")(lambda session: None)
    with sleeper(jobs, database, told, queues=["mail"]):
        listening(database)
        database.execute("INSERT INTO sqla_jobs (task, queue, state) VALUES ('t', 'mail', 'queued')")
        database.execute(write)
        assert told.next().state == "succeeded"


def test_after_the_commit(database: Database) -> None:
    """In this mode too, while nobody dies: the last job of a burst is told of by the trailing edge."""
    jobs, told = Jobs(notify="after_commit"), Told()
    task = jobs.task(name="t")(lambda session: None)
    with sleeper(jobs, database, told, threads=2), database.sessionmaker() as session:
        listening(database)
        for burst in (1, 7, 1, 30, 3) * 5:
            for _ in range(burst):
                task.enqueue(session)
                session.commit()
            told.take(burst)


def test_the_jobs_of_a_worker_that_stops_are_taken_up_by_another(database: Database) -> None:
    jobs, told = Jobs(), Told()
    runs, gate = threading.Event(), threading.Event()

    @jobs.task(name="t")
    def task(session: Session) -> None:
        if not runs.is_set():
            runs.set()
            gate.wait(PATIENCE)

    with Worker(jobs, database.engine, poll_interval=DAY) as stopping:
        with database.sessionmaker.begin() as session:
            task.enqueue(session)
        assert runs.wait(PATIENCE)
        with sleeper(jobs, database, told):
            listening(database, 2)
            stopping.stop(0)
            while not any(each.interrupter.reason for each in stopping._crew.running()):
                threading.Event().wait(0.001)  # the timer is about it
            gate.set()
            done = told.next()
            assert (done.state, done.job.attempt) == ("succeeded", 1)
