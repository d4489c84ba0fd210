"""`work_once` on an AsyncSession: the Session within it is contained as any other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError, InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, current_job
from sqla_jobs.testing import drain, enqueued
from tests.support.aio import Sessions, in_a_loop
from tests.support.models import Effect, Item
from tests.support.server import Database
from tests.support.waiting import until
from tests.support.work import NEVER_AGAIN, PATIENCE

NOTES = "SELECT note FROM effects ORDER BY id"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs(prune_after=None)


def commits(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="job"))
    session.commit()
    session.add(Effect(job_id=current_job().id, note="after"))


def rolls_back(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="gone"))
    session.flush()
    session.rollback()
    session.add(Effect(job_id=current_job().id, note="job"))


def closes(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="gone"))
    session.flush()
    session.close()


def fails(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="gone"))
    session.commit()
    raise ValueError("no")


def breaks_a_constraint(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="gone"))
    session.add_all([Item(name="a"), Item(name="a")])
    session.flush()


def swallows(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="job"))
    session.flush()
    try:
        with session.begin_nested():
            session.add_all([Item(name="a"), Item(name="a")])
            session.flush()
    except IntegrityError:
        pass


def commits_in_sql(session: Session) -> None:
    session.add(Effect(job_id=current_job().id, note="gone"))
    session.execute(text("COMMIT"))


@pytest.mark.parametrize(
    ("body", "state", "notes"),
    [
        (commits, "succeeded", ["job", "after"]),
        (rolls_back, "succeeded", ["job"]),
        (closes, "succeeded", []),
        (fails, "failed", []),
        (breaks_a_constraint, "failed", []),
        (swallows, "succeeded", ["job"]),
        (commits_in_sql, "failed", []),
    ],
)
def test_a_job_goes_no_further_than_its_savepoint(
    body: Callable[[Session], None], state: str, notes: list[str], jobs: Jobs[Job], database: Database
) -> None:
    task = jobs.task(name="body", retry=NEVER_AGAIN)(body)

    async def main(sessions: Sessions, ends: str) -> None:
        async with sessions() as session:
            session.add(Effect(job_id=0, note="caller"))
            await task.enqueue(session)
            finished = await jobs.work_once(session)
            assert finished is not None
            assert finished.state == state
            assert database.rows(NOTES) == []
            await (session.commit() if ends == "commit" else session.rollback())

    in_a_loop(database, lambda sessions: main(sessions, "rollback"))
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0
    in_a_loop(database, lambda sessions: main(sessions, "commit"))
    assert [row[0] for row in database.rows(NOTES)] == ["caller", *notes]
    assert database.rows("SELECT state FROM sqla_jobs") == [(state,)]


def test_a_job_enqueues_in_the_transaction_of_all(jobs: Jobs[Job], database: Database) -> None:
    child = jobs.task(name="child")(commits)

    @jobs.task(name="parent")
    def parent(session: Session) -> None:
        child.enqueue(session)

    async def main(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            await parent.enqueue(session)
            assert [each.job.task for each in await drain(session, jobs)] == ["parent", "child"]
            assert await enqueued(session) == []

    in_a_loop(database, main)
    assert database.rows("SELECT task, state FROM sqla_jobs ORDER BY id") == [
        ("parent", "succeeded"), ("child", "succeeded"),
    ]  # fmt: skip


def test_an_autocommit_engine_is_refused(jobs: Jobs[Job], database: Database) -> None:
    task = jobs.task(name="t")(commits)

    async def main(_: Any) -> None:
        engine = create_async_engine(database.url, isolation_level="AUTOCOMMIT")
        async with AsyncSession(engine) as session:
            await task.enqueue(session)
            with pytest.raises(InvalidRequestError, match="AUTOCOMMIT"):
                await jobs.work_once(session)
        await engine.dispose()

    in_a_loop(database, main)
    assert database.scalar("SELECT state FROM sqla_jobs") == JobState.QUEUED


def test_a_cancel_in_the_middle_of_a_job_is_passed_on(jobs: Jobs[Job], database: Database) -> None:
    """It is not the job's failure, and whoever cancels is not told of another error."""

    @jobs.task(name="waits")
    def waits(session: Session) -> None:
        session.add(Effect(job_id=current_job().id, note="gone"))
        session.execute(text("SELECT pg_advisory_xact_lock(7)"))

    async def main(sessions: Sessions) -> None:
        async with sessions() as holder, sessions() as session:
            await holder.execute(text("SELECT pg_advisory_xact_lock(7)"))
            async with sessions.begin() as other:
                await waits.enqueue(other)
            running = asyncio.create_task(jobs.work_once(session))
            await asyncio.to_thread(until, database, "SELECT count(*) = 1 FROM pg_locks WHERE NOT granted")
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, PATIENCE)
            await holder.rollback()
            await session.rollback()
            finished = await jobs.work_once(session)
            assert finished is not None
            assert (finished.state, finished.job.attempt) == ("succeeded", 1)
            await session.commit()

    in_a_loop(database, main)
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_a_cancel_that_the_database_has_not_seen(jobs: Jobs[Job], database: Database) -> None:
    """In a job that waits for something else."""

    @jobs.task(name="waits")
    async def waits(session: AsyncSession) -> None:
        session.add(Effect(job_id=1, note="gone"))
        await session.flush()
        begun.set()
        await asyncio.Event().wait()

    begun = asyncio.Event()

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            await waits.enqueue(session)
            await session.commit()
            running = asyncio.create_task(jobs.work_once(session))
            await asyncio.wait_for(begun.wait(), PATIENCE)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asyncio.wait_for(running, PATIENCE)
            await session.rollback()
            await session.commit()

    in_a_loop(database, main)
    assert database.scalar("SELECT count(*) FROM effects") == 0
    assert database.rows("SELECT state, attempt FROM sqla_jobs") == [("queued", 0)]
