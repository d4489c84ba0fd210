"""What Backtick's runtime does, by the numbers of its behaviours: reproduced, or improved where it says."""

from __future__ import annotations

import datetime as dt
import inspect
import logging
import threading
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy import inspect as look_into
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Worker, current_job, migrations
from sqla_jobs.cli import database as cli_database
from sqla_jobs.cli import main
from sqla_jobs.errors import ConfigurationError, JobTimeout
from tests.support.lane import leave_effect
from tests.support.program import run
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, SOON, Recorder, drain

NEXT_WEEK = dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=7)


@pytest.fixture
def app() -> Recorder:
    return Recorder()


def worker_default(option: str) -> object:
    return inspect.signature(Worker).parameters[option].default


def command_line_default(option: str) -> object:
    (found,) = [param for param in main.commands["worker"].params if param.name == option]
    return found.default


# -- cancel and timeout ----------------------------------------------------------------------------


def test_k07_cancel_all_cancels_what_waits_and_leaves_what_runs(database: Database, app: Recorder) -> None:
    """Queued and future jobs alike; nobody claims them afterwards. Improved: or of one queue or task."""
    started, go_on = threading.Event(), threading.Event()

    @app.jobs.task(name="hold", priority=1)
    def hold(session: Session) -> None:
        leave_effect(session)
        started.set()
        assert go_on.wait(PATIENCE)

    told = Told()
    with database.sessionmaker.begin() as session:
        running = hold.enqueue(session).id
        for number in range(3):
            app.record.enqueue(session, f"queued {number}")
            app.record.using(delay=dt.timedelta(days=number + 1)).enqueue(session, f"future {number}")
    with Worker(app.jobs, database.engine, poll_interval=SOON, **told.hooks):
        assert started.wait(PATIENCE)
        with database.sessionmaker.begin() as session:
            assert app.jobs.cancel_all(session) == 6
        with database.sessionmaker.begin() as session:
            assert app.jobs.cancel_all(session) == 0
            later = app.record.enqueue(session, "later").id
        go_on.set()
        assert [each.job.id for each in told.take(2)] == [running, later]
    assert app.ran == ["later"]
    assert told.silent
    counted = database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY state ORDER BY state")
    assert counted == [("cancelled", 6), ("succeeded", 2)]
    with Session(database.engine) as session:
        assert app.jobs.work_once(session, now=NEXT_WEEK) is None


@pytest.mark.parametrize("attempts", [1, 2])
def test_k12_an_exception_is_logged_and_the_job_is_tried_again_or_has_failed(
    database: Database, app: Recorder, caplog: pytest.LogCaptureFixture, attempts: int
) -> None:
    policy = RetryPolicy(max_attempts=2, base=dt.timedelta(0))

    @app.jobs.task(name="broken", retry=policy)
    def broken(session: Session) -> None:
        raise ValueError(f"attempt {current_job().attempt}")

    with database.sessionmaker.begin() as session:
        broken.using(max_attempts=attempts).enqueue(session)
    ends = drain(app.jobs, database)
    assert [end.state for end in ends] == [*["scheduled"] * (attempts - 1), "failed"]
    logged = [
        (each.levelname, each.getMessage().rpartition(": ")[2]) for each in caplog.records if each.exc_info
    ]
    told = [("WARNING", "attempt 1"), ("ERROR", "attempt 2")]
    assert logged == (told if attempts == 2 else [("ERROR", "attempt 1")])


def test_k12_a_job_that_takes_too_long_is_interrupted_logged_and_tried_again(
    database: Database, app: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Improved: nothing that it wrote is left, the timeout is a task's own, and there is none by default."""
    runs: list[int] = []

    @app.jobs.task(name="slow", timeout=dt.timedelta(seconds=1), retry=RetryPolicy(base=dt.timedelta(0)))
    def slow(session: Session) -> None:
        runs.append(current_job().attempt)
        leave_effect(session)
        if len(runs) == 1:
            session.execute(text("SELECT pg_sleep(3600)"))

    with database.sessionmaker.begin() as session:
        slow.enqueue(session)
    first, second = drain(app.jobs, database)
    assert (first.state, type(first.error)) == (JobState.SCHEDULED, JobTimeout)
    assert (second.state, runs) == (JobState.SUCCEEDED, [1, 2])
    assert database.scalar("SELECT count(*) FROM effects") == 1
    assert any("JobTimeout" in each.getMessage() and each.exc_info for each in caplog.records)
    assert app.record.timeout is None


# -- start and stop --------------------------------------------------------------------------------


def test_k26_a_stop_waits_for_what_runs_and_sixteen_may_run_at_once(database: Database) -> None:
    """Improved: which queues, and in which order, is the worker's to say; its default is any."""
    jobs = Jobs[Job]()
    together, go_on = threading.Barrier(16 + 1), threading.Event()

    @jobs.task(name="meet")
    def meet(session: Session) -> None:
        leave_effect(session)
        together.wait(PATIENCE)
        assert go_on.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        for _ in range(16 + 3):
            meet.enqueue(session)
    worker = Worker(jobs, database.engine, queues=["default"], threads=16, poll_interval=SOON)
    worker.start()
    together.wait(PATIENCE)
    worker.stop()
    assert not worker.join(timeout=0), "sixteen jobs are running"
    go_on.set()
    assert worker.join(PATIENCE)
    counted = database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY state ORDER BY count(*)")
    assert counted == [("queued", 3), ("succeeded", 16)]
    assert database.scalar("SELECT count(*) FROM effects") == 16


def test_k26_several_workers_may_run_on_one_queue_and_on_their_own(database: Database, app: Recorder) -> None:
    with database.sessionmaker.begin() as session:
        for number in range(60):
            app.record.using(queue=("both", "one", "other")[number % 3]).enqueue(session, str(number))
    told = Told()
    with (
        Worker(app.jobs, database.engine, queues=["both", "one"], poll_interval=SOON, **told.hooks),
        Worker(app.jobs, database.engine, queues=["both", "other"], poll_interval=SOON, **told.hooks),
    ):
        told.take(60)
    assert Counter(app.ran) == Counter(str(number) for number in range(60))
    ran_by = "SELECT count(DISTINCT worker_id) FROM sqla_jobs WHERE queue = :queue"
    assert [database.scalar(ran_by, queue=queue) for queue in ("one", "other")] == [1, 1]
    assert database.scalar("SELECT count(DISTINCT worker_id) FROM sqla_jobs WHERE queue <> 'both'") == 2


@pytest.fixture
def served(database: Database) -> Engine:
    """An engine whose connections can be told from all others."""
    return create_engine(database.url, connect_args={"application_name": "served"}, pool_size=10)


def test_k26_an_error_of_the_database_while_polling_is_logged_and_polling_goes_on(
    database: Database, served: Engine, app: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    said = threading.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "claiming a job failed" in record.getMessage():
                said.set()

    told, handler = Told(), Listening()
    logging.getLogger("sqla_jobs").addHandler(handler)
    try:
        with Worker(app.jobs, served, threads=2, poll_interval=SOON, **told.hooks):
            while not said.is_set():  # a connection may have been between two polls, out of the pool
                database.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'served'"
                )
                said.wait(0.1)
            with database.sessionmaker.begin() as session:
                app.record.enqueue(session, "after")
            assert told.next().state is JobState.SUCCEEDED
    finally:
        logging.getLogger("sqla_jobs").removeHandler(handler)
        served.dispose()
    assert app.ran == ["after"]


def test_k26_an_idle_worker_looks_each_second() -> None:
    second = dt.timedelta(seconds=1)
    assert worker_default("poll_interval") == second
    assert command_line_default("poll_interval") == second.total_seconds()


# -- configuration ---------------------------------------------------------------------------------


def test_k27_defaults() -> None:
    """Backtick's, but for these: one thread (its pool 16), and no timeout (its 5 s) unless a task asks.

    Its revive-check each 5 minutes is a sweep with each heartbeat.
    """
    policy = RetryPolicy()
    assert (policy.max_attempts, policy.base) == (16, dt.timedelta(seconds=10))
    assert worker_default("threads") == command_line_default("threads") == 1
    for option, seconds in {"poll_interval": 1, "heartbeat_interval": 10, "heartbeat_limit": 30}.items():
        assert worker_default(option) == dt.timedelta(seconds=seconds)
        assert command_line_default(option) == seconds


def test_k27_the_databases_url_is_the_librarys_own_variable_or_else_the_usual_one() -> None:
    def chosen(**environment: str) -> str | None:
        found = cli_database.choose(None, environment)
        return None if found is None else found.url.database

    own, usual = "postgresql://a@h/own", "postgresql://a@h/usual"
    assert chosen(SQLA_JOBS_DATABASE_URL=own, DATABASE_URL=usual) == "own"
    assert chosen(DATABASE_URL=usual) == "usual"
    assert chosen(SQLA_JOBS_DATABASE_URL="", DATABASE_URL=usual) == "usual"
    assert chosen() is None
    with pytest.raises(ConfigurationError, match="DATABASE_URL is not a database URL; expected postgresql:"):
        chosen(DATABASE_URL="not a url")


def test_k27_without_any_url_a_worker_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text("from sqla_jobs import Jobs\njobs = Jobs()\n")
    program = run("worker", "shop:jobs", folder=tmp_path)
    assert program.code == 2
    assert "no database is named" in program.errors


# -- migrations ------------------------------------------------------------------------------------


def test_k28_every_revision_can_be_taken_back(empty_database: Database) -> None:
    """Step by step, and up again. Improved: Backtick's last one cannot."""

    def objects() -> set[str]:
        tables = set(look_into(empty_database.engine).get_table_names())
        functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        return tables | {name for (name,) in empty_database.rows(functions)}

    steps = [f"{number:04}" for number in range(1, int(migrations.head()) + 1)]
    seen = [objects()]
    for step in steps:
        migrations.migrate(empty_database.engine, to=step)
        seen.append(objects())
    assert seen[0] == set()
    for step, expected in zip([*reversed(steps[:-1]), "base"], reversed(seen[:-1]), strict=True):
        migrations.migrate(empty_database.engine, to=step)
        assert objects() == expected
    migrations.migrate(empty_database.engine)
    assert objects() == seen[-1]


def test_k28_an_upgrade_keeps_every_job_and_only_a_confirmed_downgrade_drops_them(
    empty_database: Database, tmp_path: Path
) -> None:
    """Improved: Backtick's 102 deletes what is queued, and says so afterwards."""
    migrations.migrate(empty_database.engine, to="0001")
    empty_database.execute(
        "INSERT INTO sqla_jobs (task, state) SELECT 't', unnest(ARRAY['scheduled', 'queued', 'running'])"
    )
    migrations.migrate(empty_database.engine)
    states = "SELECT state FROM sqla_jobs ORDER BY id"
    assert [state for (state,) in empty_database.rows(states)] == ["scheduled", "queued", "running"]
    url = empty_database.url_string
    refused = run("migrate", "--to", "base", "--database-url", url, folder=tmp_path)
    assert refused.code == 2
    assert "This drops sqla_jobs" in refused.errors
    assert "say --yes" in refused.errors
    assert empty_database.scalar("SELECT count(*) FROM sqla_jobs") == 3
    assert run("migrate", "--to", "base", "--yes", "--database-url", url, folder=tmp_path).code == 0
    assert empty_database.scalar("SELECT to_regclass('sqla_jobs')") is None
