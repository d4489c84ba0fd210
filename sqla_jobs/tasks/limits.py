"""Limit: how many jobs of a task may run at once, of all or of those with the same arguments."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from sqla_jobs.errors import EnqueueError, InvalidOption, TaskDefinitionError, shown
from sqla_jobs.tasks.keys import key_of

_MOST: Final = 2**31 - 1


@dataclass(frozen=True)
class Limit:
    """So many jobs at most run at once, in all workers together.

    Parameters:
        number: how many, from 1.
        key: the argument, or those, by whose values jobs are counted apart: ``"customer_id"`` for so many of
            each customer. None of them: all jobs of the task are counted together.

    Raises:
        InvalidOption: with what was found and what was expected.
    """

    number: int
    key: str | Sequence[str] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if type(self.number) is not int or not 1 <= self.number <= _MOST:  # a bool is no number here
            raise InvalidOption(
                f"Limit({shown(self.number)}); expected a whole number from 1 to {_MOST}; for none at all:"
                " pause(session, queue)"
            )
        object.__setattr__(self, "key", _names(self.key))

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the arguments in the key."""
        return tuple(self.key)

    def key_for(self, task: str, arguments: Mapping[str, Any]) -> str:
        """What the row of a job with these arguments, defaults included, is counted by.

        Raises:
            EnqueueError: a mapped object among them has no primary key yet.
        """

        def refuse(value: object) -> NoReturn:
            raise EnqueueError(
                f"{task}: its limit is counted by {shown(value)}, which has no primary key yet; flush it"
                " first: session.flush()"
            )

        return key_of(task, {name: arguments.get(name) for name in self.names}, refuse)


def check_limit(
    limit: object, task: str, function: Callable[..., Any], group_commit: int | None
) -> Limit | None:
    """The limit of a task, if it is one that can be held.

    Raises:
        InvalidOption: it is no `Limit`, or of a task in the fast lane.
        TaskDefinitionError: it is counted by what the task does not take.
    """
    if limit is None:
        return None
    if not isinstance(limit, Limit):
        raise InvalidOption(
            f"limit {shown(limit)} of task {task!r}; expected a Limit: limit=Limit(2), or"
            " limit=Limit(2, key='customer_id')"
        )
    if group_commit:
        raise InvalidOption(
            f"task {task!r} has group_commit={group_commit} and a limit; expected one of them: in the fast"
            " lane nobody else sees what runs, and so cannot count it"
        )
    parameters = list(inspect.signature(function).parameters.values())[1:]
    # Not what only **kwargs would take: the jobs that were not given it would be counted as one customer's.
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    for name in limit.names:
        if name not in known:
            raise TaskDefinitionError(
                f"task {task!r} has a limit by {name!r}, which is none of its named arguments; expected some"
                f" of {', '.join(known) or 'none, and so a Limit without a key: it has no such arguments'}"
            )
    return limit


def _names(key: object) -> tuple[str, ...]:
    names = (key,) if isinstance(key, str) else key
    if not isinstance(names, Sequence) or not all(isinstance(name, str) and name for name in names):
        raise InvalidOption(
            f"Limit(…, key={shown(key)}); expected the name of an argument, 'customer_id', or several,"
            " ('customer_id', 'region')"
        )
    return tuple(dict.fromkeys(names))
