"""The mapped objects that a job was given, until their primary keys are in its row.

They stay with the job object: an object that is pending has no key before its INSERT, which may come after
the job's own, and one that was flushed loses it with a rollback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.orm.attributes import set_committed_value

from sqla_jobs.arguments.faithful import JSON, Refused
from sqla_jobs.arguments.objects import Reference, Saved, Unknown
from sqla_jobs.models import JobMixin

_GIVEN: Final = "_sqla_jobs_given"


class NotFlushedYet:
    """Stands in a job's arguments for objects without a primary key; nothing can store it."""

    def __init__(self, reference: Reference) -> None:
        self._name = reference.codec.cls.__qualname__

    def __repr__(self) -> str:
        return f"<{self._name}, not flushed yet>"


class Given:
    """The objects among the arguments of one job.

    Attributes:
        task: the task's name, for messages.
        inserted: where the flush that is under way has inserted the job.
    """

    def __init__(self, task: str, references: Mapping[str, Reference]) -> None:
        self.task = task
        self.inserted: Connection | None = None
        self._references = references

    @property
    def is_known(self) -> bool:
        """Whether all of them have their keys."""
        return not any(type(each) is NotFlushedYet for each in self.known().values())

    def known(self) -> dict[str, Any]:
        """What stands for them in the job's arguments, by name: their keys, or `NotFlushedYet`."""
        return self._stored(None, NotFlushedYet)

    def drafted(self) -> dict[str, Any]:
        """What is inserted for them: their keys, or null until the flush is over."""
        return self._stored(None, lambda _: None)

    def resolved(self, saved: Saved | None = None) -> dict[str, JSON]:
        """Their keys.

        Raises:
            ArgumentsNotStorable: one of them has none, or is deleted.
        """
        return self._stored(saved, None)

    def _stored(self, saved: Saved | None, instead: Any) -> dict[str, Any]:
        stored = {}
        for name, reference in self._references.items():
            try:
                stored[name] = reference.stored(saved)
            except Unknown as unknown:
                if instead is None:
                    raise unknown.error(self.task, name) from None
                stored[name] = instead(reference)
            except Refused as refused:
                raise refused.error(self.task, name) from refused.__cause__
        return stored


def keep(job: JobMixin, given: Given) -> None:
    """Let a job know which objects it was given; no column, and gone with the object."""
    vars(job)[_GIVEN] = given


def given_to(job: JobMixin) -> Given | None:
    """The objects that a job was given; None: there are none."""
    given: Given | None = vars(job).get(_GIVEN)
    return given


def put(job: JobMixin, stored: Mapping[str, Any]) -> bool:
    """Set these in a job's arguments; whether that changes them."""
    before = vars(job).get("arguments", {})
    after = {**before, **{name: value for name, value in stored.items() if name in before}}
    if after == before:
        return False
    set_committed_value(job, "arguments", after)
    return True
