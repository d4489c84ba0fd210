"""End a job from another thread: for its timeout, because somebody cancelled it, or the worker stops.

An exception is raised in the job's thread, and the statement that the thread waits for is cancelled.
Neither may hit what comes after the job, its finish least of all: interrupting and leaving the job take
the same lock, and who leaves clears an exception that is still pending.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from enum import Enum
from types import FrameType
from typing import Any, Final, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from sqla_jobs.errors.signals import Interrupted

T = TypeVar("T")
log = logging.getLogger("sqla_jobs")

_set_pending: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_set_pending.argtypes = [ctypes.c_ulong, ctypes.py_object]
_set_pending.restype = ctypes.c_int
_NOTHING: Final = ctypes.py_object()  # NULL, which None is not

CANCEL_WAITS: Final = 5.0
"""Seconds that the server has to take a request to cancel a statement."""

_STATEMENTS_ONLY: Final = 5
_FRAGILE: Final = ("logging", "sqlalchemy.pool", "sqlalchemy.util.queue")
"""Modules that hold a lock, or count what they hand out, in ways that an exception between two bytecodes
would leave behind: for a moment it waits until the thread is out of them."""
_FRAGILE_FOR: Final = 1.0


class Phase(Enum):
    """How far a run has come."""

    BEFORE = "not begun, or between two runs"
    BODY = "the task's own code"
    AFTER = "its flush, on which only a statement can be cancelled"
    THROUGH = "its outcome is being recorded"


class Interrupter:
    """What another thread ends one job by. `interrupt` may be called by any thread; the rest is its own's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._phase = Phase.BEFORE
        self._thread = 0
        self._drivers: list[Any] = []
        self.since = 0.0
        """When it was first interrupted, by `time.monotonic`."""
        self.began: float | None = None
        """When its body began to run, the last time."""
        self._times = 0
        self._struck = False
        """Whether the body of this run was interrupted, be it that it has noticed or not."""
        self.given_up = False
        """Whether its outcome is recorded without it, because it does not come to an end."""
        self.reason: Exception | None = None
        """Why the job is to end; None: nobody wants it to."""
        self.used_since: float | None = None
        """When the job began to use a connection, by `time.monotonic`; None: it does not."""

    # -- by another thread -------------------------------------------------------------------------

    def interrupt(self, reason: Exception) -> None:
        """End the job, and again if it goes on all the same; the first reason counts.

        A job that has not begun does not begin; one that is through is not touched.
        """
        with self._lock:
            if self._phase is Phase.THROUGH:
                return
            if self.reason is None:
                self.reason, self.since = reason, time.monotonic()
            if self._phase is Phase.BEFORE:
                return
            self._struck = True
            self._act()

    def _act(self) -> None:
        waiting = [driver for driver in self._drivers if waits(driver)]
        for driver in waiting:
            _cancel(driver)
        if self._raises(waiting) and not self._is_fragile():
            _set_pending(self._thread, Interrupted)

    def _raises(self, waiting: Collection[Any]) -> bool:
        """Whether to raise in the body, besides cancelling the statements that it waits for.

        Not both at once. The statement fails with an error that leaves the connection in order; an exception
        that is raised inside the driver would cost the connection. But one short statement after the other
        may each have ended when the request comes.
        """
        self._times += 1
        return self._phase is Phase.BODY and (not waiting or self._goes_on)

    @property
    def _goes_on(self) -> bool:
        """Whether it was not enough to cancel its statements."""
        return self._times > _STATEMENTS_ONLY

    def _is_fragile(self) -> bool:
        if time.monotonic() - self.since > _FRAGILE_FOR:
            return False
        frame: FrameType | None = sys._current_frames().get(self._thread)
        while frame is not None:
            if frame.f_globals.get("__name__", "").startswith(_FRAGILE):
                return True
            frame = frame.f_back
        return False

    def where(self) -> str:
        """The traceback of the job's thread at this moment."""
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame)) if frame is not None else ""

    # -- by the job's own thread -------------------------------------------------------------------

    def call(self, body: Callable[[], T]) -> T:
        """Run the task's code.

        Raises:
            Exception: ``reason``, if it was interrupted, whatever it made of that; else what it raises.
        """
        try:
            try:
                self._enter()
                returned = body()
            finally:
                self._leave()
        except Interrupted as error:
            # Raised in the body, or on the way out of it before the lock was taken.
            self._leave_for_sure()
            if self.reason is None:
                raise  # it is meant for the job that runs this one by work_once
            raise self._because(error) from None
        except BaseException as error:
            if self._struck:  # its statement was cancelled, or it failed on being interrupted
                raise self._because(error) from error
            raise
        if self._struck and self.reason is not None:
            # It has taken what was cancelled under it for an error of its own, and gone on.
            raise self.reason
        return returned

    def settle(self, flush: Callable[[], None]) -> None:
        """Send what the job has left to be flushed; a statement of it can be cancelled, too."""
        self._change(Phase.AFTER)
        try:
            flush()
        except Exception as error:
            if self.reason is not None:
                raise self.reason from error
            raise
        finally:
            self._change(Phase.BEFORE)

    def uses(self, driver: Any) -> None:
        """The job has come to this connection."""
        with self._lock:
            self.used_since = self.used_since or time.monotonic()
            if isinstance(driver, (psycopg.Connection, psycopg.AsyncConnection)):
                self._drivers.append(driver)

    def before_statement(self) -> None:
        """The body is about to send one."""

    def forget(self) -> None:
        """The job has let go of its connections, and the next one to use them is another."""
        with self._lock:
            self.used_since = None
            self._drivers.clear()

    def close(self) -> None:
        """The job is through; from now on it is not interrupted any more."""
        self._change(Phase.THROUGH)

    def reopen(self) -> None:
        """It has to run again."""
        self._change(Phase.BEFORE)

    @property
    def is_through(self) -> bool:
        """Whether its outcome is being recorded."""
        return self._phase is Phase.THROUGH

    def _enter(self) -> None:
        self._thread = threading.get_ident()
        self.began = time.monotonic()
        self._change(Phase.BODY)
        if self.reason is not None:
            raise Interrupted

    def _leave(self) -> None:
        with self._lock:
            self._phase = Phase.BEFORE
            _set_pending(self._thread, _NOTHING)  # it may not have come yet

    def _leave_for_sure(self) -> None:
        while True:
            try:
                return self._leave()
            except Interrupted:  # it was interrupted again, before this took the lock
                continue

    def _change(self, phase: Phase) -> None:
        with self._lock:
            self._phase = phase

    def _because(self, error: BaseException) -> Exception:
        assert self.reason is not None
        # So that the traceback in the row shows where it was.
        return self.reason.with_traceback(error.__traceback__)


def waits(driver: Any) -> bool:
    """Whether a statement is under way on a connection, be it an asyncio one."""
    return not driver.closed and driver.info.transaction_status == TransactionStatus.ACTIVE


def _cancel(driver: psycopg.Connection[Any]) -> None:
    # Returns when the server has passed the request on: what this connection is sent next is safe from it.
    try:
        driver.cancel_safe(timeout=CANCEL_WAITS)
    except Exception as error:  # e.g. no further connection can be had
        with suppress(Exception):
            log.warning("the statement of an interrupted job could not be cancelled: %s", error)
