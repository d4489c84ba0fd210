"""Listener: one connection of a worker, by which it is told of work and others see that it lives.

It listens on the channel of the job table, and holds the advisory lock of the worker's own row. Both end
with the connection, however that ends: by a kill, a restart of the server, or a cable.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

from sqlalchemy import Connection, Engine

from sqla_jobs import statements, wakeup
from sqla_jobs.models import JobMixin

log = logging.getLogger("sqla_jobs")

_BACKOFF: Final = (0.0, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_DENY_AGAIN: Final = 0.2
_LOCK_AGAIN: Final = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_STABLE: Final = 10.0
"""Seconds after which a connection that is lost is not taken for one of a series."""

# One that goes on while the machine is suspended, as the server's does.
_CLOCK: Final[int] = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Listener:
    """`run` is the duty of one thread; all else may be called by others, and returns at once.

    Parameters:
        worker_id: whose row is locked.
        queues: of which the worker is told; None: of any.
        on_work: called when a job is ready, and after each connecting.
        on_times: called when a job waits for a time, or a cancel is requested of this worker, and after
            each connecting.
        on_lost: lets the row not say ``locked`` any more; called again and again until it does not raise.
    """

    def __init__(
        self,
        engine: Engine,
        model: type[JobMixin],
        worker_id: int,
        *,
        queues: Collection[str] | None,
        on_work: Callable[[], object],
        on_times: Callable[[], object],
        on_lost: Callable[[], object],
    ) -> None:
        self._engine = wakeup.apart(engine)
        self._model = model
        self._queues = queues
        self._on_work, self._on_times, self._on_lost = on_work, on_times, on_lost
        self._guard = threading.Lock()
        self._waker: _Waker | None = None
        self._stopped = False
        self._worker_id = worker_id
        self._locked: int | None = None
        self._says_locked = False
        self._since: float | None = None
        self._connections = 0
        self._failures = 0

    # -- for other threads -------------------------------------------------------------------------

    def stop(self) -> None:
        """End `run`, and the connection with it."""
        self._stopped = True
        self._wake()

    def identify(self, worker_id: int) -> None:
        """The worker has another row from now on: lock that."""
        self._worker_id = worker_id
        self._wake()

    @property
    def holds_lock(self) -> bool:
        """Whether others see by the lock that this worker lives."""
        return self._locked == self._worker_id

    def is_older_than(self, seconds: float) -> bool:
        """Whether the connection has lasted that long.

        If not, that somebody else's lock is free may mean no more than that all connections were lost.
        """
        since = self._since
        return since is not None and _clock() - since >= seconds

    @property
    def is_first(self) -> bool:
        """Whether the connection is there and the first one of this process."""
        return self._since is not None and self._connections == 1

    def _wake(self) -> None:
        with self._guard:
            if self._waker is not None:
                self._waker.wake()

    # -- the thread --------------------------------------------------------------------------------

    def run(self) -> None:
        """Listen until `stop`, on one connection after the other."""
        with self._guard:
            self._waker = waker = _Waker()
        try:
            while not self._stopped:
                try:
                    with self._connected() as (connection, driver):
                        if self._is_pooled(connection, driver):
                            return
                        self._serve(connection, driver, waker)
                except Exception as error:
                    self._report(error)
                if not self._stopped:
                    self._after_loss(waker)
        finally:
            self._engine.dispose()
            with self._guard:
                self._waker = None
                waker.close()

    @contextmanager
    def _connected(self) -> Iterator[tuple[Connection, Any]]:
        with self._engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            driver = connection.connection.driver_connection
            assert driver is not None
            try:
                with _not_for_children(driver.fileno()):
                    yield connection, driver
            finally:
                if self.is_older_than(_STABLE):
                    self._failures = 0
                self._since = self._locked = None
                connection.invalidate()  # the lock is the session's, and would outlive a rollback

    def _is_pooled(self, connection: Connection, driver: Any) -> bool:
        """Whether a pooler is in between, which gives each client another number than the server's own.

        In transaction mode it would leave the lock with a connection that is anybody's next.
        """
        if connection.scalar(statements.backend()) == driver.info.backend_pid:
            return False
        log.warning(
            "a connection pooler is between this worker and its server, and neither notifications nor locks "
            "are sure to survive one: the worker polls, and is judged by its heartbeats. Jobs(notify=False) "
            "says that this is meant (in transaction mode with prepare_threshold=None in connect_args, or "
            "prepared statements fail); a worker with a direct connection to the server does better"
        )
        return True

    def _serve(self, connection: Connection, driver: Any, waker: _Waker) -> None:
        early: list[str] = []
        driver.add_notify_handler(lambda notify: early.append(notify.payload))
        connection.execute(statements.keep_alive())
        connection.execute(statements.listen(self._model))
        self._connections += 1
        self._since = _clock()
        if self._failures:
            log.info("listening again")
        # From here on we are told. What was committed before is seen by the look that follows this.
        self._on_work()
        self._on_times()
        pgconn = driver.pgconn
        attempts, try_at = 0, 0.0
        with selectors.PollSelector() as selector:
            selector.register(driver.fileno(), selectors.EVENT_READ)
            selector.register(waker, selectors.EVENT_READ)
            while not self._stopped:
                if self._locked != self._worker_id and _clock() >= try_at:
                    attempts = 0 if self._try_lock(connection) else attempts + 1
                    try_at = _clock() + _LOCK_AGAIN[min(attempts, len(_LOCK_AGAIN)) - 1]
                # Before the wait: a statement may have read more from the socket than its own answer.
                self._heed([*early, *_payloads(pgconn)])
                early.clear()
                selector.select(None if self.holds_lock else max(0.0, try_at - _clock()))
                waker.clear()
                pgconn.consume_input()  # raises when the connection has ended

    def _try_lock(self, connection: Connection) -> bool:
        wanted = {"p_id": self._worker_id}
        if self._locked is not None:
            connection.execute(statements.unlock())
            self._locked = None
        if not connection.scalar(statements.lock(self._model), wanted):
            return False  # no row: the next heartbeat finds that out, and registers anew
        self._says_locked = True
        # The lock first, then the word for it: who has read the word may take a free lock for a death.
        connection.execute(statements.say_locked(self._model), wanted)
        self._locked = wanted["p_id"]
        return True

    def _heed(self, payloads: Collection[str]) -> None:
        if not payloads:
            return
        news = wakeup.read(set(payloads), self._worker_id, self._queues)
        if news.of_work:
            self._on_work()
        if news.of_times:
            self._on_times()

    # -- after a loss ------------------------------------------------------------------------------

    def _after_loss(self, waker: _Waker) -> None:
        until = _clock() + _BACKOFF[min(self._failures, len(_BACKOFF)) - 1]
        waker.clear()
        while not self._stopped:
            # Before anything else, and until it is done: others may see the free lock.
            if self._says_locked:
                try:
                    self._on_lost()
                    self._says_locked = False
                except Exception as error:
                    with suppress(Exception):  # an application's log filter
                        log.debug("the row still says that it is locked: %s", error)
            left = until - _clock()
            if left <= 0:
                return
            waker.wait(min(left, _DENY_AGAIN) if self._says_locked else left)
            waker.clear()

    def _report(self, error: Exception) -> None:
        """Once an outage; in the meantime the worker polls."""
        self._failures += 1
        if self._failures == 1:
            told = (str(error).splitlines() or [type(error).__name__])[0]
            with suppress(Exception):  # an application's log filter
                log.warning("the listening connection is lost, polling until it is back: %s", told)


def _payloads(pgconn: Any) -> Iterator[str]:
    while (notify := pgconn.notifies()) is not None:
        yield notify.extra.decode(errors="replace")


def _clock() -> float:
    return time.clock_gettime(_CLOCK)


class _Waker:
    """Ends another thread's wait for a socket."""

    def __init__(self) -> None:
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)

    def fileno(self) -> int:
        return self._reader.fileno()

    def wake(self) -> None:
        with suppress(BlockingIOError):  # it is full of wakes already
            self._writer.send(b"\0")

    def clear(self) -> None:
        with suppress(BlockingIOError):
            while self._reader.recv(4096):
                pass

    def wait(self, seconds: float) -> None:
        with selectors.PollSelector() as selector:
            selector.register(self, selectors.EVENT_READ)
            selector.select(seconds)

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


# -- forks -----------------------------------------------------------------------------------------

_sockets: set[int] = set()


@contextmanager
def _not_for_children(descriptor: int) -> Iterator[None]:
    """A child that a job forks, and that outlives this process, shall not keep its lock."""
    _sockets.add(descriptor)
    try:
        yield
    finally:
        _sockets.discard(descriptor)


def _close_in_child() -> None:
    for descriptor in _sockets:
        with suppress(OSError):
            os.close(descriptor)  # our copy; the parent's connection goes on
    _sockets.clear()


os.register_at_fork(after_in_child=_close_in_child)
