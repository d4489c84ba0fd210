"""Counters and histograms of real jobs; over HTTP they are in test_metrics_endpoint."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Cancel, Finished, Job, Jobs, RetryPolicy, Snooze, Worker
from sqla_jobs.errors import InvalidOption
from sqla_jobs.metrics import Prometheus
from sqla_jobs.metrics.prometheus import COUNTERS, GAUGES, HISTOGRAMS
from tests.support.aio import Sessions, in_a_loop
from tests.support.fast import unhurried
from tests.support.loops import drain_async
from tests.support.models import Effect
from tests.support.scrape import Metered, metered
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, PATIENCE, SOON, drain

ONCE_MORE = RetryPolicy(max_attempts=2, base=dt.timedelta(0))


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def scraped(jobs: Jobs[Job], database: Database) -> Iterator[Metered]:
    with metered(jobs, database) as metrics:
        yield metrics


def run_all(jobs: Jobs[Job], database: Database, scraped: Metered, **options: Any) -> list[Finished]:
    return drain(jobs, database, observers=[scraped.metrics], **options)


def test_each_outcome_is_counted_once(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    snoozed: list[int] = []

    @jobs.task(name="succeed", queue="good")
    def succeed(session: Session) -> None: ...

    @jobs.task(name="fail", retry=NEVER_AGAIN)
    def fail(session: Session) -> None:
        raise ValueError("secret")

    @jobs.task(name="stumble", retry=ONCE_MORE)
    def stumble(session: Session) -> None:
        raise ValueError("secret")

    @jobs.task(name="refuse")
    def refuse(session: Session) -> Cancel:
        return Cancel("secret")

    @jobs.task(name="sleep")
    def sleep(session: Session) -> Snooze | None:
        snoozed.append(1)
        return Snooze(dt.timedelta(0)) if len(snoozed) == 1 else None

    with database.sessionmaker.begin() as session:
        for task in (succeed, fail, stumble, refuse, sleep):
            task.enqueue(session)
    run_all(jobs, database, scraped)
    found = scraped.scrape()
    assert found.counted(task="succeed", queue="good") == {"enqueued": 1, "started": 1, "succeeded": 1}
    assert found.counted(task="fail") == {"enqueued": 1, "started": 1, "failed": 1}
    assert found.counted(task="stumble") == {"enqueued": 1, "started": 2, "retried": 1, "failed": 1}
    assert found.counted(task="refuse") == {"enqueued": 1, "started": 1, "cancelled": 1}
    assert found.counted(task="sleep") == {"enqueued": 1, "started": 2, "snoozed": 1, "succeeded": 1}
    assert found.value("running") == 0
    assert found.value("worker_up") == 0
    for name in ("wait_seconds_count", "run_seconds_count"):
        assert found.value(name, task="stumble") == 2, name
    assert "secret" not in found.text


def test_what_a_running_worker_shows(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @jobs.task(name="wait")
    def wait(session: Session) -> None:
        begun.set()
        go_on.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        wait.enqueue(session)
    with Worker(jobs, database.engine, poll_interval=SOON, observers=[scraped.metrics]):
        assert begun.wait(PATIENCE)
        found = scraped.scrape()
        assert found.value("running", task="wait", queue="default") == 1
        assert found.value("worker_up") == 1
        assert found.counted(task="wait") == {"enqueued": 1, "started": 1}
        go_on.set()
    found = scraped.scrape()
    assert (found.value("running"), found.value("worker_up")) == (0, 0)
    assert found.counted(task="wait") == {"enqueued": 1, "started": 1, "succeeded": 1}


def test_what_a_stop_gives_back(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    begun = threading.Event()

    @jobs.task(name="wait")
    def wait(session: Session) -> None:
        begun.set()
        session.execute(text("SELECT pg_sleep(60)"))

    with database.sessionmaker.begin() as session:
        wait.enqueue(session)
    with Worker(jobs, database.engine, poll_interval=SOON, observers=[scraped.metrics]) as worker:
        assert begun.wait(PATIENCE)
        worker.stop(0)
    found = scraped.scrape()
    assert found.counted(task="wait") == {"enqueued": 1, "started": 1, "given_back": 1}
    assert found.value("running") == 0


def test_the_time_that_a_job_waited_and_ran(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    @jobs.task(name="fast", group_commit=5, timeout=dt.timedelta(minutes=1))
    def fast(session: Session) -> None: ...

    @jobs.task(name="plain")
    def plain(session: Session) -> None: ...

    with database.sessionmaker.begin() as session:
        fast.enqueue(session)
        plain.enqueue(session)
        session.execute(text("UPDATE sqla_jobs SET run_at = run_at - interval '1 hour', created_at = run_at"))
        session.execute(text("UPDATE sqla_jobs SET created_at = created_at - interval '10 hours'"))
    run_all(jobs, database, scraped)
    found = scraped.scrape()
    for task in ("fast", "plain"):
        # Due an hour ago, to the second; and over the bucket of an hour therefore.
        assert 3600 <= (found.value("wait_seconds_sum", task=task) or 0) < 3660
        assert found.value("wait_seconds_bucket", task=task, le="1800.0") == 0
        assert found.value("wait_seconds_bucket", task=task, le="+Inf") == 1
        assert found.value("run_seconds_bucket", task=task, le="60.0") == 1


def test_the_fast_lane_counts_what_is_committed(
    jobs: Jobs[Job], database: Database, scraped: Metered
) -> None:
    """A group that cannot be committed has begun its jobs in vain; each runs again by itself."""
    poisoned = threading.Event()
    options: Any = {"group_commit": 50, "timeout": dt.timedelta(minutes=1), "retry": NEVER_AGAIN}

    @jobs.task(name="write", **options)
    def write(session: Session, note: str) -> None:
        session.add(Effect(job_id=0, note=note))
        if note == "bad":
            raise ValueError(note)
        if note == "poison" and not poisoned.is_set():
            poisoned.set()
            session.flush()
            session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    with database.sessionmaker.begin() as session:
        for note in ("a", "bad", "b"):
            write.enqueue(session, note)
    with unhurried():
        run_all(jobs, database, scraped)
        assert scraped.scrape().counted() == {"enqueued": 3, "started": 3, "succeeded": 2, "failed": 1}
        with database.sessionmaker.begin() as session:
            for note in ("a", "poison"):
                write.enqueue(session, note)
        run_all(jobs, database, scraped)
    found = scraped.scrape().counted()
    assert found == {"enqueued": 5, "started": 7, "succeeded": 4, "failed": 1, "lost": 2}


def test_coroutines_are_counted_alike(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    @jobs.task(name="greet")
    async def greet(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))

    @jobs.task(name="fail", retry=NEVER_AGAIN)
    async def fail(session: AsyncSession) -> None:
        raise ValueError

    with database.sessionmaker.begin() as session:
        greet.enqueue(session)
        fail.enqueue(session)
    run_all(jobs, database, scraped, async_sessionmaker=create_async_engine(database.url))
    found = scraped.scrape()
    assert found.counted(task="greet") == {"enqueued": 1, "started": 1, "succeeded": 1}
    assert found.counted(task="fail") == {"enqueued": 1, "started": 1, "failed": 1}
    assert found.value("running") == 0


def test_a_queue_that_the_database_computes(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    with database.sessionmaker.begin() as session:
        session.add(Job(task="elsewhere", queue=func.lower("MAIL")))
        jobs.enqueue_many(session, [Job(task="elsewhere", queue=func.lower("MAIL"))])
    assert scraped.scrape().value("enqueued_total", task="unknown") == 2


def test_labels_are_bounded(jobs: Jobs[Job], database: Database) -> None:
    """A row may name any task and any queue."""
    with metered(jobs, database) as scraped:
        scraped.metrics.labels._most = 3
        with database.sessionmaker.begin() as session:
            for number in range(5):
                jobs.using(queue=f"q{number}").enqueue(session, f"nobody.knows{number}", card="secret")
        run_all(jobs, database, scraped, where=None)
        found = scraped.scrape()
    assert found.labels("task") == {"unknown"}
    assert found.labels("queue") == {"q0", "q1", "q2", "other"}
    assert found.value("enqueued_total", queue="other") == 2
    assert "secret" not in found.text


def test_a_job_that_cannot_be_interrupted_is_counted_once(
    jobs: Jobs[Job], database: Database, scraped: Metered
) -> None:
    """Its end is recorded by another thread, and it comes to its own later."""
    go_on, failed, through = threading.Event(), threading.Event(), threading.Event()

    @jobs.task(name="stuck", retry=NEVER_AGAIN, timeout=dt.timedelta(milliseconds=50))
    def stuck(session: Session) -> None:
        with_no_regard_to_interrupts(go_on)

    @jobs.task(name="next")
    def next_one(session: Session) -> None:
        """Of the same thread: what was before it is over."""
        through.set()

    with database.sessionmaker.begin() as session:
        stuck.enqueue(session)
        next_one.enqueue(session)
    options: Any = {"on_failure": lambda *_: failed.set(), "observers": [scraped.metrics]}
    with Worker(jobs, database.engine, poll_interval=SOON, **options):
        assert failed.wait(PATIENCE)
        assert scraped.scrape().counted(task="stuck") == {"enqueued": 1, "started": 1, "failed": 1}
        go_on.set()
        assert through.wait(PATIENCE)
    found = scraped.scrape()
    assert found.counted(task="stuck") == {"enqueued": 1, "started": 1, "failed": 1}
    assert found.value("running") == 0


def with_no_regard_to_interrupts(event: threading.Event) -> None:
    while not event.is_set():
        try:
            event.wait(PATIENCE)
        except BaseException:
            continue


class Faulty:
    """An observer that raises wherever it is called, and what it was told of."""

    def __init__(self, kind: type[BaseException]) -> None:
        self.kind = kind

    def __getattr__(self, name: str) -> Any:
        def fail(*given: object) -> Any:
            raise self.kind(f"{name} {[getattr(each, 'arguments', each) for each in given]}")

        return fail


@pytest.mark.parametrize("kind", [RuntimeError, SystemExit, asyncio.CancelledError])
@pytest.mark.parametrize("lane", ["ordinary", "fast", "async"])
def test_an_observer_that_raises_changes_nothing(
    lane: str, kind: type[BaseException], database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Begins(Faulty):
        def begins(self, *_: object) -> Faulty:
            return Faulty(kind)

    def work(session: Session, card: str) -> None:
        if card == "4929-1":
            raise ValueError(card)

    async def await_it(session: AsyncSession, card: str) -> None:
        work(session.sync_session, card)

    jobs = Jobs()
    options: Any = {"group_commit": 10, "timeout": dt.timedelta(minutes=1)} if lane == "fast" else {}
    function: Any = await_it if lane == "async" else work
    task: Any = jobs.register(function, name="work", retry=NEVER_AGAIN, redact=("card",), **options)
    with database.sessionmaker.begin() as session:
        for number in range(3):
            task.enqueue(session, f"4929-{number}")
    given: Any = {"observers": [Faulty(kind), Begins(kind)]}
    with unhurried():
        finished = (drain_async if lane == "async" else drain)(jobs, database, **given)
    assert sorted(str(each.state) for each in finished) == ["failed", "succeeded", "succeeded"]
    # Two join; of each job the one fails as it begins, the other in its run and at its end.
    assert caplog.text.count("an observer failed") == 2 + 3 * 3
    assert "4929" not in caplog.text


@pytest.mark.parametrize(
    "observers", [None, "x", 7, [None], [object()]], ids=["none", "text", "number", "of none", "no observer"]
)
def test_what_is_no_observer_is_refused(database: Database, observers: Any) -> None:
    with pytest.raises(InvalidOption, match="observers"):
        Worker(Jobs(), database.engine, observers=observers)


def test_what_prometheus_refuses(jobs: Jobs[Job], scraped: Metered) -> None:
    wrong: Any = object()
    with pytest.raises(InvalidOption, match=r"expected the Jobs of the application: Prometheus\(jobs\)"):
        Prometheus(wrong)
    with pytest.raises(InvalidOption, match="queues is 0"):
        Prometheus(jobs, queues=0)
    with pytest.raises(Exception, match="has the metrics of a Prometheus already") as refused:
        Prometheus(jobs, registry=scraped.metrics.registry)
    assert "registry=CollectorRegistry()" in str(refused.value)


# -- enqueued: after the commit, and only what is committed ---------------------------------------------


def test_enqueued_is_what_is_committed(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    task = jobs.register(lambda session: None, name="task")

    def enqueued() -> int:
        return scraped.scrape().counted().get("enqueued", 0)

    with database.sessionmaker() as session:
        task.enqueue(session)
        assert enqueued() == 0
        session.rollback()
        assert enqueued() == 0
        task.enqueue(session)
        session.add(task.job())
        jobs.enqueue(session, "task")
        jobs.enqueue_many(session, [task.job(), task.job()])
        with session.begin_nested():
            task.enqueue(session)
        with session.begin_nested() as savepoint:
            with session.begin_nested():
                task.enqueue(session)
                jobs.enqueue_many(session, (task.job() for _ in range(3)))
            savepoint.rollback()
        assert enqueued() == 0
        session.commit()
        assert enqueued() == 6 == database.scalar("SELECT count(*) FROM sqla_jobs")
        # The next transaction of the same Session begins at none.
        task.enqueue(session)
        session.commit()
    assert enqueued() == 7


def test_a_duplicate_is_not_enqueued(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    task = jobs.register(lambda session: None, name="task")
    with database.sessionmaker.begin() as session:
        for _ in range(2):
            task.using(unique_key="one").enqueue(session)
        jobs.enqueue_many(session, [task.using(unique_key=key).job() for key in ("one", "two", "two")])
    assert scraped.scrape().counted() == {"enqueued": 2}
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 2


def test_many_in_batches(
    jobs: Jobs[Job], database: Database, scraped: Metered, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sqla_jobs.tasks.many.BATCH", 2)
    task = jobs.register(lambda session: None, name="task")
    with database.sessionmaker.begin() as session:
        jobs.enqueue_many(session, (task.job() for _ in range(7)))
    assert scraped.scrape().counted() == {"enqueued": 7}


@pytest.mark.parametrize("group_commit", [None, 50], ids=["ordinary", "fast"])
def test_what_a_job_enqueues_counts_if_it_succeeds(
    jobs: Jobs[Job], database: Database, scraped: Metered, group_commit: int | None
) -> None:
    """In the fast lane all jobs of a group share a savepoint of the Session, renewed on the server."""
    child = jobs.register(lambda session: None, name="child")
    options: Any = {"group_commit": group_commit, "timeout": dt.timedelta(minutes=1), "retry": NEVER_AGAIN}

    @jobs.task(name="parent", **options)
    def parent(session: Session, *, fails: bool) -> None:
        child.enqueue(session)
        session.commit()
        child.enqueue(session)
        if fails:
            raise ValueError

    with database.sessionmaker.begin() as session:
        for fails in (False, True, False):
            parent.enqueue(session, fails=fails)
    with unhurried():
        run_all(jobs, database, scraped)
    assert scraped.scrape().counted(task="child") == {"enqueued": 4, "started": 4, "succeeded": 4}


def test_an_async_session_counts(jobs: Jobs[Job], database: Database, scraped: Metered) -> None:
    task = jobs.register(lambda session: None, name="task")

    async def enqueue(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            await task.enqueue(session)

    in_a_loop(database, enqueue)
    assert scraped.scrape().counted() == {"enqueued": 1}


def test_whoever_closes_it_counts_no_more(jobs: Jobs[Job], database: Database) -> None:
    from sqla_jobs import commits

    task = jobs.register(lambda session: None, name="task")
    with metered(jobs, database) as first:
        pass
    assert not commits._watchers
    with metered(jobs, database) as second, sessionmaker(database.engine).begin() as session:
        task.enqueue(session)
    assert first.metrics._of("task", "default").enqueued._value.get() == 0
    assert second.metrics._of("task", "default").enqueued._value.get() == 1


# -- the page ----------------------------------------------------------------------------------------------


def test_each_metric_is_in_the_table_of_the_page() -> None:
    page = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
    there = {
        name.removesuffix("_total") for name in re.findall(r"^\| `(sqla_jobs_\w+)` \|", page, re.MULTILINE)
    }
    assert there == {f"sqla_jobs_{name}" for name in (*COUNTERS, *HISTOGRAMS, *GAUGES)}
    # And no alert, nor anything else, of a metric that is none.
    used = set(re.findall(r"sqla_jobs_\w+", page)) - {"sqla_jobs_metrics"}
    assert {re.sub(r"_(total|bucket|count|sum)$", "", name) for name in used} == there


def test_what_is_in_the_table_is_what_is_scraped(jobs: Jobs[Job], scraped: Metered) -> None:
    families = {family.name for family in scraped.metrics.registry.collect()}
    assert families == {f"sqla_jobs_{name}" for name in (*COUNTERS, *HISTOGRAMS, *GAUGES)}
