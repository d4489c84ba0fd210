"""What verbs on an AsyncSession mean to the type checkers: read by mypy and pyright, both strict, never run.

With it each gives a coroutine, and both complain if nobody awaits that.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Coroutine
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session
from typing_extensions import assert_type

from sqla_jobs import (
    Cancelled,
    Finished,
    Job,
    Jobs,
    Progress,
    Retried,
    Synced,
    cancel,
    pause,
    prune,
    resume,
    retry,
)
from sqla_jobs.testing import InSession, assert_enqueued, drain, enqueued, refute_enqueued
from tests.typing.tasks import TenantJob, bill, clean, count, end, jobs, remind, send, tenant_jobs

# -- each verb is awaited --------------------------------------------------------------------------


async def enqueues(
    session: AsyncSession, scoped: async_scoped_session[AsyncSession], at: dt.datetime
) -> None:
    await assert_type(send.enqueue(session, "a"), Coroutine[Any, Any, Job])
    assert_type(await send.enqueue(session, "a", copies=2), Job)
    assert_type(await send.enqueue(scoped, to="a"), Job)
    assert_type(await send.using(queue="slow", run_at=at).enqueue(session, "a"), Job)
    assert_type(await remind.enqueue(session, 1, at, weight=1.5), Job)
    assert_type(await clean.enqueue(session), Job)
    assert_type(await bill.enqueue(session, 1), TenantJob)
    assert_type(await jobs.enqueue(session, "shop.send", to="a"), Job)
    assert_type(await jobs.using(queue="slow").enqueue(session, "shop.send", to="a"), Job)
    assert_type(await tenant_jobs.enqueue(scoped, "bill", order=1), TenantJob)
    assert_type(await jobs.enqueue_many(session, [send.job("a"), clean.job()]), list[int])
    session.add(send.job("a"))


async def others(session: AsyncSession) -> None:
    assert_type(await cancel(session, 1), Cancelled)
    assert_type(await jobs.cancel(session, send.job("a")), Cancelled)
    assert_type(await jobs.cancel_all(session, queue="mail", task=send), int)
    assert_type(await retry(session, 1, again=True), Retried)
    assert_type(await jobs.retry(session, 1), Retried)
    assert_type(await jobs.progress(session, 1), Progress | None)
    assert_type(await prune(session, older_than=dt.timedelta(1)), int)
    assert_type(await jobs.prune(session, states=["failed"]), int)
    assert_type(await pause(session, "mail"), bool)
    assert_type(await jobs.pause(session, "mail"), bool)
    assert_type(await resume(session, "mail"), bool)
    assert_type(await jobs.resume(session, "mail"), bool)
    assert_type(await jobs.sync_schedules(session, prune=True), Synced)
    assert_type(await jobs.run_schedule(session, "hourly"), int | None)
    assert_type(await jobs.switch_schedule(session, "hourly", enabled=True), bool)
    assert_type(await jobs.work_once(session, ["mail"]), Finished | None)


async def results(session: AsyncSession, job: Job) -> None:
    assert_type(await count.result(session, job), int | None)
    assert_type(await end.result(session, job), str)
    await count.result(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]


async def helpers(session: AsyncSession) -> None:
    assert_type(await drain(session, jobs, ["mail"]), list[Finished])
    assert_type(await enqueued(session, send, to="a"), list[Job])
    assert_type(await enqueued(session, bill), list[TenantJob])
    assert_type(await enqueued(session, "bill", model=TenantJob), list[TenantJob])
    assert_type(await enqueued(session), list[Job])
    assert_type(await assert_enqueued(session, send, to="a"), list[Any])
    assert_type(await refute_enqueued(session, send), None)
    bound = InSession(session, jobs)
    assert_type(bound, InSession[AsyncSession])
    assert_type(bound.session, AsyncSession)
    assert_type(await bound.drain(limit=3), list[Finished])
    assert_type(await bound.enqueued(send, to="a"), list[Any])
    assert_type(await bound.assert_enqueued(send, count=1), list[Any])
    assert_type(await bound.refute_enqueued(send), None)


def in_sync(session: Session, scoped: scoped_session[Session], fixture: InSession) -> None:
    """And with a Session nothing is."""
    assert_type(jobs.pause(scoped, "mail"), bool)
    assert_type(InSession(session, jobs).drain(), list[Finished])
    assert_type(InSession(scoped, jobs).assert_enqueued(send), list[Any])
    assert_type(fixture.session, Session)
    assert_type(fixture.enqueued(), list[Any])


async def either(session: Session | AsyncSession) -> None:
    assert_type(send.enqueue(session, "a"), Job | Coroutine[Any, Any, Job])


def given(
    call: Callable[[Session, str], Job], awaits: Callable[[AsyncSession], Coroutine[Any, Any, int]]
) -> None:
    """A verb may be handed on as a function."""


given(send.enqueue, jobs.cancel_all)


# -- the signature of the task is kept -------------------------------------------------------------


async def wrong_arguments(session: AsyncSession, connection: AsyncConnection) -> None:
    await send.enqueue(session)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await send.enqueue(session, 5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await send.enqueue(session, "a", 2)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await send.enqueue(session, "a", copy=2)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await send.enqueue("a")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await send.enqueue(connection, "a")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await send.using(priority=1).enqueue(session, 5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await remind.enqueue(session, order=1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await clean.enqueue(session, 1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await bill.enqueue(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await jobs.enqueue(session, send)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await jobs.enqueue_many(session, ["a"])  # type: ignore[list-item] # pyright: ignore[reportArgumentType, reportCallIssue]
    await jobs.cancel(session, "a")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await pause(session)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await jobs.work_once(session, queue="mail")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    await drain(session, send)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await assert_enqueued(send)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    await InSession(connection, jobs).drain()  # type: ignore[arg-type, misc, type-var] # pyright: ignore[reportArgumentType, reportGeneralTypeIssues]


# -- a forgotten await -----------------------------------------------------------------------------


async def forgotten(session: AsyncSession) -> None:
    send.enqueue(session, "a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    send.using(queue="slow").enqueue(session, "a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    count.result(session, 1)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.enqueue(session, "shop.send", to="a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.using(queue="slow").enqueue(session, "shop.send", to="a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.enqueue_many(session, [clean.job()])  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    cancel(session, 1)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.cancel(session, 1)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.cancel_all(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    retry(session, 1)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.retry(session, 1)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    prune(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.prune(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    pause(session, "mail")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.pause(session, "mail")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    resume(session, "mail")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.resume(session, "mail")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.sync_schedules(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.run_schedule(session, "a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    jobs.work_once(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    drain(session, jobs)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    enqueued(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    assert_enqueued(session, send)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    refute_enqueued(session, send)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    InSession(session, jobs).drain()  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    InSession(session, jobs).enqueued()  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    InSession(session, jobs).assert_enqueued(send)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    InSession(session, jobs).refute_enqueued(send)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    print(send.enqueue(session, "a").id)  # type: ignore[attr-defined] # pyright: ignore[reportAttributeAccessIssue, reportUnknownArgumentType, reportUnknownMemberType]


async def needless(session: Session) -> None:
    await send.enqueue(session, "a")  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    await jobs.cancel(session, 1)  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    await drain(session, jobs)  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
    await InSession(session, Jobs()).drain()  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
