"""Who may come in, and what they may do there."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from sqla_jobs.errors import ConfigurationError, shown

log = logging.getLogger("sqla_jobs")


@dataclass(frozen=True)
class Access:
    """A visitor who is let in.

    >>> def authorize(request):
    ...     user = request.user
    ...     return Access(user.email, write=user.is_admin) if user.is_authenticated else None

    Parameters:
        who: their name, for the log of what was done.
        write: whether they may act; else they may only look.

    Raises:
        ConfigurationError: the name is no text, or ``write`` is no bool: a method that nobody has called, or
            ``"no"``, would be true.
    """

    who: str
    write: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.who, str):
            raise ConfigurationError(f"Access({shown(self.who)}): expected their name, a text")
        if not isinstance(self.write, bool):
            raise ConfigurationError(f"Access(…, write={shown(self.write)}): expected True or False")


Level: TypeAlias = Literal["read", "write"]
Answer: TypeAlias = bool | Level | Access | Response | None
"""What an ``authorize`` says of a request: True or ``"write"``: may act; ``"read"``: may look; False or None:
neither; `Access`: with a name; a response, such as a redirect to a login: that is sent instead."""
Authorize: TypeAlias = Callable[[Request], Answer | Awaitable[Answer]]


def check_authorize(given: Any) -> Authorize:
    """What was given, if it can be asked.

    Raises:
        ConfigurationError: it is nothing that can be called.
    """
    if not callable(given):
        raise ConfigurationError(
            f"dashboard(authorize={shown(given)}): whoever can reach the page could read, cancel and delete "
            'jobs; expected a function of the request that returns "write", "read" or None: '
            "dashboard(jobs, authorize=lambda request: …)"
        )
    return cast(Authorize, given)


async def admit(authorize: Authorize, request: Request) -> Access | Response | None:
    """What a visitor may do; None: they may not come in."""
    called = getattr(authorize, "__call__", None)  # noqa: B004 - of an object it may be this that is awaited
    if inspect.iscoroutinefunction(authorize) or inspect.iscoroutinefunction(called):
        answer: Any = authorize(request)
    else:
        answer = await run_in_threadpool(authorize, request)
    if inspect.isawaitable(answer):
        answer = await answer
    if answer is None or answer is False:
        return None
    if isinstance(answer, (Access, Response)):
        return answer
    if answer is True or answer == "write":
        return Access(address(request), write=True)
    if answer == "read":
        return Access(address(request))
    # A name, a user object, 1: whoever wrote it may have meant anything.
    log.error(
        "authorize of the dashboard has returned %s: nobody is let in; expected a bool, 'read', 'write', "
        "None, an Access or a response",
        shown(answer),
    )
    return None


def address(request: Request) -> str:
    """Where a request comes from, as far as this server knows."""
    return "unknown" if request.client is None else request.client.host
