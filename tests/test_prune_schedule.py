"""House-keeping: the library's own schedule, its task, and the queue that every worker serves last."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Session

from sqla_jobs import JobMixin, Jobs, JobState, Schedule, Snooze, Worker
from sqla_jobs.errors import InvalidOption
from sqla_jobs.lifecycle import Synced
from sqla_jobs.tasks import OWN_QUEUE, PRUNE
from tests.support.lane import Lane
from tests.support.plans import fill
from tests.support.server import Database
from tests.support.told import Told
from tests.support.work import SOON, drain

DAY = dt.timedelta(days=1)
ZERO = dt.timedelta(0)


def left(database: Database) -> dict[str, int]:
    """How many jobs there are by state, without those of the schedule."""
    found = database.rows(
        "SELECT state, count(*) AS number FROM sqla_jobs WHERE task <> :prune GROUP BY state", prune=PRUNE
    )
    return {row.state: row.number for row in found}


def history(database: Database, number: int = 3) -> None:
    """Jobs of each final state that are ten days old."""
    for state in ("succeeded", "cancelled", "failed"):
        fill(database, state, number)
    database.execute("UPDATE sqla_jobs SET finished_at = finished_at - interval '10 days'")


def fall_due(database: Database, jobs: Jobs[Any]) -> None:
    with database.sessionmaker.begin() as session:
        jobs.sync_schedules(session)
    database.execute("UPDATE sqla_jobs_schedules SET next_run_at = statement_timestamp() - interval '1 s'")


# -- the schedule ------------------------------------------------------------------------------------


def test_every_registry_has_it(session: Session) -> None:
    jobs = Jobs()
    assert jobs.sync_schedules(session) == Synced(added=(PRUNE,))
    row = session.query(Schedule).one()
    assert (row.task, row.every, row.overlap, row.enabled) == (PRUNE, dt.timedelta(hours=1), "skip", True)
    assert row.arguments == {"older_than": "P7D", "failed_older_than": None}
    assert Jobs().sync_schedules(session) == Synced()
    longer = Jobs(prune_after=30 * DAY, prune_failed_after=100 * DAY)
    assert longer.sync_schedules(session) == Synced(changed=(PRUNE,))
    session.expire_all()
    assert row.arguments == {"older_than": "P30D", "failed_older_than": "P100D"}


def test_without_anything_to_delete_there_is_none(session: Session) -> None:
    off = Jobs(prune_after=None)
    assert off.sync_schedules(session) == Synced()
    Jobs().sync_schedules(session)
    assert off.sync_schedules(session) == Synced(removed=(PRUNE,))
    assert Jobs(prune_after=None, prune_failed_after=DAY).sync_schedules(session) == Synced(added=(PRUNE,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prune_after": 7}, r"prune_after 7; expected a timedelta"),
        ({"prune_after": -DAY}, r"prune_after -1 day, 0:00:00; expected zero or more"),
        ({"prune_failed_after": "1 day"}, r"prune_failed_after '1 day'; expected a timedelta"),
    ],
)
def test_what_is_no_age_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        Jobs(**options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"failed": 3}),
        ({"prune_after": 11 * DAY}, {"succeeded": 3, "cancelled": 3, "failed": 3}),
        ({"prune_failed_after": 9 * DAY}, {}),
        ({"prune_after": None, "prune_failed_after": 9 * DAY}, {"succeeded": 3, "cancelled": 3}),
    ],
)
def test_a_worker_deletes_what_is_old(
    database: Database, options: dict[str, Any], expected: dict[str, int]
) -> None:
    """Whatever queues it has."""
    jobs = Jobs(**options)
    history(database)
    fall_due(database, jobs)
    told = Told()
    with Worker(jobs, database.engine, queues=["other"], poll_interval=SOON, **told.hooks):
        finished = told.next()
    assert (finished.job.task, finished.job.queue, finished.state) == (PRUNE, OWN_QUEUE, JobState.SUCCEEDED)
    assert left(database) == expected


def test_its_row_may_be_edited(database: Database) -> None:
    jobs = Jobs()
    history(database)
    fall_due(database, jobs)
    with database.sessionmaker.begin() as session:
        session.query(Schedule).one().arguments = {"older_than": "P20D", "failed_older_than": "P2D"}
    told = Told()
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
        told.next()
    assert left(database) == {"succeeded": 3, "cancelled": 3}


def test_it_may_be_switched_off(database: Database) -> None:
    jobs = Jobs()
    history(database)
    fall_due(database, jobs)
    database.execute("UPDATE sqla_jobs_schedules SET enabled = false")
    told = Told()
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
        with database.sessionmaker.begin() as session:
            jobs.enqueue(session, "unknown")
        told.next()
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE task = :prune", prune=PRUNE) == 0


def test_a_drain_and_work_once_make_no_job_of_it(database: Database) -> None:
    jobs = Jobs()
    fall_due(database, jobs)
    assert drain(jobs, database) == []
    with database.sessionmaker.begin() as session:
        assert jobs.work_once(session) is None
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_a_model_of_ones_own_in_a_schema(empty_database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class Task(JobMixin, Base):
        __table_args__ = {"schema": "queue"}

    jobs = Jobs(Task)
    empty_database.execute("CREATE SCHEMA queue")
    jobs.create_all(empty_database.engine)
    empty_database.execute(
        "INSERT INTO queue.sqla_jobs (task, state, finished_at) "
        "VALUES ('t', 'succeeded', now() - interval '8 days')"
    )
    empty_database.execute("CREATE TABLE notes (task_id bigint REFERENCES queue.sqla_jobs)")
    with Session(empty_database.engine) as session, session.begin():
        jobs.enqueue(session, PRUNE)
        assert jobs.work_once(session) is not None
    assert empty_database.scalar("SELECT array_agg(task) FROM queue.sqla_jobs") == [PRUNE]


# -- its queue ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("queues", [None, ["first", "default"], ["default", OWN_QUEUE]])
def test_it_is_served_last(database: Database, queues: list[str] | None) -> None:
    jobs = Jobs()
    with database.sessionmaker.begin() as session:
        jobs.enqueue(session, PRUNE)
        for name in ("a", "b"):
            jobs.using(max_attempts=1, priority=-100).enqueue(session, name)
    told = Told()
    with Worker(jobs, database.engine, queues=queues, poll_interval=SOON, **told.hooks):
        assert [each.job.task for each in told.take(3)] == ["a", "b", PRUNE]


def test_a_drain_of_some_queues_leaves_it_alone(database: Database) -> None:
    jobs = Jobs()
    with database.sessionmaker.begin() as session:
        jobs.enqueue(session, PRUNE)
    assert drain(jobs, database, queues=["other"]) == []
    assert [each.job.task for each in drain(jobs, database)] == [PRUNE]


# -- its transactions --------------------------------------------------------------------------------


def test_it_lets_others_come_first_after_ten_batches(database: Database) -> None:
    """It is snoozed without a delay, which spends no attempt, and is the last again."""
    lane = Lane(database)
    fill(database, "succeeded", 10_500)
    job = lane.enqueue(lane.jobs.tasks[PRUNE], ZERO)
    finished = lane.run()
    assert finished is not None
    assert isinstance(finished.error, Snooze)
    assert left(database) == {"succeeded": 500}
    row = lane.row(job)
    assert (row.state, row.attempt, row.queue, row.priority) == ("scheduled", 0, OWN_QUEUE, -32_768)
    assert database.scalar("SELECT run_at <= now() FROM sqla_jobs WHERE id = :id", id=job)
    database.execute("UPDATE sqla_jobs SET state = 'queued' WHERE id = :id", id=job)
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert left(database) == {}


def test_it_goes_on_past_those_that_it_may_not_delete(database: Database) -> None:
    """Else each run would begin with them again, and never come to the others."""
    lane = Lane(database)
    fill(database, "succeeded", 12_000)
    database.execute("CREATE TABLE mails (job_id bigint PRIMARY KEY REFERENCES sqla_jobs)")
    database.execute("UPDATE sqla_jobs SET finished_at = finished_at - id % 7 * interval '1 s'")
    database.execute("INSERT INTO mails SELECT id FROM sqla_jobs ORDER BY finished_at LIMIT 11500")
    lane.enqueue(lane.jobs.tasks[PRUNE], ZERO)
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert left(database) == {"succeeded": 11_500}


def test_what_is_deleted_stays_so_whatever_comes_later(database: Database) -> None:
    """A transaction for each batch: none is long, and a death in between loses nothing."""
    lane = Lane(database)
    fill(database, "succeeded", 5000)
    batches: list[int] = []

    def fail_at_the_third(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("WITH free"):
            batches.append(database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'succeeded'"))
            if len(batches) == 3:
                raise ZeroDivisionError

    event.listen(database.engine, "before_cursor_execute", fail_at_the_third)
    job = lane.enqueue(lane.jobs.tasks[PRUNE], ZERO)
    lane.run()
    assert batches == [5000, 4000, 3000], "as others see it"
    assert (lane.row(job).state, left(database)) == ("scheduled", {"succeeded": 3000})
    database.execute("UPDATE sqla_jobs SET state = 'queued' WHERE id = :id", id=job)
    lane.run()
    assert left(database) == {}


def test_a_worker_that_loses_the_job_deletes_no_more(database: Database) -> None:
    lane = Lane(database)
    fill(database, "succeeded", 2000)

    def rob(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("WITH free"):
            database.execute("UPDATE sqla_jobs SET claim = claim + 1 WHERE state = 'running'")

    event.listen(database.engine, "before_cursor_execute", rob)
    lane.enqueue(lane.jobs.tasks[PRUNE], ZERO)
    assert lane.run() is None, "it is lost"
    assert left(database) == {"succeeded": 2000}
