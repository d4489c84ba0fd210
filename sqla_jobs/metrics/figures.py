"""What is counted and measured, whoever is told of it: the names, the words, the buckets."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from sqla_jobs.errors import GiveBack, Snooze
from sqla_jobs.metrics.labels import Labels
from sqla_jobs.metrics.queues import Row
from sqla_jobs.outcome import JobState

COUNTERS: Final = {
    "enqueued": "Jobs that this process has enqueued, counted after the commit.",
    "started": "Runs that have begun.",
    "succeeded": "Runs that succeeded.",
    "failed": "Runs after which a job failed for good.",
    "retried": "Runs that failed, after which a job is tried again.",
    "cancelled": "Runs that ended as cancelled.",
    "snoozed": "Runs that a job ended by a Snooze.",
    "given_back": "Runs that were ended for the worker's sake, and are no attempts.",
    "lost": "Runs of which nothing is recorded: the claim was taken over, or the group ran again.",
    "rescued": "Jobs that this process has taken from dead workers; also counted as failed or retried.",
}
"""What is counted, each by task and queue."""
BUCKETS: Final = (
    0.001,
    0.005,
    0.01,
    0.05,
    0.1,
    0.5,
    1.0,
    5.0,
    10.0,
    30.0,
    60.0,
    300.0,
    600.0,
    1800.0,
    3600.0,
)
"""Seconds: from a millisecond to an hour."""
HISTOGRAMS: Final = {
    "wait_seconds": "From when a job was due until it began.",
    "run_seconds": "How long the task took, without the commit.",
}
GAUGES: Final = {
    "running": "Jobs that run now, by task and queue.",
    "worker_up": "Workers of this process that take jobs: 1, or 0 while it stops.",
    "queues_up": "1 if the figures of queues are there; 0: the database is away, they are left out.",
    "queue_depth": "Jobs that are queued and due, by queue; beyond a bound the bound.",
    "queue_scheduled": "Jobs that wait for their time, by queue; beyond a bound the bound.",
    "queue_oldest_seconds": "For how long the oldest job that is queued has been due, by queue.",
    "queue_paused": "1 if the queue is paused.",
}
QUEUE_FIGURES: Final = ("depth", "scheduled", "oldest_seconds", "paused")
"""The gauges of a queue, in the order of `by_queue`."""


def counter_of(state: JobState | None, error: BaseException | None) -> str:
    """Which of `COUNTERS` counts a run that ended so.

    Parameters:
        state: what its row says now; None: nothing is recorded of it.
        error: what it raised, or the signal that it gave.
    """
    if state is None:
        return "lost"
    if state.is_final:
        return state.value
    if isinstance(error, GiveBack):
        return "given_back"
    return "snoozed" if isinstance(error, Snooze) else "retried"


def by_queue(rows: Iterable[Row], labels: Labels) -> dict[str, tuple[float, float, float, float]]:
    """The `QUEUE_FIGURES` of each queue that has a label of its own, and of all others together."""
    found: dict[str, tuple[float, float, float, float]] = {}
    for row in rows:
        label = labels.queue(row.name)
        depth, scheduled, oldest, paused = found.get(label, (0.0, 0.0, 0.0, 0.0))
        found[label] = (
            depth + row.queued,
            scheduled + row.scheduled,
            max(oldest, row.oldest),
            max(paused, float(row.paused)),
        )
    return found
