"""The verb for jobs that finished long ago."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.lifecycle.cancels import expire
from sqla_jobs.lifecycle.removals import Removal
from sqla_jobs.lifecycle.sent import Model, execute
from sqla_jobs.outcome import JobState
from sqla_jobs.statements import PRUNE_BATCH

log = logging.getLogger("sqla_jobs")


def prune(
    session: Session,
    model: Model,
    ages: Mapping[JobState, dt.timedelta],
    *,
    limit: int | None = None,
    now: dt.datetime | None = None,
) -> Iterator[int]:
    """Delete finished jobs, the oldest first; gives the number of each batch, after which one may commit.

    What is locked is passed over. So is what foreign keys refuse: it is logged at the end, how many and from
    which tables. Each row is looked at once, so it comes to an end whatever is refused.

    Parameters:
        ages: how long jobs are kept, by their final state.
        limit: at most so many are deleted; None: all.
    """
    left = limit
    pruning = _Pruning(session, model, now)
    for state, age in ages.items():
        walk = _Walk(state, age)
        while left is None or left > 0:
            found = pruning.find(walk, PRUNE_BATCH if left is None else min(left, PRUNE_BATCH))
            if not found:
                break
            gone = pruning.delete(walk, found)
            expire(session, model, gone)
            walk.pass_over(set(found) - gone)
            left = None if left is None else left - len(gone)
            yield len(gone)
    if left is None or left > 0:
        pruning.tell()


def check_age(name: str, age: object) -> dt.timedelta:
    """``age`` if a job can have been finished for so long.

    Raises:
        InvalidOption: it is no timedelta, or below zero.
    """
    if not isinstance(age, dt.timedelta):
        raise InvalidOption(f"{name} {shown(age)}; expected a timedelta, e.g. timedelta(days=7)")
    if age < dt.timedelta(0):
        raise InvalidOption(f"{name} {age}; expected zero or more")
    return age


class _Walk:
    """How far it has come among the jobs of a state."""

    def __init__(self, state: JobState, age: dt.timedelta) -> None:
        self.state, self.age = state, age
        self.reached: dt.datetime | None = None
        self._last: dict[int, dt.datetime] = {}
        self.passed: list[int] = []
        """Jobs that finished at the moment it has reached, and are still there."""

    def found(self, rows: Any) -> list[int]:
        """Note where the next batch begins; returns the ids of this one."""
        self._last = {row.id: row.finished_at for row in rows}
        return list(self._last)

    def pass_over(self, ids: set[int]) -> None:
        """Do not find these again."""
        reached = max(self._last.values())
        if reached != self.reached:
            self.reached, self.passed = reached, []
        self.passed += [each for each in ids if self._last[each] == reached]


class _Pruning:
    def __init__(self, session: Session, model: Model, now: dt.datetime | None) -> None:
        self._session = session
        self._model = model
        self._now = now
        self._removal = Removal(session, model)

    def find(self, walk: _Walk, limit: int) -> list[int]:
        """The next jobs to delete."""
        return walk.found(
            execute(
                self._session,
                self._model,
                statements.prunable(self._model, walk.state.value, limit),
                older_than=walk.age,
                p_from=walk.reached,
                passed=walk.passed,
                now=self._now,
            )
        )

    def delete(self, walk: _Walk, ids: list[int]) -> set[int]:
        """Delete those of the jobs that may be; returns which."""
        statement = statements.prune(self._model, walk.state.value)

        def prune(ids: list[int]) -> Iterable[int]:
            given: dict[str, Any] = {"ids": ids, "older_than": walk.age, "now": self._now}
            gone: Iterable[int] = execute(self._session, self._model, statement, **given).scalars()
            return gone

        return self._removal.remove(ids, prune)

    def tell(self) -> None:
        """Log what was refused."""
        if refused := +self._removal.refused:
            told = ", ".join(f"{number:,} by {table}" for table, number in refused.items())
            log.warning(
                "%s finished job(s) cannot be pruned, since rows refer to them: %s; a foreign key with "
                "ON DELETE SET NULL or CASCADE would let them go", f"{refused.total():,}", told,
                extra={"refused": dict(refused)},
            )  # fmt: skip
