"""What `top` reads from the database, and what it does there: each in a short transaction of its own."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.orm import Session

from sqla_jobs import inspection, statements, verbs
from sqla_jobs.cli.top.facts import BUCKETS, SPAN, Action, Panel, Said, Snapshot, Wish
from sqla_jobs.errors import JobsError
from sqla_jobs.inspection import JobDetail, JobFilter, JobRow
from sqla_jobs.lifecycle import Cancelled, Retried
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState
from sqla_jobs.redaction import mask
from sqla_jobs.tasks import Registry

T = TypeVar("T")

PATIENCE: Final = dt.timedelta(seconds=2)
"""How long one statement may take; one that only acts likewise."""
ROWS: Final = 200
"""Jobs of a panel."""
LOOK: Final = 5_000
"""Jobs of a panel that are looked at for a filter."""
_TIMEOUT: Final = "57014"
"""The server's code for a statement that was ended."""
_STATES: Final = {
    Panel.RUNNING: (JobState.RUNNING,),
    Panel.WAITING: (JobState.QUEUED, JobState.SCHEDULED),
    Panel.FAILURES: (JobState.FAILED,),
}
_CANCELLED: Final = {
    Cancelled.CANCELLED: ("is cancelled", True),
    Cancelled.REQUESTED: ("is asked to stop: its worker interrupts it", True),
    Cancelled.FINISHED: ("is over already: nothing was done", False),
    Cancelled.BUSY: ("is locked by somebody: nothing was done, try again", False),
}
_RETRIED: Final = {
    Retried.RETRIED: ("is queued", True),
    Retried.QUEUED: ("is queued already: nothing was done", False),
    Retried.RUNNING: ("runs: nothing was done", False),
    Retried.SUCCEEDED: ("has succeeded: nothing was done", False),
    Retried.BUSY: ("is locked by somebody: nothing was done, try again", False),
}


class Late(Exception):
    """A statement took longer than it may."""


@dataclass
class Source:
    """The queue in one database.

    Parameters:
        engine: of which one connection is held from one look to the next.
        read_only: nothing is done, whatever is asked for.
        jobs: the application's, if it was named: knows which arguments of its tasks are not to be seen.
        patience: how long one statement may take.
    """

    engine: Engine
    model: type[JobMixin]
    read_only: bool = False
    jobs: Registry[Any] | None = None
    patience: dt.timedelta = PATIENCE
    _connection: Connection | None = field(default=None, init=False)

    # -- read ------------------------------------------------------------------------------------------

    def read(self, wish: Wish) -> Snapshot:
        """What there is at this moment; a part that takes too long is left out and said to be late.

        Raises:
            SQLAlchemyError: the database is away.
        """
        late: set[str] = set()

        def part(name: str, ask: Callable[[Session], T], otherwise: T) -> T:
            try:
                # Where one part waited in vain, likely all others do: not as long each.
                patience = self.patience / 4 if late else self.patience
                with self._transaction(patience, read_only=True) as session:
                    return ask(session)
            except Late:
                late.add(name)
                return otherwise

        model, job_id = self.model, wish.job
        jobs, more = {}, set()
        at = part("clock", lambda session: session.scalars(statements.clock(), {"now": None}).one(), None)
        for panel in _STATES:
            found = part(panel, partial(self._jobs, panel=panel, wish=wish), None)
            if found is not None:
                jobs[panel], follows = found
                more |= {panel} if follows else set()
        return Snapshot(
            at=at or dt.datetime.now(dt.timezone.utc),
            queues=tuple(part("queues", lambda session: inspection.list_queues(session, model), [])),
            workers=tuple(part("workers", lambda session: inspection.list_workers(session, model), [])),
            jobs=jobs,
            more=frozenset(more),
            buckets=tuple(
                part("buckets", partial(inspection.stats, model=model, span=SPAN, buckets=BUCKETS), [])
            ),
            states=part("states", lambda session: inspection.count_states(session, model), {}),
            wish=wish,
            detail=None if job_id is None else part("detail", partial(self._detail, job_id=job_id), None),
            late=frozenset(late),
        )

    def _jobs(self, session: Session, panel: Panel, wish: Wish) -> tuple[tuple[JobRow, ...], bool]:
        """The first jobs of a panel that match, and whether there are, or may be, more."""
        found: list[JobRow] = []
        more = False
        for state in _STATES[panel]:
            most = ROWS // len(_STATES[panel])
            rows, follows = self._matching(session, state, wish, most)
            found += rows
            more |= follows
        return tuple(found), more

    def _detail(self, session: Session, job_id: int) -> JobDetail | None:
        found = inspection.show_job(session, self.model, job_id)
        # The row names what its task hid when it was enqueued; raw SQL, and tasks of before, name nothing.
        task = None if found is None or self.jobs is None else self.jobs.tasks.get(found.task)
        if found is None or task is None:
            return found
        return replace(found, arguments=mask(found.arguments, task.redact))

    def _matching(
        self, session: Session, state: JobState, wish: Wish, most: int
    ) -> tuple[list[JobRow], bool]:
        found: list[JobRow] = []
        cursor, looked = None, 0
        while True:
            page = inspection.list_jobs(
                session, self.model, JobFilter(states=(state,)), cursor=cursor,
                limit=most if not wish.filter else min(500, LOOK),
            )  # fmt: skip
            found += [row for row in page.jobs if wish.matches(row.task, row.queue)]
            cursor, looked = page.next, looked + max(page.looked_at, 1)
            if cursor is None or len(found) >= most or looked >= LOOK:
                return found[:most], cursor is not None or len(found) > most

    # -- act -------------------------------------------------------------------------------------------

    def act(self, action: Action) -> Said:
        """Do one thing, once, and say what was done; never raises because of the database."""
        if self.read_only:
            return Said("read-only: nothing was done", good=False)
        try:
            with self._transaction(self.patience, read_only=False) as session:
                told, good = _do(session, self.model, action)
        except Late:
            return Said(f"nothing was done, try again: somebody has {action.named} locked", good=False)
        except JobsError as error:
            return Said(f"nothing was done: {error}", good=False)
        except SQLAlchemyError as error:
            # Perhaps in the COMMIT: nobody knows whether it was done.
            lost = isinstance(error, DBAPIError) and error.connection_invalidated
            told = "look whether it was done" if lost else "nothing was done"
            return Said(f"{told}: {why(error)}", good=False)
        return Said(f"{action.named} {told}", good)

    @contextmanager
    def _transaction(self, patience: dt.timedelta, *, read_only: bool) -> Iterator[Session]:
        """A Session whose statements are ended by the server when they take too long.

        Raises:
            Late: one was.
        """
        longest = f"{patience.total_seconds() * 1000:.0f}ms"
        connection = self._connection = self._connection or self.engine.connect()
        try:
            # The application's engine may be AUTOCOMMIT, where a limit for one transaction is one for none.
            connection.execution_options(isolation_level="READ COMMITTED", postgresql_readonly=read_only)
            with Session(connection) as session, session.begin():
                session.execute(statements.limit_time(), {"p_time": longest})
                yield session
        except BaseException as error:
            if isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == _TIMEOUT:
                raise Late from error
            if isinstance(error, DBAPIError):
                self.close()
            raise

    def close(self) -> None:
        """Let the connection go; the next transaction makes another."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.invalidate()
                connection.close()


def _do(session: Session, model: type[JobMixin], action: Action) -> tuple[str, bool]:
    if isinstance(action.target, str):
        if action.verb == "pause":
            new = verbs.pause(session, action.target, model=model)
            return ("is paused" if new else "was paused already"), new
        was = verbs.resume(session, action.target, model=model)
        return ("is open again" if was else "was not paused"), was
    if action.verb == "cancel":
        return _CANCELLED[verbs.cancel(session, action.target, model=model)]
    return _RETRIED[verbs.retry(session, action.target, model=model)]


def why(error: SQLAlchemyError) -> str:
    """An error of the database in one line."""
    told = str(error.orig if isinstance(error, DBAPIError) else error).strip()
    return told.splitlines()[0] if told else type(error).__name__
