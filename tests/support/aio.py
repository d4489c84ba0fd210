"""An application with an AsyncEngine: its coroutines, in an event loop of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from tests.support.server import Database

T = TypeVar("T")
Sessions = async_sessionmaker[AsyncSession]


def in_a_loop(database: Database, body: Callable[[Sessions], Awaitable[T]], **options: Any) -> T:
    """Run a coroutine function that is given a maker of AsyncSessions; ``options`` are this maker's."""

    async def main() -> T:
        engine = create_async_engine(database.url)
        try:
            return await body(async_sessionmaker(engine, **options))
        finally:
            await engine.dispose()

    return asyncio.run(main())
