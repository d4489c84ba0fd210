"""How the queue's own statements are sent: by the driver alone, unless somebody listens."""

from __future__ import annotations

import logging
import threading
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import OperationalError, ProgrammingError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker, lifecycle, statements
from sqla_jobs.lifecycle.sent import fetch
from sqla_jobs.scope import stand_guard
from tests.support.server import Database

WORKER = 7


@pytest.fixture
def engine(database: Database) -> Any:
    """One on which a worker's guard stands, as it does for a whole process."""
    made = create_engine(database.url)
    stand_guard(made)
    made.connect().close()  # the first one asks what the server is like
    yield made
    made.dispose()


def claim(connection: Connection) -> list[Any]:
    return lifecycle.claim(connection, Job, WORKER)


def by_sqlalchemy(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []
    usual = Connection.exec_driver_sql

    def see(self: Connection, sql: str, *given: Any, **more: Any) -> Any:
        sent.append(sql)
        return usual(self, sql, *given, **more)

    monkeypatch.setattr(Connection, "exec_driver_sql", see)
    return sent


def test_the_driver_does_it_alone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = by_sqlalchemy(engine, monkeypatch)
    with engine.begin() as connection:
        assert claim(connection) == []
    assert sent == []


@pytest.mark.parametrize("name", ["before_cursor_execute", "after_cursor_execute"])
def test_who_listens_hears_it(name: str, engine: Engine) -> None:
    heard: list[str] = []

    def listen(_: object, __: object, sql: str, *___: object) -> None:
        heard.append(sql)

    event.listen(engine, name, listen)
    with engine.begin() as connection:
        claim(connection)
    assert len(heard) == 1
    assert "sqla_jobs" in heard[0]


def test_who_executes_it_in_the_drivers_stead_is_asked(engine: Engine) -> None:
    asked: list[str] = []

    def execute(_: object, sql: str, *__: object) -> None:
        asked.append(sql)

    event.listen(engine, "do_execute", execute)
    with engine.begin() as connection:
        claim(connection)
    assert len(asked) == 1


def test_who_logs_statements_has_it_in_the_log(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sqlalchemy.engine"):
        made = create_engine(database.url)
        stand_guard(made)
        with made.begin() as connection:
            claim(connection)
        made.dispose()
    assert any("sqla_jobs" in record.getMessage() for record in caplog.records)


def test_an_error_is_sqlalchemys(engine: Engine) -> None:
    with engine.begin() as connection:
        claim(connection)
        connection.exec_driver_sql("ALTER TABLE sqla_jobs RENAME TO elsewhere")
        with pytest.raises(ProgrammingError, match="sqla_jobs"):
            claim(connection)
        connection.rollback()


def test_a_lost_connection_is_known_as_lost(engine: Engine, database: Database) -> None:
    with engine.connect() as connection:
        claim(connection)
        number = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        database.execute(f"SELECT pg_terminate_backend({number}, 5000)")
        with pytest.raises(OperationalError) as caught:
            claim(connection)
        assert caught.value.connection_invalidated
        assert connection.invalidated


def test_an_error_is_told_to_who_handles_errors(engine: Engine) -> None:
    told: list[str] = []
    event.listen(engine, "handle_error", lambda context: told.append(context.statement))
    with engine.connect() as connection:
        connection.exec_driver_sql("ALTER TABLE sqla_jobs RENAME TO elsewhere")
        with pytest.raises(ProgrammingError):
            claim(connection)
        connection.rollback()
    assert len(told) == 1


@pytest.mark.parametrize("ids", [[], [1], [1, 2, 2**62]])
def test_ids_arrive_whatever_way_they_are_sent(ids: list[int], engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        for number in ids:
            session.execute(
                Job.__table__.insert().values(  # type: ignore[attr-defined]
                    id=number, task="t", state="running", claim=3, worker_id=WORKER, attempt=1
                )
            )
        given = {"ids": ids, "claims": [3] * len(ids), "p_worker_id": WORKER}
        with session.begin_nested():
            rows = fetch(session.connection(), Job, statements.finish_running(Job), **given)
            assert sorted(row[0] for row in rows) == ids
            session.rollback()


def test_a_listener_that_comes_while_a_worker_runs_hears_its_claims(database: Database) -> None:
    made = create_engine(database.url)
    jobs = Jobs()
    worker = Worker(jobs, made, poll_interval=timedelta(seconds=0.01))
    with worker:
        heard = threading.Event()

        def listen(_: object, __: object, sql: str, *___: object) -> None:
            if "SKIP LOCKED" in sql:
                heard.set()

        event.listen(made, "before_cursor_execute", listen)
        assert heard.wait(20)
    made.dispose()
