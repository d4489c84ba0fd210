"""What the connecting role may do, and what it may see."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import Finding
from sqla_jobs.doctor.schema import tables_there
from sqla_jobs.statements import Model, examined
from sqla_jobs.tasks import Registry


def check_privileges(
    connection: Connection, model: Model, _: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Whether the role may do what a worker does."""
    oids = [row.oid for row in tables_there(connection, model)]
    role = connection.execute(examined.role()).one().role
    findings = []
    refused: set[str] = set()
    for row in connection.execute(examined.privileges(), {"oids": oids}):
        if not row.is_usable and row.schema not in refused:
            refused.add(row.schema)
            findings.append(
                Finding(
                    "privilege-missing",
                    "error",
                    f"role {role} may not use schema {row.schema}, so it reaches none of the queue's tables",
                    f"GRANT USAGE ON SCHEMA {row.schema} TO {role};",
                    {"role": role, "schema": row.schema, "missing": ["USAGE"]},
                )
            )
        if row.missing:
            wanted = ", ".join(row.missing)
            findings.append(
                Finding(
                    "privilege-missing",
                    "error",
                    f"role {role} lacks {wanted} on {row.qualified}; a worker needs all of SELECT, INSERT, "
                    "UPDATE and DELETE",
                    f"GRANT {wanted} ON {row.qualified} TO {role};",
                    {"role": role, "table": row.qualified, "missing": list(row.missing)},
                )
            )
    return findings


def check_sight(
    connection: Connection, _: Model, __: Registry[Any] | None, ___: dt.datetime | None
) -> list[Finding]:
    """Whether the role sees how long the transactions of others are open."""
    asked = connection.execute(examined.role()).one()
    if asked.sees_all:
        return []
    found = (
        f"role {asked.role} may not see the sessions of other roles: a long transaction of one of them is "
        "found only when it is far behind"
    )
    cure = f"GRANT pg_read_all_stats TO {asked.role};"
    return [Finding("sessions-hidden", "info", found, cure, {"role": asked.role})]
