"""`current_job().progress(…)`: kept in memory, shown by the worker's own row, copied by the finish."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from sqla_jobs import (
    Cancel,
    Job,
    Jobs,
    JobState,
    Progress,
    RetryPolicy,
    Snooze,
    Worker,
    current_job,
    lifecycle,
)
from sqla_jobs.errors import InvalidOption, JobNotFound, JobsError
from sqla_jobs.tasks import RunningJob
from sqla_jobs.worker import upkeep
from tests.support.fast import Fast
from tests.support.lane import AT_ONCE, NEVER, Lane, leave_effect
from tests.support.loops import async_engine
from tests.support.program import Program
from tests.support.server import Database
from tests.support.waiting import until
from tests.support.work import PATIENCE, SOON, drain

HOUR = dt.timedelta(hours=1)


def say(done: float, total: float | None = None, note: str | None = None) -> None:
    current_job().progress(done, total, note)


def read(database: Database, jobs: Jobs[Job], job: int) -> Progress | None:
    with database.sessionmaker() as session:
        return jobs.progress(session, job)


def stored(
    done: float, total: float | None = None, note: str | None = None, attempt: int = 1
) -> dict[str, Any]:
    return {"done": done, "total": total, "note": note, "attempt": attempt}


# -- the finish copies it ------------------------------------------------------------------------------


def nothing(_: Session) -> None:
    """Of a job that sends nothing: the finish is shared with other threads."""


def fails(_: Session) -> None:
    raise ValueError


def fails_in_the_database(session: Session) -> None:
    session.execute(text("SELECT 1 / 0"))


def puts_off(_: Session) -> None:
    raise Snooze(HOUR)


def gives_up(_: Session) -> None:
    raise Cancel


def breaks_a_deferred_constraint(session: Session) -> None:
    session.execute(text("CREATE TABLE late (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)"))
    session.execute(text("INSERT INTO late VALUES (1), (1)"))


ENDS: dict[str, tuple[Callable[[Session], None], str]] = {
    "nothing written": (nothing, "succeeded"),
    "written": (leave_effect, "succeeded"),
    "failed": (fails, "failed"),
    "failed in the database": (fails_in_the_database, "failed"),
    "refused at the commit": (breaks_a_deferred_constraint, "failed"),
    "snoozed": (puts_off, "scheduled"),
    "cancelled": (gives_up, "cancelled"),
}


@pytest.mark.parametrize("end", ENDS)
def test_the_last_value_is_kept_with_the_outcome(database: Database, end: str) -> None:
    body, state = ENDS[end]
    lane = Lane(database)

    def work(session: Session) -> None:
        say(1)
        say(7, 10, "reading")
        body(session)

    job = lane.enqueue(lane.task(work, retry=NEVER))
    lane.run()
    row = lane.row(job)
    assert (row.state, row.progress) == (state, stored(7, 10, "reading"))
    assert read(database, lane.jobs, job) == Progress(7, 10, "reading")


def test_with_the_finish_that_claims_along_and_with_a_result(database: Database) -> None:
    jobs = Jobs()

    @jobs.task(name="count", result=True)
    def count(session: Session, number: int) -> int:
        if number % 2:
            leave_effect(session)
        say(number, 5)
        return -number

    silent = jobs.task(name="silent")(lambda session: None)
    with database.sessionmaker.begin() as session:
        ids = [count.enqueue(session, number).id for number in range(5)]
        other = silent.enqueue(session).id
    drain(jobs, database, threads=2)
    with database.sessionmaker() as session:
        assert [jobs.progress(session, job) for job in ids] == [Progress(number, 5) for number in range(5)]
        assert [count.result(session, job) for job in ids] == [0, -1, -2, -3, -4]
        assert jobs.progress(session, other) is None


def test_in_work_once_it_goes_with_the_finish(session: Session) -> None:
    jobs = Jobs()
    seen: list[Any] = []

    @jobs.task(name="work")
    def work(session: Session) -> None:
        say(3)
        seen.append(jobs.progress(session, current_job().id))

    job = work.enqueue(session)
    jobs.work_once(session)
    assert seen == [None]
    assert jobs.progress(session, job) == Progress(3)


def test_an_attempt_that_says_nothing_leaves_what_the_one_before_said(database: Database) -> None:
    lane = Lane(database)

    def work(_: Session) -> None:
        if current_job().attempt == 1:
            say(7, 10)
        if current_job().attempt < 3:
            raise ValueError
        say(9, 10)

    job = lane.enqueue(lane.task(work, retry=AT_ONCE))
    seen = []
    for _ in range(3):
        lane.run()
        with database.sessionmaker.begin() as session:
            lifecycle.promote(session, Job)
        seen.append(read(database, lane.jobs, job))
    assert seen == [Progress(7, 10, attempt=1), Progress(7, 10, attempt=1), Progress(9, 10, attempt=3)]
    assert lane.row(job).state == "succeeded"


def test_a_result_alone_leaves_what_an_earlier_attempt_said(database: Database) -> None:
    lane = Lane(database)

    def work(_: Session) -> int:
        if current_job().attempt == 1:
            say(7, 10)
            raise ValueError
        return 1

    job = lane.enqueue(lane.task(work, retry=AT_ONCE, result=True))
    for _ in range(2):
        lane.run()
        with database.sessionmaker.begin() as session:
            lifecycle.promote(session, Job)
    assert (lane.row(job).result, lane.row(job).progress) == (1, stored(7, 10))


def test_of_a_job_that_is_over_its_own_row_counts(database: Database) -> None:
    """Its worker's row speaks of it until the next heartbeat."""
    lane = Lane(database)
    job = lane.enqueue(lane.task(saying(9)))
    lane.run()
    said = '[{"id": 1, "claim": 1, "progress": {"done": 7, "attempt": 1}}]'
    database.execute("UPDATE sqla_jobs_workers SET running = CAST(:said AS jsonb)", said=said)
    assert (job, lane.row(job).claim) == (1, 1)
    assert read(database, lane.jobs, job) == Progress(9)


def saying(done: int) -> Callable[[Session], None]:
    def work(_: Session) -> None:
        say(done)

    return work


def test_a_run_that_is_repeated_says_it_anew(database: Database) -> None:
    """After a conflict the job runs again under the same claim, and what its first run did is rolled back."""
    lane = Lane(database)
    runs: list[int] = []

    def work(session: Session) -> None:
        runs.append(1)
        if len(runs) == 1:
            say(9)
            session.execute(text("DO $$BEGIN RAISE SQLSTATE '40001'; END$$"))

    job = lane.enqueue(lane.task(work))
    lane.run()
    assert len(runs) == 2
    assert (lane.row(job).state, lane.row(job).progress) == ("succeeded", None)


def test_what_was_committed_by_a_checkpoint_and_what_was_said_agree(database: Database) -> None:
    """A checkpoint writes no progress: it stays in memory until the attempt is over."""
    lane = Lane(database)
    seen: list[Any] = []

    def work(session: Session) -> None:
        for step in (1, 2):
            leave_effect(session)
            say(step, 3)
            current_job().checkpoint(session)
            seen.append((lane.effects(current_job().id), lane.row(current_job().id).progress))
        leave_effect(session)
        raise ValueError

    job = lane.enqueue(lane.task(work, retry=NEVER))
    lane.run()
    assert seen == [(1, None), (2, None)]
    assert (lane.effects(job), lane.row(job).progress) == (2, stored(2, 3))


# -- it costs nothing ----------------------------------------------------------------------------------


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    sent: list[str] = []

    def note(_: Any, __: Any, sql: str, *more: Any) -> None:
        sent.append(sql)

    event.listen(database.engine, "before_cursor_execute", note)
    yield sent
    event.remove(database.engine, "before_cursor_execute", note)


def test_a_hundred_thousand_reports_send_nothing(database: Database) -> None:
    lane = Lane(database)

    def work(session: Session, times: int) -> None:
        leave_effect(session)
        for number in range(times):
            say(number, times)

    task = lane.task(work)
    numbers = []
    for times in (0, 1, 100_000):
        job = lane.enqueue(task, times)
        with counted(database) as sent:
            lane.run()
        numbers.append(len(sent))
        assert lane.row(job).progress == (stored(times - 1, times) if times else None)
        assert any("progress" in sql for sql in sent) is (times > 0), "the finish of others is as it was"
    assert numbers[0] == numbers[1] == numbers[2]


def test_the_finish_waits_for_nobody(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's row is locked while the job runs and is finished: only a heartbeat waits for it."""
    monkeypatch.setattr(upkeep, "TICK", 0.01)
    jobs = Jobs()
    blocked = (
        "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ 'heartbeat_at'"
    )
    here = " AND datname = current_database()"

    @jobs.task(name="work")
    def work(session: Session) -> None:
        leave_effect(session)
        for number in range(100_000):
            say(number)
        until(database, blocked + here)  # it is about to write what was said
        assert database.scalar("SELECT progress IS NULL FROM sqla_jobs")

    with worker(database, jobs), database.engine.begin() as connection:
        connection.execute(text("SELECT FROM sqla_jobs_workers FOR UPDATE"))
        with database.sessionmaker.begin() as session:
            work.enqueue(session)
        until(database, "SELECT state = 'succeeded' FROM sqla_jobs")
        assert database.scalar(blocked + here), "and it waits still"
    assert database.scalar("SELECT progress ->> 'done' FROM sqla_jobs") == "99999"


# -- a worker shows it ---------------------------------------------------------------------------------


@contextmanager
def worker(database: Database, jobs: Jobs[Job], **options: Any) -> Iterator[Worker]:
    """One whose ordinary heartbeats are too far apart to show anything."""
    given: dict[str, Any] = {"heartbeat_interval": HOUR, "heartbeat_limit": 3 * HOUR, "poll_interval": SOON}
    with Worker(jobs, database.sessionmaker, **(given | options)) as running:
        yield running


def count_writes(database: Database) -> None:
    """Let the server keep what each heartbeat says of the jobs that run."""
    database.execute("CREATE TABLE beats (id serial, running jsonb)")
    database.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN INSERT INTO beats (running) VALUES (NEW.running); RETURN NEW; END'"
    )
    database.execute(
        "CREATE TRIGGER keep AFTER UPDATE OF heartbeat_at ON sqla_jobs_workers "
        "FOR EACH ROW EXECUTE FUNCTION keep()"
    )


def shown(value: float) -> str:
    """A condition for `until`: some worker's row says so."""
    return (
        "SELECT count(*) > 0 FROM sqla_jobs_workers, jsonb_array_elements(running) AS each"
        f" WHERE (each -> 'progress' ->> 'done')::float = {value}"
    )


def test_who_asks_sees_it_within_a_second_or_so(database: Database) -> None:
    jobs = Jobs()
    go_on = threading.Event()

    @jobs.task(name="work")
    def work(session: Session) -> None:
        say(3, 10, "reading")
        assert go_on.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        job = work.enqueue(session).id
    with worker(database, jobs):
        try:
            until(database, shown(3))
            assert read(database, jobs, job) == Progress(3, 10, "reading")
            (row,) = database.rows("SELECT state, progress FROM sqla_jobs")
            assert (row.state, row.progress) == ("running", None), "never in the job's own row while it runs"
        finally:
            go_on.set()


def test_that_of_a_coroutine_is_shown_while_it_runs(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    jobs = Jobs()
    go_on = threading.Event()

    @jobs.task(name="work")
    async def work(session: AsyncSession) -> None:
        say(3, 10)
        await asyncio.to_thread(go_on.wait, PATIENCE)

    with database.sessionmaker.begin() as session:
        job = work.enqueue(session).id
    with worker(database, jobs, async_sessionmaker=async_engine(database)):
        try:
            until(database, shown(3))
            assert read(database, jobs, job) == Progress(3, 10)
        finally:
            go_on.set()
        until(database, "SELECT state = 'succeeded' FROM sqla_jobs")
    assert read(database, jobs, job) == Progress(3, 10)


def test_it_is_written_when_it_has_changed_and_at_no_other_time(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By counting: each value once, and one that stays the same not again, however often it is looked at."""
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    jobs = Jobs()
    count_writes(database)
    writes: list[int] = []

    @jobs.task(name="work")
    def work(session: Session) -> None:
        for step in range(1, 4):
            say(step)
            until(database, shown(step))
        writes.append(database.scalar("SELECT count(*) FROM beats"))
        # The beats of a job beside it show that time goes by.
        other.enqueue(session)
        session.commit()
        current_job().checkpoint(session)
        until(database, shown(300))
        writes.append(database.scalar("SELECT count(*) FROM beats"))

    @jobs.task(name="other")
    def other(session: Session) -> None:
        for step in (100, 200, 300):
            say(step)
            until(database, shown(step))

    with database.sessionmaker.begin() as session:
        work.enqueue(session)
    with worker(database, jobs, threads=2):
        until(database, "SELECT count(*) = 2 FROM sqla_jobs WHERE state = 'succeeded'")
    first, beside = writes
    assert first == 3
    assert beside - first == 3, "each value of the other, and none for what stays the same here"


def test_a_burst_of_reports_is_a_write_or_two(database: Database) -> None:
    jobs = Jobs()
    count_writes(database)

    @jobs.task(name="work")
    def work(session: Session) -> None:
        for step in range(1, 50_001):
            say(step)
        until(database, shown(50_000))

    with database.sessionmaker.begin() as session:
        work.enqueue(session)
    with worker(database, jobs):
        until(database, "SELECT state = 'succeeded' FROM sqla_jobs")
    # One for each second that the burst lasts, which are hundredths, and the last.
    assert 1 <= database.scalar("SELECT count(*) FROM beats") <= 5


def test_without_progress_there_are_no_more_heartbeats_than_there_were(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.001)
    jobs = Jobs()
    count_writes(database)

    @jobs.task(name="work")
    def work(session: Session, last: bool) -> None:
        if last:
            say(1)
            until(database, shown(1))  # so many ticks later
            assert database.scalar("SELECT count(*) FROM beats") == 1

    with database.sessionmaker.begin() as session:
        for number in range(20):
            work.enqueue(session, number == 19)
    with worker(database, jobs):
        until(database, "SELECT count(*) = 20 FROM sqla_jobs WHERE state = 'succeeded'")


def test_two_jobs_in_two_threads(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "TICK", 0.02)
    jobs = Jobs()
    together = threading.Barrier(3)

    @jobs.task(name="work")
    def work(session: Session, number: int) -> None:
        say(number, 10, f"job {number}")
        together.wait(PATIENCE)
        together.wait(PATIENCE)

    with database.sessionmaker.begin() as session:
        ids = [work.enqueue(session, number).id for number in (1, 2)]
    with worker(database, jobs, threads=2):
        together.wait(PATIENCE)
        try:
            until(database, shown(1))
            until(database, shown(2))
            said = [read(database, jobs, job) for job in ids]
        finally:
            together.wait(PATIENCE)
    assert said == [Progress(1, 10, "job 1"), Progress(2, 10, "job 2")]
    assert [read(database, jobs, job) for job in ids] == said


def test_a_stuck_job_is_recorded_with_what_it_said(database: Database) -> None:
    """By another thread, in its stead."""
    from sqla_jobs.meter import Meter

    lane = Lane(database)
    job = lane.enqueue(lane.task(nothing, retry=NEVER))
    claimed, meter = lane.claim(), Meter()
    meter.last = Progress(7)
    lane.runner.record_interrupted(claimed, TimeoutError("stuck"), meter)
    assert (lane.row(job).state, lane.row(job).progress) == ("failed", stored(7))


# -- a worker that dies --------------------------------------------------------------------------------

PROGRAM = dedent("""
    import logging, os, threading
    from datetime import timedelta
    from sqlalchemy import create_engine
    from sqla_jobs import Jobs, Worker, current_job

    jobs = Jobs(notify=False)

    @jobs.task(name="work")
    def work(session):
        current_job().progress(7, 10, "reading")
        threading.Event().wait()

    Worker(
        jobs,
        create_engine(os.environ["DATABASE_URL"]),
        poll_interval=timedelta(milliseconds=20),
        heartbeat_interval=timedelta(hours=1),
        heartbeat_limit=timedelta(hours=3),
    ).run()
""")


def test_of_a_killed_process_its_row_has_the_last_word(database: Database, tmp_path: Path) -> None:
    jobs = Jobs(notify=False)
    jobs.task(name="work", retry=NEVER)(nothing)
    with database.sessionmaker.begin() as session:
        job = jobs.enqueue(session, "work").id
    environment = {"DATABASE_URL": database.url_string}
    with Program("-c", PROGRAM, folder=tmp_path, environment=environment) as killed:
        until(database, shown(7), seconds=60)
        killed.send(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert read(database, jobs, job) == Progress(7, 10, "reading")
    (row,) = database.rows("SELECT state, progress FROM sqla_jobs")
    assert (row.state, row.progress) == ("running", None)
    database.execute("UPDATE sqla_jobs_workers SET heartbeat_at = heartbeat_at - interval '1 day'")
    with database.sessionmaker.begin() as session:
        (rescued,) = lifecycle.rescue(session, Job, jobs.policy_for)
    assert rescued.written.state is JobState.FAILED
    assert database.scalar("SELECT progress FROM sqla_jobs") == stored(7, 10, "reading")
    database.execute("DELETE FROM sqla_jobs_workers")
    assert read(database, jobs, job) == Progress(7, 10, "reading")


ODD = {
    "of an older version": '[{"id": 1, "task": "work"}]',
    "another claim": '[{"id": 1, "claim": 2, "progress": {"done": 7, "attempt": 1}}]',
    "another job": '[{"id": 2, "claim": 1, "progress": {"done": 7, "attempt": 1}}]',
    "nothing said": '[{"id": 1, "claim": 1}]',
    "no progress": '[{"id": 1, "claim": 1, "progress": [7]}]',
    "no number": '[{"id": 1, "claim": 1, "progress": {"done": "7", "attempt": 1}}]',
    "infinite": '[{"id": 1, "claim": 1, "progress": {"done": 1, "attempt": 1e999}}]',
    "unreadable": '[{"id": 1, "claim": 1, "progress": {"done": 1e5000, "attempt": 1}}]',
    "no objects": '[1, null, "work"]',
}


@pytest.mark.parametrize("running", ODD.values(), ids=ODD)
def test_of_anything_else_in_the_row_nothing_is_taken(database: Database, running: str) -> None:
    lane = Lane(database)
    job = lane.enqueue(lane.task(nothing))
    lane.claim()
    assert (job, lane.row(job).claim) == (1, 1)
    sql = "UPDATE sqla_jobs_workers SET running = CAST(:running AS jsonb), heartbeat_at = '2001-01-01'"
    database.execute(sql, running=running)
    assert read(database, lane.jobs, job) is None
    with database.sessionmaker.begin() as session:
        assert len(lifecycle.rescue(session, Job, lane.jobs.policy_for)) == 1
    assert lane.row(job).progress is None


# -- what may be said ----------------------------------------------------------------------------------


def said(jobs: Jobs[Job], session: Session, *args: Any, **kwargs: Any) -> Progress | None:
    name = f"say {len(jobs.tasks)}"
    task = jobs.task(name=name, retry=NEVER)(lambda session: current_job().progress(*args, **kwargs))
    job = task.enqueue(session)
    finished = jobs.work_once(session)
    assert finished is not None
    if finished.error is not None:
        raise finished.error
    return jobs.progress(session, job)


@pytest.mark.parametrize(
    ("args", "expected", "fraction"),
    [
        ((0,), Progress(0), None),
        ((0, 0), Progress(0, 0), 1.0),
        ((1, 4), Progress(1, 4), 0.25),
        ((5, 4), Progress(5, 4), 1.0),
        ((0.5, 1), Progress(0.5, 1), 0.5),
        ((Fraction(1, 2), 1), Progress(0.5, 1), 0.5),
        ((2**63 - 1, 2**63 - 1, ""), Progress(2**63 - 1, 2**63 - 1, ""), 1.0),
        ((1, None, "a\x00b\ud800ä"), Progress(1, None, "a\ufffdb?ä"), None),
        ((1, None, "x" * 501), Progress(1, None, "x" * 499 + "…"), None),
    ],
    ids=[
        "zero",
        "of nothing",
        "a quarter",
        "more than all",
        "float",
        "fraction",
        "large",
        "odd note",
        "long note",
    ],
)
def test_it_comes_back_as_it_was_said(
    session: Session, args: tuple[Any, ...], expected: Progress, fraction: float | None
) -> None:
    found = said(Jobs(), session, *args)
    assert found == expected
    assert found.fraction == fraction


@pytest.mark.parametrize(
    ("args", "why"),
    [
        ((-1,), "progress: done is -1; expected a number from 0 up"),
        ((1, -1), "progress: total is -1; expected a number from 0 up"),
        ((math.nan,), "progress: done is nan"),
        ((1, math.inf), "progress: total is inf"),
        ((2**63,), "below 2**63"),
        (("1",), "progress: done is '1'; expected an int or a float"),
        ((True,), "progress: done is True"),
        ((None,), "progress: done is None"),
        ((Decimal(1),), "progress: done is Decimal('1'); expected an int or a float"),
        ((1, 2, 3), "progress: note is 3; expected text"),
    ],
    ids=lambda value: None if isinstance(value, tuple) else value[:40],
)
def test_what_is_no_progress_is_refused_where_it_is_said(session: Session, args: Any, why: str) -> None:
    with pytest.raises(InvalidOption) as refused:
        said(Jobs(), session, *args)
    assert why in str(refused.value)


def test_a_job_that_catches_that_goes_on_with_what_it_said_before(session: Session) -> None:
    jobs = Jobs()

    @jobs.task(name="work")
    def work(session: Session) -> None:
        say(1)
        with pytest.raises(InvalidOption):
            say(-1)

    job = work.enqueue(session)
    jobs.work_once(session)
    assert jobs.progress(session, job) == Progress(1)


@pytest.mark.parametrize("where", ["group", "alone", "work_once"])
def test_in_the_fast_lane_it_is_refused_wherever_the_job_runs(database: Database, where: str) -> None:
    fast = Fast(database)
    task = fast.task(lambda session: say(1), name="shop.quick")
    (job,) = fast.enqueue(task.job())
    if where == "group":
        fast.drain()
    elif where == "alone":  # as after a death
        database.execute("UPDATE sqla_jobs SET crashes = 1")
        fast.drain()
    else:
        with database.sessionmaker.begin() as session:
            fast.jobs.work_once(session)
    ((kind, message),) = fast.errors(job)
    assert kind == "JobsError"
    assert message.startswith(
        "progress() was called by a job of shop.quick, which has group_commit: in the fast"
    )
    assert fast.row(job).progress is None


def test_outside_of_its_run_and_in_another_thread_it_is_refused(session: Session) -> None:
    jobs = Jobs()
    kept: list[RunningJob] = []

    @jobs.task(name="work")
    def work(session: Session) -> None:
        kept.append(current_job())
        with ThreadPoolExecutor(1) as pool, pytest.raises(JobsError, match="where no job runs"):
            pool.submit(say, 1).result(PATIENCE)

    work.enqueue(session)
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.error is None
    with pytest.raises(JobsError, match=r"progress\(\) was called on a job that does not run"):
        kept[0].progress(1)


def test_of_no_job_at_all(session: Session) -> None:
    jobs = Jobs()
    with pytest.raises(JobNotFound):
        jobs.progress(session, 10**9)
    with pytest.raises(InvalidOption, match=r"progress\(…, '1'\); expected the id of a job"):
        jobs.progress(session, "1")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match="expected a Session"):
        jobs.progress(1, 1)  # type: ignore[arg-type]


def test_a_retry_clears_it(session: Session) -> None:
    jobs = Jobs()
    task = jobs.task(name="work", retry=RetryPolicy(max_attempts=2))(lambda session: [say(1), 1 / 0])
    job = task.enqueue(session)
    jobs.work_once(session)
    assert jobs.progress(session, job) == Progress(1)
    jobs.retry(session, job)
    assert jobs.progress(session, job) is None
