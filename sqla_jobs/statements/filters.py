"""Claim filters: a condition of the application's own on the jobs that a worker claims."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BindParameter,
    Boolean,
    ColumnClause,
    ColumnElement,
    Dialect,
    FunctionElement,
    FunctionFilter,
    Over,
    Table,
    Text,
    WithinGroup,
    cast,
    literal,
)
from sqlalchemy.dialects.postgresql import JSONB, psycopg
from sqlalchemy.exc import CompileError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.selectable import ReturnsRows
from sqlalchemy.sql.visitors import InternalTraversal, iterate, replacement_traverse

from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.statements.terms import Model, job_table

_DIALECT: Final[Dialect] = psycopg.dialect()  # type: ignore[no-untyped-call]
_AGGREGATES: Final = frozenset(
    {
        *(
            "count",
            "sum",
            "avg",
            "min",
            "max",
            "any_value",
            "every",
            "bool_and",
            "bool_or",
            "bit_and",
            "bit_or",
        ),
        *("array_agg", "string_agg", "json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg"),
    }
)
"""Of others PostgreSQL says so, when the worker starts."""


class _Constant(ColumnElement[bool]):
    """A condition whose values are written into the statement, as constants.

    A partial index serves a statement only if the planner sees that the statement's condition implies the
    index's. Of a parameter it does not: the driver prepares what it sends again and again, and PostgreSQL
    then plans it once for all values.

    To the statement it is one opaque piece: a condition on mapped attributes would make it one of the ORM.
    """

    __visit_name__ = "sqla_jobs_filter"
    inherit_cache = True
    _traverse_internals = [("sql", InternalTraversal.dp_string)]  # noqa: RUF012
    type = Boolean()  # pyright: ignore[reportIncompatibleMethodOverride]

    def __init__(self, condition: ColumnElement[bool], sql: str) -> None:
        self.condition = condition
        self.sql = sql


@compiles(_Constant)
def _in_place(element: _Constant, compiler: SQLCompiler, **options: Any) -> str:
    return f"({compiler.process(element.condition, **{**options, 'literal_binds': True})})"


@dataclass(frozen=True)
class Filter:
    """Which jobs a worker claims, as `filter_of` has made it; equal to another of the same SQL."""

    sql: str
    clause: ColumnElement[bool] = field(compare=False, repr=False)
    """For the WHERE of a statement that selects from the job table."""

    def predicate(self, dialect: Dialect) -> str:
        """The condition as it is written in the definition of an index."""
        assert isinstance(self.clause, _Constant)
        return _written(self.clause.condition, dialect, include_table=False)


def filter_of(model: Model, where: object) -> Filter:
    """A condition on the columns of a job model, checked.

    Raises:
        InvalidOption: it is none, or one that cannot be asked of a single row of the job table.
    """
    of_attribute: Any = getattr(where, "__clause_element__", None)
    condition: Any = where if of_attribute is None else of_attribute()
    example = (
        f"expected a condition on the columns of {model.__name__}, e.g. {model.__name__}.queue == 'mail'"
    )
    if not isinstance(condition, ColumnElement):
        raise InvalidOption(f"where is {shown(where)}; {example}")
    told = f"where is {_told(condition)}"
    _check_parts(model, condition, told, example)
    if not isinstance(condition.type, Boolean):
        raise InvalidOption(f"{told}, which is {condition.type!r}; {example}")
    written: ColumnElement[Any] = replacement_traverse(condition, {}, _json_as_text)
    try:
        sql = _written(written, _DIALECT)
    except CompileError as error:
        raise InvalidOption(
            f"{told}, of which a value cannot be written as a constant: {error}; "
            "compare with a text or a number, or cast one"
        ) from error
    return Filter(sql, _Constant(written, sql))


def _check_parts(model: Model, condition: ColumnElement[Any], told: str, example: str) -> None:
    table = job_table(model)
    mentions = False
    for part in iterate(condition):
        if isinstance(part, ReturnsRows) and not isinstance(part, (Table, FunctionElement)):
            raise InvalidOption(
                f"{told}, with a subquery, which a claim would run for each row that it looks at; {example}; "
                "keep what is asked for in a column of the job"
            )
        if _is_aggregate(part):
            raise InvalidOption(
                f"{told}, with an aggregate or window function: it is asked of one job; {example}"
            )
        if isinstance(part, BindParameter) and part.required:
            raise InvalidOption(f"{told}, whose parameter {part.key!r} has no value; {example}")
        if isinstance(part, ColumnClause) and part.table is not None:
            if part.table is not table:
                raise InvalidOption(
                    f"{told}, with a column of {_shown_table(part.table)}, not of {table.fullname}, which is "
                    f"the table of {model.__name__}; {example}"
                )
            mentions = True
    if not mentions:
        raise InvalidOption(f"{told}, which says nothing of a job; {example}")


def _shown_table(table: Any) -> str:
    """A table, or what takes its place, for a message."""
    return table.fullname if isinstance(table, Table) else f"{type(table).__name__} {table.name!r}"


def _is_aggregate(part: object) -> bool:
    if isinstance(part, (Over, FunctionFilter, WithinGroup)):
        return True
    return isinstance(part, FunctionElement) and getattr(part, "name", "").lower() in _AGGREGATES


def _json_as_text(element: Any, **_: Any) -> Any:
    # SQLAlchemy can write the constants of all types that jobs have, but not JSON documents for this driver.
    of_json = isinstance(element, BindParameter) and isinstance(element.type, JSON)
    if not of_json or isinstance(element.type, JSON.JSONElementType):
        return None
    return cast(literal(json.dumps(element.effective_value), Text), JSONB)


def _written(condition: ColumnElement[Any], dialect: Dialect, **options: Any) -> str:
    sql = str(condition.compile(dialect=dialect, compile_kwargs={"literal_binds": True, **options}))
    return sql.replace("%%", "%")  # doubled for the driver, which this does not go through


def _told(condition: ColumnElement[Any]) -> str:
    try:
        return shown(str(condition.compile(dialect=_DIALECT)))
    except CompileError:
        return shown(condition)
