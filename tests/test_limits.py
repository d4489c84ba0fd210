"""Limits: what a claim begins, what it passes over, and when it looks again; in one process."""

from __future__ import annotations

import asyncio
import datetime as dt
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Limit, RetryPolicy, Snooze, Worker, lifecycle
from sqla_jobs.lifecycle import Counted
from sqla_jobs.runner import limits, trail
from sqla_jobs.testing import drain as drain_here
from sqla_jobs.worker.crew import Crew
from tests.support.lane import Lane
from tests.support.loops import async_engine, drain_async
from tests.support.server import Database
from tests.support.verbs import NOW, add, employ, row
from tests.support.work import PATIENCE, drain

DAY = dt.timedelta(days=1)
KEY = '["t",{"customer":%s}]'


def work(session: Session, customer: int) -> None:
    """What is limited."""


@pytest.fixture
def jobs() -> Jobs[Job]:
    """``t``, two at a time of each customer; and ``free``."""
    made = Jobs()
    made.task(name="t", limit=Limit(2, key="customer"))(work)
    made.task(name="free")(work)
    return made


def fill(session: Session, jobs: Jobs[Any], customers: Sequence[int], task: str = "t") -> list[Job]:
    return [jobs.using(run_at=NOW).enqueue(session, task, customer=each) for each in customers]


def queue(session: Session) -> None:
    session.execute(text("UPDATE sqla_jobs SET state = 'queued' WHERE state = 'scheduled'"))


def count(session: Session, jobs: Jobs[Job], limit: int = 16, **given: Any) -> Counted:
    employ(session)
    queue(session)
    where = {"queues": None, **given}
    return lifecycle.claim_counted(session, Job, 77, tasks=jobs.limited, limit=limit, now=NOW, **where)


def ids(found: Counted) -> list[int]:
    return sorted(job.id for job in found.jobs)


# -- what is begun ---------------------------------------------------------------------------------


def test_no_more_than_the_number_of_each_key(jobs: Jobs[Job], session: Session) -> None:
    made = fill(session, jobs, [7, 7, 7, 8, 7, 8, 8])
    found = count(session, jobs)
    assert ids(found) == [made[place].id for place in (0, 1, 3, 5)]
    assert found.full == {KEY % 7, KEY % 8}
    assert {row(session, job).state for job in found.jobs} == {"running"}
    assert (row(session, made[0]).attempt, row(session, made[0]).worker_id) == (1, 77)
    assert row(session, made[2]).state == "queued"
    assert count(session, jobs).jobs == []


def test_what_runs_already_counts(jobs: Jobs[Job], session: Session) -> None:
    (running, *waiting) = fill(session, jobs, [7, 7, 7])
    session.execute(text("UPDATE sqla_jobs SET state = 'running' WHERE id = :id"), {"id": running.id})
    assert ids(count(session, jobs)) == [waiting[0].id]


@pytest.mark.parametrize("state", ["scheduled", "queued", "succeeded", "failed", "cancelled"])
def test_a_job_that_does_not_run_holds_no_slot(jobs: Jobs[Job], session: Session, state: str) -> None:
    fill(session, jobs, [7, 7])
    queue(session)
    finished = "now()" if state in ("succeeded", "failed", "cancelled") else "NULL"
    session.execute(
        text(f"UPDATE sqla_jobs SET state = '{state}', finished_at = {finished}, run_at = '2040-1-1'")
    )
    made = fill(session, jobs, [7, 7])
    session.execute(text("UPDATE sqla_jobs SET state = 'queued' WHERE run_at < '2035-1-1'"))
    employ(session)
    found = lifecycle.claim_counted(session, Job, 77, None, jobs.limited, limit=2, now=NOW)
    assert ids(found) == [job.id for job in made]


def test_all_others_are_begun_as_ever_and_in_their_order(jobs: Jobs[Job], session: Session) -> None:
    made = [*fill(session, jobs, [7, 7, 7]), *fill(session, jobs, [7], "free"), *fill(session, jobs, [8])]
    session.execute(text("UPDATE sqla_jobs SET priority = 1 WHERE id = :id"), {"id": made[4].id})
    assert ids(count(session, jobs, limit=2)) == [made[0].id, made[4].id]
    assert ids(count(session, jobs, limit=2)) == [made[1].id]
    found = count(session, jobs, full=[KEY % 7], limit=2)
    assert ids(found) == [made[3].id]


def test_a_task_that_has_no_limit_any_more(jobs: Jobs[Job], session: Session) -> None:
    """The row still has its key; how many may run is in the code."""
    made = fill(session, jobs, [7, 7, 7])
    jobs.unregister("t")
    assert ids(count(session, jobs)) == [job.id for job in made]


@pytest.mark.parametrize("crashes", [0, 1])
def test_what_a_worker_has_died_of_is_passed_over_by_the_innocent(
    jobs: Jobs[Job], session: Session, crashes: int
) -> None:
    suspect, other = fill(session, jobs, [7, 7])
    session.execute(text("UPDATE sqla_jobs SET crashes = 1 WHERE id = :id"), {"id": suspect.id})
    found = count(session, jobs, limit=1, innocent=crashes == 0)
    assert ids(found) == [suspect.id if crashes else other.id]


def test_of_a_worker_that_was_taken_for_dead_nothing_is_begun(jobs: Jobs[Job], session: Session) -> None:
    fill(session, jobs, [7])
    queue(session)
    assert lifecycle.claim_counted(session, Job, 77, None, jobs.limited, now=NOW).jobs == []


# -- two at once -----------------------------------------------------------------------------------


def test_of_two_claims_at_once_one_finds_the_key_taken(jobs: Jobs[Job], database: Database) -> None:
    """The first is not committed: what it has begun is not counted, but its lock is felt."""
    with database.sessionmaker.begin() as session:
        fill(session, jobs, [7, 7, 7, 8])
        queue(session)
        employ(session)
    with database.sessionmaker() as first, database.sessionmaker() as second:
        begun = count(first, jobs, limit=2)
        assert len(begun.jobs) == 2
        found = count(second, jobs)
        assert (found.busy, [job.arguments for job in found.jobs]) == ({KEY % 7}, [{"customer": 8}])
        second.commit()
        first.commit()
        assert count(second, jobs).full == {KEY % 7}


def test_what_was_begun_between_the_choice_and_the_lock_is_counted(
    jobs: Jobs[Job], database: Database
) -> None:
    """Each statement sees what was committed before it: the count comes after the lock, in one of its own."""
    with database.sessionmaker.begin() as session:
        fill(session, jobs, [7, 7, 7])
        queue(session)
        employ(session)
    others: list[Counted] = []

    def begin_two(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "pg_try_advisory_xact_lock" in statement and not others:
            others.append(Counted())
            with database.sessionmaker.begin() as other:
                others[0] = count(other, jobs, limit=2)

    with database.sessionmaker() as session:
        event.listen(session.connection(), "before_cursor_execute", begin_two)
        found = count(session, jobs, limit=1)
        session.commit()
    assert len(others[0].jobs) == 2
    assert (found.jobs, found.full) == ([], {KEY % 7})


def test_nor_of_one_that_was_taken_for_dead_since_it_chose(jobs: Jobs[Job], database: Database) -> None:
    with database.sessionmaker.begin() as session:
        fill(session, jobs, [7])
        queue(session)
        employ(session)

    def die(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "pg_try_advisory_xact_lock" in statement:
            database.execute("DELETE FROM sqla_jobs_workers")

    with database.sessionmaker() as session:
        event.listen(session.connection(), "before_cursor_execute", die)
        found = lifecycle.claim_counted(session, Job, 77, None, jobs.limited, now=NOW)
        session.commit()
    assert found.jobs == []


def test_two_schemas_of_a_database_have_locks_of_their_own(jobs: Jobs[Job], session: Session) -> None:
    add(session, "t", arguments={"customer": 7}, limit_key=KEY % 7)
    employ(session)
    lifecycle.claim_counted(session, Job, 77, None, jobs.limited, now=NOW)
    locks = "SELECT (classid::bigint << 32) | objid::bigint FROM pg_locks WHERE locktype = 'advisory'"
    hashed = text(f"SELECT hashtextextended(:key, 'sqla_jobs'::regclass::oid::bigint) IN ({locks})")
    assert session.scalar(hashed, {"key": KEY % 7})


# -- the runner ------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time by which keys are passed over."""
    clock = [0.0]
    monkeypatch.setattr(limits, "_clock", lambda: clock[0])
    return clock


@pytest.fixture
def lane(database: Database, jobs: Jobs[Job]) -> Lane:
    return Lane(database, jobs=jobs)


def enqueue(lane: Lane, task: str, *customers: int, **options: Any) -> list[int]:
    return [lane.enqueue(lane.jobs.tasks[task], customer, **options) for customer in customers]


def test_a_full_key_is_passed_over_for_a_second(lane: Lane, clock: list[float]) -> None:
    first, second, third, other = enqueue(lane, "t", 7, 7, 7, 8)
    assert [lane.claim().id for _ in range(3)] == [first, second, other]
    assert lane.runner.claim(lane.worker_id, None) is None
    assert lane.runner.slots.wait == limits.FULL
    assert limits.FULL < 1
    lane.database.execute("UPDATE sqla_jobs SET state = 'scheduled' WHERE id = :id", id=first)
    clock[0] += limits.FULL - 0.01
    assert lane.runner.claim(lane.worker_id, None) is None
    clock[0] += 0.01
    assert lane.claim().id == third
    assert lane.runner.slots.wait is None


def test_who_may_not_claim_is_not_told_to_look_again_for_ever(lane: Lane, clock: list[float]) -> None:
    """The time of a key is over, and no claim asks: all queues are paused, or the loop has no room."""
    enqueue(lane, "t", 7, 7, 7)
    assert [lane.runner.claim(lane.worker_id, None) is None for _ in range(3)] == [False, False, True]
    slots = lane.runner.slots
    reopened = slots.reopened
    clock[0] += limits.FULL
    assert slots.wait == 0.0
    assert slots.wait is None
    assert slots.reopened == reopened + 1
    assert lane.runner.claim(lane.worker_id, None) is None
    assert slots.wait == limits.FULL


@pytest.mark.parametrize("writes", [False, True])
def test_or_until_a_job_of_it_ends_here(lane: Lane, clock: list[float], writes: bool) -> None:
    """Whichever way its outcome is recorded."""

    def write(session: Session, customer: int) -> None:
        session.execute(text("SELECT 1"))

    if writes:
        lane.jobs.unregister("t")
        lane.jobs.task(name="t", limit=Limit(2, key="customer"))(write)
    *_, third = enqueue(lane, "t", 7, 7, 7)
    running = [lane.claim() for _ in range(2)]
    assert lane.runner.claim(lane.worker_id, None) is None
    assert lane.runner.perform(running[1]) is not None
    assert lane.claim().id == third


def test_a_job_that_ends_while_it_is_counted_opens_its_key_all_the_same(
    lane: Lane, clock: list[float]
) -> None:
    """Who has counted it closes the key after it was opened."""
    *_, third = enqueue(lane, "t", 7, 7, 7)
    running = [lane.claim() for _ in range(2)]
    slots = lane.runner.slots
    transact = slots._transact

    def end_one(look: Callable[[Any], Counted]) -> Counted:
        found = transact(look)
        if len(running) == 2:  # the first look, and no other
            assert lane.runner.perform(running.pop()) is not None
        return found

    slots._transact = end_one
    assert slots.claim(lane.worker_id, None, 1) == []
    assert slots.wait == limits.BUSY
    clock[0] += limits.BUSY
    assert lane.claim().id == third


def test_and_one_that_is_counted_while_its_end_is_recorded(lane: Lane, clock: list[float]) -> None:
    """It has opened its key for the claim of the same statement, and others have counted it again since."""
    *_, third = enqueue(lane, "t", 7, 7, 7)
    running = [lane.claim() for _ in range(2)]
    slots = lane.runner.slots
    counts: list[object] = []

    def count_it(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "'succeeded'" in statement and not counts:
            counts.append(None)
            assert slots.claim(lane.worker_id, None, 1) == []

    event.listen(lane.database.engine, "before_cursor_execute", count_it)
    assert lane.runner.perform(running[0]) is not None
    assert counts
    assert slots.wait is None
    assert lane.claim().id == third


def test_a_key_that_somebody_is_about_to_begin_is_looked_at_soon(lane: Lane, clock: list[float]) -> None:
    first, second = enqueue(lane, "t", 7, 7)
    with lane.database.sessionmaker() as other:
        assert ids(count(other, lane.jobs, limit=1)) == [first]
        assert lane.runner.claim(lane.worker_id, None) is None
        assert lane.runner.slots.wait == limits.BUSY
        other.commit()
    clock[0] += limits.BUSY
    assert lane.claim().id == second


def test_all_full_keys_are_found_at_once(lane: Lane) -> None:
    """Not one by one, however many are before the job that may run."""
    enqueue(lane, "t", *range(12), *range(12), *range(12))
    for _ in range(24):
        lane.claim()
    (free,) = enqueue(lane, "free", 1)
    looks: list[str] = []
    lane.runner.slots._closed.clear()

    def heard(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "pg_try_advisory_xact_lock" in statement:
            looks.append(statement)

    event.listen(lane.database.engine, "before_cursor_execute", heard)
    assert lane.claim().id == free
    assert len(looks) == 1


@pytest.mark.parametrize("queues", [None, ["a", "b"]], ids=["any", "given"])
def test_a_blocked_job_is_found_again_behind_which_others_were_claimed(
    lane: Lane, clock: list[float], queues: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Claims go on behind the last one; what has become free before it is looked for as soon as it may be."""
    monkeypatch.setattr(trail, "BLIND", PATIENCE)
    enqueue(lane, "t", 7, 7, queue="a")
    running = [lane.claim(), lane.claim()]
    (blocked,) = enqueue(lane, "t", 7, queue="a")
    enqueue(lane, "free", *range(30), queue="a")

    def claim() -> int:
        job = lane.runner.claim(lane.worker_id, queues)
        assert job is not None
        return job.id

    claimed = [claim(), claim()]
    assert blocked not in claimed
    lane.database.execute("UPDATE sqla_jobs SET state = 'scheduled' WHERE id = :id", id=running[0].id)
    clock[0] += limits.FULL
    deadline = time.monotonic() + 0.9
    while claim() != blocked:
        assert time.monotonic() < deadline
        threading.Event().wait(0.1)


def test_strict_order_is_kept(lane: Lane) -> None:
    """A job that may run is not passed over because others of its task may not, or of another lane."""
    order = (
        enqueue(lane, "t", 7, 7) + enqueue(lane, "free", 1) + enqueue(lane, "t", 8) + enqueue(lane, "free", 2)
    )
    assert [lane.claim().id for _ in order] == order


@pytest.mark.parametrize("with_fast", [False, True], ids=["ordinary", "with a fast lane"])
def test_a_first_queue_stays_the_first(database: Database, jobs: Jobs[Job], with_fast: bool) -> None:
    ran: list[str] = []
    other = jobs.task(name="other", group_commit=10 if with_fast else None)(
        lambda session, note: ran.append(note)
    )
    mine = jobs.task(name="mine", limit=Limit(1))(lambda session, note: ran.append(note))
    with database.sessionmaker.begin() as session:
        for number in range(3):
            other.using(queue="b").enqueue(session, f"b{number}")
            mine.using(queue="a").enqueue(session, f"a{number}")
            other.using(queue="a").enqueue(session, f"x{number}")
    drain(jobs, database, queues=["a", "b"])
    assert ran[6:] == ["b0", "b1", "b2"]
    if not with_fast:  # whose groups pass over other tasks
        assert ran[:6] == ["a0", "x0", "a1", "x1", "a2", "x2"]


# -- workers ---------------------------------------------------------------------------------------


class Gate:
    """Tasks whose jobs stay until they are let go, and what is seen of them meanwhile."""

    def __init__(self, limit: Limit, **options: Any) -> None:
        self.jobs = Jobs()
        self.begun, self.go = threading.Semaphore(0), threading.Semaphore(0)
        self.now, self.most, self.ran = 0, 0, 0
        self._lock = threading.Lock()
        self.hold = self.jobs.task(name="hold", limit=limit, **options)(self._hold)

    def _hold(self, session: Session) -> None:
        with self._lock:
            self.now += 1
            self.ran += 1
            self.most = max(self.most, self.now)
        self.begun.release()
        try:
            assert self.go.acquire(timeout=PATIENCE)
        finally:
            with self._lock:
                self.now -= 1

    def enqueue(self, database: Database, number: int) -> None:
        with database.sessionmaker.begin() as session:
            for _ in range(number):
                self.hold.enqueue(session)


@pytest.mark.parametrize("fast", [False, True], ids=["ordinary", "with a fast lane"])
@pytest.mark.parametrize("writes", [False, True])
def test_the_threads_of_a_worker_keep_it(database: Database, fast: bool, writes: bool) -> None:
    gate = Gate(Limit(2))
    ran: list[int] = []

    def other(session: Session, number: int) -> None:
        if writes:
            session.execute(text("SELECT 1"))
        ran.append(number)

    task = gate.jobs.task(name="other", group_commit=5 if fast else None)(other)
    with database.sessionmaker.begin() as session:
        for number in range(10):
            gate.hold.enqueue(session)
            task.enqueue(session, number)
    with Worker(gate.jobs, database.engine, threads=6, poll_interval=DAY):
        for _ in range(5):
            assert gate.begun.acquire(timeout=PATIENCE)
            assert gate.begun.acquire(timeout=PATIENCE)
            assert not gate.begun.acquire(timeout=0.05)
            gate.go.release(2)
    assert (gate.most, gate.ran, sorted(ran)) == (2, 10, list(range(10)))


def test_a_slot_of_another_worker_is_noticed_within_a_second(database: Database) -> None:
    """Though nobody tells of it, and this one's poll is a day away."""
    gate = Gate(Limit(1))
    gate.enqueue(database, 1)
    other, ended = Lane(database, jobs=gate.jobs), threading.Event()
    held = other.claim()
    gate.enqueue(database, 1)
    with Worker(gate.jobs, database.engine, poll_interval=DAY, on_finish=lambda *_: ended.set()):
        assert not gate.begun.acquire(timeout=1.2)
        other.runner.give_back(held, "for the test")
        database.execute("DELETE FROM sqla_jobs WHERE id = :id", id=held.id)
        at = time.monotonic()
        assert gate.begun.acquire(timeout=PATIENCE)
        assert time.monotonic() < at + 1
        gate.go.release()
        assert ended.wait(PATIENCE)


def test_what_is_given_back_opens_its_key_at_once(database: Database) -> None:
    lane = Lane(database, jobs=(gate := Gate(Limit(1))).jobs)
    gate.enqueue(database, 2)
    held = lane.claim()
    assert lane.runner.claim(lane.worker_id, None) is None
    lane.runner.give_back(held, "for the test")
    assert lane.runner.claim(lane.worker_id, None) is not None, "not after a second only"


def test_a_drain_waits_for_what_is_only_blocked_and_does_not_spin(database: Database) -> None:
    gate = Gate(Limit(1))
    gate.enqueue(database, 2)
    other = Lane(database, jobs=gate.jobs)
    held = other.claim()
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *given: sent.append(given[2]))
    worker = Worker(gate.jobs, database.engine, threads=3, poll_interval=DAY, drain=True).start()
    assert not worker.join(2)
    assert not gate.begun.acquire(blocking=False)
    assert len([each for each in sent if "SKIP LOCKED" in each]) < 60
    database.execute("DELETE FROM sqla_jobs WHERE id = :id", id=held.id)
    gate.go.release()
    assert worker.join(PATIENCE)
    assert gate.ran == 1


def test_what_goes_back_gives_its_slot_to_another(database: Database) -> None:
    """Retried, snoozed: a job holds its slot only while it runs."""
    jobs, ran = Jobs(), []

    @jobs.task(name="t", limit=Limit(1), retry=RetryPolicy(max_attempts=2, base=DAY))
    def task(session: Session, note: str) -> Snooze | None:
        ran.append(note)
        if note == "fails":
            raise ValueError
        return Snooze(DAY) if note == "snoozes" else None

    with database.sessionmaker.begin() as session:
        for note in ("fails", "snoozes", "works"):
            task.enqueue(session, note)
    drain(jobs, database, threads=2)
    assert ran == ["fails", "snoozes", "works"]
    assert database.scalar("SELECT count(DISTINCT limit_key) FROM sqla_jobs") == 1


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("writes", [False, True])
def test_coroutines_keep_it_and_open_it_again(
    database: Database, monkeypatch: pytest.MonkeyPatch, writes: bool, threads: int
) -> None:
    """They are claimed by threads, and end on the loop: a slot is free for the next at once."""
    monkeypatch.setattr(limits, "FULL", 2 * PATIENCE)
    jobs, now, most = Jobs(), set[int](), list[int]()

    @jobs.task(name="awaited", limit=Limit(2))
    async def awaited(session: AsyncSession, number: int) -> None:
        now.add(number)
        most.append(len(now))
        if writes:
            await session.execute(text("SELECT pg_sleep(0.005)"))
        else:
            await asyncio.sleep(0.005)
        now.remove(number)

    with database.sessionmaker.begin() as session:
        for number in range(40):
            awaited.enqueue(session, number)
    patient = dt.timedelta(seconds=2 * PATIENCE)  # no poll helps
    assert len(drain_async(jobs, database, threads=threads, poll_interval=patient)) == 40
    assert max(most) == 2


def test_a_worker_rests_while_nothing_may_be_claimed(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was a key that is full, and then no room on the loop for as long as two coroutines run."""
    monkeypatch.setattr(limits, "FULL", 0.1)
    jobs = Jobs()
    go_on, rests = threading.Event(), list[float]()
    rest = Crew.rest
    blocked, filled = threading.Event(), threading.Event()

    def counted(crew: Crew, news: int, seconds: float | None = None, **options: Any) -> None:
        if seconds is not None:
            blocked.set()
        rests.append(time.monotonic())
        rest(crew, news, seconds, **options)

    monkeypatch.setattr(Crew, "rest", counted)

    async def run_on() -> None:
        await asyncio.to_thread(go_on.wait, PATIENCE)

    @jobs.task(name="one", limit=Limit(1))
    async def one(session: AsyncSession) -> None:
        await run_on()

    @jobs.task(name="other")
    async def other(session: AsyncSession) -> None:
        filled.set()
        await run_on()

    with database.sessionmaker.begin() as session:
        one.enqueue(session)
        one.enqueue(session)
    asynchronous = async_engine(database)
    with Worker(jobs, database.engine, async_sessionmaker=asynchronous, concurrency=2, grace=dt.timedelta(0)):
        assert blocked.wait(PATIENCE)
        with database.sessionmaker.begin() as session:
            other.enqueue(session)
        assert filled.wait(PATIENCE)
        threading.Event().wait(3 * limits.FULL)
        before = len(rests)
        threading.Event().wait(5 * limits.FULL)
        often = len(rests) - before
        go_on.set()
    assert often < 10


def test_a_worker_with_a_filter_counts_its_own_jobs_only(database: Database, jobs: Jobs[Job]) -> None:
    """What others claim of a key counts all the same; what it may not claim stays as it is."""
    with database.sessionmaker.begin() as session:
        for priority in (1, 0, 1, 0):
            jobs.using(priority=priority).enqueue(session, "t", customer=7)
        # As from SQL: the key is written by whoever claims it.
        session.add(Job(task="t", arguments={"customer": 7}, priority=1, state="queued"))
        session.add(Job(task="t", arguments={"customer": 7}, priority=0, state="queued"))
    drain(jobs, database, where=Job.priority == 0, drain=False, max_jobs=3)
    found = database.rows("SELECT DISTINCT priority, state, limit_key IS NULL FROM sqla_jobs ORDER BY 1, 3")
    assert [tuple(each) for each in found] == [
        (0, "succeeded", False), (1, "queued", False), (1, "queued", True),
    ]  # fmt: skip


# -- in the caller's transaction -------------------------------------------------------------------


def test_work_once_leaves_it_to_workers(jobs: Jobs[Job], session: Session) -> None:
    fill(session, jobs, [7])
    add(session, "t", arguments={"customer": 7})
    (due,) = fill(session, jobs, [7], "free")
    found = jobs.work_once(session, now=NOW)
    assert found is not None
    assert found.job.id == due.id
    assert jobs.work_once(session, now=NOW) is None
    assert session.scalars(text("SELECT state FROM sqla_jobs ORDER BY id")).all() == [
        "scheduled", "queued", "succeeded",
    ]  # fmt: skip


def test_the_helper_for_tests_runs_it(jobs: Jobs[Job], session: Session) -> None:
    """One after the other, so whatever the limit is, it holds."""
    fill(session, jobs, [7, 7, 7])
    add(session, "t", arguments={"customer": 7})
    assert [each.job.task for each in drain_here(session, jobs, now=NOW)] == ["t"] * 4
