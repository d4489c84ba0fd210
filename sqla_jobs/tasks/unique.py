"""Unique jobs: what their key is made of, and how long it is held."""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, NoReturn, TypeAlias, get_args

from sqla_jobs import statements
from sqla_jobs.errors import EnqueueError, InvalidOption, TaskDefinitionError, shown
from sqla_jobs.tasks.keys import key_of

Scope: TypeAlias = Literal["active", "queued"]
"""How long a job holds its key: until it is finished, or until it begins."""
By: TypeAlias = bool | Sequence[str]
"""The arguments that a key is derived from: these, or all; False: it is not."""

_OPTIONS: Final = {"unique": "by", "unique_key": "key", "unique_scope": "scope", "unique_for": "window"}
_SECOND: Final = dt.timedelta(seconds=1)
_LONGEST: Final = dt.timedelta(days=36_525)


@dataclass(frozen=True)
class Unique:
    """Which jobs of a task are taken for the same one.

    Parameters:
        by: the arguments whose values are the key; True: all of them; False: none.
        key: the key itself.
        scope: see `Scope`.
        window: instead of a scope: for so long, in fixed windows of the database's time.

    Raises:
        InvalidOption: with what was found and what was expected.
    """

    by: By = False
    key: str | None = None
    scope: Scope = "active"
    window: dt.timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "by", _names(self.by))
        if self.key is not None:
            _check_key(self.key)
        if self.scope not in get_args(Scope):
            raise InvalidOption(f"unique_scope {shown(self.scope)}; expected 'active' or 'queued'")
        if self.window is not None:
            _check_window(self.window)
        if not self.is_asked and (self.window is not None or self.scope != "active"):
            raise InvalidOption(
                "unique_scope or unique_for without a key; expected unique_key='…' beside it, or"
                " unique=('order_id',) at the task"
            )

    def changed(self, changes: Mapping[str, Any]) -> Unique:
        """A copy with other ``unique``, ``unique_key``, ``unique_scope``, ``unique_for``.

        A new key replaces the arguments that it was derived from, None takes away any; a new ``unique_for``
        replaces the scope, and the other way round.
        """
        new = {_OPTIONS[name]: value for name, value in changes.items()}
        if "key" in new and not new.setdefault("by", False) and new["key"] is None:
            return Unique(scope=new.get("scope", "active"), window=new.get("window"))
        if new.get("by"):
            new.setdefault("key", None)
        if new.get("window") is not None:
            if new.setdefault("scope", "active") != "active":
                raise InvalidOption(
                    f"unique_scope {shown(new['scope'])} and unique_for {new['window']} are both given;"
                    " expected one"
                )
        elif "scope" in new:
            new["window"] = None
        return replace(self, **new)

    @property
    def is_asked(self) -> bool:
        """Whether there is any key at all."""
        return self.key is not None or bool(self.by)

    def columns(self, task: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The values for the row of a job with these arguments, defaults included.

        Raises:
            EnqueueError: the key is derived from a mapped object that has no primary key yet.
        """
        if not self.is_asked:
            return {}
        named = arguments if self.by is True else {name: arguments.get(name) for name in self.by or ()}
        key = _key(task, named if self.key is None else self.key)
        if self.window is not None:
            windowed = statements.window(key, self.window)
            return {"unique_key": windowed, "unique_scope": "window", "unique_held": True}
        return {"unique_key": key, "unique_scope": self.scope, "unique_held": True}


def split(changes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options, those of unique jobs and all others."""
    mine = {name: value for name, value in changes.items() if name in _OPTIONS}
    return mine, {name: value for name, value in changes.items() if name not in _OPTIONS}


def check_lane(unique: Unique, task: str, group_commit: int | None) -> None:
    """Raise InvalidOption if the key is to be let go of when a job begins that nobody sees begin."""
    if group_commit and unique.is_asked and unique.scope == "queued":
        raise InvalidOption(
            f"task {task!r} has group_commit={group_commit} and unique_scope='queued'; expected one of them:"
            " in the fast lane a job is seen to begin only when it is over"
        )


def check_names(by: By, task: str, function: Any) -> None:
    """Raise TaskDefinitionError if a key is derived from what a task does not take."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD]
    if isinstance(by, bool) or len(known) < len(parameters):
        return
    for name in by:
        if name not in known:
            raise TaskDefinitionError(
                f"task {task!r} is unique by {name!r}, which is none of its arguments; expected some of"
                f" {', '.join(known) or 'none: it has no arguments'}"
            )


def _names(by: object) -> bool | tuple[str, ...]:
    if isinstance(by, bool):
        return by
    if isinstance(by, str) or not isinstance(by, Sequence) or not by:
        raise InvalidOption(
            f"unique {shown(by)}; expected names of arguments, ('order_id',), or True for all"
        )
    for name in by:
        if not isinstance(name, str):
            raise InvalidOption(f"unique {shown(by)} has {shown(name)} in it; expected names of arguments")
    return tuple(sorted(set(by)))


def _check_key(key: object) -> None:
    if not isinstance(key, str) or not key:
        raise InvalidOption(f"unique_key {shown(key)}; expected a text that is not empty, e.g. 'order-7'")
    try:
        key.encode()
    except UnicodeEncodeError as error:
        raise InvalidOption(f"unique_key {shown(key)}; expected a text that UTF-8 can encode") from error


def _check_window(window: object) -> None:
    if not isinstance(window, dt.timedelta):
        raise InvalidOption(f"unique_for {shown(window)}; expected a timedelta, e.g. timedelta(hours=1)")
    if not _SECOND <= window <= _LONGEST or window % _SECOND:
        raise InvalidOption(f"unique_for {window}; expected whole seconds, 1 to {_LONGEST.days} days of them")


def _key(task: str, of: str | Mapping[str, Any]) -> str:
    def refuse(value: object) -> NoReturn:
        raise EnqueueError(
            f"{task}: its unique key is derived from {shown(value)}, which has no primary key yet; flush it"
            " first (session.flush()), or give the job a key of its own: using(unique_key='…')"
        )

    return key_of(task, of, refuse)
