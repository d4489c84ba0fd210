"""One connection that a worker keeps, for what it sends again and again while it is idle."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sqlalchemy import Connection, Engine
from sqlalchemy.pool import QueuePool

from sqla_jobs import lifecycle, wakeup

_PATIENCE: Final = 1.0


class Kept:
    """A connection on which each statement is a transaction of its own: one round trip instead of three.

    From a commit to the start of its job most of the time is that of the claim: with a connection from the
    pool, BEGIN, statement and COMMIT it takes twice as long. One is enough: nobody waits for it, and who
    finds it taken goes to the pool.
    """

    def __init__(self, engine: Engine) -> None:
        self._application = engine
        self._engine = wakeup.apart(engine)
        lifecycle.overhear(self._engine)  # through the application's, on which `stand_guard` was called
        self._free = threading.Lock()
        self._open: list[Connection] = []

    @contextmanager
    def borrowed(self) -> Iterator[Connection | None]:
        """The connection; None: somebody else has it, or another way is right.

        That is so where a single statement would not be READ COMMITTED; where the application does something
        at the begin of a transaction, such as SET LOCAL; and while its pool has nothing left: a job that was
        claimed all the same would wait for its own connection in vain.
        """
        elsewhere = _is_exhausted(self._application.pool) or bool(self._application.dispatch.begin)
        if elsewhere or not self._free.acquire(blocking=False):
            yield None
            return
        try:
            connection = self._connected()
            # That of the server, a database or a role; what an engine is told does not apply without BEGIN.
            yield connection if connection.default_isolation_level == "READ COMMITTED" else None
        except BaseException:
            _close(self._open, self._engine)
            raise
        finally:
            self._free.release()

    def _connected(self) -> Connection:
        if not self._open:
            connection = self._engine.connect()
            self._open.append(connection.execution_options(isolation_level="AUTOCOMMIT"))
        return self._open[0]

    def close(self) -> None:
        """Give it up; it is opened again if it is needed again."""
        # Who has it may wait for a lock on the table, for as long as that takes.
        if self._free.acquire(timeout=_PATIENCE):
            try:
                _close(self._open, self._engine)
            finally:
                self._free.release()


def _is_exhausted(pool: object) -> bool:
    if not isinstance(pool, QueuePool) or pool.size() == 0 or pool._max_overflow < 0:
        return False
    return pool.checkedout() >= pool.size() + pool._max_overflow


def _close(connections: list[Connection], engine: Engine) -> None:
    while connections:
        with suppress(Exception):  # it may be in any state
            connections.pop().close()
    engine.dispose()
