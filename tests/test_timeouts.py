"""Jobs that take longer than they may: interrupted where they are, and nobody else is."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Worker
from sqla_jobs.errors import InvalidOption, JobTimeout
from sqla_jobs.worker import timer
from tests.support.lane import NEVER, leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, SOON, drain

SHORT = timedelta(milliseconds=100)
LONG = timedelta(hours=1)
EFFECTS = "SELECT count(*) FROM effects"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def spin(_: Session) -> None:
    """For ever, in Python."""
    while True:
        sum(range(100))


def pg_sleep(session: Session) -> None:
    """For ever, in a statement."""
    session.execute(text("SELECT pg_sleep(3600)"))


def swallow(session: Session) -> None:
    """What many a task does."""
    while True:
        with suppress(Exception):
            session.execute(text("SELECT pg_sleep(3600)"))


def row_by_row(session: Session) -> None:
    """An import that takes an error for a faulty row, and comes to an end with half of its rows."""
    for _ in range(8):
        with suppress(DBAPIError), session.begin_nested():
            leave_effect(session)
            session.flush()
            session.execute(text("SELECT pg_sleep(0.2)"))


def one_after_the_other(session: Session) -> None:
    """Statements that have each ended when it is to be cancelled."""
    while True:
        session.execute(text("SELECT 1"))


ENDLESS = [spin, pg_sleep, swallow, row_by_row, one_after_the_other]


@pytest.mark.parametrize("endless", ENDLESS, ids=lambda task: task.__name__)
def test_a_job_that_is_too_long_is_interrupted_and_leaves_nothing(
    endless: Any, jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="endless", timeout=SHORT, retry=NEVER)
    def task(session: Session) -> None:
        leave_effect(session)
        session.flush()
        endless(session)

    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    (finished,) = drain(jobs, database)
    assert (finished.state, finished.failed, type(finished.error)) == (JobState.FAILED, True, JobTimeout)
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert (row.state, row.attempt, row.claim) == ("failed", 1, 1)
    (kept,) = row.attempts
    assert kept["error"] == "sqla_jobs.errors.JobTimeout"
    assert kept["message"] == "the job ran longer than its timeout of 0:00:00.100000"
    assert endless.__name__ in kept["traceback"], "it shows where the job was"
    assert database.scalar(EFFECTS) == 0


def test_a_timeout_is_retried_by_the_policy_and_spares_the_neighbours(
    jobs: Jobs[Job], database: Database
) -> None:
    runs: list[int] = []

    @jobs.task(name="late", timeout=SHORT, retry=RetryPolicy(max_attempts=3, base=timedelta(0)))
    def late(session: Session) -> None:
        runs.append(1)
        leave_effect(session)
        if len(runs) < 3:
            pg_sleep(session)

    quick = jobs.task(name="quick", retry=NEVER)(leave_effect)
    with database.sessionmaker.begin() as session:
        late.enqueue(session)
        for _ in range(50):
            quick.enqueue(session)
    drain(jobs, database, threads=3)
    assert len(runs) == 3
    assert database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY 1") == [("succeeded", 51)]
    assert database.scalar(EFFECTS) == 51
    assert database.scalar("SELECT max(attempt) FROM sqla_jobs WHERE task = 'quick'") == 1


def test_the_rows_own_timeout_wins(jobs: Jobs[Job], database: Database) -> None:
    gate = threading.Event()

    @jobs.task(name="t", timeout=LONG, retry=NEVER)
    def task(session: Session) -> None:
        while not gate.wait(0.01):
            pass

    with database.sessionmaker.begin() as session:
        own = task.using(timeout=SHORT).enqueue(session)
        database_id = own.id
        assert own.timeout == SHORT
        assert jobs.using(timeout=SHORT).job("t").timeout == SHORT
        assert task.using(timeout=SHORT).using(timeout=None).job().timeout is None
    (finished,) = drain(jobs, database)
    assert (finished.job.id, type(finished.error)) == (database_id, JobTimeout)
    assert finished.error is not None
    assert finished.error.timeout == SHORT  # type: ignore[attr-defined]


@pytest.mark.parametrize("timeout", [timedelta(0), timedelta(-1), timedelta(days=40_000), 5, "1 s"])
def test_a_timeout_is_a_time(timeout: Any, jobs: Jobs[Job]) -> None:
    with pytest.raises(InvalidOption, match=r"timeout .*; expected"):
        jobs.task(name="t", timeout=timeout)(leave_effect)
    fine = jobs.task(name="t")(leave_effect)
    with pytest.raises(InvalidOption, match=r"timeout .*; expected"):
        fine.using(timeout=timeout)
    with pytest.raises(InvalidOption, match=r"timeout .*; expected"):
        jobs.using(timeout=timeout)


@pytest.mark.parametrize("interval", ["178000000 years", "-1 day", "1 mon", "0"])
def test_any_interval_that_plain_sql_writes_can_be_claimed(
    interval: str, jobs: Jobs[Job], database: Database
) -> None:
    jobs.task(name="t", retry=NEVER)(leave_effect)
    database.execute("INSERT INTO sqla_jobs (task, timeout) VALUES ('t', CAST(:i AS interval))", i=interval)
    (finished,) = drain(jobs, database)
    assert finished.state in (JobState.SUCCEEDED, JobState.FAILED)


def test_a_flush_that_waits_for_a_lock_is_interrupted_too(jobs: Jobs[Job], database: Database) -> None:
    """The task itself has returned: what waits is what its Session still has to write."""
    database.execute("CREATE UNIQUE INDEX ON effects (note)")

    @jobs.task(name="t", timeout=SHORT, retry=NEVER)
    def task(session: Session) -> None:
        leave_effect(session)

    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    with database.engine.connect() as other:
        other.execute(text("LOCK TABLE effects IN EXCLUSIVE MODE"))
        (finished,) = drain(jobs, database)
        assert (finished.state, type(finished.error)) == (JobState.FAILED, JobTimeout)
    assert database.scalar(EFFECTS) == 0


def test_a_job_that_catches_everything_is_interrupted_until_it_ends(
    jobs: Jobs[Job], database: Database
) -> None:
    caught: list[BaseException] = []

    @jobs.task(name="stubborn", timeout=SHORT, retry=NEVER)
    def stubborn(session: Session) -> None:
        while len(caught) < 3:
            try:
                spin(session)
            except BaseException as error:
                caught.append(error)
        spin(session)

    with database.sessionmaker.begin() as session:
        stubborn.enqueue(session)
    (finished,) = drain(jobs, database)
    assert type(finished.error) is JobTimeout
    assert len(caught) == 3


def test_one_that_cannot_be_interrupted_is_reported_and_recorded_in_its_stead(
    jobs: Jobs[Job], database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timer, "PATIENCE", 0.5)
    caplog.set_level("INFO", "sqla_jobs")
    told, gate = Told(), threading.Lock()
    gate.acquire()

    @jobs.task(name="blocked", timeout=SHORT, retry=NEVER)
    def blocked(session: Session) -> None:
        leave_effect(session)
        session.flush()
        gate.acquire()

    with database.sessionmaker.begin() as session:
        blocked.enqueue(session)
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks) as worker:
        finished = told.next()
        assert (finished.state, type(finished.error)) == (JobState.FAILED, JobTimeout)
        assert worker.state == "running"
        gate.release()
    assert told.silent, "the end of the blocked run is refused by the fence, and nobody's news"
    assert database.scalar(EFFECTS) == 0
    messages = [record.getMessage() for record in caplog.records]
    assert any("was interrupted" in each and "gate.acquire()" in each for each in messages)
    assert any("has come to an end after all" in each for each in messages)
    assert "no thread is left that could run a job until one returns: restart this worker" in messages


def test_a_replaceable_worker_stops_for_such_a_job(jobs: Jobs[Job], database: Database) -> None:
    gate = threading.Lock()
    gate.acquire()

    @jobs.task(name="blocked", timeout=SHORT, retry=NEVER)
    def blocked(session: Session) -> None:
        gate.acquire()

    with database.sessionmaker.begin() as session:
        blocked.enqueue(session)
    worker = Worker(jobs, database.engine, poll_interval=SOON, replaceable=True, grace=timedelta(0)).start()
    assert worker.join(PATIENCE), "it ends although the job does not"
    gate.release()
    assert database.scalar("SELECT state FROM sqla_jobs") == "failed"
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


@pytest.fixture
def seed() -> Iterator[int]:
    number = random.randrange(10**6)
    yield number
    print("seed", number)


@pytest.mark.usefixtures("ignored_in_callbacks")
def test_a_thousand_timeouts_and_none_hits_a_finish_or_a_neighbour(
    jobs: Jobs[Job], database: Database, seed: int
) -> None:
    """Jobs that end just when their time is up: each either timed out and left nothing, or succeeded."""
    draw = random.Random(seed)
    number = 1000

    @jobs.task(name="close", retry=NEVER)
    def close(session: Session, seconds: float, in_database: bool) -> None:
        leave_effect(session)
        session.flush()
        if in_database:
            session.execute(text("SELECT pg_sleep(:s)"), {"s": seconds})
        else:
            wait = threading.Event()
            wait.wait(seconds)

    timeout = 0.02
    with database.sessionmaker.begin() as session:
        for _ in range(number):
            job = close.using(timeout=timedelta(seconds=timeout))
            job.enqueue(session, draw.uniform(0.3, 1.3) * timeout, draw.random() < 0.5)
    finished = drain(jobs, database, threads=4)
    assert len(finished) == number
    bad = [each for each in finished if each.error is not None and not isinstance(each.error, JobTimeout)]
    assert bad == []
    rows = {row.state: row.count for row in database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY 1")}
    assert set(rows) <= {"succeeded", "failed"}
    assert rows.get("failed", 0) > 50, f"the times were badly chosen: {rows}"
    assert rows.get("succeeded", 0) > 50, f"the times were badly chosen: {rows}"
    wrong = """
        SELECT job.id FROM sqla_jobs AS job LEFT JOIN effects ON effects.job_id = job.id
        GROUP BY job.id HAVING count(effects.job_id) <> (job.state = 'succeeded')::int
    """
    assert database.rows(wrong) == []


def test_a_statement_error_of_its_own_is_not_taken_for_an_interruption(
    jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="t", timeout=LONG, retry=NEVER)
    def task(session: Session) -> None:
        session.execute(text("SET LOCAL statement_timeout = 10"))
        pg_sleep(session)

    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    (finished,) = drain(jobs, database)
    assert isinstance(finished.error, DBAPIError)
    assert "statement timeout" in str(finished.error)


def test_a_transaction_that_is_open_for_long_is_hinted_at_once(
    jobs: Jobs[Job], database: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqla_jobs.worker.timer.LONG_TRANSACTION", 0.05)
    hinted = "has had its transaction open for"

    def hints() -> list[str]:
        return [record.getMessage() for record in caplog.records if hinted in record.getMessage()]

    @jobs.task(name="long", retry=NEVER)
    def long(session: Session) -> None:
        leave_effect(session)
        session.flush()
        while not hints():
            sum(range(100))
        threading.Event().wait(10 * SOON.total_seconds())  # some polls more, and no further hint

    @jobs.task(name="idle", retry=NEVER)
    def idle(_: Session) -> None:
        threading.Event().wait(10 * SOON.total_seconds())

    with database.sessionmaker.begin() as session:
        idle.enqueue(session)
        long.enqueue(session)
    drain(jobs, database)
    (hint,) = hints()
    assert hint.startswith("job 2 (long)")
    assert "current_job().checkpoint(session)" in hint
