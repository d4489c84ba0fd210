"""Coroutines that are ended from outside: by their timeout, a cancel, a stop, a lost connection, a kill."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, OperationalError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, Job, Jobs, JobState, RetryPolicy, Worker, cancel, current_job
from sqla_jobs.errors import JobEscaped, JobTimeout
from sqla_jobs.scope import on_loop
from sqla_jobs.worker import timer
from tests.support.lane import NEVER
from tests.support.loops import async_engine, drain_async, leave_effect
from tests.support.models import Effect
from tests.support.python import start_python
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, SOON

SHORT = timedelta(milliseconds=100)
EFFECTS = "SELECT count(*) FROM effects"
STATES = "SELECT state, count(*) FROM sqla_jobs GROUP BY 1 ORDER BY 1"
WRONG = """
    SELECT job.id FROM sqla_jobs AS job LEFT JOIN effects ON effects.job_id = job.id
    GROUP BY job.id HAVING count(effects.job_id) <> (job.state = 'succeeded')::int
"""
"""Jobs whose effects are not exactly those of one run that succeeded."""


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def enqueue(database: Database, task: Any, *arguments: Any) -> int:
    with database.sessionmaker.begin() as session:
        job: Job = task.enqueue(session, *arguments)
        return job.id


async def sleeps(_: AsyncSession) -> None:
    """For ever, on the loop."""
    await asyncio.Event().wait()


async def pg_sleep(session: AsyncSession) -> None:
    """For ever, in a statement."""
    await session.execute(text("SELECT pg_sleep(3600)"))


async def swallow(session: AsyncSession) -> None:
    """What many a task does."""
    while True:
        with suppress(Exception):
            await session.execute(text("SELECT pg_sleep(3600)"))


async def one_after_the_other(session: AsyncSession) -> None:
    """Statements that have each ended when it is to be cancelled."""
    while True:
        await session.execute(text("SELECT 1"))


async def catches_everything(_: AsyncSession) -> None:
    """And goes on, twice."""
    for _ in range(2):
        with suppress(BaseException):
            await asyncio.Event().wait()
    await asyncio.Event().wait()


ENDLESS = [sleeps, pg_sleep, swallow, one_after_the_other, catches_everything]


@pytest.mark.parametrize("endless", ENDLESS, ids=lambda task: task.__name__)
def test_one_that_is_too_long_is_interrupted_and_leaves_nothing(
    endless: Callable[[AsyncSession], Any], jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="endless", timeout=SHORT, retry=NEVER)
    async def task(session: AsyncSession) -> None:
        await leave_effect(session)
        await endless(session)

    enqueue(database, task)
    (finished,) = drain_async(jobs, database)
    assert (finished.state, type(finished.error)) == (JobState.FAILED, JobTimeout)
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert (row.state, row.attempt, row.claim) == ("failed", 1, 1)
    (kept,) = row.attempts
    assert kept["error"] == "sqla_jobs.errors.JobTimeout"
    assert endless.__name__ in kept["traceback"], "it shows where the job was"
    assert database.scalar(EFFECTS) == 0


def test_when_each_place_on_the_loop_is_held_for_ever_the_log_says_so(
    jobs: Jobs[Job],
    database: Database,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(timer, "PATIENCE", 0.3)
    told, go_on = Told(), threading.Event()

    @jobs.task(name="stubborn", timeout=SHORT, retry=NEVER)
    async def stubborn(_: AsyncSession) -> None:
        while not go_on.is_set():
            with suppress(BaseException):
                await asyncio.sleep(0.01)

    for _ in range(2):
        enqueue(database, stubborn)
    options: dict[str, Any] = {"async_sessionmaker": async_engine(database), "poll_interval": SOON}
    with Worker(jobs, database.sessionmaker, concurrency=2, **options, **told.hooks):
        assert [type(each.error) for each in told.take(2)] == [JobTimeout] * 2
        messages = [record.getMessage() for record in caplog.records]
        go_on.set()
    assert sum("no place on the event loop is left" in each for each in messages) == 1


def test_a_statement_that_is_cancelled_leaves_its_connection_in_order(
    jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="endless", timeout=SHORT, retry=RetryPolicy(max_attempts=3, base=timedelta(0)))
    async def task(session: AsyncSession) -> None:
        await leave_effect(session)
        await pg_sleep(session)

    engine = async_engine(database)
    opened: list[object] = []
    event.listen(engine.sync_engine, "connect", lambda *_: opened.append(1))
    enqueue(database, task)
    assert len(drain_async(jobs, database, async_sessionmaker=engine)) == 3
    assert len(opened) == 1, "the same for each attempt"


def test_a_request_to_cancel_a_statement_that_comes_late_hits_nobody_else(
    jobs: Jobs[Job], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connection is not given back before: the next job would have it."""
    ended, begun = asyncio.Event(), asyncio.Event()
    ask = on_loop._cancel_all
    sleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.5)' AND state = 'active'"

    async def ask_late(drivers: Any) -> None:
        await ended.wait()
        for _ in range(300):  # a neighbour that need not wait for this has begun by then
            if database.scalar(sleeping):
                break
            await asyncio.sleep(0)
        await ask(drivers)

    monkeypatch.setattr(on_loop, "_cancel_all", ask_late)

    @jobs.task(name="late", timeout=SHORT, retry=NEVER)
    async def late(session: AsyncSession) -> None:
        await leave_effect(session)
        await session.execute(text("SELECT pg_sleep(0.3)"))
        ended.set()

    @jobs.task(name="neighbour", retry=NEVER)
    async def neighbour(session: AsyncSession) -> None:
        begun.set()
        await session.execute(text("SELECT pg_sleep(0.5)"))

    enqueue(database, late)
    enqueue(database, neighbour)
    finished = drain_async(jobs, database, concurrency=1)
    assert begun.is_set()
    assert [type(each.error) for each in finished] == [JobTimeout, type(None)]


def test_a_flush_that_waits_for_a_lock_is_interrupted_too(jobs: Jobs[Job], database: Database) -> None:
    """The task itself has returned: what waits is what its Session still has to write."""

    @jobs.task(name="t", timeout=SHORT, retry=NEVER)
    async def task(session: AsyncSession) -> None:
        session.add(Effect(job_id=1))

    enqueue(database, task)
    with database.engine.connect() as other:
        other.execute(text("LOCK TABLE effects IN EXCLUSIVE MODE"))
        (finished,) = drain_async(jobs, database)
    assert (finished.state, type(finished.error)) == (JobState.FAILED, JobTimeout)


def test_what_cancels_itself_has_failed_and_its_outcome_is_recorded(
    jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="waits", retry=NEVER)
    async def waits(session: AsyncSession) -> None:
        await leave_effect(session)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.Event().wait()

    @jobs.task(name="returns", retry=NEVER)
    async def returns(session: AsyncSession) -> None:
        await leave_effect(session)
        task = asyncio.current_task()
        assert task is not None
        task.cancel()

    ids = [enqueue(database, waits), enqueue(database, returns)]
    errors = {each.job.task: type(each.error) for each in drain_async(jobs, database)}
    assert errors == {"waits": asyncio.CancelledError, "returns": type(None)}
    assert database.rows("SELECT job_id FROM effects") == [(ids[1],)]


def test_timeouts_of_the_tasks_own_are_its_own(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="own", timeout=timedelta(hours=1), retry=NEVER)
    async def own(session: AsyncSession) -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        await leave_effect(session)
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)

    enqueue(database, own)
    (finished,) = drain_async(jobs, database)
    assert isinstance(finished.error, asyncio.TimeoutError)
    assert database.scalar(EFFECTS) == 0


def test_a_running_one_is_cancelled_in_mid_query(jobs: Jobs[Job], database: Database) -> None:
    told, begun = Told(), threading.Event()

    @jobs.task(name="endless")
    async def task(session: AsyncSession) -> None:
        await leave_effect(session)
        begun.set()
        await pg_sleep(session)

    job = enqueue(database, task)
    worker = Worker(jobs, database.engine, async_sessionmaker=async_engine(database), **told.hooks)
    with worker:
        assert begun.wait(PATIENCE)
        with database.sessionmaker.begin() as session:
            cancel(session, job)
        finished = told.next()
    assert (finished.state, type(finished.error)) == (JobState.CANCELLED, Cancel)
    assert database.scalar(EFFECTS) == 0


def test_a_stop_lets_them_end_and_at_last_gives_them_back(jobs: Jobs[Job], database: Database) -> None:
    begun, go = threading.Barrier(3), asyncio.Event()

    @jobs.task(name="quick")
    async def quick(session: AsyncSession) -> None:
        await leave_effect(session)
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE)
        await go.wait()

    @jobs.task(name="endless")
    async def endless(session: AsyncSession) -> None:
        await leave_effect(session)
        await asyncio.get_running_loop().run_in_executor(None, begun.wait, PATIENCE)
        go.set()
        await sleeps(session)

    ids = [enqueue(database, quick), enqueue(database, endless)]
    worker = Worker(jobs, database.engine, async_sessionmaker=async_engine(database)).start()
    begun.wait(PATIENCE)
    worker.stop(timedelta(milliseconds=200))
    assert worker.join(PATIENCE)
    rows = database.rows("SELECT id, state, attempt, worker_id FROM sqla_jobs ORDER BY id")
    assert [row[:3] for row in rows] == [(ids[0], "succeeded", 1), (ids[1], "queued", 0)]
    assert rows[1].worker_id is None
    assert database.rows("SELECT job_id FROM effects") == [(ids[0],)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_one_that_holds_up_the_loop_is_reported_and_recorded_in_its_stead(
    jobs: Jobs[Job], database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer, "PATIENCE", 0.5)
    told, gate = Told(), threading.Event()

    @jobs.task(name="blocked", timeout=SHORT, retry=NEVER)
    async def blocked(session: AsyncSession) -> None:
        await leave_effect(session)
        gate.wait(PATIENCE)

    enqueue(database, blocked)
    engine = async_engine(database)
    worker = Worker(jobs, database.engine, async_sessionmaker=engine, poll_interval=SOON, **told.hooks)
    with worker:
        finished = told.next()
        assert (finished.state, type(finished.error)) == (JobState.FAILED, JobTimeout)
        gate.set()
    assert told.silent, "the end of the blocked run is refused by the fence, and nobody's news"
    assert database.scalar(EFFECTS) == 0
    messages = [record.getMessage() for record in caplog.records]
    assert any("was interrupted" in each and "gate.wait(PATIENCE)" in each for each in messages)


@pytest.mark.parametrize("when", ["in a statement", "between statements"])
def test_a_lost_connection_is_a_failed_attempt(when: str, jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="t", retry=RetryPolicy(max_attempts=2, base=timedelta(0)))
    async def task(session: AsyncSession) -> None:
        await leave_effect(session)
        if database.scalar("SELECT attempt FROM sqla_jobs") == 2:
            return
        pid = await session.scalar(text("SELECT pg_backend_pid()"))
        if when == "in a statement":
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        else:
            database.scalar("SELECT pg_terminate_backend(:pid, 5000)", pid=pid)

    enqueue(database, task)
    finished = drain_async(jobs, database)
    assert [each.state for each in finished] == [JobState.SCHEDULED, JobState.SUCCEEDED]
    assert isinstance(finished[0].error, DBAPIError)
    assert database.scalar(EFFECTS) == 1


def test_a_claim_that_was_taken_over_keeps_its_effects_out(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="t", retry=NEVER)
    async def task(session: AsyncSession) -> None:
        await leave_effect(session)
        database.execute("UPDATE sqla_jobs SET claim = claim + 1, state = 'failed', finished_at = now()")

    enqueue(database, task)
    assert drain_async(jobs, database) == []
    assert database.scalar(EFFECTS) == 0
    assert database.scalar("SELECT state FROM sqla_jobs") == "failed"


def test_a_conflict_runs_it_again_without_spending_an_attempt(jobs: Jobs[Job], database: Database) -> None:
    runs: list[int] = []

    @jobs.task(name="t", retry=NEVER)
    async def task(session: AsyncSession) -> None:
        runs.append(1)
        await leave_effect(session)
        if len(runs) < 3:
            await session.execute(text("DO $$BEGIN RAISE EXCEPTION USING errcode = '40001'; END$$"))

    enqueue(database, task)
    drain_async(jobs, database)
    assert len(runs) == 3
    assert database.rows("SELECT state, attempt FROM sqla_jobs") == [("succeeded", 1)]
    assert database.scalar(EFFECTS) == 1


def test_hundreds_of_timeouts_and_none_hits_a_finish_or_a_neighbour(
    jobs: Jobs[Job], database: Database
) -> None:
    """Jobs that end just when their time is up: each either timed out and left nothing, or succeeded."""
    seed = random.randrange(10**6)
    draw, number, timeout = random.Random(seed), 500, 0.03

    @jobs.task(name="close", retry=NEVER)
    async def close(session: AsyncSession, seconds: float, in_database: bool) -> None:
        began = time.monotonic()
        await leave_effect(session)
        left = max(0.0, began + seconds - time.monotonic())
        if in_database:
            await session.execute(text("SELECT pg_sleep(:s)"), {"s": left})
        else:
            await asyncio.sleep(left)

    with database.sessionmaker.begin() as session:
        for _ in range(number):
            job = close.using(timeout=timedelta(seconds=timeout))
            job.enqueue(session, draw.uniform(0.0, 1.3) * timeout, draw.random() < 0.5)
    finished = drain_async(jobs, database, concurrency=4)
    assert len(finished) == number, f"seed {seed}"
    bad = [each for each in finished if each.error is not None and not isinstance(each.error, JobTimeout)]
    assert bad == [], f"seed {seed}"
    rows: dict[str, int] = dict(database.rows(STATES))
    assert set(rows) == {"succeeded", "failed"}, f"seed {seed}: {rows}"
    assert database.rows(WRONG) == [], f"seed {seed}"


def test_a_killed_process_has_each_effect_exactly_once(jobs: Jobs[Job], database: Database) -> None:
    """kill -9 while coroutines are at work, three times; then all of them are done, each once."""
    program = """
        import asyncio, os, random
        from sqlalchemy import create_engine, text
        from sqlalchemy.ext.asyncio import create_async_engine
        from sqla_jobs import Jobs, Worker, current_job

        jobs = Jobs()

        @jobs.task(name="effect")
        async def effect(session):
            await session.execute(
                text("INSERT INTO effects (job_id) VALUES (:id)"), {"id": current_job().id}
            )
            await asyncio.sleep(random.uniform(0, 0.02))

        url = os.environ["DATABASE_URL"]
        Worker(jobs, create_engine(url), async_sessionmaker=create_async_engine(url)).run()
    """
    number = 300

    @jobs.task(name="effect")
    async def effect(session: AsyncSession) -> None:
        await leave_effect(session)

    with database.sessionmaker.begin() as session:
        jobs.enqueue_many(session, [effect.job() for _ in range(number)])
    for part in (1, 2, 3):
        process = start_python(program, database=database)
        try:
            while database.scalar(EFFECTS) < number * part / 5:
                assert process.poll() is None, process.communicate()
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'running'") > 0, "none was at work"
    told = Told()
    options: dict[str, Any] = {"async_sessionmaker": async_engine(database), **told.hooks}
    with Worker(jobs, database.engine, poll_interval=SOON, **options):
        while database.rows(STATES) != [("succeeded", number)]:
            told.next()
    assert database.rows(WRONG) == []


def test_while_an_outcome_cannot_be_recorded_the_loop_goes_on(jobs: Jobs[Job], database: Database) -> None:
    away = threading.Event()
    refused: list[object] = []
    engine = async_engine(database)

    @event.listens_for(engine.sync_engine, "begin")
    def refuse(_: Any) -> None:
        if away.is_set():
            refused.append(1)
            raise OperationalError("BEGIN", None, Exception("away"))

    @jobs.task(name="lost", retry=NEVER)
    async def lost(session: AsyncSession) -> None:
        await leave_effect(session)
        away.set()
        await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    @jobs.task(name="beside", retry=NEVER)
    async def beside(_: AsyncSession) -> None:
        while not refused:  # noqa: ASYNC110 - it is filled by another thread
            await asyncio.sleep(0.001)
        away.clear()

    enqueue(database, lost)
    enqueue(database, beside)
    finished = drain_async(jobs, database, async_sessionmaker=engine)
    assert {each.job.task: each.state for each in finished} == {
        "beside": JobState.SUCCEEDED,
        "lost": JobState.FAILED,
    }
    assert refused
    assert database.scalar(EFFECTS) == 0


def test_interrupted_before_it_begins_it_does_not_begin(jobs: Jobs[Job], database: Database) -> None:
    """The cancel comes between the claim and the first step of the coroutine."""
    held, told = threading.Event(), Told()
    begun: list[int] = []
    requested = "SELECT count(*) FROM sqla_jobs WHERE cancel_requested_at IS NOT NULL"

    @jobs.task(name="holds")
    async def holds(_: AsyncSession) -> None:
        held.set()
        while not database.scalar(requested):  # and holds up the loop
            pass
        # Until the worker has been told.
        while not any(each.interrupter.reason for each in worker._crew.running()):
            pass

    @jobs.task(name="begins")
    async def begins(session: AsyncSession) -> None:
        begun.append(1)
        await leave_effect(session)

    enqueue(database, holds)
    worker = Worker(jobs, database.engine, async_sessionmaker=async_engine(database), **told.hooks)
    with worker:
        assert held.wait(PATIENCE)
        job = enqueue(database, begins)
        while database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=job) != "running":
            pass
        with Session(database.engine) as session, session.begin():
            cancel(session, job)
        told.next()
        told.next()
    assert database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=job) == "cancelled"
    assert begun == []


@pytest.mark.parametrize("how", ["a child exits", "stop"])
def test_a_job_that_ends_the_loop_ends_itself_only(how: str, jobs: Jobs[Job], database: Database) -> None:
    """asyncio lets a SystemExit of any task out of the loop; what gather runs is a task."""
    begun = asyncio.Event()

    async def leave() -> None:
        sys.exit(1)

    @jobs.task(name="ends", retry=NEVER)
    async def ends(session: AsyncSession) -> None:
        await begun.wait()
        await leave_effect(session)
        if how == "stop":
            asyncio.get_running_loop().stop()
        else:
            await asyncio.gather(leave())

    @jobs.task(name="beside")
    async def beside(session: AsyncSession) -> None:
        begun.set()
        await session.execute(text("SELECT pg_sleep(0.1)"))
        await leave_effect(session)

    @jobs.task(name="after")
    async def after(session: AsyncSession) -> None:
        await leave_effect(session)

    for task in (ends, beside, after):
        enqueue(database, task)
    # By the next ones as well: there is room for two.
    errors = {each.job.task: type(each.error) for each in drain_async(jobs, database, concurrency=2)}
    expected = type(None) if how == "stop" else SystemExit
    assert errors == {"ends": expected, "beside": type(None), "after": type(None)}
    assert database.rows(WRONG) == []


@pytest.mark.parametrize("hit", [1, 2], ids=["the one that sends for all", "one that waits for it"])
def test_a_cancel_of_the_application_hits_nobody_whose_outcome_is_being_recorded(
    hit: int, jobs: Jobs[Job], database: Database
) -> None:
    """As of one that cancels all that is on its loop: those that hand in together wait for each other."""
    tasks: dict[int, asyncio.Task[Any] | None] = {}
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    all_here, held = asyncio.Event(), asyncio.Event()

    async def cancel_one() -> None:
        while not database.scalar(waiting):  # noqa: ASYNC110 - the first one is being handed in
            await asyncio.sleep(0)
        held.set()
        for _ in range(10):  # the others come to wait for it
            await asyncio.sleep(0)
        task = tasks[hit]
        assert task is not None
        task.cancel()
        for _ in range(10):
            await asyncio.sleep(0)
        lock.rollback()

    @jobs.task(name="t", retry=NEVER)
    async def t(_: AsyncSession, number: int) -> None:
        tasks[number] = asyncio.current_task()
        if len(tasks) == 3:
            all_here.set()
        await all_here.wait()
        if number == 1:
            lock.execute(text("LOCK TABLE sqla_jobs IN EXCLUSIVE MODE"))
            beside.append(asyncio.create_task(cancel_one()))
        else:
            await held.wait()

    beside: list[asyncio.Task[None]] = []
    for number in (1, 2, 3):
        enqueue(database, t, number)
    with database.engine.connect() as lock:
        finished = drain_async(jobs, database)
    assert [type(each.error) for each in finished] == [type(None)] * 3
    assert database.rows(STATES) == [("succeeded", 3)]


def test_what_a_failed_job_has_left_behind_writes_nothing(jobs: Jobs[Job], database: Database) -> None:
    """`gather` raises at once, and what it runs goes on: it would write by the commit of the failure."""
    errors: list[BaseException | None] = []

    async def fail() -> None:
        raise ValueError("at once")

    async def write_later(session: AsyncSession) -> None:
        for _ in range(10):  # until the job has come to its end
            await asyncio.sleep(0)
        try:
            await leave_effect(session)
        except BaseException as error:
            errors.append(error)
            raise

    @jobs.task(name="gathers", retry=NEVER)
    async def gathers(session: AsyncSession) -> None:
        await asyncio.gather(fail(), write_later(session))

    for _ in range(10):
        enqueue(database, gathers)
    finished = drain_async(jobs, database, concurrency=2)
    assert [type(each.error) for each in finished] == [ValueError] * 10
    assert database.scalar(EFFECTS) == 0
    # Before the session is closed, and after that.
    assert len(errors) == 10
    assert all(isinstance(each, (JobEscaped, InvalidRequestError)) for each in errors)


def test_what_a_job_has_not_awaited_ends_with_it_in_mid_query(jobs: Jobs[Job], database: Database) -> None:
    """gather() raises at once, and lets the other go on: on a connection that is about to be closed."""
    others: list[str] = []

    @jobs.task(name="gathers", retry=NEVER)
    async def gathers(session: AsyncSession) -> None:
        job = current_job().id

        async def later() -> None:
            await asyncio.sleep(random.uniform(0, 0.02))
            try:
                await session.execute(text("INSERT INTO effects (job_id) VALUES (:id)"), {"id": job})
                await session.commit()
            except BaseException as error:
                others.append(type(error).__name__)
                raise

        async def fails() -> None:
            await session.execute(text("SELECT 1"))
            raise ValueError

        await asyncio.gather(later(), fails())

    with database.sessionmaker.begin() as session:
        jobs.enqueue_many(session, [gathers.job() for _ in range(200)])
    finished = drain_async(jobs, database, concurrency=8)
    assert len(finished) == 200
    assert database.rows(STATES) == [("failed", 200)]
    assert database.scalar(EFFECTS) == 0
    assert others
