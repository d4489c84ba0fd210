"""Which jobs are asked for."""

from __future__ import annotations

import datetime as dt
import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sqla_jobs.errors import InvalidFilter, InvalidQueueName
from sqla_jobs.inspection.texts import (
    LONGEST_AGE,
    age_of,
    age_text,
    argument_of,
    argument_text,
    is_storable,
)
from sqla_jobs.models import check_queue
from sqla_jobs.outcome import JobState

NAMES: Final = (
    "state", "task", "queue", "worker", "schedule", "arg", "error", "older_than", "newer_than",
)  # fmt: skip
"""What a filter is called in a query string, and among the options of the command line."""

MANY: Final = ("state", "arg")
"""Those of them that may be given several times."""

_LONGEST_TEXT: Final = 1000
_MOST_ARGUMENTS: Final = 20
_STATES: Final = ", ".join(each.value for each in JobState)


@dataclass(frozen=True, kw_only=True)
class JobFilter:
    """Which jobs are asked for: those that satisfy all that is said here.

    Parameters:
        states: in one of these; none: in any.
        task, queue: of this task, in this queue.
        worker_id: that this worker runs, or ran last.
        schedule: that the schedule of this name has made.
        arguments: at a path there is this JSON value, ``((("order", "id"), 7), …)``. A value that is redacted
            equals nothing.
        error: this text is in the class or the message of the last attempt's error; case does not matter.
        older_than, newer_than: enqueued at least so long ago, or less long ago.

    Raises:
        InvalidFilter: one of them cannot be.
    """

    states: tuple[JobState, ...] = ()
    task: str | None = None
    queue: str | None = None
    worker_id: int | None = None
    schedule: str | None = None
    arguments: tuple[tuple[tuple[str, ...], Any], ...] = ()
    error: str | None = None
    older_than: dt.timedelta | None = None
    newer_than: dt.timedelta | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "states", _states(self.states))
        for name in ("task", "schedule", "error"):
            _check_text(name, getattr(self, name))
        if self.queue is not None:
            try:
                check_queue(self.queue)
            except InvalidQueueName as error:
                expected = "1 to 63 out of A-Z, a-z, 0-9, '_', '-' and '.'"
                raise InvalidFilter("queue", self.queue, expected) from error
        if self.worker_id is not None and (
            type(self.worker_id) is not int or not 0 <= self.worker_id < 2**63
        ):
            raise InvalidFilter("worker", self.worker_id, "the id of a worker, a whole number such as 7")
        _check_arguments(self.arguments)
        _check_age("older_than", self.older_than)
        _check_age("newer_than", self.newer_than)
        if self.older_than is not None and self.newer_than is not None and self.older_than >= self.newer_than:
            raise InvalidFilter(
                "newer_than", age_text(self.newer_than),
                f"more than older_than, which is {age_text(self.older_than)}: no job is both",
            )  # fmt: skip

    def __bool__(self) -> bool:
        """Whether it says anything."""
        return self != ALL

    @classmethod
    def parse(cls, texts: Mapping[str, str | Iterable[str]] | Iterable[tuple[str, str]]) -> JobFilter:
        """A filter from the texts of a query string or of a command's options, by `NAMES`.

        ``state`` and ``arg`` may be there several times, states also with commas between them. An argument is
        ``order.id=7``: a path, and JSON, or text if it is none; a point in a name is ``\\.``. An age is a
        number with ``s``, ``m``, ``h``, ``d`` or ``w``. Empty texts, as of an empty field of a form, say
        nothing.

        Raises:
            InvalidFilter: an unknown name, or a text that says nothing of its kind.
        """
        given = _gathered(texts)
        worker = given.get("worker", [""])[-1]
        if worker and not (worker.isascii() and worker.isdigit() and len(worker) < 20):
            raise InvalidFilter("worker", worker, "the id of a worker, a whole number such as 7")

        def one(name: str) -> str | None:
            return given.get(name, [""])[-1] or None

        def age(name: str) -> dt.timedelta | None:
            text = one(name)
            return None if text is None else age_of(name, text)

        states = [each.strip() for text in given.get("state", ()) for each in text.split(",")]
        return cls(
            states=tuple(_state(each) for each in states if each),
            task=one("task"),
            queue=one("queue"),
            worker_id=int(worker) if worker else None,
            schedule=one("schedule"),
            arguments=tuple(argument_of(each) for each in given.get("arg", ())),
            error=one("error"),
            older_than=age("older_than"),
            newer_than=age("newer_than"),
        )

    def to_query(self) -> list[tuple[str, str]]:
        """Names and texts of which `parse` makes this filter again; for links."""
        pairs: list[tuple[str, str | None]] = [
            *(("state", each.value) for each in self.states),
            ("task", self.task),
            ("queue", self.queue),
            ("worker", None if self.worker_id is None else str(self.worker_id)),
            ("schedule", self.schedule),
            *(("arg", argument_text(path, value)) for path, value in self.arguments),
            ("error", self.error),
            ("older_than", None if self.older_than is None else age_text(self.older_than)),
            ("newer_than", None if self.newer_than is None else age_text(self.newer_than)),
        ]
        return [(name, text) for name, text in pairs if text is not None]


def _gathered(texts: Any) -> dict[str, list[str]]:
    pairs = texts.items() if isinstance(texts, Mapping) else texts
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name not in NAMES:
            near = difflib.get_close_matches(str(name), NAMES, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InvalidFilter("filter", name, f"one of {', '.join(NAMES)}{hint}")
        several = [value] if isinstance(value, str) else list(value or ())
        given.setdefault(name, []).extend(text for text in several if text)
    for name, several in given.items():
        if len(several) > 1 and name not in MANY:
            raise InvalidFilter(name, several, "one of it")
    return {name: several for name, several in given.items() if several}


def _state(value: Any) -> JobState:
    try:
        return JobState(value)
    except ValueError:
        raise InvalidFilter("state", value, f"one of {_STATES}") from None


def _states(states: Any) -> tuple[JobState, ...]:
    if isinstance(states, str) or not isinstance(states, Iterable):
        raise InvalidFilter("states", states, f"several, such as ('failed',), out of {_STATES}")
    return tuple(dict.fromkeys(_state(each) for each in states))


def _check_text(name: str, value: Any) -> None:
    if value is not None and not (
        isinstance(value, str) and 0 < len(value) <= _LONGEST_TEXT and is_storable(value)
    ):
        raise InvalidFilter(name, value, f"a text of 1 to {_LONGEST_TEXT:,} characters, without NUL")


def _check_arguments(arguments: Any) -> None:
    expected = "paths and JSON values, such as ((('order', 'id'), 7),)"
    if not isinstance(arguments, tuple):
        raise InvalidFilter("arguments", arguments, expected)
    if len(arguments) > _MOST_ARGUMENTS:
        raise InvalidFilter("arg", len(arguments), f"at most {_MOST_ARGUMENTS} of them")
    for each in arguments:
        if not (isinstance(each, tuple) and len(each) == 2 and isinstance(each[0], tuple) and each[0]):
            raise InvalidFilter("arguments", each, expected)
        path, value = each
        for name in path:
            if not isinstance(name, str):
                raise InvalidFilter("arguments", each, expected)
            _check_text("arg", name)
        try:
            text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        except (TypeError, ValueError, RecursionError):
            raise InvalidFilter("arg", value, "a value of JSON") from None
        if len(text) > 10 * _LONGEST_TEXT or not is_storable(text):
            raise InvalidFilter("arg", value, f"at most {10 * _LONGEST_TEXT:,} characters, without NUL")


def _check_age(name: str, age: Any) -> None:
    if age is not None and not (isinstance(age, dt.timedelta) and dt.timedelta(0) <= age <= LONGEST_AGE):
        raise InvalidFilter(name, age, "a timedelta from zero to 100 years, e.g. timedelta(hours=2)")


ALL: Final = JobFilter()
"""Any job."""
