"""current_job(): the job that runs in this thread, for as long as it runs."""

from __future__ import annotations

import contextvars
import dataclasses
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import inspect
from sqlalchemy.exc import NoInspectionAvailable
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, current_job
from sqla_jobs.errors import JobsError
from tests.support.server import Database
from tests.support.work import PATIENCE, drain

OUTSIDE = "where no job runs"


def test_outside_a_job_there_is_none(session: Session) -> None:
    jobs = Jobs()
    task = jobs.task(name="look")(lambda session: current_job())
    with pytest.raises(JobsError, match=OUTSIDE):
        current_job()
    with pytest.raises(JobsError, match=OUTSIDE):
        task(session)  # a plain call
    task.enqueue(session)
    jobs.work_once(session)
    with pytest.raises(JobsError, match=OUTSIDE):
        current_job()


def test_it_is_frozen_and_not_mapped(session: Session) -> None:
    jobs = Jobs()
    seen: list[Any] = []
    jobs.task(name="look")(lambda session, a: seen.append(current_job())).enqueue(session, 1)
    end = jobs.work_once(session)
    assert end is not None
    assert seen == [end.job]
    with pytest.raises(dataclasses.FrozenInstanceError):
        seen[0].attempt = 5
    # A copy, and plain JSON: what a hook hands to a log or an alert as it is.
    assert json.loads(json.dumps(dataclasses.asdict(seen[0])["arguments"])) == {"a": 1}
    with pytest.raises(NoInspectionAvailable):
        inspect(seen[0])


def test_a_job_that_runs_another_is_itself_again_after_it(session: Session) -> None:
    jobs = Jobs()
    seen: list[str] = []

    @jobs.task(name="outer")
    def outer(session: Session) -> None:
        seen.append(current_job().task)
        end = jobs.work_once(session, ["inner"])
        assert end is not None
        assert isinstance(end.error, ValueError)
        seen.append(current_job().task)

    @jobs.task(name="inner", queue="inner")
    def inner(session: Session) -> None:
        seen.append(current_job().task)
        raise ValueError

    outer.enqueue(session)
    inner.enqueue(session)
    end = jobs.work_once(session, ["default"])
    assert end is not None
    assert end.error is None
    assert seen == ["outer", "inner", "outer"]


def test_each_thread_of_a_worker_has_its_own(database: Database) -> None:
    """All of them at the same time."""
    jobs = Jobs()
    together = threading.Barrier(4)
    seen: dict[int, int] = {}

    @jobs.task(name="look")
    def look(session: Session, number: int) -> None:
        together.wait(PATIENCE)
        seen[number] = current_job().id

    with database.sessionmaker.begin() as session:
        wanted = {number: look.enqueue(session, number).id for number in range(4)}
    drain(jobs, database, threads=4)
    assert seen == wanted


def test_a_thread_that_a_job_starts_runs_no_job_unless_it_is_given_its_context(session: Session) -> None:
    jobs = Jobs()

    @jobs.task(name="look")
    def look(session: Session) -> None:
        with ThreadPoolExecutor(1) as pool:
            with pytest.raises(JobsError, match=OUTSIDE):
                pool.submit(current_job).result(PATIENCE)
            assert pool.submit(contextvars.copy_context().run, current_job).result(PATIENCE) == current_job()

    look.enqueue(session)
    end = jobs.work_once(session)
    assert end is not None
    assert end.error is None
