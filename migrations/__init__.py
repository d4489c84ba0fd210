"""The revisions of the library's tables, and what runs them.

An application with Alembic calls `upgrade` and `downgrade` in revisions of its own; autogenerate
writes the calls (see `sqla_jobs.alembic`). One without calls `migrate`, or ``sqla-jobs migrate``.
All run the same files of ``versions/`` and leave the same marker, which `installed` reads. What those
files are written with is in ``steps``, and is imported from here.
"""

from __future__ import annotations

import contextlib
import logging
import shlex
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from alembic import op
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import Script, ScriptDirectory
from sqlalchemy import Connection, Engine, Text, cast, func, literal_column, select

from sqla_jobs.errors import SchemaError
from sqla_jobs.migrations.steps import PREFIX, in_schema
from sqla_jobs.migrations.steps import Brought as Brought
from sqla_jobs.migrations.steps import leave_marker as leave_marker
from sqla_jobs.migrations.steps import make_schema as make_schema
from sqla_jobs.migrations.steps import remove_marker as remove_marker
from sqla_jobs.migrations.steps import reset_storage as reset_storage
from sqla_jobs.migrations.steps import set_storage as set_storage
from sqla_jobs.migrations.steps import target_schema as target_schema
from sqla_jobs.models import companions, marker

__all__ = ["check", "downgrade", "head", "installed", "lock", "migrate", "upgrade"]

logger = logging.getLogger(__name__)

_INSTALL_NEWER = "install that one, pip install --upgrade sqla-jobs"
_LOCK = select(func.pg_advisory_xact_lock(func.hashtextextended("sqla_jobs.migrate", 0)))

# Operations.context() installs `alembic.op` for the whole process, not for one thread.
_op_proxy = threading.Lock()


# For an application's own revisions


def upgrade(to: str = "head", *, since: str | None = None, schema: str | None = None) -> None:
    """Bring the library's tables up to revision ``to``; for an application's own ``upgrade()``.

    It begins at what the database has, and does nothing where that is ``to`` or later. Offline
    (``--sql``) there is no database to ask, so it begins at ``since``; None: at nothing. A second
    caller waits for the end of the first one's transaction.
    """
    end = _position(to)
    context = _alembic_context("upgrade")
    start = _position(since or "base") if context.as_sql else _found(op.get_bind(), schema)
    _run("upgrade", _revisions()[start:end], schema)


def downgrade(to: str = "base", *, since: str | None = None, schema: str | None = None) -> None:
    """Take the library's tables back to revision ``to``; for an application's own ``downgrade()``.

    It begins at what the database has, and does nothing where that is ``to`` or earlier. Offline
    (``--sql``) it begins at ``since``, which it needs. ``base`` drops the tables, never the schema.
    """
    end = _position(to)
    context = _alembic_context("downgrade")
    if context.as_sql and since is None:
        raise SchemaError(
            "sqla_jobs.migrations.downgrade() offline (--sql) cannot read from a database where to begin: "
            f'say it, as in downgrade({to!r}, since="{head()}")'
        )
    start = _position(since or "base") if context.as_sql else _found(op.get_bind(), schema)
    _run("downgrade", _revisions()[end:start][::-1], schema)


# For everybody


def head() -> str:
    """The newest revision that this version of the library has."""
    return _short(_revisions()[-1])


def installed(connection: Connection, schema: str | None = None) -> str | None:
    """The revision that the tables in ``schema`` are at; None: they are not there, or have no marker."""
    call = f"{marker(schema)}()"
    # to_regprocedure and to_regclass see what others have committed even in an old snapshot.
    if connection.scalar(select(cast(func.to_regprocedure(call), Text))) is None:
        return None
    revision: str | None = connection.scalar(select(literal_column(call, Text)))
    return revision


def check(connection: Connection, schema: str | None = None) -> None:
    """Raise a `SchemaError` unless the tables in ``schema`` are what this version needs.

    A newer revision, one that this version does not know, is only logged: in a rolling deploy the
    tables are upgraded first, and a worker of the old version may start once more.
    """
    current = installed(connection, schema)
    if current is None:
        found = tables(connection, schema)
        raise SchemaError(unmarked(found, schema) if found else _absent(schema))
    if not known(current):
        logger.warning(
            "sqla_jobs tables are at a revision that this version of sqla_jobs does not know",
            extra={"revision": current, "known": head(), "schema": schema},
        )
    elif current != head():
        raise SchemaError(
            f"The sqla_jobs tables in {_place(schema)} are at revision {current}, and this version of "
            f"sqla_jobs needs {head()}. {_how_to_upgrade(schema)}"
        )
    elif missing := lost(connection, schema):
        raise SchemaError(missing)


def migrate(bind: Engine | Connection, *, to: str = "head", schema: str | None = None) -> str | None:
    """Bring the tables in ``schema`` to revision ``to``, up or down, and return `installed`.

    For applications without Alembic; with it, `upgrade` belongs in a revision. Runs in a transaction
    of its own, or in that of a Connection which has one. Any number may run at once: each waits at an
    advisory lock until the one before it has committed.
    """
    if isinstance(bind, Engine):
        with bind.connect() as connection:
            # Not the engine's own level: AUTOCOMMIT would free the lock at once.
            connection.execution_options(isolation_level="READ COMMITTED")
            with connection.begin():
                return _migrate(connection, to, schema)
    if getattr(bind.connection.dbapi_connection, "autocommit", False):
        raise SchemaError(
            "sqla_jobs.migrations.migrate() needs a transaction, and this Connection is in AUTOCOMMIT: "
            "pass the Engine, or a Connection with a transactional isolation level"
        )
    with contextlib.nullcontext() if bind.in_transaction() else bind.begin():
        return _migrate(bind, to, schema)


def lock(connection: Connection) -> None:
    """Wait for a migration that is under way, and let none begin until this transaction ends."""
    connection.execute(_LOCK)


# For sqla_jobs.alembic


@dataclass(frozen=True)
class Owned:
    """The names on one table that are the library's."""

    columns: frozenset[str]
    constraints: frozenset[str]
    indexes: frozenset[str]


@cache
def owned() -> Mapping[str, Owned]:
    """What all revisions have ever brought, by table."""
    brought = [script.module.brought for script in _revisions()]
    names = {table for one in brought for table in one.columns}

    def gather(kind: str, table: str) -> frozenset[str]:
        return frozenset(name for one in brought for name in getattr(one, kind).get(table, "").split())

    return {
        table: Owned(gather("columns", table), gather("constraints", table), gather("indexes", table))
        for table in sorted(names)
    }


def tables(connection: Connection, schema: str | None = None) -> list[str]:
    """Which of the library's tables are in ``schema``, whoever made them."""
    # By hand: the dialect's quoting doubles percent signs for a driver's sake.
    prefix = '"{}".'.format(schema.replace('"', '""')) if schema else ""
    named = (cast(func.to_regclass(prefix + name), Text) for name in owned())
    found = connection.execute(select(*named)).one()
    return [name for name, there in zip(owned(), found, strict=True) if there is not None]


def known(revision: str) -> bool:
    """Whether this version of the library has ``revision``."""
    return revision in map(_short, _revisions())


def unmarked(found: list[str], schema: str | None) -> str:
    """What to say about tables without a marker."""
    return (
        f"The tables {', '.join(found)} are in {_place(schema)}, but not the function {marker(schema)}() "
        "that says which revision they are at, so it was not sqla_jobs that made them. If a revision of "
        "the application did, with op.create_table(), its env.py lacked `import sqla_jobs.alembic`: add "
        "that line, undo the revision (alembic downgrade), delete its file, and run `alembic revision "
        "--autogenerate` again. If Base.metadata.create_all() did, it made the application's own job table "
        "only: call jobs.create_all(bind) instead. Where the data must be kept: docs/migrations.md, "
        '"Tables without a marker".'
    )


def unknown(current: str, schema: str | None) -> str:
    """What to say about tables that a newer version of the library has upgraded."""
    return (
        f"The sqla_jobs tables in {_place(schema)} are at revision {current}, which this version of "
        f"sqla_jobs does not know (its newest is {head()}): a newer version upgraded them; {_INSTALL_NEWER}"
    )


def lost(connection: Connection, schema: str | None) -> str | None:
    """What to say about tables that the newest revision has and the database has not; None: it has all."""
    wanted = {"sqla_jobs", *(table.name for table in companions(schema).metadata.tables.values())}
    missing = sorted(wanted.difference(tables(connection, schema)))
    if not missing:
        return None
    return (
        f"{marker(schema)}() says that the sqla_jobs tables in {_place(schema)} are at revision {head()}, "
        f"but {', '.join(missing)} cannot be found: dropped by hand, or by a drop_all(). Restore them; or "
        f"drop what is left of the tables, and the function, and begin anew. {_how_to_upgrade(schema)}"
    )


# The machinery


@cache
def _revisions() -> list[Script]:
    """All revisions, oldest first."""
    here = Path(__file__).parent
    directory = ScriptDirectory(str(here), version_locations=[str(here / "versions")])
    return list(directory.walk_revisions())[::-1]


def _short(script: Script) -> str:
    return script.revision.removeprefix(PREFIX)


def _position(revision: str) -> int:
    """How many revisions lie below and at ``revision``."""
    names = ["base", *map(_short, _revisions())]
    if revision == "head":
        return len(names) - 1
    if (short := revision.removeprefix(PREFIX)) in names:
        return names.index(short)
    raise SchemaError(
        f"There is no sqla_jobs revision {revision!r}: this version of sqla_jobs has {', '.join(names)} and "
        f"head. If a newer version wrote it into a revision of the application: {_INSTALL_NEWER}"
    )


def _found(connection: Connection, schema: str | None) -> int:
    """The position of what is in the database, read when no other migration is under way."""
    lock(connection)
    current = installed(connection, schema)
    if current is None:
        if found := tables(connection, schema):
            raise SchemaError(unmarked(found, schema))
        return 0
    if not known(current):
        raise SchemaError(unknown(current, schema))
    return _position(current)


def _alembic_context(caller: str) -> MigrationContext:
    try:
        context = op.get_context()
    # The one if alembic never ran in this process, the other after it has.
    except (NameError, AttributeError):
        raise SchemaError(
            f"sqla_jobs.migrations.{caller}() is for the revisions of an application, and no alembic command "
            "is running. Call sqla_jobs.migrations.migrate(engine), or run `sqla-jobs migrate`"
        ) from None
    if context.dialect.name != "postgresql":
        raise SchemaError(
            f"sqla_jobs needs PostgreSQL, and this alembic command runs on {context.dialect.name}"
        )
    return context


def _run(direction: Literal["upgrade", "downgrade"], steps: list[Script], schema: str | None) -> None:
    with in_schema(schema):
        for script in steps:
            getattr(script.module, direction)()
            logger.info(
                "sqla_jobs revision: %s", direction, extra={"revision": _short(script), "schema": schema}
            )


def _migrate(connection: Connection, to: str, schema: str | None) -> str | None:
    # The database's lock before the process's: who waits for the first must not hold the second.
    start, end = _found(connection, schema), _position(to)
    operations = Operations.context(MigrationContext.configure(connection))
    with _op_proxy, contextlib.ExitStack() as stack:
        operations.__enter__()
        # Not `with operations`: when an error passes through it, `alembic.op` stays bound to this connection.
        stack.callback(operations.__exit__, None, None, None)
        if start < end:
            upgrade(to, schema=schema)
        else:
            downgrade(to, schema=schema)
    return installed(connection, schema)


def _place(schema: str | None) -> str:
    return f'schema "{schema}"' if schema else "the default schema"


def _absent(schema: str | None) -> str:
    return f"The sqla_jobs tables are not in {_place(schema)}. {_how_to_upgrade(schema)}"


def _how_to_upgrade(schema: str | None) -> str:
    option = f" --schema {shlex.quote(schema)}" if schema else ""
    return (
        'With Alembic run `alembic revision --autogenerate -m "sqla_jobs" && alembic upgrade head`, '
        f"without it `sqla-jobs migrate{option}`"
    )
