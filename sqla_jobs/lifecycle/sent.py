"""How a verb's statement is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary, WeakSet

import psycopg
from psycopg.rows import tuple_row
from sqlalchemy import Connection, Dialect, Engine
from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.models import JobMixin

Model = type[JobMixin]

_overheard: WeakSet[Engine] = WeakSet()
_rendered_for: WeakKeyDictionary[Dialect, dict[Any, tuple[str, Mapping[str, Any]]]] = WeakKeyDictionary()


def overhear(engine: Engine) -> None:
    """One listener to its ``before_cursor_execute`` is ours, and does nothing at the queue's statements."""
    _overheard.add(engine)


def target(model: Model) -> dict[str, Any]:
    """Bind arguments that lead to the job table, for a Session of several engines (binds, get_bind).

    As for an UPDATE, also where the queue only reads: a Session that sends reads to a replica must send
    the claim's SELECT … FOR UPDATE where it sends its writes.
    """
    return {"mapper": model, "clause": statements.finish(model, "running")}


def execute(session: Session | Connection, model: Model, statement: Any, /, **parameters: Any) -> Any:
    """Execute a statement where the job table is.

    Parameters:
        session: or a Connection to where it is, which does it in half the time.
    """
    if isinstance(session, Connection):
        if session.get_execution_options().get("schema_translate_map"):
            return session.execute(statement, parameters)
        sql, given = _rendered(statement, session.dialect)
        return session.exec_driver_sql(sql, {**given, **parameters})
    return session.execute(statement, parameters, bind_arguments=target(model))


def fetch(
    session: Session | Connection, model: Model, statement: Any, /, **parameters: Any
) -> Sequence[Sequence[Any]]:
    """`execute` for what is sent with each job: the rows, by position.

    On a Connection that nobody listens to, and whose statements nobody has logged, the driver does it alone:
    SQLAlchemy's part takes as long as the driver's.
    """
    if isinstance(session, Connection) and _is_unheard(session):
        driver = session.connection.driver_connection
        if isinstance(driver, psycopg.Connection):
            sql, given = _rendered(statement, session.dialect)
            every = {**given, **{name: _dumped(value) for name, value in parameters.items()}}
            cursor = driver.cursor(row_factory=tuple_row)
            try:
                return cursor.execute(cast(Any, sql), every).fetchall()
            except psycopg.Error as error:
                session._handle_dbapi_exception(error, sql, every, None, None)
    rows: Sequence[Sequence[Any]] = execute(session, model, statement, **parameters).all()
    return rows


def _dumped(value: Any) -> Any:
    """A list of ids as the text of an array: the driver takes a microsecond for each."""
    if type(value) is list and value and type(value[0]) is int:
        return f"{{{','.join(map(str, value))}}}"
    return value


def _is_unheard(connection: Connection) -> bool:
    heard = connection.dispatch
    return not (
        connection._echo
        or len(heard.before_cursor_execute) > (connection.engine in _overheard)
        or heard.after_cursor_execute
        or connection.dialect.dispatch.do_execute
        or connection.get_execution_options().get("schema_translate_map")
    )


def _rendered(statement: Any, dialect: Dialect) -> tuple[str, Mapping[str, Any]]:
    """A statement as the driver takes it: to find it in SQLAlchemy's cache costs as much as to send it."""
    known = _rendered_for.setdefault(dialect, {})
    if statement not in known:
        compiled = statement.compile(dialect=dialect)
        known[statement] = str(compiled), compiled.params
    return known[statement]


def selection(queues: Sequence[str] | None) -> dict[str, Any]:
    """A list of queues as the parameter of a statement; none for any queue."""
    return {"queues": list(queues)} if queues else {}


class LeftOut(NamedTuple):
    """What a claim leaves to `claim_counted`, or passes over, where there are tasks with a limit."""

    limited: list[str]
    """The names of these tasks."""
    full: list[str]
    """The keys of which as many jobs run as may."""


def left_out(left: LeftOut | None) -> dict[str, Any]:
    """The same as the parameters of a statement; None: there are no such tasks."""
    return {} if left is None else left._asdict()
