"""What a function says of itself: its signature, and where its annotations were written."""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any


def yields(function: Any) -> bool:
    """Whether calling it makes a generator, and runs nothing."""
    if not (inspect.isroutine(function) or isinstance(function, functools.partial)):
        function = inspect.getattr_static(type(function), "__call__", None)
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def signature_of(function: Any) -> inspect.Signature:
    """What `inspect` says of a function; raises TypeError or ValueError if it has no signature."""
    if sys.version_info >= (3, 14):
        # Names that are not defined yet stay forward references instead of raising here.
        from annotationlib import Format  # noqa: PLC0415 - not there before

        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def names_around(function: Any) -> dict[str, Any]:
    """The globals in which the annotations that `inspect.signature` found were written."""
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif hasattr(function, "__wrapped__"):
            function = function.__wrapped__
        elif inspect.ismethod(function):
            function = function.__func__
        elif isinstance(function, type):
            function = inspect.getattr_static(function, "__init__")
        elif inspect.isroutine(function):
            return getattr(function, "__globals__", {})
        else:
            function = inspect.getattr_static(type(function), "__call__")
