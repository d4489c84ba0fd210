"""Coroutines of one test, run by a worker on an event loop."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from sqla_jobs import Finished, Jobs, current_job
from tests.support.models import Effect
from tests.support.server import Database
from tests.support.work import drain


def async_engine(database: Database, **options: Any) -> AsyncEngine:
    """An engine for one event loop, which disposes it."""
    return create_async_engine(database.url, **{"pool_size": 20, **options})


def drain_async(jobs: Jobs[Any], database: Database, **options: Any) -> list[Finished]:
    """`drain`, by a worker that can run coroutines."""
    if "async_sessionmaker" not in options:
        options["async_sessionmaker"] = async_engine(database)
    return drain(jobs, database, **options)


async def leave_effect(session: AsyncSession, note: str | None = None) -> None:
    """What every job of these tests writes: one committed run, one row."""
    session.add(Effect(job_id=current_job().id, note=note))
    await session.flush()
