"""Which database a command works on."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import URL, Connection, Engine, create_engine, make_url
from sqlalchemy.exc import ArgumentError, UnboundExecutionError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs.cli.pool import ping_after_a_pause
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.models import JobMixin
from sqla_jobs.tasks import Registry, Sessions
from sqla_jobs.worker.pool import WORKERS_OWN

log = logging.getLogger("sqla_jobs")

OPTION: Final = "--database-url"
VARIABLES: Final = ("SQLA_JOBS_DATABASE_URL", "DATABASE_URL")
_EXPECTED: Final = "expected postgresql://user:password@host:port/database"


@dataclass(frozen=True)
class Chosen:
    """A database, and what named it."""

    url: URL
    source: str

    def __str__(self) -> str:
        return f"{self.url.render_as_string()} ({self.source})"


def choose(option: str | None, environment: Mapping[str, str] = os.environ) -> Chosen | None:
    """The database of the option, else of the environment; None: neither names one.

    ``postgres://`` and ``postgresql://``, which SQLAlchemy 2.0 would take for psycopg2, mean psycopg.

    Raises:
        ConfigurationError: it is no URL of a PostgreSQL. The message does not repeat what was given:
            there may be a password in it.
    """
    if option is not None:
        return Chosen(_parse(option, OPTION), OPTION)
    for name in VARIABLES:
        if environment.get(name):
            return Chosen(_parse(environment[name], name), name)
    return None


def require(option: str | None) -> Chosen:
    """`choose`, for a command that has nothing else to go by."""
    chosen = choose(option)
    if chosen is None:
        raise ConfigurationError(f"no database is named: give {OPTION}, or set {' or '.join(VARIABLES)}")
    return chosen


def _parse(given: str, source: str) -> URL:
    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise ConfigurationError(f"{source} is not a database URL; {_EXPECTED}") from None
    if url.drivername in ("postgres", "postgresql", "postgresql+psycopg_async"):
        return url.set(drivername="postgresql+psycopg")
    if url.get_backend_name() != "postgresql":
        raise ConfigurationError(f"{source} is a URL of {url.get_backend_name()}; {_EXPECTED}")
    return url


def engine(chosen: Chosen, **options: Any) -> Engine:
    """An engine on a database that the command line or the environment names.

    Raises:
        ConfigurationError: the URL asks for another driver than psycopg.
    """
    if chosen.url.drivername != "postgresql+psycopg":
        driver = chosen.url.get_driver_name()
        hint = "" if chosen.source == OPTION else f", or set {VARIABLES[0]}, which goes before DATABASE_URL"
        raise ConfigurationError(
            f"{chosen.source} asks for the driver {driver}, and sqla_jobs works with psycopg: "
            f"{_EXPECTED}{hint}"
        )
    made = create_engine(chosen.url, connect_args={"fallback_application_name": "sqla-jobs"}, **options)
    ping_after_a_pause(made)  # a job that is handed a dead connection fails its attempt
    return made


def sessions(registry: Registry[Any], chosen: Chosen | None, threads: int) -> Sessions:
    """What makes the worker's Sessions: on the chosen database, else on the application's own.

    If both are one database, or nothing is chosen, the application's sessionmaker is taken as it is,
    with its engine. If they differ, the application's sessionmaker is configured anew for the whole
    process: its Session class and options stay, its engine (also in ``binds``) is replaced.

    Raises:
        ConfigurationError: nothing names a database, or the application chooses its engine in a way
            (a ``get_bind`` or a function of its own) that cannot be told to take another.
    """
    own = registry.sessionmaker
    if chosen is None:
        own, bound = own_database(registry)
        _log_database(bound.url, "the Jobs' own sessionmaker")
        return own
    if own is None:
        _log_database(chosen.url, chosen.source)
        return sessionmaker(_worker_engine(chosen, threads))
    bind = _bind(own, registry.model)
    if bind is not None and same(bind.engine.url, chosen.url):
        _log_database(bind.engine.url, f"{chosen.source} and the Jobs' own sessionmaker")
        return own
    _redirect(own, bind, chosen, threads)
    _log_database(chosen.url, f"{chosen.source}, in place of that of the Jobs' own sessionmaker")
    return own


def own_database(registry: Registry[Any]) -> tuple[Sessions, Engine]:
    """The application's own sessionmaker, and the engine of its job table.

    Raises:
        ConfigurationError: there is no sessionmaker, or it is bound to no engine.
    """
    own = registry.sessionmaker
    if own is None:
        raise ConfigurationError(
            f"no database is named: give {OPTION}, or set {' or '.join(VARIABLES)}, or give the Jobs "
            "a sessionmaker: Jobs(sessionmaker=…)"
        )
    bind = _bind(own, registry.model)
    if bind is None:
        raise ConfigurationError(
            "the sessionmaker of the Jobs is bound to no engine: bind it, sessionmaker(engine), or give "
            f"{OPTION}, or set {' or '.join(VARIABLES)}"
        )
    return own, bind.engine


def _worker_engine(chosen: Chosen, threads: int) -> Engine:
    # As many again for the Sessions that tasks open on their own.
    return engine(chosen, pool_size=threads + WORKERS_OWN, max_overflow=threads + WORKERS_OWN)


def _bind(own: Sessions, model: type[JobMixin]) -> Engine | Connection | None:
    with own() as session:
        try:
            return session.get_bind(mapper=model)
        except UnboundExecutionError:
            return None


def same(one: URL, other: URL) -> bool:
    """Whether both lead to one database."""

    def plain(url: URL) -> URL:
        return url.set(drivername="postgresql", port=url.port or 5432)

    return plain(one) == plain(other)


def _redirect(own: Sessions, bind: Engine | Connection | None, chosen: Chosen, threads: int) -> None:
    factory = own.session_factory if isinstance(own, scoped_session) else own
    if not isinstance(factory, sessionmaker) or factory.class_.get_bind is not Session.get_bind:
        found = "no database" if bind is None else bind.engine.url.render_as_string()
        raise ConfigurationError(
            f"{chosen} and the Jobs' own sessionmaker ({found}) are different databases, and the "
            "application chooses its engine by code of its own, which the worker cannot change: "
            f"configure the application for this database, or start the worker without {chosen.source}"
        )
    replacement = _worker_engine(chosen, threads)
    # In place: what a task calls may open Sessions of this same sessionmaker.
    factory.configure(bind=replacement)
    if binds := factory.kw.get("binds"):
        factory.configure(
            binds={key: replacement if value is bind else value for key, value in binds.items()}
        )


def _log_database(url: URL, source: str) -> None:
    shown = url.render_as_string()
    log.info("database %s: %s", shown, source, extra={"database": shown, "source": source})
