"""One job with a body of the test's, run by a worker, in the caller's transaction, or in a group.

It is watched from outside.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import Finished, Jobs, RetryPolicy, Worker
from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import Job
from sqla_jobs.scope.connections import _watched
from tests.support.fast import FAST, unhurried
from tests.support.models import Item
from tests.support.server import Database

Body = Callable[..., Any]

CALLERS = {"caller", "pending"}
"""What the caller of `work_once` has in its transaction before: one item flushed, one still pending."""

NEIGHBOURS = {"before", "after"}
"""What the jobs before and after it in its group write, an item each."""

CONTAINED = ("begin", "commit", "rollback", "close", "reset", "invalidate", "prepare", "connection")
GUARDED = ("before_cursor_execute", "commit", "rollback")


@dataclass(frozen=True)
class Seen:
    """What another connection sees of the job at one moment."""

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
    """One for each ``lab.look()`` of the body."""
    raised: BaseException | None = None
    """What `work_once` raised."""
    finished: Finished | None = None
    neighbours: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """(state, attempt, failures) of the jobs before and after it in a group."""


def add(session: Session, name: str) -> None:
    """Write an item of this name at once."""
    session.add(Item(name=name))
    session.flush()


def write(name: str, session: Session) -> None:
    """An innocent job."""
    session.add(Item(name=name))


class Lab:
    """A database with one unique item ``dup``, and jobs whose bodies are given as plain functions.

    A body takes the Session, and the Lab too if it has a second parameter: ``lab.look()``.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self.jobs = Jobs()
        self.seen: list[Seen] = []
        self.left: list[object] = []
        """What a scope has left on a Session or its connections."""
        self.job_id = 0
        self.first: Body = partial(write, "before")
        """What the job before that of the body does, in a group."""
        database.execute("DELETE FROM sqla_jobs")
        database.execute("DELETE FROM items")
        database.execute("INSERT INTO items (name) VALUES ('dup')")

    def items(self) -> set[str]:
        """The names that are committed."""
        return {row.name for row in self.database.rows("SELECT name FROM items WHERE name <> 'dup'")}

    @staticmethod
    def committed(database: Database) -> set[str]:
        """The names of all items."""
        return {row.name for row in database.rows("SELECT name FROM items")}

    def look(self) -> None:
        """Note what another connection sees now."""
        state = self.database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=self.job_id)
        free = self.database.scalar(
            "SELECT 1 FROM sqla_jobs WHERE id = :id FOR NO KEY UPDATE SKIP LOCKED", id=self.job_id
        )
        self.seen.append(Seen(frozenset(self.items()), state, free is None))

    def enqueue(self, body: Body, *, max_attempts: int = 1, is_async: bool = False, **options: Any) -> int:
        """Make a task of the body, and one job of it, committed.

        Parameters:
            is_async: the task is a coroutine function; the body may be one, too.
        """

        async def awaited(session: AsyncSession) -> object:
            takes = len(inspect.signature(body).parameters)
            if inspect.iscoroutinefunction(body):
                result: object = await (body(session, self) if takes > 1 else body(session))
                return result
            return await session.run_sync(task)

        def task(session: Session) -> object:
            takes = len(inspect.signature(body).parameters)
            return body(session, self) if takes > 1 else body(session)

        name = getattr(body, "__name__", "innocent")
        made = self.jobs.register(
            awaited if is_async else task,
            name=f"{name}-{len(self.jobs.tasks)}",
            retry=RetryPolicy(max_attempts=max_attempts),
            **options,
        )
        with Session(self.database.engine) as session, session.begin():
            self.job_id = made.enqueue(session).id
        return self.job_id

    def by_worker(self, body: Body, sessions: Any = None, **options: Any) -> Run:
        """Run one job of this body by a worker that stops when there is no more."""
        self.enqueue(body)
        finished: list[Finished] = []
        source = sessions or sessionmaker(self.database.engine)
        worker = Worker(
            self.jobs,
            source if isinstance(source, scoped_session) else self._checked(source),
            drain=True,
            on_finish=lambda _, each: finished.append(each),
            **options,
        )
        worker.start()
        assert worker.join(60), "the worker does not come to its end"
        run = self.outcome()
        run.finished = finished[-1] if finished else None
        return run

    def by_loop(self, body: Body, engine: AsyncEngine | None = None, **options: Any) -> Run:
        """Run one job of this body, or of this coroutine function, on a worker's event loop."""
        self.enqueue(body, is_async=True)
        finished: list[Finished] = []
        made = async_sessionmaker(engine or create_async_engine(self.database.url))
        worker = Worker(
            self.jobs,
            self.database.engine,
            async_sessionmaker=self._checked_async(made),
            drain=True,
            on_finish=lambda _, each: finished.append(each),
            **options,
        )
        worker.start()
        assert worker.join(60), "the worker does not come to its end"
        run = self.outcome()
        (run.finished,) = finished
        return run

    def by_awaited_work_once(self, body: Body) -> Run:
        """`by_work_once` of a coroutine, in an AsyncSession."""
        self.enqueue(body, is_async=True)
        return asyncio.run(self._in_async_session())

    async def _in_async_session(self) -> Run:
        engine = create_async_engine(self.database.url)
        raised: BaseException | None = None
        finished = None
        async with self._checked_async(async_sessionmaker(engine))() as own:
            own.add(Item(name="caller"))
            await own.flush()
            own.add(Item(name="pending"))
            try:
                finished = await own.run_sync(self.jobs.work_once)
            except BaseException as error:
                raised = error
            else:
                assert not self.items() & CALLERS, "something is committed before the caller commits"
            if own.in_transaction():
                await own.commit()
        await engine.dispose()
        run = self.outcome()
        run.finished, run.raised = finished, raised
        return run

    def by_group(self, body: Body, sessions: Any = None) -> Run:
        """Run one job of this body in the fast lane, between two innocent ones in the same group."""
        bodies: dict[str, Body] = {"before": self.first, "body": body, "after": partial(write, "after")}
        ids = {name: self.enqueue(each, **FAST) for name, each in bodies.items()}
        self.job_id = ids.pop("body")
        source = sessions or sessionmaker(self.database.engine)
        finished: list[Finished] = []
        worker = Worker(
            self.jobs,
            source if isinstance(source, scoped_session) else self._checked(source),
            drain=True,
            on_finish=lambda _, each: finished.append(each),
        )
        with unhurried():
            worker.start()
            assert worker.join(60), "the worker does not come to its end"
        assert [each.job.id for each in finished] == sorted([self.job_id, *ids.values()])
        run = self.outcome()
        (run.finished,) = [each for each in finished if each.job.id == self.job_id]
        with Session(self.database.engine) as session:
            for name, job_id in ids.items():
                job = session.get_one(Job, job_id)
                run.neighbours[name] = (job.state, job.attempt, len(job.attempts))
        return run

    def by_work_once(self, body: Body, session: Session | scoped_session[Any] | None = None) -> Run:
        """Run one job of this body among the caller's own writes, and commit."""
        self.enqueue(body)
        raised: BaseException | None = None
        finished = None
        given = Session(self.database.engine) if session is None else session
        with self._checked(lambda: given() if isinstance(given, scoped_session) else given)() as own:
            if not own.autobegin:
                own.begin()
            own.add(Item(name="caller"))
            own.flush()
            own.add(Item(name="pending"))
            try:
                finished = self.jobs.work_once(given)
            except BaseException as error:
                raised = error
            else:
                assert not self.items() & CALLERS, "something is committed before the caller commits"
            if own.in_transaction():
                own.commit()
        run = self.outcome()
        run.finished, run.raised = finished, raised
        return run

    @contextmanager
    def _watched(self) -> Iterator[list[Connection]]:
        used: list[Connection] = []

        def note(connection: Connection) -> None:
            used.append(connection)

        event.listen(self.database.engine, "engine_connect", note)
        try:
            yield used
        finally:
            event.remove(self.database.engine, "engine_connect", note)

    def _checked(self, sessions: Callable[[], Any]) -> Callable[[], Any]:
        """The same Sessions; it is noted if a scope leaves anything on them."""

        @contextmanager
        def checked() -> Iterator[Session]:
            with self._watched() as used, sessions() as session:
                before = traces(session)
                yield session
                if traces(session) != before:
                    self.left.append(session)
                for connection in used:
                    self.left += [
                        name
                        for name in GUARDED
                        for listener in getattr(connection.dispatch, name)
                        # Those of the engine, ours among them, are there for good.
                        if listener not in list(getattr(connection.engine.dispatch, name))
                    ]
                    assert connection not in _watched

        return checked

    def _checked_async(self, sessions: async_sessionmaker[AsyncSession]) -> Callable[[], Any]:
        """`_checked`, of AsyncSessions."""

        @asynccontextmanager
        async def checked() -> AsyncIterator[AsyncSession]:
            async with sessions() as session:
                before = traces(session.sync_session)
                yield session
                if traces(session.sync_session) != before:
                    self.left.append(session)

        return checked

    def outcome(self) -> Run:
        assert not self.left, f"a scope has left something behind: {self.left}"
        with Session(self.database.engine) as session:
            job = session.get_one(Job, self.job_id)
            last = job.attempts[-1] if job.attempts else {}
            committed = self.items()
            return Run(
                state=job.state,
                attempt=job.attempt,
                items=committed - CALLERS - NEIGHBOURS,
                kept=committed >= CALLERS,
                error=last["error"].rpartition(".")[2] if last else None,
                message=last.get("message"),
                seen=list(self.seen),
            )


def traces(session: Session) -> object:
    """What a scope could leave on a Session."""
    return (
        {name: vars(session).get(name) for name in CONTAINED},
        list(session.dispatch.after_begin),
        session.bind,
    )


@dataclass(frozen=True)
class Case:
    """A body, and what must become of a job that has it."""

    body: Body
    state: str
    items: set[str] = field(default_factory=set)
    error: str | None = None
    escapes: bool = False
    """It ends the caller's transaction: `work_once` can record nothing, and raises JobEscaped."""
    during: set[str] | None = None
    """What others see while it runs; None: it does not look."""
    once: tuple[str, set[str], str | None] | None = None
    """What `work_once` makes of it, where that is not the same."""
    group: tuple[str, set[str], str | None] | None = None
    """What becomes of it in a group, where that is not the same."""
    commits_others: bool = False
    """It commits by the driver, where nobody sees it: in a group also what the job before it has written,
    without that job's outcome, so that both are run again."""

    def check_by_worker(self, database: Database, sessions: Any = None) -> None:
        run = Lab(database).by_worker(self.body, sessions)
        assert (run.state, run.items, run.error) == (self.state, self.items, self.error), run.message
        assert run.attempt == 1
        # In the ordinary lane the claim is committed: everyone sees the job run, nobody waits for it.
        if self.during is not None:
            assert run.seen == [Seen(frozenset(self.during), "running", locked=False)]

    def check_by_loop(self, database: Database) -> None:
        run = Lab(database).by_loop(self.body)
        assert (run.state, run.items, run.error) == (self.state, self.items, self.error), run.message
        assert run.attempt == 1
        if self.during is not None:
            assert run.seen == [Seen(frozenset(self.during), "running", locked=False)]

    def check_by_group(self, database: Database, sessions: Any = None) -> None:
        run = Lab(database).by_group(self.body, sessions)
        expected = self.group or (self.state, self.items, self.error)
        assert (run.state, run.items, run.error) == expected, run.message
        assert run.attempt == 1
        # The job is locked from its claim to the commit of its group, and what it writes is not seen before.
        if self.during is not None:
            others = NEIGHBOURS & {"before"} if self.during else set()
            in_group, *alone = run.seen
            assert in_group == Seen(frozenset(self.during | others), "queued", locked=not self.during)
            assert len(alone) <= 1
        assert run.neighbours["after"] == ("succeeded", 1, 0)
        if self.commits_others:
            assert run.neighbours["before"] == ("failed", 1, 1), "run again, its item was there already"
        else:
            assert run.neighbours["before"] == ("succeeded", 1, 0)
        assert set(NEIGHBOURS) <= Lab.committed(database)

    def check_by_work_once(self, database: Database, session: Any = None, *, is_async: bool = False) -> None:
        lab = Lab(database)
        run = lab.by_awaited_work_once(self.body) if is_async else lab.by_work_once(self.body, session)
        if self.escapes:
            assert isinstance(run.raised, JobEscaped), run
            # Nothing is recorded, the attempt is not counted; the caller's transaction is rolled back.
            assert (run.state, run.attempt, run.error) == ("queued", 0, None)
            assert run.items == self.items
            assert run.kept == bool(self.items)
        else:
            assert run.raised is None
            expected = self.once or (self.state, self.items, self.error)
            assert (run.state, run.items, run.error) == expected, run.message
            assert run.attempt == 1
            assert run.kept, "a failed job took the caller's own writes along"
        # The job is locked from its claim to the caller's commit, and never seen as running.
        if self.during is not None:
            committed = self.during | (CALLERS if self.during else set())
            assert run.seen == [Seen(frozenset(committed), "queued", locked=not self.during)]


def each(cases: list[Case]) -> pytest.MarkDecorator:
    """Parametrize a test by cases, named after their bodies."""
    return pytest.mark.parametrize("case", cases, ids=lambda case: case.body.__name__.strip("_"))
