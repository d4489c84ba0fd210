"""Which revision the tables are at, and which of them are there."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection

from sqla_jobs import migrations
from sqla_jobs.doctor.finding import Finding, command
from sqla_jobs.statements import Model, examined, job_table
from sqla_jobs.tasks import Registry

DOCS = "docs/migrations.md"


def tables_there(connection: Connection, model: Model) -> list[Any]:
    """The library's tables in the schema of a job model: name, oid, and how SQL names it; by name."""
    names = list(examined.wanted_names())
    parameters = {"names": names, "schema": job_table(model).schema}
    return list(connection.execute(examined.relations(), parameters))


def check_revision(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Whether the tables are what this version of the library needs."""
    schema = job_table(model).schema
    where = "in the schema that the connection leads to" if schema is None else f"in schema {schema}"
    there = [row.name for row in tables_there(connection, model)]
    upgrade = f"alembic upgrade head   # without Alembic: {command('migrate', schema=schema)}"
    data: dict[str, Any] = {"schema": schema, "needed": migrations.head(), "tables": there}
    if not there:
        found = f"the queue's tables are not {where}: no job can be enqueued"
        return [Finding("tables-missing", "error", found, upgrade, data)]
    current = migrations.installed(connection, schema)
    data["revision"] = current
    if current is None:
        found = (
            f"there are {', '.join(there)} {where}, but not the function that says which revision they are "
            "at: it was not sqla_jobs that made them, and no worker starts on them"
        )
        return [Finding("tables-unmarked", "error", found, f'{DOCS}, "Tables without a marker"', data)]
    if not migrations.known(current):
        found = (
            f"the tables are at revision {current}, which this version of the library does not know (its "
            f"newest is {migrations.head()}): it works, but is the older one"
        )
        return [Finding("revision-ahead", "warning", found, "pip install --upgrade sqla-jobs", data)]
    if current != migrations.head():
        found = (
            f"the tables are at revision {current}, and this version of the library needs "
            f"{migrations.head()}: no worker starts on them"
        )
        return [Finding("revision-behind", "error", found, upgrade, data)]
    if missing := sorted(set(examined.wanted_names()).difference(there)):
        found = (
            f"{', '.join(missing)} cannot be found {where}, although the tables are said to be at revision "
            f"{current}: dropped by hand, or by a drop_all()"
        )
        cure = f'restore them; or begin anew: {DOCS}, "When something is wrong"'
        return [Finding("tables-missing", "error", found, cure, {**data, "missing": missing})]
    return []
