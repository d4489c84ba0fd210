"""What makes the Sessions of a worker, out of what a user has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs.errors import ConfigurationError

Sessions = Callable[[], AbstractContextManager[Session]]
"""Makes the Sessions of a worker: a sessionmaker, a scoped_session, or any callable whose result is a
context manager that gives a Session (a Flask application's enters its app context there)."""


def maker(given: Any) -> Sessions | None:
    """What makes the Sessions of workers that are given none of their own; None: nothing does."""
    if given is None or callable(given):
        return cast("Sessions | None", given)
    return sessions_of(given)


def sessions_of(source: Any) -> Sessions:
    """A maker of Sessions out of what a user has: an Engine, a sessionmaker, or such a callable."""
    if isinstance(source, Engine):
        return sessionmaker(source)
    if isinstance(source, scoped_session):
        return ScopedSessions(source)
    if callable(source):
        return cast("Sessions", source)
    raise ConfigurationError(
        f"{source!r} makes no Sessions; expected an Engine, a sessionmaker, or a callable that gives a "
        "Session as a context manager"
    )


class ScopedSessions:
    """The Sessions of a scoped_session, each removed from its registry after its job."""

    def __init__(self, registry: scoped_session[Any]) -> None:
        self.registry = registry

    @contextmanager
    def __call__(self) -> Iterator[Session]:
        """The Session of this thread."""
        # Closed only, it would be the next job's too, with the listeners and the info that this one left.
        try:
            yield self.registry()
        finally:
            self.registry.remove()
