"""What the threads of one worker tell each other: who is at work, on what, and whether to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

from sqla_jobs.errors import JobsError
from sqla_jobs.lifecycle import Claimed

WorkerState = Literal["new", "running", "stopping", "stopped"]


class Crew:
    """The threads of one worker; every method may be called by any of them."""

    def __init__(self) -> None:
        self.state: WorkerState = "new"
        self.news = 0
        """Counts what may mean work: who read it before an empty claim knows whether to look again."""
        # Re-entrant: a signal handler stops the worker in the thread that may hold it.
        self._changed = threading.Condition(threading.RLock())
        # By id and claim: a job that was taken from one thread may run in another of them already.
        self._running: dict[tuple[int, int], tuple[Claimed, float]] = {}
        self._members = 0
        self._idle = 0
        self._replan = False

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """``new`` → ``running``; raise JobsError if it is anything else."""
        with self._changed:
            if self.state != "new":
                raise JobsError(f"the worker is {self.state}; a worker is started once: make a new one")
            self.state = "running"

    def stop(self) -> None:
        """``running`` → ``stopping``, and ``new`` → ``stopped``."""
        with self._changed:
            if self.state == "running":
                self.state = "stopping"
            elif self.state == "new":
                self.state = "stopped"
            self._changed.notify_all()

    def end(self) -> None:
        """The last word: ``stopped``."""
        with self._changed:
            self.state = "stopped"
            self._changed.notify_all()

    def join(self, timeout: float | None) -> bool:
        """Wait until the worker has stopped; False: not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state in ("new", "stopped"), timeout)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a change of the worker's state."""
        with self._changed:
            began = self.state
            self._changed.wait_for(lambda: self.state != began, seconds)

    # -- members: the threads that run jobs --------------------------------------------------------

    def enlist(self, number: int) -> None:
        """So many threads will run jobs; each leaves by `dismiss`."""
        with self._changed:
            self._members += number

    def dismiss(self, number: int = 1) -> None:
        """So many threads run no more jobs."""
        with self._changed:
            self._members -= number
            self._changed.notify_all()

    def wait_until_gone(self, timeout: float | None = None, *, or_replan: bool = False) -> bool:
        """Wait until nobody runs jobs any more; False: it is not so after ``timeout`` seconds.

        Parameters:
            or_replan: return early when `replan` is called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._members == 0 or (or_replan and self._replan), timeout)
            return self._members == 0

    # -- jobs --------------------------------------------------------------------------------------

    @contextmanager
    def runs(self, job: Claimed) -> Iterator[None]:
        """The calling thread runs this job."""
        key = (job.id, job.claim)
        with self._changed:
            self._running[key] = (job, time.time())
            self.news += 1
        try:
            yield
        finally:
            with self._changed:
                del self._running[key]

    def running(self) -> list[tuple[Claimed, float]]:
        """What runs now, and since when (seconds since the epoch)."""
        with self._changed:
            return list(self._running.values())

    # -- news --------------------------------------------------------------------------------------

    def tell(self) -> None:
        """There may be work: whoever rests looks again."""
        with self._changed:
            self.news += 1
            self._changed.notify_all()

    def replan(self) -> None:
        """A job waits for a time that the next look did not reckon with."""
        with self._changed:
            self._replan = True
            self._changed.notify_all()

    def replanned(self) -> bool:
        """Whether `replan` was called since the last time that this was asked."""
        with self._changed:
            was, self._replan = self._replan, False
            return was

    def rest(self, news: int, seconds: float, *, is_empty: Callable[[], bool] | None = None) -> None:
        """Nothing was queued: wait for news, or for ``seconds``; or stop, if nothing is left.

        Parameters:
            news: as they were before the claim that found nothing.
            is_empty: reads whether any job is left to wait for; None: the worker does not drain.
        """
        with self._changed:
            self._idle += 1
            last = self._idle == self._members
        try:
            empty = last and is_empty is not None and is_empty()
            with self._changed:
                if self.news != news or self.state != "running":
                    return
                # All were idle before and after the look, and none has run a job in between: whoever
                # could have enqueued one here had done so before the look.
                if empty and self._idle == self._members:
                    self.stop()
                else:
                    self._changed.wait(seconds)
        finally:
            with self._changed:
                self._idle -= 1
