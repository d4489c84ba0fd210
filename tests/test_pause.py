"""Paused queues: none of their jobs is begun, in either lane or by `work_once`; all others are."""

from __future__ import annotations

import datetime as dt
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, Worker, lifecycle, pause, resume
from sqla_jobs.errors import InvalidOption, InvalidQueueName
from sqla_jobs.runner.exchange import _Wish, taken
from sqla_jobs.worker import pauses
from tests.support.lane import Lane
from tests.support.server import Database
from tests.support.verbs import NOW
from tests.support.work import PATIENCE, SOON, Recorder, drain

DAY = dt.timedelta(days=1)


@pytest.fixture
def app() -> Recorder:
    return Recorder()


def enqueue(session: Session, app: Recorder, **jobs: str) -> None:
    """One job for each note, named by its queue."""
    for queue, notes in jobs.items():
        for note in notes.split():
            app.record.using(queue=queue).enqueue(session, note)


# -- the verbs -------------------------------------------------------------------------------------


def test_a_queue_is_paused_once_and_resumed_once(session: Session, app: Recorder) -> None:
    assert app.jobs.pause(session, "mail", now=NOW)
    assert not pause(session, "mail"), "and since when it is paused stays"
    assert lifecycle.paused(session, app.jobs.model) == {"mail"}
    assert session.get_one(app.jobs.Queue, "mail").paused_at == NOW
    assert app.jobs.resume(session, "mail")
    assert not resume(session, "mail")
    assert not resume(session, "other")
    assert lifecycle.paused(session, app.jobs.model) == frozenset()
    assert pause(session, "mail")


def test_what_is_no_queue_or_no_session_is_refused(session: Session) -> None:
    for verb in (pause, resume):
        with pytest.raises(InvalidQueueName, match="'a b'"):
            verb(session, "a b")
        with pytest.raises(InvalidOption, match="expected a Session"):
            verb("mail", session)  # type: ignore[arg-type]


# -- work_once -------------------------------------------------------------------------------------


def run_all(session: Session, jobs: Jobs[Any], queues: Sequence[str] | None = None, **options: Any) -> None:
    while jobs.work_once(session, queues, **options):
        pass


@pytest.mark.parametrize("queues", [None, ["a", "b", "c"]])
def test_work_once_passes_over_a_paused_queue(
    session: Session, app: Recorder, queues: list[str] | None
) -> None:
    enqueue(session, app, a="a1 a2", b="b1", c="c1")
    app.jobs.pause(session, "a")
    run_all(session, app.jobs, queues)
    assert app.ran == ["b1", "c1"]
    app.jobs.resume(session, "a")
    run_all(session, app.jobs, queues)
    assert app.ran == ["b1", "c1", "a1", "a2"]


def test_with_all_of_its_queues_paused_there_is_no_job(session: Session, app: Recorder) -> None:
    """An empty list would be any queue."""
    enqueue(session, app, a="a1", b="b1")
    app.record.using(queue="a", run_at=NOW).enqueue(session, "later")
    app.jobs.pause(session, "a")
    assert app.jobs.work_once(session, ["a"]) is None
    assert app.jobs.work_once(session, ["a"], now=NOW) is None
    app.jobs.pause(session, "b")
    assert app.jobs.work_once(session) is None
    assert app.jobs.work_once(session, now=NOW) is None


@pytest.mark.parametrize("queues", [None, ["a", "b"]])
def test_a_due_job_of_a_paused_queue_waits(session: Session, app: Recorder, queues: list[str] | None) -> None:
    for queue in "ab":
        app.record.using(queue=queue, run_at=NOW).enqueue(session, queue)
    app.jobs.pause(session, "a")
    run_all(session, app.jobs, queues, now=NOW)
    assert app.ran == ["b"]


def test_any_queue_still_means_by_priority_and_age(session: Session, app: Recorder) -> None:
    enqueue(session, app, paused="p1", b="b1", a="a1 a2", c="c1")
    app.record.using(queue="b", priority=1).enqueue(session, "b0")
    app.jobs.pause(session, "paused")
    run_all(session, app.jobs)
    assert app.ran == ["b0", "b1", "a1", "a2", "c1"]


# -- workers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("group_commit", [None, 10], ids=["ordinary", "fast"])
@pytest.mark.parametrize("queues", [None, ["a", "b"]], ids=["any", "given"])
def test_a_worker_that_drains_leaves_a_paused_queue(
    database: Database, group_commit: int | None, queues: list[str] | None
) -> None:
    jobs, ran = Jobs(), []

    @jobs.task(name="t", group_commit=group_commit)
    def task(session: Session, note: str) -> None:
        ran.append(note)

    with database.sessionmaker.begin() as session:
        for note in ("a1", "b1", "a2", "b2", "b3"):
            task.using(queue=note[0]).enqueue(session, note)
        task.using(queue="a", run_at=dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)).enqueue(session, "due")
        jobs.pause(session, "a")
    assert len(drain(jobs, database, queues=queues)) == 3
    assert ran == ["b1", "b2", "b3"]
    with database.sessionmaker.begin() as session:
        jobs.resume(session, "a")
    drain(jobs, database, queues=queues)
    assert sorted(ran[3:]) == ["a1", "a2", "due"]


def test_a_worker_whose_only_queue_is_paused_ends_its_drain(database: Database, app: Recorder) -> None:
    with database.sessionmaker.begin() as session:
        enqueue(session, app, a="a1")
        app.jobs.pause(session, "a")
    assert drain(app.jobs, database, queues=["a"]) == []


class Stream:
    """Jobs of two queues that never end: each run enqueues the next one of its queue."""

    def __init__(self, group_commit: int | None = None) -> None:
        self.jobs = Jobs()
        self.began: list[tuple[str, float]] = []
        self.go_on = self.jobs.task(name="go_on", group_commit=group_commit)(self._go_on)
        self.other = threading.Semaphore(0)

    def _go_on(self, session: Session, queue: str) -> None:
        self.began.append((queue, time.monotonic()))
        self.go_on.using(queue=queue).enqueue(session, queue)
        if queue == "b":
            self.other.release()

    def last(self, queue: str) -> float:
        return max(at for each, at in self.began if each == queue)


@pytest.mark.parametrize("notify", ["transaction", False])
@pytest.mark.parametrize("group_commit", [None, 10], ids=["ordinary", "fast"])
@pytest.mark.parametrize("queues", [None, ["a", "b"]], ids=["any", "given"])
def test_a_busy_worker_obeys_within_a_second(
    database: Database, notify: Any, group_commit: int | None, queues: list[str] | None
) -> None:
    """Though each of its threads takes one job after the other, by the commit of the one before."""
    stream = Stream(group_commit)
    stream.jobs.notify = notify
    with database.sessionmaker.begin() as session:
        for queue in "aab":
            stream.go_on.using(queue=queue).enqueue(session, queue)
    with Worker(stream.jobs, database.engine, queues=queues, threads=2):
        with database.sessionmaker.begin() as session:
            stream.jobs.pause(session, "a")
        paused = time.monotonic()
        while time.monotonic() < paused + 1.3:
            assert stream.other.acquire(timeout=PATIENCE), "the other queue goes on"
    late = [at - paused for queue, at in stream.began if queue == "a" and at > paused + 1]
    assert late == []
    assert stream.last("b") > paused + 1
    left = "SELECT count(*) FROM sqla_jobs WHERE queue = 'a' AND state = 'queued'"
    assert database.scalar(left) == 2


def test_a_resumed_queue_is_worked_at_once_where_workers_are_told(database: Database, app: Recorder) -> None:
    ran = threading.Event()
    app.jobs.task(name="told")(lambda session: ran.set())
    with database.sessionmaker.begin() as session:
        app.jobs.pause(session, "a")
    with Worker(app.jobs, database.engine, poll_interval=DAY) as worker:
        with database.sessionmaker.begin() as session:
            app.jobs.using(queue="a").enqueue(session, "told")
        assert not ran.wait(0.2)
        assert worker._parts is not None
        assert worker._parts.listener is not None
        with database.sessionmaker.begin() as session:
            app.jobs.resume(session, "a")
        assert ran.wait(PATIENCE)


def test_a_resumed_queue_is_found_by_the_poll_where_they_are_not(database: Database, app: Recorder) -> None:
    jobs, ran = Jobs(notify=False), threading.Event()
    jobs.task(name="told")(lambda session: ran.set())
    with database.sessionmaker.begin() as session:
        jobs.using(queue="a").enqueue(session, "told")
        jobs.pause(session, "a")
    with Worker(jobs, database.engine, poll_interval=SOON):
        assert not ran.wait(0.2)
        database.execute("UPDATE sqla_jobs_queues SET paused_at = NULL")
        assert ran.wait(PATIENCE)


def test_who_only_hands_in_does_not_claim_for_others_from_a_paused_queue(database: Database) -> None:
    """One statement finishes and claims for all threads: its queues are those of who wants a job."""
    lane = Lane(database)
    task = lane.jobs.task(name="t")(lambda session: None)
    with database.sessionmaker.begin() as session:
        task.using(queue="a").enqueue(session)
        task.using(queue="b").enqueue(session)
    exchange = lane.runner._exchange
    first = exchange.swap(lane.worker_id, None, None, wants=True).job
    assert first is not None
    wishes = [_Wish(first, False, None, taken()), _Wish(None, True, ["c"], taken())]
    exchange._answer(lane.worker_id, wishes)
    assert wishes[0].holds
    assert wishes[1].job is None


def test_what_is_known_is_never_older_than_a_second(database: Database, monkeypatch: Any) -> None:
    """By a clock of its own: read once, used for less than a second, read again."""
    lane, clock = Lane(database), [0.0]
    monkeypatch.setattr(pauses, "_clock", lambda: clock[0])
    known = pauses.Pauses(lane.runner, ["a", "b"], lambda: 0)
    assert not known.are_none, "nobody has looked yet"
    assert known.open() == ["a", "b"]
    with database.sessionmaker.begin() as session:
        lane.jobs.pause(session, "a")
    clock[0] = 0.89
    assert known.are_none
    clock[0] = 0.91
    assert not known.are_none, "so no job is claimed by the commit of another"
    assert known.open() == ["b"]
    assert not known.are_none


def test_enqueue_and_promote_go_on(session: Session, app: Recorder) -> None:
    app.jobs.pause(session, "a")
    job = app.record.using(queue="a").enqueue(session, "a1")
    app.record.using(queue="a", run_at=NOW).enqueue(session, "a2")
    assert lifecycle.promote(session, app.jobs.model, now=NOW) == 1
    assert job.state == "queued"
    assert app.jobs.work_once(session, now=NOW) is None
