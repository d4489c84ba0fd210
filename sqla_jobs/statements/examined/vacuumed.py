"""How the tables are vacuumed, and what their indexes weigh."""

from __future__ import annotations

from sqlalchemy import ARRAY, BigInteger, Executable, bindparam, text

from sqla_jobs.statements.terms import once


@once
def vacuum_of() -> Executable:
    """Statistics and storage parameters of the tables ``:oids``. Locks nothing."""
    return text(
        """
        SELECT class.relname AS name, format('%I.%I', namespace.nspname, class.relname) AS qualified,
               class.reltuples::float8 AS estimated, stat.n_live_tup AS live, stat.n_dead_tup AS dead,
               GREATEST(stat.last_vacuum, stat.last_autovacuum) AS vacuumed_at,
               (SELECT jsonb_object_agg(parameter.option_name, parameter.option_value)
                FROM pg_catalog.pg_options_to_table(class.reloptions) AS parameter) AS parameters
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        LEFT JOIN pg_catalog.pg_stat_all_tables AS stat ON stat.relid = class.oid
        WHERE class.oid = ANY (:oids)
        ORDER BY class.relname
        """
    ).bindparams(bindparam("oids", type_=ARRAY(BigInteger)))


@once
def rows_and_indexes() -> Executable:
    """The indexes of the tables ``:oids``: their bytes, and how many ``entries`` they have at most.

    That is what the last VACUUM or ANALYZE has counted, and all rows that were written since. Null: nobody
    has counted yet (an index that was made on an empty table says 0 until then). Locks each index against
    being dropped, for as long as its size is read.
    """
    return text(
        """
        SELECT class.relname AS name, format('%I.%I', namespace.nspname, class.relname) AS qualified,
               pg_catalog.pg_relation_size(class.oid) AS bytes, CASE WHEN of.reltuples >= 0
                    THEN GREATEST(class.reltuples, 0)::float8 + COALESCE(stat.n_mod_since_analyze, 0)
               END AS entries
        FROM pg_catalog.pg_index AS index
        JOIN pg_catalog.pg_class AS of ON of.oid = index.indrelid
        LEFT JOIN pg_catalog.pg_stat_all_tables AS stat ON stat.relid = index.indrelid
        JOIN pg_catalog.pg_class AS class ON class.oid = index.indexrelid
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        JOIN pg_catalog.pg_am AS method ON method.oid = class.relam AND method.amname = 'btree'
        WHERE index.indrelid = ANY (:oids) AND index.indisvalid
        ORDER BY class.relname
        """
    ).bindparams(bindparam("oids", type_=ARRAY(BigInteger)))
