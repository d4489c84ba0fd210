"""When a worker is dead: by the lock, by the heartbeat, and when it only looks so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker, current_job, lifecycle
from sqla_jobs.worker.neighbours import APART, Sights
from tests.support.bait import Bait, bait
from tests.support.lane import AT_ONCE, leave_effect
from tests.support.proxy import proxy
from tests.support.server import Database
from tests.support.told import Told
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON

KEY = "hashint8extended(id, tableoid::bigint)"
HOUR = timedelta(hours=1)
NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)


# -- two sights ------------------------------------------------------------------------------------


def test_one_sight_is_no_death() -> None:
    sights = Sights()
    assert sights.note(["7:1"], began=0.0, ended=0.1) == []
    assert sights.note(["7:1"], began=0.1 + APART, ended=2.0) == ["7:1"]


def test_two_sights_are_a_second_apart_however_long_they_took() -> None:
    sights = Sights()
    assert sights.note(["7:1"], began=0.0, ended=5.0) == []
    assert sights.note(["7:1"], began=4.5 + APART, ended=100.0) == []
    assert sights.note(["7:1"], began=5.0 + APART, ended=100.0) == ["7:1"]


def test_a_write_in_between_makes_it_the_first_sight() -> None:
    sights = Sights()
    sights.note(["7:1"], began=0.0, ended=0.0)
    assert sights.note(["7:2"], began=5.0, ended=5.0) == []
    assert sights.note(["7:1", "7:2"], began=10.0, ended=10.0) == ["7:2"]


def test_a_lock_that_was_held_in_between_makes_it_the_first_sight() -> None:
    sights = Sights()
    sights.note(["7:1"], began=0.0, ended=0.0)
    assert sights.note([], began=0.5, ended=0.5) == []
    assert sights.note(["7:1"], began=5.0, ended=5.0) == []


def test_what_is_forgotten_counts_no_more() -> None:
    sights = Sights()
    sights.note(["7:1"], began=0.0, ended=0.0)
    sights.forget()
    assert sights.note(["7:1"], began=5.0, ended=5.0) == []


# -- what is seen ----------------------------------------------------------------------------------


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.sessionmaker() as session:
        yield session


@contextmanager
def holding(database: Database, dead: Bait) -> Iterator[Connection]:
    with database.engine.connect() as connection:
        connection.execute(
            text(f"SELECT pg_advisory_lock({KEY}) FROM sqla_jobs_workers WHERE id = {dead.worker_id}")
        )
        yield connection
        connection.invalidate()


def seen(session: Session, worker_id: int = 0) -> list[str]:
    with session.begin():
        return lifecycle.unheld(session, Job, worker_id)


def rescued(session: Session, gone: list[str], now: datetime | None = None) -> list[int]:
    with session.begin():
        found = lifecycle.rescue(session, Job, lambda _: AT_ONCE, gone=gone, now=now)
        return [each.job.id for each in found]


def beat(session: Session, dead: Bait) -> None:
    with session.begin():
        assert lifecycle.heartbeat(session, Job, dead.worker_id, [])


def test_who_says_locked_and_is_not_is_seen(database: Database, session: Session) -> None:
    one, other = bait(database, locked=True), bait(database, locked=True)
    bait(database, locked=False)
    assert sorted(each.partition(":")[0] for each in seen(session)) == [
        str(one.worker_id),
        str(other.worker_id),
    ]
    (version,) = seen(session, one.worker_id)
    assert version.startswith(f"{other.worker_id}:")
    with holding(database, one), holding(database, other):
        assert seen(session) == []


def test_two_observers_do_not_see_each_other(database: Database, session: Session) -> None:
    bait(database, locked=True)
    with database.sessionmaker() as other:
        mine = lifecycle.unheld(session, Job, 0)
        assert lifecycle.unheld(other, Job, 0) == mine
        assert len(mine) == 1


def test_who_does_not_say_locked_is_not_kept_from_its_lock_by_those_who_look(
    database: Database, session: Session
) -> None:
    fresh = bait(database, locked=False)
    assert lifecycle.unheld(session, Job, 0) == []
    attempt = f"SELECT pg_try_advisory_xact_lock({KEY}) FROM sqla_jobs_workers WHERE id = {fresh.worker_id}"
    assert database.scalar(attempt)
    session.rollback()
    lifecycle.rescue(session, Job, lambda _: AT_ONCE, gone=[f"{fresh.worker_id}:1"])
    assert database.scalar(attempt)


# -- who is buried ---------------------------------------------------------------------------------


def test_who_was_seen_is_taken_for_dead(database: Database, session: Session) -> None:
    dead = bait(database, locked=True)
    gone = seen(session)
    assert rescued(session, []) == [], "its heartbeat is fresh"
    assert rescued(session, gone) == [dead.job]
    ((kept),) = database.rows("SELECT attempts -> 0 ->> 'message' AS told FROM sqla_jobs")
    assert f"worker {dead.worker_id} (process 1 on nowhere) is gone: its lock was free" in kept.told
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers WHERE died_at IS NULL") == 0


def test_a_write_since_then_saves_it(database: Database, session: Session) -> None:
    dead = bait(database, locked=True)
    gone = seen(session)
    beat(session, dead)
    assert rescued(session, gone) == []
    assert rescued(session, seen(session)) == [dead.job]


def test_a_write_that_is_under_way_saves_it(database: Database, session: Session) -> None:
    """The row is locked, and passed over; once it is committed the row is another one."""
    dead = bait(database, locked=True)
    gone = seen(session)
    with database.sessionmaker() as living, living.begin():
        lifecycle.heartbeat(living, Job, dead.worker_id, [])
        assert rescued(session, gone) == []
    assert rescued(session, gone) == []


def test_who_has_its_lock_again_is_saved(database: Database, session: Session) -> None:
    dead = bait(database, locked=True)
    gone = seen(session)
    with holding(database, dead):
        assert rescued(session, gone) == []
    assert rescued(session, gone) == [dead.job]


def test_who_says_that_it_holds_no_lock_is_judged_by_its_heartbeat(
    database: Database, session: Session
) -> None:
    dead = bait(database, locked=True)
    gone = seen(session)
    with session.begin():
        lifecycle.deny_lock(session, Job, dead.worker_id)
    assert rescued(session, gone) == []
    with session.begin():
        (row,) = session.execute(text("SELECT xmin::text AS xmin FROM sqla_jobs_workers"))
    assert rescued(session, [f"{dead.worker_id}:{row.xmin}"]) == [], "even by its last version"


@pytest.mark.parametrize(("locked", "limits"), [(False, 1), (True, 10)])
def test_a_heartbeat_that_is_too_old(database: Database, session: Session, locked: bool, limits: int) -> None:
    dead = bait(database, locked=locked)
    with session.begin():
        lifecycle.heartbeat(session, Job, dead.worker_id, [], now=NOW)
    with holding(database, dead):  # as a forked child may
        assert rescued(session, [], NOW + limits * HOUR - timedelta(microseconds=1)) == []
        assert rescued(session, [], NOW + limits * HOUR) == [dead.job]


# -- living workers --------------------------------------------------------------------------------


def observer(database: Database, **options: Any) -> Worker:
    """A worker that judges by locks from the second second of its life."""
    jobs = Jobs[Job]()
    return Worker(
        jobs,
        database.engine,
        queues=["none"],
        poll_interval=SOON,
        heartbeat_interval=timedelta(milliseconds=100),
        heartbeat_limit=timedelta(seconds=1),
        **options,
    )


def holder(jobs: Jobs[Job], gate: threading.Event, started: threading.Event) -> Any:
    @jobs.task(name="hold", retry=AT_ONCE)
    def hold(session: Session) -> None:
        started.set()
        gate.wait(PATIENCE)
        leave_effect(session)

    return hold


def enqueue(database: Database, task: Any) -> int:
    with database.sessionmaker.begin() as session:
        return int(task.enqueue(session).id)


def ran_once(database: Database, job: int) -> None:
    (row,) = database.rows("SELECT state, attempt, claim, crashes FROM sqla_jobs WHERE id = :id", id=job)
    assert tuple(row) == ("succeeded", 1, 1, 0)
    assert database.scalar("SELECT count(*) FROM effects WHERE job_id = :id", id=job) == 1


def test_a_worker_that_cannot_listen_any_more_is_not_robbed(database: Database) -> None:
    """Its lock is free, and others look; but it has said that it holds none."""
    jobs, told, gate, started = Jobs[Job](), Told(), threading.Event(), threading.Event()
    with proxy(database) as between:
        engine = between.engine(pool_pre_ping=True)
        with Worker(jobs, engine, heartbeat_limit=HOUR, **told.hooks), observer(database):
            job = enqueue(database, holder(jobs, gate, started))
            assert started.wait(PATIENCE)
            until(database, "SELECT count(*) = 2 FROM sqla_jobs_workers WHERE locked")
            bait(database, locked=True).until_rescued()  # so the other one judges
            loss = between.lose("LISTEN", times=1000)
            database.execute(
                "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN sqla_jobs_workers w ON"
                " (l.classid::bigint << 32 | l.objid::bigint) = hashint8extended(w.id, w.tableoid::bigint)"
                " WHERE l.locktype = 'advisory' AND w.heartbeat_limit = '1 hour'"
            )
            assert loss.sent.wait(PATIENCE)
            until(database, "SELECT count(*) = 1 FROM sqla_jobs_workers WHERE NOT locked AND died_at IS NULL")
            bait(database, locked=True).until_rescued()
            gate.set()
            assert told.next().state == "succeeded"
        engine.dispose()
    ran_once(database, job)


def test_an_observer_that_has_just_connected_goes_by_heartbeats(database: Database) -> None:
    """Whatever has freed the locks of all may have ended its own connection too."""
    locked, late = bait(database, locked=True), bait(database, locked=False, limit=timedelta(seconds=3))
    with Worker(
        Jobs(), database.engine, poll_interval=SOON,
        heartbeat_interval=timedelta(milliseconds=100), heartbeat_limit=timedelta(minutes=1),
    ) as young:  # fmt: skip
        until(database, "SELECT count(*) = 2 FROM sqla_jobs_workers WHERE locked")
        # Its registration judges after some seconds, its listener not before a minute: it is not its first.
        assert young._parts is not None
        assert young._parts.listener is not None
        young._parts.listener._connections += 1
        young._parts.registration._judges_from = 0.0
        late.until_rescued()
        assert database.scalar("SELECT crashes FROM sqla_jobs WHERE id = :id", id=locked.job) == 0


def test_an_observer_that_is_new_goes_by_the_locks_that_nothing_else_can_have_freed(
    database: Database,
) -> None:
    """No other worker need be there: it may have been started in the dead one's place."""
    locked = bait(database, locked=True)
    with Worker(Jobs(), database.engine, poll_interval=SOON, heartbeat_limit=timedelta(minutes=1)) as new:
        new._parts.registration._judges_from = 0.0  # not for some seconds, in which others may be back
        locked.until_rescued()


def test_and_not_by_those_from_before_the_server_was_started(database: Database) -> None:
    locked, late = bait(database, locked=True), bait(database, locked=False, limit=timedelta(seconds=3))
    database.execute("UPDATE sqla_jobs_workers SET started_at = pg_postmaster_start_time() - interval '1 s'")
    with Worker(
        Jobs(), database.engine, poll_interval=SOON,
        heartbeat_interval=timedelta(milliseconds=100), heartbeat_limit=timedelta(minutes=1),
    ) as new:  # fmt: skip
        new._parts.registration._judges_from = 0.0
        late.until_rescued()
        assert database.scalar("SELECT crashes FROM sqla_jobs WHERE id = :id", id=locked.job) == 0


def test_heartbeats_go_on_when_the_jobs_have_every_connection(database: Database) -> None:
    engine = create_engine(database.url, pool_size=4, max_overflow=0, pool_timeout=0.01)
    jobs, told, gate, started = Jobs[Job](notify=False), Told(), threading.Event(), threading.Event()

    @jobs.task(name="greedy")
    def greedy(session: Session) -> None:
        taken = [session.connection()]
        while len(taken) < 4 and not gate.is_set():
            try:
                taken.append(engine.connect())
            except Exception:
                continue
        started.set()
        gate.wait(PATIENCE)
        for each in taken[1:]:
            each.close()

    beat_at = "SELECT heartbeat_at FROM sqla_jobs_workers"
    with Worker(
        jobs, engine, poll_interval=SOON, heartbeat_interval=timedelta(milliseconds=50),
        heartbeat_limit=timedelta(seconds=2), **told.hooks,
    ):  # fmt: skip
        enqueue(database, greedy)
        try:
            assert started.wait(PATIENCE)
            for _ in range(3):
                last = database.scalar(beat_at)
                until(database, f"SELECT heartbeat_at > '{last}' FROM sqla_jobs_workers", seconds=10)
        finally:
            gate.set()
        assert told.next().state == "succeeded"
    engine.dispose()


def test_who_was_taken_for_dead_gives_up_its_jobs_and_begins_anew(database: Database) -> None:
    jobs, started, done = Jobs[Job](), threading.Event(), threading.Event()
    ran: list[int] = []

    @jobs.task(name="once", retry=AT_ONCE)
    def once(session: Session) -> None:
        ran.append(current_job().attempt)
        leave_effect(session)
        while len(ran) == 1:  # until it is interrupted
            started.set()
            done.wait(0.01)

    held = f"SELECT NOT pg_try_advisory_xact_lock_shared({KEY}) FROM sqla_jobs_workers"
    with Worker(jobs, database.engine, poll_interval=SOON, heartbeat_interval=timedelta(milliseconds=50)):
        job = enqueue(database, once)
        assert started.wait(PATIENCE)
        until(database, "SELECT locked FROM sqla_jobs_workers")
        old = database.scalar("SELECT id FROM sqla_jobs_workers")
        database.execute("DELETE FROM sqla_jobs_workers")
        until(database, f"SELECT locked FROM sqla_jobs_workers WHERE id > {old}")
        assert database.scalar(held)
        until(database, f"SELECT state = 'succeeded' FROM sqla_jobs WHERE id = {job}")
    (row,) = database.rows("SELECT attempt, claim, crashes, worker_id FROM sqla_jobs")
    assert tuple(row) == (1, 2, 0, old + 1)
    assert database.scalar("SELECT count(*) FROM effects WHERE job_id = :id", id=job) == 1
    assert ran == [1, 1]
