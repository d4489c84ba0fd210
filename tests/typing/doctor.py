"""The doctor's own interface, as programs use it; checked by mypy and pyright, never run."""

from __future__ import annotations

from sqlalchemy import Engine
from typing_extensions import assert_type

from sqla_jobs import Job, Jobs
from sqla_jobs.doctor import Finding, Report, Severity, examine


def ask(engine: Engine, jobs: Jobs[Job]) -> list[str]:
    report = examine(engine, Job)
    assert_type(report, Report)
    worst: Severity | None = report.worst
    assert_type(report.findings[0].severity, Severity)
    report = examine(engine, jobs.model, jobs)
    examine(engine)  # type: ignore[call-arg]  # pyright: ignore[reportCallIssue]
    examine(engine, str)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    Finding("dead-rows", "fatal", "found", "cure")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    return [worst or "healthy", *(finding.code for finding in report.findings if finding.severity == "error")]
