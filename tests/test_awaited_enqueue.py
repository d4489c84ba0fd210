"""Enqueue on an AsyncSession: mapped objects, unique keys, notices, races in a loop, a cancel in between."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import IntegrityError, PendingRollbackError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sqla_jobs import JobMixin, Jobs
from sqla_jobs.errors import InvalidArguments
from sqla_jobs.testing import drain, enqueued
from tests.support.aio import Sessions, in_a_loop
from tests.support.ear import ear
from tests.support.models import Effect
from tests.support.python import python
from tests.support.server import Database
from tests.support.shop import Base as ShopBase
from tests.support.shop import Order
from tests.support.waiting import blocked, until
from tests.support.work import PATIENCE

jobs = Jobs(prune_after=None)


class TenantBase(DeclarativeBase):
    pass


class TenantJob(JobMixin, TenantBase):
    """A column more, so that it is enqueued by a flush, and a unique one in a savepoint."""

    __table_args__ = {"schema": "tenant"}
    tenant: Mapped[int] = mapped_column(default=7)


tenant_jobs = Jobs(TenantJob, prune_after=None)
COUNT = "SELECT count(*) FROM sqla_jobs"


@jobs.task(name="note", queue="mail")
def note(session: Session, number: int) -> None:
    session.add(Effect(job_id=number))


@tenant_jobs.task(name="note")
def tenant_note(session: Session, number: int) -> None: ...


@jobs.task(name="ship")
def ship(session: Session, order: Order) -> None:
    order.note = "shipped"


def readable(job: JobMixin) -> dict[str, Any]:
    """Each column as an attribute: one that is not there would have to be awaited, and raise."""
    return {each.key: getattr(job, each.key) for each in type(job).__mapper__.column_attrs}


@pytest.fixture(params=["by an INSERT", "by a flush"])
def keyed(request: pytest.FixtureRequest, database: Database) -> Any:
    """A task with a unique key, and its table."""
    if request.param == "by an INSERT":
        return note.using(unique_key="k"), "sqla_jobs"
    database.execute("CREATE SCHEMA tenant")
    tenant_jobs.create_all(database.engine)
    TenantBase.metadata.create_all(database.engine)
    return tenant_note.using(unique_key="k"), "tenant.sqla_jobs"


# -- a job is an object of the Session ---------------------------------------------------------------


@pytest.mark.parametrize("expires", [True, False])
def test_its_columns_are_read_without_an_await(expires: bool, keyed: Any, database: Database) -> None:
    """All of them until the commit, and after it if the Session does not expire what it has."""
    task, _ = keyed

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            session.add(Effect(job_id=1))
            of_a_flush = await task.using(unique_key=None).enqueue(session, 1)
            alone = await task.using(unique_key=None).enqueue(session, 2)
            first = await task.enqueue(session, 3)
            duplicate = await task.enqueue(session, 4)
            session.add(added := task.using(unique_key=None).job(5))
            await session.flush()
            made = [of_a_flush, alone, first, duplicate, added]
            numbers = [readable(job)["arguments"]["number"] for job in made]
            assert numbers == [1, 2, 3, 3, 5]
            assert [job.duplicate for job in made] == [False, False, True, True, False]
            assert first is duplicate
            ids = [job.id for job in made]
            await session.commit()
            if not expires:
                assert [readable(job)["id"] for job in made] == ids
            else:
                assert "Job" in repr(first)
                assert first.duplicate
                await session.refresh(first)
                assert readable(first)["id"] == ids[2]

    in_a_loop(database, main, expire_on_commit=expires)


def test_it_is_added_without_an_await(database: Database) -> None:
    ShopBase.metadata.create_all(database.engine, [Order.__table__])

    async def main(sessions: Sessions) -> list[int]:
        async with sessions.begin() as session:
            order, other = Order(), Order()
            session.add_all([order, other])
            session.add(job := ship.job(order))  # neither has a key
            other.job = ship.job(other)  # and refers to the job that is given it
            await session.flush()
            assert (job.arguments, job.state) == ({"order": order.id}, "queued")
            return [order.id, other.id]

    ids = in_a_loop(database, main)
    assert [
        row[0] for row in database.rows("SELECT (arguments->>'order')::int FROM sqla_jobs ORDER BY 1")
    ] == ids


def test_a_pending_object_is_flushed_by_the_enqueue(database: Database) -> None:
    ShopBase.metadata.create_all(database.engine, [Order.__table__])

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            session.add(order := Order())
            job = await ship.enqueue(session, order)
            assert job.arguments == {"order": order.id}
            await session.commit()
            again = await ship.enqueue(session, order)  # expired, but its key is known
            assert again.arguments == {"order": (await order_id(session))}
            found = await enqueued(session, ship, order=order)
            assert [each.id for each in found] == [each.id for each in await enqueued(session)]
            assert len(await drain(session, jobs)) == 2
            assert (await session.refresh(order), order.note) == (None, "shipped")

    async def order_id(session: AsyncSession) -> int:
        return (await session.execute(text("SELECT id FROM orders"))).scalar_one()

    in_a_loop(database, main)


def test_one_that_the_table_refuses_leaves_the_session_as_a_flush_does(database: Database) -> None:
    database.execute("ALTER TABLE sqla_jobs ADD CONSTRAINT no CHECK (priority <> 13)")

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            await note.enqueue(session, 1)
            with pytest.raises(IntegrityError):
                await note.using(priority=13).enqueue(session, 2)
            with pytest.raises(PendingRollbackError):
                await note.enqueue(session, 3)
            await session.rollback()
            await note.enqueue(session, 4)
            await session.commit()

    in_a_loop(database, main)
    assert database.rows("SELECT arguments->>'number' FROM sqla_jobs") == [("4",)]


@pytest.mark.parametrize("mode", ["transaction", "after_commit", False])
def test_workers_are_told(mode: Any, database: Database) -> None:
    """With the commit also where it is to be after it: an AsyncEngine's driver works in its loop only."""
    told = Jobs(notify=mode, prune_after=None)
    task = told.task(name="t", queue="mail")(lambda session: None)

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            await task.enqueue(session)
            session.add(task.job())
            await told.enqueue_many(session, [task.using(queue="many").job()])
            assert hears.heard() == []
            await session.commit()
            assert sorted(hears.heard()) == ([] if mode is False else ["queued:mail", "queued:many"])
            await task.enqueue(session)
            await session.rollback()
            assert hears.heard() == []

    with ear(database) as hears:
        in_a_loop(database, main)


def test_it_is_the_insert_of_a_session(database: Database) -> None:
    """One statement, with the notice; and so ON CONFLICT, no savepoint, for a unique one."""

    async def main(sessions: Sessions) -> list[str]:
        sent: list[str] = []
        async with sessions() as session:
            connection = (await session.connection()).sync_connection
            event.listen(connection, "before_cursor_execute", lambda c, cursor, sql, *_: sent.append(sql))
            await note.enqueue(session, 1)
            await note.using(unique_key="k").enqueue(session, 1)
        return sent

    first, second = in_a_loop(database, main)
    assert "pg_notify" in first
    assert "ON CONFLICT" in second


# -- two tasks of one loop -----------------------------------------------------------------------------


@pytest.mark.parametrize("commits", [True, False])
def test_the_second_of_a_key_waits_for_the_first(commits: bool, keyed: Any, database: Database) -> None:
    """It waits in the server, and the loop goes on meanwhile."""
    task, table = keyed

    async def second(sessions: Sessions) -> tuple[int, bool]:
        async with sessions.begin() as session:
            await session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('before')"))
            made = await task.enqueue(session, 2)
            await session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('after')"))
            return made.id, made.duplicate

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            first = (await task.enqueue(session, 1)).id
            other = asyncio.create_task(second(sessions))
            await asyncio.to_thread(until, database, blocked("= 1"))
            assert not other.done()
            await (session.commit() if commits else session.rollback())
            found, duplicate = await asyncio.wait_for(other, PATIENCE)
            assert (found == first, duplicate) == (commits, commits)

    in_a_loop(database, main)
    expected = {"before": 1, "after": 1}
    assert database.scalar(f"SELECT count(*) FROM {table} WHERE task = 'note'") == 1
    counted = database.rows("SELECT task, count(*) FROM sqla_jobs WHERE task <> 'note' GROUP BY task")
    assert dict(map(tuple, counted)) == expected


@pytest.mark.parametrize("many", [False, True])
def test_one_that_is_cancelled_while_it_waits_enqueues_nothing(
    many: bool, keyed: Any, database: Database
) -> None:
    """The transaction is over, as after any error; rolled back, the same AsyncSession goes on."""
    task, table = keyed
    registry = tenant_jobs if task.model is TenantJob else jobs

    async def main(sessions: Sessions) -> None:
        async with sessions() as holder, sessions() as session:
            await task.enqueue(holder, 1)
            await session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('before')"))
            call = registry.enqueue_many(session, [task.job(2)]) if many else task.enqueue(session, 2)
            waits = asyncio.create_task(call)
            await asyncio.to_thread(until, database, blocked("= 1"))
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(waits, PATIENCE)
            await holder.rollback()
            await session.rollback()
            assert database.scalar(f"SELECT count(*) FROM {table}") == 0
            assert database.scalar(COUNT) == 0
            assert (await task.enqueue(session, 3)).duplicate is False
            await session.commit()

    in_a_loop(database, main)
    assert database.rows(f"SELECT arguments->>'number' FROM {table}") == [("3",)]


def test_a_commit_after_a_cancel_commits_nothing(keyed: Any, database: Database) -> None:
    """Somebody who swallows the cancel must not commit half of it."""
    task, table = keyed

    async def main(sessions: Sessions) -> None:
        async with sessions() as holder, sessions() as session:
            await task.enqueue(holder, 1)
            await session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('before')"))
            waits = asyncio.create_task(task.enqueue(session, 2))
            await asyncio.to_thread(until, database, blocked("= 1"))
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(waits, PATIENCE)
            await holder.rollback()
            with pytest.raises(PendingRollbackError):
                await session.commit()
            await session.rollback()

    in_a_loop(database, main)
    assert (database.scalar(f"SELECT count(*) FROM {table}"), database.scalar(COUNT)) == (0, 0)


def test_one_that_is_cancelled_before_it_begins(database: Database) -> None:
    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            waits = asyncio.create_task(note.enqueue(session, 1))
            waits.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waits
            assert not session.in_transaction()
            await note.enqueue(session, 2)
            await session.commit()

    in_a_loop(database, main)
    assert database.rows("SELECT arguments->>'number' FROM sqla_jobs") == [("2",)]


# -- greenlet and SQLAlchemy's asyncio part are optional ------------------------------------------------

WITHOUT = """
    import os, sys
    sys.modules["greenlet"] = None
    import sqlalchemy
    from sqlalchemy.orm import Session
    from sqla_jobs import Jobs
    import sqla_jobs.cli, sqla_jobs.testing.plugin

    assert "sqlalchemy.ext.asyncio" not in sys.modules
    jobs = Jobs()

    @jobs.task(name="t")
    def task(session): ...

    with Session(sqlalchemy.create_engine(os.environ["DATABASE_URL"])) as session:
        task.enqueue(session)
        assert jobs.work_once(session).state == "succeeded"
        session.commit()
    try:
        task.enqueue(None)
    except TypeError as error:
        assert "expected a Session" in str(error)
    else:
        raise AssertionError
    print(sqlalchemy.__version__)
    try:
        from sqlalchemy.ext.asyncio import AsyncSession
    except ImportError as error:
        assert "greenlet" in str(error), error
        print("no AsyncSession")
    else:
        try:
            task.enqueue(AsyncSession())
        except sqla_jobs.errors.ConfigurationError as error:
            print(error)
"""


def test_it_works_without_greenlet(database: Database) -> None:
    version, said = python(WITHOUT, database=database).splitlines()
    if version.startswith("2.0."):
        assert said == (
            "greenlet is not installed, and nothing can be awaited on an AsyncSession without it: "
            "pip install 'sqla-jobs[asyncio]'"
        )
    else:
        assert said == "no AsyncSession"  # as SQLAlchemy says itself
    assert database.scalar("SELECT state FROM sqla_jobs") == "succeeded"


def test_asyncio_is_imported_by_who_uses_it(database: Database) -> None:
    """It takes time at the start of every program."""
    program = "import sys, sqla_jobs, sqla_jobs.cli; print('sqlalchemy.ext.asyncio' in sys.modules)"
    assert python(program, database=database) == "False\n"


def test_what_is_no_session_is_refused_before_asyncio_is_there(database: Database) -> None:
    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            for other in (session.sync_session.get_bind(), await session.connection(), sessions):
                with pytest.raises(InvalidArguments, match="expected a Session"):
                    note.enqueue(other, 1)  # type: ignore[call-overload]

    in_a_loop(database, main)
