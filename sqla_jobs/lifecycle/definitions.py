"""Schedules as the code defines them, written to their rows; never over what is newer, or was edited."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal

from sqlalchemy.orm import Session

from sqla_jobs import statements, wakeup
from sqla_jobs.cron import Cron, Every, Rule
from sqla_jobs.lifecycle.sent import Model, execute

OFF: Final = "off"
"""The fingerprint of a definition that switches its schedule off: there is no row that could hold another."""

_REMEMBERED: Final = 50
"""How many definitions that were superseded a row knows of."""

_Act = Literal["add", "change", "remove", "keep", "edited", "newer"]


@dataclass(frozen=True)
class Definition:
    """A schedule as the code has it; checked by who makes it.

    ``queue``, ``priority``: None: those of the task.
    """

    name: str
    task: str
    rule: Rule | None
    """None: it is switched off, and has no row."""
    package: str
    """Of the task's function: whose schedule it is."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    timeout: dt.timedelta | None = None
    jitter: dt.timedelta | None = None
    catch_up: str = "one"
    overlap: str = "allow"
    enabled: bool = True

    def columns(self) -> dict[str, Any]:
        """The values of the row that follow from it, but for ``enabled``."""
        cron = self.rule if isinstance(self.rule, Cron) else None
        return {
            "task": self.task,
            "arguments": dict(self.arguments),
            "queue": self.queue,
            "priority": self.priority,
            "max_attempts": self.max_attempts,
            "timeout": self.timeout,
            "cron": cron and cron.line,
            "timezone": cron.timezone if cron else "UTC",
            "every": self.rule.interval if isinstance(self.rule, Every) else None,
            "jitter": self.jitter,
            "catch_up": self.catch_up,
            "overlap": self.overlap,
        }

    @cached_property
    def values(self) -> dict[str, Any]:
        """`columns` as JSON, which has its spans of time in seconds."""
        return {
            key: value.total_seconds() if isinstance(value, dt.timedelta) else value
            for key, value in self.columns().items()
        }

    @cached_property
    def fingerprint(self) -> str:
        """The same for definitions that say the same, in any process."""
        if self.rule is None:
            return OFF
        text = json.dumps([self.values, self.enabled], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Synced:
    """What became of the schedules of the code, by their names."""

    added: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    """Switched off in the code: ``every(timedelta(0))``."""
    disabled: tuple[str, ...] = ()
    """Not in the code any more."""
    edited: tuple[str, ...] = ()
    """Left alone: made or edited as data."""
    newer: tuple[str, ...] = ()
    """Left alone: a living worker has a newer definition."""


def sync(
    session: Session,
    model: Model,
    definitions: Iterable[Definition],
    *,
    force: bool = False,
    waited: Collection[str] = (),
    now: dt.datetime | None = None,
) -> Synced:
    """Write definitions to their rows, in the caller's transaction; any number of processes may at once.

    Where all is as it was, this is one SELECT, which locks nothing. See `Jobs.sync_schedules` for the rules.

    Parameters:
        waited: the names that were ``newer`` when this process asked before. One that has no row now had been
            switched off, and nothing but this knows it. Who asks again waits for no lock: what somebody has
            locked is ``newer`` still.
    """
    given = {each.name: each for each in sorted(definitions, key=lambda each: each.name)}
    if not given:
        return Synced()
    acts = _decide(session, model, given, lock=False, force=force, now=now)
    if any(act == "add" for act in acts.values()):
        clock: dt.datetime = execute(session, model, statements.clock(), now=now).scalar_one()
        missing = [name for name, act in acts.items() if act == "add"]
        off = {name for name, each in _held(session, model, missing) if each == OFF}.union(waited)
        for name in missing:
            if not _add(session, model, given[name], clock, superseded=[OFF] if name in off else []):
                acts[name] = "change"  # somebody has just made it: let us see which
    # What was read without a lock may have been written since. Always after the inserts, and by name, so that
    # two who sync never wait for each other.
    contested = {name: given[name] for name, act in acts.items() if act in ("change", "remove")}
    if contested:
        acts |= _decide(session, model, contested, lock=True, wait=not waited, force=force, now=now)
    wanted = {act: tuple(name for name, each in acts.items() if each == act) for act in _ACTS}
    synced = Synced(
        added=wanted["add"],
        changed=wanted["change"],
        removed=wanted["remove"],
        edited=wanted["edited"],
        newer=wanted["newer"],
    )
    if synced.added or synced.changed:
        wakeup.announce(session, model, [wakeup.SCHEDULED])
    return synced


_ACTS: Final[tuple[_Act, ...]] = ("add", "change", "remove", "edited", "newer")


def _decide(
    session: Session,
    model: Model,
    given: Mapping[str, Definition],
    *,
    lock: bool,
    wait: bool = True,
    force: bool,
    now: dt.datetime | None,
) -> dict[str, _Act]:
    """What follows for each definition; with ``lock`` it is done."""
    found = execute(
        session, model, statements.standing_schedules(model, lock, wait), names=list(given), now=now
    )
    rows = {row.name: row for row in found}
    asked = [
        name
        for name, each in given.items()
        if not force and (name not in rows or _is_superseded(each, rows[name]))
    ]
    held = _held(session, model, asked) if asked else set()
    acts: dict[str, _Act] = {}
    for name, each in given.items():
        acts[name] = _act(each, rows.get(name), held, force)
        if not lock:
            continue
        if acts[name] == "add":
            # Removed in this very moment, and whoever syncs next makes it again; or locked.
            acts[name] = "keep" if wait else "newer"
        elif not wait and name not in rows:
            acts[name] = "newer"  # to be removed, and locked
        elif acts[name] == "change":
            _change(session, model, each, rows[name], force=force, now=now)
    if lock:
        gone = [rows[name].id for name, act in acts.items() if act == "remove"]
        if gone:
            execute(session, model, statements.undefine(model), ids=gone)
    return acts


def _act(definition: Definition, row: Any, held: Collection[tuple[str, str]], force: bool) -> _Act:
    off = definition.rule is None
    if row is None:
        # An older process would bring back what a newer one has switched off.
        newer = (definition.name, OFF) in held
        return "keep" if off else "newer" if newer else "add"
    if not force and (row.definition is None or row.edited):
        return "edited"
    kept = row.definition or {}
    if not force and (definition.name, kept.get("fingerprint")) in held and _is_superseded(definition, row):
        return "newer"
    if off:
        return "remove"
    same = kept.get("fingerprint") == definition.fingerprint and not kept.get("absent")
    as_written = same and not row.edited and (not force or row.enabled == definition.enabled)
    return "keep" if as_written else "change"


def _is_superseded(definition: Definition, row: Any) -> bool:
    return definition.fingerprint in (row.definition or {}).get("superseded", ())


def _held(session: Session, model: Model, names: Sequence[str]) -> set[tuple[str, str]]:
    """Which definitions living workers have: (name, fingerprint)."""
    found = execute(session, model, statements.asserted(model), names=list(names))
    return {(row.key, row.value) for row in found}


def _add(
    session: Session, model: Model, definition: Definition, clock: dt.datetime, superseded: Sequence[str]
) -> bool:
    assert definition.rule is not None
    values = {
        "name": definition.name,
        **definition.columns(),
        "enabled": definition.enabled,
        "definition": _written(definition, superseded),
        "next_run_at": definition.rule.next(clock),
    }
    return execute(session, model, statements.define(model), **_named(values)).first() is not None


def _change(
    session: Session,
    model: Model,
    definition: Definition,
    row: Any,
    *,
    force: bool,
    now: dt.datetime | None,
) -> None:
    assert definition.rule is not None
    kept = row.definition or {}
    columns = definition.columns()
    every = None if columns["every"] is None else columns["every"].total_seconds()
    rule_changed = (row.cron, row.timezone, row.every) != (columns["cron"], columns["timezone"], every)
    # A switch of its own: who has thrown it by hand keeps it when the code says something new.
    thrown = not kept.get("absent") and row.enabled != kept.get("enabled", row.enabled)
    enabled = row.enabled if thrown and not force else definition.enabled
    next_run_at = row.next_run_at
    came_back = enabled and not row.enabled
    if rule_changed or next_run_at is None or (came_back and next_run_at <= row.now):
        next_run_at = definition.rule.next(row.now)
    superseded = [each for each in kept.get("superseded", ()) if each != definition.fingerprint]
    if kept.get("fingerprint") not in (None, definition.fingerprint):
        superseded.append(kept["fingerprint"])
    values = {
        **columns,
        "enabled": enabled,
        "definition": _written(definition, superseded[-_REMEMBERED:]),
        "next_run_at": next_run_at,
    }
    execute(session, model, statements.redefine(model), p_id=row.id, now=now, **_named(values))


def _written(definition: Definition, superseded: Sequence[str]) -> dict[str, Any]:
    """What a row keeps of its definition: to see an edit, an older one, and whose it is."""
    return {
        "fingerprint": definition.fingerprint,
        "values": definition.values,
        "enabled": definition.enabled,
        "package": definition.package,
        "superseded": list(superseded),
    }


def _named(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"p_{name}": value for name, value in values.items()}


def disable_absent(
    session: Session,
    model: Model,
    names: Collection[str],
    *,
    tasks: Collection[str],
    packages: Collection[str],
    now: dt.datetime | None = None,
) -> tuple[str, ...]:
    """Switch off the schedules that an application has defined and does not define any more; their names.

    Parameters:
        names: those that it defines.
        tasks, packages: whose schedules are its own.
    """
    found = execute(
        session,
        model,
        statements.disable_absent(model),
        names=list(names),
        tasks=list(tasks),
        packages=list(packages),
        now=now,
    )
    return tuple(sorted(found.scalars()))
