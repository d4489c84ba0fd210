"""End a job that is a coroutine: the same as in ``interrupts``, on the event loop that runs it.

The job is one asyncio task, which also records its outcome. All that ends it happens on the loop, between
two steps of that task, so that it is known whether the task is in the body: a cancellation is thrown where
the task waits, and nowhere else.
"""

from __future__ import annotations

import asyncio
import sys
import traceback
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import psycopg
from sqlalchemy.util.concurrency import await_only

from sqla_jobs.errors import GiveBack
from sqla_jobs.scope.interrupts import CANCEL_WAITS, Interrupter, Phase, log, waits


class LoopInterrupter(Interrupter):
    """What another thread ends the job of an asyncio task by.

    Parameters:
        loop: where it runs.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._asking: asyncio.Task[None] | None = None
        """Requests to cancel statements that are under way."""

    def lets_cancel(self) -> bool:
        """Whether somebody, the application, may cancel the task now; if not, the job is to end anyway."""
        if self._phase is Phase.BODY:
            return True
        self.interrupt(GiveBack("its asyncio task was cancelled"))
        return False

    def _enter(self) -> None:
        self._task = asyncio.current_task()
        super()._enter()

    def _act(self) -> None:
        with suppress(RuntimeError):  # the loop is closed, and nothing runs on it
            self._loop.call_soon_threadsafe(self._act_here)

    def _act_here(self) -> None:
        # The phase is changed on this very loop: it cannot change before what is done here has its effect.
        if self._phase not in (Phase.BODY, Phase.AFTER):
            return
        if self._asking is not None and not self._asking.done():
            return
        waiting = [driver for driver in self._drivers if waits(driver)]
        if waiting:
            self._asking = self._loop.create_task(_cancel_all(waiting))
        if self._raises(waiting) and self._task is not None:
            self._task.cancel()

    def before_statement(self) -> None:
        """Raise in the body here, too.

        In one that does nothing but wait for statements, a cancellation meets the driver each time. Of a
        transaction that is aborted already it makes an ordinary error, which such a job catches.
        """
        if self._phase is Phase.BODY and self._goes_on:
            raise asyncio.CancelledError

    def where(self) -> str:
        """The traceback of the job's coroutine at this moment."""
        if self._task is None:
            return ""
        if asyncio.current_task(self._loop) is self._task:  # which holds up the loop
            frame = sys._current_frames().get(self._thread)
            return "".join(traceback.format_stack(frame)) if frame is not None else ""
        frames: list[traceback.FrameSummary] = []
        awaited: Any = self._task.get_coro()
        while awaited is not None:
            frame = getattr(awaited, "cr_frame", None)
            if frame is not None:
                frames.extend(traceback.extract_stack(frame, limit=1))
            awaited = getattr(awaited, "cr_await", None)
        return "".join(traceback.format_list(frames))

    def _leave(self) -> None:
        self._change(Phase.BEFORE)
        assert self._task is not None
        # Of something that the job has begun and not awaited. To close the connection under it may crash the
        # driver; what is sent there next would wait for it.
        if left := [driver for driver in self._drivers if waits(driver)]:
            await_only(_quieted(left))
        # What cancels the task, be it this or the job itself, shall not hit what records the outcome.
        if getattr(self._task, "_must_cancel", False):
            with suppress(asyncio.CancelledError):
                await_only(asyncio.sleep(0))
        if sys.version_info >= (3, 11):
            while self._task.uncancel():
                pass

    def _leave_for_sure(self) -> None:
        self._leave()

    def _change(self, phase: Phase) -> None:
        super()._change(phase)
        self._rest_assured()

    def _rest_assured(self) -> None:
        """Go on when no request is under way that could hit what this connection is sent next."""
        if self._phase is not Phase.BODY and self._phase is not Phase.AFTER and self._asking is not None:
            asking, self._asking = self._asking, None
            await_only(asyncio.wait([asking]))


class JobTask(asyncio.Task[None]):
    """Cannot be cancelled while it does anything but run the task's own code.

    An application may cancel whatever is on its loop, and a job may have asked for it to be done later. Those
    that share a claim or a finish would wait for ever for one that has gone.
    """

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, None],
        *,
        loop: asyncio.AbstractEventLoop,
        interrupter: LoopInterrupter,
    ) -> None:
        self._interrupter = interrupter
        super().__init__(coroutine, loop=loop)

    def cancel(self, msg: Any = None) -> bool:
        """As that of any Task, or nothing."""
        return self._interrupter.lets_cancel() and super().cancel(msg)


async def _quieted(drivers: list[psycopg.AsyncConnection[Any]]) -> None:
    """Cancel the statements that are under way, and wait until they have ended."""
    await _cancel_all(drivers)
    for driver in drivers:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(driver.lock.acquire(), CANCEL_WAITS)
            driver.lock.release()


async def _cancel_all(drivers: list[psycopg.AsyncConnection[Any]]) -> None:
    for driver in drivers:
        try:
            await driver.cancel_safe(timeout=CANCEL_WAITS)
        except Exception as error:  # e.g. no further connection can be had
            with suppress(Exception):
                log.warning("the statement of an interrupted job could not be cancelled: %s", error)
