"""Commits that the server refuses, and connections that are lost in a commit, at a finish, in a job."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, JobState, RetryPolicy, Snooze
from sqla_jobs.errors import JobEscaped
from sqla_jobs.runner import RERUNS
from tests.support.lane import NEVER, Lane, leave_effect, logged
from tests.support.models import Effect
from tests.support.proxy import Proxy, proxy
from tests.support.server import Database
from tests.support.waiting import blocked, until

FINISH = "finished_at=CASE"
FINISH_OF_MANY = "SET state='succeeded'"
EFFECT = "INSERT INTO effects"
HOUR = timedelta(hours=1)


# -- refused ---------------------------------------------------------------------------------------


@pytest.fixture
def refusing(database: Database) -> Lane:
    database.execute("CREATE TABLE seats (number int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    return Lane(database)


def book_twice(session: Session) -> None:
    leave_effect(session)
    session.execute(text("INSERT INTO seats VALUES (1), (1)"))  # refused, but only at the COMMIT


@pytest.mark.parametrize("returned", [None, Snooze(HOUR), Cancel("why")], ids=["success", "snooze", "cancel"])
@pytest.mark.parametrize(("retry", "state"), [(RetryPolicy(), "scheduled"), (NEVER, "failed")])
def test_a_refused_commit_is_a_failed_attempt_with_the_commits_error(
    refusing: Lane, returned: object, retry: RetryPolicy, state: str
) -> None:
    def book(session: Session) -> object:
        book_twice(session)
        return returned

    job = refusing.enqueue(refusing.task(book, retry=retry))
    finished = refusing.run()
    assert finished is not None
    assert isinstance(finished.error, IntegrityError)
    assert finished.state == state
    row = refusing.row(job)
    assert (row.state, row.attempt, refusing.effects(job)) == (state, 1, 0)
    ((name, message),) = refusing.errors(job)
    assert name == "sqlalchemy.exc.IntegrityError"
    assert "duplicate key value" in message


def test_a_job_that_fails_anyway_is_recorded_with_its_own_error(refusing: Lane) -> None:
    def book(session: Session) -> None:
        book_twice(session)
        raise ValueError("its own")

    job = refusing.enqueue(refusing.task(book))
    refusing.run()
    assert refusing.errors(job) == [("ValueError", "its own")]


def test_the_refusal_of_a_stale_writer_is_not_recorded(refusing: Lane) -> None:
    def book(session: Session) -> None:
        refusing.database.execute("UPDATE sqla_jobs SET claim = claim + 1")
        book_twice(session)

    job = refusing.enqueue(refusing.task(book))
    assert refusing.run() is None
    assert refusing.row(job).attempts == []


# -- lost ------------------------------------------------------------------------------------------


@pytest.fixture
def between(database: Database) -> Iterator[Proxy]:
    with proxy(database) as between:
        yield between


@pytest.fixture
def lane(between: Proxy) -> Iterator[Lane]:
    engine = between.engine()
    yield Lane(between.database, engine)
    engine.dispose()


class Counted:
    """A task that leaves an effect and ends as it is told, and counts how often it is called."""

    __name__ = "counted"
    __qualname__ = "Counted"

    def __init__(self, ending: object = None, *, writes: bool = True) -> None:
        self.calls = 0
        self.ending = ending
        self.writes = writes

    def __call__(self, session: Session) -> object:
        self.calls += 1
        if self.writes:
            leave_effect(session)
        if isinstance(self.ending, BaseException) and not isinstance(self.ending, (Snooze, Cancel)):
            raise self.ending
        return self.ending


def test_a_commit_that_took_effect_stands_though_nobody_was_told(
    lane: Lane, between: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    counted = Counted()
    job = lane.enqueue(lane.task(counted))
    loss = between.lose("COMMIT", within=EFFECT, carried_out=True)
    finished = lane.run()
    assert loss.happened.wait(30)
    assert finished is not None
    assert (finished.state, finished.error) == (JobState.SUCCEEDED, None)
    assert (counted.calls, lane.effects(job), lane.row(job).state) == (1, 1, "succeeded")
    assert logged(caplog) == [f"job {job} (counted): its commit stands, though it ended in OperationalError"]


def test_a_commit_that_never_reached_the_server_makes_the_job_run_again(lane: Lane, between: Proxy) -> None:
    counted = Counted()
    job = lane.enqueue(lane.task(counted))
    loss = between.lose("COMMIT", within=EFFECT)
    finished = lane.run()
    assert loss.happened.is_set()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    row = lane.row(job)
    assert (row.state, row.attempt, row.claim, row.attempts) == ("succeeded", 1, 1, [])
    assert (counted.calls, lane.effects(job)) == (2, 1)


def test_a_job_whose_commits_are_lost_for_ever_fails_an_attempt_at_last(lane: Lane, between: Proxy) -> None:
    counted = Counted()
    job = lane.enqueue(lane.task(counted))
    loss = between.lose("COMMIT", within=EFFECT, times=RERUNS + 1)
    finished = lane.run()
    assert loss.happened.is_set()
    assert finished is not None
    assert isinstance(finished.error, OperationalError)
    assert (lane.row(job).state, lane.row(job).attempt) == ("scheduled", 1)
    assert (counted.calls, lane.effects(job), len(lane.errors(job))) == (1 + RERUNS, 0, 1)


@pytest.mark.parametrize("times", [1, RERUNS + 1])
def test_a_connection_that_was_dead_when_the_job_came_to_it_is_not_the_jobs_fault(
    lane: Lane, between: Proxy, times: int
) -> None:
    """As after a restart of the server, with an engine that does not look before it hands one out."""
    counted = Counted()
    job = lane.enqueue(lane.task(counted))
    loss = between.lose("SAVEPOINT", times=times)
    finished = lane.run()
    assert loss.happened.is_set()
    assert finished is not None
    row = lane.row(job)
    ended = ("scheduled", 0, 1) if times > RERUNS else ("succeeded", 1, 0)
    assert (row.state, lane.effects(job), len(row.attempts)) == ended, "at last an attempt has failed"
    assert (counted.calls, row.attempt, row.claim) == (min(times, RERUNS) + 1, 1, 1)


@pytest.mark.parametrize("carried_out", [True, False])
@pytest.mark.parametrize(
    ("ending", "state", "records"),
    [(ValueError("no"), "scheduled", 1), (Snooze(HOUR), "scheduled", 0), (Cancel("why"), "cancelled", 1)],
    ids=["failure", "snooze", "cancel"],
)
def test_other_outcomes_are_recorded_once_too(
    lane: Lane, between: Proxy, ending: Exception, state: str, records: int, carried_out: bool
) -> None:
    counted = Counted(ending, writes=False)
    job = lane.enqueue(lane.task(counted))
    loss = between.lose("COMMIT", within=FINISH, carried_out=carried_out)
    finished = lane.run()
    assert loss.happened.wait(30)
    assert finished is not None
    assert (finished.state, finished.error) == (state, ending)
    row = lane.row(job)
    assert (row.state, len(row.attempts), row.claim) == (state, records, 1)
    assert finished.run_at == (row.run_at if state == "scheduled" else None)
    assert counted.calls == 1, "its transaction held nothing but the finish, which is sent again alone"


def test_a_returned_snooze_whose_writes_are_lost_runs_again(lane: Lane, between: Proxy) -> None:
    counted = Counted(Snooze(HOUR))
    job = lane.enqueue(lane.task(counted))
    between.lose("COMMIT", within=EFFECT)
    lane.run()
    assert (counted.calls, lane.effects(job), lane.row(job).attempt) == (2, 1, 0)


@pytest.mark.parametrize("writes", [True, False])
def test_a_connection_lost_at_the_finish(lane: Lane, between: Proxy, writes: bool) -> None:
    counted = Counted(writes=writes)
    job = lane.enqueue(lane.task(counted))
    loss = between.lose(FINISH if writes else FINISH_OF_MANY)
    finished = lane.run()
    assert loss.happened.is_set()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert lane.row(job).attempt == 1
    assert (counted.calls, lane.effects(job)) == ((2, 1) if writes else (1, 0))


@pytest.mark.parametrize("fails", [False, True])
def test_a_job_that_ended_while_the_database_was_away_is_not_run_again(
    lane: Lane, between: Proxy, fails: bool
) -> None:
    """It has not used its Session, and perhaps has sent a mail: there is only the outcome to be recorded."""
    calls = []

    def send_mail(session: Session) -> None:
        calls.append(session)
        lane.runner.engine.dispose()  # no connection to be lost: there is none to be had
        between.refuse()
        if fails:
            raise ValueError("no such address")

    class SecondTry(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            between.admit()

    job = lane.enqueue(lane.task(send_mail))
    second_try = SecondTry()
    logging.getLogger("sqla_jobs").addHandler(second_try)
    finished = lane.run()
    logging.getLogger("sqla_jobs").removeHandler(second_try)
    assert finished is not None
    row = lane.row(job)
    assert len(calls) == 1
    if fails:
        assert isinstance(finished.error, ValueError), "that is its outcome, not the outage"
        assert (row.state, len(row.attempts), row.attempts[0]["error"]) == ("scheduled", 1, "ValueError")
    else:
        assert finished.state is JobState.SUCCEEDED
        assert (row.state, row.attempts) == ("succeeded", [])


@pytest.mark.parametrize("swallowed", [False, True])
def test_a_connection_lost_in_the_job_is_a_failed_attempt(
    lane: Lane, between: Proxy, swallowed: bool
) -> None:
    calls = []

    def write(session: Session) -> None:
        calls.append(session)
        session.execute(text("SELECT 1"))
        try:
            session.execute(text("INSERT INTO effects (job_id) VALUES (0)"))
        except OperationalError:
            if not swallowed:
                raise

    job = lane.enqueue(lane.task(write))
    between.lose(EFFECT)
    finished = lane.run()
    assert finished is not None
    assert isinstance(finished.error, JobEscaped if swallowed else OperationalError)
    assert (lane.row(job).state, lane.row(job).attempt, len(calls)) == ("scheduled", 1, 1)
    ((_, message),) = lane.errors(job)
    assert "its connection was lost" in message if swallowed else "server closed the connection" in message


@pytest.mark.parametrize("carried_out", [True, False])
def test_the_record_of_a_refused_commit_may_lose_its_connection_too(
    refusing: Lane, lane: Lane, between: Proxy, carried_out: bool
) -> None:
    job = lane.enqueue(lane.task(book_twice))
    loss = between.lose("COMMIT", within=FINISH, carried_out=carried_out, after=1)
    finished = lane.run()
    assert loss.happened.wait(30)
    assert finished is not None
    assert finished.state is JobState.SCHEDULED
    assert finished.run_at == lane.row(job).run_at
    assert len(lane.errors(job)) == 1


def test_who_has_taken_over_meanwhile_keeps_the_job(lane: Lane, between: Proxy) -> None:
    counted = Counted()

    def write(session: Session) -> None:
        counted(session)
        session.flush()
        lane.database.execute("UPDATE sqla_jobs SET claim = claim + 1")

    job = lane.enqueue(lane.task(write))
    between.lose(FINISH)
    assert lane.run() is None
    assert (lane.row(job).state, lane.effects(job), counted.calls) == ("running", 0, 1)


def test_a_cancel_that_was_requested_meanwhile_is_done(lane: Lane, between: Proxy) -> None:
    counted = Counted()

    def write(session: Session) -> None:
        counted(session)
        lane.database.execute("UPDATE sqla_jobs SET cancel_requested_at = now()")

    job = lane.enqueue(lane.task(write))
    between.lose(FINISH)
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.CANCELLED
    assert isinstance(finished.error, Cancel)
    assert (lane.row(job).state, lane.effects(job), counted.calls) == ("cancelled", 0, 1)


def test_a_commit_that_the_server_is_still_at_is_waited_for(lane: Lane, between: Proxy) -> None:
    """The client is gone, the COMMIT goes on: the row says ``running``, but the job must not run again."""
    database = lane.database
    database.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock_shared(1); RETURN NULL; END'"
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER dawdle AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION dawdle()"
    )
    counted = Counted()
    job = lane.enqueue(lane.task(counted))
    loss = between.lose("COMMIT", within=EFFECT, carried_out=True)
    with database.engine.connect() as holder, ThreadPoolExecutor() as pool:
        holder.execute(text("SELECT pg_advisory_lock(1)"))
        finished = pool.submit(lane.run)
        # The COMMIT waits for the lock; whoever looks at the row, or writes it, waits for the COMMIT.
        until(database, blocked("= 2"))
        holder.execute(text("SELECT pg_advisory_unlock(1)"))
        result = finished.result(30)
    assert loss.happened.wait(30)
    assert result is not None
    assert result.state is JobState.SUCCEEDED
    assert (counted.calls, lane.effects(job), lane.row(job).state) == (1, 1, "succeeded")


def test_a_claim_is_durable_where_commits_are_not(refusing: Lane) -> None:
    """One that the server forgets in a crash is an attempt uncounted and a fencing number given twice."""
    database = refusing.database
    database.execute(f'ALTER DATABASE "{database.name}" SET synchronous_commit = off')
    database.execute("CREATE TABLE commits (state text, durable text)")
    database.execute(
        "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN"
        " INSERT INTO commits VALUES (NEW.state, current_setting(''synchronous_commit'')); RETURN NULL; END'"
    )
    database.execute(
        "CREATE CONSTRAINT TRIGGER note AFTER UPDATE ON sqla_jobs DEFERRABLE INITIALLY DEFERRED"
        " FOR EACH ROW EXECUTE FUNCTION note()"
    )
    refusing.enqueue(refusing.task(leave_effect))
    database.engine.dispose()  # connections from before would not know the setting
    refusing.run()
    noted = database.rows("SELECT state, durable FROM commits")
    assert list(noted) == [("running", "on"), ("succeeded", "off")]


def test_effects_are_counted_by_their_jobs(lane: Lane) -> None:
    # The observer of the tests above: it would see a second effect.
    job = lane.enqueue(lane.task(leave_effect))
    lane.run()
    with lane.database.sessionmaker.begin() as session:
        session.add(Effect(job_id=job))
    assert lane.effects(job) == 2
