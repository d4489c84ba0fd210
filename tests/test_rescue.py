"""Worker rows, heartbeats, and what becomes of the jobs of a dead worker, at times that the test says."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState, RetryPolicy, lifecycle
from sqla_jobs.errors import WorkerDied
from sqla_jobs.lifecycle import Claimed, Rescued
from tests.support.lane import AT_ONCE, NEVER, register
from tests.support.verbs import claim_as

NOW = datetime(2031, 5, 17, 12, tzinfo=timezone.utc)
LIMIT = timedelta(seconds=30)
TICK = timedelta(microseconds=1)


def worker(session: Session, *, last_beat: datetime = NOW, limit: timedelta = LIMIT) -> int:
    number = register(session, limit=limit)
    assert lifecycle.heartbeat(session, Job, number, [], now=last_beat)
    return number


def running(session: Session, worker_id: int | None, **values: Any) -> Claimed:
    job = lifecycle.enqueue(session, Job(**{"task": "t", "state": "queued", **values}))
    (claimed,) = claim_as(worker_id or 0, session, now=NOW)
    assert claimed.id == job.id
    if worker_id is None:
        session.execute(text("UPDATE sqla_jobs SET worker_id = NULL WHERE id = :id"), {"id": job.id})
    return claimed


def rescue(session: Session, now: datetime = NOW, policy: RetryPolicy = AT_ONCE) -> list[Rescued]:
    return lifecycle.rescue(session, Job, lambda _: policy, now=now)


def row(session: Session, job: Claimed) -> Any:
    return session.execute(text("SELECT * FROM sqla_jobs WHERE id = :id"), {"id": job.id}).one()


def workers(session: Session) -> list[int]:
    """The living ones."""
    return list(session.scalars(text("SELECT id FROM sqla_jobs_workers WHERE died_at IS NULL ORDER BY id")))


# -- the worker's row ------------------------------------------------------------------------------


def test_a_worker_is_a_row_that_says_who_it_is_and_what_it_runs(session: Session) -> None:
    number = lifecycle.register(
        session, Job, host="h", pid=7, version="1", queues=["a"], threads=3, heartbeat_limit=LIMIT
    )
    shown = [{"id": 5, "task": "t"}]
    assert lifecycle.heartbeat(session, Job, number, shown, now=NOW)
    found = session.execute(text("SELECT * FROM sqla_jobs_workers")).one()
    assert (found.id, found.host, found.pid, found.version) == (number, "h", 7, "1")
    assert (found.queues, found.threads, found.locked, found.running) == (["a"], 3, False, shown)
    assert (found.heartbeat_at, found.heartbeat_limit) == (NOW, LIMIT)


def test_a_heartbeat_without_a_row_says_so(session: Session) -> None:
    number = worker(session)
    lifecycle.goodbye(session, Job, number)
    assert not lifecycle.heartbeat(session, Job, number, [])


def test_goodbye_gives_back_what_still_stands_under_the_worker(session: Session) -> None:
    number, other = worker(session), worker(session)
    mine, foreign = running(session, number), running(session, other)
    lifecycle.goodbye(session, Job, number)
    assert workers(session) == [other]
    found = row(session, mine)
    assert (found.state, found.attempt, found.worker_id) == ("queued", 0, None)
    assert [(each["error"], each["message"]) for each in found.attempts] == [
        ("given back", "its worker stopped")
    ]
    assert row(session, foreign).state == "running"


# -- who is dead -----------------------------------------------------------------------------------


def test_a_worker_lives_until_its_own_limit_is_over(session: Session) -> None:
    short, long = worker(session), worker(session, limit=2 * LIMIT)
    jobs = [running(session, short), running(session, long)]
    assert rescue(session, NOW + LIMIT - TICK) == []
    assert workers(session) == [short, long]
    assert [each.job.id for each in rescue(session, NOW + LIMIT)] == [jobs[0].id]
    assert workers(session) == [long]
    assert [each.job.id for each in rescue(session, NOW + 2 * LIMIT)] == [jobs[1].id]
    assert workers(session) == []


def test_a_heartbeat_keeps_it_alive(session: Session) -> None:
    number = worker(session)
    job = running(session, number)
    lifecycle.heartbeat(session, Job, number, [], now=NOW + LIMIT - TICK)
    assert rescue(session, NOW + LIMIT) == []
    assert row(session, job).state == "running"


@pytest.mark.parametrize("of", ["nobody", "nobody that is known"])
def test_a_running_job_without_a_worker_is_rescued_at_once(session: Session, of: str) -> None:
    job = running(session, None if of == "nobody" else 4711)
    (rescued,) = rescue(session)
    assert rescued.job.id == job.id
    message = row(session, job).attempts[0]["message"]
    assert ("under no worker" if of == "nobody" else "under worker 4711, which is not known") in message


def test_only_running_jobs_are_rescued(session: Session) -> None:
    for state in ("queued", "scheduled", "succeeded", "failed", "cancelled"):
        final = JobState(state).is_final
        lifecycle.enqueue(
            session, Job(task="t", state=state, worker_id=4711, finished_at=NOW if final else None)
        )
    assert rescue(session) == []


# -- what becomes of their jobs --------------------------------------------------------------------


def test_a_rescued_job_has_spent_its_attempt_and_says_how(session: Session) -> None:
    number = worker(session)
    job = running(session, number)
    (rescued,) = rescue(session, NOW + LIMIT, RetryPolicy(base=timedelta(hours=1)))
    assert isinstance(rescued.outcome.error, WorkerDied)
    assert rescued.written.state is JobState.SCHEDULED
    found = row(session, job)
    assert (found.state, found.attempt, found.claim, found.crashes) == ("scheduled", 1, 1, 1)
    assert found.worker_id is None
    assert NOW + LIMIT + timedelta(hours=1) <= found.run_at <= NOW + LIMIT + timedelta(hours=2)
    (kept,) = found.attempts
    assert (kept["error"], kept["attempt"], kept["worker_id"]) == ("sqla_jobs.errors.WorkerDied", 1, number)
    assert f"worker {number} (process 1 on h) gave no heartbeat since" in kept["message"]


def test_without_attempts_left_it_is_failed(session: Session) -> None:
    job = running(session, 4711)
    (rescued,) = rescue(session, policy=NEVER)
    assert rescued.written.state is JobState.FAILED
    found = row(session, job)
    assert (found.state, found.finished_at, found.crashes) == ("failed", NOW, 1)
    assert found.attempts[0]["error"] == "sqla_jobs.errors.WorkerDied"


def test_the_jobs_own_limit_counts_first(session: Session) -> None:
    patient, impatient = running(session, 4711, max_attempts=2), running(session, 4711, max_attempts=1)
    states = {each.job.id: each.written.state for each in rescue(session, policy=RetryPolicy(max_attempts=2))}
    assert states == {patient.id: JobState.SCHEDULED, impatient.id: JobState.FAILED}


def test_what_the_task_would_not_retry_is_retried_all_the_same(session: Session) -> None:
    running(session, 4711)
    (rescued,) = rescue(session, policy=RetryPolicy(retry_on=(KeyError,), give_up_on=(Exception,)))
    assert rescued.written.state is JobState.SCHEDULED


def test_each_task_has_its_own_policy(session: Session) -> None:
    ones = {running(session, 4711, task=name).id: name for name in ("again", "never")}
    policies: dict[str, RetryPolicy] = {"again": AT_ONCE, "never": NEVER}
    rescued = lifecycle.rescue(session, Job, policies.__getitem__, now=NOW)
    states = {ones[each.job.id]: each.written.state for each in rescued}
    assert states == {"again": "scheduled", "never": "failed"}


def test_a_requested_cancel_wins(session: Session) -> None:
    job = running(session, 4711, cancel_requested_at=NOW)
    (rescued,) = rescue(session)
    assert rescued.written.state is JobState.CANCELLED
    assert row(session, job).state == "cancelled"


def test_they_come_in_batches_and_each_once(session: Session) -> None:
    number = worker(session)
    session.execute(
        text(
            "INSERT INTO sqla_jobs (task, state, worker_id, attempt, claim)"
            " SELECT 't', 'running', :worker, 1, 1 FROM generate_series(1, 250)"
        ),
        {"worker": number},
    )
    batches = [rescue(session, NOW + LIMIT) for _ in range(4)]
    assert [len(batch) for batch in batches] == [100, 100, 50, 0]
    assert len({each.job.id for batch in batches for each in batch}) == 250


# -- strays ----------------------------------------------------------------------------------------


def strays(session: Session, number: int, *known: Claimed) -> Callable[..., set[tuple[int, int]]]:
    keys = {(job.id, job.claim) for job in known}
    return lambda suspects=(): lifecycle.give_back_strays(session, Job, number, keys, suspects)


def test_a_job_that_its_worker_does_not_know_is_given_back_at_the_second_look(session: Session) -> None:
    number = worker(session)
    known, stray = running(session, number), running(session, number)
    look = strays(session, number, known)
    suspects = look()
    assert suspects == {(stray.id, stray.claim)}
    assert row(session, stray).state == "running", "its claim may be on its way to the worker"
    assert look(suspects) == set()
    found = row(session, stray)
    assert (found.state, found.attempt, found.claim, found.crashes) == ("queued", 0, 1, 0)
    assert found.attempts[0]["error"] == "given back"
    assert row(session, known).state == "running"


def test_a_job_that_became_known_meanwhile_is_left(session: Session) -> None:
    number = worker(session)
    job = running(session, number)
    suspects = strays(session, number)()
    assert strays(session, number, job)(suspects) == set()
    assert row(session, job).state == "running"


def test_another_claim_of_the_same_job_is_suspected_anew(session: Session) -> None:
    number = worker(session)
    first = running(session, number)
    suspects = strays(session, number)()
    session.execute(text("UPDATE sqla_jobs SET state = 'queued'"))
    (second,) = claim_as(number, session)
    assert (second.id, second.claim) == (first.id, first.claim + 1)
    assert strays(session, number)(suspects) == {(second.id, second.claim)}
    assert row(session, second).state == "running"


def test_jobs_of_other_workers_are_no_strays(session: Session) -> None:
    number, other = worker(session), worker(session)
    running(session, other)
    assert strays(session, number)() == set()
