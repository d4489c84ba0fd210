"""`sqla-jobs worker` with tasks that are `async def`: where its AsyncSessions come from, and its signals."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from sqla_jobs import Jobs
from tests.support.program import command, run
from tests.support.server import Database

APP = """
import asyncio
import logging
import os

from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Jobs, RetryPolicy, current_job
from tests.support.models import Effect

jobs = Jobs({options})


class Own(AsyncSession):
    pass


@jobs.task
async def write(session: AsyncSession) -> None:
    session.add(Effect(job_id=current_job().id, note=type(session).__name__))


@jobs.task
async def hold(session: AsyncSession) -> None:
    session.add(Effect(job_id=current_job().id))
    await session.flush()
    logging.getLogger("app").info("holding on")
    await asyncio.Event().wait()
"""
OWN = "async_sessionmaker=async_sessionmaker(create_async_engine(os.environ['OWN']), class_=AsyncSession)"


def application(folder: Path, options: str = "") -> Path:
    (folder / "app.py").write_text(APP.replace("{options}", options))
    return folder


def enqueue(database: Database, task: str, times: int = 1) -> list[int]:
    with database.sessionmaker.begin() as session:
        return [Jobs().enqueue(session, f"app.{task}").id for _ in range(times)]


def test_it_makes_an_engine_for_the_database_that_is_named(tmp_path: Path, database: Database) -> None:
    ids = enqueue(database, "write", 15)
    environment = {"DATABASE_URL": database.url_string}
    drained = run(
        "worker", "app:jobs", "--drain", "--concurrency", "3", folder=application(tmp_path), **environment
    )
    assert drained.code == 0, drained.errors
    assert {row.job_id for row in database.rows("SELECT job_id FROM effects")} == set(ids)


def test_it_takes_the_async_sessionmaker_for_all_if_nothing_else_is_named(
    tmp_path: Path, database: Database
) -> None:
    enqueue(database, "write")
    drained = run("worker", "app:jobs", "--drain", folder=application(tmp_path, OWN), OWN=database.url_string)
    assert drained.code == 0, drained.errors
    assert "the Jobs' own async_sessionmaker" in drained.errors
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_an_async_sessionmaker_of_another_database_is_led_to_the_one_that_is_named(
    tmp_path: Path, database: Database, empty_database: Database
) -> None:
    enqueue(database, "write")
    environment = {"DATABASE_URL": database.url_string, "OWN": empty_database.url_string}
    drained = run("worker", "app:jobs", "--drain", folder=application(tmp_path, OWN), **environment)
    assert drained.code == 0, drained.errors
    assert database.scalar("SELECT count(*) FROM effects") == 1


def test_without_any_it_says_which_tasks_need_one(tmp_path: Path, database: Database) -> None:
    options = "sessionmaker=sessionmaker(create_engine(os.environ['OWN']))"
    refused = run("worker", "app:jobs", folder=application(tmp_path, options), OWN=database.url_string)
    assert refused.code != 0
    assert "app.hold, app.write" in refused.errors
    assert "Traceback" not in refused.errors


@pytest.mark.parametrize("signals", [1, 2])
def test_signals(signals: int, tmp_path: Path, database: Database) -> None:
    """The second, or the end of the grace period, gives back what waits for ever."""
    (job,) = enqueue(database, "hold")
    arguments = ["worker", "app:jobs", "--grace", "0.2" if signals == 1 else "60"]
    with command(*arguments, folder=application(tmp_path), DATABASE_URL=database.url_string) as worker:
        worker.wait_for("holding on")
        worker.send(signal.SIGTERM)
        worker.wait_for("letting the running jobs finish")
        if signals == 2:
            worker.send(signal.SIGINT)
        assert worker.wait() == 0
    assert database.rows("SELECT id, state, attempt FROM sqla_jobs") == [(job, "queued", 0)]
    assert database.scalar("SELECT count(*) FROM effects") == 0
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0
