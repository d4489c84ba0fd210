"""One job a tick: several processes at the same schedules, and some of them killed while they tick."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from textwrap import dedent

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.scheduler import Schedules
from tests.support.program import Program
from tests.support.server import Database
from tests.support.waiting import until, until_lock_waiters
from tests.support.work import PATIENCE, SOON

GATE = 4713
"""An advisory lock that a tick waits for, where a trigger says so."""

SCHEDULES, ROUNDS = 20, 15

PROGRAM = dedent("""
    import logging, os
    from datetime import timedelta
    from sqlalchemy import create_engine
    from sqla_jobs import Worker
    from tests.test_schedules_processes import application

    logging.basicConfig(level="INFO", format="%(message)s")
    # It serves none of the queues of these jobs: they stay as they were made.
    Worker(
        application(),
        create_engine(os.environ["DATABASE_URL"]),
        queues=["none"],
        poll_interval=timedelta(milliseconds=100),
    ).run()
""")


def application() -> Jobs[Job]:
    jobs = Jobs(prune_after=None)
    jobs.task(name="t")(lambda session: None)
    return jobs


@contextmanager
def process(database: Database, folder: Path) -> Iterator[Program]:
    environment = {"DATABASE_URL": database.url_string}
    with Program("-c", PROGRAM, folder=folder, environment=environment) as program:
        program.wait_for("worker .* started")
        yield program


def plant(database: Database, number: int) -> None:
    database.execute(
        "INSERT INTO sqla_jobs_schedules (name, task, every, next_run_at)"
        " SELECT 's' || n, 't', '1 day', now() + interval '1 day' FROM generate_series(1, :number) n",
        number=number,
    )


def ring(database: Database) -> None:
    """Let all schedules be due, and all processes know."""
    with database.engine.begin() as connection:
        connection.execute(text("SET LOCAL session_replication_role = replica"))  # no triggers
        connection.execute(text("UPDATE sqla_jobs_schedules SET next_run_at = statement_timestamp()"))
        connection.execute(text("NOTIFY sqla_jobs, 'scheduled'"))


def counted(database: Database) -> tuple[int, int, int]:
    """Jobs, ticks that have one, and the most jobs that one schedule has."""
    (found,) = database.rows(
        "SELECT count(*), count(DISTINCT (schedule_id, tick_at)),"
        " coalesce((SELECT max(n) FROM (SELECT count(*) n FROM sqla_jobs GROUP BY schedule_id) s), 0)"
        " FROM sqla_jobs WHERE schedule_id IS NOT NULL"
    )
    jobs, ticks, most = found
    return jobs, ticks, most


@pytest.mark.parametrize("number", [1, 2, 8])
def test_each_tick_has_one_job_however_many_processes_there_are(
    database: Database, tmp_path: Path, number: int
) -> None:
    """With eight, three are killed while they tick."""
    plant(database, SCHEDULES)
    with ExitStack() as stack:
        programs = [stack.enter_context(process(database, tmp_path)) for _ in range(number)]
        until(database, f"SELECT count(*) = {number} FROM sqla_jobs_workers WHERE locked")
        for done in range(1, ROUNDS + 1):
            ring(database)
            if number == 8 and done % 5 == 0:
                programs.pop().send(signal.SIGKILL)
            until(database, f"SELECT count(*) >= {done * SCHEDULES} FROM sqla_jobs")
            until(database, "SELECT count(*) = 0 FROM sqla_jobs_schedules WHERE next_run_at <= now()")
        for program in programs:
            program.send(signal.SIGTERM)
        assert [program.wait() for program in programs] == [0] * len(programs)
        told = "".join(program.errors for program in programs)
    assert counted(database) == (ROUNDS * SCHEDULES, ROUNDS * SCHEDULES, ROUNDS)
    assert "cannot be made" not in told, "the second fence was not needed"


@pytest.mark.parametrize("at", ["BEFORE INSERT ON sqla_jobs", "AFTER UPDATE ON sqla_jobs_schedules"])
def test_a_process_that_is_killed_in_the_tick_leaves_it_to_the_others(
    database: Database, tmp_path: Path, at: str
) -> None:
    """Before the jobs are made; and when all is written, but not committed."""
    plant(database, 3)
    database.execute(
        "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$BEGIN PERFORM pg_advisory_xact_lock_shared({GATE}); RETURN new; END$$"
    )
    database.execute(f"CREATE TRIGGER wait {at} FOR EACH ROW EXECUTE FUNCTION wait()")
    jobs = application()
    with process(database, tmp_path) as killed, database.engine.connect() as gate:
        gate.execute(text(f"SELECT pg_advisory_lock({GATE})"))
        gate.commit()
        ring(database)
        until_lock_waiters(database, 1, [])
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
        assert counted(database)[0] == 0, "nothing of it is seen"
        with database.sessionmaker.begin() as session:
            assert Schedules(jobs).tick(session) == 0, "its rows are locked as yet"
        gate.execute(text("SELECT pg_advisory_unlock_all()"))
        gate.commit()
    with Worker(jobs, database.engine, queues=["none"], poll_interval=SOON):
        until(database, "SELECT count(*) = 3 FROM sqla_jobs")
        until(database, "SELECT count(*) = 0 FROM sqla_jobs_schedules WHERE next_run_at <= now()")
    assert counted(database) == (3, 3, 1)


# -- and the same by threads, moment by moment -----------------------------------------------------


def test_who_ticks_while_another_does_passes_its_schedules_over(database: Database) -> None:
    plant(database, 2)
    jobs = application()
    database.execute("UPDATE sqla_jobs_schedules SET next_run_at = now() WHERE name = 's1'")
    impatient = create_engine(database.url, connect_args={"options": "-c lock_timeout=1ms"})
    with database.sessionmaker() as first, Session(impatient) as second:
        assert Schedules(jobs).tick(first) == 1
        database.execute("UPDATE sqla_jobs_schedules SET next_run_at = now() WHERE name = 's2'")
        assert Schedules(jobs).tick(second) == 1, "the other one"
        second.commit()
        assert counted(database) == (1, 1, 1)
        first.commit()
        assert Schedules(jobs).tick(second) == 0
    impatient.dispose()
    assert counted(database) == (2, 2, 1)


def test_a_row_that_was_advanced_while_its_lock_was_taken_is_not_due_any_more(database: Database) -> None:
    """The lock re-reads the row: what it was by the snapshot of the statement does not count."""
    plant(database, 1)
    ready, jobs = threading.Barrier(8), application()

    def tick(_: int) -> int:
        with database.sessionmaker.begin() as session:
            session.connection()
            ready.wait(PATIENCE)
            return Schedules(jobs).tick(session)

    for _ in range(20):
        database.execute("UPDATE sqla_jobs_schedules SET next_run_at = statement_timestamp()")
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(tick, range(8))) == 1
    assert counted(database) == (20, 20, 20)
