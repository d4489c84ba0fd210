"""The page of one job."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

import click

from sqla_jobs.cli.printing import moment, plain, span
from sqla_jobs.inspection import JobDetail
from sqla_jobs.redaction import mask
from sqla_jobs.tasks import Registry, redaction

_TOLD: Final = ("message", "traceback")
"""What of an attempt may quote the job's arguments."""


def masked(job: JobDetail | None, app: Registry[Any] | None) -> JobDetail | None:
    """A job without what its task does not show now, of which its row need not know."""
    task = None if job is None or app is None else app.tasks.get(job.task)
    hidden = None if job is None or task is None else redaction(task.signature, job.arguments)
    if job is None or hidden is None:
        return job
    attempts = [
        each | {name: hidden.clean(each[name]) for name in _TOLD if isinstance(each.get(name), str)}
        for each in job.attempts
    ]
    error = None if job.error is None else hidden.clean(job.error)
    return replace(job, arguments=mask(job.arguments, hidden.names), attempts=attempts, error=error)


def job_page(job: JobDetail) -> str:
    """All about a job, for people; nothing in it steers a terminal."""
    return "\n".join([
        click.style(plain(f"job {job.id} of task {job.task} is {job.state}"), bold=True) + "  (times in UTC)",
        *_aligned(list(_facts(job))),
        *_block("arguments", job.arguments),
        *_block("progress", job.progress),
        *_block("result", job.result),
        *(line for attempt in job.attempts for line in _attempt(attempt)),
    ])  # fmt: skip


def _facts(job: JobDetail) -> Iterator[tuple[str, str]]:
    yield "queue", f"{job.queue}, priority {job.priority}"
    yield "enqueued", moment(job.created_at)
    yield "to run at", moment(job.run_at)
    yield "begun", _and(moment(job.started_at), "waited", span(job.wait))
    yield "finished", _and(moment(job.finished_at), "ran", span(job.duration))
    yield "attempt", f"{job.attempt}{'' if job.max_attempts is None else f' of {job.max_attempts}'}"
    yield "crashes", str(job.crashes or "")
    yield "timeout", span(job.timeout)
    yield "worker", _and("" if job.worker_id is None else str(job.worker_id), "on", job.worker or "")
    yield "to be cancelled since", moment(job.cancel_requested_at)
    if job.schedule_id is not None:
        yield "schedule", _and(job.schedule or f"{job.schedule_id} (removed)", "for", moment(job.tick_at))
    if job.unique_key is not None:
        held = "held" if job.unique_held else "not held"
        yield "unique key", f"{job.unique_key} ({job.unique_scope}, {held})"
    yield "limit key", job.limit_key or ""


def _and(first: str, word: str, second: str) -> str:
    return f"{first}, {word} {second}" if first and second else first


def _aligned(facts: list[tuple[str, str]]) -> Iterator[str]:
    told = [(name, text) for name, text in facts if text]
    width = max(len(name) for name, _ in told)
    for name, text in told:
        yield f"  {name:<{width}}  {plain(text)}"


def _block(title: str, value: Any) -> Iterator[str]:
    if value is None or value == {}:
        return
    yield click.style(title, bold=True)
    # Text in JSON has its control characters escaped, but for those beyond ASCII.
    for line in json.dumps(value, indent=2, ensure_ascii=False).split("\n"):
        yield f"  {plain(line)}"


def _attempt(attempt: Any) -> Iterator[str]:
    """An entry of ``attempts``, which SQL of anybody's may have written."""
    told = attempt if isinstance(attempt, dict) else {"message": attempt}
    number, worker = told.get("attempt"), told.get("worker_id")
    title = f"attempt {number}" if number is not None else "attempt"
    times = f"{_time(told.get('started_at'))} to {_time(told.get('finished_at'))}"
    by = "" if worker is None else f", worker {worker}"
    yield click.style(plain(title), bold=True) + plain(f"  {times}{by}")
    error = ": ".join(str(told[name]) for name in ("error", "message") if told.get(name))
    for line in plain(error, lines=True).splitlines():
        yield "  " + click.style(line, fg="red")
    for line in plain(told.get("traceback") or "", lines=True).splitlines():
        yield f"    {line}"


def _time(text: Any) -> str:
    try:
        # PostgreSQL drops zeros at the end, which Python 3.10 wants to see.
        return moment(dt.datetime.fromisoformat(re.sub(r"\.\d+", lambda found: f"{found[0]:0<7}", text)))
    except (TypeError, ValueError, OverflowError):  # the year 9999 of another zone may be 10000 in UTC
        return "?" if text is None else str(text)
