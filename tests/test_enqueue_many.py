"""Many jobs by one statement: the same rows as a flush makes, their ids in order, told of as often."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import create_engine, func, inspect, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session

from sqla_jobs import Job, Jobs
from sqla_jobs.errors import EnqueueError, InvalidArguments, InvalidOption
from tests.support.ear import ear
from tests.support.models import Item
from tests.support.server import Database

jobs = Jobs()
NOON = dt.datetime(2040, 1, 1, 12, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)


@jobs.task(name="send", queue="mail")
def send(session: Session, number: int, *, note: str | None = None) -> None: ...


@jobs.task(name="clean")
def clean(session: Session) -> None: ...


COLUMNS = (
    "task, arguments, queue, priority, state,"
    " CASE WHEN run_at < '2039-01-01' THEN (run_at - created_at)::text ELSE run_at::text END AS run_at,"
    " attempt, max_attempts, timeout, claim,"
    " crashes, finished_at, attempts, progress, result, unique_key, unique_held, limit_key"
)


def rows(session: Session) -> list[dict[str, Any]]:
    """What the jobs are, in the order of their ids."""
    found = session.execute(text(f"SELECT {COLUMNS} FROM sqla_jobs ORDER BY id"))
    return [dict(row._mapping) for row in found]


# -- what is made ----------------------------------------------------------------------------------


def test_ids_are_in_the_order_of_the_jobs(session: Session) -> None:
    ids = jobs.enqueue_many(session, [send.job(number) for number in range(2000)])
    assert ids == sorted(ids)
    found = session.execute(text("SELECT id, (arguments ->> 'number')::int FROM sqla_jobs ORDER BY id"))
    assert [tuple(row) for row in found] == list(zip(ids, range(2000), strict=True))


def test_one_statement_and_one_notification(session: Session, sent: list[str]) -> None:
    jobs.enqueue_many(session, [send.job(number) for number in range(50)])
    assert ["INSERT" in sql for sql in sent] == [True, False]
    assert "pg_notify" in sent[1]


def test_none_is_fine_and_so_is_any_iterable(session: Session, sent: list[str]) -> None:
    assert jobs.enqueue_many(session, []) == []
    assert jobs.enqueue_many(session, iter(())) == []
    assert sent == []
    (one,) = jobs.enqueue_many(session, (send.job(number) for number in [7]))
    assert jobs.enqueue_many(session, {1: clean.job(), 2: clean.job()}.values()) == [one + 1, one + 2]


def test_a_job_that_was_made_so_is_run(session: Session) -> None:
    (job_id,) = jobs.enqueue_many(session, [send.job(7)])
    end = jobs.work_once(session)
    assert end is not None
    assert (end.job.id, end.state, end.job.arguments) == (job_id, "succeeded", {"number": 7})


def by_hand(**values: Any) -> Job:
    return Job(task="send", **values)


# Each is made twice: a job can be enqueued only once.
LOWER = func.lower("UPPER")
ALIKE: dict[str, Callable[[], list[Job]]] = {
    "of one task": lambda: [send.job(1), send.job(2, note="ä\u2028\\ \" ' % :x \U0001f600")],
    "without arguments": lambda: [clean.job(), clean.job()],
    "one": lambda: [send.job(1)],
    "of two tasks": lambda: [send.job(1), clean.job(), send.job(3)],
    "with options": lambda: [
        send.job(1),
        send.using(queue="slow", priority=-5, max_attempts=3).job(2),
        clean.using(timeout=HOUR, priority=9).job(),
    ],
    "delayed": lambda: [*map(send.using(delay=HOUR).job, range(3))],
    "delayed each": lambda: [send.using(delay=HOUR * number).job(number) for number in range(3)],
    "at a time": lambda: [send.using(run_at=NOON).job(1), send.using(run_at=NOON + HOUR).job(2)],
    "at times, delayed and now": lambda: [
        send.using(run_at=NOON).job(1), send.using(delay=HOUR).job(2), send.job(3), by_hand(),
    ],
    "by hand": lambda: [by_hand(), by_hand(state="queued"), by_hand(priority=3, arguments={"a": [1, {}]})],
    "with results": lambda: [
        by_hand(state="failed", finished_at=NOON, result=[1, None], progress={"a": 1.5}),
        by_hand(result="x" * 100, attempts=[{"n": 1}]),
        by_hand(progress=None, limit_key="k", unique_key="u"),
        by_hand(unique_held=True, attempt=3),
    ],
    "an expression for all": lambda: [by_hand(queue=LOWER), by_hand(queue=LOWER)],
    "expressions": lambda: [by_hand(queue=func.lower("A")), by_hand(queue=func.lower("B")), by_hand()],
    "a time by an expression": lambda: [by_hand(run_at=func.statement_timestamp() + HOUR), by_hand()],
    "subclasses of str": lambda: [by_hand(queue=type("Name", (str,), {})("a")), by_hand(queue="b")],
    "naive times": lambda: [
        by_hand(run_at=NOON), by_hand(run_at=NOON.replace(tzinfo=None)), by_hand(run_at=NOON),
    ],
    "no None of JSON": lambda: [by_hand(arguments={"a": None}), by_hand(result=None)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_the_rows_are_those_of_a_flush(session: Session, kind: str) -> None:
    with session.begin_nested() as savepoint:
        session.add_all(ALIKE[kind]())
        session.flush()
        expected = rows(session)
        savepoint.rollback()
    given = ALIKE[kind]()
    ids = jobs.enqueue_many(session, given)
    assert rows(session) == expected
    assert len(ids) == len(given)
    assert ids == sorted(ids)


@pytest.mark.parametrize(
    "kind", ["of two tasks", "with options", "delayed each", "at times, delayed and now"]
)
def test_by_one_statement(session: Session, sent: list[str], kind: str) -> None:
    jobs.enqueue_many(session, ALIKE[kind]())
    assert sum("FROM unnest(" in sql for sql in sent) == sum("INSERT" in sql for sql in sent) == 1


def test_ids_that_are_given_are_kept(session: Session) -> None:
    ids = jobs.enqueue_many(session, [by_hand(id=10**9, priority=1), by_hand(priority=2), by_hand(id=10**8)])
    assert (ids[0], ids[2]) == (10**9, 10**8)
    assert jobs.enqueue_many(session, [by_hand(id=31), by_hand(id=30)]) == [31, 30]
    assert session.scalar(text("SELECT priority FROM sqla_jobs WHERE id = :id"), {"id": ids[1]}) == 2


def test_what_the_table_refuses_it_refuses(session: Session) -> None:
    for given in ([by_hand(), by_hand(queue="no name")], [by_hand(arguments=None), by_hand(arguments={})]):
        with pytest.raises(IntegrityError), session.begin_nested():
            jobs.enqueue_many(session, given)
    assert rows(session) == []


def test_documents_are_written_as_the_engine_says(database: Database) -> None:
    engine = create_engine(database.url, json_serializer=lambda value: json.dumps(value, default=str))
    with Session(engine) as session, session.begin():
        jobs.enqueue_many(session, [by_hand(arguments={"at": day}) for day in (NOON.date(), HOUR)])
    engine.dispose()
    found = database.rows("SELECT arguments ->> 'at' FROM sqla_jobs ORDER BY id")
    assert [row[0] for row in found] == ["2040-01-01", "1:00:00"]


# -- the jobs, and the Session ---------------------------------------------------------------------


@pytest.mark.parametrize("make", [lambda: send.job(1), lambda: by_hand(queue=func.lower("A"))])
def test_the_jobs_stay_as_they_are(session: Session, make: Callable[[], Job]) -> None:
    given = [make(), make()]
    before = [inspect(job).dict.keys() & Job.__mapper__.attrs.keys() for job in given]
    jobs.enqueue_many(session, [given[0], make(), by_hand()])
    assert [inspect(job).dict.keys() & Job.__mapper__.attrs.keys() for job in given] == before
    assert not list(session)
    session.add_all(given)
    session.flush()
    assert len(rows(session)) == 5, "another one, of the same values"


def test_what_is_pending_is_flushed_first(session: Session) -> None:
    session.add(Item(name="pending"))
    with session.no_autoflush:
        jobs.enqueue_many(session, [send.job(1)])
        assert session.scalar(text("SELECT name FROM items")) == "pending"


def test_it_is_in_the_callers_transaction(database: Database) -> None:
    registry = scoped_session(database.sessionmaker)
    jobs.enqueue_many(registry, [send.job(1)])
    with registry.begin_nested() as savepoint:
        jobs.enqueue_many(registry, [send.job(2)])
        savepoint.rollback()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0
    registry.commit()
    assert database.rows("SELECT arguments FROM sqla_jobs") == [({"number": 1},)]
    jobs.enqueue_many(registry, [send.job(3)])
    registry.rollback()
    registry.remove()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [None, 5, Session, [send]])
def test_what_is_no_session_is_refused(first: Any) -> None:
    with pytest.raises(
        InvalidOption, match=r"expected a Session, scoped_session, AsyncSession or async_scoped"
    ):
        jobs.enqueue_many(first, [send.job(1)])


@pytest.mark.parametrize("given", [None, 5, send])
def test_what_are_no_jobs_is_refused(session: Session, given: Any) -> None:
    with pytest.raises(EnqueueError, match=r"expected jobs: \[task.job"):
        jobs.enqueue_many(session, given)


@pytest.mark.parametrize("other", [None, 5, "send", send, Item(name="a")])
def test_what_is_no_job_is_refused_before_anything_is_written(
    session: Session, sent: list[str], other: Any
) -> None:
    session.add(Item(name="kept"))
    with pytest.raises(EnqueueError, match=r"number 1 is .*; expected a new Job, as task.job"):
        jobs.enqueue_many(session, [send.job(1), other])
    assert sent == []


def test_a_job_that_is_enqueued_already_is_refused(session: Session, sent: list[str]) -> None:
    pending, persistent, detached = send.job(1), send.job(2), send.job(3)
    session.add_all([persistent, detached])
    session.flush()
    session.expunge(detached)
    session.add(pending)
    before = len(sent)
    for job in (pending, persistent, detached):
        with pytest.raises(EnqueueError, match=r"number 1 is .*which is or was in a Session already"):
            jobs.enqueue_many(session, [send.job(4), job])
    assert len(sent) == before
    session.expunge(pending)
    assert len(jobs.enqueue_many(session, [pending])) == 1


def test_a_job_that_is_in_it_twice_is_refused(session: Session, sent: list[str]) -> None:
    job = send.job(1)
    with pytest.raises(EnqueueError, match=r"number 2 is .*which is in it already"):
        jobs.enqueue_many(session, [job, send.job(2), job])
    assert sent == []


def test_a_wrong_call_among_them_leaves_nothing_behind(session: Session, sent: list[str]) -> None:
    wrong: Any = ["a", "b"]
    with pytest.raises(InvalidArguments, match="number"):
        jobs.enqueue_many(session, (send.job(each) for each in [1, *wrong]))
    assert sent == []


def test_a_table_that_leaves_out_rows_is_noticed(database: Database) -> None:
    database.execute(
        "CREATE FUNCTION leave_out() RETURNS trigger LANGUAGE plpgsql AS"
        " $$BEGIN IF NEW.priority = 1 THEN RETURN NULL; END IF; RETURN NEW; END$$"
    )
    database.execute(
        "CREATE TRIGGER leave_out BEFORE INSERT ON sqla_jobs FOR EACH ROW EXECUTE FUNCTION leave_out()"
    )
    with database.sessionmaker() as session, pytest.raises(EnqueueError, match=r"2 jobs .* took 1 rows"):
        jobs.enqueue_many(session, [by_hand(), by_hand(priority=1)])


# -- who is told -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["transaction", "after_commit"])
def test_workers_are_told_once_a_queue(database: Database, mode: Any) -> None:
    telling = Jobs(notify=mode)
    task = telling.task(name="work")(lambda session: None)
    made = [task.using(queue=queue).job() for queue in ("a", "b", "a")]
    with ear(database) as told, database.sessionmaker() as session:
        telling.enqueue_many(session, [*made, task.using(delay=HOUR).job()])
        assert told.heard() == []
        session.commit()
        assert sorted(told.next() for _ in range(3)) == ["queued:a", "queued:b", "scheduled"]


def test_nobody_is_told_where_nobody_shall_be(database: Database) -> None:
    quiet = Jobs(notify=False)
    task = quiet.task(name="work")(lambda session: None)
    with ear(database) as told:
        with database.sessionmaker.begin() as session:
            quiet.enqueue_many(session, [task.job(), task.using(delay=HOUR).job()])
            quiet.enqueue_many(session, [quiet.using(queue="a").job("work")])
        with database.sessionmaker() as session:
            jobs.enqueue_many(session, [send.job(1)])
            session.rollback()
        assert told.heard() == []
        with database.sessionmaker.begin() as session:  # of whose registry, each job knows
            quiet.enqueue_many(session, [task.job(), send.job(2)])
        assert told.heard() == ["queued:mail"]


def test_a_savepoint_that_is_rolled_back_is_forgotten(database: Database) -> None:
    with ear(database) as told, database.sessionmaker.begin() as session:
        session.add(Item(name="first"))
        with session.begin_nested() as savepoint:
            jobs.enqueue_many(session, [send.job(1)])
            savepoint.rollback()
        jobs.enqueue_many(session, [send.job(2)])
        session.commit()
        assert told.heard() == ["queued:mail"]


def test_a_two_phase_transaction_is_prepared_all_the_same(database: Database) -> None:
    if database.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server prepares no transactions: set max_prepared_transactions")
    with ear(database) as told, Session(database.engine, twophase=True) as session:
        jobs.enqueue_many(session, [send.job(1)])
        session.prepare()
        session.commit()
        assert told.heard() == []
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1
