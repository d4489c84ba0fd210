"""Wake-ups: what is told to workers, in the enqueuer's transaction or after its commit.

A channel per job table (``statements.channel``), and payloads of four kinds:

    queued:<queue>                     a job is ready in that queue
    queued                             in some queue
    scheduled                          a job waits for a time: plan your sleep anew
    cancel:<worker_id>:<job_id>:<claim>  somebody asks to cancel what you run under that claim

None of them is needed: whoever misses one finds its job by the next poll.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal
from weakref import WeakSet

from sqlalchemy import Connection, Engine, TwoPhaseTransaction, event
from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.errors import InvalidOption, shown
from sqla_jobs.models import DEFAULT_QUEUE, JobMixin

log = logging.getLogger("sqla_jobs")

Mode = Literal["transaction", "after_commit", False]
"""How workers are told of a new job: with its commit, right after it, or not at all."""

_TOLD: Final[tuple[Literal["transaction"], Literal["after_commit"]]] = ("transaction", "after_commit")
DEFAULT_MODE: Final[Mode] = "transaction"
SCHEDULED: Final = "scheduled"
EVERY: Final = 0.010
"""After a commit the same is told at most once in so many seconds."""

_LINGER: Final = 10.0
_AT_EXIT: Final = 2.0


def check_mode(given: object) -> Mode:
    """``notify`` of a registry, checked.

    Raises:
        InvalidOption: it is none of the three.
    """
    if given is False:
        return False
    for mode in _TOLD:
        if given == mode:
            return mode
    raise InvalidOption(
        f"notify {shown(given)}; expected 'transaction' (workers are told with the commit), 'after_commit' "
        "(right after it, where many commit at once) or False (they only poll, as behind PgBouncer)"
    )


# -- payloads --------------------------------------------------------------------------------------


def queued(queue: str) -> str:
    """The payload for a job that is ready."""
    return f"queued:{queue}"


@dataclass(frozen=True)
class News:
    """What several payloads say together to one worker."""

    of_work: bool = False
    """A job is ready in one of its queues."""
    of_times: bool = False
    """A job waits for a time, or a job of this worker is to be cancelled: look at what is due."""


def read(payloads: Iterable[str], worker_id: int, queues: Collection[str] | None) -> News:
    """What of it concerns a worker; anybody may write to the channel, so what makes no sense is nothing."""
    of_work = of_times = False
    for payload in payloads:
        kind, _, rest = payload.partition(":")
        if kind == "queued":
            of_work |= not rest or queues is None or rest in queues
        elif kind == SCHEDULED:
            of_times = True
        elif kind == "cancel":
            # Which job it is the row says: another schema of this name may have a worker of that number.
            of_times |= rest.partition(":")[0] == str(worker_id)
    return News(of_work, of_times)


# -- in the transaction ----------------------------------------------------------------------------


def can_notify(connection: Connection) -> bool:
    """Whether its transaction may notify: PREPARE TRANSACTION refuses one that has."""
    return not isinstance(connection.get_transaction(), TwoPhaseTransaction)


def tell(connection: Connection, channel: str, payloads: Collection[str]) -> None:
    """Notify in the connection's transaction: delivered with its commit, or never."""
    if len(payloads) > 1 or connection.dialect.positional:
        told = {"channels": [channel] * len(payloads), "payloads": list(payloads)}
        connection.execute(statements.notify(), told)
    else:  # as nearly always: as the driver takes it, in two thirds of the time
        sql = statements.notify_once(connection.dialect)
        connection.exec_driver_sql(sql, {"channel": channel, "payload": next(iter(payloads))})


def announce(session: Session, model: type[JobMixin], payloads: Collection[str]) -> None:
    """`tell` where the Session has the job table; nothing in a two-phase transaction."""
    if not payloads:
        return
    where: dict[str, Any] = {"mapper": model, "clause": statements.finish(model, "running")}
    connection = session.connection(bind_arguments=where)
    if can_notify(connection):
        tell(connection, statements.channel(model), payloads)


def ask_to_cancel(session: Session, model: type[JobMixin], worker_id: int, job_id: int, claim: int) -> None:
    """Tell a worker, with the commit, that a cancel was requested of what it runs under that claim."""
    announce(session, model, [cancel_of(worker_id, job_id, claim)])


def cancel_of(worker_id: int, job_id: int, claim: int) -> str:
    """What a worker is told by that."""
    return f"cancel:{worker_id}:{job_id}:{claim}"


# -- after the commit ------------------------------------------------------------------------------


def apart(engine: Engine) -> Engine:
    """An Engine of the same database, made in the same way, with a pool of its own.

    Who holds it never waits for a connection that the application has, nor takes one away from it.
    """
    pool = engine.pool.recreate()
    own = Engine(
        pool,
        engine.dialect,
        engine.url,
        execution_options=engine.get_execution_options(),
        hide_parameters=engine.hide_parameters,
    )
    # As the pool does it for its own events: an application may set a role or a search_path in one.
    # Joined as `Engine.execution_options` does it: what is listened to later is heard, too.
    own.dispatch = own.dispatch._join(engine.dispatch)  # pyright: ignore[reportAttributeAccessIssue]
    own._has_events = True  # else a kept connection would be deaf to what is listened to later
    event.listen(pool, "connect", _notice_a_dead_network)
    # Who holds it may be forgotten without a dispose(), or a connection come back to its pool after one.
    opened: set[Any] = set()
    event.listen(pool, "connect", lambda driver, _: opened.add(driver))
    event.listen(pool, "close", lambda driver, _: opened.discard(driver))
    forgotten = weakref.finalize(own, _close, opened, os.getpid())
    # Not when the process ends: a thread may be in the driver with one of them, which closed under its
    # feet crashes. The system closes them then.
    forgotten.atexit = False
    return own


def _close(opened: set[Any], pid: int) -> None:
    if os.getpid() == pid:  # in a child that was forked it would end the parent's sessions
        for driver in list(opened):
            with contextlib.suppress(Exception):
                driver.close()


def _notice_a_dead_network(driver: Any, _: Any) -> None:
    """Let the system notice within half a minute that the server is not there any more."""
    driver = getattr(driver, "driver_connection", driver)  # of an asyncio one
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(driver.fileno())) as its:
        if its.family == socket.AF_UNIX:
            return
        its.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVES.items():
            if hasattr(socket, name):
                its.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


_KEEPALIVES: Final = {
    "TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000,
}  # fmt: skip


Notice = tuple[str, str]
"""(channel, payload)"""


class Outbox:
    """Tells workers of one database what has been committed, by a thread and a connection of its own.

    The first of its kind at once, then the same again at most every `EVERY` seconds, and always once
    more after the last. The thread ends, and with it the connection, when there has been nothing to tell.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = apart(engine)
        self._changed = threading.Condition()
        self._waiting: set[Notice] = set()
        self._told: dict[Notice, float] = {}
        self._thread: threading.Thread | None = None
        self._sending = False
        self._failing = False
        self._ending = False

    def put(self, notices: Collection[Notice]) -> None:
        """Tell this soon; never waits, never raises."""
        with self._changed:
            self._waiting.update(notices)
            self._changed.notify_all()
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="sqla_jobs-notify", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter is ending
                    self._waiting.clear()
                    self._report(error)
                else:
                    self._thread = thread

    def flush(self, timeout: float) -> bool:
        """Wait until all is told; False: it is not within ``timeout`` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._waiting and not self._sending, timeout)

    def end(self, timeout: float) -> None:
        """Tell what is still to be told, within ``timeout`` seconds, and end the thread."""
        deadline = time.monotonic() + timeout
        with self._changed:
            self._ending, thread = True, self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _run(self) -> None:
        while (due := self._due()) is not None:
            try:
                self._send(due)
            finally:
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()
        self._engine.dispose()

    def _due(self) -> list[Notice] | None:
        """What is to be told now, waited for; None: this thread is not needed any more."""
        with self._changed:
            while True:
                self._changed.wait_for(lambda: self._waiting or self._ending, _LINGER)
                if not self._waiting:
                    self._thread = None
                    return None
                now = time.monotonic()
                self._told = {notice: at for notice, at in self._told.items() if now < at + EVERY}
                if due := [notice for notice in self._waiting if notice not in self._told]:
                    self._waiting.difference_update(due)
                    self._told.update(dict.fromkeys(due, now))
                    self._sending = True
                    return due
                self._changed.wait(min(self._told[notice] for notice in self._waiting) + EVERY - now)

    def _send(self, notices: list[Notice]) -> None:
        channels, payloads = zip(*notices, strict=True)
        # The second time on a new connection: an idle one may have been cut without anybody noticing.
        for again in (True, False):
            try:
                with self._engine.connect() as connection:
                    connection.execution_options(isolation_level="AUTOCOMMIT")
                    told = {"channels": list(channels), "payloads": list(payloads)}
                    connection.execute(statements.notify(), told)
            except Exception as error:
                if not again:
                    self._report(error)
            else:
                self._failing = False
                return

    def _report(self, error: Exception) -> None:
        """Once an outage: all that is lost is time, until the next poll of a worker."""
        if not self._failing:
            self._failing = True
            with contextlib.suppress(Exception):  # an application's log filter
                told = (str(error).splitlines() or [type(error).__name__])[0]
                log.error("workers could not be told of new jobs and will find them by polling: %s", told)


_OUTBOX: Final = "_sqla_jobs_outbox"
_outboxes: WeakSet[Outbox] = WeakSet()
_making = threading.Lock()


def outbox(engine: Engine) -> Outbox:
    """The outbox of an Engine in this process."""
    with _making:
        # On the Engine itself: its pool's listeners, which an outbox shares, hold it, so that in a
        # dictionary of our own it would live for ever.
        found: Outbox | None = vars(engine).get(_OUTBOX)
        if found is None or found not in _outboxes:
            found = vars(engine)[_OUTBOX] = Outbox(engine)
            _outboxes.add(found)
        return found


def _forget_in_child() -> None:
    # The parent's threads and connections are not ours, and its locks may be locked for ever.
    global _outboxes, _making
    _outboxes, _making = WeakSet(), threading.Lock()


def _end_at_exit() -> None:
    deadline = time.monotonic() + _AT_EXIT
    for each in list(_outboxes):
        each.end(deadline - time.monotonic())


os.register_at_fork(after_in_child=_forget_in_child)
atexit.register(_end_at_exit)


# -- the mode of a job -----------------------------------------------------------------------------

_MODE: Final = "_sqla_jobs_notify"


def mark(job: JobMixin, mode: Mode) -> None:
    """Let a job know in which mode its registry tells of it; no column, and gone with the object."""
    if mode != DEFAULT_MODE:
        vars(job)[_MODE] = mode


def mode_of(job: JobMixin) -> Mode:
    """In which mode a job is told of; one that was made by hand: in the transaction."""
    mode: Mode = vars(job).get(_MODE, DEFAULT_MODE)
    return mode


def unlike(jobs: Iterable[JobMixin]) -> Collection[JobMixin]:
    """Of those that mean the same to workers, in the same mode, only one."""
    found = {}
    for job in jobs:
        values = vars(job)
        found[type(job), values.get(_MODE), values.get("state"), values.get("queue")] = job
    return found.values()


def payload_of(job: JobMixin) -> str | None:
    """What its row means to workers; None: nothing. Asks nothing of the database."""
    values = vars(job)
    state = values.get("state", "scheduled")
    if state == "queued":
        queue = values.get("queue", DEFAULT_QUEUE)
        return queued(queue) if isinstance(queue, str) else "queued"
    # An expression is not known yet: whoever looks will see.
    return SCHEDULED if state == "scheduled" or not isinstance(state, str) else None
