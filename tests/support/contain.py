"""One job with a body of the test's, run by a worker or in the caller's transaction, watched from outside."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs import Finished, Jobs, RetryPolicy, Worker
from sqla_jobs.models import Job
from tests.support.models import Item
from tests.support.server import Database

Body = Callable[..., Any]

CALLERS = {"caller", "pending"}
"""What the caller of `work_once` has in its transaction before: one item flushed, one still pending."""


@dataclass(frozen=True)
class Seen:
    """What another connection sees of the job's work at one moment."""

    items: frozenset[str]
    state: str
    locked: bool


@dataclass
class Run:
    """What became of the job."""

    state: str
    attempt: int
    items: set[str]
    """Committed in the end, the caller's own left out."""
    kept: bool
    """Whether the caller's own items are among them."""
    error: str | None
    """The error class in the row's last attempt, without its module."""
    message: str | None
    seen: list[Seen] = field(default_factory=list)
    """One for each ``look()`` of the body."""
    raised: BaseException | None = None
    """What `work_once` raised."""
    finished: Finished | None = None


class Lab:
    """A database with one unique item ``dup``, and jobs whose bodies are given as plain functions.

    A body takes the Session, and the Lab too if it has a second parameter: ``lab.look()``.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = Jobs()
        self.seen: list[Seen] = []
        self.job_id = 0
        if not database.scalar("SELECT 1 FROM items WHERE name = 'dup'"):
            database.execute("INSERT INTO items (name) VALUES ('dup')")

    def items(self) -> set[str]:
        """The names that are committed."""
        return {row.name for row in self.database.rows("SELECT name FROM items WHERE name <> 'dup'")}

    def look(self) -> None:
        """Note what another connection sees now."""
        state = self.database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=self.job_id)
        free = self.database.scalar(
            "SELECT 1 FROM sqla_jobs WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED", id=self.job_id
        )
        self.seen.append(Seen(frozenset(self.items()), state, free is None))

    def enqueue(self, body: Body, *, max_attempts: int = 1) -> int:
        """Make a task of the body, and one job of it, committed."""

        def task(session: Session) -> object:
            return body(session, self) if body.__code__.co_argcount > 1 else body(session)

        made = self.jobs.register(
            task, name=f"{body.__name__}-{len(self.jobs.tasks)}", retry=RetryPolicy(max_attempts=max_attempts)
        )
        with Session(self.database.engine) as session, session.begin():
            self.job_id = made.enqueue(session).id
        return self.job_id

    def by_worker(self, body: Body, sessions: Any = None, **options: Any) -> Run:
        """Run one job of this body by a worker that stops when there is no more."""
        self.enqueue(body)
        finished: list[Finished] = []
        worker = Worker(
            self.jobs,
            sessions or self.database.engine,
            drain=True,
            on_finish=lambda _, each: finished.append(each),
            **options,
        )
        worker.start()
        assert worker.join(60), "the worker does not come to its end"
        run = self.outcome()
        run.finished = finished[-1] if finished else None
        return run

    def by_work_once(self, body: Body, session: Any = None) -> Run:
        """Run one job of this body among the caller's own writes, and commit."""
        self.enqueue(body)
        own = session if session is not None else Session(self.database.engine)
        raised: BaseException | None = None
        finished = None
        with own:
            own.add(Item(name="caller"))
            own.flush()
            own.add(Item(name="pending"))
            try:
                finished = self.jobs.work_once(own)
            except BaseException as error:
                raised = error
            else:
                assert not self.items() & CALLERS, "something is committed before the caller commits"
            own.commit()
        run = self.outcome()
        run.finished, run.raised = finished, raised
        return run

    def outcome(self) -> Run:
        with Session(self.database.engine) as session:
            job = session.get_one(Job, self.job_id)
            last = job.attempts[-1] if job.attempts else {}
            committed = self.items()
            return Run(
                state=job.state,
                attempt=job.attempt,
                items=committed - CALLERS,
                kept=committed >= CALLERS,
                error=last["error"].rpartition(".")[2] if last else None,
                message=last.get("message"),
                seen=list(self.seen),
            )


def untouched(session: Session) -> bool:
    """Whether nothing of a scope is left on the Session."""
    names = ("begin", "commit", "rollback", "close", "reset", "invalidate", "prepare")
    return not any(name in vars(session) for name in names) and not list(session.dispatch.after_begin)
