"""Ordinary functions and coroutine functions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs.errors import InvalidOption, TaskDefinitionError


def is_async(function: Callable[..., object]) -> bool:
    """Whether a call of it gives a coroutine."""
    while isinstance(function, functools.partial):
        function = function.func
    if inspect.iscoroutinefunction(function):
        return True
    return not inspect.isroutine(function) and inspect.iscoroutinefunction(type(function).__call__)


def check_kind(function: Callable[..., object], task: str, group_commit: int | None) -> None:
    """See that a call of it runs something, with the Session that it is given.

    Raises:
        TaskDefinitionError: it is a generator function, or its first parameter is annotated with the other
            kind of Session.
        InvalidOption: it is a coroutine function, and for the fast lane.
    """
    _refuse_lazy(function, task)
    if group_commit and is_async(function):
        raise InvalidOption(
            f"task {task!r} is an `async def` function with group_commit={group_commit}; expected one of "
            "them: the jobs of a group run one after the other in one transaction, and wait for nothing"
        )
    found = _annotated(function)
    if found is None:
        return
    # By its name: to import SQLAlchemy's asyncio part takes time, and greenlet.
    awaits = any(each.__name__ == "AsyncSession" for each in found.__mro__)
    if is_async(function) and issubclass(found, Session):
        kind, expected = "an `async def`", "AsyncSession"
    elif awaits and not is_async(function):
        kind, expected = "an ordinary", "Session"
    else:
        return
    raise TaskDefinitionError(
        f"task {task!r} is {kind} function, and its first parameter is annotated with {found.__name__};"
        f" expected {expected}, which is what it is given"
    )


def _annotated(function: Any) -> type | None:
    """The class that the first parameter is annotated with; None: none, or one that is not known yet."""
    first = next(iter(inspect.signature(function).parameters.values()), None)
    found: Any = None if first is None else first.annotation
    if isinstance(found, str):
        name, *path = found.split(".")
        found = getattr(inspect.unwrap(function), "__globals__", {}).get(name)
        for each in path:
            found = getattr(found, each, None)
    return found if isinstance(found, type) else None


def _refuse_lazy(function: Callable[..., Any], name: str) -> None:
    body = function if inspect.isroutine(function) else type(function).__call__
    for is_lazy, kind in (
        (inspect.isasyncgenfunction, "an async generator function"),
        (inspect.isgeneratorfunction, "a generator function"),
    ):
        if is_lazy(function) or is_lazy(body):
            raise TaskDefinitionError(
                f"task {name!r} is {kind}: calling it runs nothing of its body; expected an ordinary function"
            )
