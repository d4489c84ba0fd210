"""The server's word on itself: settings, sessions, and what keeps VACUUM from its work."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    ARRAY,
    BigInteger,
    DateTime,
    Executable,
    Integer,
    Text,
    bindparam,
    column,
    func,
    literal_column,
    select,
    table,
    text,
)

from sqla_jobs.statements.terms import once

SETTINGS: Final = (
    "autovacuum", "track_counts", "fsync", "full_page_writes", "synchronous_commit",
    "default_transaction_read_only", "autovacuum_vacuum_scale_factor", "autovacuum_vacuum_threshold",
    "server_version_num",
)  # fmt: skip

_TIMEOUTS: Final = ("statement_timeout", "lock_timeout")
_PLANS: Final = ("enable_bitmapscan", "enable_seqscan", "jit")

_NOW: Final = bindparam("now", None, DateTime(timezone=True), unique=False)


@once
def limits() -> Executable:
    """Let no statement of this transaction take longer than ``:statement``, nor wait longer than ``:lock``.

    Texts such as ``500ms``. And let it take the first rows of an index one by one: of a table that was never
    analyzed the planner thinks that few jobs are queued, and would collect them all to sort them.

    Not for the session: behind PgBouncer it is anybody's in the next moment.
    """
    given = {name: bindparam(name.partition("_")[0], type_=Text) for name in _TIMEOUTS}
    fixed = {name: literal_column("'off'", Text) for name in _PLANS}
    return select(*(func.set_config(name, value, True) for name, value in (given | fixed).items()))


@once
def moment() -> Executable:
    """What time it is, and is not that of the transaction's begin. Locks nothing."""
    return select(func.clock_timestamp(type_=DateTime(timezone=True)))


@once
def settings() -> Executable:
    """Some settings, as this role has them in this database: name and value. Locks nothing.

    And ``in_recovery``: whether this is a standby.
    """
    known = table("pg_settings", column("name", Text), column("setting", Text), schema="pg_catalog")
    given = select(known.c.name, known.c.setting).where(known.c.name.in_(SETTINGS))
    standby = func.pg_is_in_recovery().cast(Text)
    return given.union_all(select(literal_column("'in_recovery'", Text), standby))


@once
def role() -> Executable:
    """Who asks: the role, the database, and whether the sessions of others may be seen. Locks nothing."""
    return text(
        """
        SELECT format('%I', current_user) AS role, format('%I', current_database()) AS database,
               pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE') AS sees_all
        """
    )


@once
def privileges() -> Executable:
    """What this role may do with the tables ``:oids``: one row each. Locks nothing."""
    return text(
        """
        SELECT class.oid::bigint AS oid, class.relname AS name,
               format('%I.%I', namespace.nspname, class.relname) AS qualified,
               format('%I', namespace.nspname) AS schema,
               pg_catalog.has_schema_privilege(namespace.oid, 'USAGE') AS is_usable,
               ARRAY(
                   SELECT wanted.privilege
                   FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) AS wanted (privilege)
                   WHERE NOT pg_catalog.has_table_privilege(class.oid, wanted.privilege)
               ) AS missing
        FROM pg_catalog.pg_class AS class
        JOIN pg_catalog.pg_namespace AS namespace ON namespace.oid = class.relnamespace
        WHERE class.oid = ANY (:oids)
        ORDER BY class.relname
        """
    ).bindparams(bindparam("oids", type_=ARRAY(BigInteger)))


@once
def capacity() -> Executable:
    """How many connections there may be, for such a role in such a database, and how many there are.

    Locks nothing. What is reserved since PostgreSQL 16, ``reserved_connections``, is 0 before.
    """
    return text(
        """
        SELECT current_setting('max_connections')::int AS most,
               current_setting('superuser_reserved_connections')::int
                 + COALESCE(current_setting('reserved_connections', true), '0')::int AS reserved,
               (SELECT datconnlimit FROM pg_catalog.pg_database WHERE datname = current_database())
                 AS database_limit,
               (SELECT rolconnlimit FROM pg_catalog.pg_roles WHERE rolname = current_user) AS role_limit,
               (SELECT sum(numbackends)::int FROM pg_catalog.pg_stat_database) AS used
        """
    )


@once
def sessions() -> Executable:
    """The sessions whose snapshot or transaction keeps VACUUM from rows of this database, the oldest first.

    At most ``:most``, none younger than ``:seconds``; null ``seconds`` of ``open`` and ``still``: this role
    may not see them, and then the session is among them if its snapshot is older than ``:transactions``.
    Parameter: ``now``. Not this session's own. Locks nothing.
    """
    return text(
        """
        SELECT seen.*
        FROM (
            SELECT pid, usename AS role, application_name AS application, client_addr::text AS client,
                   backend_type AS kind, state, backend_start AS started_at, xact_start AS begun_at,
                   query_start AS query_at,
                   EXTRACT(epoch FROM COALESCE(:now, statement_timestamp()) - xact_start)::float8 AS open,
                   EXTRACT(epoch FROM COALESCE(:now, statement_timestamp()) - state_change)::float8 AS still,
                   GREATEST(age(backend_xmin), age(backend_xid)) AS behind
            FROM pg_catalog.pg_stat_activity
            WHERE pid <> pg_backend_pid() AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)
              AND (datname = current_database() OR backend_type = 'walsender')
              AND backend_type <> 'autovacuum worker' AND leader_pid IS NULL
        ) AS seen
        WHERE CASE WHEN seen.open IS NULL THEN seen.behind > :transactions
                   ELSE seen.open > :seconds OR seen.state LIKE 'idle in transaction%' END
        ORDER BY seen.open DESC NULLS LAST, seen.behind DESC NULLS LAST
        LIMIT :most
        """
    ).bindparams(
        _NOW,
        bindparam("seconds", type_=Integer),
        bindparam("transactions", type_=Integer),
        bindparam("most", type_=Integer),
    )


@once
def prepared() -> Executable:
    """The prepared transactions of this database, the oldest first, at most ``:most``. Locks nothing.

    Parameter: ``now``.
    """
    return text(
        """
        SELECT gid, owner AS role, prepared AS prepared_at, age(transaction) AS behind,
               EXTRACT(epoch FROM COALESCE(:now, statement_timestamp()) - prepared)::float8 AS seconds
        FROM pg_catalog.pg_prepared_xacts
        WHERE database = current_database()
        ORDER BY prepared
        LIMIT :most
        """
    ).bindparams(_NOW, bindparam("most", type_=Integer))


@once
def slots() -> Executable:
    """The replication slots that hold a snapshot, at most ``:most``. Locks nothing.

    ``xmin`` alone: the ``catalog_xmin`` of a logical slot keeps rows of the catalog only.
    """
    return text(
        """
        SELECT slot_name AS name, active, age(xmin) AS behind
        FROM pg_catalog.pg_replication_slots
        WHERE xmin IS NOT NULL
        ORDER BY age(xmin) DESC
        LIMIT :most
        """
    ).bindparams(bindparam("most", type_=Integer))
