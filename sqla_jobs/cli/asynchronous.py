"""The AsyncSessions of a worker that the command line starts."""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from sqla_jobs.cli import database
from sqla_jobs.cli.database import Chosen
from sqla_jobs.cli.pool import ping_after_a_pause
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.tasks import AsyncSessions, Registry
from sqla_jobs.worker.pool import WORKERS_OWN

if TYPE_CHECKING:  # greenlet, which it needs, is there only where somebody has asked for it
    from sqlalchemy.ext.asyncio import AsyncEngine


def own_database(registry: Registry[Any]) -> Chosen | None:
    """The database of the async_sessionmaker, for the worker itself, if the Jobs has nothing else."""
    bind = _bind(_factory(registry.async_sessionmaker))
    if registry.sessionmaker is not None or bind is None:
        return None
    return Chosen(bind.url.set(drivername="postgresql+psycopg"), "the Jobs' own async_sessionmaker")


def sessions(registry: Registry[Any], chosen: Chosen | None, concurrency: int) -> AsyncSessions | None:
    """What makes the AsyncSessions of a worker; None: no task needs one, or nothing does.

    As `database.sessions`: on the chosen database, and an application's async_sessionmaker that is bound to
    another is configured anew.

    Raises:
        ConfigurationError: greenlet is not installed.
    """
    own = registry.async_sessionmaker
    if chosen is None or not registry.asynchronous:
        return own
    if own is None:
        made: AsyncSessions = _asyncio().async_sessionmaker(_engine(chosen, concurrency))
        return made
    factory = _factory(own)
    bind = _bind(factory)
    if bind is not None and not database.same(bind.url, chosen.url):
        replacement = _engine(chosen, concurrency)
        # In place: what a task calls may open AsyncSessions of this same maker.
        factory.configure(bind=replacement)
        if binds := factory.kw.get("binds"):
            factory.configure(
                binds={key: replacement if each is bind else each for key, each in binds.items()}
            )
    return own


def _asyncio() -> Any:
    try:
        return importlib.import_module("sqlalchemy.ext.asyncio")
    except ImportError as error:
        raise ConfigurationError(
            "there are `async def` tasks, and SQLAlchemy's asyncio cannot be imported "
            f"({str(error).partition('.')[0]}): pip install 'sqla-jobs[asyncio]'"
        ) from error


def _engine(chosen: Chosen, concurrency: int) -> AsyncEngine:
    own = concurrency + WORKERS_OWN
    options: dict[str, Any] = {"connect_args": {"fallback_application_name": "sqla-jobs"}}
    made: AsyncEngine = _asyncio().create_async_engine(chosen.url, pool_size=own, max_overflow=own, **options)
    ping_after_a_pause(made.sync_engine)
    return made


def _factory(made: Any) -> Any:
    """The async_sessionmaker in what an application gives; None: it is something else."""
    known: Any = sys.modules.get("sqlalchemy.ext.asyncio")
    if known is None:
        return None
    factory = made.session_factory if isinstance(made, known.async_scoped_session) else made
    return factory if isinstance(factory, known.async_sessionmaker) else None


def _bind(factory: Any) -> AsyncEngine | None:
    bind = None if factory is None else factory.kw.get("bind")
    return bind if hasattr(bind, "sync_engine") else None
