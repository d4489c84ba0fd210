"""Who is told of a job, in which transaction, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import create_engine, func, text
from sqlalchemy.orm import DeclarativeBase, Session, sessionmaker

from sqla_jobs import Job, JobMixin, Jobs, lifecycle, statements, wakeup
from sqla_jobs.errors import InvalidOption
from tests.support.ear import Ear, ear
from tests.support.models import Item
from tests.support.server import Database


class Base(DeclarativeBase):
    pass


class PlacedJob(JobMixin, Base):
    __table_args__ = {"schema": "Büro: 100%"}


@pytest.fixture
def told(database: Database) -> Iterator[Ear]:
    with ear(database) as listening:
        yield listening


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.sessionmaker() as session:
        yield session


jobs = Jobs()


@jobs.task(name="work", queue="mail")
def work(session: Session) -> None: ...


# -- options and payloads --------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "after_commit", False])
def test_a_registry_has_one_of_three_modes(mode: Any) -> None:
    assert Jobs(notify=mode).notify == mode


@pytest.mark.parametrize("mode", [True, None, "", "commit", 0, ["transaction"]])
def test_any_other_is_refused(mode: Any) -> None:
    with pytest.raises(
        InvalidOption, match=r"notify .*; expected 'transaction' .*, 'after_commit' .* or False"
    ):
        Jobs(notify=mode)


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        ("queued:mail", (True, False)),
        ("queued:other", (False, False)),
        ("queued", (True, False)),
        ("queued:", (True, False)),
        ("scheduled", (False, True)),
        ("cancel:7:1:1", (False, True)),
        ("cancel:77:1:1", (False, False)),
        ("cancel", (False, False)),
        ("", (False, False)),
        ("nonsense:mail", (False, False)),
    ],
)
def test_what_a_payload_means_to_a_worker(payload: str, expected: tuple[bool, bool]) -> None:
    news = wakeup.read([payload], worker_id=7, queues=["mail", "slow"])
    assert (news.of_work, news.of_times) == expected


def test_a_worker_of_any_queue_looks_whichever_it_is() -> None:
    assert wakeup.read(["queued:other"], 7, None) == wakeup.News(of_work=True)


def test_several_payloads_are_one_message() -> None:
    assert wakeup.read(["queued:other", "scheduled", "queued:mail"], 7, ["mail"]) == wakeup.News(True, True)


# -- in the transaction ----------------------------------------------------------------------------


def test_workers_are_told_with_the_commit(session: Session, told: Ear) -> None:
    work.enqueue(session)
    assert told.heard() == []
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_however_a_job_comes_into_the_session(session: Session, told: Ear) -> None:
    for add in (
        lambda: session.add(work.job()),
        lambda: session.add(Job(task="work", queue="mail", state="queued")),
        lambda: jobs.using(queue="mail").enqueue(session, "elsewhere"),
        lambda: jobs.using(queue="mail").enqueue(session, "work"),
    ):
        add()
        session.commit()
        assert told.heard() == ["queued:mail"]


def test_once_a_queue_in_a_transaction(session: Session, told: Ear, statements_of: list[str]) -> None:
    for queue in ("mail", "slow", "mail"):
        for _ in range(3):
            work.using(queue=queue).enqueue(session)
    assert sum("pg_notify" in sql for sql in statements_of) == 2
    session.commit()
    assert sorted(told.heard()) == ["queued:mail", "queued:slow"]
    work.enqueue(session)
    session.commit()
    assert told.heard() == ["queued:mail"], "another transaction"


@pytest.fixture
def statements_of(session: Session) -> Iterator[list[str]]:
    """What the Session's connection sends."""
    from sqlalchemy import event

    sent: list[str] = []

    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        sent.append(sql)

    engine = session.get_bind()
    event.listen(engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine, "before_cursor_execute", note)


def test_a_flush_without_jobs_sends_nothing_more(session: Session, statements_of: list[str]) -> None:
    session.add(Item(name="a"))
    session.commit()
    assert len(statements_of) == 1


def test_a_rollback_tells_nobody(session: Session, told: Ear) -> None:
    work.enqueue(session)
    session.rollback()
    session.commit()
    assert told.heard() == []
    work.enqueue(session)
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_a_savepoint_that_is_rolled_back_is_forgotten(session: Session, told: Ear) -> None:
    session.add(Item(name="first"))
    with session.begin_nested() as savepoint:
        work.enqueue(session)
        savepoint.rollback()
    work.enqueue(session)
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_a_savepoint_within_one_that_is_rolled_back(session: Session, told: Ear) -> None:
    outer = session.begin_nested()
    with session.begin_nested():
        work.enqueue(session)
    outer.rollback()
    work.enqueue(session)
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_what_was_told_before_a_savepoint_is_not_told_in_it(
    session: Session, told: Ear, statements_of: list[str]
) -> None:
    work.enqueue(session)
    with session.begin_nested():
        work.enqueue(session)
    assert sum("pg_notify" in sql for sql in statements_of) == 1
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_a_savepoint_of_the_connection_that_is_rolled_back(session: Session, told: Ear) -> None:
    savepoint = session.connection().begin_nested()
    work.enqueue(session)
    savepoint.rollback()
    session.expunge_all()
    work.enqueue(session)
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_a_flush_that_fails_tells_nobody(session: Session, told: Ear) -> None:
    session.add(Item(name="taken"))
    session.commit()
    with pytest.raises(Exception, match="taken"):
        with session.begin_nested():
            work.enqueue(session)
            session.add(Item(name="taken"))
            session.flush()
    session.commit()
    assert told.heard() == []
    work.enqueue(session)
    session.commit()
    assert told.heard() == ["queued:mail"]


@pytest.mark.parametrize("how", [{"delay": timedelta(hours=1)}, {"run_at": datetime.now(timezone.utc)}])
def test_a_job_that_waits_for_its_time_lets_workers_plan_anew(
    session: Session, told: Ear, how: dict[str, Any]
) -> None:
    work.using(**how).enqueue(session)
    session.commit()
    assert told.heard() == ["scheduled"]


def test_a_row_of_defaults_waits_for_its_promotion(session: Session, told: Ear) -> None:
    session.add(Job(task="work"))
    session.commit()
    assert told.heard() == ["scheduled"]


def test_a_queue_that_only_the_server_knows(session: Session, told: Ear) -> None:
    session.add(Job(task="work", state="queued", queue=func.lower("MAIL")))
    session.add(Job(task="work", state="queued"))
    session.commit()
    assert set(told.heard()) <= {"queued", "queued:mail", "queued:default"}


def test_a_job_that_is_made_finished_is_no_news(session: Session, told: Ear) -> None:
    session.add(Job(task="work", state="succeeded", finished_at=datetime.now(timezone.utc)))
    session.commit()
    assert told.heard() == []


def test_nobody_is_told_of_jobs_of_a_registry_that_does_not_want_it(session: Session, told: Ear) -> None:
    quiet = Jobs(notify=False)
    task = quiet.task(name="work")(lambda session: None)
    task.enqueue(session)
    task.using(queue="slow").enqueue(session)
    quiet.enqueue(session, "elsewhere")
    session.commit()
    assert told.heard() == []


def test_a_two_phase_transaction_is_prepared_all_the_same(database: Database, told: Ear) -> None:
    if database.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server prepares no transactions: set max_prepared_transactions")
    with Session(database.engine, twophase=True) as session:
        work.enqueue(session)
        session.prepare()
        session.commit()
    assert told.heard() == []
    with database.engine.connect() as connection:
        with connection.begin_twophase() as transaction:
            work.enqueue(Session(connection))
            transaction.prepare()
    assert told.heard() == []
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 2


def test_a_session_that_is_bound_to_a_connection(database: Database, told: Ear) -> None:
    with database.engine.connect() as connection:
        with connection.begin():
            for _ in range(2):
                with Session(connection, join_transaction_mode="create_savepoint") as session:
                    work.enqueue(session)
                    session.commit()
                    assert told.heard() == []
        assert told.heard() == ["queued:mail"]
        with connection.begin() as transaction:
            with Session(connection, join_transaction_mode="create_savepoint") as session:
                work.enqueue(session)
                session.commit()
            transaction.rollback()
        assert told.heard() == []


def test_two_databases_in_one_session(database: Database, session: Session, told: Ear) -> None:
    """The same channel, but not the same server: each is told."""
    other = create_engine(database.url)  # another engine is another connection

    class OtherBase(DeclarativeBase):
        pass

    class OtherJob(JobMixin, OtherBase):
        pass

    there = Jobs(OtherJob).task(name="work", queue="mail")(lambda session: None)
    with sessionmaker(binds={Job: database.engine, OtherJob: other})() as both:
        work.enqueue(both)
        there.enqueue(both)
        both.commit()
    other.dispose()
    assert told.heard() == ["queued:mail", "queued:mail"]


# -- channels --------------------------------------------------------------------------------------


def test_a_model_in_a_schema_has_a_channel_of_its_own(database: Database, told: Ear) -> None:
    jobs = Jobs(PlacedJob)
    jobs.create_all(database.engine)
    task = jobs.task(name="work")(lambda session: None)
    with ear(database, "sqla_jobs_Büro: 100%") as placed, database.sessionmaker() as session:
        task.enqueue(session)
        session.commit()
        assert placed.heard() == ["queued:default"]
    assert told.heard() == []
    with database.engine.connect() as connection:
        connection.execute(statements.listen(PlacedJob))
        connection.commit()
        channels = connection.scalars(text("SELECT pg_listening_channels()")).all()
        assert channels == ["sqla_jobs_Büro: 100%"]


@pytest.mark.parametrize("length", [53, 54, 63])
def test_no_channel_is_longer_than_the_server_takes(database: Database, length: int) -> None:
    class AnyBase(DeclarativeBase):
        pass

    class LongJob(JobMixin, AnyBase):
        __table_args__ = {"schema": "s" * length}

    channel = statements.channel(LongJob)
    assert channel.startswith("sqla_jobs_")
    assert (channel == f"sqla_jobs_{'s' * length}") == (length == 53)
    with ear(database, channel) as listening, database.engine.begin() as connection:
        wakeup.tell(connection, channel, ["queued"])
        connection.commit()
        assert listening.heard() == ["queued"]


# -- what is given back ----------------------------------------------------------------------------


def register(session: Session) -> int:
    return lifecycle.register(
        session, Job, host="h", pid=1, version="v", queues=None, threads=1, heartbeat_limit=timedelta(hours=1)
    )


def test_workers_are_told_of_what_a_stopped_one_gives_back(session: Session, told: Ear) -> None:
    number = register(session)
    work.enqueue(session)
    lifecycle.claim(session, Job, number)
    session.commit()
    assert told.heard() == ["queued:mail"]
    lifecycle.goodbye(session, Job, number)
    session.commit()
    assert told.heard() == ["queued:mail"]


def test_workers_are_told_of_what_is_taken_from_a_dead_one(session: Session, told: Ear) -> None:
    number = register(session)
    work.enqueue(session)
    lifecycle.claim(session, Job, number)
    session.commit()
    assert told.heard() == ["queued:mail"]
    later = datetime.now(timezone.utc) + timedelta(days=1)
    (rescued,) = lifecycle.rescue(session, Job, jobs.policy_for, now=later)
    session.commit()
    assert (rescued.written.state, told.heard()) == ("scheduled", ["scheduled"])


def test_workers_are_told_of_what_is_promoted(session: Session, told: Ear) -> None:
    for queue in ("mail", "mail", "slow"):
        work.using(queue=queue, delay=timedelta(hours=1)).enqueue(session)
    session.commit()
    assert told.heard() == ["scheduled"]
    assert lifecycle.promote(session, Job, now=datetime.now(timezone.utc) + timedelta(hours=2)) == 3
    session.commit()
    assert sorted(told.heard()) == ["queued:mail", "queued:slow"]
    assert lifecycle.promote(session, Job) == 0


def test_a_worker_is_asked_to_look_for_a_cancel(session: Session, told: Ear) -> None:
    wakeup.ask_to_cancel(session, Job, worker_id=7, job_id=8, claim=9)
    assert told.heard() == []
    session.commit()
    assert told.heard() == ["cancel:7:8:9"]
