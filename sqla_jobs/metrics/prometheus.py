"""Counters and histograms of the runs of jobs, for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from typing_extensions import Self

from sqla_jobs import commits
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.metrics.counted import Counted, Timed
from sqla_jobs.metrics.figures import (
    BUCKETS,
    COUNTERS,
    GAUGES,
    HISTOGRAMS,
    QUEUE_FIGURES,
    by_queue,
    counter_of,
)
from sqla_jobs.metrics.labels import MOST_QUEUES
from sqla_jobs.metrics.missing import missing
from sqla_jobs.outcome import JobState
from sqla_jobs.tasks import Registry, RunningJob, Sessions

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.registry import Collector
except ImportError as error:
    raise missing("sqla_jobs.metrics.Prometheus", error) from error

_BY: Final = ("task", "queue")

_made: WeakKeyDictionary[CollectorRegistry, Prometheus] = WeakKeyDictionary()


class Prometheus(Counted):
    """Counts the jobs of a registry, for Prometheus.

    It counts what this process enqueues from the moment that it is made, and what a worker runs that it is
    given to: ``Worker(jobs, engine, observers=[metrics])``.

    Parameters:
        jobs: the ``Jobs`` of the application.
        sessions: an Engine or a sessionmaker, by which the queues are looked at when somebody scrapes; None:
            the registry's own sessionmaker. Without either there are no figures of queues.
        registry: where they are registered; None: prometheus_client's own.
        queues: how many queues have a label of their own; all others are ``other``.

    Raises:
        ConfigurationError: prometheus_client is not installed; or the registry has such metrics already.
        InvalidOption: ``jobs`` is no Jobs, ``queues`` no number.
    """

    def __init__(
        self,
        jobs: Registry[Any],
        sessions: Sessions | Engine | None = None,
        *,
        registry: CollectorRegistry | None = None,
        queues: int = MOST_QUEUES,
    ) -> None:
        super().__init__(jobs, sessions, queues)
        self.registry = REGISTRY if registry is None else registry
        if self.registry in _made:
            raise ConfigurationError(
                "this CollectorRegistry has the metrics of a Prometheus already; expected one for each:"
                " use that one, or give this one its own: Prometheus(jobs, registry=CollectorRegistry())"
            )
        names = {f"sqla_jobs_{name}": text for name, text in COUNTERS.items()}
        self._counters = [Counter(name, text, _BY, registry=None) for name, text in names.items()]
        self._histograms = [
            Histogram(f"sqla_jobs_{name}", text, _BY, registry=None, buckets=BUCKETS)
            for name, text in HISTOGRAMS.items()
        ]
        self._running = Gauge("sqla_jobs_running", GAUGES["running"], _BY, registry=None)
        self._series: dict[tuple[str, str], _Series] = {}
        self._lock = threading.Lock()
        self._collectors = [*self._counters, *self._histograms, self._running, _Live(self)]
        for each in self._collectors:
            self.registry.register(each)
        _made[self.registry] = self
        self._unwatch = commits.watch(jobs.model, self._enqueued)

    @classmethod
    def of(cls, jobs: Registry[Any], sessions: Sessions | Engine) -> Self | Prometheus:
        """The one that the application has made for its Jobs in the process's registry, or a new one."""
        made = _made.get(REGISTRY)
        if made is None or made.jobs is not jobs:
            return cls(jobs, sessions)
        if made._queues is None:
            made.look_at(sessions)
        return made

    def close(self) -> None:
        """Count no more, and leave the CollectorRegistry."""
        self._unwatch()
        for each in self._collectors:
            with suppress(KeyError):  # somebody else has taken it out
                self.registry.unregister(each)
        _made.pop(self.registry, None)

    # -- what an observer is told --------------------------------------------------------------------

    def begins(self, job: RunningJob, waited: float, meta: str | None) -> _Run:  # noqa: ARG002 - told of it
        """A job is about to be run."""
        series = self._of(job.task, job.queue)
        series.started.inc()
        series.running.inc()
        series.wait_seconds.observe(waited)
        return _Run(series)

    def rescued(self, job: RunningJob, state: JobState, error: BaseException | None) -> None:
        """A job was taken from a dead worker."""
        series = self._of(job.task, job.queue)
        series.rescued.inc()
        series.ended(state, error).inc()

    def _enqueued(self, numbers: Mapping[tuple[str, str], int]) -> None:
        for (task, queue), number in numbers.items():
            self._of(task, queue).enqueued.inc(number)

    def _of(self, task: str, queue: str) -> _Series:
        key = self.labels.task(task), self.labels.queue(queue)
        found = self._series.get(key)
        if found is None:
            with self._lock:
                found = self._series.setdefault(key, _Series(self, *key))
        return found

    # -- what is scraped -----------------------------------------------------------------------------

    def live(self) -> Iterator[GaugeMetricFamily]:
        """The gauges that are read at the moment of a scrape."""
        yield _gauge("worker_up", self.workers_up())
        if self._queues is None:
            return
        rows = self._queues.rows()
        yield _gauge("queues_up", 0 if rows is None else 1)
        if rows is None:
            return
        figures = by_queue(rows, self.labels)
        for place, name in enumerate(QUEUE_FIGURES):
            family = _gauge(f"queue_{name}")
            for queue, values in figures.items():
                family.add_metric([queue], values[place])
            yield family


class _Series:
    """All that is counted of one task in one queue: to look for it costs more than to count."""

    def __init__(self, of: Prometheus, task: str, queue: str) -> None:
        counters = dict(zip(COUNTERS, (each.labels(task, queue) for each in of._counters), strict=True))
        self.enqueued, self.started = counters["enqueued"], counters["started"]
        self.rescued = counters["rescued"]
        self._counters = counters
        self.wait_seconds, self.run_seconds = (each.labels(task, queue) for each in of._histograms)
        self.running = of._running.labels(task, queue)

    def ended(self, state: JobState | None, error: BaseException | None) -> Counter:
        """What counts a run that ended so."""
        return self._counters[counter_of(state, error)]


class _Run(Timed):
    """One run of a job."""

    __slots__ = ("_series",)

    def __init__(self, series: _Series) -> None:
        super().__init__()
        self._series = series

    def over(self, state: JobState | None, error: BaseException | None) -> None:
        series = self._series
        series.running.dec()
        series.ended(state, error).inc()
        seconds = self.seconds
        if seconds is not None:
            series.run_seconds.observe(seconds)


class _Live(Collector):
    def __init__(self, of: Prometheus) -> None:
        self._of = of

    def collect(self) -> Iterable[GaugeMetricFamily]:
        return self._of.live()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Their names, without a look at the database: it is asked for them when they are registered."""
        return [_gauge(name) for name in GAUGES if name != "running"]


def _gauge(name: str, value: float | None = None) -> GaugeMetricFamily:
    labels = ("queue",) if name.startswith("queue_") else None
    return GaugeMetricFamily(f"sqla_jobs_{name}", GAUGES[name], value=value, labels=labels)
