"""What tasks that are coroutine functions mean to the type checkers: read by mypy and pyright, never run."""

from __future__ import annotations

import datetime as dt
from collections.abc import Coroutine
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session, sessionmaker
from typing_extensions import assert_type

from sqla_jobs import Cancel, Job, Jobs, Limit, Snooze, Worker, current_job

jobs = Jobs()


@jobs.task
async def call(session: AsyncSession, url: str, *, again: bool = False) -> int:
    await current_job().checkpoint(session)
    return len(url) + again


@jobs.task(queue="calls", timeout=dt.timedelta(seconds=30), limit=Limit(2, key="url"), result=True)
async def fetch(session: AsyncSession, url: str) -> list[str] | Snooze | Cancel:
    return [url]


async def enqueues(session: AsyncSession, ordinary: Session) -> None:
    assert_type(await call.enqueue(session, "a", again=True), Job)
    assert_type(call.enqueue(ordinary, "a"), Job)
    assert_type(call.job("a"), Job)
    assert_type(await call(session, "a"), int)
    assert_type(fetch.result(ordinary, 1), list[str])
    await assert_type(fetch.result(session, 1), Coroutine[Any, Any, list[str]])
    call.enqueue(ordinary, 5)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    call.enqueue(session, "a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    call(session, "a")  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    current_job().checkpoint(session)  # type: ignore[unused-coroutine] # pyright: ignore[reportUnusedCoroutine]
    assert_type(current_job().checkpoint(ordinary), None)


async def works(
    engine: Engine,
    made: async_sessionmaker[AsyncSession],
    scoped: async_scoped_session[AsyncSession],
    asynchronous: AsyncEngine,
    ordinary: sessionmaker[Session],
) -> None:
    Jobs(async_sessionmaker=made)
    async with Worker(jobs, engine, async_sessionmaker=made, concurrency=100) as worker:
        assert_type(worker, Worker)
    Worker(jobs, engine, async_sessionmaker=scoped)
    Worker(jobs, engine, async_sessionmaker=asynchronous)
    Worker(jobs, engine, async_sessionmaker=ordinary)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, engine, concurrency="10")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
