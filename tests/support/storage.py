"""The storage parameters of tables, as the database has them."""

from __future__ import annotations

from tests.support.server import Database

VACUUM = {"autovacuum_vacuum_scale_factor": "0.02", "autovacuum_analyze_scale_factor": "0.02"}
"""Those of the job table."""

_SQL = """
    SELECT nspname, relname, option_name, option_value
    FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace CROSS JOIN pg_options_to_table(reloptions)
    WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')
"""


def storage(database: Database) -> dict[str, dict[str, str]]:
    """What is set for each table for which something is; one of the schema ``public`` by its name alone."""
    found: dict[str, dict[str, str]] = {}
    for schema, table, option, value in database.rows(_SQL):
        found.setdefault(table if schema == "public" else f"{schema}.{table}", {})[option] = value
    return found
