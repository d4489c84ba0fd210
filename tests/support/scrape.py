"""Metrics as Prometheus reads them: by HTTP, parsed by prometheus_client's own parser."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sqla_jobs import Jobs
from sqla_jobs.metrics import Prometheus
from sqla_jobs.metrics.prometheus import COUNTERS
from tests.support.server import Database

OUTCOMES = tuple(COUNTERS)


class Scraped:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            each for family in text_string_to_metric_families(self.text) for each in family.samples
        ]

    def value(self, name: str, **labels: str) -> float | None:
        """The sum of the samples of a name that have these labels; None: there is none."""
        found = [
            each.value
            for each in self.samples
            if each.name == f"sqla_jobs_{name}" and labels.items() <= each.labels.items()
        ]
        return sum(found) if found else None

    def counted(self, **labels: str) -> dict[str, int]:
        """What is not zero of the counters."""
        values = {name: self.value(f"{name}_total", **labels) or 0 for name in OUTCOMES}
        return {name: int(value) for name, value in values.items() if value}

    def labels(self, name: str) -> set[str]:
        """All values that a label of the library's metrics has."""
        return {
            each.labels[name]
            for each in self.samples
            if each.name.startswith("sqla_jobs_") and name in each.labels
        }


def scrape(url: str) -> Scraped:
    """What an endpoint answers."""
    with urlopen(url, timeout=30) as answer:
        return Scraped(answer.read().decode())


class Metered:
    """An application whose metrics are looked at."""

    def __init__(self, metrics: Prometheus) -> None:
        self.metrics = metrics

    def scrape(self) -> Scraped:
        return Scraped(generate_latest(self.metrics.registry).decode())


@contextmanager
def metered(jobs: Jobs[Any], database: Database) -> Iterator[Metered]:
    """Metrics of a Jobs in a registry of their own; what an endpoint would answer."""
    metrics = Prometheus(jobs, database.engine, registry=CollectorRegistry())
    try:
        yield Metered(metrics)
    finally:
        metrics.close()
