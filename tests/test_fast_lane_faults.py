"""What breaks in the middle of a group: all are done exactly once even so, and blamed for its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pytest
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Engine, create_engine, event, func, text, update
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Job, Worker, current_job
from sqla_jobs.errors import JobEscaped
from sqla_jobs.lifecycle import Cancelled, cancel
from tests.support.ear import ear
from tests.support.fast import Fast, unhurried
from tests.support.lane import leave_effect, logged
from tests.support.proxy import Proxy, proxy
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE

SHORT = timedelta(milliseconds=100)
FINISH = "unnest("
EFFECT = "INSERT INTO effects"


@pytest.fixture
def fast(database: Database) -> Fast:
    return Fast(database)


# -- interrupted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in Python", "in a statement"])
def test_a_timeout_in_the_middle_of_a_group(fast: Fast, how: str) -> None:
    def late(session: Session) -> None:
        leave_effect(session)
        session.flush()
        while how == "in Python":
            sum(range(100))
        session.execute(text("SELECT pg_sleep(3600)"))

    task = fast.task(late, timeout=timedelta(minutes=1))
    first, job, last = fast.enqueue(fast.note.job(), task.using(timeout=SHORT).job(), fast.note.job())
    fast.drain()
    assert fast.groups() == [[first, job, last]]
    assert fast.effects() == [first, last]
    assert fast.errors(job) == [("JobTimeout", "the job ran longer than its timeout of 0:00:00.100000")]
    assert fast.row(job).state == "failed"


class Held:
    """A task that waits in the middle of a group until it is let go on."""

    def __init__(self, fast: Fast) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.task = fast.task(self._run, name="held")

    def _run(self, session: Session) -> None:
        leave_effect(session)
        session.flush()
        self.begun.set()
        while not self.go_on.wait(0.005):  # an interruption comes between two of them
            pass


def test_a_job_of_a_group_is_busy_for_who_would_cancel_it(fast: Fast) -> None:
    held = Held(fast)
    jobs = fast.enqueue(fast.note.job(), held.task.job(), fast.note.job())
    said: list[Cancelled] = []
    with unhurried(), Worker(fast.jobs, fast.database.engine):
        assert held.begun.wait(PATIENCE)
        with fast.database.sessionmaker.begin() as session:
            said += [cancel(session, Job, job) for job in jobs]
            assert fast.states() == ["queued"] * 3
        held.go_on.set()
    assert said == [Cancelled.BUSY] * 3
    assert fast.states()[:2] == ["succeeded"] * 2


def test_a_stop_lets_the_running_job_end_and_gives_back_those_behind_it(fast: Fast) -> None:
    held = Held(fast)
    first, job, last = fast.enqueue(fast.note.job(), held.task.job(), fast.note.job())
    with ear(fast.database) as heard:
        with unhurried(), Worker(fast.jobs, fast.database.engine) as worker:
            assert held.begun.wait(PATIENCE)
            worker.stop()
            held.go_on.set()
        assert "queued:default" in heard.heard(), "another worker shall take what is left"
    assert fast.states() == ["succeeded", "succeeded", "queued"]
    assert fast.effects() == [first, job]
    assert (fast.row(last).attempt, fast.row(last).claim, fast.row(last).attempts) == (0, 0, [])


def test_a_firm_stop_gives_the_running_job_back_uncounted(fast: Fast) -> None:
    held = Held(fast)
    first, job, last = fast.enqueue(fast.note.job(), held.task.job(), fast.note.job())
    told = Told()
    with ear(fast.database) as heard:
        with unhurried(), Worker(fast.jobs, fast.database.engine, **told.hooks) as worker:
            assert held.begun.wait(PATIENCE)
            worker.stop(0)
        assert "queued:default" in heard.heard()
    assert fast.states() == ["succeeded", "queued", "queued"]
    assert fast.effects() == [first]
    assert {fast.row(each).attempt for each in (job, last)} == {0}
    assert told.calls == [("finish", first)]
    held.go_on.set()
    fast.drain()
    assert fast.effects() == [first, job, last]
    assert {fast.row(each).attempt for each in (first, job, last)} == {1}


# -- lanes -------------------------------------------------------------------------------------------


def test_a_job_that_a_worker_has_died_of_is_run_by_itself(fast: Fast) -> None:
    seen: dict[int, str] = {}

    def look(_: Session) -> None:
        seen[current_job().id] = fast.row(current_job().id).state

    task = fast.task(look)
    first, suspect, last = fast.enqueue(*[task.job() for _ in range(3)])
    fast.database.execute("UPDATE sqla_jobs SET crashes = 1 WHERE id = :id", id=suspect)
    fast.drain()
    assert seen == {first: "queued", suspect: "running", last: "queued"}
    assert fast.groups() == [[first, last], [suspect]]


@pytest.mark.parametrize("died", ["30 seconds", "59 seconds", "61 seconds"])
def test_after_a_death_all_take_the_ordinary_lane_for_a_minute(fast: Fast, died: str) -> None:
    fast.database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, died_at)"
        f" VALUES ('h', 1, 'v', 1, interval '30 s', now() - interval '{died}')"
    )
    seen: list[str] = []

    def look(_: Session) -> None:
        seen.append(fast.row(current_job().id).state)

    fast.enqueue(fast.task(look).job())
    fast.drain(heartbeat_interval=timedelta(hours=1), heartbeat_limit=timedelta(hours=3))
    assert seen == ["queued" if died == "61 seconds" else "running"]


# -- a commit that is refused ------------------------------------------------------------------------


def test_one_job_that_the_commit_refuses_fails_alone(fast: Fast, caplog: pytest.LogCaptureFixture) -> None:
    fast.database.execute("CREATE TABLE seats (number int UNIQUE DEFERRABLE INITIALLY DEFERRED)")

    def book_twice(session: Session) -> None:
        leave_effect(session)
        session.execute(text("INSERT INTO seats VALUES (1), (1)"))

    told = Told()
    jobs = fast.enqueue(*[fast.note.job() for _ in range(2)], fast.task(book_twice).job(), fast.note.job())
    fast.drain(**told.hooks)
    assert fast.states() == ["succeeded", "succeeded", "failed", "succeeded"]
    assert fast.effects() == [jobs[0], jobs[1], jobs[3]]
    assert [fast.row(job).attempt for job in jobs] == [1, 1, 1, 1]
    assert told.calls == [
        ("finish", jobs[0]),
        ("finish", jobs[1]),
        ("failure", jobs[2]),
        ("finish", jobs[2]),
        ("finish", jobs[3]),
    ]
    assert fast.errors(jobs[2])[0][0] == "IntegrityError"
    assert logged(caplog)[0].startswith(
        "a group of 4 jobs could not be committed, and each runs again by itself"
    )


@pytest.mark.parametrize("victim", ["its own", "the next one's", "the one's before"])
def test_a_job_that_changes_a_row_of_the_group(fast: Fast, victim: str) -> None:
    def spoils(session: Session) -> None:
        leave_effect(session)
        job = current_job().id + {"its own": 0, "the next one's": 1, "the one's before": -1}[victim]
        session.execute(update(Job).where(Job.id == job).values(claim=Job.claim + 1))

    first, job, last = fast.enqueue(fast.note.job(), fast.task(spoils).job(), fast.note.job())
    fast.drain()
    own = victim == "its own"
    assert fast.states() == ["succeeded", "failed" if own else "succeeded", "succeeded"]
    assert fast.effects() == ([first, last] if own else [first, job, last])
    if own:
        assert [name for name, _ in fast.errors(job)] == ["JobEscaped"]


def test_a_hook_of_the_sessions_that_raises_after_the_commit(fast: Fast) -> None:
    """It is committed: nobody runs it again, and everybody is told."""
    source = sessionmaker(fast.database.engine)
    raised: list[int] = []

    @event.listens_for(source, "after_commit")
    def fail(session: Session) -> None:
        if not raised and not session.in_nested_transaction() and fast.effects():
            raised.append(1)
            raise ValueError

    told = Told()
    jobs = fast.enqueue(fast.note.job(), fast.note.job())
    fast.drain(sessions=source, **told.hooks)
    assert told.calls == [("finish", job) for job in jobs]
    assert fast.effects() == jobs
    assert len(fast.ran) == 2


def test_a_deadlock_is_nobodys_fault(fast: Fast) -> None:
    """Raised as it is by the server, by a job that is alone the second time."""
    runs: list[str] = []

    def meets_another(session: Session) -> None:
        leave_effect(session)
        session.flush()
        runs.append(fast.row(current_job().id).state)
        if len(runs) == 1:
            session.execute(text("DO $$ BEGIN RAISE EXCEPTION 'staged' USING ERRCODE = '40P01'; END $$"))

    first, job, last = fast.enqueue(fast.note.job(), fast.task(meets_another).job(), fast.note.job())
    fast.drain()
    assert runs == ["queued", "running"]
    assert fast.states() == ["succeeded"] * 3
    assert (fast.row(job).attempt, fast.row(job).attempts) == (1, [])
    assert fast.effects() == [first, job, last]


# -- a connection that is lost --------------------------------------------------------------------------


@pytest.fixture
def between(database: Database) -> Iterator[Proxy]:
    with proxy(database) as between:
        yield between


@pytest.fixture
def engine(between: Proxy) -> Iterator[Engine]:
    engine = between.engine()
    yield engine
    engine.dispose()


@pytest.mark.parametrize("carried_out", [True, False])
def test_in_the_commit(fast: Fast, between: Proxy, engine: Engine, carried_out: bool) -> None:
    told = Told()
    jobs = fast.enqueue(*[fast.note.job() for _ in range(3)])
    loss = between.lose("COMMIT", within=EFFECT, carried_out=carried_out)
    fast.drain(sessions=engine, **told.hooks)
    assert loss.happened.wait(PATIENCE)
    assert fast.effects() == jobs
    assert {(row.state, row.attempt) for row in map(fast.row, jobs)} == {("succeeded", 1)}
    assert told.calls == [("finish", job) for job in jobs]
    assert len(fast.ran) == (3 if carried_out else 6), "what stands is not run again"
    assert len(fast.groups()) == (1 if carried_out else 3)


def test_in_the_commit_of_outcomes_that_are_no_successes(fast: Fast, between: Proxy, engine: Engine) -> None:
    def fail(session: Session) -> None:
        raise ValueError

    told = Told()
    task = fast.task(fail)
    jobs = fast.enqueue(task.job(), task.job())
    loss = between.lose("COMMIT", within="finished_at=CASE", carried_out=True)
    fast.drain(sessions=engine, **told.hooks)
    assert loss.happened.wait(PATIENCE)
    assert told.calls == [(hook, job) for job in jobs for hook in ("failure", "finish")]
    assert [len(fast.errors(job)) for job in jobs] == [1, 1]


def test_at_the_finish(fast: Fast, between: Proxy, engine: Engine) -> None:
    jobs = fast.enqueue(*[fast.note.job() for _ in range(3)])
    loss = between.lose(FINISH, within=EFFECT)
    fast.drain(sessions=engine)
    assert loss.happened.is_set()
    assert fast.effects() == jobs
    assert {(row.state, row.attempt) for row in map(fast.row, jobs)} == {("succeeded", 1)}


def test_in_the_middle_of_a_job(fast: Fast) -> None:
    """It is that job's failed attempt, whoever's work is gone with it."""
    engine = create_engine(fast.database.url)

    def loses(session: Session) -> None:
        leave_effect(session)
        pid = session.scalar(func.pg_backend_pid())
        fast.database.scalar("SELECT pg_terminate_backend(:pid, 10000)", pid=pid)
        session.execute(text("SELECT 1"))

    told = Told()
    first, job, last = fast.enqueue(fast.note.job(), fast.task(loses).job(), fast.note.job())
    fast.drain(sessions=engine, **told.hooks)
    engine.dispose()
    assert fast.states() == ["succeeded", "failed", "succeeded"]
    assert fast.effects() == [first, last]
    assert [fast.row(each).attempt for each in (first, job, last)] == [1, 1, 1]
    assert sorted(told.calls) == [("failure", job), *[("finish", each) for each in (first, job, last)]]


def test_nothing_is_sent_on_a_connection_that_a_job_has_let_go_of(fast: Fast) -> None:
    """It is back in the pool, and may be another thread's."""
    strays: list[Any] = []

    def closes(session: Session) -> None:
        leave_effect(session)
        session.flush()
        with suppress(JobEscaped):
            session.connection().close()

    @event.listens_for(fast.database.engine, "checkout")
    def look(driver: Any, *_: Any) -> None:
        if driver.info.transaction_status != 0:
            strays.append(driver.info.transaction_status)

    first, job, last = fast.enqueue(fast.note.job(), fast.task(closes).job(), fast.note.job())
    fast.drain()
    event.remove(fast.database.engine, "checkout", look)
    assert strays == []
    assert fast.states() == ["succeeded", "failed", "succeeded"]
    assert fast.effects() == [first, last]
    assert [name for name, _ in fast.errors(job)] == ["JobEscaped"]


def test_nor_in_the_transaction_of_whoever_has_it_now(fast: Fast) -> None:
    theirs: list[Connection] = []

    def closes(session: Session) -> None:
        leave_effect(session)
        session.flush()
        driver = session.connection().connection.driver_connection
        with suppress(JobEscaped):
            session.connection().close()
        for _ in range(5):  # SQLAlchemy 2.0 keeps it from the pool
            theirs.append(fast.database.engine.connect())
            theirs[-1].exec_driver_sql("SELECT 1")
            if theirs[-1].connection.driver_connection is driver:
                break

    first, _, last = fast.enqueue(fast.note.job(), fast.task(closes).job(), fast.note.job())
    fast.drain()
    drivers: list[Any] = [each.connection.driver_connection for each in theirs if each.in_transaction()]
    states = {driver.info.transaction_status for driver in drivers}
    for each in theirs:
        each.close()
    assert states == {TransactionStatus.INTRANS}
    assert fast.effects() == [first, last]
