"""What Byplay's worker does, by the numbers of its behaviours: reproduced, or improved where it says so."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Jobs, JobState, Worker
from sqla_jobs.errors import JobsError
from tests.support.plans import fill
from tests.support.python import python
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, PATIENCE, SOON, Recorder, drain


@pytest.fixture
def app() -> Recorder:
    return Recorder()


@contextmanager
def working(jobs: Jobs[Any], database: Database, **options: Any) -> Iterator[Worker]:
    """A worker that runs during the block."""
    worker = Worker(jobs, database.sessionmaker, **{"poll_interval": SOON, **options})
    with worker:
        yield worker


def test_b17_a_worker_has_defaults_and_takes_what_makes_sessions(database: Database, app: Recorder) -> None:
    """Any queue, one thread. Improved: it polls each second rather than each five."""
    worker = Worker(app.jobs, database.engine)
    assert (worker.queues, worker.threads) == (None, 1)
    assert inspect.signature(Worker).parameters["poll_interval"].default == dt.timedelta(seconds=1)
    for source in (database.engine, database.sessionmaker, lambda: Session(database.engine)):
        with database.sessionmaker.begin() as session:
            app.record.enqueue(session, "a")
        assert [end.state for end in drain(app.jobs, database, sessions=source)] == ["succeeded"]


def test_b18_a_worker_does_nothing_until_it_is_started_and_starts_once(
    database: Database, app: Recorder
) -> None:
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
    ended = threading.Event()
    worker = Worker(app.jobs, database.engine, poll_interval=SOON, on_finish=lambda *_: ended.set())
    seen = [worker.state]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0
    assert database.scalar("SELECT state FROM sqla_jobs") == "queued"
    worker.start()
    seen.append(worker.state)
    assert ended.wait(PATIENCE)
    worker.stop()
    assert worker.join(PATIENCE)
    assert [*seen, worker.state] == ["new", "running", "stopped"]
    with pytest.raises(JobsError, match="started once"):
        worker.start()


@pytest.mark.parametrize("threads", [1, 4])
def test_b19_so_many_threads_run_so_many_jobs_at_once_and_each_exactly_once(
    database: Database, app: Recorder, threads: int
) -> None:
    """Instead of a stopwatch a barrier, which only as many jobs as there are threads can pass together."""
    barrier = threading.Barrier(threads)

    @app.jobs.task(name="meet", retry=NEVER_AGAIN)
    def meet(session: Session, number: int) -> None:
        app.record(session, str(number))
        barrier.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        for number in range(100):
            meet.using(queue="abc"[number % 3]).enqueue(session, number)
    ends = drain(app.jobs, database, threads=threads, queues=["a", "b", "c"])
    assert Counter(end.job.id for end in ends) == dict.fromkeys(range(1, 101), 1)
    assert {end.error for end in ends} == {None}
    assert database.scalar("SELECT count(DISTINCT note) FROM effects") == 100
    assert database.scalar("SELECT count(*) FROM effects") == 100


@pytest.mark.parametrize(
    ("queues", "order"), [(["c", "a", "b"], "c0 c1 a0 a1 b0 b1"), (None, "b0 c0 a0 b1 c1 a1")], ids=str
)
def test_b20_a_worker_respects_the_order_of_its_queues(
    database: Database, app: Recorder, queues: list[str] | None, order: str
) -> None:
    """Without queues the jobs run as they came."""
    with database.sessionmaker.begin() as session:
        for number in range(2):
            for queue in "bca":
                app.record.using(queue=queue).enqueue(session, f"{queue}{number}")
    drain(app.jobs, database, queues=queues)
    assert " ".join(app.ran) == order


def test_b21_hooks_hear_of_each_job_failures_first_and_then_all(
    database: Database, app: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Both get the worker and what happened. Improved: once a job rather than after every empty poll.

    Without a hook a failure is logged, with its traceback.
    """
    heard: list[tuple[str, Worker, Finished]] = []
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
        app.fail.enqueue(session, "b")
    worker = Worker(
        app.jobs,
        database.engine,
        poll_interval=SOON,
        drain=True,
        on_failure=lambda *told: heard.append(("failure", *told)),
        on_finish=lambda *told: heard.append(("finish", *told)),
    )
    with caplog.at_level(logging.ERROR, "sqla_jobs"):
        worker.start()
        assert worker.join(PATIENCE)
    assert {told for _, told, _ in heard} == {worker}
    assert [(which, end.job.arguments["note"], end.state) for which, _, end in heard] == [
        ("finish", "a", JobState.SUCCEEDED),
        ("failure", "b", JobState.FAILED),
        ("finish", "b", JobState.FAILED),
    ]
    assert [repr(end.error) for _, _, end in heard] == ["None", "ValueError('b')", "ValueError('b')"]
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ValueError)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # the SystemExit itself
def test_b22_a_hook_may_end_the_thread_that_it_runs_in_and_no_other(
    database: Database, app: Recorder
) -> None:
    """By SystemExit; the other thread goes on."""
    threads: SimpleQueue[threading.Thread] = SimpleQueue()

    def leave(_: Worker, end: Finished) -> None:
        threads.put(threading.current_thread())
        if end.job.arguments["note"] == "a":
            raise SystemExit

    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
    with working(app.jobs, database, threads=2, on_finish=leave) as worker:
        left = threads.get(timeout=PATIENCE)
        left.join(PATIENCE)
        assert not left.is_alive()
        assert worker.state == "running"
        with database.sessionmaker.begin() as session:
            for _ in range(3):
                app.record.enqueue(session, "b")
        others = [threads.get(timeout=PATIENCE) for _ in range(3)]
    assert left not in others
    assert len(set(others)) == 1


def test_b23_a_stop_lets_running_jobs_finish_and_takes_no_new_one(database: Database, app: Recorder) -> None:
    """`join` waits for them; none fails; what was not begun stays queued."""
    running, go_on = threading.Semaphore(0), threading.Event()

    @app.jobs.task(name="linger", retry=NEVER_AGAIN)
    def linger(session: Session, number: int) -> None:
        app.record(session, str(number))
        running.release()
        assert go_on.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        for number in range(5):
            linger.enqueue(session, number)
    with working(app.jobs, database, threads=2) as worker:
        for _ in range(2):
            assert running.acquire(timeout=PATIENCE)
        worker.stop()
        assert worker.join(0.1) is False, "two jobs are still running"
        go_on.set()
        assert worker.join(PATIENCE)
    assert sorted(app.ran) == ["0", "1"]
    rows = database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY state ORDER BY state")
    assert [tuple(row) for row in rows] == [("queued", 3), ("succeeded", 2)]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_b23_a_worker_can_be_stopped_from_a_shutdown_hook(database: Database) -> None:
    """An application's atexit: the job that runs when the program ends is finished first."""
    told = python(
        """
        import atexit, os, threading
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session
        from sqla_jobs import Jobs, Worker

        jobs, running, ending = Jobs(), threading.Event(), threading.Event()

        @jobs.task(name="linger")
        def linger(session):
            running.set()
            ending.wait(30)

        engine = create_engine(os.environ["DATABASE_URL"])
        with Session(engine) as session, session.begin():
            linger.enqueue(session)
            linger.enqueue(session)
        worker = Worker(jobs, engine).start()

        @atexit.register
        def shut_down():
            worker.stop()
            ending.set()
            print(worker.join(30), worker.state)

        running.wait(30)
        """,
        database=database,
    )
    assert told == "True stopped\n"
    assert [state for (state,) in database.rows("SELECT state FROM sqla_jobs ORDER BY id")] == [
        "succeeded",
        "queued",
    ]


# -- quirks that are not copied --------------------------------------------------------------------


def test_b24_a_full_queue_is_worked_off_without_a_pause(database: Database, app: Recorder) -> None:
    """Improved: the thread rests only when it finds nothing. With a poll of a day, two jobs would not end."""
    with database.sessionmaker.begin() as session:
        for number in range(20):
            app.record.enqueue(session, str(number))
    ended = threading.Semaphore(0)
    day = dt.timedelta(days=1)
    with working(app.jobs, database, poll_interval=day, on_finish=lambda *_: ended.release()):
        for _ in range(20):
            assert ended.acquire(timeout=PATIENCE)


@pytest.mark.parametrize("hook", ["on_failure", "on_finish"])
def test_b24_a_hook_that_raises_does_not_end_its_thread(
    database: Database, app: Recorder, hook: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Improved: it is logged, and the job's outcome stands."""

    def broken(*_: object) -> None:
        raise RuntimeError("a broken hook")

    with database.sessionmaker.begin() as session:
        for number in range(3):
            app.fail.enqueue(session, str(number))
    drain(app.jobs, database, **{hook: broken})
    assert app.ran == ["0", "1", "2"]
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'failed'") == 3
    assert sum("a hook failed" in record.message for record in caplog.records) == 3


def test_b24_a_database_error_while_polling_does_not_end_the_thread(
    database: Database, app: Recorder
) -> None:
    """Improved: it is logged, and polling goes on; here three claims fail before one goes through."""
    failures = iter(range(3))

    def fail_claims(_: Any, __: Any, sql: str, *___: Any) -> None:
        if "SKIP LOCKED" in sql and "running" in sql and next(failures, None) is not None:
            raise OperationalError(sql, {}, Exception("the server is away"))

    event.listen(database.engine, "before_cursor_execute", fail_claims)
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
    assert [end.state for end in drain(app.jobs, database)] == ["succeeded"]
    assert next(failures, None) is None


def test_b24_a_poll_opens_no_connection_of_its_own(database: Database, app: Recorder) -> None:
    """Improved: connections come from the engine's pool, and go back to it."""
    opened: list[Any] = []
    event.listen(database.engine, "connect", lambda *_: opened.append(1))
    fill(database, "queued", 1)
    with database.sessionmaker.begin() as session:
        session.execute(text("DELETE FROM sqla_jobs"))
        for number in range(60):
            app.record.enqueue(session, str(number))
    drain(app.jobs, database, threads=2)
    assert len(app.ran) == 60
    assert len(opened) <= 1 + 2 + 4  # the test's own, one a thread, and those that the worker keeps
