"""Cancel against every moment of a job's life; the order is staged, not hoped for."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import Cancelled, Finished, Job, Jobs, JobState, Snooze, Worker, cancel, lifecycle
from sqla_jobs.errors import Cancel, JobNotFound
from tests.support.lane import AT_ONCE, NEVER, Lane, leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.verbs import add, claim, row
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON, drain

NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def told() -> Told:
    return Told()


def cancelled(database: Database, job: int = 1) -> Cancelled:
    with database.sessionmaker.begin() as session:
        session.execute(text("SET LOCAL lock_timeout = '10s'"))  # it never waits
        return cancel(session, job)


# -- what it says ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "scheduled"])
def test_a_job_that_waits_is_cancelled(session: Session, state: str) -> None:
    job = add(session, state=state)
    assert cancel(session, job, now=NOW) is Cancelled.CANCELLED
    assert (job.state, job.finished_at, job.cancel_requested_at) == ("cancelled", NOW, NOW)
    lifecycle.promote(session, Job, now=NOW + timedelta(days=1))
    assert claim(session) == []
    assert cancel(session, job.id) is Cancelled.FINISHED
    assert job.finished_at == NOW, "it is not written again"


def test_a_job_that_runs_is_asked_for_and_goes_on(session: Session) -> None:
    job = add(session)
    (claimed,) = claim(session)
    assert cancel(session, job.id, now=NOW) is Cancelled.REQUESTED
    assert cancel(session, job.id, now=NOW + timedelta(1)) is Cancelled.REQUESTED
    found = row(session, job)
    assert (found.state, found.finished_at, found.cancel_requested_at) == ("running", None, NOW)
    assert lifecycle.cancel_requests(session, Job, claimed.worker_id or 0) == [(job.id, 1)]
    assert lifecycle.hold(session, Job, claimed) is True


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
def test_a_job_that_is_over_is_left_alone(session: Session, state: str) -> None:
    job = add(session, state=state, finished_at=NOW)
    assert cancel(session, job) is Cancelled.FINISHED
    assert (job.state, job.cancel_requested_at) == (state, None)


def test_an_unknown_job_is_an_error(session: Session) -> None:
    with pytest.raises(JobNotFound, match="there is no job 4711: it was pruned, or never was"):
        cancel(session, 4711)


def test_a_pending_job_can_be_cancelled_before_its_commit(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="t")(leave_effect)
    job = task.job()
    session.add(job)
    assert jobs.cancel(session, job) is Cancelled.CANCELLED
    assert job.state == "cancelled"


def test_in_a_scoped_session(jobs: Jobs[Job], database: Database) -> None:
    scoped = scoped_session(database.sessionmaker)
    job = jobs.task(name="t")(leave_effect).enqueue(scoped)
    assert cancel(scoped, job) is Cancelled.CANCELLED
    assert jobs.cancel_all(scoped) == 0
    scoped.remove()


@pytest.mark.parametrize("state", ["queued", "scheduled", "running"])
def test_what_somebody_has_locked_is_busy_and_nobody_waits(database: Database, state: str) -> None:
    """Its claim, its finish, a work_once: until that commits, nobody knows what the job will be."""
    database.execute("INSERT INTO sqla_jobs (task, state) VALUES ('t', :state)", state=state)
    with database.engine.connect() as locker:
        locker.execute(text("SELECT id FROM sqla_jobs FOR NO KEY UPDATE"))
        assert cancelled(database) is Cancelled.BUSY
    assert cancelled(database) is not Cancelled.BUSY
    assert database.scalar("SELECT cancel_requested_at IS NOT NULL FROM sqla_jobs")


def test_a_rolled_back_cancel_never_was(database: Database) -> None:
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('t')")
    with database.sessionmaker() as session:
        assert cancel(session, 1) is Cancelled.CANCELLED
        session.rollback()
        assert session.get_one(Job, 1).state == "scheduled"


def test_in_work_once_it_is_busy(jobs: Jobs[Job], database: Database) -> None:
    said: list[Cancelled] = []

    @jobs.task(name="t")
    def task(_: Session) -> None:
        said.append(cancelled(database))

    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    with database.sessionmaker.begin() as session:
        finished = jobs.work_once(session)
    assert finished is not None
    assert (said, finished.state) == ([Cancelled.BUSY], JobState.SUCCEEDED)


# -- all that wait: K7 -----------------------------------------------------------------------------


def test_k07_all_that_wait_are_cancelled_and_nothing_that_runs(jobs: Jobs[Job], session: Session) -> None:
    """Queued and future jobs of any time are cancelled, not claimed afterwards; running ones untouched."""
    runs = add(session)
    (claimed,) = claim(session)
    queued = add(session)
    future = add(session, state="scheduled", run_at=NOW + timedelta(days=300))
    done = add(session, state="succeeded", finished_at=NOW)
    assert jobs.cancel_all(session, now=NOW) == 2
    session.refresh(runs)
    assert [each.state for each in (runs, queued, future, done)] == [
        "running", "cancelled", "cancelled", "succeeded",
    ]  # fmt: skip
    assert (future.finished_at, runs.cancel_requested_at) == (NOW, None)
    assert claim(session) == []
    lifecycle.promote(session, Job, now=NOW + timedelta(days=301))
    assert claim(session) == []
    assert lifecycle.hold(session, Job, claimed) is False


def test_k07_of_one_queue_or_one_task(jobs: Jobs[Job], session: Session) -> None:
    one = add(session, "a", queue="x")
    two = add(session, "b", queue="x")
    three = add(session, "a", queue="y")
    assert jobs.cancel_all(session, queue="x", task="b") == 1
    assert jobs.cancel_all(session, task="c") == 0
    assert [each.state for each in (one, two, three)] == ["queued", "cancelled", "queued"]
    assert jobs.cancel_all(session, queue="y") == 1
    assert jobs.cancel_all(session, task="a") == 1


# -- against a run ---------------------------------------------------------------------------------


def waits_in_python(_: Session) -> None:
    while True:
        sum(range(100))


def waits_in_a_statement(session: Session) -> None:
    session.execute(text("SELECT pg_sleep(3600)"))


@pytest.mark.parametrize("wait", [waits_in_python, waits_in_a_statement], ids=lambda each: each.__name__)
def test_a_running_job_is_interrupted(
    wait: Callable[[Session], None], jobs: Jobs[Job], database: Database, told: Told
) -> None:
    begun = threading.Event()

    @jobs.task(name="endless")
    def endless(session: Session) -> None:
        leave_effect(session)
        session.flush()
        begun.set()
        wait(session)

    with database.sessionmaker.begin() as session:
        endless.enqueue(session)
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
        assert begun.wait(PATIENCE)
        assert cancelled(database) is Cancelled.REQUESTED
        finished = told.next()
    assert (finished.state, finished.failed, type(finished.error)) == (JobState.CANCELLED, False, Cancel)
    (found,) = database.rows("SELECT * FROM sqla_jobs")
    assert (found.state, found.attempt) == ("cancelled", 1)
    assert [(each["error"], each["message"]) for each in found.attempts] == [
        ("sqla_jobs.errors.Cancel", "cancelled while it ran")
    ]
    assert database.scalar("SELECT count(*) FROM effects") == 0


def ends(how: str) -> None:
    if how == "failure":
        raise ValueError("it fails")
    if how == "snooze":
        raise Snooze(timedelta(hours=1))


@pytest.mark.parametrize(
    ("how", "state"), [("success", "succeeded"), ("failure", "cancelled"), ("snooze", "cancelled")]
)
def test_a_request_that_comes_before_the_finish(how: str, state: str, database: Database) -> None:
    """The worker has not heard of it: success stands, a retry or a snooze turns into the cancel."""
    lane = Lane(database)

    @lane.jobs.task(name="t", retry=AT_ONCE)
    def task(session: Session) -> None:
        leave_effect(session)
        assert cancelled(database) is Cancelled.REQUESTED
        ends(how)

    job = lane.enqueue(task)
    finished = lane.run()
    assert finished is not None
    assert finished.state == state
    assert (lane.row(job).state, lane.effects(job)) == (state, int(how == "success"))
    assert cancelled(database) is Cancelled.FINISHED


def test_a_request_that_comes_between_the_claim_and_the_run(database: Database) -> None:
    """It is known when the job begins only if the worker was told; the fence decides otherwise."""
    lane = Lane(database)
    job = lane.enqueue(lane.task(leave_effect, retry=AT_ONCE))
    claimed = lane.claim()
    assert cancelled(database, job) is Cancelled.REQUESTED
    finished = lane.runner.perform(claimed)
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED


def test_a_job_that_is_interrupted_before_it_begins_does_not_begin(database: Database) -> None:
    from sqla_jobs.scope import Interrupter

    lane = Lane(database)
    job = lane.enqueue(lane.task(leave_effect, retry=AT_ONCE))
    interrupter = Interrupter()
    interrupter.interrupt(Cancel("cancelled while it ran"))
    finished = lane.runner.perform(lane.claim(), interrupter)
    assert finished is not None
    assert (finished.state, lane.effects(job)) == (JobState.CANCELLED, 0)
    assert interrupter.used_since is None


def test_after_a_retry_an_old_request_does_not_reach_the_next_claim(database: Database) -> None:
    """What was asked of one claim is decided with it; a job that somebody queues again starts clean."""
    lane = Lane(database)

    @lane.jobs.task(name="t", retry=AT_ONCE)
    def task(_: Session) -> None:
        raise ValueError

    job = lane.enqueue(task)
    first = lane.claim()
    assert lifecycle.Cancelled.REQUESTED is cancelled(database, job)
    finished = lane.runner.perform(first)
    assert finished is not None
    assert finished.state is JobState.CANCELLED
    # As an operator would, by SQL.
    database.execute("UPDATE sqla_jobs SET state = 'queued', finished_at = NULL, cancel_requested_at = NULL")
    second = lane.claim()
    assert second.claim == first.claim + 1
    with database.sessionmaker() as session:
        assert lifecycle.cancel_requests(session, Job, lane.worker_id) == []
        assert lifecycle.hold(session, Job, first) is None
        assert lifecycle.hold(session, Job, second) is False


@pytest.mark.parametrize("crash", [True, False], ids=["rescued", "given back"])
def test_a_request_wins_over_a_rescue_and_a_give_back(database: Database, crash: bool) -> None:
    from sqla_jobs.errors import WorkerDied
    from sqla_jobs.outcome import died, given_back

    lane = Lane(database)
    job = lane.enqueue(lane.task(leave_effect, retry=AT_ONCE))
    claimed = lane.claim()
    assert cancelled(database, job) is Cancelled.REQUESTED
    outcome = died(WorkerDied(), lambda _: timedelta(0)) if crash else given_back("its worker stopped")
    with database.sessionmaker.begin() as session:
        written = lifecycle.finish(session, Job, claimed, outcome)
    assert written is not None
    assert written.state is JobState.CANCELLED


@pytest.mark.usefixtures("ignored_in_callbacks")
def test_a_thousand_cancels_and_none_hits_a_finish_or_a_neighbour(
    jobs: Jobs[Job], database: Database
) -> None:
    """Asked for at random moments of jobs that run, wait, finish: every row tells one story."""
    number, seed = 1000, random.randrange(10**6)
    draw = random.Random(seed)

    @jobs.task(name="t", retry=NEVER)
    def task(session: Session, seconds: float) -> None:
        leave_effect(session)
        session.flush()
        if seconds < 0.005:
            session.execute(text("SELECT pg_sleep(:s)"), {"s": seconds})
        else:
            threading.Event().wait(seconds)

    with database.sessionmaker.begin() as session:
        ids = [task.enqueue(session, draw.uniform(0, 0.01)).id for _ in range(number)]
    said: dict[int, list[Cancelled]] = {}

    def ask() -> None:
        asking = random.Random(seed + 1)
        with database.engine.connect() as connection:
            for _ in range(number):
                running = connection.scalars(text("SELECT id FROM sqla_jobs WHERE state = 'running'")).all()
                connection.rollback()
                job = asking.choice(running or ids)
                with Session(connection) as session, session.begin():
                    said.setdefault(job, []).append(cancel(session, job))

    asker = threading.Thread(target=ask)
    asker.start()
    finished = drain(jobs, database, threads=4, poll_interval=timedelta(milliseconds=1))
    asker.join(PATIENCE)
    assert not asker.is_alive()
    assert {type(each.error) for each in finished} <= {type(None), Cancel}, f"seed {seed}"
    wrong = """
        SELECT job.id, job.state FROM sqla_jobs AS job LEFT JOIN effects ON effects.job_id = job.id
        GROUP BY job.id
        HAVING count(effects.job_id) <> (job.state = 'succeeded')::int
            OR job.state NOT IN ('succeeded', 'cancelled')
            OR (job.state = 'cancelled' AND job.cancel_requested_at IS NULL)
    """
    assert database.rows(wrong) == [], f"seed {seed}"
    states: dict[int, Any] = dict(database.rows("SELECT id, state FROM sqla_jobs"))
    for job, answers in said.items():
        if Cancelled.CANCELLED in answers:
            assert states[job] == "cancelled", f"seed {seed}"
    assert {Cancelled.REQUESTED, Cancelled.FINISHED} <= {each for all_ in said.values() for each in all_}
    assert "cancelled" in states.values()


def test_who_waits_for_the_worker_is_told_by_the_next_poll(
    jobs: Jobs[Job], database: Database, told: Told
) -> None:
    """The request was written by plain SQL: nobody notified."""
    begun = threading.Event()

    @jobs.task(name="endless")
    def endless(session: Session) -> None:
        begun.set()
        waits_in_python(session)

    with database.sessionmaker.begin() as session:
        endless.enqueue(session)
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
        assert begun.wait(PATIENCE)
        database.execute("UPDATE sqla_jobs SET cancel_requested_at = now()")
        finished: Finished = told.next()
    assert finished.state is JobState.CANCELLED
    until(database, "SELECT count(*) = 0 FROM sqla_jobs_workers")
