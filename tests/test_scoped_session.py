"""A scoped_session: `remove()` in a job stays in the job, and a worker leaves its starter's Session alone."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import Cancel, Jobs, RetryPolicy, Snooze, Worker
from sqla_jobs.errors import InvalidOption, InvalidQueueName
from tests.support.models import Effect
from tests.support.server import Database


@pytest.fixture
def registry(database: Database) -> Iterator[scoped_session[Session]]:
    registry = scoped_session(database.sessionmaker)
    yield registry
    registry.remove()


def test_what_is_written_after_remove_is_the_jobs_too(
    database: Database, registry: scoped_session[Session]
) -> None:
    jobs = Jobs()

    def service(note: str) -> None:
        try:
            registry.add(Effect(job_id=1, note=note))
            registry.commit()
        finally:
            registry.remove()

    @jobs.task(name="half", retry=RetryPolicy(max_attempts=1))
    def half(session: Session) -> None:
        service("one")
        service("two")
        raise ValueError("boom")

    with database.sessionmaker.begin() as session:
        half.enqueue(session)
    with Worker(jobs, registry, drain=True) as worker:
        assert worker.join(60)
    assert database.scalar("SELECT state FROM sqla_jobs") == "failed"
    assert database.rows("SELECT note FROM effects") == []


def test_remove_in_work_once_keeps_the_callers_session(
    database: Database, registry: scoped_session[Session]
) -> None:
    jobs = Jobs()

    @jobs.task(name="removes")
    def removes(session: Session) -> None:
        registry.add(Effect(job_id=1, note="kept"))
        registry.commit()
        registry.remove()

    removes.enqueue(registry)
    finished = jobs.work_once(registry)
    assert finished is not None
    assert finished.state == "succeeded"
    registry.commit()
    assert database.scalar("SELECT state FROM sqla_jobs") == "succeeded"
    assert database.scalar("SELECT count(*) FROM effects") == 1
    before = registry()
    registry.remove()
    assert registry() is not before, "outside of a job remove() is what it was"


def test_start_leaves_the_starters_pending_work_alone(
    database: Database, registry: scoped_session[Session]
) -> None:
    registry.add(Effect(job_id=1, note="pending"))
    with Worker(Jobs(), registry):
        registry.commit()
    assert database.scalar("SELECT count(*) FROM effects") == 1


@pytest.mark.parametrize(
    ("signal", "state"),
    [(ValueError("boom"), "failed"), (Snooze(timedelta(hours=1)), "scheduled"), (Cancel("no"), "cancelled")],
    ids=["error", "snooze", "cancel"],
)
def test_sessions_that_are_inside_a_begin_block(database: Database, signal: Exception, state: str) -> None:
    jobs = Jobs()

    @jobs.task(name="raises", retry=RetryPolicy(max_attempts=1))
    def raises(session: Session) -> None:
        session.add(Effect(job_id=1, note="undone"))
        session.flush()
        raise signal

    @contextmanager
    def sessions() -> Iterator[Session]:
        with sessionmaker(database.engine).begin() as session:
            yield session

    with database.sessionmaker.begin() as session:
        raises.enqueue(session)
    with Worker(jobs, sessions, drain=True) as worker:
        assert worker.join(60)
    assert database.scalar("SELECT state FROM sqla_jobs") == state
    assert database.scalar("SELECT count(*) FROM effects") == 0
    error = database.scalar("SELECT attempts->0->>'error' FROM sqla_jobs")
    assert error == {"failed": "ValueError", "cancelled": "sqla_jobs.errors.Cancel"}.get(state)


def test_an_engine_does_as_a_sessionmaker(database: Database) -> None:
    jobs = Jobs(sessionmaker=database.engine)

    @jobs.task(name="writes")
    def writes(session: Session) -> None:
        session.add(Effect(job_id=1))

    with database.sessionmaker.begin() as session:
        writes.enqueue(session)
    with Worker(jobs, drain=True) as worker:
        assert worker.join(60)
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_work_once_takes_no_text_for_a_list_of_queues(session: Session) -> None:
    with pytest.raises(
        InvalidOption, match=r"queues is the text 'mail'; expected a list of names: \['mail'\]"
    ):
        Jobs().work_once(session, queues="mail")
    with pytest.raises(InvalidQueueName):
        Jobs().work_once(session, queues=["not a queue"])


def test_a_generator_that_nobody_reads_is_no_success(session: Session) -> None:
    jobs = Jobs()
    jobs.register(lambda session: (n for n in range(3)), name="lazy")
    jobs.enqueue(session, "lazy")
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.failed
    assert "generator" in str(finished.error)


class Broken(logging.Filter):
    """An application's filter that works in a request only."""

    def filter(self, record: logging.LogRecord) -> bool:
        raise RuntimeError("outside of a request")


def test_a_log_filter_that_raises_ends_no_thread(database: Database) -> None:
    jobs = Jobs()

    @jobs.task(name="writes")
    def writes(session: Session) -> None:
        session.add(Effect(job_id=1))

    with database.sessionmaker.begin() as session:
        for _ in range(3):
            writes.enqueue(session)
    logger, broken = logging.getLogger("sqla_jobs"), Broken()
    worker = Worker(jobs, database.engine, drain=True).start()
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(broken)
    try:
        assert worker.join(60), "the worker did not come to its end"
    finally:
        logger.removeFilter(broken)
        logger.setLevel(level)
    assert database.scalar("SELECT count(*) FROM effects") == 3
    assert worker.state == "stopped"
