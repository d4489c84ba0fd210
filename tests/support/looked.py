"""What `sqla-jobs top` may have read, made by hand."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqla_jobs.cli.top.facts import Panel, Snapshot
from sqla_jobs.inspection import Bucket, Count, JobDetail, JobRow, QueueRow, RunningRow, WorkerRow
from sqla_jobs.outcome import JobState

NOW = dt.datetime(2026, 3, 1, 14, 3, 22, tzinfo=dt.timezone.utc)


def ago(seconds: float) -> dt.datetime:
    return NOW - dt.timedelta(seconds=seconds)


def queue(name: str, **values: Any) -> QueueRow:
    given = {
        "queued": Count(0),
        "scheduled": Count(0),
        "running": 0,
        "oldest": None,
        "paused_at": None,
        "per_minute": 0.0,
    }
    return QueueRow(name=name, **(given | values))


def worker(number: int, **values: Any) -> WorkerRow:
    given = {
        "host": "web-1",
        "pid": 4711,
        "version": "0.1.0",
        "queues": None,
        "threads": 4,
        "started_at": ago(9000),
        "heartbeat_at": ago(3),
        "heartbeat_limit": dt.timedelta(seconds=30),
        "alive": True,
        "died_at": None,
        "tasks": None,
        "running": [],
    }
    return WorkerRow(id=number, **(given | values))


def running(job_id: int, **values: Any) -> RunningRow:
    return RunningRow(**({"job_id": job_id, "task": "ship", "since": ago(12), "progress": None} | values))


_JOB: dict[str, Any] = {
    "priority": 0,
    "run_at": ago(30),
    "attempt": 1,
    "max_attempts": None,
    "crashes": 0,
    "worker_id": None,
    "created_at": ago(60),
    "started_at": None,
    "finished_at": None,
    "cancel_requested_at": None,
    "progress": None,
    "error": None,
    "schedule_id": None,
    "tick_at": None,
    "meta": None,
}


def job(
    number: int, task: str = "shop.tasks.ship", queue: str = "mail", state: str = "queued", **values: Any
) -> JobRow:
    return JobRow(id=number, task=task, queue=queue, state=JobState(state), **(_JOB | values))


def detail(number: int, task: str = "shop.tasks.ship", state: str = "failed", **values: Any) -> JobDetail:
    given = {
        "arguments": {},
        "attempts": [],
        "result": None,
        "timeout": None,
        "unique_key": None,
        "unique_scope": None,
        "unique_held": False,
        "limit_key": None,
        "schedule": None,
        "worker": None,
        "claim": 1,
    }
    return JobDetail(id=number, task=task, queue="mail", state=JobState(state), **(_JOB | given | values))


def bucket(seconds_ago: float, succeeded: int = 0, failed: int = 0, **values: Any) -> Bucket:
    given = {"wait_p50": None, "wait_p95": None, "run_p50": None, "run_p95": None}
    return Bucket(
        at=ago(seconds_ago),
        seconds=10,
        succeeded=Count(succeeded),
        failed=Count(failed),
        cancelled=Count(0),
        **(given | values),
    )


def shop() -> Snapshot:
    """A shop with three queues, one of them paused, a worker that lives and one that died."""
    return Snapshot(
        at=NOW,
        queues=(
            queue("default", queued=Count(12), scheduled=Count(3), running=2, oldest=ago(4), per_minute=55.2),
            queue("mail", queued=Count(10_000, exact=False), oldest=ago(700), paused_at=ago(600)),
            queue("reports", scheduled=Count(1), running=1, per_minute=0.4),
        ),
        workers=(
            worker(
                1,
                running=[
                    running(831, progress={"done": 62, "total": 100, "note": "reading", "attempt": 1}),
                    running(832),
                ],
            ),
            worker(
                2, host="web-2", pid=99, queues=["mail", "reports"], threads=1, alive=False, died_at=ago(240)
            ),
        ),
        jobs={
            Panel.RUNNING: (
                job(831, "shop.tasks.import_orders", "default", "running", started_at=ago(12)),
                job(
                    832, "shop.tasks.ship", "mail", "running", started_at=ago(2.2), attempt=2, max_attempts=5
                ),
            ),
            Panel.WAITING: (
                job(840, "shop.tasks.invoice", "mail"),
                job(841, "shop.tasks.close_the_books", "reports", "scheduled", run_at=ago(-3600)),
            ),
            Panel.FAILURES: (
                job(
                    7,
                    "shop.tasks.charge",
                    "default",
                    "failed",
                    finished_at=ago(100),
                    attempt=16,
                    error="ConnectError: all connection attempts failed",
                ),
                job(
                    3,
                    "shop.tasks.ship",
                    "mail",
                    "failed",
                    finished_at=ago(4000),
                    error="ValueError: no such order",
                ),
            ),
        },
        more=frozenset({Panel.WAITING}),
        buckets=tuple(bucket(10 * (60 - each), each % 9, int(each == 50)) for each in range(60)),
        states={
            JobState.SCHEDULED: Count(4),
            JobState.QUEUED: Count(10_012, exact=False),
            JobState.RUNNING: Count(2),
            JobState.FAILED: Count(2),
        },
    )
