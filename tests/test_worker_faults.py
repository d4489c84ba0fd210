"""A worker whose database goes away, whose pool is empty, whose row is taken: it goes on."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import Session

import sqla_jobs
from sqla_jobs import Job, Jobs, JobState, Worker
from sqla_jobs.runner import Runner
from sqla_jobs.worker.crew import Crew
from sqla_jobs.worker.registration import Registration
from sqla_jobs.worker.upkeep import Upkeep
from tests.support.lane import AT_ONCE, leave_effect, logged, persist, register
from tests.support.models import Base
from tests.support.proxy import Proxy, proxy
from tests.support.server import Database, Server, embedded_package, embedded_server, fresh_database
from tests.support.told import Told
from tests.support.waiting import blocked, until
from tests.support.work import PATIENCE, SOON

OFTEN = timedelta(milliseconds=50)
WORKERS = "SELECT count(*) FROM sqla_jobs_workers"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def between(database: Database) -> Iterator[Proxy]:
    with proxy(database) as between:
        yield between


@pytest.fixture
def remote(between: Proxy) -> Iterator[Any]:
    """An engine whose connections can be cut."""
    engine = between.engine()
    yield engine
    engine.dispose()


def worker(jobs: Jobs[Job], engine: Any, told: Told, **options: Any) -> Worker:
    chosen = {"poll_interval": SOON, "heartbeat_interval": OFTEN, "heartbeat_limit": 40 * OFTEN}
    return Worker(jobs, engine, **{**chosen, **told.hooks, **options})


def enqueue(database: Database, *jobs: Job) -> list[int]:
    with database.sessionmaker.begin() as session:
        session.add_all(jobs)
        session.flush()
        return [job.id for job in jobs]


def records(caplog: pytest.LogCaptureFixture, text: str) -> list[str]:
    return [message for message in logged(caplog) if text in message]


def until_logged(caplog: pytest.LogCaptureFixture, text: str) -> None:
    deadline, pause = time.monotonic() + PATIENCE, threading.Event()
    while not records(caplog, text):
        assert time.monotonic() < deadline, f"not logged: {text}"
        pause.wait(0.01)


# -- outages ---------------------------------------------------------------------------------------


def test_while_the_database_is_away_it_goes_on_asking(
    jobs: Jobs[Job], database: Database, between: Proxy, remote: Any, told: Told, caplog: Any
) -> None:
    runs, outage = threading.Event(), threading.Event()

    @jobs.task(name="t")
    def hold(session: Session) -> None:
        runs.set()
        assert outage.wait(PATIENCE)

    quick = jobs.task(name="quick")(leave_effect)
    with worker(jobs, remote, told, threads=2):
        enqueue(database, hold.job())
        assert runs.wait(PATIENCE)
        between.refuse()
        enqueue(database, quick.job())
        outage.set()
        until_logged(caplog, "claiming a job failed (2 in a row), trying again")
        until_logged(caplog, "recording an outcome failed (1 in a row), trying again")
        between.admit()
        finished = told.take(2)
    assert [each.state for each in finished] == [JobState.SUCCEEDED] * 2
    (counted,) = database.rows("SELECT min(attempt), max(attempt), sum(crashes) FROM sqla_jobs")
    assert counted == (1, 1, 0)
    assert all(record.exc_info is None for record in caplog.records), "an outage brings no tracebacks"


@pytest.mark.parametrize("carried_out", [False, True])
def test_a_connection_lost_in_the_claim(
    jobs: Jobs[Job], database: Database, between: Proxy, remote: Any, told: Told, carried_out: bool
) -> None:
    """Carried out, the job runs under this worker without its knowing: the heartbeats find it out."""
    (job,) = enqueue(database, jobs.task(name="t")(leave_effect).job())
    between.lose("WITH picked", carried_out=carried_out)
    with worker(jobs, remote, told):
        finished = told.next()
    assert (finished.state, finished.job.attempt) == (JobState.SUCCEEDED, 1)
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert (row.id, row.attempt, row.claim, row.crashes) == (job, 1, 2 if carried_out else 1, 0)
    assert [each["error"] for each in row.attempts] == (["given back"] if carried_out else [])
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_a_worker_that_stops_while_the_database_is_away_gives_up_in_the_end(
    jobs: Jobs[Job], database: Database, between: Proxy, remote: Any, told: Told, caplog: Any
) -> None:
    runs, outage = threading.Event(), threading.Event()

    @jobs.task(name="t", retry=AT_ONCE)
    def hold(session: Session) -> None:
        leave_effect(session)
        runs.set()
        assert outage.wait(PATIENCE)

    enqueue(database, hold.job())
    stopped = worker(jobs, remote, told, heartbeat_limit=10 * OFTEN).start()
    assert runs.wait(PATIENCE)
    between.refuse()
    stopped.stop()
    outage.set()
    assert stopped.join(PATIENCE)
    assert (stopped.state, told.silent) == ("stopped", True)
    assert records(caplog, "its outcome could not be recorded")
    assert records(caplog, "saying goodbye failed")
    assert database.scalar("SELECT state FROM sqla_jobs") == "running", "to be rescued by another worker"

    with worker(jobs, database.engine, told):
        assert [each.state for each in told.take(2)] == [JobState.SCHEDULED, JobState.SUCCEEDED]
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_a_server_that_is_restarted_under_workers(jobs: Jobs[Job], told: Told) -> None:
    task = jobs.task(name="t", retry=AT_ONCE)(leave_effect)
    with embedded_server() as server, closing_admin(server), fresh_database(server, "restart") as database:
        sqla_jobs.metadata.create_all(database.engine)
        Base.metadata.create_all(database.engine)
        handle = embedded_package().get_server(database.scalar("SHOW data_directory"))
        expected = enqueue(database, *[task.job() for _ in range(300)])
        patient = {"threads": 3, "heartbeat_limit": timedelta(minutes=1)}
        with worker(jobs, database.engine, told, **patient), worker(jobs, database.engine, told, **patient):
            told.take(30)
            handle.stop()
            handle.start()
            server.admin.dispose()
            after = Database(server, database.name)  # with connections of its own
            until(after, "SELECT count(*) = 0 FROM sqla_jobs WHERE state <> 'succeeded'")
        effects = Counter(number for (number,) in after.rows("SELECT job_id FROM effects"))
        assert effects == dict.fromkeys(expected, 1)
        assert after.scalar("SELECT sum(crashes) FROM sqla_jobs") == 0, "the living are not robbed"
        after.dispose()


@contextmanager
def closing_admin(server: Server) -> Iterator[None]:
    try:
        yield
    finally:
        server.admin.dispose()


def test_a_pool_without_a_free_connection(
    jobs: Jobs[Job], database: Database, told: Told, caplog: Any
) -> None:
    engine = create_engine(database.url, pool_size=2, max_overflow=0, pool_timeout=0.05)
    task = jobs.task(name="t")(leave_effect)
    with worker(jobs, engine, told, heartbeat_limit=timedelta(minutes=1)):
        taken: list[Any] = []
        while len(taken) < 2:
            with suppress(PoolTimeout):  # until it is got between two of the worker's own uses
                taken.append(engine.connect())
        enqueue(database, task.job())
        until(database, "SELECT pg_sleep(0.2) IS NOT NULL")  # some polls that find no connection
        assert records(caplog, "claiming a job failed (1 in a row)")
        for each in taken:
            each.close()
        assert told.next().state is JobState.SUCCEEDED
    engine.dispose()


# -- heartbeats ------------------------------------------------------------------------------------


def beats_on(database: Database, whose: str = "true") -> None:
    """Wait for two more heartbeats of the one worker that is meant."""
    beat = f"SELECT extract(epoch FROM heartbeat_at) {{}} FROM sqla_jobs_workers WHERE {whose}"
    for _ in range(2):
        until(database, beat.format(f"> {database.scalar(beat.format(''))}"))


def test_the_row_shows_what_runs_and_since_when(jobs: Jobs[Job], database: Database, told: Told) -> None:
    runs, may_end = threading.Event(), threading.Event()

    @jobs.task(name="t")
    def hold(session: Session) -> None:
        runs.set()
        assert may_end.wait(PATIENCE)

    (job,) = enqueue(database, hold.job())
    with worker(jobs, database.engine, told):
        assert runs.wait(PATIENCE)
        until(database, "SELECT jsonb_array_length(running) = 1 FROM sqla_jobs_workers")
        (shown,) = database.scalar("SELECT running FROM sqla_jobs_workers")
        assert (shown["id"], shown["task"], shown["attempt"]) == (job, "t", 1)
        assert database.scalar("SELECT CAST(:since AS timestamptz) <= now()", since=shown["since"])
        may_end.set()
        until(database, "SELECT jsonb_array_length(running) = 0 FROM sqla_jobs_workers")


def test_heartbeats_go_on_while_the_jobs_are_locked_away(
    jobs: Jobs[Job], database: Database, told: Told
) -> None:
    """A migration locks the job table: promotion and rescue wait, but nobody is to be taken for dead."""
    with worker(jobs, database.engine, told), database.engine.connect() as migration:
        migration.execute(text("LOCK TABLE sqla_jobs"))
        until(database, blocked(">= 2"))
        beats_on(database)
        migration.rollback()


def test_heartbeats_go_on_while_a_hook_takes_its_time(jobs: Jobs[Job], database: Database) -> None:
    """For a rescued job the hooks are called by the worker's own ticks."""
    called, may_end = threading.Event(), threading.Event()

    def slow(*_: object) -> None:
        called.set()
        assert may_end.wait(PATIENCE)

    database.execute("INSERT INTO sqla_jobs (task, state, attempt) VALUES ('t', 'running', 16)")
    living = worker(jobs, database.engine, Told(), on_failure=slow)
    with living:
        assert called.wait(PATIENCE)
        beats_on(database)
        may_end.set()


def test_a_worker_whose_row_is_gone_registers_anew(
    jobs: Jobs[Job], database: Database, told: Told, caplog: Any
) -> None:
    with worker(jobs, database.engine, told):
        (old,) = database.rows("SELECT id FROM sqla_jobs_workers")
        database.execute("DELETE FROM sqla_jobs_workers")
        until_logged(caplog, f"worker {old.id} was taken for dead")
        enqueue(database, jobs.task(name="t")(leave_effect).job())
        assert told.next().state is JobState.SUCCEEDED
        (new,) = database.rows("SELECT id FROM sqla_jobs_workers")
    assert new > old
    assert database.scalar("SELECT worker_id FROM sqla_jobs") == new.id
    assert database.scalar(WORKERS) == 0


def test_without_a_heartbeat_in_time_nothing_is_claimed(
    jobs: Jobs[Job], database: Database, told: Told
) -> None:
    """Others may have taken it for dead: what it claims under its old id they would take away at once."""
    idle = worker(jobs, database.engine, told, heartbeat_limit=10 * OFTEN).start()
    with database.engine.connect() as locker:
        locker.execute(text("SELECT id FROM sqla_jobs_workers FOR UPDATE"))
        until(database, "SELECT now() > heartbeat_at + 3 * heartbeat_limit FROM sqla_jobs_workers")
        enqueue(database, jobs.task(name="t")(leave_effect).job())
        for _ in range(5):
            assert not idle._parts.hands._work_once(idle._parts.hands._new_hand())
        assert database.scalar("SELECT state FROM sqla_jobs") == "queued"
        locker.rollback()
        assert told.next().state is JobState.SUCCEEDED, "and once it beats again it goes on"
    idle.stop()
    assert idle.join(PATIENCE)


# -- who may take others for dead ------------------------------------------------------------------


def registration(engine: Any, limit: timedelta) -> Registration:
    jobs = Jobs[Job]()
    runner = Runner(jobs, lambda: Session(engine), persist)
    made = Registration(runner, jobs, recurring=False, queues=None, threads=1, limit=limit)
    made.register()
    return made


def test_taken_for_dead_it_claims_nothing_until_it_has_registered_anew(database: Database) -> None:
    living = registration(database.engine, timedelta(minutes=1))
    assert living.beat([])
    assert living.is_fresh
    old = living.worker_id
    database.execute("DELETE FROM sqla_jobs_workers")
    assert not living.beat([])
    assert not living.is_fresh
    living.register()
    assert living.worker_id > old
    assert living.is_fresh


def test_after_an_outage_nobody_is_taken_for_dead_for_one_limit(
    jobs: Jobs[Job], database: Database, between: Proxy, remote: Any, told: Told
) -> None:
    """What kept this worker's heartbeats from the database has kept those of others, who live as well."""
    observer = registration(remote, timedelta(seconds=1))

    def judges() -> bool:
        return observer.may_judge

    assert not judges(), "it may have been started anew because of an outage that others live through"
    while not judges():
        assert observer.beat([])
    between.refuse()
    with pytest.raises(Exception, match="connection"):
        observer.beat([])
    between.admit()
    assert observer.beat([])
    assert observer.is_fresh
    assert not judges(), "the others shall have the time to be back"
    while not judges():
        assert observer.beat([])


def test_a_worker_that_cannot_judge_leaves_the_others_their_jobs(
    jobs: Jobs[Job], database: Database, between: Proxy, remote: Any, told: Told, caplog: Any
) -> None:
    """Two workers are cut off for longer than the limit; the first one back finds the other's row stale."""
    (job,) = enqueue(database, jobs.task(name="t", retry=AT_ONCE)(leave_effect).job())
    with worker(jobs, remote, told, queues=["none"], heartbeat_limit=timedelta(minutes=1)):
        between.refuse()
        until_logged(caplog, "the heartbeat failed")
        with database.sessionmaker.begin() as session:
            other = register(session, limit=timedelta(milliseconds=1))
        database.execute("UPDATE sqla_jobs SET state = 'running', worker_id = :other", other=other)
        between.admit()
        for _ in range(4):  # each of them with a sweep
            beats_on(database, f"id <> {other}")
        assert database.scalar("SELECT worker_id FROM sqla_jobs WHERE id = :id", id=job) == other
        assert database.scalar(WORKERS) == 2


# -- ticks -----------------------------------------------------------------------------------------


def test_a_due_job_that_somebody_holds_is_not_asked_for_without_pause(
    jobs: Jobs[Job], database: Database
) -> None:
    runner = Runner(jobs, database.sessionmaker, persist)
    upkeep = Upkeep(Crew(), None, runner, jobs, poll=5.0, beat=1.0, announce=print)  # type: ignore[arg-type]
    enqueue(database, Job(task="t", state="scheduled"))
    with database.engine.connect() as holder:
        holder.execute(text("SELECT id FROM sqla_jobs FOR UPDATE"))
        assert upkeep._look() == 5.0
        holder.rollback()
    enqueue(database, Job(task="t", state="scheduled", run_at=text("now() + interval '2 seconds'")))
    assert 0 < upkeep._look() <= 2.0, "it sleeps exactly until the next one is due"
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'queued'") == 1


def test_hooks_are_told_of_jobs_that_were_rescued_and_may_not_end_the_ticks(
    jobs: Jobs[Job], database: Database, caplog: Any
) -> None:
    told = Told()

    def leave(w: Worker, finished: Any) -> None:
        told.on_finish(w, finished)
        raise SystemExit

    database.execute("INSERT INTO sqla_jobs (task, state, attempt) VALUES ('t', 'running', 16)")
    living = worker(jobs, database.engine, told, on_finish=leave)
    with living:
        finished = told.next()
        assert (finished.state, finished.failed) == (JobState.FAILED, True)
        beats_on(database)
        assert living.state == "running"
    assert records(caplog, "a hook raised SystemExit outside a worker thread; ignored")
    assert told.calls == [("failure", 1), ("finish", 1)]
