"""Rescue and promotion at the same moment as something else: each job once, and the living keep theirs."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Rescued
from sqla_jobs.outcome import decide
from tests.support.lane import AT_ONCE, register
from tests.support.server import Database
from tests.support.waiting import blocked, until

T = TypeVar("T")
SUCCESS = decide(None, None, lambda _: None)
BLOCKED = blocked("= 1")


def rescue(session: Session) -> list[Rescued]:
    return lifecycle.rescue(session, Job, lambda _: AT_ONCE)


def committed(database: Database, verb: Callable[[Session], T]) -> T:
    with database.sessionmaker.begin() as session:
        return verb(session)


def dead_worker(database: Database, jobs: int) -> int:
    number = committed(database, register)
    database.execute(
        "INSERT INTO sqla_jobs (task, state, worker_id, attempt, claim)"
        " SELECT 't', 'running', :worker, 1, 1 FROM generate_series(1, :jobs)",
        worker=number,
        jobs=jobs,
    )
    database.execute("UPDATE sqla_jobs_workers SET heartbeat_at = now() - interval '1 day'")
    return number


def at_once(number: int, call: Callable[[], T]) -> list[T]:
    """Call it in so many threads that begin together."""
    begin = threading.Barrier(number)

    def run(_: int) -> T:
        begin.wait(30)
        return call()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


# -- rescue ----------------------------------------------------------------------------------------


def test_eight_rescuers_take_each_job_once(database: Database) -> None:
    dead_worker(database, jobs=450)

    def rescue_all() -> list[int]:
        rescued: list[int] = []
        while batch := committed(database, rescue):
            rescued += [each.job.id for each in batch]
        return rescued

    counted = Counter(number for mine in at_once(8, rescue_all) for number in mine)
    # Who found only locked rows went home early: that each was taken by somebody is for the next look.
    counted.update(rescue_all())
    assert counted == dict.fromkeys(range(1, 451), 1)
    left = "SELECT DISTINCT state, crashes, jsonb_array_length(attempts) FROM sqla_jobs"
    assert list(database.rows(left)) == [("scheduled", 1, 1)]


def test_an_owner_that_is_finishing_wins(database: Database) -> None:
    """Alive after all: its finish holds the row, and rescue neither takes the job nor waits."""
    number = dead_worker(database, jobs=0)
    committed(database, lambda s: lifecycle.enqueue(s, Job(task="t", state="queued")))
    (job,) = committed(database, lambda s: lifecycle.claim(s, Job, number))
    with database.sessionmaker() as owner:
        assert lifecycle.finish(owner, Job, job, SUCCESS) is not None
        assert committed(database, rescue) == []
        owner.commit()
    assert committed(database, rescue) == []
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert (row.state, row.crashes) == ("succeeded", 0)


def test_an_owner_whose_finish_is_rolled_back_is_rescued_after_all(database: Database) -> None:
    number = dead_worker(database, jobs=0)
    committed(database, lambda s: lifecycle.enqueue(s, Job(task="t", state="queued")))
    (job,) = committed(database, lambda s: lifecycle.claim(s, Job, number))
    with database.sessionmaker() as owner:
        lifecycle.finish(owner, Job, job, SUCCESS)
        assert committed(database, rescue) == []
        owner.rollback()
    assert [each.job.id for each in committed(database, rescue)] == [job.id]


def test_an_owner_that_finishes_after_the_rescue_is_refused(database: Database) -> None:
    number = dead_worker(database, jobs=0)
    committed(database, lambda s: lifecycle.enqueue(s, Job(task="t", state="queued")))
    (job,) = committed(database, lambda s: lifecycle.claim(s, Job, number))
    with database.sessionmaker() as rescuer, ThreadPoolExecutor() as pool:
        assert len(rescue(rescuer)) == 1
        finish = pool.submit(committed, database, lambda s: lifecycle.finish(s, Job, job, SUCCESS))
        until(database, BLOCKED)
        rescuer.commit()
        assert finish.result(30) is None
    assert database.scalar("SELECT state FROM sqla_jobs") == "scheduled"


def test_a_heartbeat_at_the_moment_of_the_rescue_finds_no_row(database: Database) -> None:
    """Dead or alive is decided once, for everyone: the heartbeat waits for what becomes of the rescue."""
    number = dead_worker(database, jobs=1)
    for ends, lives in ((Session.rollback, True), (Session.commit, False)):
        with database.sessionmaker() as rescuer, ThreadPoolExecutor() as pool:
            assert len(rescue(rescuer)) == 1
            beat = pool.submit(committed, database, lambda s: lifecycle.heartbeat(s, Job, number, []))
            until(database, BLOCKED)
            ends(rescuer)
            assert beat.result(30) is lives
        database.execute("UPDATE sqla_jobs_workers SET heartbeat_at = now() - interval '1 day'")


def test_a_worker_that_beats_at_this_moment_is_not_buried(database: Database) -> None:
    number = dead_worker(database, jobs=1)
    with database.sessionmaker() as living:
        assert lifecycle.heartbeat(living, Job, number, [])
        assert committed(database, rescue) == [], "its row is locked: whoever beats, lives"
        living.commit()
    assert committed(database, rescue) == []
    assert database.scalar("SELECT state FROM sqla_jobs") == "running"


def test_a_job_that_a_young_worker_has_claimed_meanwhile_is_not_an_orphan(database: Database) -> None:
    """Its lock shows the row as it is now, but the list of workers as it was before the wait began."""
    dead_worker(database, jobs=1)
    database.execute("DELETE FROM sqla_jobs_workers")
    # A wait between a statement's snapshot and its look at the jobs: where the planner puts the row lock.
    database.execute(
        "CREATE FUNCTION wait() RETURNS boolean LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN true; END'"
    )
    database.execute("ALTER TABLE sqla_jobs ENABLE ROW LEVEL SECURITY")
    database.execute("CREATE POLICY slow ON sqla_jobs USING (wait())")
    role = f"{database.name}_slow"
    database.execute(f'CREATE ROLE "{role}"')
    try:
        database.execute(f'GRANT ALL ON ALL TABLES IN SCHEMA public TO "{role}"')
        with database.engine.connect() as gate, ThreadPoolExecutor() as pool:
            gate.execute(text("SELECT pg_advisory_xact_lock(1)"))

            def slowly(session: Session) -> list[Rescued]:
                session.execute(text(f'SET LOCAL ROLE "{role}"'))
                return rescue(session)

            rescued = pool.submit(committed, database, slowly)
            until(database, BLOCKED)
            young = committed(database, register)
            database.execute(
                "UPDATE sqla_jobs SET state = 'running', claim = 2, worker_id = :young", young=young
            )
            gate.rollback()
            assert rescued.result(30) == []
    finally:
        database.execute(f'DROP OWNED BY "{role}"')
        database.execute(f'DROP ROLE "{role}"')
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert (row.state, row.worker_id, row.crashes) == ("running", young, 0)


# -- promote ---------------------------------------------------------------------------------------


def test_eight_workers_promote_each_due_job_once(database: Database) -> None:
    database.execute("CREATE TABLE promotions (job_id bigint)")
    database.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN INSERT INTO promotions VALUES (NEW.id); RETURN NULL; END'"
    )
    database.execute("CREATE TRIGGER note AFTER UPDATE ON sqla_jobs FOR EACH ROW EXECUTE FUNCTION note()")
    database.execute("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 3000)")
    database.execute(
        "INSERT INTO sqla_jobs (task, run_at)"
        " SELECT 't', now() + interval '1 day' FROM generate_series(1, 50)"
    )

    def promote_all() -> int:
        promoted = 0
        while number := committed(database, lambda s: lifecycle.promote(s, Job)):
            promoted += number
        return promoted

    promoted = sum(at_once(8, promote_all)) + promote_all()
    assert promoted == 3000
    (counted,) = database.rows("SELECT count(*), count(DISTINCT job_id), max(job_id) FROM promotions")
    assert counted == (3000, 3000, 3000)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'scheduled'") == 50


def test_promotion_passes_over_what_another_is_promoting(database: Database) -> None:
    database.execute("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 1500)")
    with database.sessionmaker() as first, database.sessionmaker() as second:
        assert lifecycle.promote(first, Job) == 1000
        assert lifecycle.promote(second, Job) == 500, "it neither waits nor takes them again"
