"""`current_job().checkpoint(session)`: what is committed on the way is there once for each claim."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, cancel, current_job
from sqla_jobs.errors import Cancel, ClaimLost, JobsError
from tests.support.lane import AT_ONCE, NEVER, Lane
from tests.support.models import Effect
from tests.support.server import Database

SEEN = "SELECT coalesce(array_agg(note ORDER BY note), '{}') FROM effects"


def write(session: Session, note: str) -> None:
    session.add(Effect(job_id=current_job().id, note=note))


def checkpoint(session: Any) -> None:
    current_job().checkpoint(session)


def test_what_is_before_it_is_seen_by_others_and_stays(database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        write(session, "1")
        checkpoint(session)
        assert database.scalar(SEEN) == ["1"]
        assert database.scalar("SELECT state FROM sqla_jobs") == "running"
        write(session, "2")
        session.flush()
        checkpoint(session)
        write(session, "3")
        session.flush()
        raise ValueError("after two steps")

    job = lane.enqueue(lane.task(task, retry=NEVER))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, database.scalar(SEEN)) == (JobState.FAILED, ["1", "2"])
    assert lane.errors(job) == [("ValueError", "after two steps")]


def test_the_rest_commits_with_the_finish(database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        checkpoint(session)  # of nothing
        write(session, "1")
        session.commit()
        checkpoint(session)
        with session.begin_nested():
            write(session, "2")
        session.rollback()
        write(session, "3")

    job = lane.enqueue(lane.task(task))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, database.scalar(SEEN)) == (JobState.SUCCEEDED, ["1", "3"])
    assert lane.row(job).attempt == 1


def test_a_rollback_goes_back_to_the_last_one(database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        write(session, "1")
        checkpoint(session)
        write(session, "2")
        session.rollback()
        write(session, "3")
        session.flush()
        session.close()
        write(session, "4")

    lane.enqueue(lane.task(task))
    lane.run()
    assert database.scalar(SEEN) == ["1", "4"]


@pytest.mark.parametrize(
    "robbed",
    ["claim = claim + 1", "worker_id = worker_id + 1", "state = 'queued'", "worker_id = NULL"],
)
def test_without_the_claim_nothing_is_committed(robbed: str, database: Database) -> None:
    """Somebody else has the job: it would do the step too."""
    lane = Lane(database)
    raised: list[BaseException] = []

    def task(session: Session) -> None:
        write(session, "1")
        checkpoint(session)
        write(session, "2")
        database.execute(f"UPDATE sqla_jobs SET {robbed}")
        try:
            checkpoint(session)
        except BaseException as error:
            raised.append(error)
            raise

    lane.enqueue(lane.task(task, retry=AT_ONCE))
    assert lane.run() is None, "it is lost"
    assert [type(error) for error in raised] == [ClaimLost]
    assert database.scalar(SEEN) == ["1"]


def test_it_holds_the_row_until_its_commit(database: Database) -> None:
    """Whoever would take the job from it waits, or passes it over, while the step is being committed."""
    lane = Lane(database)
    held: list[bool] = []

    def task(session: Session) -> None:
        write(session, "1")
        from sqlalchemy import event

        def on_commit(_: Any) -> None:
            with database.engine.connect() as other:
                free = other.execute(text("SELECT id FROM sqla_jobs FOR NO KEY UPDATE SKIP LOCKED")).all()
                held.append(not free)

        event.listen(session, "before_commit", on_commit, once=True)
        checkpoint(session)
        assert database.rows("SELECT id FROM sqla_jobs FOR NO KEY UPDATE SKIP LOCKED")

    lane.enqueue(lane.task(task))
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert any(held)


def test_a_requested_cancel_ends_the_job_there(database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        write(session, "1")
        checkpoint(session)
        write(session, "2")
        with database.sessionmaker.begin() as other:
            cancel(other, current_job().id)
        checkpoint(session)

    lane.enqueue(lane.task(task, retry=AT_ONCE))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, type(finished.error)) == (JobState.CANCELLED, Cancel)
    assert database.scalar(SEEN) == ["1"]


def test_after_one_a_conflict_is_a_failed_attempt(database: Database) -> None:
    """To run again under the same claim would do the first step twice."""
    lane = Lane(database)
    runs: list[int] = []

    def task(session: Session) -> None:
        runs.append(1)
        write(session, "1")
        checkpoint(session)
        raise OperationalError("s", {}, _Conflict())

    job = lane.enqueue(lane.task(task, retry=NEVER))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, len(runs), lane.row(job).attempt) == (JobState.FAILED, 1, 1)
    assert database.scalar(SEEN) == ["1"]


class _Conflict(Exception):
    sqlstate = "40001"


def test_the_next_claim_finds_what_is_done(database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        done = session.query(Effect).count()
        for step in range(done, 3):
            write(session, str(step))
            checkpoint(session)
            if current_job().attempt <= step:
                raise ValueError

    lane.enqueue(lane.task(task, retry=AT_ONCE))
    for _ in range(3):
        lane.run()
        database.execute("UPDATE sqla_jobs SET state = 'queued' WHERE state = 'scheduled'")
    assert (lane.row(1).state, lane.row(1).attempt) == ("succeeded", 3)
    assert database.scalar(SEEN) == ["0", "1", "2"]


def make_plain(database: Database) -> Any:
    return database.sessionmaker


def make_scoped(database: Database) -> Any:
    return scoped_session(database.sessionmaker)


def make_without_autobegin(database: Database) -> Any:
    return sessionmaker(database.engine, autobegin=False)


def make_begun(database: Database) -> Any:
    return database.sessionmaker.begin


def make_without_expiry(database: Database) -> Any:
    return sessionmaker(database.engine, expire_on_commit=False)


@pytest.mark.parametrize(
    "make", [make_plain, make_scoped, make_without_autobegin, make_begun, make_without_expiry]
)
def test_in_any_kind_of_session(make: Callable[[Database], Any], database: Database) -> None:
    source = make(database)
    lane = Lane(database, source)

    def task(session: Session) -> None:
        for note in ("1", "2", "3"):
            write(session, note)
            checkpoint(source if isinstance(source, scoped_session) else session)
            assert database.scalar("SELECT max(note) FROM effects") == note
        write(session, "4")

    lane.enqueue(lane.task(task, retry=NEVER))
    finished = lane.run()
    assert finished is not None
    assert finished.error is None
    assert database.scalar(SEEN) == ["1", "2", "3", "4"]


def test_with_two_engines_both_commit_the_other_one_first(database: Database) -> None:
    other = create_engine(database.url)
    other_base = type("O", (), {})
    lane = Lane(database, sessionmaker(database.engine, binds={other_base: other}))

    def task(session: Session) -> None:
        write(session, "1")
        session.connection(bind_arguments={"bind": other}).execute(
            text("INSERT INTO effects (job_id, note) VALUES (0, 'other')")
        )
        checkpoint(session)
        raise ValueError

    lane.enqueue(lane.task(task, retry=NEVER))
    lane.run()
    assert database.scalar(SEEN) == ["1", "other"]
    other.dispose()


def test_in_work_once_nothing_is_committed(jobs: Jobs[Job], session: Session) -> None:
    """The transaction is the caller's; what is before it is kept, as by a contained commit."""

    @jobs.task(name="t", retry=NEVER)
    def task(own: Session) -> None:
        write(own, "1")
        checkpoint(own)
        write(own, "2")
        own.rollback()

    task.enqueue(session)
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert session.scalar(text(SEEN)) == ["1"]


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def test_a_commit_that_is_refused_is_the_error(database: Database) -> None:
    database.execute("CREATE TABLE seats (id int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    lane = Lane(database)

    def task(session: Session) -> None:
        session.execute(text("INSERT INTO seats VALUES (1), (1)"))
        checkpoint(session)

    job = lane.enqueue(lane.task(task, retry=RetryPolicy(give_up_on=(IntegrityError,))))
    finished = lane.run()
    assert finished is not None
    assert (finished.state, type(finished.error)) == (JobState.FAILED, IntegrityError)
    assert lane.row(job).attempt == 1


def test_within_a_block_that_it_would_end_it_is_refused(database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        write(session, "1")
        with session.begin_nested(), pytest.raises(JobsError, match="expected a call after that block"):
            checkpoint(session)
        checkpoint(session)

    lane.enqueue(lane.task(task, retry=NEVER))
    finished = lane.run()
    assert finished is not None
    assert (finished.error, database.scalar(SEEN)) == (None, ["1"])


def test_of_another_session_it_is_refused(jobs: Jobs[Job], session: Session, database: Database) -> None:
    errors: list[BaseException] = []

    @jobs.task(name="t", retry=NEVER)
    def task(_: Session) -> None:
        for given in (database.sessionmaker(), None):
            try:
                checkpoint(given)
            except JobsError as error:
                errors.append(error)

    task.enqueue(session)
    finished = jobs.work_once(session)
    assert finished is not None
    assert len(errors) == 2
    assert "expected the Session that the task was given" in str(errors[0])
    with pytest.raises(JobsError, match="on a job that does not run; expected current_job"):
        finished.job.checkpoint(session)


def test_its_timeout_goes_on_after_it(database: Database) -> None:
    """The time is that of the whole run."""
    from tests.support.work import drain

    lane = Lane(database)

    @lane.jobs.task(name="t", retry=NEVER, timeout=timedelta(milliseconds=200))
    def task(session: Session) -> None:
        while True:
            write(session, "x")
            checkpoint(session)

    lane.enqueue(task)
    (finished,) = drain(lane.jobs, database)
    assert type(finished.error).__name__ == "JobTimeout"
    assert database.scalar("SELECT count(*) FROM effects") > 0
