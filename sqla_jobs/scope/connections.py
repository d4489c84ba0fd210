"""The connections that a job comes to: what is watched on them, what they were like, how they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from weakref import WeakSet

import psycopg
from psycopg.pq import TransactionStatus
from sqlalchemy import Connection, Dialect, Engine, Transaction, event
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session

from sqla_jobs import lifecycle
from sqla_jobs.errors import ConfigurationError, JobEscaped
from sqla_jobs.scope.beneath import dive

GUARDED: Final = (
    "before_cursor_execute", "commit", "rollback", "commit_twophase", "rollback_twophase",
)  # fmt: skip
"""The events that are listened to while a job has a connection."""

Guards = Mapping[str, Callable[..., None]]

_watched: dict[Connection, tuple[Guards, ...]] = {}
"""Connections of engines that `stand_guard` was called for, while a job has them, or two of them."""


def _sentry(name: str) -> Callable[..., None]:
    def on_event(connection: Connection, *arguments: Any) -> None:
        for guards in _watched.get(connection, ()):
            if name in guards:
                guards[name](connection, *arguments)

    return on_event


SENTRIES: Final = {name: _sentry(name) for name in GUARDED}
_guarded: WeakSet[Engine] = WeakSet()


def stand_guard(engine: Engine) -> None:
    """Listen on an engine once, for all jobs: on a connection, for one, it costs as much as a statement."""
    dive(engine.dialect)
    for name, sentry in SENTRIES.items():
        if engine not in _guarded:
            event.listen(engine, name, sentry)
    lifecycle.overhear(engine)
    _guarded.add(engine)


@dataclass(frozen=True)
class _Found:
    """A connection as the job has come to it."""

    transaction: Transaction
    options: Mapping[str, Any]


class Connections:
    """Every connection that a job has come to.

    Parameters:
        guards: listeners by the event's name; each connection has them until `unwatch`.
    """

    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._found: dict[Connection, _Found] = {}
        self._watched: list[Connection] = []
        self.refused: dict[Connection, Exception] = {}
        """Those that the job must not use, and why."""
        self.any_came = False

    def __iter__(self) -> Iterator[Connection]:
        """Those that the job may use."""
        return iter([connection for connection in self._found if connection not in self.refused])

    def __contains__(self, connection: Connection) -> bool:
        return connection in self._found

    def watch(self, connection: Connection) -> None:
        """The job has come to this one."""
        transaction = connection.get_transaction()
        assert transaction is not None
        self.any_came = True
        if connection.engine in _guarded:
            _watched[connection] = (*_watched.get(connection, ()), self._guards)
        else:
            for name, guard in self._guards.items():
                event.listen(connection, name, guard)
        self._watched.append(connection)
        self._found[connection] = _Found(transaction, connection.get_execution_options())

    def unwatch(self) -> None:
        """No more listening, because the job is over, or for something that is not the job's doing."""
        while self._watched:
            connection = self._watched.pop()
            watching = _watched.pop(connection, ())
            if others := tuple(each for each in watching if each is not self._guards):
                _watched[connection] = others
            if len(others) == len(watching):
                for name, guard in self._guards.items():
                    event.remove(connection, name, guard)

    def forget(self) -> None:
        """Their transactions have been ended, in order."""
        self._found.clear()

    def are(self, status: TransactionStatus) -> bool:
        """Whether any of them is in this state, by the driver's own knowledge."""
        for connection in self._found:  # often, and mostly there is one
            if connection not in self.refused and status_of(connection) == status:
                return True
        return False

    def is_lost(self, connection: Connection) -> bool:
        """Whether the transaction in which the job came to it is not its transaction any more."""
        ended = not self._found[connection].transaction.is_active
        return connection.closed or connection.invalidated or ended

    def restore_options(self) -> None:
        """Take back the options that the job gave a connection: ``stream_results`` breaks RELEASE."""
        for connection, found in self._found.items():
            now = connection.get_execution_options()
            if now is not found.options:
                # The level cannot be changed within a transaction, not even back.
                changed = {name: found.options.get(name) for name in now if name != "isolation_level"}
                connection.execution_options(**changed)

    def abandon(self, *, close: bool) -> None:
        """End the transactions that SQLAlchemy takes for ended, and so would not end on the server.

        Parameters:
            close: end them all, with their connections.
        """
        for connection in self._found:
            if connection.closed or connection.invalidated:
                continue
            # While a query is running, the driver's lock is held: a ROLLBACK would wait for ever.
            if close or status_of(connection) == TransactionStatus.ACTIVE:
                connection.invalidate()
            elif self.is_lost(connection):
                _roll_back_raw(connection)


def _roll_back_raw(connection: Connection) -> None:
    try:
        connection.connection.rollback()
    except Exception:
        connection.invalidate()


def status_of(connection: Connection) -> int | None:
    """The transaction's status as psycopg knows it; None: the connection is gone, or of another driver."""
    if connection.closed or connection.invalidated:
        return None
    # Of a detached connection there is no driver_connection; of an asyncio one this is an adapter.
    raw = connection.connection.dbapi_connection
    driver = getattr(raw, "driver_connection", raw)
    if not isinstance(driver, (psycopg.Connection, psycopg.AsyncConnection)):
        return None
    return driver.pgconn.transaction_status


def refuse_driver(dialect: Dialect) -> None:
    """Raise ConfigurationError for another driver than psycopg 3, whose error codes are relied upon."""
    if dialect.driver not in ("psycopg", "psycopg_async"):
        raise ConfigurationError(
            f"the engine's driver is {dialect.driver}, and sqla_jobs works with psycopg 3: "
            "create_engine('postgresql+psycopg://…')"
        )


def refuse_autocommit(connection: Connection) -> None:
    """Raise InvalidRequestError if the connection commits each statement by itself."""
    if getattr(connection.connection.dbapi_connection, "autocommit", False) is True:
        raise InvalidRequestError(
            "the Session's connection is in AUTOCOMMIT, which has no savepoints and no transaction to "
            "share with a job; use an engine with a transactional isolation level"
        )


def refuse_level(connection: Connection, session: Session, options: Mapping[str, Any] | None = None) -> None:
    """Raise JobEscaped if the connection began at a level that neither its engine nor its Session has.

    Parameters:
        options: what is asked for; None: what the connection has.
    """
    usual = {**connection.engine.get_execution_options(), **getattr(session, "execution_options", {})}
    level = usual.get("isolation_level")
    asked = (
        connection.get_execution_options().get("isolation_level")
        if options is None
        else options.get("isolation_level", level)
    )
    if asked != level:
        raise JobEscaped(
            f"the job asked for isolation level {asked!r}, but the transaction is not its own; "
            "set the level on the engine"
        )
