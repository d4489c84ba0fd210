"""SAVEPOINT and RELEASE of a scope's own, as simple queries beneath the driver.

Through SQLAlchemy and the driver they take a third of the time that an ordinary job takes, and most of that
is not the server's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import psycopg
from psycopg import generators
from psycopg.errors import error_from_result
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGresult
from sqlalchemy import Connection, Dialect

_opening: WeakSet[Connection] = WeakSet()
"""Those whose next SAVEPOINT is a scope's own."""
_closing: WeakSet[Connection] = WeakSet()
"""Those whose next RELEASE is."""


def dive(dialect: Dialect) -> None:
    """Let a scope's own savepoints go beneath the driver wherever this dialect is used."""
    own = vars(dialect)
    if "do_savepoint" not in own:
        own["do_savepoint"] = _opened_by(dialect.do_savepoint)
        own["do_release_savepoint"] = _released_by(dialect.do_release_savepoint)


def opens(connection: Connection) -> None:
    """The next savepoint of this connection is a scope's own, and the first of its transaction."""
    _opening.add(connection)


@contextmanager
def releasing(connections: Iterable[Connection]) -> Iterator[None]:
    """What is released on these is a scope's own savepoint."""
    _closing.update(connections)
    try:
        yield
    finally:
        _closing.difference_update(connections)


def send(driver: psycopg.Connection[Any], sql: str) -> psycopg.Error | None:
    """Send a simple query; returns what the server refused it with."""
    return _refusal(driver, driver.pgconn.exec_(sql.encode()))


def post(driver: psycopg.Connection[Any], sql: str) -> None:
    """Send a simple query, and do not wait: nothing else may be sent before `answer`.

    Raises:
        psycopg.Error: it could not be sent.
    """
    driver.pgconn.send_query(sql.encode())


def answer(driver: psycopg.Connection[Any]) -> psycopg.Error | None:
    """Wait for the end of what was posted; returns what the server refused it with."""
    connection = driver.pgconn
    connection.consume_input()  # most likely it is there
    results: list[PGresult] = []
    while not connection.is_busy():
        if (result := connection.get_result()) is None:
            break
        results.append(result)
    else:  # all other threads would wait, too, if this one did in get_result()
        results += driver.wait(generators.execute(connection))
    return next(filter(None, (_refusal(driver, result) for result in results)), None)


def _refusal(driver: psycopg.Connection[Any], result: PGresult) -> psycopg.Error | None:
    if result.status == ExecStatus.COMMAND_OK:
        return None
    refusal = error_from_result(result)
    # As the driver says it of a connection that is gone.
    return psycopg.OperationalError(str(refusal)) if driver.closed else refusal


def _opened_by(usual: Callable[[Connection, str], None]) -> Callable[[Connection, str], None]:
    def do_savepoint(connection: Connection, name: str) -> None:
        if connection in _opening:
            _opening.discard(connection)
            driver = _driver(connection)
            if driver is not None:
                begins = driver.pgconn.transaction_status == TransactionStatus.IDLE and not driver.autocommit
                # With the BEGIN that the driver would send first, and wait for.
                begin = f"{driver._get_tx_start_command().decode()}; " if begins else ""
                if send(driver, f"{begin}SAVEPOINT {name}") is None:
                    return
        usual(connection, name)  # says what is wrong, too

    return do_savepoint


def _released_by(usual: Callable[[Connection, str], None]) -> Callable[[Connection, str], None]:
    def do_release_savepoint(connection: Connection, name: str) -> None:
        driver = _driver(connection) if connection in _closing else None
        if driver is None:
            usual(connection, name)
        elif (refusal := send(driver, sql := f"RELEASE SAVEPOINT {name}")) is not None:
            connection._handle_dbapi_exception(refusal, sql, None, None, None)

    return do_release_savepoint


def _driver(connection: Connection) -> psycopg.Connection[Any] | None:
    driver = connection.connection.driver_connection
    if isinstance(driver, psycopg.Connection) and driver.pgconn.pipeline_status == PipelineStatus.OFF:
        return driver
    return None
