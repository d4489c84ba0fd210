"""What type checkers make of the metrics."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.metrics import Endpoint, OpenTelemetry, Prometheus, Tracing


def measured(jobs: Jobs[Job], engine: Engine, make: sessionmaker[Session]) -> None:
    metrics = Prometheus(jobs, engine, registry=CollectorRegistry(), queues=500)
    Prometheus(jobs)
    Prometheus(jobs, make)
    Worker(jobs, engine, observers=[metrics, OpenTelemetry(jobs, make), Tracing()])
    OpenTelemetry(engine)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Endpoint(9100, "0.0.0.0", metrics.registry).close()
    Prometheus(engine)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, engine, observers=metrics)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, engine, observers=[print])  # type: ignore[list-item] # pyright: ignore[reportArgumentType]
    Endpoint("9100")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def traced() -> None:
    Jobs(tracing=Tracing(enqueue_spans=True))
    Jobs(tracing=True)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
    Jobs(tracing=Tracing)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
