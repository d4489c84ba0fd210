"""What a job says of itself, alike in Python and in SQL."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import func, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, aliased, mapped_column

from sqla_jobs import Job, JobMixin, Jobs, RetryPolicy
from tests.support.server import Database
from tests.support.verbs import MINUTE, NOW, SECOND, add

CASES: dict[str, tuple[dict[str, Any], tuple[bool, dt.timedelta | None, dt.timedelta | None]]] = {
    "waits": ({"state": "queued"}, (False, None, None)),
    "runs": ({"state": "running", "started_at": NOW + SECOND}, (False, None, SECOND)),
    "is over": (
        {"state": "succeeded", "started_at": NOW + SECOND, "finished_at": NOW + MINUTE},
        (True, MINUTE - SECOND, SECOND),
    ),
    "was cancelled before": ({"state": "cancelled", "finished_at": NOW + MINUTE}, (True, None, None)),
    "waits for its next attempt": (
        {"state": "scheduled", "started_at": NOW + SECOND, "run_at": NOW + MINUTE},
        (False, None, None),
    ),
    "was due before it was enqueued": (
        {"state": "running", "run_at": NOW - MINUTE, "started_at": NOW + SECOND},
        (False, None, SECOND),
    ),
    "was enqueued before it was due": (
        {"state": "running", "created_at": NOW - MINUTE, "started_at": NOW + SECOND},
        (False, None, SECOND),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_python_and_sql_say_the_same(session: Session, case: str) -> None:
    values, expected = CASES[case]
    job = add(session, **{"created_at": NOW, **values})
    session.refresh(job)
    assert (job.is_finished, job.duration, job.wait) == expected
    row = session.execute(select(Job.is_finished, Job.duration, Job.wait)).one()
    assert tuple(row) == expected


def test_they_filter_and_order(session: Session) -> None:
    slow, quick = (
        add(session, state="failed", created_at=NOW, started_at=NOW + SECOND, finished_at=NOW + end)
        for end in (MINUTE, 2 * SECOND)
    )
    add(session, created_at=NOW)
    assert session.scalars(select(Job).where(Job.duration > 30 * SECOND)).all() == [slow]
    assert session.scalars(select(Job).where(Job.is_finished).order_by(Job.duration)).all() == [quick, slow]
    assert session.scalar(select(func.count()).where(~Job.is_finished)) == 1
    other = aliased(Job)
    assert session.scalar(select(func.max(other.wait))) == SECOND


def test_of_a_job_that_runs(session: Session) -> None:
    jobs = Jobs()

    @jobs.task(name="fail", retry=RetryPolicy(max_attempts=2, base=MINUTE, cap=MINUTE))
    def fail(session: Session) -> None:
        raise ValueError

    job = fail.using(run_at=NOW).enqueue(session)
    assert jobs.work_once(session, now=NOW + SECOND) is not None
    assert (job.is_finished, job.duration, job.wait) == (False, None, None)
    assert jobs.work_once(session, now=job.run_at + 2 * SECOND) is not None
    assert (job.is_finished, job.wait) == (True, 2 * SECOND)
    assert job.duration is not None


def test_on_a_model_of_an_application_which_may_have_its_own(empty_database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class OwnJob(JobMixin, Base):
        duration: Mapped[int] = mapped_column(server_default="7")  # type: ignore[assignment]

    jobs = Jobs(model=OwnJob)
    jobs.create_all(empty_database.engine)
    with Session(empty_database.engine) as session:
        session.add(OwnJob(task="t"))
        session.flush()
        assert session.execute(select(OwnJob.is_finished, OwnJob.duration, OwnJob.wait)).one() == (
            False,
            7,
            None,
        )
