"""What the threads of one worker tell each other: who is at work, on what, and whether to go on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from sqla_jobs.errors import JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.meter import Meter
from sqla_jobs.scope import Interrupter

WorkerState = Literal["new", "running", "stopping", "stopped"]


@dataclass(eq=False)
class Running:
    """A job that one of the threads runs."""

    job: Claimed
    timeout: float | None = None
    """Seconds that it may take."""
    interrupter: Interrupter = field(default_factory=Interrupter)
    meter: Meter = field(default_factory=Meter)
    began: float = field(default_factory=time.monotonic)
    since: float = field(default_factory=time.time)
    """The same by the calendar, in seconds since the epoch."""
    on_loop: bool = False
    """It is a coroutine, and takes no thread."""

    @property
    def key(self) -> tuple[int, int]:
        """Its id and claim: a job that was taken from one thread may run in another of them already."""
        return self.job.id, self.job.claim


class Crew:
    """The threads of one worker; every method may be called by any of them."""

    def __init__(self) -> None:
        self.state: WorkerState = "new"
        self.news = 0
        """Counts what may mean work: who read it before an empty claim knows whether to look again."""
        self.heard = 0
        """Counts what came from outside of these."""
        self.give_back_at: float | None = None
        """When what still runs is given back, by `time.monotonic`; None: the worker does not stop."""
        self.begun = 0
        """How many jobs."""
        self.recycled = False
        """Whether the worker has stopped because its process is to be replaced."""
        # Re-entrant: a signal handler stops the worker in the thread that may hold it.
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        # Apart, so that one of them, and not any other waiter, is woken for one job.
        self._resting = threading.Condition(lock)
        self._running: dict[tuple[int, int], Running] = {}
        self._members = 0
        self._hands = 0
        self._idle = 0
        self._replan = False
        self._suspects_taken = False
        self._stuck: set[tuple[int, int]] = set()
        self._abandoned = False
        self._look_at = 0.0
        """Until when who looks to the time sleeps; 0: it is awake."""

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        """``new`` → ``running``; raise JobsError if it is anything else."""
        with self._changed:
            if self.state != "new":
                raise JobsError(f"the worker is {self.state}; a worker is started once: make a new one")
            self.state = "running"

    def stop(self, grace: float) -> None:
        """``running`` → ``stopping``, and ``new`` → ``stopped``.

        Parameters:
            grace: seconds until what runs is given back; the earliest such moment counts.
        """
        with self._changed:
            if self.state == "running":
                self.state = "stopping"
            elif self.state == "new":
                self.state = "stopped"
            moment = time.monotonic() + grace
            self.give_back_at = moment if self.give_back_at is None else min(moment, self.give_back_at)
            self._wake_all()

    def end(self) -> None:
        """The last word: ``stopped``."""
        with self._changed:
            self.state = "stopped"
            self._wake_all()

    def _wake_all(self) -> None:
        self._changed.notify_all()
        self._resting.notify_all()

    def join(self, timeout: float | None) -> bool:
        """Wait until the worker has stopped; False: not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self.state in ("new", "stopped"), timeout)

    def pause(self, seconds: float) -> None:
        """Wait, but not beyond a change of the worker's state."""
        with self._changed:
            began = self.state
            self._changed.wait_for(lambda: self.state != began, seconds)

    # -- members: the threads that run jobs, or tell hooks of them -----------------------------------

    def enlist(self, number: int = 1, *, hands: bool = False) -> None:
        """So many threads will work; each leaves by `dismiss`.

        Parameters:
            hands: they are those that run jobs.
        """
        with self._changed:
            self._members += number
            self._hands += number if hands else 0

    def dismiss(self, number: int = 1) -> None:
        """So many threads work no more."""
        with self._changed:
            self._members -= number
            self._wake_all()

    def give_up(self, running: Running, room: int | None = None) -> bool:
        """Nothing can be done to end this job: a worker that stops does not wait for it.

        Parameters:
            room: how many like it there can be at once; None: as many as there are threads.

        Returns:
            Whether all of that room is taken by such jobs, and none can be run any more.
        """
        with self._changed:
            if running.key in self._running:
                self._stuck.add(running.key)
            self._changed.notify_all()
            alike = [key for key in self._stuck if self._running[key].on_loop == running.on_loop]
            return len(alike) >= (self._hands if room is None else room)

    def wait_until_gone(self, timeout: float | None = None, *, or_replan: bool = False) -> bool:
        """Wait until nobody is at work any more; False: it is not so after ``timeout`` seconds.

        Parameters:
            or_replan: return early when `replan` is called.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._are_gone() or (or_replan and self._replan), timeout)
            return self._are_gone()

    def wait_for_change(self, timeout: float) -> bool:
        """Wait until anything changes that the time of the next duty may depend on; True: it has stopped."""
        with self._changed:
            if self.state != "stopped":
                self._look_at = time.monotonic() + timeout
                self._changed.wait(timeout)
                self._look_at = 0.0
            return self.state == "stopped"

    def abandon(self) -> None:
        """Do not wait for those that are still at work: nothing can be done to end them."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()

    def interrupt(self, running: Running, reason: Exception) -> None:
        """End a job; whoever looks to the time does it again until it has ended."""
        running.interrupter.interrupt(reason)
        with self._changed:
            self._changed.notify_all()

    def _are_gone(self) -> bool:
        # Those that tell of a stuck job's outcome are members too, and are waited for.
        return self._abandoned or self._members <= (0 if self.state == "running" else len(self._stuck))

    # -- jobs --------------------------------------------------------------------------------------

    @contextmanager
    def runs(self, running: Running) -> Iterator[None]:
        """The calling thread runs this job."""
        with self._changed:
            self._running[running.key] = running
            self.begun += 1
            if self._is_due_before_a_look(running):
                self._changed.notify_all()
            self.tell()  # where one was, there may be another: whoever rests looks next
        try:
            yield
        finally:
            with self._changed:
                del self._running[running.key]
                self._stuck.discard(running.key)

    def passes(self, before: Running | None, running: Running | None) -> None:
        """The calling thread goes on from one job of a group to the next; None: from, or to, nothing."""
        with self._changed:
            # Its row may be free again already, and another thread at the same job, under the same claim.
            if before is not None and self._running.get(before.key) is before:
                del self._running[before.key]
                self._stuck.discard(before.key)
            if running is not None:
                self._running[running.key] = running
                self.begun += 1
                if self._is_due_before_a_look(running):
                    self._changed.notify_all()
                if before is None:
                    self.tell()  # see runs

    def _is_due_before_a_look(self, running: Running) -> bool:
        # Who looks to the time reckons with what ran when it looked; to wake it for each job is dear.
        timeout = running.timeout
        return self.state != "running" or (timeout is not None and running.began + timeout < self._look_at)

    def running(self) -> list[Running]:
        """What runs now."""
        with self._changed:
            return list(self._running.values())

    def take_suspects(self) -> bool:
        """Whether the calling thread may claim a job that a worker has died of; until `leave_suspects`
        no other thread may.

        So at most one of them runs in a process: if the process dies again, the blame is exact.
        """
        with self._changed:
            may, self._suspects_taken = not self._suspects_taken, True
            return may

    def leave_suspects(self) -> None:
        """Another thread may claim such a job."""
        with self._changed:
            self._suspects_taken = False

    # -- news --------------------------------------------------------------------------------------

    def tell(self) -> None:
        """There may be work: one of those who rest looks again, and if it finds a job, another one."""
        with self._changed:
            self.news += 1
            self._resting.notify()

    def hear(self) -> None:
        """`tell`, of a job that may come before those that were looked at."""
        self.heard += 1
        self.tell()

    def replan(self) -> None:
        """A job waits for a time, or a cancel for a job, that the next look did not reckon with."""
        with self._changed:
            self._replan = True
            self._changed.notify_all()

    def replanned(self) -> bool:
        """Whether `replan` was called since the last time that this was asked."""
        with self._changed:
            was, self._replan = self._replan, False
            return was

    def rest(
        self, news: int, seconds: float | None = None, *, is_empty: Callable[[], bool] | None = None
    ) -> None:
        """Nothing was queued: wait for news.

        Parameters:
            news: as they were before the claim that found nothing.
            seconds: wait no longer than this; None: somebody else looks to the time, see `tell`.
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
                    self.stop(0)
                else:
                    self._resting.wait(seconds)
        finally:
            with self._changed:
                self._idle -= 1
