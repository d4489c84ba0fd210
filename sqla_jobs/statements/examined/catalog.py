"""The catalog's word on the library's tables, and on copies that the models make beside them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import ARRAY, BigInteger, Executable, Table, Text, bindparam, text
from sqlalchemy.schema import CreateIndex, CreateTable, ExecutableDDLElement

from sqla_jobs.models import Job, companions
from sqla_jobs.models.terms import table_of
from sqla_jobs.statements.terms import job_table, once

COPIES: Final = "pg_temp"
"""The schema of the copies: every session has one of its own, which nobody else sees."""

_OIDS: Final = bindparam("oids", type_=ARRAY(BigInteger))


@once
def _tables() -> tuple[Table, ...]:
    # Those of the default models: what an application's own model adds is Alembic's to compare.
    beside = companions(None)
    others = (beside.Schedule, beside.WorkerProcess, beside.Queue)
    return (job_table(Job), *map(table_of, others))


@once
def wanted_names() -> tuple[str, ...]:
    """The names of the library's tables."""
    return tuple(table.name for table in _tables())


@once
def relations() -> Executable:
    """The tables ``:names`` in the schema ``:schema``; null: those that are found without one.

    By the catalog, and not by ``to_regclass``, an error for who may not use the schema. Locks nothing.
    """
    return text(
        """
        SELECT class.relname AS name, class.oid::bigint AS oid,
               format('%I.%I', namespace.nspname, class.relname) AS qualified,
               format('%I', namespace.nspname) AS schema
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE class.relname = ANY (:names) AND class.relkind IN ('r', 'p')
          AND CASE WHEN :schema IS NULL THEN pg_catalog.pg_table_is_visible(class.oid)
                   ELSE namespace.nspname = :schema END
        ORDER BY class.relname
        """
    ).bindparams(bindparam("names", type_=ARRAY(Text)), bindparam("schema", type_=Text))


@once
def copies() -> tuple[ExecutableDDLElement, ...]:
    """DDL that makes the library's tables anew, to be sent with ``schema_translate_map={None: COPIES}``.

    Nothing but the server itself knows how it writes an expression down. Locks nothing that anybody else
    uses; the caller rolls it back. Needs the privilege TEMP on the database.
    """
    made: list[ExecutableDDLElement] = []
    for table in _tables():
        made.append(CreateTable(table))
        made += [CreateIndex(index) for index in sorted(table.indexes, key=lambda index: str(index.name))]
    return tuple(made)


@once
def copied() -> Executable:
    """The tables ``:names`` in this session's own temporary schema: name and oid. Locks nothing."""
    return text(
        """
        SELECT relname AS name, oid::bigint AS oid FROM pg_catalog.pg_class
        WHERE relnamespace = pg_catalog.pg_my_temp_schema() AND relname = ANY (:names) AND relkind = 'r'
        """
    ).bindparams(bindparam("names", type_=ARRAY(Text)))


@once
def columns() -> Executable:
    """The columns of the tables ``:oids``, their defaults as the server writes them. Locks nothing."""
    return text(
        """
        SELECT attribute.attrelid::bigint AS oid, attribute.attname AS name,
               pg_catalog.format_type(attribute.atttypid, attribute.atttypmod) AS type,
               attribute.attnotnull AS required, attribute.attidentity <> '' AS is_identity,
               attribute.attgenerated <> '' AS is_generated,
               pg_catalog.pg_get_expr(preset.adbin, preset.adrelid) AS preset
        FROM pg_catalog.pg_attribute AS attribute
        LEFT JOIN pg_catalog.pg_attrdef AS preset
          ON preset.adrelid = attribute.attrelid AND preset.adnum = attribute.attnum
        WHERE attribute.attrelid = ANY (:oids) AND attribute.attnum > 0 AND NOT attribute.attisdropped
        ORDER BY attribute.attrelid, attribute.attnum
        """
    ).bindparams(_OIDS)


@once
def indexes() -> Executable:
    """The indexes of the tables ``:oids``. ``body`` is the definition from ``USING`` on. Locks nothing.

    ``building``: CREATE INDEX CONCURRENTLY is at it, as far as this role may see that.
    """
    return text(
        """
        SELECT index.indrelid::bigint AS oid, class.relname AS name,
               format('%I.%I', namespace.nspname, class.relname) AS qualified,
               index.indisunique AS is_unique, index.indisvalid AND index.indisready AS is_valid,
               split_part(
                   pg_catalog.pg_get_indexdef(index.indexrelid),
                   -- The server calls no session's temporary schema by its own name.
                   CASE WHEN around.oid = pg_catalog.pg_my_temp_schema()
                        THEN format('pg_temp.%I USING ', of.relname)
                        ELSE format('%I.%I USING ', around.nspname, of.relname) END, 2
               ) AS body,
               EXISTS (
                   SELECT FROM pg_catalog.pg_stat_progress_create_index AS progress
                   WHERE progress.index_relid = index.indexrelid OR progress.relid = index.indrelid
               ) AS building
        FROM pg_catalog.pg_index AS index
        JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        JOIN pg_catalog.pg_class AS of ON of.oid = index.indrelid
        JOIN pg_catalog.pg_namespace AS around ON around.oid = of.relnamespace
        WHERE index.indrelid = ANY (:oids)
        ORDER BY class.relname
        """
    ).bindparams(_OIDS)


@once
def constraints() -> Executable:
    """CHECKs and keys of the tables ``:oids``, as the server writes them. Locks nothing.

    Not the NOT NULLs, which are constraints from PostgreSQL 18 on, nor foreign keys: the library has none.
    """
    return text(
        """
        SELECT conrelid::bigint AS oid, conname AS name, contype::text AS kind, convalidated AS is_valid,
               pg_catalog.pg_get_constraintdef(oid) AS body
        FROM pg_catalog.pg_constraint
        WHERE conrelid = ANY (:oids) AND contype IN ('c', 'p', 'u', 'x')
        ORDER BY conname
        """
    ).bindparams(_OIDS)
