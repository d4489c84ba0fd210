"""Errors of a call, without the values of arguments that are not to be shown."""

from __future__ import annotations

from typing import Any

from sqla_jobs.errors import ArgumentsNotLoadable, ArgumentsNotStorable, InvalidArguments
from sqla_jobs.redaction import MASK, Redaction

Refusal = InvalidArguments | ArgumentsNotStorable | ArgumentsNotLoadable


def hidden(error: Refusal, name: str, value: Any) -> Refusal:
    """The same error, with `MASK` for the value; to be raised where the other is not its context any more.

    Parameters:
        value: of the argument of that name.
    """
    clean = Redaction([name], lambda: [(name, value)], brief=True).clean
    if isinstance(error, InvalidArguments):
        return InvalidArguments(error.task, error.call, clean(error.problem))
    if isinstance(error, ArgumentsNotStorable):
        return ArgumentsNotStorable(error.task, clean(error.argument), MASK, clean(error.reason))
    return ArgumentsNotLoadable(error.task, error.argument, MASK, clean(error.reason))
