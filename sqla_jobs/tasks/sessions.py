"""What makes the Sessions of a worker, out of what a user has."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from sqlalchemy import Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.util.concurrency import await_only, in_greenlet

from sqla_jobs.errors import ConfigurationError, JobEscaped

if TYPE_CHECKING:  # it takes time to import, and whoever gives something of it has imported it
    from sqlalchemy.ext.asyncio import AsyncSession

Sessions = Callable[[], AbstractContextManager[Session]]
"""Makes the Sessions of a worker: a sessionmaker, a scoped_session, or any callable whose result is a
context manager that gives a Session (a Flask application's enters its app context there)."""

AsyncSessions: TypeAlias = "Callable[[], AbstractAsyncContextManager[AsyncSession]]"
"""The same of AsyncSessions, for tasks that are coroutines: an async_sessionmaker, an
async_scoped_session, or a callable whose result is an async context manager that gives an AsyncSession."""


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


def async_maker(given: Any) -> AsyncSessions | None:
    """What makes the AsyncSessions of workers; None: nothing does.

    Raises:
        ConfigurationError: it makes none.
    """
    if given is None:
        return None
    known = _asyncio()
    if known is not None and isinstance(given, known.AsyncEngine):
        made: AsyncSessions = known.async_sessionmaker(given)
        return made
    if not callable(given) or isinstance(given, (sessionmaker, scoped_session)):
        raise ConfigurationError(
            f"async_sessionmaker {given!r} makes no AsyncSessions; expected an async_sessionmaker, an "
            "AsyncEngine, or a callable that gives an AsyncSession as an async context manager"
        )
    return cast("AsyncSessions", given)


class InnerSessions:
    """The Sessions within AsyncSessions: for what is written for Sessions and runs in `greenlet_spawn`."""

    def __init__(self, made: AsyncSessions) -> None:
        self._made: Callable[..., AbstractAsyncContextManager[AsyncSession]] = made
        self._remove: Callable[[], Any] | None = getattr(made, "remove", None)
        """Of an async_scoped_session."""
        if self._remove is not None:
            _keep_in_async_registry(made)
        # What has outlived its job, such as a task that nobody awaited, shall not begin anew with it.
        self._options = {"close_resets_only": False} if _is_plain(made) else {}

    @contextmanager
    def __call__(self) -> Iterator[Session]:
        """The Session within a new one; `async_of` leads back."""
        manager = self._made(**self._options)
        given = await_only(manager.__aenter__())
        inner = given.sync_session
        try:
            try:
                yield inner
            finally:
                given.sync_session = given._proxied = inner  # see shut
        except BaseException:
            if not await_only(manager.__aexit__(*sys.exc_info())):
                raise
        else:
            await_only(manager.__aexit__(None, None, None))
        finally:
            if self._remove is not None:
                await_only(self._remove())


def _is_plain(made: Any) -> bool:
    """Whether it is an async_sessionmaker whose sessions take the options of SQLAlchemy's own."""
    known = _asyncio()
    if known is None or not isinstance(made, known.async_sessionmaker):
        return False
    inner = made.kw.get("sync_session_class", made.class_.sync_session_class)
    of_class: Any = made.class_.__init__
    return of_class is known.AsyncSession.__init__ and inner.__init__ is Session.__init__


def _keep_in_async_registry(scoped: Any) -> None:
    """As `scope.keep_in_registry`: what a job removes is still its session."""

    async def remove() -> None:
        if scoped.registry.has() and "commit" in vars(scoped.registry().sync_session):
            await scoped.registry().close()
        else:
            await type(scoped).remove(scoped)

    vars(scoped)["remove"] = remove


def async_of(session: Session) -> AsyncSession | None:
    """The AsyncSession that this Session is within, if it can be awaited here."""
    known = _asyncio()
    if known is None or not in_greenlet():
        return None
    found: AsyncSession | None = known.async_session(session)
    return found


class _Shut:
    """In the place of the Session within an AsyncSession."""

    def __getattr__(self, name: str) -> NoReturn:
        raise JobEscaped(
            "the job has ended, and something that it had begun goes on with its AsyncSession; expected a "
            "job that awaits all that it begins: asyncio.gather() does not if one raises, a TaskGroup does"
        )


def shut(given: AsyncSession) -> None:
    """Let nobody come to the Session within, until it is closed: what it writes next is not the job's."""
    # The other is what its methods that are not awaited are of: add(), for one.
    given.sync_session = given._proxied = cast("Session", _Shut())


def _asyncio() -> Any:
    """SQLAlchemy's asyncio part; None: nobody has imported it."""
    return sys.modules.get("sqlalchemy.ext.asyncio")
