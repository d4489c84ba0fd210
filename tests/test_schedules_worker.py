"""Workers and schedules: written at the start, ticked at their time, left to others by a drain."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import DeclarativeBase, Session

from sqla_jobs import Job, JobMixin, Jobs, JobState, RetryPolicy, Schedule, Worker, current_job
from sqla_jobs.errors import TaskDefinitionError
from tests.support.lane import leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.verbs import MINUTE
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON, Recorder, drain

HOUR = dt.timedelta(hours=1)
NEVER = dt.timedelta(hours=2)
"""A poll interval: what happens before was not found by polling."""


def application(**options: Any) -> Jobs[Job]:
    jobs = Jobs(prune_after=None)

    @jobs.every(HOUR, **options)
    @jobs.task(name="report")
    def report(session: Session) -> None:
        leave_effect(session)

    return jobs


def due(database: Database, name: str = "report") -> None:
    """Let a schedule be due."""
    database.execute(
        "UPDATE sqla_jobs_schedules SET next_run_at = statement_timestamp() WHERE name = :name", name=name
    )


def test_a_worker_writes_the_schedules_when_it_starts(database: Database) -> None:
    with Worker(application(), database.engine):
        (found,) = database.rows("SELECT name, task, every, next_run_at > now() FROM sqla_jobs_schedules")
        assert found == ("report", "report", HOUR, True)
        knows = database.rows("SELECT tasks, schedules FROM sqla_jobs_workers")
        fingerprint = application().schedules["report"].fingerprint
        ((tasks, schedules),) = knows
        assert "report" in tasks
        assert schedules["report"] == fingerprint
    assert database.scalar("SELECT count(*) FROM sqla_jobs_schedules") == 1, "they stay when it goes"


def test_one_that_cannot_write_them_does_not_start(database: Database) -> None:
    jobs = Jobs(prune_after=None)
    jobs.every(HOUR)(jobs.task(name="__main__.report")(lambda session: None))
    worker = Worker(jobs, database.engine)
    with pytest.raises(TaskDefinitionError):
        worker.start()
    assert worker.state == "stopped"
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_k24_missed_runs_collapse_into_one_which_runs_like_any_job(database: Database) -> None:
    """Any worker ticks, at the very time, not every 30 s. A failed run is a job that is retried."""
    jobs = Jobs(prune_after=None)
    told = Told()

    @jobs.every(5 * MINUTE, queue="reports")
    @jobs.task(name="report", retry=RetryPolicy(base=dt.timedelta(0)))
    def report(session: Session) -> None:
        leave_effect(session)
        if current_job().attempt == 1:
            raise ValueError("the first time")

    with database.sessionmaker.begin() as session:
        jobs.sync_schedules(session)
    database.execute(
        "UPDATE sqla_jobs_schedules SET next_run_at = date_trunc('hour', now()) - interval '1 day'"
    )
    with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
        failed, succeeded = told.take(2)
    assert (failed.state, succeeded.state) == (JobState.SCHEDULED, JobState.SUCCEEDED)
    assert (succeeded.job.queue, succeeded.job.attempt) == ("reports", 2)
    (found,) = database.rows(
        "SELECT j.tick_at <= j.created_at AND j.tick_at > j.created_at - interval '5 minutes',"
        " s.next_run_at - j.tick_at, s.last_tick_at = j.tick_at"
        " FROM sqla_jobs j JOIN sqla_jobs_schedules s ON s.id = j.schedule_id"
    )
    assert found == (True, 5 * MINUTE, True), "the last of a day's, and the next in time"
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_k25_a_schedule_of_an_unknown_task_is_left_alone(database: Database) -> None:
    """Improved: it is not deleted. This process may be the old one of a rolling deploy; others know it."""
    jobs = application(queue="reports")
    with database.sessionmaker.begin() as session:
        jobs.sync_schedules(session)
    due(database)
    before = database.rows("SELECT * FROM sqla_jobs_schedules")
    strangers = Jobs(prune_after=None)
    ran = threading.Event()
    strangers.task(name="other")(lambda session: ran.set())
    told = Told()
    with Worker(strangers, database.engine, queues=["default"], poll_interval=SOON) as stranger:
        database.execute("INSERT INTO sqla_jobs (task) VALUES ('other')")
        assert ran.wait(PATIENCE), "it works, and has ticked"
        assert database.rows("SELECT * FROM sqla_jobs_schedules") == before
        with Worker(jobs, database.engine, poll_interval=SOON, **told.hooks):
            assert told.next().job.task == "report"
        assert stranger.state == "running"


def test_a_worker_is_woken_by_a_schedule_that_is_added_or_edited(database: Database) -> None:
    jobs, told = application(), Told()
    with Worker(jobs, database.engine, poll_interval=NEVER, **told.hooks):
        until(database, "SELECT count(*) = 1 FROM sqla_jobs_workers WHERE locked")
        with database.sessionmaker.begin() as session:
            session.add(Schedule(name="data", task="report", every=HOUR, next_run_at=clock(session)))
        assert told.next().job.task == "report"
        with database.sessionmaker.begin() as session:
            session.query(Schedule).filter_by(name="report").one().next_run_at = clock(session)
        assert told.next().job.task == "report"


def clock(session: Session) -> dt.datetime:
    found = session.scalar(text("SELECT statement_timestamp()"))
    assert isinstance(found, dt.datetime)
    return found


def test_it_sleeps_until_the_time_comes_and_is_there_then(database: Database) -> None:
    """Between two ticks there is no statement of the worker's: it does not spin, and does not poll."""
    jobs, told = application(), Told()
    with Worker(jobs, database.engine, poll_interval=NEVER, **told.hooks):
        until(database, "SELECT count(*) = 1 FROM sqla_jobs_workers WHERE locked")
        with database.sessionmaker.begin() as session:
            soon = clock(session) + dt.timedelta(milliseconds=600)
            session.query(Schedule).filter_by(name="report").one().next_run_at = soon
        told.next()
    assert database.rows("SELECT tick_at FROM sqla_jobs") == [(soon,)]
    assert database.scalar("SELECT min(started_at - tick_at) >= '0 s' FROM sqla_jobs")


def test_a_schedule_that_cannot_be_read_costs_one_statement_a_poll(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """Overdue for ever, it must not keep the worker busy; nor the one beside it that another holds."""
    for name, cron in (("broken", "every tuesday"), ("held", "@daily")):
        database.execute(
            "INSERT INTO sqla_jobs_schedules (name, task, cron, next_run_at)"
            " VALUES (:name, 'report', :cron, '2000-01-01Z')",
            name=name,
            cron=cron,
        )
    looks: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if "sqla_jobs_schedules" in statement and statement.startswith("SELECT"):
            looks.append(statement)

    with database.engine.connect() as holder:
        holder.execute(text("SELECT FROM sqla_jobs_schedules WHERE name = 'held' FOR UPDATE"))
        event.listen(database.engine, "before_cursor_execute", note)
        with Worker(application(), database.engine, poll_interval=NEVER):
            until(database, "SELECT count(*) = 1 FROM sqla_jobs_workers WHERE locked")
            until(database, "SELECT count(*) = 0 FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
        event.remove(database.engine, "before_cursor_execute", note)
    assert len(looks) < 20
    (said,) = [record.message for record in caplog.records if "cannot be read" in record.message]
    assert said.startswith(
        "schedule 'broken' cannot be read, and is left alone until it is edited: cron line"
    )


def test_neither_a_drain_nor_work_once_makes_jobs_of_schedules(database: Database) -> None:
    app = Recorder()
    app.jobs.every(HOUR, kwargs={"note": "by schedule"})(app.record)
    assert drain(app.jobs, database) == []
    assert database.scalar("SELECT count(*) FROM sqla_jobs_schedules") == 0, "nor are they written"
    with database.sessionmaker.begin() as session:
        app.jobs.sync_schedules(session)
        app.record.enqueue(session, "by hand")
    due(database, "record")
    before = database.rows("SELECT * FROM sqla_jobs_schedules")
    with database.sessionmaker.begin() as session:
        assert app.jobs.work_once(session) is not None
        assert app.jobs.work_once(session) is None
        app.record.using(delay=dt.timedelta(microseconds=1)).enqueue(session, "later")
    drain(app.jobs, database)
    assert app.ran == ["by hand", "later"]
    assert database.rows("SELECT * FROM sqla_jobs_schedules") == before


def test_with_a_job_model_of_one_s_own_in_a_schema(empty_database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class PrintJob(JobMixin, Base):
        __table_args__ = {"schema": "printing"}

    jobs, told = Jobs(PrintJob, prune_after=None), Told()
    jobs.create_all(empty_database.engine)
    jobs.every(HOUR, kwargs={"pages": 3})(jobs.task(name="print")(lambda session, pages: None))
    with Worker(jobs, empty_database.engine, poll_interval=SOON, **told.hooks):
        empty_database.execute("UPDATE printing.sqla_jobs_schedules SET next_run_at = now()")
        assert told.next().job.arguments == {"pages": 3}
    assert empty_database.scalar("SELECT count(*) FROM printing.sqla_jobs WHERE state = 'succeeded'") == 1


def test_a_newer_definition_is_left_to_stand_and_said_once(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    newer = Jobs(prune_after=None)
    newer.every(2 * HOUR)(newer.task(name="report")(lambda session: None))
    often: dict[str, Any] = {"heartbeat_interval": SOON, "poll_interval": SOON}
    with database.sessionmaker.begin() as session:
        application().sync_schedules(session)
    with Worker(newer, database.engine), caplog.at_level(logging.INFO, "sqla_jobs"):
        with Worker(application(), database.engine, **often) as old:
            beats = (
                "SELECT heartbeat_at > started_at + interval '200 ms' FROM sqla_jobs_workers ORDER BY id DESC"
            )
            until(database, f"{beats} LIMIT 1")
            assert database.scalar("SELECT every = '2 hours' FROM sqla_jobs_schedules")
            assert old.state == "running"
    assert (
        caplog.text.count("'report' is left as it is while a worker lives that has a newer definition") == 1
    )
