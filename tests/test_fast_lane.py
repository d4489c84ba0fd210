"""The fast lane: several jobs in one transaction, in their order, each with an outcome of its own."""

from __future__ import annotations

import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from sqla_jobs import (
    Cancel,
    Finished,
    Job,
    JobMixin,
    Jobs,
    JobState,
    RetryPolicy,
    Snooze,
    Worker,
    current_job,
)
from sqla_jobs.errors import ConfigurationError, InvalidOption, UnknownTask
from sqla_jobs.runner import Pace, group
from tests.support.fast import FAST, Fast, unhurried
from tests.support.lane import leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import PATIENCE, drain

HOUR = timedelta(hours=1)


@pytest.fixture
def fast(database: Database) -> Fast:
    return Fast(database)


# -- what a group is -------------------------------------------------------------------------------


def test_several_jobs_are_one_transaction(fast: Fast) -> None:
    ids = fast.enqueue(*[fast.note.job(str(number)) for number in range(5)])
    finished = fast.drain()
    assert fast.groups() == [ids]
    assert fast.ran == ["0", "1", "2", "3", "4"]
    assert fast.effects() == ids
    assert [(each.job.id, each.job.attempt, each.state, each.error) for each in finished] == [
        (job, 1, "succeeded", None) for job in ids
    ]
    rows = [fast.row(job) for job in ids]
    assert {(row.state, row.attempt, row.claim, row.crashes) for row in rows} == {("succeeded", 1, 1, 0)}
    assert all(row.attempts == [] and row.worker_id is not None for row in rows)
    assert all(row.created_at <= row.started_at <= row.finished_at for row in rows)


def test_each_task_has_jobs_of_its_own_size(fast: Fast) -> None:
    pair = fast.task(fast._note, name="pair", group_commit=2)
    alone = fast.task(fast._note, name="alone", group_commit=1)
    ids = fast.enqueue(*[pair.job() for _ in range(5)], fast.note.job(), alone.job(), fast.note.job())
    fast.drain()
    a, b, c, d, e, f, g, h = ids
    # One of `pair` is in no group of more than two, and one of `alone` in none of more than itself.
    assert fast.groups() == [[a, b], [c, d], [e, f], [g], [h]]


def test_queues_and_priorities_keep_their_order(fast: Fast) -> None:
    """A group is of one queue and one priority: else it would pass over what comes between them."""
    places = [("second", 9), ("first", 0), ("first", 3), ("second", 0)]
    jobs = [fast.note.using(queue=queue, priority=n).job(f"{queue} {n}") for queue, n in places * 2]
    a, b, c, d, e, f, g, h = fast.enqueue(*jobs)
    fast.drain(queues=["first", "second"])
    assert fast.ran == [
        each for place in ("first 3", "first 0", "second 9", "second 0") for each in [place] * 2
    ]
    assert fast.groups() == [[a, e], [b, f], [c, g], [d, h]]


def test_without_queues_the_priority_decides(fast: Fast) -> None:
    places = [("a", 0), ("b", 2), ("c", 0)]
    a, b, c = fast.enqueue(*[fast.note.using(queue=queue, priority=n).job(queue) for queue, n in places])
    fast.drain()
    assert fast.ran == ["b", "a", "c"]
    assert fast.groups() == [[a, c], [b]]


def test_no_row_of_another_task_is_locked_ahead_of_its_time(fast: Fast) -> None:
    free: list[int] = []

    def look(session: Session) -> None:
        rows = fast.database.rows(
            "SELECT id FROM sqla_jobs WHERE state = 'queued' ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
        )
        free.extend(row.id for row in rows)

    first, plain, last = fast.enqueue(fast.task(look).job(), fast.plain.job("plain"), fast.note.job("fast"))
    fast.drain()
    assert free == [plain]
    assert fast.groups() == [[first, last], [plain]]
    assert fast.row(plain).attempt == 1


def test_an_ordinary_job_is_claimed_when_it_is_its_turn(fast: Fast) -> None:
    """Nothing of the fast lane comes before it that would not be there if it were the first in the queue."""
    fast.enqueue(fast.plain.using(priority=1).job("plain"), fast.note.job("a"), fast.plain.job("plain"))
    fast.drain()
    assert fast.ran == ["plain", "a", "plain"]


def test_of_other_queues_none_is_taken(fast: Fast) -> None:
    mine, other = fast.enqueue(fast.note.using(queue="mine").job(), fast.note.using(queue="other").job())
    fast.drain(queues=["mine"])
    assert (fast.row(mine).state, fast.row(other).state) == ("succeeded", "queued")


def test_jobs_are_the_application_s_own_class(database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class Own(JobMixin, Base):
        __table_args__ = {"schema": "apart"}

    database.execute("CREATE SCHEMA apart")
    jobs = Jobs(model=Own)
    jobs.create_all(database.engine)
    ran: list[int] = []

    @jobs.task(name="t", **FAST)
    def task(_: Session) -> None:
        ran.append(current_job().id)

    with database.sessionmaker.begin() as session:
        ids = [task.enqueue(session).id for _ in range(3)]
    with unhurried():
        drain(jobs, database)
    assert ran == ids
    assert database.scalar("SELECT count(DISTINCT xmin::text) FROM apart.sqla_jobs WHERE attempt = 1") == 1


def test_fifty_jobs_at_most_use_one_transaction(fast: Fast) -> None:
    """Of those that do not touch it there may be more: PostgreSQL keeps 64 subtransactions at hand."""
    idle = fast.task(lambda _: None, name="idle", group_commit=200)
    use = fast.task(lambda session: session.execute(text("SELECT 1")), name="use", group_commit=200)
    write = fast.task(leave_effect, name="write", group_commit=200)
    jobs = [each for _ in range(30) for each in (idle, use, idle, write)]
    ids = fast.enqueue(*[task.job() for task in [*jobs, *[idle] * 80]])
    fast.drain()
    # The hundredth is the 50th that uses it.
    assert fast.groups() == [ids[:100], ids[100:]]
    assert fast.effects() == ids[3:120:4]


def test_fifty_jobs_at_most_fail_in_one_transaction(fast: Fast) -> None:
    """Each has an UPDATE of its own, while the rows of all are locked."""

    def fail(_: Session) -> None:
        raise ValueError

    task = fast.task(fail, group_commit=200)
    ids = fast.enqueue(*[task.job() for _ in range(70)])
    fast.drain()
    assert fast.groups() == [ids[:50], ids[50:]]
    assert set(fast.states()) == {"failed"}


# -- outcomes --------------------------------------------------------------------------------------


def test_a_job_that_fails_leaves_nothing_and_its_neighbours_all(fast: Fast) -> None:
    def fail(session: Session) -> None:
        leave_effect(session)
        session.flush()
        raise ValueError("its own")

    first, bad, last = fast.enqueue(fast.note.job(), fast.task(fail).job(), fast.note.job())
    finished = fast.drain()
    assert fast.groups() == [[first, bad, last]]
    assert fast.effects() == [first, last]
    assert [each.state for each in finished] == ["succeeded", "failed", "succeeded"]
    row = fast.row(bad)
    assert (row.state, row.attempt, row.claim) == ("failed", 1, 1)
    (kept,) = row.attempts
    assert (kept["error"], kept["message"], kept["attempt"]) == ("ValueError", "its own", 1)
    assert kept["worker_id"] == row.worker_id is not None
    assert "raise ValueError" in kept["traceback"]


ENDS: dict[str, tuple[Any, str, int, bool]] = {
    "raises": (ValueError("no"), "scheduled", 1, False),
    "snoozes": (Snooze(HOUR), "scheduled", 0, False),
    "cancels": (Cancel("why"), "cancelled", 1, False),
    "returns a snooze": (lambda: Snooze(HOUR), "scheduled", 0, True),
    "returns a cancel": (lambda: Cancel("why"), "cancelled", 1, True),
    "exits": (SystemExit(1), "scheduled", 1, False),
}


@pytest.mark.parametrize(("how", "state", "attempt", "kept"), ENDS.values(), ids=ENDS)
def test_every_other_outcome(fast: Fast, how: Any, state: str, attempt: int, kept: bool) -> None:
    def end(session: Session) -> Any:
        leave_effect(session)
        if isinstance(how, BaseException):
            raise how
        return how()

    task = fast.task(end, retry=RetryPolicy(base=HOUR))
    first, job, last = fast.enqueue(fast.note.job(), task.job(), fast.note.job())
    _, finished, _ = fast.drain()
    row = fast.row(job)
    assert (row.state, row.attempt, row.claim) == (state, attempt, 1)
    assert finished.state == state
    assert finished.run_at == (row.run_at if state == "scheduled" else None)
    assert fast.effects() == ([first, job, last] if kept else [first, last])
    assert fast.groups() == [[first, job, last]]


def test_a_retry_runs_again_with_the_next_attempt(fast: Fast) -> None:
    seen: list[int] = []

    def third_time(session: Session) -> None:
        seen.append(current_job().attempt)
        leave_effect(session)
        if len(seen) < 3:
            raise ValueError

    job, other = fast.enqueue(
        fast.task(third_time, retry=RetryPolicy(base=timedelta(0))).job(), fast.note.job()
    )
    fast.drain()
    assert seen == [1, 2, 3]
    assert (fast.row(job).attempt, fast.row(job).claim, len(fast.errors(job))) == (3, 3, 2)
    assert fast.effects() == [job, other]


def test_a_task_that_nobody_knows_is_an_ordinary_failed_attempt(fast: Fast) -> None:
    gone = fast.task(leave_effect, name="gone")
    first, job, last = fast.enqueue(fast.note.job(), gone.job(), fast.note.job())
    fast.jobs.unregister(gone)
    finished = fast.drain()
    assert [type(each.error) for each in finished if each.job.id == job] == [UnknownTask]
    assert fast.row(job).state == "scheduled"
    assert fast.effects() == [first, last]


def test_arguments_that_cannot_be_read_fail_alone(fast: Fast) -> None:
    first, bad, last = fast.enqueue(*[fast.note.job() for _ in range(3)])
    fast.database.execute("""UPDATE sqla_jobs SET arguments = '{"unheard": 1}' WHERE id = :id""", id=bad)
    fast.drain()
    assert fast.states() == ["succeeded", "failed", "succeeded"]
    assert fast.effects() == [first, last]
    assert fast.groups() == [[first, bad, last]]


# -- how long ----------------------------------------------------------------------------------------


def test_a_group_of_slow_jobs_ends_early(fast: Fast) -> None:
    """So that others wait no longer for what it has locked than the budget and one job."""

    def slow(_: Session) -> None:
        threading.Event().wait(2 * group.BUDGET)  # which never comes

    task = fast.task(slow)
    ids = fast.enqueue(*[task.job() for _ in range(3)])
    fast.drain(budget=group.BUDGET)
    assert fast.groups() == [[job] for job in ids]
    assert {fast.row(job).attempt for job in ids} == {1}


@pytest.mark.parametrize(
    ("size", "jobs", "seconds", "then"),
    [
        (1, 1, 0.001, 4),
        (2, 2, 0.001, 8),
        (200, 200, 0.010, 200),
        (8, 8, 0.040, 4),
        (8, 1, 0.100, 1),
        (4, 4, 0.0, 16),
        (200, 200, 0.0, 200),
    ],
)
def test_the_size_follows_how_long_the_jobs_take(size: int, jobs: int, seconds: float, then: int) -> None:
    pace = Pace(size)
    pace.learn(jobs, seconds, is_full=False)
    assert pace.size == then


def test_what_a_transaction_has_no_room_for_is_not_locked_the_next_time() -> None:
    pace = Pace(200)
    pace.learn(70, 0.001, is_full=True)
    assert pace.size == 70


def test_a_worker_stops_after_its_number_of_jobs_in_the_middle_of_a_group(fast: Fast) -> None:
    fast.enqueue(*[fast.note.job() for _ in range(5)])
    finished = fast.drain(max_jobs=3)
    assert len(finished) == 3
    assert fast.states() == ["succeeded"] * 3 + ["queued"] * 2
    assert {row.attempt for row in fast.database.rows("SELECT attempt FROM sqla_jobs ORDER BY id")} == {0, 1}


# -- hooks -----------------------------------------------------------------------------------------


def test_hooks_are_told_of_each_job_once_and_after_the_commit(fast: Fast) -> None:
    def fail(_: Session) -> None:
        raise ValueError

    seen: list[tuple[str, int, set[str]]] = []

    def look(name: str) -> Any:
        return lambda _, done: seen.append((name, done.job.id, set(fast.states())))

    a, b, c = fast.enqueue(fast.note.job(), fast.task(fail).job(), fast.note.job())
    fast.drain(on_failure=look("failure"), on_finish=look("finish"))
    done = {"succeeded", "failed"}
    assert seen == [(n, i, done) for n, i in [("finish", a), ("failure", b), ("finish", b), ("finish", c)]]


def test_a_hook_that_exits_ends_the_thread_after_all_were_told_of(fast: Fast) -> None:
    told = Told()

    def leave(worker: Worker, done: Finished) -> None:
        told.on_finish(worker, done)
        if done.job.id == ids[1]:
            raise SystemExit

    ids = fast.enqueue(*[fast.note.job() for _ in range(3)])
    with unhurried():
        worker = Worker(fast.jobs, fast.database.engine, on_finish=leave)
        with worker:
            assert [each.job.id for each in told.take(3)] == ids
            worker.stop()
            assert worker.join(PATIENCE)
    assert told.silent
    assert fast.states() == ["succeeded"] * 3


# -- what is refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 201, 1.5, "9", True, [5]])
def test_a_size_that_cannot_be(size: Any) -> None:
    with pytest.raises(InvalidOption, match=r"^group_commit .*; expected a whole number from 1 to 200$"):
        Jobs().task(name="t", group_commit=size)(leave_effect)


def test_without_a_timeout_of_its_own_a_task_has_one_second() -> None:
    jobs = Jobs()
    assert jobs.task(name="a", group_commit=1)(leave_effect).timeout == timedelta(seconds=1)
    assert jobs.task(name="b", group_commit=1, timeout=HOUR)(leave_effect).timeout == HOUR
    assert jobs.task(name="c")(leave_effect).timeout is None


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("of", ["engine", "server"])
def test_a_higher_isolation_level_is_refused_at_the_start(fast: Fast, level: str, of: str) -> None:
    engine = fast.database.engine
    if of == "engine":
        engine = engine.execution_options(isolation_level=level)
    else:
        fast.database.execute(
            f"ALTER DATABASE \"{fast.database.name}\" SET default_transaction_isolation = '{level.lower()}'"
        )
        engine.dispose()
    worker = Worker(fast.jobs, engine)
    with pytest.raises(
        ConfigurationError, match=f"has group_commit, .* are {level}; expected READ COMMITTED"
    ):
        worker.start()
    assert worker.state == "stopped"
    fast.jobs.unregister("note")
    (job,) = fast.enqueue(fast.plain.job())
    drain(fast.jobs, fast.database, sessions=engine)
    assert fast.row(job).state == JobState.SUCCEEDED, "an ordinary job may have that level"


def test_sessions_of_another_level_are_refused_too(fast: Fast) -> None:
    high = fast.database.engine.execution_options(isolation_level="SERIALIZABLE")
    with pytest.raises(ConfigurationError):
        Worker(fast.jobs, sessionmaker(binds={Job: high})).start()
    with fast.database.sessionmaker() as session:
        assert session.execute(text("SELECT 1")).scalar() == 1
