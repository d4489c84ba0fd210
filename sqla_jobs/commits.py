"""What a transaction has enqueued, told once it is committed.

Counted where a job is inserted, whichever way; kept with the Session's transaction or savepoint that it was
inserted in, and forgotten with that. Nothing is counted while nobody wants to know.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import event
from sqlalchemy.orm import Session, SessionTransaction

from sqla_jobs.models import DEFAULT_QUEUE, JobMixin

Told = Callable[[Mapping[tuple[str, str], int]], object]
"""Called with how many jobs were enqueued, by task and queue."""

log = logging.getLogger("sqla_jobs")

_watchers: dict[type[JobMixin], list[Told]] = {}
_Counts = Counter[tuple[type[JobMixin], str, str]]
_pending: WeakKeyDictionary[SessionTransaction, _Counts] = WeakKeyDictionary()


def watch(model: type[JobMixin], tell: Told) -> Callable[[], None]:
    """Tell of the jobs of a model that this process enqueues, after each commit; returns what ends it."""
    _listen()
    watchers = _watchers.setdefault(model, [])
    watchers.append(tell)

    def end() -> None:
        if tell in watchers:
            watchers.remove(tell)
        if not watchers:
            _watchers.pop(model, None)

    return end


def enqueued(session: Session, jobs: Iterable[JobMixin]) -> None:
    """These were inserted in the Session's transaction."""
    if not _watchers:
        return
    begun = session.get_nested_transaction() or session.get_transaction()
    if begun is None:
        return
    counts = _pending.setdefault(begun, Counter())
    for job in jobs:
        if type(job) in _watchers:
            values = vars(job)
            counts[type(job), _text(values.get("task"), ""), _text(values.get("queue"), DEFAULT_QUEUE)] += 1


def _text(value: object, default: str) -> str:
    if value is None:
        return default
    # What the database computes is not known here, and is no key.
    return value if isinstance(value, str) else "other"


def keep(savepoint: SessionTransaction) -> None:
    """What was enqueued in a savepoint is part of what it stands in: it is released."""
    if not _watchers:
        return
    counts = _pending.pop(savepoint, None)
    if counts is not None and savepoint.parent is not None:
        _pending.setdefault(savepoint.parent, Counter()).update(counts)


@cache
def _listen() -> None:
    # Only where somebody wants to know: every commit of every Session passes here from now on.
    event.listen(Session, "after_commit", _after_commit)


def _after_commit(session: Session) -> None:
    nested = session.get_nested_transaction()
    if nested is not None:
        keep(nested)
        return
    root = session.get_transaction()
    counts = None if root is None else _pending.pop(root, None)
    if counts:
        _tell(counts)


def _tell(counts: _Counts) -> None:
    by_model: dict[Any, dict[tuple[str, str], int]] = {}
    for (model, task, queue), number in counts.items():
        by_model.setdefault(model, {})[task, queue] = number
    for model, numbers in by_model.items():
        for tell in tuple(_watchers.get(model, ())):
            try:
                tell(numbers)
            except Exception:
                log.exception("jobs that were enqueued could not be counted; they are committed")
