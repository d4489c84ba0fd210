"""All checks, each in a transaction of its own, which is rolled back."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from sqla_jobs.doctor import (
    connections,
    definitions,
    horizon,
    people,
    privileges,
    schedules,
    schema,
    settings,
    vacuum,
    work,
)
from sqla_jobs.doctor.finding import Finding, Severity
from sqla_jobs.statements import Model, examined
from sqla_jobs.tasks import Registry

log = logging.getLogger("sqla_jobs")

Check = Callable[[Connection, Model, Registry[Any] | None, "dt.datetime | None"], list[Finding]]
"""A look at one thing: on a connection, in the schema of a job model, for an application if one is named.

The last argument is the time that it is taken to be; None: the clock's, this machine's or the database's.
"""

FIRST: Final[tuple[Check, ...]] = (privileges.check_privileges, schema.check_revision)
"""Those without whose consent the others could say nothing but that they have failed."""
OF_SERVER: Final[tuple[Check, ...]] = (
    privileges.check_sight,
    settings.check_writable,
    settings.check_durability,
    settings.check_autovacuum,
    settings.check_clock,
    horizon.check_transactions,
    horizon.check_prepared,
    horizon.check_slots,
    connections.check_pooler,
)
OF_TABLES: Final[tuple[Check, ...]] = (
    definitions.check_definitions,
    definitions.check_invalid_indexes,
    definitions.check_own_columns,
    vacuum.check_parameters,
    vacuum.check_dead_rows,
    vacuum.check_index_sizes,
    connections.check_capacity,
    connections.check_own_pool,
    people.check_workers,
    people.check_dead_workers,
    people.check_running,
    work.check_tasks,
    work.check_queues,
    work.check_crashes,
    schedules.check_schedules,
)
CHECKS: Final = (*FIRST, *OF_SERVER, *OF_TABLES)

STATEMENT: Final = dt.timedelta(seconds=2)
"""How long a statement of a check may take."""
LOCK: Final = dt.timedelta(milliseconds=500)
"""How long it may wait for a lock; whoever migrates has the tables to himself."""

_TIMED_OUT: Final = ("57014", "55P03")


@dataclass(frozen=True)
class Report:
    """What all checks have found, errors first."""

    findings: Sequence[Finding]
    checks: int
    """How many have looked; without tables, or without the right to read them, fewer."""

    @property
    def worst(self) -> Severity | None:
        """The severity of the first finding; None: there are none."""
        return self.findings[0].severity if self.findings else None


def examine(
    engine: Engine, model: Model, registry: Registry[Any] | None = None, *, now: dt.datetime | None = None
) -> Report:
    """Look at a queue and its database. Nothing is written that stays.

    Parameters:
        model: whose job table is in the schema to look into.
        registry: the application's Jobs, which knows its tasks and its pool; None: what workers say is all.

    Raises:
        OperationalError: the database cannot be reached, or is lost meanwhile.
    """
    with engine.connect() as connection:
        # Not the engine's own level: in AUTOCOMMIT no limit and no copy of a table would be of one look only.
        connection.execution_options(isolation_level="READ COMMITTED")
        findings = [found for check in FIRST for found in look(check, connection, model, registry, now)]
        others = (*OF_SERVER, *OF_TABLES) if _is_readable(findings) else OF_SERVER
        for check in others:
            findings += look(check, connection, model, registry, now)
    return Report(sorted(findings, key=lambda found: found.rank), len(FIRST) + len(others))


def _is_readable(findings: Sequence[Finding]) -> bool:
    """Whether what the first checks have found leaves the tables as this version can read them."""
    for found in findings:
        reads = found.code == "privilege-missing" and not {"SELECT", "USAGE"} & {*found.data["missing"]}
        if found.code != "revision-ahead" and not reads:
            return False
    return True


def look(
    check: Check,
    connection: Connection,
    model: Model,
    registry: Registry[Any] | None,
    now: dt.datetime | None,
) -> list[Finding]:
    """What a check finds; if it cannot look, that."""
    limits = {"statement": _milliseconds(STATEMENT), "lock": _milliseconds(LOCK)}
    try:
        with connection.begin() as transaction:
            try:
                connection.execute(examined.limits(), limits)
                return check(connection, model, registry, now)
            finally:
                # And the driver prepares nothing by it, which a pooler could not follow: it counts anew.
                transaction.rollback()
    except DBAPIError as error:
        if error.connection_invalidated:
            raise
        return [_failed(check, error.orig)]
    except Exception as error:  # a row that no code of ours has written: the other checks go on
        log.debug("%s failed", check.__name__, exc_info=True)
        return [_failed(check, error)]


def _failed(check: Check, error: BaseException | None) -> Finding:
    name = check.__name__.removeprefix("check_").replace("_", " ")
    state = getattr(error, "sqlstate", None)
    told = (str(error).strip().splitlines() or [type(error).__name__])[0]
    data = {"check": name, "sqlstate": state, "error": type(error).__name__}
    if state in _TIMED_OUT:
        text = f"the check of {name} has taken too long and was given up: {told}"
        cure = "run it again when the database is less busy, and no migration is under way"
        return Finding("check-timeout", "warning", text, cure, data)
    text = f"the check of {name} has failed: {type(error).__name__}: {told}"
    return Finding("check-failed", "warning", text, "mend what it says; the other checks have gone on", data)


def _milliseconds(length: dt.timedelta) -> str:
    return f"{length.total_seconds() * 1000:.0f}ms"
