"""Jobs of tasks with a limit: `claim_counted`, which begins no more of them than may run."""

from __future__ import annotations

import datetime as dt
import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlalchemy import Connection
from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.lifecycle.jobs import Claimed, Mark, behind, claimed
from sqla_jobs.lifecycle.sent import Model, execute, fetch, selection
from sqla_jobs.statements import Filter

_KEY: Final = len(statements.CLAIMED)
_SEED: Final = _KEY + 1
"""Where in a row of `statements.choose` they are."""

_ANY: Final = 2**31 - 1


class Limited(NamedTuple):
    """What a registry says of a task with a limit."""

    number: int
    """How many of its jobs, of each key, may run at once."""
    key: Callable[[Mapping[str, Any]], str | None]
    """What a job with these arguments is counted by."""


@dataclass
class Counted:
    """What `claim_counted` has found."""

    jobs: list[Claimed] = field(default_factory=list)
    keys: dict[int, str] = field(default_factory=dict)
    """By whose limits those of them are counted that have one, by their ids."""
    full: set[str] = field(default_factory=set)
    """The keys of jobs for which there was no room."""
    busy: set[str] = field(default_factory=set)
    """The keys of jobs of which somebody else is about to begin one."""
    chosen: int = 0
    """How many jobs were looked at."""


def claim_counted(
    session: Session | Connection,
    model: Model,
    worker_id: int,
    queues: Sequence[str] | None,
    tasks: Mapping[str, Limited],
    full: Collection[str] = (),
    *,
    limit: int = 1,
    innocent: bool = False,
    mark: Mark | None = None,
    only: Filter | None = None,
    now: dt.datetime | None = None,
) -> Counted:
    """Make those of the next ``limit`` jobs ``running`` for this worker that may be so, of whatever task.

    Several statements, READ COMMITTED; the caller commits at once. It never waits.

    Parameters:
        tasks: those with a limit, by name. Jobs of any other are begun, though they may have a key.
        full: keys whose jobs are passed over.
        innocent, mark, only: as for `claim`.
    """
    chosen = selection(queues)
    where = {**chosen, **behind(mark), "p_worker_id": worker_id, "full": list(full)}
    statement = statements.choose(model, not chosen, innocent, limit, mark is not None, only)
    rows = fetch(session, model, statement, now=now, **where)
    found = Counted(chosen=len(rows))
    if not rows:
        return found
    jobs = [claimed(row) for row in rows]
    keys = {
        job.id: _key(tasks[job.task], job.arguments) if row[_KEY] is None else row[_KEY]
        for job, row in zip(jobs, rows, strict=True)
        if job.task in tasks
    }
    if any(job.id in keys and row[_KEY] is None for job, row in zip(jobs, rows, strict=True)):
        statement = statements.without_key(model, not chosen, innocent, mark is not None, only)
        _give_keys(session, model, statement, tasks, where)
    got = _try(session, model, sorted(set(keys.values())), rows[0][_SEED])
    found.busy = set(keys.values()) - got
    begun = [job for job in jobs if job.id not in keys or keys[job.id] in got]
    found.jobs = _begin(session, model, worker_id, begun, keys, tasks, now)
    ids = {job.id for job in found.jobs}
    found.keys = {job: key for job, key in keys.items() if job in ids}
    found.full = {keys[job.id] for job in begun if job.id in keys and job.id not in ids}
    if found.full:
        found.full |= _all_full(session, model, tasks)
    return found


def limit_key(limited: Limited, text: str) -> str:
    """What a job whose arguments are this JSON is counted by; whatever it is, there is a key."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):  # such a job fails when it runs
        arguments = {}
    return _key(limited, arguments)


def _key(limited: Limited, arguments: Mapping[str, Any]) -> str:
    try:
        key = limited.key(arguments)
    except (ValueError, RecursionError):  # JSON that Python reads, and does not write again
        key = limited.key({})
    assert key is not None
    return key


def _give_keys(
    session: Session | Connection,
    model: Model,
    statement: Any,
    tasks: Mapping[str, Limited],
    where: Mapping[str, Any],
) -> None:
    """Write the keys of jobs that were enqueued where nobody knew of a limit, for them to be passed over."""
    rows = execute(session, model, statement, limited=list(tasks), **where)
    keys = {row.id: limit_key(tasks[row.task], row.arguments) for row in rows}
    if keys:
        execute(session, model, statements.set_keys(model), p_id=list(keys), p_key=list(keys.values()))


def _try(session: Session | Connection, model: Model, keys: list[str], seed: int) -> set[str]:
    if not keys:
        return set()
    return {key for key, got in fetch(session, model, statements.try_keys(), p_key=keys, p_seed=seed) if got}


def _begin(
    session: Session | Connection,
    model: Model,
    worker_id: int,
    jobs: Sequence[Claimed],
    keys: Mapping[int, str],
    tasks: Mapping[str, Limited],
    now: dt.datetime | None,
) -> list[Claimed]:
    if not jobs:
        return []
    ranks: Counter[str | None] = Counter()
    for_each: list[tuple[int, str | None, int, int]] = []
    for job in jobs:
        key = keys.get(job.id)
        ranks[key] += 1
        for_each.append((job.id, key, _ANY if key is None else tasks[job.task].number, ranks[key]))
    ids, of_keys, numbers, places = (list(column) for column in zip(*for_each, strict=True))
    rows = fetch(
        session, model, statements.begin(model),
        p_id=ids, p_key=of_keys, p_number=numbers, p_rank=places, p_worker_id=worker_id, now=now,
    )  # fmt: skip
    return [claimed(row) for row in rows]


def _all_full(session: Session | Connection, model: Model, tasks: Mapping[str, Limited]) -> set[str]:
    """All keys that are full: where one is, the next jobs may be of others, and be found so one by one."""
    return {
        key
        for task, key, number in execute(session, model, statements.at_work(model))
        if task in tasks and number >= tasks[task].number
    }
