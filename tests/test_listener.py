"""The listening connection: what it hears, which lock it holds, and how it comes back."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Engine, text

from sqla_jobs import Job, listener
from sqla_jobs.listener import Listener
from tests.support.lane import logged, register
from tests.support.pgbouncer import installed, running_pgbouncer
from tests.support.proxy import proxy
from tests.support.server import Database, Server
from tests.support.waiting import blocked, until
from tests.support.work import PATIENCE

LOCKED = "SELECT locked FROM sqla_jobs_workers WHERE id = {}"
HELD = """
    SELECT NOT pg_try_advisory_xact_lock_shared(hashint8extended(id, tableoid::bigint))
    FROM sqla_jobs_workers WHERE id = {}
"""
BACKENDS = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


class Hearing:
    """A listener in a thread, and what it calls, in order."""

    def __init__(self, database: Database, engine: Engine, worker_id: int, queues: list[str] | None) -> None:
        self.database = database
        self.calls: queue.Queue[str] = queue.Queue()
        self.failures = 0
        """How often `on_lost` is to fail."""
        self.listener = Listener(
            engine,
            Job,
            worker_id,
            queues=queues,
            on_work=lambda: self.calls.put("work"),
            on_times=lambda: self.calls.put("times"),
            on_lost=self.on_lost,
        )
        self.thread = threading.Thread(target=self.listener.run, daemon=True)

    def on_lost(self) -> None:
        self.calls.put("lost")
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the database is away")

    def next(self) -> str:
        return self.calls.get(timeout=PATIENCE)

    def begun(self) -> None:
        """It looks for what was there before it listened."""
        assert [self.next(), self.next()] == ["work", "times"]

    def tell(self, *payloads: str) -> None:
        for payload in payloads:
            self.database.execute("SELECT pg_notify('sqla_jobs', :payload)", payload=payload)

    def until_locked(self, worker_id: int) -> None:
        until(self.database, LOCKED.format(worker_id))

    def kill(self) -> None:
        """End the connection on the server, and nothing else."""
        (found,) = self.database.rows(BACKENDS)
        assert self.database.scalar("SELECT pg_terminate_backend(:pid)", pid=found.pid)


def worker_row(database: Database) -> int:
    with database.sessionmaker.begin() as session:
        return register(session)


@contextmanager
def hearing(
    database: Database, worker_id: int, *, queues: list[str] | None = None, engine: Engine | None = None
) -> Iterator[Hearing]:
    heard = Hearing(database, engine or database.engine, worker_id, queues)
    heard.thread.start()
    try:
        yield heard
    finally:
        heard.listener.stop()
        heard.thread.join(PATIENCE)
        assert not heard.thread.is_alive()


@pytest.fixture
def number(database: Database) -> int:
    return worker_row(database)


# -- hearing ---------------------------------------------------------------------------------------


def test_it_hears_what_concerns_its_worker(database: Database, number: int) -> None:
    with hearing(database, number, queues=["mail", "slow"]) as heard:
        heard.begun()
        heard.tell("queued:other", f"cancel:{number + 1}:1:1", "nonsense", "queued:slow")
        assert heard.next() == "work"
        heard.tell("queued:other", "scheduled")
        assert heard.next() == "times"
        heard.tell("queued:other", f"cancel:{number}:1:1")
        assert heard.next() == "times"
        assert heard.calls.empty()


def test_what_is_told_while_it_is_at_a_statement(database: Database, number: int) -> None:
    """It waits for the row; the server tells it with the answer, which the driver reads, not the wait."""
    with database.engine.connect() as other:
        other.execute(text("SELECT 1 FROM sqla_jobs_workers FOR UPDATE"))
        with hearing(database, number) as heard:
            heard.begun()
            until(database, blocked("= 1"))
            heard.tell("queued:mail")
            other.rollback()
            assert heard.next() == "work"


def test_a_stop_ends_the_wait_at_once_and_lets_go_of_the_lock(database: Database, number: int) -> None:
    with hearing(database, number) as heard:
        heard.until_locked(number)
    until(database, f"SELECT count(*) = 0 FROM ({BACKENDS}) held")


def test_who_was_stopped_before_the_start_does_not_begin(database: Database, number: int) -> None:
    heard = Hearing(database, database.engine, number, None)
    heard.listener.stop()
    heard.thread.start()
    heard.thread.join(PATIENCE)
    assert not heard.thread.is_alive()
    assert heard.calls.empty()


# -- the lock --------------------------------------------------------------------------------------


def test_its_row_says_so_while_it_holds_the_lock(database: Database, number: int) -> None:
    assert not database.scalar(LOCKED.format(number))
    assert not database.scalar(HELD.format(number))
    with hearing(database, number) as heard:
        heard.until_locked(number)
        assert database.scalar(HELD.format(number))
        until_holds(heard)


def until_holds(heard: Hearing) -> None:
    """What the listener itself knows comes a moment after what the row says."""
    pause = threading.Event()
    for _ in range(PATIENCE * 100):
        if heard.listener.holds_lock:
            return
        pause.wait(0.01)
    raise AssertionError("the listener does not know that it holds the lock")


def test_the_word_comes_after_the_lock(database: Database, number: int) -> None:
    """Else others could see the word, and a lock that is free."""
    key = "hashint8extended(id, tableoid::bigint)"
    with database.engine.connect() as other:
        other.execute(text(f"SELECT pg_advisory_lock({key}) FROM sqla_jobs_workers"))
        with hearing(database, number) as heard:
            heard.begun()
            heard.tell("queued")
            assert heard.next() == "work", "it hears while it has no lock"
            assert not database.scalar(LOCKED.format(number))
            assert not heard.listener.holds_lock
            other.execute(text("SELECT pg_advisory_unlock_all()"))
            heard.until_locked(number)
            assert database.scalar(HELD.format(number))


def test_without_a_row_there_is_no_lock(database: Database) -> None:
    with hearing(database, 4711) as heard:
        heard.begun()
        heard.tell("queued")
        assert heard.next() == "work"
        assert database.rows(BACKENDS) == []
        number = worker_row(database)
        heard.listener.identify(number)
        heard.until_locked(number)


def test_a_new_row_is_locked_and_the_old_one_let_go(database: Database, number: int) -> None:
    with hearing(database, number) as heard:
        heard.until_locked(number)
        other = worker_row(database)
        heard.listener.identify(other)
        heard.until_locked(other)
        assert database.scalar(HELD.format(other))
        assert not database.scalar(HELD.format(number))


def test_two_workers_do_not_share_a_lock(database: Database, number: int) -> None:
    other = worker_row(database)
    with hearing(database, number) as first:
        first.until_locked(number)
        assert not database.scalar(HELD.format(other))
        with hearing(database, other) as second:
            second.until_locked(other)


# -- losses ----------------------------------------------------------------------------------------


def test_after_a_loss_it_says_so_and_comes_back(
    database: Database, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with hearing(database, number) as heard:
        heard.begun()
        heard.until_locked(number)
        until_holds(heard)
        for _ in range(3):
            heard.kill()
            assert heard.next() == "lost"
            heard.begun()
            until(database, f"SELECT count(*) = 1 FROM ({BACKENDS}) held")
            heard.tell("queued")
            assert heard.next() == "work"
            until_holds(heard)
    assert len(logged(caplog)) == 1, "a series of losses is told once"


def test_the_row_is_denied_until_that_has_come_through_even_if_it_does_not_come_back(
    database: Database, number: int
) -> None:
    with proxy(database) as between:
        with hearing(database, number, engine=between.engine()) as heard:
            heard.begun()
            heard.until_locked(number)
            until_holds(heard)
            heard.failures = 2
            between.refuse()
            assert [heard.next() for _ in range(3)] == ["lost"] * 3
            between.lose("LISTEN", times=2)
            between.admit()
            heard.begun()
            assert heard.calls.empty(), "once it has come through"


def test_an_outage(database: Database, number: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs")
    with proxy(database) as between:
        with hearing(database, number, engine=between.engine()) as heard:
            heard.begun()
            heard.until_locked(number)
            heard.failures = 3  # the row cannot be reached either
            between.refuse()
            assert [heard.next() for _ in range(4)] == ["lost"] * 4
            assert not heard.listener.is_older_than(0)
            assert not heard.listener.holds_lock
            between.admit()
            heard.begun()
            heard.tell("scheduled")
            assert heard.next() == "times"
    assert [line.partition(":")[0] for line in logged(caplog, logging.INFO)] == [
        "the listening connection is lost, polling until it is back",
        "listening again",
    ]


def test_how_old_the_connection_is(database: Database, number: int) -> None:
    heard = Hearing(database, database.engine, number, None)
    assert not heard.listener.is_older_than(0)
    with hearing(database, number) as heard:
        heard.begun()
        assert heard.listener.is_older_than(0)
        assert not heard.listener.is_older_than(3600)


def test_a_child_that_a_job_has_forked_has_no_part_in_the_connection(database: Database, number: int) -> None:
    """If this process was killed, the child's copy of the socket would keep the lock."""
    with hearing(database, number) as heard:
        heard.begun()
        heard.until_locked(number)
        (descriptor,) = listener._sockets
        os.fstat(descriptor)
        child = os.fork()
        if child == 0:
            try:
                os.fstat(descriptor)
            except OSError:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        heard.tell("queued")
        assert heard.next() == "work", "the parent's own goes on"
    assert listener._sockets == set()


# -- poolers ---------------------------------------------------------------------------------------


@pytest.mark.skipif(installed() is None, reason="pgbouncer is not installed")
def test_behind_a_pooler_it_refuses(
    server: Server, database: Database, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    with running_pgbouncer(server) as bouncer:
        engine = bouncer.engine(database.name)
        heard = Hearing(database, engine, number, None)
        heard.thread.start()
        heard.thread.join(PATIENCE)
        assert not heard.thread.is_alive()
        engine.dispose()
    assert ["a connection pooler is between" in line for line in logged(caplog)] == [True]
    assert "Jobs(notify=False)" in logged(caplog)[0]
    assert heard.calls.empty()
    assert not database.scalar(LOCKED.format(number))
    assert database.rows(BACKENDS) == []
