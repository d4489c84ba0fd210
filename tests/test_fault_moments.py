"""One fault at one moment of one job among many: nothing lost, nothing doubled, and the worker goes on."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.orm import Session

from sqla_jobs import Finished, Job, Jobs, JobState, Worker, current_job
from tests.support.lane import AT_ONCE, NEVER, leave_effect
from tests.support.server import Database
from tests.support.work import PATIENCE, SOON, drain

NUMBER = 20
ONCE_EACH = """
    SELECT job.id, job.state FROM sqla_jobs AS job LEFT JOIN effects ON effects.job_id = job.id
    GROUP BY job.id HAVING job.state <> 'succeeded' OR count(effects.job_id) <> 1
"""


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def engine(database: Database) -> Iterator[Engine]:
    """The worker's own, so that what is listened to is not the test's."""
    engine = create_engine(database.url)
    yield engine
    engine.dispose()


def enqueue(database: Database, task: Any, number: int = NUMBER) -> None:
    with database.sessionmaker.begin() as session:
        for _ in range(number):
            task.enqueue(session)


# -- connections that are killed -------------------------------------------------------------------

CLAIM, FINISH = "WITH picked AS", "UPDATE sqla_jobs SET state=CASE"


class Killer:
    """Kills the connection of a worker once, when it has come to a moment a few times."""

    def __init__(self, database: Database, engine: Engine, moment: str) -> None:
        self.struck = threading.Event()
        self._database = database
        self._seen = 0
        self._lock = threading.Lock()
        self._last: dict[Connection, str] = {}
        event.listen(engine, "before_cursor_execute", self._on_statement)
        event.listen(engine, "commit", self._on_commit)
        self._moment = moment

    def _on_statement(self, connection: Connection, _: Any, sql: str, *__: Any) -> None:
        # With the outcome of one job the next is claimed, mostly by the same statement.
        kind = (
            "finish" if sql.startswith(FINISH) or "finished AS" in sql
            else "claim" if sql.startswith(CLAIM) else ""
        )  # fmt: skip
        if not (kind == "claim" and self._last.get(connection) == "finish"):
            self._last[connection] = kind
        self._strike(connection, kind)

    def _on_commit(self, connection: Connection) -> None:
        self._strike(connection, f"commit of the {self._last.pop(connection, '')}")

    def _strike(self, connection: Connection, moment: str) -> None:
        with self._lock:
            self._seen += moment == self._moment
            # Of one thread only the first claim is by itself: the others come with an outcome.
            if self._seen < (1 if "claim" in self._moment else 3) or self.struck.is_set():
                return
            self.struck.set()
        driver: Any = connection.connection.driver_connection
        self.kill(driver.info.backend_pid)

    def kill(self, pid: int) -> None:
        self._database.scalar("SELECT pg_terminate_backend(:pid, 10000)", pid=pid)


@pytest.mark.parametrize("moment", ["claim", "finish", "commit of the finish"])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_connection_that_is_killed(
    moment: str, threads: int, jobs: Jobs[Job], database: Database, engine: Engine
) -> None:
    """Before the server has it: whatever was sent on it did not happen. Nobody's attempt has failed."""
    killer = Killer(database, engine, moment)
    enqueue(database, jobs.task(name="t", retry=NEVER)(leave_effect))
    # A claim whose commit was lost is found as a stray by the second sweep, if it stands after all.
    often = {"heartbeat_interval": 10 * SOON, "heartbeat_limit": PATIENCE * 50 * SOON}
    drain(jobs, database, sessions=engine, threads=threads, **often)
    assert killer.struck.is_set()
    assert database.rows(ONCE_EACH) == []


def test_a_connection_that_is_killed_in_the_job(jobs: Jobs[Job], database: Database, engine: Engine) -> None:
    """That is a failed attempt of that job, and of no other."""
    killed: list[int] = []

    @jobs.task(name="t", retry=AT_ONCE)
    def task(session: Session) -> None:
        leave_effect(session)
        session.flush()
        if current_job().id == 5 and not killed:
            pid = session.scalar(text("SELECT pg_backend_pid()"))
            killed.append(pid)
            database.scalar("SELECT pg_terminate_backend(:pid, 10000)", pid=pid)
        session.execute(text("SELECT 1"))

    enqueue(database, task)
    finished = drain(jobs, database, sessions=engine, threads=3)
    assert [each.job.id for each in finished if each.failed] == [5]
    assert database.rows(ONCE_EACH) == []
    assert database.rows("SELECT id FROM sqla_jobs WHERE attempt <> 1") == [(5,)]


# -- errors of the server --------------------------------------------------------------------------


@pytest.mark.parametrize("code", ["53100", "53200", "57014", "55P03"], ids=lambda code: code)
@pytest.mark.parametrize("moment", ["claim", "finish", "promote"])
def test_an_error_of_the_server(
    code: str, moment: str, jobs: Jobs[Job], database: Database, engine: Engine
) -> None:
    """Disk full, out of memory, statement timeout, lock timeout: twice, and then it works again."""
    new = {"claim": "running", "finish": "succeeded", "promote": "queued"}[moment]
    database.execute("CREATE SEQUENCE faults")
    database.execute(
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.state = '{new}' AND nextval('faults') BETWEEN 3 AND 4 THEN
                RAISE EXCEPTION 'staged' USING ERRCODE = '{code}';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    database.execute("CREATE TRIGGER fail BEFORE UPDATE ON sqla_jobs FOR EACH ROW EXECUTE FUNCTION fail()")
    task = jobs.task(name="t", retry=AT_ONCE)(leave_effect)
    enqueue(database, task, NUMBER // 2)
    database.execute("UPDATE sqla_jobs SET state = 'scheduled' WHERE id % 2 = 0")
    drain(jobs, database, sessions=engine, threads=2)
    assert database.scalar("SELECT last_value FROM faults") >= 4
    assert database.rows(ONCE_EACH) == []


# -- jobs that misbehave ---------------------------------------------------------------------------


class Odd(BaseException):
    pass


@pytest.mark.parametrize("raised", [Odd, SystemExit, KeyboardInterrupt, GeneratorExit], ids=str)
def test_a_job_may_raise_anything(raised: type[BaseException], jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="odd", retry=NEVER)
    def odd(session: Session) -> None:
        leave_effect(session)
        session.flush()
        raise raised("odd")

    enqueue(database, odd, 2)
    enqueue(database, jobs.task(name="t")(leave_effect), 4)
    finished = drain(jobs, database, threads=1)
    assert [type(each.error) for each in finished] == [raised, raised, *[type(None)] * 4]
    assert database.scalar("SELECT count(*) FROM effects") == 4


def test_a_job_may_leave_a_thread_behind_that_goes_on_with_its_session(
    jobs: Jobs[Job], database: Database
) -> None:
    """What that thread does is nobody's: it reaches neither the job's outcome nor the next job."""
    over, done = threading.Event(), threading.Event()

    @jobs.task(name="leaky", retry=NEVER)
    def leaky(session: Session) -> None:
        leave_effect(session)
        session.flush()

        def go_on() -> None:
            with suppress(Exception):
                assert over.wait(PATIENCE)
                session.execute(text("INSERT INTO effects (job_id) VALUES (4711)"))
                session.rollback()
            done.set()

        threading.Thread(target=go_on, daemon=True).start()

    @jobs.task(name="next", retry=NEVER)
    def after(session: Session) -> None:
        over.set()
        assert done.wait(PATIENCE)
        leave_effect(session)

    enqueue(database, leaky, 1)
    enqueue(database, after, 3)
    finished = drain(jobs, database)
    assert [each.state for each in finished] == [JobState.SUCCEEDED] * 4
    assert database.rows(ONCE_EACH) == []
    assert database.scalar("SELECT count(*) FROM effects") == 4


def test_a_job_may_return_what_cannot_be_stored(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="t", retry=NEVER)
    def task(session: Session) -> object:
        leave_effect(session)
        return object()

    enqueue(database, task, 2)
    assert [each.state for each in drain(jobs, database)] == [JobState.SUCCEEDED] * 2
    assert database.rows(ONCE_EACH) == []


# -- an application that misbehaves ----------------------------------------------------------------


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError(f"no space left for {record.getMessage()}")


@pytest.fixture
def broken_log() -> Iterator[None]:
    handler = Raising()
    log = logging.getLogger("sqla_jobs")
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    yield
    log.setLevel(level)
    log.removeHandler(handler)


def raises(_: Worker, __: Finished) -> None:
    raise OSError("the hook fails")


@pytest.mark.usefixtures("broken_log")
@pytest.mark.parametrize("hook", [None, raises], ids=["", "and hooks too"])
def test_a_log_handler_that_raises(
    hook: Callable[[Worker, Finished], object] | None, jobs: Jobs[Job], database: Database
) -> None:
    enqueue(database, jobs.task(name="t", retry=NEVER)(leave_effect), 4)
    with suppress(OSError):  # from the start, which is the caller's own thread
        Worker(jobs, database.engine, threads=2, drain=True, poll_interval=SOON, on_finish=hook).start()
    with database.engine.connect() as connection:
        pause = threading.Event()
        for _ in range(PATIENCE * 100):
            left = connection.scalar(text("SELECT count(*) FROM sqla_jobs WHERE state <> 'succeeded'"))
            there = connection.scalar(text("SELECT count(*) FROM sqla_jobs_workers"))
            connection.rollback()
            if not left and not there:
                break
            pause.wait(0.01)
        assert (left, there) == (0, 0)
    assert database.rows(ONCE_EACH) == []


# -- what an idle worker costs ---------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 8])
def test_an_idle_worker_polls_once_for_all_its_threads(
    threads: int, jobs: Jobs[Job], database: Database
) -> None:
    engine = create_engine(database.url, pool_size=threads + 1)
    claims, looks, enough = list[str](), list[str](), threading.Event()

    def count(_: Connection, __: Any, sql: str, *___: Any) -> None:
        if sql.startswith(CLAIM):
            claims.append(sql)
        elif "EXTRACT" in sql and "scheduled" in sql:  # the ticks' own look at what is due, once a poll
            looks.append(sql)
            if len(looks) == 1:
                claims.clear()
            if len(looks) == 20:
                enough.set()

    event.listen(engine, "before_cursor_execute", count)
    with Worker(jobs, engine, threads=threads, poll_interval=5 * SOON):
        assert enough.wait(PATIENCE)
        claimed = len(claims)
    # At the start all threads look once, and they may still be about it.
    assert claimed <= 20 + threads + 2, "each poll is one claim, by one thread"
    engine.dispose()
