"""Enqueue without a flush: one job by itself; many by one INSERT out of lists.

Where that says too little of many jobs, it is a flush of copies of them.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import ClauseElement, ColumnElement, Connection, Dialect
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.orm import ColumnProperty, Mapper, Session
from sqlalchemy.orm.attributes import instance_dict

from sqla_jobs import statements, wakeup
from sqla_jobs.errors import EnqueueError
from sqla_jobs.lifecycle.sent import Model, execute, target
from sqla_jobs.models import Job, JobMixin
from sqla_jobs.statements import Source

Tell = Callable[[Session, Connection, Sequence[JobMixin]], None]

# Whose values the driver takes in a list as it takes one. Any other may want to see each by itself: a type of
# the application's own, an Enum, or an array, which in a list would be one array of more dimensions.
_SCALARS: Final = frozenset({
    sa.Text, sa.String, sa.Unicode, sa.UnicodeText, sa.VARCHAR, sa.TEXT,
    sa.Integer, sa.SmallInteger, sa.BigInteger, sa.INTEGER, sa.SMALLINT, sa.BIGINT,
    sa.Boolean, sa.BOOLEAN, sa.Numeric, sa.NUMERIC, sa.Float, sa.FLOAT, sa.REAL, sa.Double,
    sa.DOUBLE_PRECISION, sa.DateTime, sa.TIMESTAMP, pg.TIMESTAMP, sa.Date, sa.DATE, sa.Interval, pg.INTERVAL,
    sa.Uuid, sa.UUID,
})  # fmt: skip
_DOCUMENTS: Final = frozenset({sa.JSON, pg.JSON, pg.JSONB})

# Each alone: a list of two sorts, or of a class of the application's own, a driver refuses or misreads.
_PYTHON: Final = frozenset(
    {str, int, bool, float, dt.datetime, dt.date, dt.timedelta, uuid.UUID, decimal.Decimal}
)

_KNOWN: Final = frozenset(statements.ENQUEUED)
_COLUMNS: Final = frozenset(Job.__table__.c.keys())


class _NotInLists(Exception):
    """These jobs cannot be said in lists."""


def enqueue_many(session: Session, model: Model, jobs: Sequence[JobMixin], tell: Tell) -> list[int]:
    """Insert new jobs in the caller's transaction; their ids, in the same order.

    The jobs stay as they are, and outside of the Session. What is pending there is flushed first, as
    `enqueue` does.

    Parameters:
        jobs: at least one; in no Session.
        tell: lets workers know of jobs that were inserted there; a flush does it by itself.
    """
    session.flush()
    connection = session.connection(bind_arguments=target(model))
    try:
        sources, parameters = _in_lists(model, jobs, connection.dialect)
    except _NotInLists:
        return _flush_copies(session, jobs)
    statement = statements.enqueue_many(model, sources)
    ids = connection.execute(statement, {**parameters, "p_number": len(jobs)}).scalar_one() or []
    if len(ids) != len(jobs):
        raise EnqueueError(
            f"{len(jobs)} jobs were to be enqueued, but the table took {len(ids)} rows; expected all: a"
            " trigger on it leaves out some. Enqueue one by one those that it takes"
        )
    tell(session, connection, jobs)
    return sorted(ids)


def insert_in_lists(
    session: Session,
    model: Model,
    jobs: Sequence[JobMixin],
    tell: Tell,
    one: Callable[[Session, JobMixin], bool],
) -> dict[str, int]:
    """Insert those new jobs whose unique keys nobody holds; their ids by their keys, all different.

    Parameters:
        one: inserts a job that cannot be said in a list, and says whether it did.
    """
    connection = session.connection(bind_arguments=target(model))
    try:
        sources, parameters = _in_lists(model, jobs, connection.dialect)
    except _NotInLists:
        return _one_by_one(session, jobs, one)
    statement = statements.enqueue_many(model, sources, unique=True)
    rows = connection.execute(statement, {**parameters, "p_number": len(jobs)})
    ids = {row.unique_key: row.id for row in rows}
    tell(session, connection, [job for job in jobs if job.unique_key in ids])
    return ids


# -- one by itself ---------------------------------------------------------------------------------


def can_insert(job: JobMixin) -> bool:
    """Whether `insert` takes all that is set of it: no column beside a task's options and arguments."""
    for key, value in vars(job).items():
        if key not in _KNOWN and (key in _COLUMNS or not key.startswith("_")):
            return False
        if isinstance(value, ClauseElement) and (key != "run_at" or _delay(value) is None):
            return False
    return True


def insert(connection: Connection, job: JobMixin, notice: wakeup.Notice | None) -> dict[str, Any] | None:
    """Insert one job that `can_insert` takes, and tell workers of it; what its other columns are now.

    None: another job holds its unique key.

    Parameters:
        notice: what is told, in the same statement.
    """
    model = type(job)
    values = {key: value for key, value in vars(job).items() if key in _KNOWN and value is not None}
    write = getattr(connection.dialect, "_json_serializer", None) or json.dumps
    text = write(values.pop("arguments", {}))
    given: dict[str, Any] = {"p_arguments": text.decode() if isinstance(text, bytes) else text}
    if "meta" in values:
        values["meta"] = json.dumps(values["meta"])
    delay = _delay(values.get("run_at"))
    if delay is not None:
        given["delay"] = delay
        del values["run_at"]
    for key, value in values.items():
        given[f"p_{key}"] = value
    if notice is not None:
        given["channel"], given["payload"] = notice
    columns = tuple(values)
    unique = bool(values.get("unique_held"))
    statement = statements.enqueue(model, columns, delay is not None, notice is not None, unique)
    found = execute(connection, model, statement, **given)
    row = found.one_or_none() if unique else found.one()
    return row and dict(zip(statements.left_to_the_table(model, columns), row, strict=False))


def _delay(moment: Any) -> dt.timedelta | None:
    return statements.delay_of(moment) if isinstance(moment, ColumnElement) else None


# -- by lists --------------------------------------------------------------------------------------


def _in_lists(
    model: Model, jobs: Sequence[JobMixin], dialect: Dialect
) -> tuple[list[tuple[str, Source]], dict[str, Any]]:
    """Where each column has its values from, and the parameters with them."""
    mapper: Mapper[Any] = sa.inspect(model)
    _check_mapper(mapper, jobs)
    rows = [vars(job) for job in jobs]
    known = set[str]().union(*rows)
    sources: list[tuple[str, Source]] = []
    parameters: dict[str, Any] = {}
    for column_property in mapper.column_attrs:
        column = _column(column_property)
        key = column_property.key
        values = [row.get(key) for row in rows] if key in known else ()
        if all(value is None for value in values):
            # An INSERT … SELECT would call a function of Python once, for all rows.
            _refuse(column.default is not None and column.default.is_callable)
            _refuse(key in known and _stores_none(column, key, rows))
            continue
        _refuse(column.primary_key)  # ids that are given need not be in the order of the jobs
        source, given = _source(column, key, values, rows, dialect)
        sources.append((column.name, source))
        parameters.update(given)
    return sources, parameters


def _check_mapper(mapper: Mapper[Any], jobs: Sequence[JobMixin]) -> None:
    # What a flush would add to the row, or where it would write another one.
    _refuse(mapper.polymorphic_on is not None or mapper.inherits is not None)
    _refuse(mapper.version_id_col is not None or dataclasses.is_dataclass(mapper.class_))
    _refuse(not all(type(job) is mapper.class_ for job in jobs))
    # Listeners of the application's own, beside ours in `flush`.
    _refuse(len(mapper.dispatch.before_insert) != 1 or len(mapper.dispatch.after_insert) != 1)


def _refuse(reason: bool) -> None:
    if reason:
        raise _NotInLists


def _column(column_property: ColumnProperty[Any]) -> Any:
    column = column_property.columns[0]
    _refuse(not isinstance(column, sa.Column))
    return column


def _stores_none(column: Any, key: str, rows: Sequence[dict[str, Any]]) -> bool:
    """Whether a None that is set is a value, JSON's null, and not the column's default."""
    return column.type.should_evaluate_none and any(row.get(key, row) is None for row in rows)


def _source(
    column: Any, key: str, values: Sequence[Any], rows: Sequence[dict[str, Any]], dialect: Dialect
) -> tuple[Source, dict[str, Any]]:
    name, first = f"p_{column.name}", values[0]
    document = type(column.type) in _DOCUMENTS
    _refuse(not document and type(column.type) not in _SCALARS)
    if all(value is first for value in values) or (key == "meta" and all(value == first for value in values)):
        expression = _expression(first)
        return ("one", {name: first}) if expression is None else (expression, {})
    missing = any(value is None for value in values)
    if missing:
        _refuse(_stores_none(column, key, rows) or not _default_can_be_told(column))
        default = column.default
        if default is not None and default.is_scalar:
            values, missing = [default.arg if value is None else value for value in values], False
    if document:
        _refuse(any(_expression(value) is not None for value in values))
        return "json_else" if missing else "json", {name: _written(values, dialect)}
    if key == "run_at":
        return _moments(name, values)
    _check_kind(values)
    return "each_else" if missing else "each", {name: list(values)}


def _written(values: Sequence[Any], dialect: Dialect) -> str:
    """Documents as one, by the engine's own ``json_serializer``: it may know more types."""
    write = getattr(dialect, "_json_serializer", None) or json.dumps
    try:
        text = write(list(values))
    except Exception as error:  # SQLAlchemy's JSON.NULL, or what the driver has been taught to write
        raise _NotInLists from error
    return text.decode() if isinstance(text, bytes) else text


def _moments(name: str, values: Sequence[Any]) -> tuple[Source, dict[str, Any]]:
    """Times of which some are so long from now, or now."""
    delays = [_delay(value) for value in values]
    moments = [value if delay is None else None for value, delay in zip(values, delays, strict=True)]
    _check_kind(moments)
    if not any(delays):
        return "moment", {name: moments, f"{name}_in": [None] * len(moments)}
    return "moment", {name: moments, f"{name}_in": delays}


def _check_kind(values: Sequence[Any]) -> None:
    kinds = set(map(type, values)) - {type(None)}
    _refuse(len(kinds) > 1 or not kinds <= _PYTHON)
    if kinds == {dt.datetime}:
        _refuse(len({value.tzinfo is None for value in values if value is not None}) > 1)


def _expression(value: Any) -> Any:
    """SQL that was given as a value, as SQLAlchemy tells it; None: it is a value."""
    if isinstance(value, ClauseElement):
        _refuse(not isinstance(value, ColumnElement))
        return value
    _refuse(hasattr(value, "__clause_element__"))
    return None


def _default_can_be_told(column: Any) -> bool:
    default = column.default
    if default is not None:
        return bool(default.is_scalar or default.is_clause_element)
    default = column.server_default
    return default is None or (isinstance(default, sa.DefaultClause) and not default.is_identity)


# -- by a flush ------------------------------------------------------------------------------------


def _flush_copies(session: Session, jobs: Sequence[JobMixin]) -> list[int]:
    copies = [_copy(job) for job in jobs]
    session.add_all(copies)
    try:
        session.flush()
        return [copy.id for copy in copies]
    finally:
        for copy in copies:
            if copy in session:
                session.expunge(copy)


def _one_by_one(
    session: Session, jobs: Sequence[JobMixin], one: Callable[[Session, JobMixin], bool]
) -> dict[str, int]:
    ids: dict[str, int] = {}
    for job in jobs:
        copy = _copy(job)
        if one(session, copy):
            ids[str(job.unique_key)] = copy.id
            session.expunge(copy)
    return ids


def _copy(job: JobMixin) -> JobMixin:
    mapper: Mapper[Any] = sa.inspect(type(job))
    copy: JobMixin = mapper.class_manager.new_instance()
    values = vars(job)
    # What a flush reads, and no more: a setter of the application's own has had its turn already.
    instance_dict(copy).update(
        {each.key: values[each.key] for each in mapper.column_attrs if each.key in values}
    )
    wakeup.mark(copy, wakeup.mode_of(job))
    return copy
