"""What Backtick does, by the numbers of its behaviours: reproduced, or improved where the docstring says so.

Backtick's `done` is `succeeded` here, its `exceeded` is `failed`, its `tries` are attempts, and its
`priority`, the time from which a job may run, is `run_at`.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections import Counter
from contextlib import ExitStack
from queue import SimpleQueue
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Worker, current_job, lifecycle
from sqla_jobs.errors import (
    ArgumentsNotLoadable,
    InvalidArguments,
    InvalidOption,
    TaskAlreadyRegistered,
    TaskDefinitionError,
    UnknownTask,
)
from sqla_jobs.outcome import decide
from sqla_jobs.tasks import PRUNE
from tests.support.models import Effect
from tests.support.server import Database
from tests.support.verbs import claim_as, employ
from tests.support.work import PATIENCE, SOON, Recorder, drain

UTC = dt.timezone.utc
NOON = dt.datetime(2030, 1, 1, 12, tzinfo=UTC)
WORKER = 7


def nothing(session: Session) -> None:
    """A task without arguments."""


@pytest.fixture
def app() -> Recorder:
    return Recorder()


def row(session: Session) -> Row[Any]:
    return session.execute(text("SELECT * FROM sqla_jobs")).one()


# -- registry --------------------------------------------------------------------------------------


def test_k01_tasks_are_registered_by_name_and_can_be_forgotten() -> None:
    """`tasks` maps names to tasks; the library's own is among them (K17).

    Improved: a name that is taken is refused rather than replaced.
    """
    jobs = Jobs()
    task = jobs.register(nothing, name="shop.nothing")
    assert task.name == "shop.nothing"
    assert {name: each for name, each in jobs.tasks.items() if name != PRUNE} == {"shop.nothing": task}
    with pytest.raises(TaskAlreadyRegistered, match=r"shop\.nothing.*test_seeds_backtick\.py"):
        jobs.register(nothing, name="shop.nothing")
    for name in (5, "", " ", "a\x00b"):
        with pytest.raises(TaskDefinitionError, match="expected a text"):
            jobs.register(nothing, name=name)  # type: ignore[arg-type]
    jobs.unregister("shop.nothing")
    assert set(jobs.tasks) == {PRUNE}
    again = jobs.register(nothing, name="shop.nothing")
    jobs.unregister(nothing)
    assert set(jobs.tasks) == {PRUNE}
    with pytest.raises(UnknownTask):
        jobs.unregister(again)


def test_k02_a_task_is_found_by_its_name_and_by_its_function() -> None:
    """And a name by its task. Improved: what is unknown raises, with the names that come near."""
    jobs = Jobs()
    task = jobs.register(nothing, name="shop.nothing")
    assert jobs.find("shop.nothing") is task
    assert jobs.find(nothing) is task
    assert jobs.find(task) is task
    assert jobs.find(task.using(priority=1)) is task
    assert jobs.find(nothing).name == "shop.nothing"
    with pytest.raises(UnknownTask, match=r"did you mean 'shop\.nothing'"):
        jobs.find("shop.noting")
    with pytest.raises(UnknownTask, match="no task named"):
        jobs.find(row)


def test_k03_a_task_is_an_ordinary_function_that_is_registered_by_its_full_name(session: Session) -> None:
    """`module.qualname` stands for Backtick's `namespace/name`. (Recurring tasks are another issue's.)"""
    jobs = Jobs()
    task = jobs.task(add)
    assert task(session, 2, b=3) == 5
    assert jobs.find(f"{__name__}.add") is task


def add(session: Session, a: int, b: int = 1) -> int:
    """A task that a test calls."""
    return a + b


# -- queue -----------------------------------------------------------------------------------------


def test_k04_scheduling_inserts_a_row_that_runs_as_soon_as_it_may(session: Session) -> None:
    """At once, or from a time on; in its queue; no attempt yet, not started.

    Improved: a task that is not registered may be enqueued by its name, since a worker may know it, and
    wrong arguments are refused at once.
    """
    jobs = Jobs()
    task = jobs.register(add, name="add")
    job = task.enqueue(session, 1)
    session.refresh(job)
    assert (job.state, job.queue, job.attempt, job.started_at) == ("queued", "default", 0, None)
    assert job.arguments == {"a": 1}

    waiting = task.using(run_at=NOON, queue="slow").enqueue(session, 1, b=2)
    session.refresh(waiting)
    assert (waiting.state, waiting.queue, waiting.run_at) == ("scheduled", "slow", NOON)
    assert waiting.arguments == {"a": 1, "b": 2}

    assert jobs.register(nothing, name="nothing").enqueue(session).arguments == {}
    assert jobs.enqueue(session, "elsewhere", x=[1, None]).arguments == {"x": [1, None]}
    with pytest.raises(InvalidArguments, match="missing argument 'a'"):
        task.enqueue(session)
    with pytest.raises(InvalidOption, match="no time zone"):
        task.using(run_at=NOON.replace(tzinfo=None))


def test_k05_a_claim_takes_what_is_due_of_its_queue_and_marks_it_running(
    database: Database, app: Recorder
) -> None:
    """In order, passing over what others have locked; attempt + 1 and the start time are set.

    Improved: the time is checked once, by the promotion, and not by every claim.
    """
    with database.sessionmaker.begin() as session:
        first = app.record.using(queue="mail").enqueue(session, "first").id
        second = app.record.using(queue="mail").enqueue(session, "second").id
        app.record.enqueue(session, "another queue's")
        waiting = app.record.using(queue="mail", run_at=NOON).enqueue(session, "waiting").id
        employ(session, WORKER)
    with database.sessionmaker() as one, database.sessionmaker() as two:
        (got,) = claim_as(WORKER, one, ["mail"], now=NOON)
        assert (got.id, got.attempt, got.started_at, got.worker_id) == (first, 1, NOON, WORKER)
        (other,) = claim_as(WORKER, two, ["mail"])
        assert other.id == second
        assert claim_as(WORKER, two, ["mail"]) == []
        one.commit()
        two.commit()
    running = database.rows("SELECT id FROM sqla_jobs WHERE state = 'running' AND attempt = 1")
    assert {number for (number,) in running} == {first, second}
    with database.sessionmaker.begin() as session:
        assert lifecycle.promote(session, Job, now=NOON - dt.timedelta(microseconds=1)) == 0
        assert lifecycle.promote(session, Job, now=NOON) == 1
        (late,) = claim_as(WORKER, session, ["mail"])
        assert (late.id, late.run_at) == (waiting, NOON)


@pytest.mark.parametrize("meanwhile", ["queued", "scheduled", "cancelled"])
def test_k06_only_a_running_job_is_finished(session: Session, app: Recorder, meanwhile: str) -> None:
    """What was given back or cancelled meanwhile is not overwritten."""
    app.record.enqueue(session, "a")
    (claimed,) = claim_as(WORKER, session)
    done = decide(None, None, lambda _: None)
    finished_at = "statement_timestamp()" if meanwhile == "cancelled" else "NULL"
    change = text(f"UPDATE sqla_jobs SET state = '{meanwhile}', finished_at = {finished_at}")
    session.execute(change)
    assert lifecycle.finish(session, Job, claimed, done) is None
    assert row(session).state == meanwhile

    session.execute(text("UPDATE sqla_jobs SET state = 'running', finished_at = NULL"))
    assert lifecycle.finish(session, Job, claimed, done, now=NOON) is not None
    assert (row(session).state, row(session).finished_at) == ("succeeded", NOON)


def test_k08_two_workers_run_every_job_of_any_list_exactly_once(database: Database) -> None:
    """Any list of whole numbers. Improved: Backtick compares sets; here no job may run twice either."""
    jobs = Jobs()
    ends: SimpleQueue[int] = SimpleQueue()

    @jobs.task(name="count")
    def count(session: Session, number: int) -> None:
        session.add(Effect(job_id=current_job().id, note=str(number)))

    def workers() -> list[Worker]:
        return [
            Worker(
                jobs, database.sessionmaker, poll_interval=SOON, on_finish=lambda _, end: ends.put(end.job.id)
            )
            for _ in range(2)
        ]

    @settings(max_examples=20, deadline=None)
    @given(st.lists(st.integers(), max_size=20))
    def each_runs_once(numbers: list[int]) -> None:
        with database.sessionmaker.begin() as session:
            wanted = {count.enqueue(session, number).id: str(number) for number in numbers}
        assert {ends.get(timeout=PATIENCE) for _ in numbers} == set(wanted)
        effects = database.rows("SELECT job_id, note FROM effects WHERE job_id = ANY(:ids)", ids=[*wanted])
        assert Counter((effect.job_id, effect.note) for effect in effects) == Counter(wanted.items())

    with ExitStack() as stack:
        for worker in workers():
            stack.enter_context(worker)
        each_runs_once()


def test_k09_the_job_knows_its_id_and_what_its_row_says(session: Session) -> None:
    jobs = Jobs()
    seen = []
    task = jobs.task(name="look", queue="mail")(lambda session, a: seen.append(current_job()))
    job = task.using(max_attempts=3).enqueue(session, [1])
    session.refresh(job)
    jobs.work_once(session)
    (me,) = seen
    assert (me.id, me.task, me.queue, me.attempt, me.max_attempts) == (job.id, "look", "mail", 1, 3)
    assert me.arguments == {"a": [1]}
    assert me.enqueued_at == job.created_at


def test_k10_arguments_that_cannot_be_read_fail_the_job(session: Session) -> None:
    """Improved: Backtick calls the job without any. Here the error names task, argument and value."""
    jobs = Jobs()
    called = []

    @jobs.task(name="numbers", retry=RetryPolicy(max_attempts=1))
    def numbers(session: Session, number: int = 0) -> None:
        called.append(number)

    session.execute(
        text("INSERT INTO sqla_jobs (task, arguments) VALUES ('numbers', '{\"number\": \"many\"}')")
    )
    end = jobs.work_once(session)
    assert end is not None
    assert end.state is JobState.FAILED
    assert isinstance(end.error, ArgumentsNotLoadable)
    assert all(part in str(end.error) for part in ("numbers", "number", "'many'"))
    assert called == []


def test_k11_a_task_that_the_worker_does_not_know_is_kept_for_one_that_does(
    database: Database, app: Recorder
) -> None:
    """Improved: Backtick marks it done. Here the attempt fails, visibly, and is tried again later.

    So a rolling deploy, in which a worker of the old version gets a job of the new, loses nothing.
    """
    old = Jobs()
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
    (end,) = drain(old, database)
    assert end.state is JobState.SCHEDULED
    assert isinstance(end.error, UnknownTask)
    (kept,) = database.rows("SELECT state, attempt, attempts FROM sqla_jobs")
    assert (kept.state, kept.attempt) == ("scheduled", 1)
    assert kept.attempts[0]["error"] == "sqla_jobs.errors.UnknownTask"
    database.execute("UPDATE sqla_jobs SET run_at = statement_timestamp()")
    assert [end.state for end in drain(app.jobs, database)] == ["succeeded"]


# -- errors and retry ------------------------------------------------------------------------------


def test_k13_a_retry_waits_twice_as_long_each_time_with_jitter(session: Session) -> None:
    """Uniform in [base, 2·base), base = 10 s · 2^(attempt - 1); the retry itself counts no attempt."""
    draws = iter([0.0, 0.5, 0.999])
    policy = RetryPolicy()
    delays = [policy.delay(n, ValueError(), uniform=lambda: next(draws)) for n in (1, 2, 3)]
    assert delays == [dt.timedelta(seconds=seconds) for seconds in (10, 30, 79.96)]
    assert policy.delay(0, ValueError(), uniform=lambda: 0.0) == dt.timedelta(seconds=10)

    jobs = Jobs()
    jobs.task(name="fail")(fail).enqueue(session)
    now = NOON
    for attempt in range(1, 7):
        end = jobs.work_once(session, now=now)
        assert end is not None
        assert end.run_at is not None
        assert end.state is JobState.SCHEDULED
        base = dt.timedelta(seconds=10 * 2 ** (attempt - 1))
        assert base <= end.run_at - now < 2 * base
        assert (row(session).attempt, row(session).run_at) == (attempt, end.run_at)
        assert jobs.work_once(session, now=end.run_at - dt.timedelta(milliseconds=1)) is None
        now = end.run_at


def fail(session: Session) -> None:
    """A task that always fails."""
    raise ValueError("always")


def test_k14_after_the_last_attempt_the_job_has_failed(session: Session) -> None:
    """After 16 by default; `finished_at` is set, and it is not tried any more."""
    jobs = Jobs()
    jobs.task(name="fail")(fail).enqueue(session)
    now, ends = NOON, []
    while end := jobs.work_once(session, now=now):
        ends.append(end)
        now += dt.timedelta(days=2)
    assert [end.state for end in ends] == [JobState.SCHEDULED] * 15 + [JobState.FAILED]
    assert [end.job.attempt for end in ends] == list(range(1, 17))
    assert (row(session).state, row(session).attempt) == ("failed", 16)
    assert row(session).finished_at == now - dt.timedelta(days=2)


@pytest.mark.parametrize(
    "meanwhile", ["DELETE FROM sqla_jobs", "UPDATE sqla_jobs SET state = 'queued', worker_id = NULL"]
)
def test_k14_a_job_that_is_gone_or_not_running_any_more_is_only_logged(
    database: Database, caplog: pytest.LogCaptureFixture, meanwhile: str
) -> None:
    """Its failure is not recorded, for it is somebody else's by now; the worker goes on."""
    jobs = Jobs()
    runs: list[int] = []

    @jobs.task(name="vanish")
    def vanish(session: Session) -> None:
        runs.append(current_job().attempt)
        if len(runs) == 1:
            database.execute(meanwhile)
            raise ValueError("nobody's business")

    with database.sessionmaker.begin() as session:
        vanish.enqueue(session)
    with caplog.at_level(logging.WARNING, "sqla_jobs"):
        ends = drain(jobs, database)
    assert [record.message for record in caplog.records] == ["job 1 (vanish) lost: its claim was taken over"]
    again = not meanwhile.startswith("DELETE")
    assert [end.state for end in ends] == ["succeeded"] * again
    assert database.scalar("SELECT sum(jsonb_array_length(attempts)) FROM sqla_jobs") == (
        0 if again else None
    )
