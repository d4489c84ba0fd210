"""Serialization failures (40001) and deadlocks (40P01): nobody's fault, so no attempt is spent on them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, JobState, Snooze, current_job
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.runner import RERUNS, Runner, work_once
from sqla_jobs.scope import Interrupter
from tests.support.lane import AT_ONCE, NEVER, Lane, leave_effect, logged, persist
from tests.support.server import Database
from tests.support.waiting import blocked, until

BLOCKED = blocked("= 1")


@pytest.fixture
def make_lane(database: Database) -> Iterator[Callable[[str], Lane]]:
    """Lanes whose jobs run at an isolation level."""
    database.execute("INSERT INTO items (name) VALUES ('one'), ('two')")
    engines: list[Engine] = []

    def make(level: str, said: str = "to the engine") -> Lane:
        options = {"isolation_level": level} if said == "to the engine" else {}
        engines.append(create_engine(database.url, pool_size=10, **options))
        if said == "to the server":
            database.execute(
                f"ALTER DATABASE \"{database.name}\" SET default_transaction_isolation = '{level}'"
            )
        elif said == "to a copy of the engine":
            return Lane(database, engines[0].execution_options(isolation_level=level))
        return Lane(database, engines[0])

    yield make
    for engine in engines:
        engine.dispose()


class Meeting:
    """A task that changes a row which somebody else has changed since its first look, so many times."""

    __name__ = __qualname__ = "meeting"

    def __init__(self, database: Database, conflicts: int) -> None:
        self.database = database
        self.conflicts = conflicts
        self.calls = 0

    def __call__(self, session: Session) -> None:
        self.calls += 1
        leave_effect(session)
        session.execute(text("SELECT name FROM items"))
        if self.calls <= self.conflicts:
            self.database.execute("UPDATE items SET name = name || '!' WHERE name LIKE 'one%'")
        session.execute(text("UPDATE items SET name = name || '?' WHERE name LIKE 'one%'"))


# -- the job meets a conflict ----------------------------------------------------------------------


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_job_that_meets_a_conflict_runs_again_and_spends_no_attempt(
    make_lane: Callable[[str], Lane], level: str, caplog: pytest.LogCaptureFixture
) -> None:
    lane = make_lane(level)
    meeting = Meeting(lane.database, RERUNS)
    job = lane.enqueue(lane.task(meeting, retry=NEVER))
    with caplog.at_level(logging.INFO, "sqla_jobs"):
        finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    row = lane.row(job)
    assert (row.state, row.attempt, row.claim, row.attempts) == ("succeeded", 1, 1, [])
    assert (meeting.calls, lane.effects(job)) == (RERUNS + 1, 1)
    assert logged(caplog) == []
    assert RERUNS == 5


def test_after_so_many_conflicts_the_attempt_has_failed(make_lane: Callable[[str], Lane]) -> None:
    lane = make_lane("REPEATABLE READ")
    meeting = Meeting(lane.database, RERUNS + 1)
    job = lane.enqueue(lane.task(meeting))
    finished = lane.run()
    assert finished is not None
    assert isinstance(finished.error, OperationalError)
    assert (lane.row(job).state, lane.row(job).attempt) == ("scheduled", 1)
    assert (meeting.calls, lane.effects(job)) == (RERUNS + 1, 0)
    ((name, message),) = lane.errors(job)
    assert name == "sqlalchemy.exc.OperationalError"
    assert "could not serialize access" in message


def test_a_conflict_that_only_the_commit_finds(make_lane: Callable[[str], Lane]) -> None:
    """Write skew: the job reads what another transaction writes, which reads what the job writes."""
    lane = make_lane("SERIALIZABLE")
    calls = []

    def swap(session: Session) -> None:
        calls.append(current_job().attempt)
        leave_effect(session)
        session.execute(text("SELECT name FROM items WHERE name LIKE 'one%'"))
        if len(calls) == 1:
            other = create_engine(lane.database.url, isolation_level="SERIALIZABLE")
            with other.begin() as connection:
                connection.execute(text("SELECT name FROM items WHERE name LIKE 'two%'"))
                connection.execute(text("UPDATE items SET name = 'one, changed' WHERE name = 'one'"))
                session.execute(text("UPDATE items SET name = 'two, changed' WHERE name = 'two'"))
            other.dispose()

    job = lane.enqueue(lane.task(swap))
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert (calls, lane.effects(job), lane.row(job).attempt) == ([1, 1], 1, 1)


def test_two_jobs_in_a_deadlock_both_succeed_at_their_first_attempt(make_lane: Callable[[str], Lane]) -> None:
    lane = make_lane("READ COMMITTED")
    both_hold_one = threading.Barrier(2)
    calls: list[int] = []

    def lock(session: Session, first: str, second: str) -> None:
        calls.append(current_job().id)
        leave_effect(session)
        change = text("UPDATE items SET name = name || '!' WHERE name LIKE :name || '%'")
        session.execute(change, {"name": first})
        if calls.count(current_job().id) == 1:
            both_hold_one.wait(30)
        session.execute(change, {"name": second})

    lane.database.execute(f'ALTER DATABASE "{lane.database.name}" SET deadlock_timeout = 10')
    task = lane.task(lock, retry=NEVER)
    jobs = [lane.enqueue(task, "one", "two"), lane.enqueue(task, "two", "one")]
    claimed = [lane.claim(), lane.claim()]
    with ThreadPoolExecutor() as pool:
        ended = list(pool.map(lane.runner.perform, claimed))
    assert [each.state for each in ended if each] == [JobState.SUCCEEDED] * 2
    assert [lane.row(job).attempt for job in jobs] == [1, 1]
    assert [lane.effects(job) for job in jobs] == [1, 1]
    assert len(calls) == 3, "one of them was the victim, once"


# -- the finish meets a conflict -------------------------------------------------------------------


def fails(session: Session) -> None:
    leave_effect(session)
    session.flush()
    raise ValueError("its own")


def snoozes(_: Session) -> Snooze:
    return Snooze(timedelta(hours=1))


def succeeds(_: Session) -> None:
    """Without a statement."""


ENDINGS: dict[str, tuple[Callable[[Session], Any], dict[str, Any], str]] = {
    "fails": (fails, {}, "scheduled"),
    "snoozes": (snoozes, {}, "scheduled"),
    "succeeds": (succeeds, {}, "succeeded"),
    "is to be deleted": (succeeds, {"retention": timedelta(0)}, "succeeded"),
}


@pytest.mark.parametrize(("ending", "options", "state"), ENDINGS.values(), ids=ENDINGS)
def test_a_transaction_that_holds_only_the_finish_sends_only_that_again(
    make_lane: Callable[[str], Lane], ending: Callable[[Session], Any], options: dict[str, Any], state: str
) -> None:
    lane = make_lane("REPEATABLE READ")
    calls = []

    def quick(session: Session) -> Any:
        calls.append(current_job().id)
        return ending(session)

    job = lane.enqueue(lane.task(quick, **options))
    claimed = lane.claim()
    with lane.database.engine.connect() as other, ThreadPoolExecutor() as pool:
        # The snapshot is taken by the finish, which must be caught in the act.
        other.execute(text("UPDATE sqla_jobs SET priority = 1"))
        finished = pool.submit(lane.runner.perform, claimed)
        until(lane.database, BLOCKED)
        other.commit()
        result = finished.result(30)
    assert result is not None
    assert (result.state, lane.row(job).state, calls) == (state, state, [job])
    assert lane.errors(job) == ([("ValueError", "its own")] if ending is fails else [])
    assert lane.effects(job) == 0


def changed_meanwhile(lane: Lane, change: str, calls: list[int]) -> Claimed:
    """A claimed job whose row is changed after its snapshot: the finish meets a serialization failure."""

    def write(session: Session) -> None:
        leave_effect(session)
        session.flush()
        calls.append(current_job().id)
        if len(calls) == 1:
            lane.database.execute(f"UPDATE sqla_jobs SET {change}")

    lane.enqueue(lane.task(write))
    return lane.claim()


def test_a_row_that_changed_in_nothing_that_matters_makes_the_job_run_again(
    make_lane: Callable[[str], Lane],
) -> None:
    lane, calls = make_lane("REPEATABLE READ"), list[int]()
    job = changed_meanwhile(lane, "priority = 1", calls)
    finished = lane.runner.perform(job)
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert (len(calls), lane.effects(job.id), lane.row(job.id).attempt) == (2, 1, 1)


@pytest.mark.parametrize("change", ["claim = claim + 1", "worker_id = worker_id + 1", "state = 'queued'"])
def test_a_row_that_was_taken_over_meanwhile_is_lost(
    make_lane: Callable[[str], Lane], change: str, caplog: pytest.LogCaptureFixture
) -> None:
    lane, calls = make_lane("REPEATABLE READ"), list[int]()
    job = changed_meanwhile(lane, change, calls)
    assert lane.runner.perform(job) is None
    assert (len(calls), lane.effects(job.id), lane.row(job.id).attempts) == (1, 0, [])
    assert logged(caplog) == [f"job {job.id} (write) lost: its claim was taken over"]


def test_a_commit_that_was_not_lost_is_not_taken_for_one(make_lane: Callable[[str], Lane]) -> None:
    """The row may well say ``succeeded``: a conflict says that it was not this run which wrote that."""
    lane, calls = make_lane("REPEATABLE READ"), list[int]()
    job = changed_meanwhile(lane, "state = 'succeeded', finished_at = now()", calls)
    assert lane.runner.perform(job) is None
    assert lane.effects(job.id) == 0


def test_a_cancel_that_was_requested_meanwhile_is_done(make_lane: Callable[[str], Lane]) -> None:
    lane, calls = make_lane("REPEATABLE READ"), list[int]()
    job = changed_meanwhile(lane, "cancel_requested_at = now()", calls)
    finished = lane.runner.perform(job)
    assert finished is not None
    assert (finished.state, type(finished.error), finished.failed) == (JobState.CANCELLED, Cancel, False)
    assert (len(calls), lane.effects(job.id), lane.row(job.id).state) == (1, 0, "cancelled")


# -- claims ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("said", ["to the engine", "to a copy of the engine", "to the server"])
def test_claims_are_read_committed_wherever_another_level_is_set(
    make_lane: Callable[..., Lane], said: str
) -> None:
    lane = make_lane("SERIALIZABLE", said)
    lane.database.execute(
        "INSERT INTO sqla_jobs (task, state) SELECT 't', 'queued' FROM generate_series(1, 400)"
    )
    begin, refused = threading.Barrier(8), list[str]()
    # One each: threads that share one claim together, one at a time.
    runners = [Runner(lane.runner.registry, lane.runner.sessions, persist) for _ in range(8)]

    def claim_all(runner: Runner) -> list[int]:
        begin.wait(30)
        mine = []
        try:
            while job := runner.claim(lane.worker_id, None):
                mine.append(job.id)
        except DBAPIError as error:
            refused.append(str(error.orig))
        return mine

    with ThreadPoolExecutor(8) as pool:
        claimed = [number for mine in pool.map(claim_all, runners) for number in mine]
    for runner in runners:
        runner.close()
    assert refused == []
    assert len(claimed) == len(set(claimed)) == 400
    assert lane.database.scalar("SELECT count(*) FROM sqla_jobs WHERE attempt = 1 AND claim = 1") == 400


# -- in the caller's transaction -------------------------------------------------------------------


def test_work_once_raises_a_conflict_and_records_nothing(make_lane: Callable[[str], Lane]) -> None:
    lane = make_lane("REPEATABLE READ")
    meeting = Meeting(lane.database, 1)
    job = lane.enqueue(lane.task(meeting))
    with Session(lane.runner.engine) as session:
        with pytest.raises(OperationalError, match="could not serialize"):
            work_once(lane.jobs, session)
        session.rollback()
        row = lane.row(job)
        assert (row.state, row.attempt, row.claim, row.attempts) == ("queued", 0, 0, [])
        finished = work_once(lane.jobs, session)
        session.commit()
    assert finished is not None
    assert (finished.state, meeting.calls, lane.effects(job)) == ("succeeded", 2, 1)


def test_a_rerun_is_not_interrupted_on_the_connection_of_the_run_before(database: Database) -> None:
    """That one is somebody else's by now: a statement of a neighbour would be cancelled."""
    lane, interrupter, runs = Lane(database), Interrupter(), list[int]()

    def task(session: Session) -> None:
        session.execute(text("SELECT 1"))
        runs.append(len(interrupter._drivers))
        if len(runs) == 1:
            raise OperationalError("s", {}, _Conflict())

    lane.enqueue(lane.task(task, retry=AT_ONCE))
    finished = lane.runner.perform(lane.claim(), interrupter)
    assert finished is not None
    assert (finished.state, runs, interrupter._drivers) == (JobState.SUCCEEDED, [1, 1], [])


class _Conflict(Exception):
    sqlstate = "40001"
