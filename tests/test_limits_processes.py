"""Limits across worker processes: many at once, and one that is killed while it holds slots."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from textwrap import dedent

from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from sqla_jobs import Job, Jobs, Limit, Worker
from tests.support.lane import AT_ONCE, leave_effect
from tests.support.program import Program
from tests.support.server import Database
from tests.support.waiting import until
from tests.support.work import SOON

PROCESSES, THREADS = 4, 4
KEYS, JOBS = 20, 400
GATE = 4712
"""An advisory lock that the job `hold` waits for."""

PROGRAM = dedent("""
    import os, sys
    from datetime import timedelta
    from sqlalchemy import create_engine
    from sqla_jobs import Worker
    from tests.test_limits_processes import application

    Worker(
        application(os.environ["DATABASE_URL"]),
        create_engine(os.environ["DATABASE_URL"]),
        threads=int(sys.argv[1]),
        drain=sys.argv[2] == "drain",
        poll_interval=timedelta(milliseconds=20),
        heartbeat_interval=timedelta(milliseconds=500),
        heartbeat_limit=timedelta(seconds=2),
    ).run()
""")


def application(url: str) -> Jobs[Job]:
    """Tasks whose runs write down when they began and ended, past their own transaction."""
    jobs = Jobs[Job](notify=False)
    apart = create_engine(url, isolation_level="AUTOCOMMIT", poolclass=NullPool)

    @contextmanager
    def span(customer: int) -> Iterator[None]:
        with apart.connect() as connection:
            begin = text("INSERT INTO spans (customer) VALUES (:c) RETURNING id")
            made = connection.scalar(begin, {"c": customer})
        yield
        with apart.connect() as connection:
            connection.execute(
                text("UPDATE spans SET ended = clock_timestamp() WHERE id = :id"), {"id": made}
            )

    @jobs.task(name="work", limit=Limit(2, key="customer"))
    def work(session: Session, customer: int) -> None:
        with span(customer):
            leave_effect(session)
            session.execute(text("SELECT pg_sleep(0.005)"))

    @jobs.task(name="hold", limit=Limit(2), retry=AT_ONCE)
    def hold(session: Session) -> None:
        with span(0):
            leave_effect(session)
            session.execute(text(f"SELECT pg_advisory_xact_lock_shared({GATE})"))

    return jobs


def lay(database: Database) -> Jobs[Job]:
    database.execute(
        "CREATE TABLE spans (id bigint GENERATED ALWAYS AS IDENTITY, customer int,"
        " began timestamptz DEFAULT clock_timestamp(), ended timestamptz)"
    )
    return application(database.url_string)


def process(database: Database, folder: Path, threads: int, mode: str) -> Program:
    environment = {"DATABASE_URL": database.url_string}
    return Program("-c", PROGRAM, str(threads), mode, folder=folder, environment=environment)


def most(database: Database) -> list[int]:
    """How many runs of each customer there were at once, at most; at the begin of one of them."""
    found = database.rows(
        """
        SELECT max(beside) FROM (
            SELECT one.customer, (
                SELECT count(*) FROM spans AS other
                WHERE other.customer = one.customer AND other.began <= one.began
                AND (other.ended IS NULL OR other.ended > one.began)
            ) AS beside FROM spans AS one
        ) AS counted GROUP BY customer ORDER BY customer
        """
    )
    return [row[0] for row in found]


def test_no_more_of_a_key_run_at_once_in_all_processes(database: Database, tmp_path: Path) -> None:
    jobs = lay(database)
    with database.sessionmaker.begin() as session:
        # Those of a customer in a row: all threads want the same keys at the same time.
        made = [jobs.job("work", customer=number * KEYS // JOBS) for number in range(JOBS)]
        jobs.enqueue_many(session, made)
    with ExitStack() as stack:
        programs = [
            stack.enter_context(process(database, tmp_path, THREADS, "drain")) for _ in range(PROCESSES)
        ]
        for program in programs:
            assert program.wait() == 0, program.errors
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'") == JOBS
    assert database.scalar("SELECT count(*) FROM effects") == JOBS
    assert database.scalar("SELECT count(DISTINCT worker_id) FROM sqla_jobs") > 1
    assert most(database) == [2] * KEYS


def test_the_slots_of_a_killed_worker_are_free_after_its_rescue(database: Database, tmp_path: Path) -> None:
    jobs = lay(database)
    with database.sessionmaker.begin() as session:
        for _ in range(4):
            jobs.enqueue(session, "hold")
    running = "SELECT count(*) = 2 FROM sqla_jobs WHERE state = 'running'"
    with database.engine.connect() as gate:
        gate.execute(text(f"SELECT pg_advisory_xact_lock({GATE})"))
        with process(database, tmp_path, 4, "stay") as killed:
            until(database, "SELECT count(*) = 2 FROM spans")
            killed.send(signal.SIGKILL)
            assert killed.wait() == -signal.SIGKILL
        assert database.scalar(running), "the dead still hold their slots"
        database.execute("UPDATE spans SET ended = clock_timestamp()")
        rescuer = Worker(
            jobs,
            database.engine,
            threads=4,
            poll_interval=SOON,
            heartbeat_interval=timedelta(milliseconds=500),
            heartbeat_limit=timedelta(seconds=2),
        )
        with rescuer:
            until(database, "SELECT count(*) = 4 FROM spans")
            assert database.scalar(running)
            gate.rollback()
            until(database, "SELECT count(*) = 4 FROM sqla_jobs WHERE state = 'succeeded'")
    assert most(database) == [2]
    assert database.scalar("SELECT count(*) FROM effects") == 4
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE crashes = 1") == 2
