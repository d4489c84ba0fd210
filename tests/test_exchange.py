"""The outcome of jobs that have written nothing, with the next claims in one statement: it is fenced too."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Claimed
from tests.support.lane import Lane
from tests.support.server import Database
from tests.support.verbs import MINUTE, NOW, WORKER, add, claim_as, employ
from tests.support.work import PATIENCE

TAKEN_OVER = {
    "claim": "claim = claim + 1",
    "worker": "worker_id = worker_id + 1",
    "state": "state = 'queued'",
    "rescued": "state = 'scheduled', worker_id = NULL, crashes = crashes + 1",
}


def exchange(session: Session, done: list[Claimed], limit: int) -> tuple[set[int], list[Claimed]]:
    return lifecycle.exchange(session, Job, WORKER, done, None, limit, now=NOW + MINUTE)


@pytest.fixture
def pair(session: Session) -> list[Claimed]:
    """Two jobs that run."""
    employ(session)
    add(session)
    add(session)
    return [*claim_as(WORKER, session), *claim_as(WORKER, session)]


@pytest.mark.parametrize("limit", [0, 1])
def test_what_has_run_has_succeeded(session: Session, pair: list[Claimed], limit: int) -> None:
    third = add(session)
    held, jobs = exchange(session, pair, limit)
    assert held == {job.id for job in pair}
    assert [job.id for job in jobs] == [third.id][:limit]
    for job in pair:
        found = session.get_one(Job, job.id, populate_existing=True)
        assert (found.state, found.attempt, found.claim) == ("succeeded", 1, 1)
        assert (found.worker_id, found.finished_at) == (WORKER, NOW + MINUTE)


@pytest.mark.parametrize("limit", [0, 1])
@pytest.mark.parametrize("change", TAKEN_OVER)
def test_the_stale_writer_writes_nothing_and_the_other_all(
    session: Session, pair: list[Claimed], change: str, limit: int
) -> None:
    stale, good = pair
    session.execute(text(f"UPDATE sqla_jobs SET {TAKEN_OVER[change]} WHERE id = :id"), {"id": stale.id})
    held, _ = exchange(session, pair, limit)
    assert held == {good.id}
    found = session.get_one(Job, stale.id, populate_existing=True)
    assert found.finished_at is None
    assert found.state != "succeeded"


class Interference:
    """Holds up the first statement that is sent, for one job, and breaks off the second, for two."""

    def __init__(self) -> None:
        self.sent = 0
        self.leads, self.go_on = threading.Event(), threading.Event()

    def __call__(self, *given: Any) -> None:
        self.sent += "UPDATE sqla_jobs" in given[2]
        if self.sent == 1:
            self.leads.set()
            assert self.go_on.wait(PATIENCE)
        elif self.sent == 2:
            self.sent += 1
            raise SystemExit


def nothing(session: Session) -> None:
    """Sends no statement."""


def test_who_is_broken_off_while_it_sends_for_others_leaves_them_their_outcomes(database: Database) -> None:
    """By a SystemExit in a listener of the application's, say. Nobody knows what took effect: they look."""
    lane, interference = Lane(database), Interference()
    task = lane.task(nothing)
    for _ in range(3):
        lane.enqueue(task)
    jobs = [lane.claim() for _ in range(3)]
    event.listen(database.engine, "before_cursor_execute", interference)
    with ThreadPoolExecutor(3) as threads:
        ends = [threads.submit(lane.runner.perform, jobs[0])]
        assert interference.leads.wait(PATIENCE)
        ends += [threads.submit(lane.runner.perform, job) for job in jobs[1:]]
        while len(lane.runner._exchange._waiting) < 2:
            wait(ends, 0.001)
        interference.go_on.set()
    errors = [end.exception() for end in ends]
    assert sorted(type(error).__name__ for error in errors) == ["NoneType", "NoneType", "SystemExit"]
    for job, error in zip(jobs, errors, strict=True):
        assert lane.row(job.id).state == ("succeeded" if error is None else "running")
        assert lane.row(job.id).attempt == 1
