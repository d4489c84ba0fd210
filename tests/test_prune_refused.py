"""`prune` where other tables refer to jobs: what a foreign key refuses is told of, and holds nothing up."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs
from tests.support.lane import logged
from tests.support.plans import fill
from tests.support.server import Database

EVER = timedelta(0)
DEFERRED = pytest.mark.parametrize(
    "deferred", ["", "DEFERRABLE", "DEFERRABLE INITIALLY DEFERRED"], ids=["at once", "deferrable", "deferred"]
)


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


@pytest.fixture(autouse=True)
def _told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs")


def refer(database: Database, table: str, ids: list[int], clause: str = "") -> None:
    """A table that refers to these jobs."""
    database.execute(f"CREATE TABLE {table} (job_id bigint REFERENCES sqla_jobs {clause})")
    database.execute(f"INSERT INTO {table} SELECT unnest(CAST(:ids AS bigint[]))", ids=ids)


def all_ids(database: Database) -> list[int]:
    return list(database.scalar("SELECT coalesce(array_agg(id ORDER BY id), '{}') FROM sqla_jobs"))


def pruned(database: Database, jobs: Jobs[Job], **options: Any) -> int:
    with database.sessionmaker.begin() as session:
        return jobs.prune(session, older_than=EVER, **options)


@DEFERRED
def test_rows_that_are_referred_to_stay_and_are_told_of(
    database: Database, jobs: Jobs[Job], caplog: pytest.LogCaptureFixture, deferred: str
) -> None:
    fill(database, "succeeded", 30)
    ids = all_ids(database)
    database.execute("CREATE SCHEMA audit")
    refer(database, "mails", ids[:3], deferred)
    refer(database, "audit.notes", ids[2:5], deferred)
    assert pruned(database, jobs) == 25
    assert all_ids(database) == ids[:5]
    [told] = logged(caplog)
    assert told.startswith(
        "5 finished job(s) cannot be pruned, since rows refer to them: 3 by public.mails, 2 by audit.notes"
    )
    assert pruned(database, jobs) == 0


def test_they_are_asked_for_batch_by_batch(database: Database, jobs: Jobs[Job]) -> None:
    """An application that refers to each of its jobs has them asked about, not refused one by one."""
    fill(database, "succeeded", 2500)
    ids = all_ids(database)
    refer(database, "mails", ids[:2400])
    sent: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *told: sent.append(told[2]))
    assert pruned(database, jobs) == 100
    assert len(sent) < 20
    assert not any("ROLLBACK" in each for each in sent)


@pytest.mark.parametrize("clause", ["ON DELETE CASCADE", "ON DELETE SET NULL"])
def test_what_a_foreign_key_says_is_done(
    database: Database, jobs: Jobs[Job], caplog: pytest.LogCaptureFixture, clause: str
) -> None:
    fill(database, "succeeded", 3)
    refer(database, "mails", all_ids(database), clause)
    assert pruned(database, jobs) == 3
    assert database.scalar("SELECT count(job_id) FROM mails") == 0
    assert logged(caplog) == []


# -- what cannot be known beforehand -----------------------------------------------------------------


@DEFERRED
def test_a_table_that_may_not_be_read_refuses_row_by_row(
    database: Database, jobs: Jobs[Job], caplog: pytest.LogCaptureFixture, deferred: str
) -> None:
    """Two of many are refused: those beside them go."""
    fill(database, "succeeded", 200)
    ids = all_ids(database)
    kept = [ids[3], ids[150]]
    refer(database, "mails", kept, deferred)
    role = f"pruner_{database.name}"
    database.execute(f"CREATE ROLE {role}")
    database.execute(f"GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}")
    database.execute(f"REVOKE ALL ON mails FROM {role}")
    try:
        with database.sessionmaker.begin() as session:
            session.execute(text(f"SET LOCAL ROLE {role}"))
            assert jobs.prune(session, older_than=EVER) == 198
    finally:
        database.execute(f"DROP OWNED BY {role}")
        database.execute(f"DROP ROLE {role}")
    assert all_ids(database) == kept
    assert ["2 by public.mails" in told for told in logged(caplog)] == [True]


def test_a_key_of_several_columns(
    database: Database, jobs: Jobs[Job], caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, "succeeded", 50)
    kept = all_ids(database)[20]
    database.execute("CREATE UNIQUE INDEX id_queue ON sqla_jobs (id, queue)")
    database.execute(
        "CREATE TABLE mails (job_id bigint, queue text, FOREIGN KEY (job_id, queue) "
        "REFERENCES sqla_jobs (id, queue) DEFERRABLE INITIALLY DEFERRED)"
    )
    database.execute("INSERT INTO mails VALUES (:id, 'default')", id=kept)
    assert pruned(database, jobs) == 49
    assert all_ids(database) == [kept]
    assert ["1 by public.mails" in told for told in logged(caplog)] == [True]


def test_what_a_cascade_would_delete_may_refuse_it(
    database: Database, jobs: Jobs[Job], caplog: pytest.LogCaptureFixture
) -> None:
    fill(database, "succeeded", 20)
    first, second, *_ = all_ids(database)
    database.execute("CREATE TABLE mails (job_id bigint PRIMARY KEY REFERENCES sqla_jobs ON DELETE CASCADE)")
    database.execute("CREATE TABLE answers (mail_id bigint REFERENCES mails)")
    database.execute("INSERT INTO mails VALUES (:one), (:two)", one=first, two=second)
    database.execute("INSERT INTO answers VALUES (:two)", two=second)
    assert pruned(database, jobs) == 19
    assert all_ids(database) == [second]
    assert ["1 by public.answers" in told for told in logged(caplog)] == [True]


def test_a_reference_that_comes_at_the_last_moment(database: Database, jobs: Jobs[Job]) -> None:
    """After it was asked who refers to which, and before the rows are locked."""
    fill(database, "succeeded", 10)
    ids = all_ids(database)
    refer(database, "mails", ids[:1])

    inserted: list[str] = []

    def insert(connection: Any, cursor: Any, sql: str, *_: Any) -> None:
        if sql.startswith("WITH free") and not inserted:
            inserted.append(sql)
            database.execute("INSERT INTO mails VALUES (:id)", id=ids[5])

    event.listen(database.engine, "before_cursor_execute", insert)
    assert pruned(database, jobs) == 8
    assert all_ids(database) == [ids[0], ids[5]]


# -- the caller's transaction ------------------------------------------------------------------------


def test_what_the_caller_did_before_stays(database: Database, jobs: Jobs[Job]) -> None:
    fill(database, "succeeded", 3)
    ids = all_ids(database)
    refer(database, "mails", ids[:1])
    with database.sessionmaker.begin() as session:
        session.execute(text("INSERT INTO items (name) VALUES ('before')"))
        assert jobs.prune(session, older_than=EVER) == 2
    assert database.scalar("SELECT name FROM items") == "before"


def test_deferred_stays_deferred(database: Database, jobs: Jobs[Job]) -> None:
    """The caller may go on to insert a row before the job that it refers to."""
    fill(database, "succeeded", 3)
    refer(database, "mails", all_ids(database)[:1], "DEFERRABLE INITIALLY DEFERRED")
    with database.sessionmaker.begin() as session:
        assert jobs.prune(session, older_than=EVER) == 2
        session.execute(text("INSERT INTO mails VALUES (4711)"))
        session.execute(text("INSERT INTO sqla_jobs (id, task) OVERRIDING SYSTEM VALUE VALUES (4711, 't')"))
    assert database.scalar("SELECT count(*) FROM mails") == 2


@DEFERRED
def test_jobs_that_refer_to_jobs_go_together(
    database: Database, jobs: Jobs[Job], caplog: pytest.LogCaptureFixture, deferred: str
) -> None:
    fill(database, "succeeded", 5)
    parent, child, other, *_ = all_ids(database)
    database.execute(f"ALTER TABLE sqla_jobs ADD parent_id bigint REFERENCES sqla_jobs {deferred}")
    database.execute("UPDATE sqla_jobs SET parent_id = :parent WHERE id = :child", parent=parent, child=child)
    fill(database, "queued", 1)
    database.execute("UPDATE sqla_jobs SET parent_id = :other WHERE state = 'queued'", other=other)
    assert pruned(database, jobs) == 4
    assert other in all_ids(database)
    assert ["1 by public.sqla_jobs" in told for told in logged(caplog)] == [True]


def test_retention_zero_leaves_them_to_it(database: Database, jobs: Jobs[Job]) -> None:
    """A job that was to be deleted at its success, and was referred to, is an ordinary one."""

    @jobs.task(name="t", retention=timedelta(0))
    def task(session: Session) -> None:
        pass

    refer(database, "mails", [])
    with database.sessionmaker.begin() as session:
        job = task.enqueue(session)
        session.execute(text("INSERT INTO mails VALUES (:id)"), {"id": job.id})
    with database.sessionmaker.begin() as session:
        jobs.work_once(session)
    assert pruned(database, jobs) == 0
    database.execute("DELETE FROM mails")
    assert pruned(database, jobs) == 1
