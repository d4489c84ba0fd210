"""Every verb on an AsyncSession: there it returns a coroutine, which runs it by ``run_sync``.

A verb is written once, as a function of a Session. `verb` and `method` let it take an AsyncSession too, and
tell that to the type checkers, so that they complain of a forgotten ``await``.

SQLAlchemy's asyncio part is not imported here: it takes time, and greenlet, which is optional. Whoever has
an AsyncSession has imported it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeAlias, TypeVar, cast, overload

from sqlalchemy.orm import Session, scoped_session

from sqla_jobs.errors import ConfigurationError, InvalidOption, shown

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session

Sync: TypeAlias = "Session | scoped_session[Any]"
"""What a verb works in."""
Awaited: TypeAlias = "AsyncSession | async_scoped_session[Any]"
"""And by an await."""

ANY_SESSION = "a Session, scoped_session, AsyncSession or async_scoped_session"
"""What a verb takes, for a message."""

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Verb(Protocol[P, R_co]):
    """A function whose first argument is a session, and what comes of it with either kind."""

    @overload
    def __call__(self, session: Sync, /, *args: P.args, **kwargs: P.kwargs) -> R_co: ...
    @overload
    def __call__(
        self, session: Awaited, /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R_co]: ...


class Method(Protocol[P, R_co]):
    """A `Verb` that is a method; its overloads, if it has some of its own, say more than this."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...
    @overload
    def __get__(self, instance: None, owner: type, /) -> Callable[..., Any]: ...
    @overload
    def __get__(self, instance: object, owner: type, /) -> Verb[P, R_co]: ...


def verb(function: Callable[Concatenate[Any, P], R], /) -> Verb[P, R]:
    """Let a function of a Session take an AsyncSession too; a decorator."""
    name = function.__qualname__

    @wraps(function)
    def given(session: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        __tracebackhide__ = True
        # First what nearly all give: an enqueue shall not take longer for the others.
        if isinstance(session, (Session, scoped_session)) or not is_awaited(session):
            return function(session, *args, **kwargs)
        return awaited(session, name, lambda own: function(own, *args, **kwargs))

    return given


def method(function: Callable[Concatenate[Any, Any, P], R], /) -> Method[P, R]:
    """`verb`, for a method."""
    name = function.__qualname__

    @wraps(function)
    def given(self: Any, session: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:
        __tracebackhide__ = True
        if isinstance(session, (Session, scoped_session)) or not is_awaited(session):
            return function(self, session, *args, **kwargs)
        return awaited(session, name, lambda own: function(self, own, *args, **kwargs))

    return cast("Method[P, R]", given)  # any function has the __get__ that binds it


def session_of(given: Any, verb: str) -> Session:
    """The Session itself, for a verb.

    Raises:
        InvalidOption: it is none.
    """
    if isinstance(given, scoped_session):
        own: Session = given()
        return own
    if not isinstance(given, Session):
        raise InvalidOption(f"{verb}({shown(given)}, …); expected {ANY_SESSION} first")
    return given


def is_awaited(session: object) -> bool:
    """Whether it is a session on which verbs are awaited."""
    asyncio = sys.modules.get("sqlalchemy.ext.asyncio")
    return asyncio is not None and isinstance(session, (asyncio.AsyncSession, asyncio.async_scoped_session))


def awaited(session: Any, name: str, call: Callable[[Session], R]) -> Coroutine[Any, Any, R]:
    """A coroutine that calls a function with the Session within an AsyncSession; nothing happens before.

    Parameters:
        name: what the warning calls it, should nobody await it.

    Raises:
        ConfigurationError: greenlet is not installed.
    """
    if sys.modules.get("greenlet") is None:  # SQLAlchemy has imported it with its asyncio part, if it can
        raise ConfigurationError(
            "greenlet is not installed, and nothing can be awaited on an AsyncSession without it: "
            "pip install 'sqla-jobs[asyncio]'"
        )
    # Now: the task that awaits it may be another one, which has another session in the registry.
    own: AsyncSession = session if hasattr(session, "sync_session") else session()
    coroutine: Any = _run(own, call)
    coroutine.__name__ = coroutine.__qualname__ = name
    return cast("Coroutine[Any, Any, R]", coroutine)


async def _run(session: AsyncSession, call: Callable[[Session], R]) -> R:
    return await session.run_sync(call)
