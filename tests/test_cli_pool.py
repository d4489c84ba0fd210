"""The pool of `sqla-jobs worker`: a connection is asked whether it is alive after a pause, and only then."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.exc import OperationalError

from sqla_jobs.cli import pool
from tests.support.server import Database


@pytest.fixture
def engine(database: Database) -> Any:
    made = create_engine(database.url, pool_size=2)
    pool.ping_after_a_pause(made)
    yield made
    made.dispose()


def pid(engine: Engine) -> int:
    with engine.connect() as connection:
        return int(connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one())


def pings(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    asked: list[int] = []
    usual = engine.dialect.do_ping

    def do_ping(driver: Any) -> bool:
        asked.append(driver.info.backend_pid)
        return bool(usual(driver))

    monkeypatch.setattr(engine.dialect, "do_ping", do_ping)
    return asked


def test_a_connection_in_use_is_not_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pings(engine, monkeypatch)
    assert pid(engine) == pid(engine)
    assert asked == []


def test_after_a_pause_it_is_asked(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = pings(engine, monkeypatch)
    first = pid(engine)
    monkeypatch.setattr(pool, "PAUSE", -1.0)
    assert pid(engine) == first
    assert asked == [first]


def test_one_that_died_in_the_pool_is_replaced_with_all_that_are_as_old(
    engine: Engine, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect() as one, engine.connect() as other:
        old = {each.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() for each in (one, other)}
    for number in old:
        database.execute(f"SELECT pg_terminate_backend({number}, 5000)")
    monkeypatch.setattr(pool, "PAUSE", -1.0)
    asked = pings(engine, monkeypatch)
    with engine.connect() as one, engine.connect() as other:
        new = {each.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() for each in (one, other)}
    assert not new & old
    assert len([number for number in asked if number in old]) == 1


def test_what_the_application_finds_wrong_at_the_checkout_is_still_told(engine: Engine) -> None:
    def refuse(*_: Any) -> None:
        raise OperationalError("no", None, Exception("no"))

    event.listen(engine, "checkout", refuse)
    with pytest.raises(OperationalError):
        pid(engine)
