"""Workers that are told after the commit: by whom, of what, how often, and what a failure costs."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, event, text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, wakeup
from tests.support.ear import Ear, ear
from tests.support.lane import logged
from tests.support.models import Item
from tests.support.proxy import Proxy, proxy
from tests.support.python import python, start_python
from tests.support.server import Database

jobs = Jobs(notify="after_commit")


@jobs.task(name="work", queue="mail")
def work(session: Session) -> None: ...


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "_LINGER", 0.05)


@pytest.fixture
def told(database: Database) -> Iterator[Ear]:
    with ear(database) as listening:
        yield listening


@pytest.fixture
def session(database: Database) -> Iterator[Session]:
    with database.sessionmaker() as session:
        yield session


def flushed(database: Database) -> bool:
    return wakeup.outbox(database.engine).flush(30)


def notifies(database: Database) -> list[str]:
    """What the application's own connections send to notify, from now on."""
    sent: list[str] = []

    @event.listens_for(database.engine, "before_cursor_execute")
    def note(connection: Connection, _: Any, sql: str, *__: Any) -> None:
        if "pg_notify" in sql and connection.engine is database.engine:
            sent.append(sql)

    return sent


def test_workers_are_told_right_after_the_commit(database: Database, session: Session, told: Ear) -> None:
    sent = notifies(database)
    work.enqueue(session)
    assert flushed(database)
    assert told.heard() == []
    session.commit()
    assert told.next() == "queued:mail"
    assert sent == [], "not in the transaction, where it would make commits wait for each other"


@pytest.mark.parametrize("how", ["enqueue", "job", "by name", "using"])
def test_the_mode_comes_with_the_job(database: Database, session: Session, told: Ear, how: str) -> None:
    sent = notifies(database)
    if how == "enqueue":
        work.enqueue(session)
    elif how == "job":
        session.add(work.job())
    elif how == "by name":
        jobs.using(queue="mail").enqueue(session, "elsewhere")
    else:
        work.using(priority=1).enqueue(session)
    session.commit()
    assert told.next() == "queued:mail"
    assert sent == []


def test_a_rollback_forgets(database: Database, session: Session, told: Ear) -> None:
    work.enqueue(session)
    session.rollback()
    session.add(Item(name="a"))
    session.commit()
    assert flushed(database)
    assert told.heard() == []
    work.enqueue(session)
    session.close()
    assert flushed(database)
    assert told.heard() == []


def test_a_released_savepoint_is_no_commit(database: Database, session: Session, told: Ear) -> None:
    with session.begin_nested():
        with session.begin_nested():
            work.enqueue(session)
    assert flushed(database)
    assert told.heard() == []
    session.commit()
    assert told.next() == "queued:mail"


def test_the_same_is_told_seldom_and_always_once_more(
    database: Database, session: Session, told: Ear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "EVERY", 3600.0)
    box = wakeup.outbox(database.engine)
    work.enqueue(session)
    session.commit()
    assert told.next() == "queued:mail"
    for _ in range(5):
        work.enqueue(session)
        session.commit()
    work.using(queue="slow").enqueue(session)
    session.commit()
    assert told.next() == "queued:slow", "another queue does not wait"
    assert not box.flush(0), "the trailing edge"
    monkeypatch.setattr(wakeup, "EVERY", 0.0)
    work.using(queue="slow").enqueue(session)
    session.commit()
    assert box.flush(30)
    heard = told.heard()
    assert heard.count("queued:mail") == 1


def test_a_session_that_is_bound_to_a_connection_tells_in_the_transaction(
    database: Database, told: Ear
) -> None:
    """Its commit is not the last word, which somebody else has."""
    with database.engine.connect() as connection, connection.begin():
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            work.enqueue(session)
            session.commit()
        assert flushed(database)
        assert told.heard() == []
    assert told.heard() == ["queued:mail"]


def test_a_two_phase_session_tells_after_its_second_phase(database: Database, told: Ear) -> None:
    if database.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server prepares no transactions: set max_prepared_transactions")
    with Session(database.engine, twophase=True) as session:
        work.enqueue(session)
        session.prepare()
        assert told.heard() == []
        session.commit()
    assert told.next() == "queued:mail"


def test_it_takes_no_connection_of_the_applications(database: Database, told: Ear) -> None:
    engine = create_engine(database.url, pool_size=1, max_overflow=0, pool_timeout=0)
    with Session(engine) as session:
        work.enqueue(session)
        session.commit()
        session.execute(text("SELECT 1"))  # the only one of the pool
        assert told.next() == "queued:mail"
    engine.dispose()


@pytest.fixture
def between(database: Database) -> Iterator[Proxy]:
    with proxy(database) as between:
        yield between


def test_a_failure_is_logged_once_and_costs_nothing_else(
    database: Database, told: Ear, between: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    engine = between.engine()
    with Session(engine) as session:
        work.enqueue(session)
        session.commit()
        assert told.next() == "queued:mail"
        between.lose("pg_notify", times=4)
        for _ in range(2):
            work.enqueue(session)
            session.commit()
            assert wakeup.outbox(engine).flush(30)
        assert [m for m in logged(caplog, logging.ERROR) if "could not be told" in m] == logged(caplog)
        assert len(logged(caplog)) == 1
        work.enqueue(session)
        session.commit()
        assert told.next() == "queued:mail", "and goes on"
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 4
    engine.dispose()


def test_a_connection_that_was_cut_while_idle_is_made_anew(
    database: Database, told: Ear, between: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    engine = between.engine()
    with Session(engine) as session:
        work.enqueue(session)
        session.commit()
        assert told.next() == "queued:mail"
        between.refuse()
        between.admit()
        engine.dispose()  # of the application's own
        work.enqueue(session)
        session.commit()
        assert told.next() == "queued:mail"
    assert logged(caplog) == []
    engine.dispose()


def test_a_child_has_an_outbox_of_its_own(database: Database) -> None:
    """A fork copies neither the thread nor, in a state that anybody could use, its connection and lock."""
    program = """
        import os
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session
        from sqla_jobs import Jobs, wakeup

        engine = create_engine(os.environ["DATABASE_URL"])
        work = Jobs(notify="after_commit").task(name="work")(lambda session: None)

        def enqueue(queue):
            with Session(engine) as session, session.begin():
                work.using(queue=queue).enqueue(session)

        enqueue("parent")
        assert wakeup.outbox(engine).flush(30)
        outbox = wakeup.outbox(engine)
        with outbox._changed:  # as another thread may have it at the moment of the fork
            child = os.fork()
            if child == 0:
                engine.dispose(close=False)
                enqueue("child")
                os._exit(0 if wakeup.outbox(engine).flush(30) else 1)
        assert os.waitpid(child, 0)[1] == 0
        enqueue("parent.again")
    """
    with ear(database) as told:
        python(program, database=database)
        assert told.heard() == ["queued:parent", "queued:child", "queued:parent.again"]


def test_what_is_not_told_yet_is_told_at_the_end_of_the_program(database: Database) -> None:
    program = """
        import atexit, os, weakref
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session
        from sqla_jobs import Jobs

        # Before our own, as where nobody had a finalizer earlier.
        atexit.unregister(weakref.finalize._exitfunc)
        atexit.register(weakref.finalize._exitfunc)

        work = Jobs(notify="after_commit").task(name="work")(lambda session: None)
        with Session(create_engine(os.environ["DATABASE_URL"])) as session:
            for number in range(20):
                work.using(queue=f"q{number}").enqueue(session)
                session.commit()
    """
    with ear(database) as told:
        process = start_python(program, database=database)
        _, errors = process.communicate(timeout=60)
        # Also not by a second try, after its connection was closed under the feet of the thread.
        assert (process.returncode, errors) == (0, "")
        assert sorted(told.heard()) == sorted(f"queued:q{number}" for number in range(20))


def threads_end() -> None:
    for thread in [each for each in threading.enumerate() if each.name == "sqla_jobs-notify"]:
        thread.join(30)
        assert not thread.is_alive()


def test_its_thread_ends_when_there_is_nothing_to_tell(session: Session, told: Ear) -> None:
    for _ in range(3):
        work.enqueue(session)
        session.commit()
        assert told.next() == "queued:mail"
        threads_end()


def test_an_engine_that_is_forgotten_takes_its_outbox_with_it(database: Database, told: Ear) -> None:
    engine = create_engine(database.url)
    with Session(engine) as session:
        work.enqueue(session)
        session.commit()
    kept = weakref.ref(wakeup.outbox(engine))
    threads_end()
    engine.dispose()
    del engine, session
    gc.collect()
    assert kept() is None
