"""Claims that go on behind a mark, past index entries of jobs that are gone: what they may find, in order.

A job before the mark is not lost: whoever claims with a mark claims without one, again and again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle
from sqla_jobs.lifecycle import Claimed, Mark
from tests.support.verbs import MINUTE, NOW, SECOND, WORKER, add, employ, row

Queues = Sequence[str] | None
Claim = Callable[..., list[int]]


def ordinary(
    session: Session, queues: Queues = None, mark: Mark | None = None, **given: Any
) -> list[Claimed]:
    employ(session)
    return lifecycle.claim(session, Job, WORKER, queues, mark=mark, now=NOW, **given)


def either(session: Session, queues: Queues = None, mark: Mark | None = None, **given: Any) -> list[Claimed]:
    """By the statement for both lanes, of a task of the ordinary one."""
    employ(session)
    found = lifecycle.claim_either(
        session.connection(), Job, WORKER, queues, ["fast"], mark=mark, now=NOW, **given
    )
    assert found is None or found[1]
    return [] if found is None else [found[0]]


@pytest.fixture(params=[ordinary, either], ids=["claim", "claim_either"])
def statement(request: pytest.FixtureRequest) -> Callable[..., list[Claimed]]:
    verb: Callable[..., list[Claimed]] = request.param
    return verb


@pytest.fixture(params=[None, ["default"], ["void", "default"]], ids=["any", "queue", "queues"])
def claim(statement: Callable[..., list[Claimed]], request: pytest.FixtureRequest) -> Claim:
    """The ids of what is claimed, of any queue or of those of a list."""

    def verb(session: Session, mark: Mark | None = None, **given: Any) -> list[int]:
        return [job.id for job in statement(session, request.param, mark, **given)]

    return verb


def at(job: Job) -> Mark:
    return Mark(job.priority, job.run_at, job.id)


def test_a_claim_leaves_the_mark_of_its_job(session: Session) -> None:
    job = add(session, priority=-3, run_at=NOW - MINUTE)
    (claimed,) = ordinary(session)
    assert Mark.at(claimed) == Mark(-3, NOW - MINUTE, job.id)


def test_what_is_before_the_mark_is_not_seen(session: Session, claim: Claim) -> None:
    """Nor what is at it: a job that was claimed, and whose transaction was rolled back."""
    before = add(session, run_at=NOW - MINUTE)
    marked, behind = add(session), add(session)
    assert claim(session, at(marked)) == [behind.id]
    assert claim(session, at(marked)) == []
    assert [claim(session), claim(session)] == [[before.id], [marked.id]]


def test_the_time_counts_before_the_id(session: Session, claim: Claim) -> None:
    """One that was enqueued earlier, for a later time, is behind; one for an earlier time is not."""
    later = add(session, run_at=NOW + SECOND)
    marked = add(session)
    add(session, run_at=NOW - SECOND)
    assert claim(session, at(marked)) == [later.id]
    assert claim(session, at(marked)) == []


@pytest.mark.parametrize("priority", [-32768, -1, 1, 32767])
def test_of_another_priority_nothing_is_seen(session: Session, claim: Claim, priority: int) -> None:
    """A lower one comes after all of this one, in which there may be jobs before the mark."""
    marked = add(session)
    other = add(session, priority=priority, run_at=NOW + SECOND)
    assert claim(session, at(marked)) == []
    assert claim(session, Mark(priority, NOW, marked.id)) == [other.id]


def test_the_mark_need_not_be_a_job_any_more(session: Session, claim: Claim) -> None:
    job = add(session)
    assert claim(session, Mark(0, NOW, job.id - 1)) == [job.id]


def test_behind_it_the_order_is_that_without_it(session: Session, claim: Claim) -> None:
    """From mark to mark each job is found once."""
    times = [3, 1, 2, 1, 3, 0]
    jobs = [add(session, run_at=NOW + time * SECOND) for time in times]
    wanted = [job.id for job in sorted(jobs, key=lambda job: (job.run_at, job.id))]
    found, mark = [], None
    while ids := claim(session, mark):
        (job,) = (each for each in jobs if each.id in ids)
        found.append(job.id)
        mark = at(job)
    assert found == wanted


@pytest.mark.parametrize("queues", [None, ["default"]])
def test_several_jobs_behind_it(session: Session, queues: Queues) -> None:
    jobs = [add(session) for _ in range(5)]
    found = ordinary(session, queues, at(jobs[1]), limit=2)
    assert sorted(job.id for job in found) == [jobs[2].id, jobs[3].id]


def test_the_list_of_queues_keeps_its_order(
    session: Session, statement: Callable[..., list[Claimed]]
) -> None:
    """The same mark for each of them."""
    first, second = add(session, queue="one"), add(session, queue="two")
    third, fourth = add(session, queue="one"), add(session, queue="two")
    queues, found = ["two", "one"], []
    while jobs := statement(session, queues, at(first)):
        found += [job.id for job in jobs]
    assert found == [second.id, fourth.id, third.id]
    assert row(session, first).state == "queued"


def test_what_a_worker_has_died_of_is_passed_over(session: Session, claim: Claim) -> None:
    marked, suspect, innocent = add(session), add(session, crashes=1), add(session)
    assert claim(session, at(marked), innocent=True) == [innocent.id]
    assert claim(session, at(marked), innocent=True) == []
    assert claim(session, at(marked)) == [suspect.id]


def test_only_what_is_queued_is_seen(session: Session, claim: Claim) -> None:
    marked = add(session)
    add(session, state="scheduled", run_at=NOW + SECOND)
    claimed = add(session)
    assert claim(session, at(marked)) == [claimed.id]
    assert claim(session, at(marked)) == []


def test_a_worker_that_was_taken_for_dead_claims_nothing(session: Session) -> None:
    marked = add(session)
    add(session)
    assert lifecycle.claim(session, Job, WORKER, mark=at(marked), now=NOW) == []
    connection = session.connection()
    assert lifecycle.claim_either(connection, Job, WORKER, None, ["t"], mark=at(marked), now=NOW) is None


def test_a_job_of_the_fast_lane_is_found_and_stays_queued(session: Session) -> None:
    marked, behind = add(session, task="fast"), add(session, task="fast")
    employ(session)
    found = lifecycle.claim_either(
        session.connection(), Job, WORKER, None, ["fast"], mark=at(marked), now=NOW
    )
    assert found is not None
    assert (found[0].id, found[1]) == (behind.id, False)
    assert row(session, behind).state == "queued"


# -- what joins a group: behind its first job, as behind a mark ------------------------------------


def join(session: Session, queues: Queues = None, limit: int = 8) -> tuple[int, list[int]]:
    """The ids of the first job of a group, and of those that join it."""
    employ(session)
    found = lifecycle.claim_either(session.connection(), Job, WORKER, queues, ["fast"], now=NOW)
    assert found is not None
    assert not found[1]
    others = lifecycle.join(session.connection(), Job, found[0], queues, ["fast"], limit, now=NOW)
    return found[0].id, [job.id for job in others]


def test_those_behind_the_first_join_it_in_order(session: Session) -> None:
    times = [3, 1, 2, 1]
    jobs = [add(session, task="fast", run_at=NOW + time * SECOND) for time in times]
    add(session, run_at=NOW + 2 * SECOND)  # of another task
    assert join(session) == (jobs[1].id, [jobs[3].id, jobs[2].id, jobs[0].id])


def test_of_another_priority_none_joins(session: Session) -> None:
    first, lower = add(session, task="fast", priority=1), add(session, task="fast")
    assert join(session) == (first.id, [])
    assert row(session, lower).state == "queued"


def test_of_a_list_of_queues_only_the_first_ones_own_joins(session: Session) -> None:
    """In the next one there may be another priority, which comes before."""
    first, second = add(session, task="fast", queue="one"), add(session, task="fast", queue="one")
    add(session, task="fast", queue="two")
    assert join(session, ["void", "one", "two"]) == (first.id, [second.id])


def test_of_any_queue_they_join_in_order(session: Session) -> None:
    jobs = [add(session, task="fast", queue=queue) for queue in ("one", "two", "one")]
    assert join(session) == (jobs[0].id, [job.id for job in jobs[1:]])
    assert join(session, limit=1) == (jobs[0].id, [jobs[1].id])
