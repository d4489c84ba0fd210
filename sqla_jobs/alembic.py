"""``import sqla_jobs.alembic`` in env.py: ``alembic revision --autogenerate`` writes the library's upgrade.

Alembic compares the library's tables as it compares all others. Then, last of all comparators, this
one takes out whatever it found on names that the library's own revisions bring, and puts one call of
`sqla_jobs.migrations.upgrade` in their place if the database is not at the newest revision. What the
application added to its own job model (`JobMixin`) stays, as operations of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import count
from typing import Any, Literal, cast

from alembic.autogenerate import comparators, produce_migrations, renderers
from alembic.autogenerate.api import AutogenContext
from alembic.migration import MigrationContext
from alembic.operations import Operations, ops
from alembic.util import CommandError, DispatchPriority
from sqlalchemy import (
    CheckConstraint,
    Connection,
    Constraint,
    ForeignKeyConstraint,
    MetaData,
    Table,
    UniqueConstraint,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import NoReferenceError

from sqla_jobs import migrations
from sqla_jobs.models import INFO, marker

# Alembic's own name, so that env.py's usual logging shows it between Alembic's lines.
log = logging.getLogger("alembic.autogenerate.sqla_jobs")

_NESTED = "sqla_jobs_nested_comparison"
_COMPLETE_TARGET = (
    "In env.py write `target_metadata = [Base.metadata, sqla_jobs.metadata]`. With a job model of your own, "
    "class Job(JobMixin, Base), import its module in env.py: then `target_metadata = Base.metadata` is all."
)

Tables = Mapping[str, Table]


class MigrateTablesOp(ops.MigrateOperation):
    """One call of `sqla_jobs.migrations.upgrade` or `downgrade` in an application's revision."""

    def __init__(
        self, direction: Literal["upgrade", "downgrade"], to: str, since: str | None, schema: str | None
    ) -> None:
        self.direction = direction
        self.to = to
        self.since = since
        self.schema = schema

    def reverse(self) -> MigrateTablesOp:
        back: Literal["upgrade", "downgrade"] = "downgrade" if self.direction == "upgrade" else "upgrade"
        return MigrateTablesOp(back, self.since or "base", self.to, self.schema)

    def to_diff_tuple(self) -> tuple[Any, ...]:
        return (f"sqla_jobs_{self.direction}", self.since, self.to, self.schema)


@renderers.dispatch_for(MigrateTablesOp)
def _render(context: AutogenContext, op: MigrateTablesOp) -> str:
    context.imports.add("import sqla_jobs.migrations")
    arguments = [repr(op.to)]
    if op.since:
        arguments.append(f"since={op.since!r}")
    if op.schema:
        arguments.append(f"schema={str(op.schema)!r}")
    return f"sqla_jobs.migrations.{op.direction}({', '.join(arguments)})"


@Operations.implementation_for(MigrateTablesOp)
def _invoke(_: Operations, op: MigrateTablesOp) -> None:
    call = migrations.upgrade if op.direction == "upgrade" else migrations.downgrade
    call(op.to, since=op.since, schema=op.schema)


class AddCheckOp(ops.CreateCheckConstraintOp):
    """A CHECK of the application's own on its job model; before 1.19 Alembic cannot write one down."""


@renderers.dispatch_for(AddCheckOp)
def _render_check(context: AutogenContext, op: AddCheckOp) -> str:
    # Named parameters: with the driver's own, every percent sign would be doubled.
    dialect = postgresql.dialect(paramstyle="named")  # type: ignore[no-untyped-call]
    condition = op.to_constraint().sqltext.compile(dialect=dialect, compile_kwargs={"literal_binds": True})
    schema = f", schema={str(op.schema)!r}" if op.schema else ""
    call = context.opts["alembic_module_prefix"]
    name, table = str(op.constraint_name), str(op.table_name)
    return f"{call}create_check_constraint({call}f({name!r}), {table!r}, {str(condition)!r}{schema})"


# LAST: after Alembic's own comparators and those of alembic_utils, whose findings it takes out.
@comparators.dispatch_for("schema", priority=DispatchPriority.LAST)
def _compare(context: AutogenContext, upgrade_ops: ops.UpgradeOps, _: Collection[str | None]) -> None:
    connection = context.connection
    if context.opts.get(_NESTED) or connection is None or context.dialect.name != "postgresql":
        return
    models = _models(context)
    _refuse_incomplete_target(context, upgrade_ops, models)
    pending = []
    for schema, own_tables in models.items():
        current = _installed(connection, schema)
        if any(_is_in(op, migrations.owned(), context, _place(context, schema)) for op in upgrade_ops.ops):
            log.info("Whatever is said of them above: the tables of sqla_jobs are left to its own revisions")
        if current is not None:
            _compare_unseen(context, upgrade_ops, schema, own_tables)
        _take_out(context, upgrade_ops, schema, own_tables)
        if current != migrations.head():
            pending.append(MigrateTablesOp("upgrade", migrations.head(), current, schema))
    # First: the application's tables may refer to them, its columns be added to them.
    upgrade_ops.ops[:0] = pending


def _models(context: AutogenContext) -> dict[str | None, dict[str, Table]]:
    """The library's tables in target_metadata, by schema and name."""
    found: dict[str | None, dict[str, Table]] = {}
    for table in context.sorted_tables:
        if INFO in table.info:
            found.setdefault(table.schema, {})[table.name] = table
    return found


def _installed(connection: Connection, schema: str | None) -> str | None:
    current = migrations.installed(connection, schema)
    if current == migrations.head() and (missing := migrations.lost(connection, schema)):
        raise CommandError(missing)
    if current is None and (found := migrations.tables(connection, schema)):
        raise CommandError(migrations.unmarked(found, schema))
    if current is not None and not migrations.known(current):
        raise CommandError(migrations.unknown(current, schema))
    return current


def _refuse_incomplete_target(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, models: Mapping[str | None, Tables]
) -> None:
    """Refuse a target_metadata from which Alembic would conclude to drop the library's tables."""
    known = [table for tables in models.values() for table in tables.values()]
    for table, other in _foreign_keys(context.sorted_tables):
        if INFO in other.info and not any(other is one for one in known):
            raise CommandError(
                f"The table {table.fullname} has a foreign key to {other.fullname}, a table of sqla_jobs "
                f"that is not in target_metadata. {_COMPLETE_TARGET}"
            )
    assert context.connection is not None
    places = {_place(context, schema) for schema in models}
    for op in upgrade_ops.ops:
        if not isinstance(op, ops.DropTableOp) or op.table_name not in migrations.owned():
            continue
        # Without the marker they were not made by the library's revisions, and a plain drop is right.
        current = migrations.installed(context.connection, op.schema)
        if _place(context, op.schema) not in places and current is not None:
            schema = f", schema={op.schema!r}" if op.schema else ""
            raise CommandError(
                f"The database has the tables of sqla_jobs ({marker(op.schema)}() says revision {current}), "
                f"but target_metadata has not, so Alembic would drop {op.table_name}. {_COMPLETE_TARGET} "
                "To remove the job queue, write a revision by hand which says "
                f'`sqla_jobs.migrations.downgrade("base", since="{current}"{schema})` in upgrade() and '
                f'`sqla_jobs.migrations.upgrade("{current}"{schema})` in downgrade().'
            )


def _foreign_keys(tables: Iterable[Table]) -> Iterator[tuple[Table, Table]]:
    for table in tables:
        for key in table.foreign_keys:
            with suppress(NoReferenceError):
                yield table, key.column.table


def _place(context: AutogenContext, schema: str | None) -> str | None:
    """Alembic's name of a schema: None for the default one, however the model spells it."""
    return None if schema == context.dialect.default_schema_name else schema


def _compare_unseen(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, schema: str | None, own_tables: Tables
) -> None:
    """Compare tables which are there, but which Alembic did not look for: it would offer them for ever.

    That is so for all schemas but the default one, unless env.py says include_schemas=True.
    """
    place = _place(context, schema)

    def ours(op: ops.MigrateOperation) -> bool:
        return _is_in(op, own_tables, context, place)

    assert context.connection is not None
    there = migrations.tables(context.connection, schema)
    unseen = {op.table_name for op in upgrade_ops.ops if isinstance(op, ops.CreateTableOp) and ours(op)}
    if not unseen.intersection(there):
        return

    app_name, app_object = context.opts.get("include_name"), context.opts.get("include_object")

    def include_name(name: Any, kind: str, parents: Any) -> bool:
        if kind in ("schema", "table"):
            return bool(name == place) if kind == "schema" else name in own_tables
        return app_name is None or bool(app_name(name, kind, parents))

    def include_object(item: Any, name: Any, kind: str, reflected: bool, other: Any) -> bool:
        if kind == "table" and not reflected and item is not own_tables.get(name):
            return False
        return app_object is None or bool(app_object(item, name, kind, reflected, other))

    filters = {"include_schemas": True, "include_name": include_name, "include_object": include_object}
    nested = MigrationContext.configure(
        connection=context.connection, opts={**context.opts, **filters, _NESTED: True}
    )
    found = produce_migrations(nested, cast("MetaData", context.metadata)).upgrade_ops
    assert found is not None
    upgrade_ops.ops[:] = [op for op in upgrade_ops.ops if not ours(op)]
    upgrade_ops.ops.extend(op for op in found.ops if ours(op))


def _take_out(
    context: AutogenContext, upgrade_ops: ops.UpgradeOps, schema: str | None, own_tables: Tables
) -> None:
    """Take out every operation on what the library's revisions manage in ``schema``."""
    place = _place(context, schema)
    routine = f"{marker(None)}()"
    kept: list[ops.MigrateOperation] = []
    for op in upgrade_ops.ops:
        entity = getattr(op, "target", None)
        if getattr(entity, "signature", None) == routine:
            # alembic_utils offers to drop every function that is not registered with it.
            if _place(context, getattr(entity, "schema", None)) != place:
                kept.append(op)
        elif not _is_in(op, migrations.owned(), context, place):
            kept.append(op)
        elif isinstance(op, ops.CreateTableOp):
            kept.extend(_additions(own_tables[op.table_name], schema))
        elif isinstance(op, ops.ModifyTableOps) and op.table_name in own_tables:
            op.ops = [one for one in op.ops if not _is_owned(one, migrations.owned()[op.table_name])]
            if op.ops:
                kept.append(op)
        elif not isinstance(op, (ops.DropTableOp, ops.ModifyTableOps)):
            kept.append(op)
    upgrade_ops.ops[:] = kept


def _is_in(
    op: ops.MigrateOperation, tables: Collection[str], context: AutogenContext, place: str | None
) -> bool:
    return getattr(op, "table_name", "") in tables and _place(context, getattr(op, "schema", None)) == place


def _is_owned(op: ops.MigrateOperation, names: migrations.Owned) -> bool:
    if isinstance(op, ops.AddColumnOp):
        return op.column.name in names.columns
    if isinstance(op, (ops.DropColumnOp, ops.AlterColumnOp)):
        return op.column_name in names.columns
    if isinstance(op, (ops.CreateIndexOp, ops.DropIndexOp)):
        return op.index_name in names.indexes
    if isinstance(op, (ops.AddConstraintOp, ops.DropConstraintOp)):
        return getattr(op, "constraint_name", None) in names.constraints
    return False


def _additions(table: Table, schema: str | None) -> Iterator[ops.MigrateOperation]:
    """What the application added to a table that the library's revision makes."""
    names = migrations.owned()[table.name]
    checks: list[ops.MigrateOperation] = []
    added: list[ops.MigrateOperation] = [
        ops.AddColumnOp.from_column_and_tablename(schema, table.name, column)
        for column in table.columns
        if column.name not in names.columns
    ]
    taken: set[str] = set()
    for constraint in sorted(table.constraints, key=_by_name_and_columns):
        # A constraint of the column's type is made with the column.
        if isinstance(constraint, _ADDABLE) and not getattr(constraint, "_type_bound", False):
            check = isinstance(constraint, CheckConstraint)
            add = (AddCheckOp if check else ops.AddConstraintOp).from_constraint(constraint)
            if not _is_owned(add, names):
                _name(add, constraint, table, taken)
                (checks if check else added).append(add)
    if table.comment:
        added.append(ops.CreateTableCommentOp(table.name, table.comment, schema=schema))
    if added:
        yield ops.ModifyTableOps(table.name, added, schema=schema)
    # Apart: with render_as_batch those above run at the end of their block.
    yield from checks


_ADDABLE = (CheckConstraint, ForeignKeyConstraint, UniqueConstraint)


def _by_name_and_columns(constraint: Constraint) -> tuple[str, list[str], str]:
    return str(constraint.name or ""), _columns(constraint), str(getattr(constraint, "sqltext", ""))


def _columns(constraint: Constraint) -> list[str]:
    return [column.name for column in getattr(constraint, "columns", ())]


def _name(add: ops.AddConstraintOp, constraint: Constraint, table: Table, taken: set[str]) -> None:
    """Name a nameless constraint as PostgreSQL would: drop_constraint(None) in the downgrade would fail."""
    if getattr(add, "constraint_name", None) is not None:
        return
    suffix = {ForeignKeyConstraint: "fkey", UniqueConstraint: "key"}.get(type(constraint), "check")
    stem = "_".join([table.name, *_columns(constraint)])[:50]
    name = next(name for number in count() if (name := f"{stem}_{suffix}{number or ''}") not in taken)
    taken.add(name)
    add.constraint_name = name  # type: ignore[attr-defined]
