"""What the queues hold, as a scrape shows it: seldom looked at, and at no job's expense."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs
from tests.support.scrape import Metered, metered
from tests.support.server import Database
from tests.support.work import drain


@pytest.fixture
def jobs() -> Jobs[Job]:
    jobs: Jobs[Job] = Jobs()
    jobs.register(lambda session: None, name="task")
    return jobs


class Clock:
    """What the queues take the time to be."""

    def __init__(self, scraped: Metered) -> None:
        self.now = 1_000.0
        assert scraped.metrics._queues is not None
        scraped.metrics._queues._clock = lambda: self.now
        scraped.metrics._queues._next = self.now


@pytest.fixture
def scraped(jobs: Jobs[Job], database: Database) -> Iterator[Metered]:
    with metered(jobs, database) as metrics:
        yield metrics


@pytest.fixture
def clock(scraped: Metered) -> Clock:
    return Clock(scraped)


@pytest.fixture
def looks(database: Database) -> Iterator[list[str]]:
    """What is sent to the database for the queues."""
    sent: list[str] = []

    def note(*arguments: object) -> None:
        if threading.current_thread().name == "sqla_jobs-queues":
            sent.append(str(arguments[2]))

    event.listen(database.engine, "before_cursor_execute", note)
    yield sent
    event.remove(database.engine, "before_cursor_execute", note)


def enqueue(jobs: Jobs[Job], database: Database, queue: str, number: int = 1, **options: object) -> None:
    with database.sessionmaker.begin() as session:
        for _ in range(number):
            jobs.using(queue=queue, **options).enqueue(session, "task")  # type: ignore[arg-type]


def test_depth_and_age(jobs: Jobs[Job], database: Database, scraped: Metered, clock: Clock) -> None:
    enqueue(jobs, database, "mail", 3)
    enqueue(jobs, database, "slow")
    enqueue(jobs, database, "slow", 2, delay=timedelta(hours=1))
    with database.sessionmaker.begin() as session:
        session.execute(
            text("UPDATE sqla_jobs SET run_at = run_at - interval '2 hours' WHERE queue = 'mail' AND id = 1")
        )
        jobs.pause(session, "slow")
    found = scraped.scrape()
    assert found.value("queues_up") == 1
    for queue, (depth, scheduled, paused) in {"mail": (3, 0, 0), "slow": (1, 2, 1)}.items():
        assert found.value("queue_depth", queue=queue) == depth
        assert found.value("queue_scheduled", queue=queue) == scheduled
        assert found.value("queue_paused", queue=queue) == paused
    assert 7200 <= (found.value("queue_oldest_seconds", queue="mail") or 0) < 7260
    assert 0 <= (found.value("queue_oldest_seconds", queue="slow") or 0) < 60

    with database.sessionmaker.begin() as session:
        jobs.resume(session, "slow")
    drain(jobs, database)
    clock.now += 10
    found = scraped.scrape()
    assert found.value("queue_depth") == 0
    assert found.value("queue_oldest_seconds", queue="mail") == 0


def test_queues_beyond_the_bound_are_added_up(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    scraped.metrics.labels._most = 2
    for number in range(4):
        enqueue(jobs, database, f"q{number}", number + 1)
    found = scraped.scrape()
    assert found.labels("queue") == {"q0", "q1", "other"}
    assert found.value("queue_depth", queue="other") == 3 + 4
    assert found.value("queue_depth") == 1 + 2 + 3 + 4


def test_however_many_scrape_it_looks_every_ten_seconds(
    jobs: Jobs[Job], database: Database, scraped: Metered, clock: Clock, looks: list[str]
) -> None:
    enqueue(jobs, database, "mail")
    together = threading.Barrier(8)

    def scrape() -> None:
        together.wait(30)
        for _ in range(3):
            assert scraped.scrape().value("queue_depth", queue="mail") == 1

    threads = [threading.Thread(target=scrape) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum("statement_timeout" in sql for sql in looks) == 1
    clock.now += 9.9
    scraped.scrape()
    assert sum("statement_timeout" in sql for sql in looks) == 1
    enqueue(jobs, database, "mail")
    clock.now += 0.1
    assert scraped.scrape().value("queue_depth", queue="mail") == 2
    assert sum("statement_timeout" in sql for sql in looks) == 2


def test_it_needs_no_connection_of_the_applications_pool(jobs: Jobs[Job], database: Database) -> None:
    """Jobs may have all of them, and are not to wait for one either."""
    engine = create_engine(database.url, pool_size=1, max_overflow=0, pool_timeout=0)
    try:
        with engine.connect(), metered(jobs, database) as scraped:
            scraped.metrics.look_at(engine)
            assert scraped.scrape().value("queues_up") == 1
    finally:
        engine.dispose()
    # Nor does it keep one.
    others = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    database.engine.dispose()
    assert database.scalar(others) == 0


def test_a_look_that_takes_too_long_is_given_up(
    jobs: Jobs[Job],
    database: Database,
    scraped: Metered,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And nothing old is shown as if it were new."""
    enqueue(jobs, database, "mail")
    assert scraped.scrape().value("queue_depth", queue="mail") == 1
    monkeypatch.setattr("sqla_jobs.metrics.queues.TIMEOUT", 0.1)
    with database.engine.begin() as connection:
        connection.execute(text("LOCK TABLE sqla_jobs IN ACCESS EXCLUSIVE MODE"))
        for _ in range(2):
            clock.now += 10
            found = scraped.scrape()
            assert found.value("queues_up") == 0
            assert found.value("queue_depth") is None
            assert found.value("worker_up") == 0
    [said] = [each.getMessage() for each in caplog.records]
    assert said.startswith("the queues could not be looked at for the metrics: ")
    assert said.endswith("canceling statement due to statement timeout")
    clock.now += 10
    assert scraped.scrape().value("queue_depth", queue="mail") == 1


def test_the_database_is_away(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/none")
    scraped.metrics.look_at(nowhere)
    found = scraped.scrape()
    assert found.value("queues_up") == 0
    assert found.value("queue_depth") is None


def test_without_a_database_there_are_no_figures_of_it(jobs: Jobs[Job], scraped: Metered) -> None:
    scraped.metrics.look_at(None)
    found = scraped.scrape()
    assert found.value("queues_up") is None
    assert found.value("queue_depth") is None


def test_it_only_reads(database: Database, scraped: Metered, looks: list[str]) -> None:
    with Session(database.engine) as session:
        session.execute(text("SELECT 1"))
    scraped.scrape()
    assert looks
    words = ("INSERT", "UPDATE ", "DELETE", "FOR SHARE", "FOR NO KEY", "LOCK")
    assert not [sql for sql in looks if any(word in sql.upper() for word in words)]
