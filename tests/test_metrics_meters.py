"""The counters and histograms of OpenTelemetry, of real jobs; what is as with Prometheus is tested there."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, RetryPolicy, Snooze, Worker
from sqla_jobs.errors import InvalidOption
from sqla_jobs.metrics import OpenTelemetry
from sqla_jobs.metrics.figures import BUCKETS, COUNTERS
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, PATIENCE, SOON, drain

ONCE_MORE = RetryPolicy(max_attempts=2, base=dt.timedelta(0))
QUEUE = "messaging.destination.name"


class Reader:
    """What is collected, by name."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self.provider = MeterProvider([self._reader])

    def points(self, name: str, **attributes: str) -> list[Any]:
        """The points of a metric that have these attributes, and others."""
        collected: Any = self._reader.get_metrics_data()
        found = [
            metric
            for resource in (collected.resource_metrics if collected else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        ]
        self.units = {metric.name: metric.unit for metric in found}
        return [
            point
            for metric in found
            if metric.name == f"sqla_jobs.{name}"
            for point in metric.data.data_points
            if attributes.items() <= dict(point.attributes).items()
        ]

    def value(self, name: str, **attributes: str) -> float:
        return sum(point.value for point in self.points(name, **attributes))

    def counted(self, task: str) -> dict[str, float]:
        values = {name: self.value(name, **{"sqla_jobs.task": task}) for name in COUNTERS}
        return {name: value for name, value in values.items() if value}


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture
def reader() -> Iterator[Reader]:
    made = Reader()
    yield made
    made.provider.shutdown()


@pytest.fixture
def metrics(jobs: Jobs[Job], database: Database, reader: Reader) -> Iterator[OpenTelemetry]:
    made = OpenTelemetry(jobs, database.engine, meter_provider=reader.provider)
    yield made
    made.close()


def test_each_outcome_is_counted_once(
    jobs: Jobs[Job], database: Database, reader: Reader, metrics: OpenTelemetry
) -> None:
    snoozed: list[int] = []

    @jobs.task(name="succeed", queue="good")
    def succeed(session: Session) -> None: ...

    @jobs.task(name="quick", group_commit=10)
    def quick(session: Session) -> None: ...

    @jobs.task(name="fail", retry=NEVER_AGAIN)
    def fail(session: Session) -> None:
        raise ValueError("secret")

    @jobs.task(name="stumble", retry=ONCE_MORE)
    def stumble(session: Session) -> None:
        raise ValueError("secret")

    @jobs.task(name="sleep")
    def sleep(session: Session) -> Snooze | None:
        snoozed.append(1)
        return Snooze(dt.timedelta(0)) if len(snoozed) == 1 else None

    with database.sessionmaker.begin() as session:
        for task in (succeed, quick, fail, stumble, sleep):
            task.enqueue(session)
        session.begin_nested()
        succeed.enqueue(session)
        session.rollback()
    with database.sessionmaker.begin() as session:
        for task in (succeed, quick, fail, stumble, sleep):
            task.enqueue(session)
    drain(jobs, database, observers=[metrics])
    assert reader.counted("succeed") == {"enqueued": 1, "started": 1, "succeeded": 1}
    assert reader.counted("quick") == {"enqueued": 1, "started": 1, "succeeded": 1}
    assert reader.counted("fail") == {"enqueued": 1, "started": 1, "failed": 1}
    assert reader.counted("stumble") == {"enqueued": 1, "started": 2, "retried": 1, "failed": 1}
    assert reader.counted("sleep") == {"enqueued": 1, "started": 2, "snoozed": 1, "succeeded": 1}
    assert reader.value("succeeded", **{QUEUE: "good"}) == 1
    assert (reader.value("running"), reader.value("worker.up")) == (0, 0)
    for name in ("wait", "run"):
        (point,) = reader.points(name, **{"sqla_jobs.task": "stumble"})
        assert (point.count, tuple(point.explicit_bounds)) == (2, BUCKETS), name
        assert reader.units[f"sqla_jobs.{name}"] == "s"


def test_what_runs_and_what_waits(
    jobs: Jobs[Job], database: Database, reader: Reader, metrics: OpenTelemetry
) -> None:
    begun, go_on = threading.Event(), threading.Event()

    @jobs.task(name="wait")
    def wait(session: Session) -> None:
        begun.set()
        go_on.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        for _ in range(3):
            wait.enqueue(session)
        jobs.pause(session, "other")
    with Worker(jobs, database.engine, poll_interval=SOON, observers=[metrics]) as worker:
        assert begun.wait(PATIENCE)
        assert reader.value("running", **{"sqla_jobs.task": "wait", QUEUE: "default"}) == 1
        assert reader.value("worker.up") == 1
        assert reader.value("queue.depth", **{QUEUE: "default"}) == 2
        assert reader.value("queue.oldest", **{QUEUE: "default"}) > 0
        assert reader.value("queue.paused", **{QUEUE: "other"}) == 1
        worker.stop()
        go_on.set()
    assert reader.value("running") == 0


def test_after_its_end_it_counts_nothing(
    jobs: Jobs[Job], database: Database, reader: Reader, metrics: OpenTelemetry
) -> None:
    @jobs.task(name="noop")
    def noop(session: Session) -> None: ...

    metrics.close()
    with database.sessionmaker.begin() as session:
        noop.enqueue(session)
    assert reader.counted("noop") == {}
    assert reader.points("queue.depth") == []


@pytest.mark.parametrize(
    ("given", "options"), [("jobs", {}), (Jobs(), {"queues": 0})], ids=["jobs", "queues"]
)
def test_what_it_cannot_be_made_of(given: Any, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match="expected"):
        OpenTelemetry(given, **options)


def test_it_needs_the_one_library_only() -> None:
    program = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from sqla_jobs import Jobs; from sqla_jobs.metrics import OpenTelemetry\n"
        "OpenTelemetry(Jobs())"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
