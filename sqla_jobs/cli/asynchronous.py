"""The AsyncSessions of a worker that the command line starts."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine, async_scoped_session, async_sessionmaker, create_async_engine

from sqla_jobs.cli import database
from sqla_jobs.cli.database import Chosen
from sqla_jobs.cli.pool import ping_after_a_pause
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.tasks import AsyncSessions, Registry
from sqla_jobs.worker.pool import WORKERS_OWN


def own_database(registry: Registry[Any]) -> Chosen | None:
    """The database of the async_sessionmaker, for the worker itself, if the Jobs has nothing else."""
    bind = _bind(registry.async_sessionmaker)
    if registry.sessionmaker is not None or bind is None:
        return None
    return Chosen(bind.url.set(drivername="postgresql+psycopg"), "the Jobs' own async_sessionmaker")


def sessions(registry: Registry[Any], chosen: Chosen | None, concurrency: int) -> AsyncSessions | None:
    """What makes the AsyncSessions of a worker; None: no task needs one, or nothing does.

    As `database.sessions`: on the chosen database, and an application's async_sessionmaker that is bound to
    another is configured anew.

    Raises:
        ConfigurationError: they differ, and the application chooses its engine by code of its own.
    """
    own = registry.async_sessionmaker
    if chosen is None or not registry.asynchronous:
        return own
    if own is None:
        return async_sessionmaker(_engine(chosen, concurrency))
    bind = _bind(own)
    if bind is None or database.same(bind.url, chosen.url):
        return own
    factory = own.session_factory if isinstance(own, async_scoped_session) else own
    if not isinstance(factory, async_sessionmaker):
        raise ConfigurationError(
            f"{chosen} and the Jobs' own async_sessionmaker ({bind.url.render_as_string()}) are different "
            f"databases: configure the application for this one, or start the worker without {chosen.source}"
        )
    factory.configure(bind=_engine(chosen, concurrency))
    return own


def _engine(chosen: Chosen, concurrency: int) -> AsyncEngine:
    own = concurrency + WORKERS_OWN
    options: Any = {"connect_args": {"fallback_application_name": "sqla-jobs"}}
    made = create_async_engine(chosen.url, pool_size=own, max_overflow=own, **options)
    ping_after_a_pause(made.sync_engine)
    return made


def _bind(made: Any) -> AsyncEngine | None:
    factory = made.session_factory if isinstance(made, async_scoped_session) else made
    bind = factory.kw.get("bind") if isinstance(factory, async_sessionmaker) else None
    return bind if isinstance(bind, AsyncEngine) else None
