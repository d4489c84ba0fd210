"""Jobs that are not in the table yet: one, or many of them, in one INSERT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal, TypeAlias

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Column,
    ColumnElement,
    DateTime,
    Executable,
    Integer,
    Interval,
    String,
    Table,
    TableValuedAlias,
    Text,
    TextClause,
    bindparam,
    case,
    cast,
    column,
    func,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import JSONB, Insert, aggregate_order_by, insert

from sqla_jobs.statements.terms import Model, job_table, once

ENQUEUED: Final = (
    "task", "arguments", "queue", "priority", "state", "max_attempts", "timeout", "run_at", "unique_key",
    "unique_scope", "unique_held", "limit_key", "meta",
)  # fmt: skip
"""The columns that a task's options and arguments may fill."""


@once
def enqueue(
    model: Model, columns: tuple[str, ...], delayed: bool, telling: bool, unique: bool = False
) -> Executable:
    """Insert one job; returns its id and what the table's defaults have made of the other columns.

    Locks nothing but the new row. The parameters ``p_arguments`` and ``p_meta`` are text.

    Parameters:
        columns: out of ``ENQUEUED``, each with a parameter ``p_<column>``.
        delayed: ``run_at`` is the parameter ``delay``, from now.
        telling: notify ``channel`` of ``payload``, in the same trip.
        unique: nothing is inserted, and no row returned, if another job holds its unique key. Waits for a
            transaction that is about to take it, or to let go of it. Index: ``uq_sqla_jobs_unique_key``.
    """
    table = job_table(model)
    values: dict[str, Any] = {name: bindparam(f"p_{name}", type_=table.c[name].type) for name in columns}
    for name in ("arguments", "meta") if "meta" in columns else ("arguments",):
        values[name] = cast(bindparam(f"p_{name}", type_=Text), JSONB)
    if delayed:
        now = func.statement_timestamp(type_=DateTime(timezone=True))
        values["run_at"] = now + bindparam("delay", type_=Interval)
    new = insert(table).values(values)
    made = (_or_nothing(new, table) if unique else new).returning(
        *(table.c[name] for name in left_to_the_table(model, columns))
    )
    if not telling:
        return made
    rows = made.cte("made")
    told = func.pg_notify(bindparam("channel", type_=Text), bindparam("payload", type_=Text))
    return select(*rows.c, told.label("told")).select_from(rows)


@once
def left_to_the_table(model: Model, columns: tuple[str, ...]) -> list[str]:
    """The columns that `enqueue` returns: all whose values come from the table's defaults, and ``run_at``."""
    given = {*columns, "arguments"}
    return [
        each.name for each in job_table(model).c if each.server_default is not None and each.name not in given
    ]


@once
def set_arguments(model: Model) -> Executable:
    """Set the arguments of jobs that this transaction has inserted.

    The parameter ``p_rows`` is a list of objects with ``id`` and ``arguments``. Locks the rows, which nobody
    else sees; by the primary key.
    """
    table = job_table(model)
    given = func.jsonb_to_recordset(bindparam("p_rows", type_=JSONB))
    rows = given.table_valued(column("id", BigInteger), column("arguments", JSONB))
    each = rows.render_derived("each", with_types=True)
    return update(table).where(table.c.id == each.c.id).values(arguments=each.c.arguments)


Source: TypeAlias = "Literal['one', 'each', 'each_else', 'json', 'json_else', 'moment'] | ColumnElement[Any]"
"""Where the values of a column come from.

    one         the parameter ``p_<column>``, for all jobs
    each        ``p_<column>``, a list with a value for each job
    json        ``p_<column>``, the text of a JSON array with a value for each job
    ..._else    the same; None is the column's default
    moment      ``p_<column>`` and ``p_<column>_in``, two lists: a time, or else how long from now
    expression  it itself, for each row
"""


def enqueue_many(model: Model, sources: Sequence[tuple[str, Source]], unique: bool = False) -> Executable:
    """Insert jobs, and return a list of their ids in any order: sorted they are in the order of the jobs.

    A sequence gives its numbers in the order of the SELECT: its ORDER BY is below the target list of the
    INSERT, where the identity column's default is (Tom Lane: postgresql.org/message-id/29386.1528813619@
    sss.pgh.pa.us; SQLAlchemy's insertmanyvalues reckons with the same). What RETURNING gives is in no
    order that the server would promise.

    Locks nothing but the new rows; the parameter ``p_number`` is how many there are.

    Parameters:
        unique: jobs whose unique keys others hold are left out, and rows of an id and a key returned. Waits
            for transactions that are about to take one of them, or to let go of it. Index:
            ``uq_sqla_jobs_unique_key``.
    """
    if any(isinstance(source, ColumnElement) for _, source in sources):
        return _built(model, tuple(sources), unique)
    return _enqueue_many(model, tuple(sources), unique)


def _built(model: Model, sources: tuple[tuple[str, Source], ...], unique: bool) -> Executable:
    table = job_table(model)
    each = _each(table, sources)
    values = [_value(table, each, name, source) for name, source in sources]
    chosen = select(*values).select_from(each).order_by(each.c.n)
    made = insert(table).from_select([name for name, _ in sources], chosen)
    if unique:
        return _or_nothing(made, table).returning(table.c.id, table.c.unique_key)
    # One array: of ten thousand rows the driver makes as many tuples, which sends Python's garbage collector
    # through all the jobs that the caller has just made.
    rows = made.returning(table.c.id).cte("made")
    return select(func.array_agg(rows.c.id))


def _or_nothing(made: Insert, table: Table) -> Insert:
    return made.on_conflict_do_nothing(index_elements=[table.c.unique_key], index_where=table.c.unique_held)


_enqueue_many = once(_built)


def _each(table: Table, sources: Sequence[tuple[str, Source]]) -> TableValuedAlias:
    """A row for each job, numbered ``n``, with the values that differ."""
    told = [(name, source) for name, source in sources if isinstance(source, str)]
    lists: list[ColumnElement[Any]] = []
    names: list[str] = []
    for name, source in told:
        if source in ("each", "each_else"):
            lists.append(_list(f"p_{name}", table.c[name].type))
            names.append(name)
        elif source == "moment":
            lists += [_list(f"p_{name}", DateTime(timezone=True)), _list(f"p_{name}_in", Interval())]
            names += [name, f"{name}_in"]
    documents = [name for name, source in told if source.startswith("json")]
    if not lists and len(documents) == 1:
        return _documents(documents[0], "each")
    lists += [_collected(name) for name in documents]
    if lists:
        listed = func.unnest(*lists).table_valued(*names, *documents, with_ordinality="n")
        return listed.render_derived("each")
    numbers = func.generate_series(literal_column("1", Integer), bindparam("p_number", type_=Integer))
    return numbers.table_valued("n").render_derived("each")


def _list(name: str, type_: Any) -> ColumnElement[Any]:
    # A list of VARCHAR(3) would be cut to three characters without a word; what is inserted is refused.
    return bindparam(name, type_=ARRAY(Text() if isinstance(type_, String) else type_))


def _documents(name: str, alias: str) -> TableValuedAlias:
    # One text that the driver does not look into: as a list of texts, each to be quoted, it takes twice
    # the time. As json and not jsonb, which has a limit of 256 MB.
    text = cast(bindparam(f"p_{name}", type_=Text), JSON)
    return func.json_array_elements(text).table_valued(name, with_ordinality="n").render_derived(alias)


def _collected(name: str) -> ColumnElement[Any]:
    one = _documents(name, f"each_{name}")
    documents = func.array_agg(aggregate_order_by(one.c[name], one.c.n), type_=ARRAY(JSON))
    return select(documents).scalar_subquery()


def _value(table: Table, each: TableValuedAlias, name: str, source: Source) -> ColumnElement[Any]:
    column = table.c[name]
    if not isinstance(source, str):
        return source
    if source == "one":
        return bindparam(f"p_{name}", type_=column.type)
    if source == "moment":
        now = func.statement_timestamp(type_=DateTime(timezone=True))
        return func.coalesce(each.c[name], now + each.c[f"{name}_in"], now)
    value: ColumnElement[Any] = each.c[name]
    if source == "json_else":
        value = case((func.json_typeof(value) != "null", value))
    if source.startswith("json"):
        value = cast(value, column.type)
    default = _default(column) if source.endswith("_else") else None
    return value if default is None else func.coalesce(value, default)


def _default(column: Column[Any]) -> ColumnElement[Any] | None:
    default: Any = column.server_default if column.default is None else column.default
    if default is None:
        return None
    if isinstance(default.arg, str):
        return literal_column("'{}'".format(default.arg.replace("'", "''")), column.type)
    if isinstance(default.arg, TextClause):
        return literal_column(default.arg.text, column.type)
    given: ColumnElement[Any] = default.arg
    return given
