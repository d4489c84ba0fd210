"""Metrics and traces, of the extra ``metrics``: ``pip install 'sqla-jobs[metrics]'``.

prometheus  Prometheus: counters and histograms of the runs of jobs
meters      OpenTelemetry: the same, by its meters
counted     of which registry, for which workers: what both have in common
figures     what both count
queues      what the queues hold, for a scrape
labels      what may be a label
endpoint    where Prometheus reads them
tracing     Tracing: a job keeps the trace that it is enqueued in, and its runs are spans that link to it

Each is imported when it is asked for: it needs one library of the two, and nothing else of this package does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from sqla_jobs.metrics.endpoint import Endpoint as Endpoint
    from sqla_jobs.metrics.endpoint import check_free as check_free
    from sqla_jobs.metrics.meters import OpenTelemetry as OpenTelemetry
    from sqla_jobs.metrics.prometheus import Prometheus as Prometheus
    from sqla_jobs.metrics.tracing import Tracing as Tracing

__all__ = ["Endpoint", "OpenTelemetry", "Prometheus", "Tracing"]

_PLACES: Final = {
    "Endpoint": "endpoint",
    "OpenTelemetry": "meters",
    "Prometheus": "prometheus",
    "Tracing": "tracing",
    "check_free": "endpoint",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
