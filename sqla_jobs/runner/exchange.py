"""One statement for all threads: what they have finished, and what they run next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from sqla_jobs import lifecycle
from sqla_jobs.errors import JobsError
from sqla_jobs.lifecycle import Claimed, Mark
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import SUCCEEDED, Outcome
from sqla_jobs.runner.limits import STEPS, Slots
from sqla_jobs.runner.trail import Trail
from sqla_jobs.statements import Filter

_SUSPECTS: Final = 1.0
"""Seconds after which a job that a worker has died of is looked for, however many others there are."""


class Turn(Protocol):
    """What one waits for until another lets go of it."""

    def acquire(self) -> object: ...
    def release(self) -> object: ...


def taken() -> Turn:
    """A turn that somebody else has, among threads."""
    lock = threading.Lock()
    lock.acquire()
    return lock


@dataclass(eq=False)
class _Wish:
    """What one thread asks for."""

    done: Claimed | None
    wants: bool
    queues: Sequence[str] | None
    turn: Turn
    """Let go of when it is answered, or when its thread is to send for all."""
    outcome: Outcome = SUCCEEDED
    holds: bool = False
    """The claim of ``done`` held, and its outcome is written."""
    job: Claimed | None = None
    error: Exception | None = None
    is_answered: bool = False
    is_put_off: bool = False
    """There may be a job for it, too."""


class _Done(NamedTuple):
    """What one of them hands in."""

    wish: _Wish
    job: Claimed


@dataclass(frozen=True)
class Swapped:
    """The answer."""

    holds: bool
    """Whether the outcome is written."""
    job: Claimed | None
    """What to run next; None: nothing was queued, or nothing was asked for."""
    error: Exception | None = field(default=None)
    """Nobody knows whether anything of it took effect."""


@dataclass(frozen=True)
class Peers:
    """What the threads of a worker know of each other; by itself each is alone."""

    take_suspects: Callable[[], bool] = lambda: True
    """Whether a job may be claimed now that a worker has died of; `leave_suspects` undoes it."""
    leave_suspects: Callable[[], None] = lambda: None
    heard: Callable[[], int] = lambda: 0
    """Counts what the worker was told of."""
    drains: bool = False


class Exchange:
    """Claims for all threads that are free, and finishes jobs that have written nothing.

    A claim and a finish each cost a commit, and those who come while one is under way share the next. The
    first that comes sends for all, the others wait for it. So nobody waits for company.

    Parameters:
        send: calls a verb of one statement, which is a transaction by itself.
        turn: what those who share this wait by; they are threads, unless it is given.
    """

    def __init__(
        self,
        model: type[JobMixin],
        send: Callable[[Callable[[Any], Any]], Any],
        peers: Peers,
        trail: Trail,
        slots: Slots,
        turn: Callable[[], Turn] = taken,
    ) -> None:
        self._model = model
        self._send = send
        self._peers = peers
        self._trail = trail
        self._slots = slots
        self._turn = turn
        self._lock = threading.Lock()
        self._waiting: list[_Wish] = []
        self._busy = False
        self._looked_for_suspects = 0.0

    def swap(
        self,
        worker_id: int,
        queues: Sequence[str] | None,
        done: Claimed | None,
        outcome: Outcome = SUCCEEDED,
        *,
        wants: bool,
    ) -> Swapped:
        """Hand in a job that has succeeded, and take another.

        Parameters:
            done: it has written nothing; None: there is none.
            outcome: its success, for its result and its progress.
            wants: whether another is wanted.
        """
        wish = _Wish(done, wants, queues, self._turn(), outcome)
        with self._lock:
            self._waiting.append(wish)
            waits, self._busy = self._busy, True
        while True:
            if waits:
                wish.turn.acquire()
            if wish.is_answered:
                return Swapped(wish.holds, wish.job, wish.error)
            self._lead(worker_id)
            waits = not wish.is_answered

    def _lead(self, worker_id: int) -> None:
        with self._lock:
            wishes, self._waiting = self._waiting, []
        error: Exception | None = None
        try:
            self._answer(worker_id, wishes)
        except Exception as raised:
            error = raised
        except BaseException:
            error = JobsError("the statement that others share was broken off")  # and may stand
            raise
        finally:
            for each in wishes:
                each.error = error
                each.is_answered = error is not None or not each.is_put_off
            answered = [each for each in wishes if each.is_answered]
            with self._lock:
                # Who could not be asked for this time is the first to be asked for next.
                self._waiting[:0] = [each for each in wishes if not each.is_answered]
                self._busy = bool(self._waiting)
                leads = self._waiting[:1]
            # Each by itself: to wake all, for one to go on, takes longer than the statement.
            for each in (*leads, *answered):
                each.turn.release()

    def _answer(self, worker_id: int, wishes: Sequence[_Wish]) -> None:
        done = [_Done(wish, wish.done) for wish in wishes if wish.done is not None]
        hungry = [wish for wish in wishes if wish.wants]
        # Not of who only hands in: to claim from them would pass over a pause that the others know of.
        queues = hungry[0].queues if hungry else None
        mine = [each for each in done if each.job.worker_id == worker_id]
        for former in {each.job.worker_id for each in done} - {worker_id}:  # it was taken for dead meanwhile
            assert former is not None
            theirs = [each for each in done if each.job.worker_id == former]
            self._exchange(former, None, theirs, 0)
        limit = next(step for step in STEPS if step <= len(hungry))
        asked, handed_in = 0, False

        def look(where: Sequence[str] | None, mark: Mark | None, only: Filter | None) -> list[Claimed]:
            nonlocal asked, handed_in
            left = [] if handed_in else mine
            asked, jobs = self._exchange(worker_id, where, left, limit, mark, only)
            handed_in = True
            return jobs

        found = (self._trail.claim(queues, look) if limit else look(None, None, None)) or []
        if len(found) < asked and asked > 1:  # those that a worker has died of were passed over
            limit = 1
            found = [*found, *(self._trail.everywhere(queues, look) or ())]
            asked = len(found) + 1
        for place, wish in enumerate(hungry):
            wish.job = found[place] if place < len(found) else None
            wish.is_put_off = place >= len(found) >= asked
            wish.done = None if wish.is_put_off else wish.done

    def _exchange(
        self,
        worker_id: int,
        queues: Sequence[str] | None,
        done: Sequence[_Done],
        limit: int,
        mark: Mark | None = None,
        only: Filter | None = None,
    ) -> tuple[int, list[Claimed]]:
        """Send it; returns how many were asked for, and those that were got."""
        if not (done or limit):
            return 0, []
        now = time.monotonic()
        # One at most is run at a time, or the blame for the next death would not be exact.
        alone = limit == 1 or (limit and now > self._looked_for_suspects + _SUSPECTS)
        guilty = bool(alone and self._peers.take_suspects())
        if alone:
            limit, self._looked_for_suspects = 1, now
        jobs: list[Claimed] = []
        for each in done:
            self._slots.ends(each.job)
        left = self._slots.left
        try:
            held, jobs = self._send(
                lambda s: lifecycle.exchange(
                    s,
                    self._model,
                    worker_id,
                    [each.job for each in done],
                    queues,
                    limit,
                    outcomes=[each.wish.outcome for each in done],
                    innocent=not guilty,
                    mark=mark,
                    only=only,
                    left=left,
                )
            )
            if left is not None and len(jobs) < limit:  # the next ones have to be counted, or there are none
                more = limit - len(jobs)
                options: Any = {"innocent": not guilty, "mark": mark, "only": only}
                jobs += self._slots.claim(worker_id, queues, more, **options)
        finally:
            if guilty and not (jobs and jobs[0].crashes):
                self._peers.leave_suspects()
        for each in done:
            each.wish.holds = each.job.id in held
        self._trail.left(jobs)
        return limit, jobs
