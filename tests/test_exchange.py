"""The outcome of jobs that have written nothing, with the next claims in one statement: it is fenced too."""

from __future__ import annotations

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Claimed
from tests.support.verbs import MINUTE, NOW, WORKER, add, claim_as, employ

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
