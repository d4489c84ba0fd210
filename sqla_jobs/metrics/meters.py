"""Counters and histograms of the runs of jobs, by the meters of OpenTelemetry."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Final

from sqlalchemy import Engine

from sqla_jobs import commits
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
    from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter
except ImportError as error:
    raise missing("sqla_jobs.metrics.OpenTelemetry", error) from error

_SECONDS: Final = "_seconds"


class OpenTelemetry(Counted):
    """Counts the jobs of a registry, by OpenTelemetry: what `Prometheus` does, under names with dots.

    It counts what this process enqueues from the moment that it is made, and what a worker runs that it is
    given to: ``Worker(jobs, engine, observers=[metrics])``. Attributes: ``sqla_jobs.task``, and the queue as
    ``messaging.destination.name``.

    Parameters:
        jobs: the ``Jobs`` of the application.
        sessions: an Engine or a sessionmaker, by which the queues are looked at when the reader collects;
            None: the registry's own sessionmaker. Without either there are no figures of queues.
        meter_provider: None: the global one, also if it is set later.
        queues: how many queues have a name of their own; all others are ``other``.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
        InvalidOption: ``jobs`` is no Jobs, ``queues`` no number.
    """

    def __init__(
        self,
        jobs: Registry[Any],
        sessions: Sessions | Engine | None = None,
        *,
        meter_provider: MeterProvider | None = None,
        queues: int = MOST_QUEUES,
    ) -> None:
        super().__init__(jobs, sessions, queues)
        meter = get_meter("sqla_jobs", meter_provider=meter_provider)
        self._counters = {
            name: meter.create_counter(f"sqla_jobs.{name}", "1", text) for name, text in COUNTERS.items()
        }
        self._wait, self._run = (
            meter.create_histogram(
                _dotted(name), "s", text, explicit_bucket_boundaries_advisory=list(BUCKETS)
            )
            for name, text in HISTOGRAMS.items()
        )
        self._running = meter.create_up_down_counter("sqla_jobs.running", "1", GAUGES["running"])
        meter.create_observable_gauge("sqla_jobs.worker.up", [self._workers_up], "1", GAUGES["worker_up"])
        for place, name in enumerate(QUEUE_FIGURES):
            meter.create_observable_gauge(
                _dotted(f"queue.{name}"),
                [partial(self._of_queues, place)],
                "s" if name.endswith(_SECONDS) else "1",
                GAUGES[f"queue_{name}"],
            )
        self._unwatch = commits.watch(jobs.model, self._enqueued)

    def close(self) -> None:
        """Count no more of what is enqueued, and look at no queue."""
        self._unwatch()
        self.look_at(None)

    # -- what an observer is told --------------------------------------------------------------------

    def begins(self, job: RunningJob, waited: float, meta: str | None) -> _Run:  # noqa: ARG002 - told of it
        """A job is about to be run."""
        attributes = self._attributes(job.task, job.queue)
        self._counters["started"].add(1, attributes)
        self._running.add(1, attributes)
        self._wait.record(waited, attributes)
        return _Run(self, attributes)

    def rescued(self, job: RunningJob, state: JobState, error: BaseException | None) -> None:
        """A job was taken from a dead worker."""
        attributes = self._attributes(job.task, job.queue)
        self._counters["rescued"].add(1, attributes)
        self._counters[counter_of(state, error)].add(1, attributes)

    def ends(self, attributes: dict[str, str], counter: str, seconds: float | None) -> None:
        """A run is over.

        Parameters:
            counter: which of `COUNTERS` counts it.
            seconds: how long the task took; None: it was not called.
        """
        self._running.add(-1, attributes)
        self._counters[counter].add(1, attributes)
        if seconds is not None:
            self._run.record(seconds, attributes)

    def _enqueued(self, numbers: Mapping[tuple[str, str], int]) -> None:
        for (task, queue), number in numbers.items():
            self._counters["enqueued"].add(number, self._attributes(task, queue))

    def _attributes(self, task: str, queue: str) -> dict[str, str]:
        own = self.labels
        return {"sqla_jobs.task": own.task(task), "messaging.destination.name": own.queue(queue)}

    # -- what is collected ---------------------------------------------------------------------------

    def _workers_up(self, _: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self.workers_up())]

    def _of_queues(self, place: int, _: CallbackOptions) -> Iterable[Observation]:
        rows = None if self._queues is None else self._queues.rows()
        figures = by_queue(rows or (), self.labels)
        return [
            Observation(values[place], {"messaging.destination.name": queue})
            for queue, values in figures.items()
        ]


class _Run(Timed):
    """One run of a job."""

    __slots__ = ("_attributes", "_of")

    def __init__(self, of: OpenTelemetry, attributes: dict[str, str]) -> None:
        super().__init__()
        self._of = of
        self._attributes = attributes

    def over(self, state: JobState | None, error: BaseException | None) -> None:
        self._of.ends(self._attributes, counter_of(state, error), self.seconds)


def _dotted(name: str) -> str:
    """``queue.oldest_seconds`` -> ``sqla_jobs.queue.oldest``: the unit is said beside the name."""
    return f"sqla_jobs.{name.removesuffix(_SECONDS)}"
