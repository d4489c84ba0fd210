"""The arguments of a task that is not registered here: plain JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqla_jobs.arguments.faithful import JSON, Refused, check_text, plain


def encode_untyped(task: str, kwargs: Mapping[str, Any]) -> dict[str, JSON]:
    """The JSON that stores a call, by name, of a task that is not registered here: plain JSON only.

    Parameters:
        task: the task's name, for messages.
        kwargs: the arguments by name.

    Raises:
        ArgumentsNotStorable: a value is not plain JSON, or JSONB cannot hold it.
    """
    return {name: _stored_untyped(task, name, value) for name, value in kwargs.items()}


def _stored_untyped(task: str, name: str, value: Any) -> JSON:
    try:
        check_text(name)
        return plain(value)
    except Refused as refused:
        refused.reason += ". The task is not registered here: where it is, its annotations count"
        raise refused.error(task, name) from refused.__cause__
