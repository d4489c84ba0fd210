"""Which rows the statements lock, and that an application's foreign keys and they leave each other alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, RetryPolicy, Worker, lifecycle, statements
from tests.support.plans import Verb, fill
from tests.support.server import Database
from tests.support.verbs import claim_as
from tests.support.waiting import until_lock_waiters

WORKER = 7


def free(session: Session, where: str = "true") -> int:
    """How many jobs another claimer could lock at this moment."""
    sql = f"SELECT count(*) FROM (SELECT 1 FROM sqla_jobs WHERE {where} FOR NO KEY UPDATE SKIP LOCKED) AS f"
    found = session.scalar(text(sql))
    assert isinstance(found, int)
    return found


def later() -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc) + dt.timedelta(hours=2)


@pytest.fixture
def patient(database: Database) -> Iterator[Engine]:
    """An engine whose statements rather fail than wait for a row."""
    engine = create_engine(database.url, connect_args={"options": "-c lock_timeout=3000"})
    yield engine
    engine.dispose()


@pytest.mark.parametrize("queues", [None, ["a", "b"], ["b", "a"], ["empty", "a"]], ids=str)
@pytest.mark.parametrize("limit", [1, 3, 5])
def test_a_claim_locks_no_more_rows_than_its_limit(
    database: Database, queues: list[str] | None, limit: int
) -> None:
    for queue in ("a", "b"):
        fill(database, "queued", 4, queue=queue)
    with database.sessionmaker() as worker, database.sessionmaker() as other:
        claimed = claim_as(WORKER, worker, queues, limit=limit)
        there = 4 if queues == ["empty", "a"] else 8
        assert len(claimed) == min(limit, there)
        assert free(other) == 8 - len(claimed)


def test_a_claim_passes_over_locked_jobs_within_and_across_queues(
    database: Database, patient: Engine
) -> None:
    for queue in ("a", "b"):
        fill(database, "queued", 2, queue=queue)
    with Session(patient) as one, Session(patient) as two, Session(patient) as three:
        got = [
            [(job.queue, job.id) for job in claim_as(WORKER, session, ["a", "b"], limit=limit)]
            for session, limit in ((one, 1), (two, 2), (three, 5))
        ]
    assert got[0] == [("a", 1)]
    assert sorted(got[1]) == [("a", 2), ("b", 3)]
    assert got[2] == [("b", 4)]


def test_a_queue_that_is_named_twice_is_claimed_from_once(database: Database) -> None:
    fill(database, "queued", 3, queue="a")
    with database.sessionmaker() as session:
        claimed = claim_as(WORKER, session, ["a", "a"], limit=5)
    assert sorted(job.id for job in claimed) == [1, 2, 3]
    assert {job.attempt for job in claimed} == {1}


@pytest.mark.parametrize("queues", [None, ["empty", "default"]], ids=str)
@pytest.mark.parametrize("state", ["queued", "scheduled"])
def test_work_once_locks_the_one_job_that_it_takes(
    database: Database, queues: list[str] | None, state: str
) -> None:
    fill(database, state, 5)
    with database.sessionmaker() as caller, database.sessionmaker() as other:
        assert lifecycle.take(caller, Job, queues, now=later()) is not None
        assert free(other) == 4


def test_two_callers_take_two_different_due_jobs(database: Database, patient: Engine) -> None:
    fill(database, "scheduled", 2)
    with Session(patient) as one, Session(patient) as two, Session(patient) as three:
        taken = [lifecycle.take(session, Job, now=later()) for session in (one, two, three)]
    assert [job and job.id for job in taken] == [1, 2, None]


@pytest.fixture
def gated(database: Database) -> Iterator[Engine]:
    """An engine on which statements stop after they have taken their snapshot, until the gate is opened.

    The functions that they call first wait for an advisory lock.
    """
    wait = "PERFORM pg_advisory_lock(1); PERFORM pg_advisory_unlock(1);"
    database.execute(
        f"""
        CREATE SCHEMA gate;
        CREATE FUNCTION gate.statement_timestamp() RETURNS timestamptz LANGUAGE plpgsql VOLATILE AS
            $$ BEGIN {wait} RETURN pg_catalog.statement_timestamp(); END $$;
        CREATE FUNCTION gate.unnest(text[]) RETURNS SETOF text LANGUAGE plpgsql VOLATILE AS
            $$ BEGIN {wait} RETURN QUERY SELECT pg_catalog.unnest($1); END $$;
        """
    )
    options = {"options": "-c search_path=gate,public,pg_catalog"}
    engine = create_engine(database.url, connect_args=options)
    yield engine
    engine.dispose()


GATED: dict[str, tuple[str, Callable[[Session], list[int]]]] = {
    "claim": ("queued", lambda s: [job.id for job in claim_as(WORKER, s, ["default"])]),
    "work_once": ("queued", lambda s: taken(s, ["default"])),
    "work_once of a due job": ("scheduled", lambda s: taken(s, None)),
    "promotion": ("scheduled", lambda s: list(s.execute(statements.promote(Job), {"now": None}).scalars())),
}
MEANWHILE = {
    "it is run": "state = 'running', attempt = 1, claim = 1",
    "it is put off": "state = 'scheduled', run_at = run_at + interval '1 day'",
}


def taken(session: Session, queues: list[str] | None) -> list[int]:
    job = lifecycle.take(session, Job, queues)
    return [job.id] if job else []


@pytest.mark.parametrize("meanwhile", MEANWHILE)
@pytest.mark.parametrize("taker", GATED)
def test_a_job_that_is_taken_by_another_between_snapshot_and_lock_is_passed_over(
    database: Database, gated: Engine, taker: str, meanwhile: str
) -> None:
    state, take = GATED[taker]
    fill(database, state, 2)

    def run() -> list[int]:
        with Session(gated) as session, session.begin():
            return take(session)

    with ThreadPoolExecutor(1) as pool, database.engine.connect() as gatekeeper:
        gatekeeper.execute(text("SELECT pg_advisory_lock(1)"))
        got = pool.submit(run)
        until_lock_waiters(database, 1, [])
        database.execute(f"UPDATE sqla_jobs SET {MEANWHILE[meanwhile]} WHERE id = 1")
        gatekeeper.execute(text("SELECT pg_advisory_unlock(1)"))
        assert got.result(30) == [2]


def test_promotion_locks_what_is_due_and_nothing_that_waits(database: Database) -> None:
    fill(database, "scheduled", 3)
    fill(database, "scheduled", 4, later="1 day")
    with database.sessionmaker() as worker, database.sessionmaker() as other:
        assert lifecycle.promote(worker, Job, now=later()) == 3
        assert free(other) == 4


# -- foreign keys of the application ---------------------------------------------------------------


@pytest.fixture
def receipts(database: Database) -> None:
    """A table of the application whose rows refer to a job."""
    database.execute("CREATE TABLE receipts (job_id bigint NOT NULL REFERENCES sqla_jobs)")


REFER = text("INSERT INTO receipts (job_id) VALUES (1)")

TAKERS: dict[str, tuple[str, Verb]] = {
    "claim": ("queued", lambda s: claim_as(WORKER, s)),
    "claim by queue": ("queued", lambda s: claim_as(WORKER, s, ["default"])),
    "work_once": ("queued", lambda s: lifecycle.take(s, Job)),
    "work_once by queue": ("queued", lambda s: lifecycle.take(s, Job, ["default"])),
    "work_once of a due job": ("scheduled", lambda s: lifecycle.take(s, Job, now=later())),
    "work_once of a due job by queue": (
        "scheduled", lambda s: lifecycle.take(s, Job, ["default"], now=later())
    ),
    "promotion": ("scheduled", lambda s: lifecycle.promote(s, Job, now=later())),
    "rescue": ("running", lambda s: lifecycle.rescue(s, Job, lambda _: RetryPolicy())),
}  # fmt: skip


@pytest.mark.usefixtures("receipts")
@pytest.mark.parametrize("taker", TAKERS)
def test_a_reference_that_is_not_committed_does_not_hide_a_job(
    database: Database, patient: Engine, taker: str
) -> None:
    state, verb = TAKERS[taker]
    fill(database, state, 1)
    with Session(patient) as application, Session(patient) as worker:
        application.execute(REFER)
        assert verb(worker), "the job that the application refers to was passed over"
        worker.commit()
        application.commit()


@pytest.mark.usefixtures("receipts")
@pytest.mark.parametrize("taker", TAKERS)
def test_a_job_that_is_locked_can_be_referred_to(database: Database, patient: Engine, taker: str) -> None:
    state, verb = TAKERS[taker]
    fill(database, state, 1)
    with Session(patient) as worker, Session(patient) as application:
        assert verb(worker)
        application.execute(REFER)
        application.commit()
        worker.commit()


@pytest.mark.usefixtures("receipts")
def test_a_job_is_claimed_run_and_finished_while_a_reference_to_it_is_open(
    database: Database, patient: Engine
) -> None:
    jobs = Jobs()
    ran = []
    task = jobs.task(name="job")(lambda session: ran.append(session))
    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    with Session(patient) as application:
        application.execute(REFER)
        worker = Worker(jobs, patient, drain=True, poll_interval=dt.timedelta(milliseconds=20)).start()
        assert worker.join(30)
        assert len(ran) == 1
        assert database.scalar("SELECT state FROM sqla_jobs") == "succeeded"
        application.commit()


@pytest.mark.usefixtures("receipts")
def test_a_running_job_can_be_referred_to(database: Database, patient: Engine) -> None:
    jobs = Jobs()

    @jobs.task(name="job")
    def job(session: Session) -> None:
        session.execute(text("SELECT 1"))
        with Session(patient) as application, application.begin():
            application.execute(REFER)

    with database.sessionmaker.begin() as session:
        job.enqueue(session)
        job.enqueue(session)
    worker = Worker(jobs, patient, drain=True, poll_interval=dt.timedelta(milliseconds=20)).start()
    assert worker.join(30)
    with Session(patient) as session:
        job.enqueue(session)
        session.commit()
        finished = jobs.work_once(session)
        session.commit()
    assert finished is not None
    assert finished.error is None
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'") == 3
    assert database.scalar("SELECT count(*) FROM receipts") == 3
