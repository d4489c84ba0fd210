"""Behind PgBouncer in transaction mode: prepared statements off, poll-only, judged by heartbeat alone."""

from __future__ import annotations

import logging
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Job, Jobs, JobState, Worker, current_job
from sqla_jobs.errors import WorkerDied
from tests.support.lane import AT_ONCE, NEVER, leave_effect
from tests.support.models import Item
from tests.support.pgbouncer import PgBouncer, installed, running_pgbouncer
from tests.support.program import Program
from tests.support.server import Database, Server
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON, drain

pytestmark = pytest.mark.skipif(installed() is None, reason="pgbouncer is not installed")

PROGRAM = dedent("""
    import logging, os
    from datetime import timedelta
    from sqlalchemy import create_engine
    from sqla_jobs import Worker
    from tests.test_pgbouncer import application

    logging.basicConfig(level="INFO", format="%(message)s")
    Worker(
        application(),
        create_engine(os.environ["DATABASE_URL"], connect_args={"prepare_threshold": None}),
        threads=2,
        poll_interval=timedelta(milliseconds=20),
        heartbeat_interval=timedelta(milliseconds=200),
        heartbeat_limit=timedelta(seconds=1),
    ).run()
""")

GATE = 4712
"""An advisory lock that the job `hold` waits for."""

ADVISORY_LOCKS = """
    SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database
    WHERE locktype = 'advisory' AND datname = current_database()
"""


def application(**options: Any) -> Jobs[Job]:
    """The tasks of both sides, the process that is killed and the workers in the test."""
    jobs: Jobs[Job] = Jobs(**{"notify": False, **options})

    @jobs.task(name="quick", retry=AT_ONCE)
    def quick(session: Session) -> None:
        leave_effect(session)

    @jobs.task(name="hold", retry=AT_ONCE)
    def hold(session: Session) -> None:
        leave_effect(session)
        session.flush()
        logging.getLogger("app").info("holding job %s", current_job().id)
        session.execute(text(f"SELECT pg_advisory_xact_lock_shared({GATE})"))

    return jobs


@pytest.fixture(scope="module")
def pgbouncer(server: Server) -> Iterator[PgBouncer]:
    with running_pgbouncer(server) as running:
        yield running


@pytest.fixture
def engine(pgbouncer: PgBouncer, database: Database) -> Iterator[Engine]:
    """The test's database, through PgBouncer."""
    engine = pgbouncer.engine(database.name)
    yield engine
    engine.dispose()


@pytest.fixture
def app() -> Jobs[Job]:
    return application()


def enqueue(engine: Engine, jobs: Jobs[Job], task: str, number: int = 1, **options: Any) -> list[int]:
    with Session(engine) as session, session.begin():
        return [jobs.using(**options).enqueue(session, task).id for _ in range(number)]


def effects(database: Database) -> Counter[int]:
    rows = database.rows("SELECT job_id, count(*) FROM effects GROUP BY job_id")
    return Counter({row[0]: row[1] for row in rows})


def states(database: Database) -> dict[str, int]:
    return {row[0]: row[1] for row in database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY state")}


def test_its_clients_share_connections_to_the_server(engine: Engine) -> None:
    """Or nothing here would prove anything: what one client leaves in its session, another one finds."""
    ask = text("SELECT pg_backend_pid()")
    with engine.connect() as one, engine.connect() as other:
        first = one.scalar(ask)
        one.commit()
        assert other.scalar(ask) == first
        assert one.scalar(ask) != first, "it is taken for the length of a transaction"


def test_four_threads_run_each_job_once(engine: Engine, database: Database, app: Jobs[Job]) -> None:
    jobs = enqueue(engine, app, "quick", 200)
    ended = drain(app, database, sessions=engine, threads=4)
    assert Counter(end.state for end in ended) == {JobState.SUCCEEDED: 200}
    assert effects(database) == Counter(jobs)


def test_an_enqueue_that_is_rolled_back_never_was(engine: Engine, database: Database, app: Jobs[Job]) -> None:
    with Session(engine) as session:
        app.enqueue(session, "quick")
        session.rollback()
    assert drain(app, database, sessions=engine) == []
    assert states(database) == {}


def test_a_failed_job_leaves_nothing_behind(engine: Engine, database: Database, app: Jobs[Job]) -> None:
    @app.task(name="fail", retry=NEVER)
    def fail(session: Session) -> None:
        leave_effect(session)
        session.commit()  # as far as its savepoint
        leave_effect(session)
        session.flush()
        raise ValueError("no")

    enqueue(engine, app, "fail")
    (end,) = drain(app, database, sessions=engine)
    assert (end.state, str(end.error)) == (JobState.FAILED, "no")
    assert effects(database) == Counter()
    assert states(database) == {"failed": 1}


def test_a_job_survives_an_error_that_it_catches(engine: Engine, database: Database, app: Jobs[Job]) -> None:
    @app.task(name="careful", retry=NEVER)
    def careful(session: Session) -> None:
        leave_effect(session)
        for _ in range(2):
            try:
                with session.begin_nested():
                    session.add(Item(name="the same"))
            except IntegrityError:
                caught.append(session.scalar(text("SELECT count(*) FROM items")))

    caught: list[Any] = []
    jobs = enqueue(engine, app, "careful")
    (end,) = drain(app, database, sessions=engine)
    assert (end.state, caught) == (JobState.SUCCEEDED, [1])
    assert effects(database) == Counter(jobs)
    assert database.scalar("SELECT count(*) FROM items") == 1


def test_work_once_belongs_to_the_callers_transaction(
    engine: Engine, database: Database, app: Jobs[Job]
) -> None:
    jobs = enqueue(engine, app, "quick", 2)
    with Session(engine) as session:
        for _ in range(2):  # the first is undone, and is next again
            finished = app.work_once(session)
            assert finished is not None
            assert (finished.state, finished.job.id) == (JobState.SUCCEEDED, jobs[0])
            session.rollback()
        app.work_once(session)
        session.commit()
    assert effects(database) == Counter(jobs[:1])
    assert states(database) == {"succeeded": 1, "queued": 1}


def test_a_worker_that_would_listen_notices_it_and_polls(
    engine: Engine, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Its lock would be that of a connection to the server that is anybody's in the next moment."""
    jobs, told, said = application(notify="transaction"), Told(), threading.Event()
    listening = logging.Handler()
    listening.emit = lambda record: said.set() if "pooler" in record.msg else None  # type: ignore[method-assign]
    logging.getLogger("sqla_jobs").addHandler(listening)
    try:
        with Worker(jobs, engine, poll_interval=SOON, **told.hooks):
            assert said.wait(PATIENCE)
            (job,) = enqueue(engine, jobs, "quick")
            assert told.next().state is JobState.SUCCEEDED
            assert database.rows("SELECT locked FROM sqla_jobs_workers") == [(False,)]
            assert database.scalar(ADVISORY_LOCKS) == 0
    finally:
        logging.getLogger("sqla_jobs").removeHandler(listening)
    assert effects(database) == Counter([job])
    assert sum("connection pooler" in each.getMessage() for each in caplog.records) == 1


@pytest.mark.parametrize("rescuer", ["behind it", "direct"])
def test_the_job_of_a_killed_worker_is_rescued_by_heartbeat(
    engine: Engine, pgbouncer: PgBouncer, database: Database, app: Jobs[Job], tmp_path: Path, rescuer: str
) -> None:
    """By one that has no lock itself, and by one that has: there is no lock of the dead one to look at."""
    told = Told()
    (job,) = enqueue(engine, app, "hold")
    with database.engine.connect() as gate:
        gate.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        url = pgbouncer.url(database.name).render_as_string()
        with Program("-c", PROGRAM, folder=tmp_path, environment={"DATABASE_URL": url}) as killed:
            killed.wait_for(f"holding job {job}")
            killed.send(signal.SIGKILL)
            killed.wait()
    direct = rescuer == "direct"
    with Worker(
        application(notify="transaction") if direct else app,
        database.engine if direct else engine,
        poll_interval=SOON,
        heartbeat_interval=timedelta(milliseconds=50),
        heartbeat_limit=timedelta(seconds=1),
        **told.hooks,
    ):
        died, succeeded = told.take(2)
    assert isinstance(died.error, WorkerDied)
    assert (died.state, succeeded.state) == (JobState.SCHEDULED, JobState.SUCCEEDED)
    assert effects(database) == Counter([job])
    assert database.rows("SELECT attempt, claim, crashes FROM sqla_jobs") == [(2, 2, 1)]


def test_no_job_runs_twice_beside_a_worker_with_a_direct_connection(
    engine: Engine, database: Database, app: Jobs[Job]
) -> None:
    """The one that has locks looks for dead workers all the time, and leaves the living one its job.

    The one behind PgBouncer runs a job for many such looks, and for longer than the other's limit.
    """
    (held,) = enqueue(engine, app, "hold", queue="pooled")
    told = Told()
    direct_engine = create_engine(database.url)
    jobs: list[int] = []
    with database.engine.connect() as gate:
        gate.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        pooled = Worker(
            app,
            engine,
            queues=["pooled", "both"],
            threads=3,
            poll_interval=SOON,
            heartbeat_interval=timedelta(milliseconds=100),
            heartbeat_limit=timedelta(seconds=1),
            **told.hooks,
        )
        direct = Worker(
            application(notify="transaction"),
            sessionmaker(direct_engine),
            queues=["both"],
            threads=3,
            poll_interval=SOON,
            heartbeat_interval=timedelta(milliseconds=50),
            heartbeat_limit=timedelta(seconds=1),
            **told.hooks,
        )
        with pooled, direct:
            until(database, f"SELECT state = 'running' FROM sqla_jobs WHERE id = {held}")
            until(database, "SELECT array_agg(locked ORDER BY locked) = '{f,t}' FROM sqla_jobs_workers")
            since = database.scalar("SELECT clock_timestamp()")
            while database.scalar("SELECT clock_timestamp() - :since < '3 s'", since=since):
                jobs += enqueue(engine, app, "quick", 10, queue="both")
                for end in told.take(10):
                    assert end.state is JobState.SUCCEEDED, end.error
            gate.rollback()
            assert told.next().job.id == held
    direct_engine.dispose()
    assert effects(database) == Counter([held, *jobs])
    assert states(database) == {"succeeded": len(jobs) + 1}
    assert database.rows("SELECT DISTINCT attempt, claim, crashes FROM sqla_jobs") == [(1, 1, 0)]
    assert told.silent
