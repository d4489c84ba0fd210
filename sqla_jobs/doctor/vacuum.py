"""How the tables are vacuumed: storage parameters, dead rows, indexes out of proportion."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import Finding
from sqla_jobs.doctor.schema import tables_there
from sqla_jobs.doctor.settings import settings_of
from sqla_jobs.statements import Model, examined
from sqla_jobs.tasks import Registry

LATEST: Final = 0.1
"""A scale factor; a claim beside 1,000,000 kept jobs reads some 300 pages by then. Ours is 0.02."""
DEAD: Final = 10_000
"""Dead rows that are worth a word, if they are also twice as many as autovacuum was to wait for."""
BYTES: Final = 8 * 1024 * 1024
"""Of an index; a smaller one is none of anybody's troubles."""
ENTRY: Final = 256
"""Bytes that an entry of an index may take: the longest queue's name, and twice that for pages half full."""


def check_parameters(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Whether autovacuum comes to the tables at all, and to the job table often enough."""
    settings = settings_of(connection)
    findings = []
    for row in _tables(connection, model):
        given = row.parameters or {}
        if given.get("autovacuum_enabled", "true") in ("false", "off", "no", "0"):
            text = f"autovacuum is switched off for {row.qualified}"
            cure = f"ALTER TABLE {row.qualified} RESET (autovacuum_enabled);"
            findings.append(Finding("autovacuum-off", "error", text, cure, {"table": row.qualified}))
        factor = _scale(given, settings)
        if row.name == "sqla_jobs" and factor > LATEST:
            text = (
                f"autovacuum comes to {row.qualified} when {factor:.0%} of its rows are dead: each claim "
                "reads through what jobs that are done have left in its index until then"
            )
            cure = (
                f"ALTER TABLE {row.qualified} SET (autovacuum_vacuum_scale_factor = 0.02, "
                "autovacuum_analyze_scale_factor = 0.02);"
            )
            findings.append(
                Finding("autovacuum-late", "warning", text, cure, {"table": row.qualified, "factor": factor})
            )
    return findings


def check_dead_rows(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Tables with more than twice as many dead rows as autovacuum was to wait for."""
    settings = settings_of(connection)
    findings = []
    for row in _tables(connection, model):
        given = row.parameters or {}
        threshold = float(given.get("autovacuum_vacuum_threshold", settings["autovacuum_vacuum_threshold"]))
        trigger = threshold + _scale(given, settings) * max(row.estimated, 0)
        if row.dead is None or row.dead <= max(DEAD, 2 * trigger):
            continue
        when = "never yet" if row.vacuumed_at is None else row.vacuumed_at.isoformat(" ", "seconds")
        text = (
            f"{row.qualified} has {row.dead:,} dead rows beside {row.live:,} others (last vacuumed: {when}); "
            f"autovacuum was to come at {trigger:,.0f}. If they stay after this, something open keeps them"
        )
        data = {"table": row.qualified, "dead": row.dead, "live": row.live, "vacuumed_at": when}
        findings.append(Finding("dead-rows", "warning", text, f"VACUUM (ANALYZE) {row.qualified};", data))
    return findings


def check_index_sizes(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Indexes that are many times as large as what can be in them."""
    oids = [row.oid for row in tables_there(connection, model)]
    findings = []
    for row in connection.execute(examined.rows_and_indexes(), {"oids": oids}):
        if row.entries is None or row.bytes <= max(BYTES, row.entries * ENTRY):
            continue
        text = f"index {row.qualified} has {row.bytes / 2**20:,.0f} MB for {row.entries:,.0f} entries at most"
        cure = f"REINDEX INDEX CONCURRENTLY {row.qualified};"
        data = {"index": row.qualified, "bytes": row.bytes, "entries": row.entries}
        findings.append(Finding("index-bloat", "warning", text, cure, data))
    return findings


def _tables(connection: Connection, model: Model) -> list[Any]:
    oids = [row.oid for row in tables_there(connection, model)]
    return list(connection.execute(examined.vacuum_of(), {"oids": oids}))


def _scale(given: Mapping[str, str], settings: Mapping[str, str]) -> float:
    name = "autovacuum_vacuum_scale_factor"
    return float(given.get(name, settings[name]))
