"""Columns, indexes, constraints and defaults, beside those that the library's models make.

Alembic's comparison sees neither the predicate of an index nor the text of a CHECK. The server writes both
down in words of its own, which differ from version to version, so it is asked twice: for the tables, and for
copies that the models have just made in the session's temporary schema, inside of a savepoint that is rolled
back. Only the library's own names are compared; what a job model of the application adds is Alembic's
business, unless it is not there at all.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from sqla_jobs import migrations
from sqla_jobs.doctor.finding import Finding, identifier, literal
from sqla_jobs.doctor.schema import tables_there
from sqla_jobs.statements import Model, examined, job_table
from sqla_jobs.statements.examined.catalog import COPIES
from sqla_jobs.tasks import Registry

REFUSED: Final = ("42501", "25006")
"""Not the privilege TEMP; a transaction, or a server, that only reads."""


@dataclass(frozen=True)
class Shape:
    """What a table consists of: rows of the catalog, by name."""

    columns: dict[str, Any]
    indexes: dict[str, Any]
    constraints: dict[str, Any]


def check_definitions(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Whether all that the library brings is there, and means what it is to mean."""
    there = tables_there(connection, model)
    try:
        wanted = _of_models(connection)
    except DBAPIError as error:
        state = getattr(error.orig, "sqlstate", None)
        if state not in REFUSED:
            raise
        return [_unread(connection, state)]
    found = _shapes(connection, {row.oid: row.name for row in there})
    return [
        finding for row in there for finding in _compared(row.qualified, wanted[row.name], found[row.name])
    ]


def _unread(connection: Connection, state: str) -> Finding:
    asked = connection.execute(examined.role()).one()
    why = "may make no temporary tables" if state == "42501" else "can only read here"
    return Finding(
        "definitions-unread",
        "warning",
        f"role {asked.role} {why}, so columns, indexes and CHECKs could not be compared with the models'",
        f"GRANT TEMP ON DATABASE {asked.database} TO {asked.role};"
        if state == "42501"
        else "run the doctor where it may write: it leaves nothing behind",
        {"sqlstate": state},
    )


def _of_models(connection: Connection) -> dict[str, Shape]:
    """The tables as the server understands the models."""
    with connection.begin_nested() as savepoint:
        options = {"schema_translate_map": {None: COPIES}}
        for ddl in examined.copies():
            connection.execute(ddl, execution_options=options)
        made = connection.execute(examined.copied(), {"names": list(examined.wanted_names())})
        shapes = _shapes(connection, {row.oid: row.name for row in made})
        savepoint.rollback()
    return shapes


def _shapes(connection: Connection, tables: dict[int, str]) -> dict[str, Shape]:
    shapes = {name: Shape({}, {}, {}) for name in tables.values()}
    oids = {"oids": list(tables)}
    for statement, kind in (
        (examined.columns(), "columns"),
        (examined.indexes(), "indexes"),
        (examined.constraints(), "constraints"),
    ):
        for row in connection.execute(statement, oids):
            getattr(shapes[tables[row.oid]], kind)[row.name] = row
    return shapes


def _compared(table: str, wanted: Shape, found: Shape) -> Iterator[Finding]:
    for name, column in wanted.columns.items():
        yield from _column(table, column, found.columns.get(name))
    for name, constraint in wanted.constraints.items():
        yield from _constraint(table, constraint, found.constraints.get(name))
    for name, index in wanted.indexes.items():
        if name not in wanted.constraints:
            yield from _index(table, index, found.indexes.get(name))


# -- columns ---------------------------------------------------------------------------------------


def _column(table: str, wanted: Any, found: Any | None) -> Iterator[Finding]:
    name = identifier(wanted.name)
    alter = f"ALTER TABLE {table} ALTER COLUMN {name}"
    data: dict[str, Any] = {"table": table, "column": wanted.name}
    if found is None:
        text = f"{table} has no column {wanted.name}"
        cure = f"ALTER TABLE {table} ADD COLUMN {name} {wanted.type}{_preset(wanted)}{_required(wanted)};"
        yield Finding("column-missing", "error", text, cure, data)
        return
    if found.type != wanted.type:
        text = f"{table}.{wanted.name} is of type {found.type}; the model has {wanted.type}"
        cure = f"{alter} TYPE {wanted.type} USING {name}::{wanted.type};"
        yield Finding(
            "column-differs", "error", text, cure, {**data, "found": found.type, "wanted": wanted.type}
        )
    if found.required != wanted.required:
        text = f"{table}.{wanted.name} {'may not' if found.required else 'may'} be null; in the model it "
        text += "may not" if wanted.required else "may"
        cure = f"{alter} {'SET' if wanted.required else 'DROP'} NOT NULL;"
        yield Finding("column-differs", "error", text, cure, {**data, "required": found.required})
    yield from _default(table, wanted, found)


def _default(table: str, wanted: Any, found: Any) -> Iterator[Finding]:
    if (wanted.preset, wanted.is_identity) == (found.preset, found.is_identity):
        return
    name = identifier(wanted.name)
    alter = f"ALTER TABLE {table} ALTER COLUMN {name}"
    data = {"table": table, "column": wanted.name, "found": found.preset, "wanted": wanted.preset}
    text = f"the default of {table}.{wanted.name} is {_named(found)}; the model has {_named(wanted)}"
    if wanted.is_identity:
        drop = f"{alter} DROP DEFAULT;\n" if found.preset is not None else ""
        sequence = f"pg_get_serial_sequence({literal(table)}, {literal(wanted.name)})"
        first = f"(SELECT COALESCE(max({name}), 0) + 1 FROM {table})"  # noqa: S608 - to be copied
        cure = (
            f"{drop}{alter} ADD GENERATED BY DEFAULT AS IDENTITY;\nSELECT setval({sequence}, {first}, false);"
        )
    elif wanted.preset is None:
        cure = f"{alter} DROP {'IDENTITY' if found.is_identity else 'DEFAULT'};"
    else:
        cure = f"{alter} SET DEFAULT {wanted.preset};"
    yield Finding("default-differs", "error", text, cure, data)


def _preset(column: Any) -> str:
    if column.is_identity:
        return " GENERATED BY DEFAULT AS IDENTITY"
    return "" if column.preset is None else f" DEFAULT {column.preset}"


def _required(column: Any) -> str:
    return " NOT NULL" if column.required else ""


def _named(column: Any) -> str:
    if column.is_identity:
        return "an identity"
    return "nothing" if column.preset is None else str(column.preset)


# -- constraints -----------------------------------------------------------------------------------


def _constraint(table: str, wanted: Any, found: Any | None) -> Iterator[Finding]:
    name = identifier(wanted.name)
    validate = f"ALTER TABLE {table} VALIDATE CONSTRAINT {name};"
    # Rows that break a CHECK are no reason to take in more of them meanwhile.
    late = " NOT VALID" if wanted.kind == "c" else ""
    add = f"ADD CONSTRAINT {name} {wanted.body}{late};"
    then = f"\n{validate}" if late else ""
    data: dict[str, Any] = {"table": table, "constraint": wanted.name, "wanted": wanted.body}
    if found is None:
        text = f"{table} has no constraint {wanted.name}: {wanted.body}"
        yield Finding("constraint-missing", "error", text, f"ALTER TABLE {table} {add}{then}", data)
        return
    body = found.body.removesuffix(" NOT VALID")
    if body != wanted.body:
        text = f"constraint {wanted.name} of {table} is {body}; the model has {wanted.body}"
        cure = f"ALTER TABLE {table} DROP CONSTRAINT {name}, {add}{then}"
        yield Finding("constraint-differs", "error", text, cure, {**data, "found": body})
    elif not found.is_valid:
        text = f"constraint {wanted.name} of {table} was never checked for the rows that were there before it"
        yield Finding("constraint-not-valid", "warning", text, validate, data)


# -- indexes ---------------------------------------------------------------------------------------


def _index(table: str, wanted: Any, found: Any | None) -> Iterator[Finding]:
    data: dict[str, Any] = {"table": table, "index": wanted.name, "wanted": _told(wanted)}
    if found is None:
        text = f"{table} has no index {wanted.name}, which a statement of every worker goes by"
        yield Finding("index-missing", "error", text, _create(table, wanted, wanted.name), data)
    elif _told(found) != _told(wanted):
        text = f"index {wanted.name} of {table} is {_told(found)}; the model has {_told(wanted)}"
        # The old one stays in use while its successor is built.
        new = f"{wanted.name}_new"
        schema = table.rpartition(".")[0]
        cure = (
            f"{_create(table, wanted, new)}\n"
            f"DROP INDEX CONCURRENTLY {found.qualified};\n"
            f"ALTER INDEX {schema}.{identifier(new)} RENAME TO {identifier(wanted.name)};"
        )
        yield Finding("index-differs", "error", text, cure, {**data, "found": _told(found)})


def _told(index: Any) -> str:
    """What an index is, apart from its name and storage parameters, which are for who tunes a server."""
    head, with_, tail = index.body.partition(" WITH (")
    body = head + tail.partition(")")[2] if with_ else head
    return f"{'UNIQUE ' if index.is_unique else ''}{body}"


def _create(table: str, index: Any, name: str) -> str:
    unique = "UNIQUE " if index.is_unique else ""
    return f"CREATE {unique}INDEX CONCURRENTLY {identifier(name)} ON {table} USING {index.body};"


def check_invalid_indexes(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Indexes that CREATE INDEX CONCURRENTLY has not finished: written to, and never read."""
    tables = {row.oid: row.qualified for row in tables_there(connection, model)}
    findings = []
    for row in connection.execute(examined.indexes(), {"oids": list(tables)}):
        if row.is_valid:
            continue
        data = {"table": tables[row.oid], "index": row.qualified}
        if row.building:
            text = f"index {row.qualified} is being built at this moment"
            findings.append(Finding("index-invalid", "info", text, "wait for its end", data))
            continue
        text = f"index {row.qualified} is invalid: it slows every write down, and no query goes by it"
        # What REINDEX CONCURRENTLY leaves behind has a successor, or its old self, that is valid.
        leftover = row.name.rstrip("0123456789").endswith(("_ccnew", "_ccold"))
        what = "DROP INDEX" if leftover else "REINDEX INDEX"
        findings.append(
            Finding("index-invalid", "error", text, f"{what} CONCURRENTLY {row.qualified};", data)
        )
    return findings


# -- what the application adds ---------------------------------------------------------------------


def check_own_columns(
    connection: Connection, model: Model, registry: Registry[Any] | None, _: dt.datetime | None
) -> list[Finding]:
    """Whether the columns and indexes of an application's own job model are there, by their names.

    And no column that the model does not know and every INSERT must: such an enqueue fails.
    """
    if registry is None:
        return []
    [job] = [row for row in tables_there(connection, model) if row.name == "sqla_jobs"]
    found = _shapes(connection, {job.oid: job.name})[job.name]
    ours = migrations.owned()[job.name]
    table = job_table(model)
    cure = 'alembic revision --autogenerate -m "jobs" && alembic upgrade head'
    findings = [
        Finding(
            "column-missing",
            "error",
            f"{job.qualified} has no column {name}, which {model.__name__} has: every enqueue fails",
            cure,
            {"table": job.qualified, "column": name},
        )
        for name in sorted({column.name for column in table.columns} - ours.columns - found.columns.keys())
    ]
    known = {str(index.name) for index in table.indexes if index.name is not None} - ours.indexes
    findings += [
        Finding(
            "index-missing",
            "warning",
            f"{job.qualified} has no index {name}, which {model.__name__} has",
            cure,
            {"table": job.qualified, "index": name},
        )
        for name in sorted(known - found.indexes.keys())
    ]
    for name, column in found.columns.items():
        given = column.preset is not None or column.is_identity or column.is_generated
        if name not in table.columns and column.required and not given:
            text = (
                f"{job.qualified}.{name} is NOT NULL without a default, and {model.__name__} does not know "
                "it: every enqueue fails"
            )
            drop = f"ALTER TABLE {job.qualified} ALTER COLUMN {identifier(name)} DROP NOT NULL;"
            data = {"table": job.qualified, "column": name}
            findings.append(Finding("column-unknown", "error", text, drop, data))
    return findings
