"""A Worker from its start to its stop: its states, its threads, what it claims and in which order."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Job, Jobs, JobState, Worker, current_job
from sqla_jobs.errors import ConfigurationError, InvalidOption, InvalidQueueName, JobsError, SchemaError
from tests.support.lane import AT_ONCE, leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, SOON

WORKERS = "SELECT count(*) FROM sqla_jobs_workers"
SECOND = timedelta(seconds=1)


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def told() -> Told:
    return Told()


def enqueue(database: Database, *jobs: Job) -> list[int]:
    with database.sessionmaker.begin() as session:
        session.add_all(jobs)
        session.flush()
        return [job.id for job in jobs]


# -- life ------------------------------------------------------------------------------------------


def test_it_does_nothing_until_it_is_started(jobs: Jobs[Job], database: Database) -> None:
    worker = Worker(jobs, database.engine)
    assert worker.state == "new"
    assert (database.scalar(WORKERS), worker.join()) == (0, True)


def test_it_runs_from_start_to_stop_and_once_only(jobs: Jobs[Job], database: Database) -> None:
    worker = Worker(jobs, database.engine, poll_interval=SOON)
    assert worker.start() is worker
    assert (worker.state, database.scalar(WORKERS)) == ("running", 1)
    with pytest.raises(JobsError, match="the worker is running; a worker is started once"):
        worker.start()
    worker.stop()
    assert worker.join(PATIENCE)
    assert (worker.state, database.scalar(WORKERS)) == ("stopped", 0)
    with pytest.raises(JobsError, match="the worker is stopped"):
        worker.start()


def test_stopped_before_its_start_it_cannot_be_started(jobs: Jobs[Job], database: Database) -> None:
    worker = Worker(jobs, database.engine)
    worker.stop()
    assert (worker.state, worker.join()) == ("stopped", True)
    with pytest.raises(JobsError, match="the worker is stopped"):
        worker.start()


def test_a_with_block_is_its_life(jobs: Jobs[Job], database: Database, told: Told) -> None:
    task = jobs.task(name="t")(leave_effect)
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks) as worker:
        (job,) = enqueue(database, task.job())
        assert told.next().job.id == job
    assert worker.state == "stopped"
    with pytest.raises(ZeroDivisionError), Worker(jobs, database.engine) as worker:
        _ = 1 / 0
    assert worker.state == "stopped"


def test_a_stop_lets_the_running_job_finish_and_takes_no_other(
    jobs: Jobs[Job], database: Database, told: Told
) -> None:
    runs, may_end = threading.Event(), threading.Event()

    @jobs.task(name="t")
    def hold(session: Session) -> None:
        leave_effect(session)
        runs.set()
        assert may_end.wait(PATIENCE)

    first, second = enqueue(database, hold.job(), hold.job())
    worker = Worker(jobs, database.engine, poll_interval=SOON, **told.hooks).start()
    assert runs.wait(PATIENCE)
    worker.stop()
    assert worker.state == "stopping"
    assert not worker.join(0.05), "its job runs"
    may_end.set()
    assert worker.join(PATIENCE)
    assert (told.next().state, told.silent) == (JobState.SUCCEEDED, True)
    states = {row.id: row.state for row in database.rows("SELECT id, state FROM sqla_jobs")}
    assert states == {first: "succeeded", second: "queued"}
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_nobody_waits_for_the_end_of_what_waits_for_him(
    jobs: Jobs[Job], database: Database, told: Told
) -> None:
    @jobs.task(name="t", retry=AT_ONCE)
    def wait(session: Session) -> None:
        worker.join()

    enqueue(database, wait.using(max_attempts=1).job())
    worker = Worker(jobs, database.engine, poll_interval=SOON, **told.hooks)
    with worker:
        error = told.next().error
    assert isinstance(error, JobsError)
    assert "waits for the end of its own worker; expected stop() alone" in str(error)


# -- starts that fail ------------------------------------------------------------------------------


def refused(worker: Worker, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        worker.start()
    assert (worker.state, worker.join(PATIENCE)) == ("stopped", True)


def test_without_tables_it_does_not_start(jobs: Jobs[Job], empty_database: Database) -> None:
    refused(Worker(jobs, empty_database.engine), SchemaError, "sqla_jobs")


def test_without_a_database_it_does_not_start(jobs: Jobs[Job], database: Database) -> None:
    engine = create_engine(database.url.set(database="sqla_jobs_is_not_there"))
    refused(Worker(jobs, engine), OperationalError, "does not exist")


@pytest.mark.parametrize("name", ["-1", "-2", "-heartbeats", "-ticks"])
def test_without_another_thread_it_does_not_start(
    jobs: Jobs[Job], database: Database, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    start, before = threading.Thread.start, set(threading.enumerate())

    def no_more_threads(thread: threading.Thread) -> None:
        if thread.name.startswith("sqla_jobs-") and thread.name.endswith(name):
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", no_more_threads)
    refused(Worker(jobs, database.engine, threads=2, poll_interval=SOON), RuntimeError, "new thread")
    assert database.scalar(WORKERS) == 0
    left = set(threading.enumerate()) - before
    assert not [thread.name for thread in left if thread.name.startswith("sqla_jobs-")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("duty", ["keep_beating", "keep_ticking"])
def test_without_its_upkeep_it_stops(
    jobs: Jobs[Job], database: Database, duty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without heartbeats others would take its jobs, without ticks nothing would become due."""
    from sqla_jobs.worker.upkeep import Upkeep

    def ends(_: Upkeep) -> None:
        raise SystemExit

    monkeypatch.setattr(Upkeep, duty, ends)
    worker = Worker(jobs, database.engine).start()
    assert worker.join(PATIENCE)
    assert (worker.state, database.scalar(WORKERS)) == ("stopped", 0)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"queues": "mail"}, InvalidOption, r"queues is the text 'mail'; .*\['mail'\]"),
        ({"queues": ["a b"]}, InvalidQueueName, "'a b'"),
        ({"threads": 0}, InvalidOption, "threads is 0"),
        ({"threads": True}, InvalidOption, "threads is True"),
        ({"poll_interval": timedelta(0)}, InvalidOption, "poll_interval is .*; expected a timedelta above"),
        ({"poll_interval": 1.0}, InvalidOption, "poll_interval is 1.0"),
        ({"poll_interval": timedelta.max}, InvalidOption, "at most a day"),
        ({"heartbeat_interval": timedelta(0)}, InvalidOption, "heartbeat_interval is"),
        ({"heartbeat_limit": 19 * SECOND}, InvalidOption, "at least twice the heartbeat_interval"),
        ({"heartbeat_limit": None}, InvalidOption, "heartbeat_limit is None"),
    ],
)
def test_options_out_of_their_range_are_refused(
    jobs: Jobs[Job], database: Database, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        Worker(jobs, database.engine, **options)


def test_it_needs_something_to_make_sessions_with(database: Database) -> None:
    with pytest.raises(ConfigurationError, match=r"Worker\(jobs, engine\), or Jobs\(sessionmaker=…\)"):
        Worker(Jobs())
    assert Worker(Jobs(sessionmaker=database.sessionmaker)).state == "new"


# -- what it runs ----------------------------------------------------------------------------------


@pytest.fixture
def working(jobs: Jobs[Job], database: Database, told: Told) -> Iterator[Worker]:
    with Worker(jobs, database.engine, threads=2, poll_interval=SOON, **told.hooks) as worker:
        yield worker


def test_a_row_from_raw_sql_is_run(jobs: Jobs[Job], database: Database, told: Told, working: Worker) -> None:
    @jobs.task(name="shop.send")
    def send(session: Session, order_id: int) -> None:
        leave_effect(session)

    database.execute("""INSERT INTO sqla_jobs (task, arguments) VALUES ('shop.send', '{"order_id": 7}')""")
    finished = told.next()
    assert (finished.state, dict(finished.job.arguments)) == (JobState.SUCCEEDED, {"order_id": 7})


def test_a_job_for_later_and_a_retry_run_when_they_are_due(
    jobs: Jobs[Job], database: Database, told: Told, working: Worker
) -> None:
    attempts = []

    @jobs.task(name="t", retry=AT_ONCE)
    def twice(session: Session) -> None:
        attempts.append(current_job().attempt)
        if len(attempts) == 1:
            raise ValueError("not yet")

    enqueue(database, twice.using(delay=timedelta(milliseconds=50)).job())
    first, second = told.take(2)
    assert (first.state, second.state) == (JobState.SCHEDULED, JobState.SUCCEEDED)
    assert attempts == [1, 2]
    (row,) = database.rows("SELECT run_at - created_at AS delay, attempt FROM sqla_jobs")
    assert (row.delay >= timedelta(milliseconds=50), row.attempt) == (True, 2)


@pytest.mark.parametrize("threads", [1, 4])
def test_so_many_jobs_run_at_once_as_there_are_threads(
    jobs: Jobs[Job], database: Database, told: Told, threads: int
) -> None:
    together = threading.Barrier(threads)

    @jobs.task(name="t")
    def meet(session: Session) -> None:
        leave_effect(session)
        together.wait(PATIENCE)  # passed only if so many jobs are in here at the same time

    expected = enqueue(database, *[meet.job() for _ in range(5 * threads)])
    with Worker(jobs, database.engine, threads=threads, poll_interval=SOON, **told.hooks):
        finished = told.take(len(expected))
    assert {each.state for each in finished} == {JobState.SUCCEEDED}
    assert sorted(each.job.id for each in finished) == expected
    counted = database.rows("SELECT count(*), count(DISTINCT job_id) FROM effects")
    assert list(counted) == [(len(expected), len(expected))]


@pytest.mark.parametrize(
    ("queues", "expected"),
    [(["c", "a"], ["c1", "c2", "a1", "a2"]), (None, ["a1", "b1", "c1", "a2", "b2", "c2"])],
)
def test_queues_are_served_in_strict_order_or_all_as_they_arrived(
    jobs: Jobs[Job], database: Database, told: Told, queues: list[str] | None, expected: list[str]
) -> None:
    ran = []

    @jobs.task(name="t")
    def note(session: Session, name: str) -> None:
        ran.append(name)

    for number in (1, 2):
        for queue in "abc":
            enqueue(database, note.using(queue=queue).job(f"{queue}{number}"))
    with Worker(jobs, database.engine, queues=queues, poll_interval=SOON, **told.hooks):
        told.take(len(expected))
    assert ran == expected


def test_a_job_that_was_taken_from_one_of_its_threads_may_run_in_the_other(
    jobs: Jobs[Job], database: Database, told: Told, working: Worker
) -> None:
    begun: list[threading.Event] = []
    both = threading.Barrier(2)

    @jobs.task(name="t")
    def hold(session: Session) -> None:
        leave_effect(session)
        begun.append(may_end := threading.Event())
        entered.release()
        assert may_end.wait(PATIENCE)

    @jobs.task(name="meet")
    def meet(session: Session) -> None:
        both.wait(PATIENCE)

    entered = threading.Semaphore(0)
    (job,) = enqueue(database, hold.job())
    assert entered.acquire(timeout=PATIENCE)
    database.execute("UPDATE sqla_jobs SET state = 'queued', worker_id = NULL")  # as a rescue does
    assert entered.acquire(timeout=PATIENCE)
    begun[0].set()  # it was lost, which nobody is told of
    begun[1].set()
    assert told.next().state is JobState.SUCCEEDED
    assert database.scalar("SELECT count(*) FROM effects WHERE job_id = :id", id=job) == 1

    enqueue(database, meet.job(), meet.job())
    assert [each.state for each in told.take(2)] == [JobState.SUCCEEDED] * 2, "both threads are there still"


def test_what_has_ended_is_told_with_the_job_as_it_was(
    jobs: Jobs[Job], database: Database, told: Told, working: Worker
) -> None:
    @jobs.task(name="t", queue="mail")
    def fail(session: Session, order: int) -> None:
        raise ValueError(order)

    (job,) = enqueue(database, fail.using(max_attempts=1).job(7))
    finished = told.next()
    assert isinstance(finished, Finished)
    assert (finished.job.id, finished.job.task, finished.job.queue) == (job, "t", "mail")
    assert (finished.job.attempt, finished.job.max_attempts) == (1, 1)
    assert finished.job.arguments == {"order": 7}
    assert (finished.state, str(finished.error), finished.run_at) == (JobState.FAILED, "7", None)


def test_idle_polls_send_no_more_than_a_claim(jobs: Jobs[Job], database: Database) -> None:
    sent: list[str] = []
    polled = threading.Semaphore(0)

    def note(*args: Any) -> None:
        if threading.current_thread().name.endswith("-1"):
            sent.append(args[2].split()[0])
            polled.release()

    event.listen(database.engine, "before_cursor_execute", note)
    with Worker(jobs, database.engine, poll_interval=SOON):
        for _ in range(5):
            assert polled.acquire(timeout=PATIENCE)
    assert set(sent) == {"WITH"}
