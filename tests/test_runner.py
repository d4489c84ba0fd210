"""One job of the ordinary lane: what it wrote is committed with its outcome, or not at all."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import Cancel, JobState, RetryPolicy, Snooze, current_job
from sqla_jobs.errors import ConfigurationError, JobEscaped, JobsError, UnknownTask
from sqla_jobs.runner import Runner, work_once
from tests.support.lane import AT_ONCE, NEVER, Lane, leave_effect, logged, persist
from tests.support.models import Item
from tests.support.server import Database

MINUTE = timedelta(minutes=1)


@pytest.fixture
def lane(database: Database) -> Lane:
    return Lane(database)


# -- outcomes --------------------------------------------------------------------------------------


def test_success_and_writes_are_committed_together(lane: Lane) -> None:
    seen: list[Any] = []

    def write(session: Session) -> None:
        leave_effect(session)
        session.flush()
        seen.append((lane.row(current_job().id).state, lane.effects(current_job().id)))

    job = lane.enqueue(lane.task(write))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, finished.error, finished.failed) == (JobState.SUCCEEDED, None, False)
    assert seen == [("running", 0)], "others see that it runs, and nothing that it writes"
    assert (lane.row(job).state, lane.effects(job)) == ("succeeded", 1)


@pytest.mark.parametrize(
    "error",
    [ValueError("no"), AssertionError(), KeyboardInterrupt(), SystemExit(0), GeneratorExit()],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_is_a_failed_attempt_that_leaves_nothing(lane: Lane, error: BaseException) -> None:
    def fail(session: Session) -> None:
        leave_effect(session)
        session.flush()
        raise error

    job = lane.enqueue(lane.task(fail, retry=RetryPolicy(max_attempts=2)))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, finished.error, finished.failed) == (JobState.SCHEDULED, error, True)
    assert finished.run_at == lane.row(job).run_at > datetime.now(timezone.utc)
    assert (lane.row(job).state, lane.effects(job)) == ("scheduled", 0)
    assert [name for name, _ in lane.errors(job)] == [type(error).__name__]


def test_without_attempts_left_it_is_failed(lane: Lane) -> None:
    def fail(session: Session) -> None:
        raise ValueError("no")

    job = lane.enqueue(lane.task(fail, retry=NEVER))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, finished.run_at) == (JobState.FAILED, None)
    assert lane.row(job).state == "failed"


@pytest.mark.parametrize("raised", [True, False])
@pytest.mark.parametrize(
    ("signal", "state", "attempt"), [(Snooze(MINUTE), "scheduled", 0), (Cancel("why"), "cancelled", 1)]
)
def test_signals_keep_what_was_written_if_returned_and_undo_it_if_raised(
    lane: Lane, signal: Exception, state: str, attempt: int, raised: bool
) -> None:
    def give(session: Session) -> Exception:
        leave_effect(session)
        if raised:
            raise signal
        return signal

    job = lane.enqueue(lane.task(give))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, finished.error, finished.failed) == (state, signal, False)
    row = lane.row(job)
    assert (row.state, row.attempt, row.claim) == (state, attempt, 1)
    assert lane.effects(job) == (0 if raised else 1)


def test_an_unknown_task_is_a_failed_attempt_and_is_retried(lane: Lane) -> None:
    with lane.database.sessionmaker.begin() as session:
        job = lane.jobs.enqueue(session, "of.a.newer.version", order=7).id
    finished = lane.run()
    assert finished is not None
    assert isinstance(finished.error, UnknownTask)
    assert finished.state is JobState.SCHEDULED
    ((name, message),) = lane.errors(job)
    assert name == "sqla_jobs.errors.UnknownTask"
    assert "no task named 'of.a.newer.version' is registered" in message

    @lane.jobs.task(name="of.a.newer.version")
    def known(session: Session, order: int) -> None:
        leave_effect(session)

    lane.database.execute("UPDATE sqla_jobs SET state = 'queued'")
    assert lane.run()
    assert (lane.row(job).state, lane.effects(job)) == ("succeeded", 1)


def test_arguments_that_the_code_cannot_take_fail_the_attempt(lane: Lane) -> None:
    def send(session: Session, order_id: int) -> None:
        raise AssertionError("must not be called")

    job = lane.enqueue(lane.task(send), 7)
    lane.database.execute("""UPDATE sqla_jobs SET arguments = '{"order_id": "seven"}'""")
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SCHEDULED
    ((name, message),) = lane.errors(job)
    assert name == "sqla_jobs.errors.ArgumentsNotLoadable"
    for told in ("send", "order_id", "seven"):
        assert told in message


def test_a_job_knows_itself_and_nobody_else_does(lane: Lane) -> None:
    seen = []

    def look(session: Session, order: int) -> None:
        seen.append(current_job())

    job = lane.enqueue(lane.task(look, queue="q"), 7, max_attempts=3)
    lane.run()
    (view,) = seen
    assert (view.id, view.task, view.queue, view.attempt, view.max_attempts) == (job, "look", "q", 1, 3)
    assert view.arguments == {"order": 7}
    with pytest.raises(JobsError, match="where no job runs"):
        current_job()


def test_what_a_job_sets_in_a_context_does_not_leak_into_the_next(lane: Lane) -> None:
    tenant: ContextVar[str] = ContextVar("tenant", default="nobody")
    seen = []

    def enter(session: Session) -> None:
        seen.append(tenant.get())
        tenant.set("somebody")

    task = lane.task(enter)
    for _ in range(2):
        lane.enqueue(task)
        lane.run()
    assert seen == ["nobody", "nobody"]


def test_a_job_that_does_not_use_its_session_begins_no_transaction(lane: Lane) -> None:
    said: list[str] = []
    event.listen(lane.database.engine, "before_cursor_execute", lambda *a: said.append(a[2]))
    event.listen(lane.database.engine, "savepoint", lambda *_: said.append("SAVEPOINT"))
    job = lane.enqueue(lane.task(lambda_task))
    said.clear()
    lane.run()
    assert lane.row(job).state == "succeeded"
    assert "SAVEPOINT" not in said
    assert [sql.split()[0] for sql in said] == ["WITH", "UPDATE"]


def lambda_task(session: Session) -> None:
    """Never touches the database."""


# -- the stale writer ------------------------------------------------------------------------------

TAKEN_OVER = {
    "claim": "claim = claim + 1",
    "worker": "worker_id = worker_id + 1",
    "state": "state = 'queued'",
    "rescued": "state = 'scheduled', worker_id = NULL, crashes = crashes + 1",
}


@pytest.mark.parametrize("change", TAKEN_OVER)
@pytest.mark.parametrize("fails", [False, True], ids=["succeeds", "fails"])
def test_the_stale_writer_writes_nothing(
    lane: Lane, change: str, fails: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def write(session: Session) -> None:
        leave_effect(session)
        lane.database.execute(f"UPDATE sqla_jobs SET {TAKEN_OVER[change]}")
        if fails:
            raise ValueError("too late")

    job = lane.enqueue(lane.task(write, retry=AT_ONCE))
    with caplog.at_level(logging.INFO, "sqla_jobs"):
        assert lane.run() is None, "a job that was lost has no outcome here, and so no hooks"
    assert logged(caplog) == [f"job {job} (write) lost: its claim was taken over"]
    assert lane.effects(job) == 0
    row = lane.row(job)
    assert (row.finished_at, row.attempts) == (None, [])
    assert row.state == {"state": "queued", "rescued": "scheduled"}.get(change, "running")


def test_a_job_that_was_deleted_while_it_ran_leaves_nothing(lane: Lane) -> None:
    def write(session: Session) -> None:
        leave_effect(session)
        lane.database.execute("DELETE FROM sqla_jobs")

    job = lane.enqueue(lane.task(write))
    assert lane.run() is None
    assert lane.effects(job) == 0


@pytest.mark.parametrize("change", ["claim = claim + 1", "state = 'running'", "state = 'scheduled'"])
def test_the_stale_writer_of_work_once_is_refused(lane: Lane, change: str) -> None:
    def write(session: Session) -> None:
        leave_effect(session)
        session.execute(text(f"UPDATE sqla_jobs SET {change}"))  # nobody else can: it is locked

    job = lane.enqueue(lane.task(write))
    with lane.database.sessionmaker() as session, pytest.raises(JobEscaped, match="cannot be recorded"):
        work_once(lane.jobs, session)
    assert (lane.row(job).state, lane.effects(job)) == ("queued", 0)


# -- the application's Sessions --------------------------------------------------------------------


def test_each_job_has_a_session_of_its_own(lane: Lane) -> None:
    seen = []

    def look(session: Session) -> None:
        seen.append(session)
        session.add(Item(name=f"item {len(seen)}"))

    task = lane.task(look)
    for _ in range(2):
        lane.enqueue(task)
        lane.run()
    first, second = seen
    assert first is not second
    assert not first.in_transaction()


def test_scoped_sessions_and_context_managers_are_makers_of_sessions(database: Database) -> None:
    entered = []

    @contextmanager
    def application() -> Iterator[Session]:
        entered.append("in")
        with database.sessionmaker() as session:
            yield session
        entered.append("out")

    for source in (scoped_session(database.sessionmaker), application):
        lane = Lane(database, source)
        job = lane.enqueue(lane.task(leave_effect))
        assert lane.run()
        assert lane.effects(job) == 1
    assert entered == ["in", "out", "in", "out"], "to find the engine, and for the job"


def test_a_session_on_a_connection_cannot_serve_threads(database: Database) -> None:
    with database.engine.connect() as connection:
        lane = Lane(database)
        with pytest.raises(ConfigurationError, match="expected a sessionmaker that is bound to an Engine"):
            Runner(lane.jobs, sessionmaker(connection), persist)


@pytest.mark.parametrize("error", [RuntimeError("no app context"), SystemExit(1)], ids=["error", "exit"])
def test_a_maker_that_raises_fails_the_attempt(
    database: Database, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    @contextmanager
    def application() -> Iterator[Session]:
        if broken:
            raise error
        with database.sessionmaker() as session:
            yield session

    lane = Lane(database, application)
    job = lane.enqueue(lane.task(leave_effect))
    broken = True
    finished = lane.run()
    assert finished is not None
    assert (finished.state, finished.error) == (JobState.SCHEDULED, error)
    assert lane.effects(job) == 0
    assert logged(caplog) == [f"job {job} (leave_effect): its Session failed"]


def test_a_maker_that_raises_at_the_end_changes_no_outcome(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    broken = False

    @contextmanager
    def application() -> Iterator[Session]:
        with database.sessionmaker() as session:
            yield session
        if broken:
            raise RuntimeError("its teardown failed")

    lane = Lane(database, application)
    job = lane.enqueue(lane.task(leave_effect))
    broken = True
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert (lane.row(job).state, lane.effects(job)) == ("succeeded", 1)
    assert logged(caplog) == [f"job {job} (leave_effect): its Session failed"]


# -- what cannot be recorded -----------------------------------------------------------------------


def test_a_policy_that_raises_does_not_make_a_job_run_for_ever(
    lane: Lane, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(RetryPolicy):
        def delay(self, *_: Any, **__: Any) -> timedelta | None:
            raise LookupError("no delay")

    def fail(session: Session) -> None:
        raise ValueError("no")

    job = lane.enqueue(lane.task(fail, retry=Broken()))
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SCHEDULED
    assert lane.row(job).attempt == 1
    assert lane.errors(job) == [("LookupError", "no delay")]
    assert logged(caplog) == [f"job {job} (fail): its outcome cannot be recorded"]


def test_an_outcome_that_the_table_refuses_is_recorded_as_that(lane: Lane) -> None:
    lane.database.execute("ALTER TABLE sqla_jobs ADD CONSTRAINT never CHECK (state <> 'succeeded')")
    job = lane.enqueue(lane.task(leave_effect))
    finished = lane.run()
    assert finished is not None
    assert isinstance(finished.error, IntegrityError)
    assert (lane.row(job).state, lane.row(job).attempt, lane.effects(job)) == ("scheduled", 1, 0)
    ((name, message),) = lane.errors(job)
    assert name == "sqlalchemy.exc.IntegrityError"
    assert '"never"' in message


# -- the engine's own settings ---------------------------------------------------------------------


def test_the_job_runs_at_the_applications_level_and_the_queue_at_read_committed(database: Database) -> None:
    engine = create_engine(database.url, isolation_level="SERIALIZABLE")
    lane = Lane(database, engine)
    levels = []

    def look(session: Session) -> None:
        levels.append(session.scalar(text("SHOW transaction_isolation")))

    lane.enqueue(lane.task(look))
    lane.run()
    levels.append(lane.runner.transact(lambda s: s.scalar(text("SHOW transaction_isolation"))))
    assert levels == ["serializable", "read committed"]
    engine.dispose()
