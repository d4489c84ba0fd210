"""Enqueue sends one INSERT, without a flush where nobody could tell: the job and the Session are the same."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, inspect, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

from sqla_jobs import Job, JobMixin, Jobs, Task, lifecycle
from tests.support.ear import ear
from tests.support.models import Item
from tests.support.server import Database

jobs = Jobs()
HOUR = dt.timedelta(hours=1)


@jobs.task(name="send", queue="mail")
def send(session: Session, number: int = 0) -> None: ...


@pytest.fixture
def sent(database: Database) -> Iterator[list[str]]:
    """The statements of the engine."""
    statements: list[str] = []

    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        statements.append(sql)

    event.listen(database.engine, "before_cursor_execute", note)
    yield statements
    event.remove(database.engine, "before_cursor_execute", note)


def by_a_flush(session: Session, task: Task[..., Any, Job]) -> Job:
    job = task.job(7)
    session.add(job)
    session.flush()
    return job


def inner(job: Job) -> dict[str, Any]:
    """All that SQLAlchemy and the job itself know of it, but for what is of the moment."""
    state = inspect(job)
    values = {key: value for key, value in vars(job).items() if key not in ("id", "_sa_instance_state")}
    assert values["created_at"].tzinfo is not None
    if values["run_at"].year < 2039:
        values["run_at"] -= values["created_at"]
    del values["created_at"]
    assert state.key == (Job, (job.id,), None)
    lasting = values.keys() - {"run_at"}
    return {
        "values": values,
        "history": {name: tuple(each.history) for name, each in state.attrs.items() if name in lasting},
        "is": (state.persistent, state.modified, state.expired, set(state.committed_state)),
        "not loaded": state.unloaded,
        "expired": state.expired_attributes,
    }


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"queue": "slow", "priority": -7, "max_attempts": 3, "timeout": HOUR},
        {"delay": HOUR},
        {"run_at": dt.datetime(2040, 1, 1, tzinfo=dt.timezone(HOUR))},
    ],
    ids=str,
)
@pytest.mark.parametrize("mode", ["transaction", "after_commit", False])
def test_the_job_is_that_of_a_flush(
    database: Database, sent: list[str], options: dict[str, Any], mode: Any
) -> None:
    registry = Jobs(notify=mode)
    task = registry.task(name="send")(lambda session, number: None).using(**options)
    with database.sessionmaker() as session:
        expected = inner(by_a_flush(session, task))
        session.rollback()
        sent.clear()
        found = task.enqueue(session, 7)
        assert len(sent) == 1, "with the notification"
        assert inner(found) == expected
        assert session.get(Job, found.id) is found
        assert not session.new
        assert not session.dirty
        assert len(sent) == 1
        found.priority += 1
        session.commit()
        assert database.scalar("SELECT priority FROM sqla_jobs WHERE id = :id", id=found.id) == found.priority


@pytest.mark.parametrize("enqueue", [by_a_flush, lambda session, task: task.enqueue(session, 7)])
def test_a_rollback_makes_it_a_new_object_again(
    database: Database, enqueue: Callable[[Session, Any], Job]
) -> None:
    with database.sessionmaker() as session:
        job = enqueue(session, send)
        session.rollback()
        assert inspect(job).transient
        session.add(Item(name="a"))
        with session.begin_nested() as savepoint:
            job = enqueue(session, send)
            assert inspect(job).persistent
            savepoint.rollback()
        assert inspect(job).transient
        session.add(job)
        session.commit()
        assert inspect(job).persistent
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1


@pytest.mark.parametrize("enqueue", [by_a_flush, lambda session, task: task.enqueue(session, 7)])
def test_one_that_the_table_refuses_leaves_the_session_as_a_flush_does(
    database: Database, enqueue: Callable[[Session, Any], Job]
) -> None:
    database.execute("ALTER TABLE sqla_jobs ADD CONSTRAINT low CHECK (priority < 5)")
    high = send.using(priority=9)
    with database.sessionmaker() as session:
        kept = enqueue(session, send)
        with pytest.raises(IntegrityError, match="low"), session.begin_nested():
            enqueue(session, high)
        assert list(session) == [kept]
        assert not session.new
        with pytest.raises(IntegrityError, match="low"):
            enqueue(session, high)
        with pytest.raises(PendingRollbackError, match="low"):
            session.execute(text("SELECT 1"))
        session.rollback()
        assert not list(session)
        assert not session.new
        enqueue(session, send)
        session.commit()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1


def test_workers_are_told_once_in_a_transaction(database: Database, sent: list[str]) -> None:
    with ear(database) as told, database.sessionmaker() as session:
        send.enqueue(session)
        send.enqueue(session)
        by_a_flush(session, send)
        send.using(delay=HOUR).enqueue(session)
        assert ["pg_notify" in sql for sql in sent] == [True, False, False, True]
        session.commit()
        assert told.heard() == ["queued:mail", "scheduled"]
        by_a_flush(session, send)
        send.enqueue(session)
        session.commit()
        assert told.heard() == ["queued:mail"]


# -- whoever listens to a flush hears one ----------------------------------------------------------


@pytest.mark.parametrize("name", ["before_flush", "after_flush", "after_flush_postexec"])
def test_events_of_a_flush_are_fired(database: Database, name: str) -> None:
    heard: list[str] = []
    with database.sessionmaker() as session:
        event.listen(session, name, lambda *_: heard.append(name))
        send.enqueue(session)
        assert heard == [name]


class EventBase(DeclarativeBase):
    pass


class EventJob(JobMixin, EventBase):
    pass


@pytest.mark.parametrize("name", ["before_insert", "after_insert", "refresh_flush"])
def test_events_of_the_model_are_fired(database: Database, name: str) -> None:
    task = Jobs(EventJob).task(name="send")(lambda session: None)
    heard: list[str] = []

    def listen(*_: Any) -> None:
        heard.append(name)

    event.listen(EventJob, name, listen)
    try:
        with database.sessionmaker() as session:
            task.enqueue(session)
    finally:
        event.remove(EventJob, name, listen)
    assert heard == [name]


def test_events_of_the_objects_life_are_fired(database: Database) -> None:
    heard: list[Any] = []
    with database.sessionmaker() as session:
        for name in ("transient_to_pending", "pending_to_persistent"):
            event.listen(session, name, lambda _, job, name=name: heard.append((name, job)))
        job = send.enqueue(session)
    assert heard == [("transient_to_pending", job), ("pending_to_persistent", job)]


class MoreBase(DeclarativeBase):
    pass


class MoreJob(JobMixin, MoreBase):
    __table_args__ = {"schema": "more"}
    tenant: Mapped[int] = mapped_column(default=lambda: 7)


def test_a_model_with_more_columns_is_flushed(database: Database) -> None:
    more = Jobs(MoreJob)
    more.create_all(database.engine)
    task = more.task(name="send")(lambda session: None)
    with database.sessionmaker.begin() as session:
        assert task.enqueue(session).tenant == 7


def test_whatever_is_pending_is_flushed_with_it(database: Database) -> None:
    with database.sessionmaker() as session:
        item = Item(name="a")
        changes: list[Callable[[], object]] = [
            lambda: session.add(item),
            lambda: setattr(item, "name", "b"),
            lambda: session.delete(item),
        ]
        for change in changes:
            change()
            assert send.enqueue(session).id
            assert not any((session.new, session.dirty, session.deleted))


def test_a_session_that_chooses_by_its_flushing_is_flushed(database: Database) -> None:
    """As in SQLAlchemy's own example of a Session that reads from a replica."""
    replica = create_engine(database.url, connect_args={"options": "-c default_transaction_read_only=on"})

    class Routing(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return database.engine if self._flushing else replica

    with sessionmaker(class_=Routing)() as session:
        assert send.enqueue(session).id
        session.commit()
    replica.dispose()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1


def test_in_autocommit_one_that_fails_is_not_sent_again(database: Database, sent: list[str]) -> None:
    database.execute("ALTER TABLE sqla_jobs ADD CONSTRAINT low CHECK (priority < 5)")
    with Session(database.engine.execution_options(isolation_level="AUTOCOMMIT")) as session:
        assert send.enqueue(session).id
        sent.clear()
        with pytest.raises(IntegrityError):
            send.using(priority=9).enqueue(session)
    assert sum("INSERT" in sql for sql in sent) == 1
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1


def test_a_translated_schema_is_where_it_goes(database: Database) -> None:
    database.execute("CREATE SCHEMA other")
    engine = database.engine.execution_options(schema_translate_map={None: "other"})
    with engine.begin() as connection:
        Job.metadata.tables["sqla_jobs"].create(connection)
    with Session(engine) as session, session.begin():
        send.enqueue(session)
    assert database.scalar("SELECT count(*) FROM other.sqla_jobs") == 1


def test_the_way_without_a_flush_is_the_usual_one(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else this file would say nothing."""
    taken: list[Connection] = []
    insert = lifecycle.insert

    def noted(connection: Connection, *rest: Any) -> Any:
        taken.append(connection)
        return insert(connection, *rest)

    monkeypatch.setattr(lifecycle, "insert", noted)
    with database.sessionmaker() as session:
        send.enqueue(session)
        jobs.enqueue(session, "send", number=1)
        jobs.using(delay=HOUR).enqueue(session, "elsewhere", a=1)
    assert len(taken) == 3
