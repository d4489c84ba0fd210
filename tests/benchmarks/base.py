"""What a queue must be able to do to be measured, and the hooks that its jobs call.

The parent says what a child process has to do by an `Order` in the environment. A password belongs to no
command line, and a worker of one queue or another may read the command line itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

VARIABLE = "SQLA_JOBS_BENCHMARK"


@dataclass(frozen=True)
class Order:
    """What one child process is to do."""

    variant: str = ""
    operation: str = ""
    dsn: str = ""
    mode: str = "noop"
    """What a job does: `noop`, `row` (one row by an INSERT) or `add` (one row by the ORM)."""
    count: int = 0
    """Jobs to enqueue; of a worker: report after so many jobs."""
    interval: float = 0.0
    trace: bool = False
    """Keep the start of every job."""
    filtered: bool = False
    """Of a worker: claim only the jobs that the queue itself has enqueued, and none of others."""

    def environment(self) -> dict[str, str]:
        return {VARIABLE: json.dumps(asdict(self))}


order = Order(**json.loads(os.environ.get(VARIABLE, "{}")))
"""This process's own."""


def say(word: str, **what: Any) -> None:
    """One line to the parent."""
    # One write: lines of several threads must not be mixed.
    sys.stdout.write(f"{word} {json.dumps(what)}\n")
    sys.stdout.flush()


class Hooks:
    """Lives in the worker process. Every job calls `tick` once, first thing."""

    def __init__(self, order: Order) -> None:
        self.mode = order.mode
        self.effect = order.mode != "noop"
        self._expect = order.count
        self._trace = order.trace
        quarters = {1, *(order.count * quarter // 4 for quarter in (1, 2, 3, 4))}
        self._at = frozenset(quarters - {0})
        self._count = 0
        self._marks: list[float] = []
        self._starts: list[tuple[int, float]] = []
        self._lock = threading.Lock()

    def tick(self, n: int) -> None:
        now = time.monotonic()
        with self._lock:
            self._count = count = self._count + 1
            if self._trace:
                self._starts.append((n, now))
            if count in self._at:
                self._marks.append(now)
        if count == 1:
            say("FIRST", at=now)
        if count == self._expect:
            say("LAST", marks=self._marks, starts=self._starts)


hooks = Hooks(order)


class Peer:
    """A queue in one configuration; `n` is a job's number, and its only argument."""

    note: str = ""
    """The configuration, in words."""
    exactly_once: ClassVar[str] = "no"
    """What the documentation promises for effects in the database: `yes…` or `no…`."""
    remaining: ClassVar[str] = ""
    """SQL: how many jobs are not finished."""
    succeeded: ClassVar[str] = ""
    """SQL: how many jobs have succeeded; empty: the queue does not keep them."""
    table: ClassVar[str] = ""
    finished: ClassVar[Mapping[str, str]] = {}
    """Column -> SQL, which makes a finished row of a queued one; empty: none stay in the table."""
    scheduled: ClassVar[Mapping[str, str]] = {}
    """The same for jobs that wait for a time."""

    @property
    def once(self) -> bool:
        return self.exactly_once.startswith("yes")

    def install(self, dsn: str) -> None:
        raise NotImplementedError

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        """One job a commit; the seconds of the loop alone."""
        raise NotImplementedError

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        """All at once, as the documentation says to do that."""
        raise NotImplementedError

    def enqueue_many(self, dsn: str, ns: Iterable[int]) -> float:
        """All at once in a quicker way, for a queue that has two."""
        raise NotImplementedError

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        """One after the other; each number with the moment after its commit."""
        raise NotImplementedError

    def work(self, dsn: str) -> None:
        """The worker; calls `ready` when it is set up, and never returns."""
        raise NotImplementedError


def pace(enqueue: Callable[[int], object], ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
    made = []
    at = time.monotonic()
    for n in ns:
        enqueue(n)
        made.append((n, time.monotonic()))
        at += interval
        time.sleep(max(0.0, at - time.monotonic()))
    return made


async def apace(
    enqueue: Callable[[int], Awaitable[object]], ns: Iterable[int], interval: float
) -> list[tuple[int, float]]:
    made = []
    at = time.monotonic()
    for n in ns:
        await enqueue(n)
        made.append((n, time.monotonic()))
        at += interval
        await asyncio.sleep(max(0.0, at - time.monotonic()))
    return made


def timed(run: Callable[[], object]) -> float:
    """The seconds that it takes."""
    began = time.monotonic()
    run()
    return time.monotonic() - began


async def atimed(run: Callable[[], Awaitable[object]]) -> float:
    began = time.monotonic()
    await run()
    return time.monotonic() - began


def ready() -> None:
    """The worker is set up; wait for the parent's word to begin."""
    say("READY")
    sys.stdin.readline()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()


def _end_with_parent() -> None:
    sys.stdin.read()  # until its end: the parent is gone, and nobody else would stop this worker
    os._exit(1)
