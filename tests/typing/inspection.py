"""What the reading side means to the type checkers: read by mypy and pyright, both strict, never run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Coroutine
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from typing_extensions import assert_type

from sqla_jobs import Deleted, Job, JobState, delete
from sqla_jobs.inspection import (
    Acted,
    Bucket,
    Count,
    JobDetail,
    JobFilter,
    JobRow,
    Page,
    QueueRow,
    WorkerRow,
    act,
    count_jobs,
    count_states,
    list_jobs,
    list_queues,
    list_workers,
    show_job,
    stats,
)
from tests.typing.tasks import TenantJob, jobs, send, tenant_jobs


def reads(session: Session, now: dt.datetime) -> None:
    where = JobFilter(states=(JobState.FAILED,), arguments=((("order", "id"), 7),))
    assert_type(JobFilter.parse({"state": "failed", "arg": ["a=1"]}), JobFilter)
    assert_type(JobFilter.parse([("state", "failed")]).to_query(), list[tuple[str, str]])
    page = assert_type(list_jobs(session, TenantJob, where, cursor=None, limit=10, now=now), Page)
    assert_type(page.jobs, tuple[JobRow, ...])
    assert_type(show_job(session, Job, 7, redact=["card"]), JobDetail | None)
    assert_type(count_jobs(session, Job, where, at_most=5), Count)
    assert_type(count_states(session), dict[JobState, Count])
    assert_type(list_queues(session, TenantJob), list[QueueRow])
    assert_type(list_workers(session), list[WorkerRow])
    assert_type(stats(session, span=dt.timedelta(hours=1), buckets=12, queue="mail"), list[Bucket])


def acts(session: Session) -> None:
    assert_type(act(session, Job, "retry", ids=[1, 2]), Acted)
    assert_type(delete(session, 1), Deleted)
    assert_type(jobs.delete(session, send.job("a")), Deleted)
    assert_type(tenant_jobs.delete(session, TenantJob()), Deleted)


async def awaited(session: AsyncSession) -> None:
    await assert_type(list_jobs(session), Coroutine[Any, Any, Page])
    assert_type(await list_jobs(session, Job, JobFilter(task="t")), Page)
    assert_type(await show_job(session, Job, 7), JobDetail | None)
    assert_type(await act(session, Job, "delete", where=JobFilter()), Acted)
    assert_type(await jobs.delete(session, 1), Deleted)


def wrong(session: Session) -> None:
    JobFilter(states=("failed",))  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    JobFilter(older_than=7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    act(session, Job, "kill", ids=[1])  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    show_job(session, 7)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    list_jobs(session, Job, "failed")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    delete(session, "7")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    list_jobs(session).jobs[0].task = "x"  # type: ignore[misc] # pyright: ignore[reportAttributeAccessIssue]
