"""`delete`: a job that does not run is gone, without waiting for anybody."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError

import sqla_jobs
from sqla_jobs import Deleted, Job, Jobs, JobState, lifecycle
from sqla_jobs.errors import InvalidOption, JobNotFound
from tests.support.aio import Sessions, in_a_loop
from tests.support.server import Database
from tests.support.verbs import NOW, add

KINDS = {
    "immediate": "REFERENCES sqla_jobs (id)",
    "deferrable": "REFERENCES sqla_jobs (id) DEFERRABLE",
    "deferred": "REFERENCES sqla_jobs (id) DEFERRABLE INITIALLY DEFERRED",
}


def finished(state: JobState) -> dict[str, Any]:
    return {"finished_at": NOW} if state.is_final else {}


@pytest.mark.parametrize("state", [each for each in JobState if each is not JobState.RUNNING])
def test_a_job_that_does_not_run_is_gone(session: Session, state: JobState) -> None:
    job = add(session, state=state.value, **finished(state))
    other = add(session)
    job_id = job.id
    assert sqla_jobs.delete(session, job) is Deleted.DELETED
    assert session.execute(text("SELECT id FROM sqla_jobs")).scalars().all() == [other.id]
    with pytest.raises(ObjectDeletedError):
        _ = job.state
    with pytest.raises(JobNotFound):
        sqla_jobs.delete(session, job_id)


def test_a_job_that_runs_stays(session: Session) -> None:
    job = add(session, state="running", worker_id=7)
    assert Jobs().delete(session, job.id) is Deleted.RUNNING
    assert session.get(Job, job.id) is job


def test_its_unique_key_is_free(session: Session) -> None:
    job = add(session, unique_key="k", unique_held=True)
    assert sqla_jobs.delete(session, job) is Deleted.DELETED
    add(session, unique_key="k", unique_held=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_a_row_refers_to_stays_and_the_transaction_goes_on(session: Session, kind: str) -> None:
    session.execute(text(f"CREATE TABLE receipts (job_id bigint {KINDS[kind]})"))
    kept, other = add(session), add(session)
    session.execute(text("INSERT INTO receipts VALUES (:id)"), {"id": kept.id})
    assert sqla_jobs.delete(session, kept) is Deleted.REFERENCED
    assert sqla_jobs.delete(session, other) is Deleted.DELETED
    session.commit()
    assert kept.state == "queued"


def test_a_trigger_that_refuses_as_a_foreign_key_does_is_heeded(session: Session) -> None:
    """Where nobody can be asked before: the DELETE fails, and only that is taken back."""
    session.execute(
        text(
            "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "RAISE EXCEPTION 'kept' USING ERRCODE = 'foreign_key_violation'; END $$"
        )
    )
    session.execute(
        text(
            "CREATE TRIGGER keep BEFORE DELETE ON sqla_jobs FOR EACH ROW WHEN (OLD.task = 'kept') "
            "EXECUTE FUNCTION keep()"
        )
    )
    kept, other = add(session, task="kept").id, add(session).id
    assert sqla_jobs.delete(session, kept) is Deleted.REFERENCED
    done, passed = lifecycle.delete_many(session, Job, [kept, other])
    assert (done, passed) == ({other}, {kept: "referenced"})


def test_what_a_foreign_key_says_is_done(session: Session) -> None:
    session.execute(text("CREATE TABLE notes (job_id bigint REFERENCES sqla_jobs (id) ON DELETE CASCADE)"))
    job = add(session)
    session.execute(text("INSERT INTO notes VALUES (:id)"), {"id": job.id})
    assert sqla_jobs.delete(session, job) is Deleted.DELETED
    assert session.scalar(text("SELECT count(*) FROM notes")) == 0


@pytest.mark.parametrize("strength", ["NO KEY UPDATE", "KEY SHARE"])
def test_a_job_that_somebody_has_locked_is_busy(database: Database, strength: str) -> None:
    """A claim, or an INSERT of a row that refers to it. It does not wait: the timeout would tell."""
    with database.sessionmaker.begin() as session:
        job_id = add(session).id
    with database.sessionmaker() as holder, database.sessionmaker() as session:
        holder.execute(text(f"SELECT FROM sqla_jobs FOR {strength}"))
        session.execute(text("SET LOCAL lock_timeout = '2s'"))
        assert sqla_jobs.delete(session, job_id) is Deleted.BUSY
        holder.rollback()
        assert sqla_jobs.delete(session, job_id) is Deleted.DELETED
        session.commit()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_on_an_async_session_it_is_awaited(database: Database) -> None:
    with database.sessionmaker.begin() as session:
        job_id = add(session).id

    async def body(sessions: Sessions) -> Deleted:
        async with sessions.begin() as session:
            return await sqla_jobs.delete(session, job_id)

    assert in_a_loop(database, body) is Deleted.DELETED
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


@pytest.mark.parametrize("job", ["7", 7.0, None, True])
def test_what_is_no_job_is_refused(session: Session, job: Any) -> None:
    with pytest.raises(InvalidOption, match="expected the id of a job"):
        sqla_jobs.delete(session, job)
