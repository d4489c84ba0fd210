"""Which revision the tables are at, as the database says it."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Connection, Table, event
from sqlalchemy.schema import DDL

SCHEMA_VERSION: Final = "0004"
"""The revision of ``migrations/`` that these models are the result of."""


def marker(schema: str | None) -> str:
    """The quoted name of the function whose result says which revision of the tables is there.

    A function, because Alembic does not compare functions: a table it would offer to drop.
    """
    name = "sqla_jobs_schema_version"
    # By hand: a dialect's quoting doubles percent signs for a driver's sake.
    return '"{}".{}'.format(schema.replace('"', '""'), name) if schema else name


def marker_ddl(schema: str | None, version: str | None) -> str:
    """The DDL that makes the marker say ``version``; None: that removes it."""
    if version is None:
        return f"DROP FUNCTION IF EXISTS {marker(schema)}()"
    return (
        f"CREATE OR REPLACE FUNCTION {marker(schema)}() RETURNS text "
        f"LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$SELECT '{version}'::text$$"
    )


def leave_marker(workers: Table) -> None:
    """Let ``create_all`` and ``drop_all`` of this table, or of a copy of it, make and remove the marker."""
    # On the workers' table, not the jobs': an application's own create_all() makes only the latter,
    # and a worker that starts on half a schema should say so rather than stumble over it.
    event.listen(workers, "after_create", _mark, propagate=True)
    event.listen(workers, "after_drop", _unmark, propagate=True)


def _mark(workers: Table, connection: Connection, **_: object) -> None:
    _execute(connection, marker_ddl(workers.schema, SCHEMA_VERSION))


def _unmark(workers: Table, connection: Connection, **_: object) -> None:
    _execute(connection, marker_ddl(workers.schema, None))


def _execute(connection: Connection, sql: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(DDL(sql.replace("%", "%%")))  # type: ignore[no-untyped-call]
