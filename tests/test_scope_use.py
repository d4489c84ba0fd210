"""Jobs that run other jobs, use threads, write in bulk, or leave things open."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, insert, select
from sqlalchemy.orm import Session

from sqla_jobs import Worker, current_job
from tests.support.contain import Case, Lab, add, each
from tests.support.models import Effect, Item
from tests.support.server import Database

ESCAPED = "JobEscaped"
HELD: list[Any] = []  # what jobs keep beyond their end


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    for result in HELD:
        result.close()
    HELD.clear()


# -- jobs within a job -------------------------------------------------------------------------------


def writes(s: Session) -> None:
    add(s, "inner")


def writes_and_fails(s: Session) -> None:
    add(s, "inner")
    raise KeyError("inner")


def writes_and_escapes(s: Session) -> None:
    add(s, "inner")
    s.connection().commit()


def inner(lab: Lab, s: Session, body: Any) -> int:
    return lab.jobs.register(body, name="inner").enqueue(s).id


def works_a_job_off(s: Session, lab: Lab) -> None:
    add(s, "a")
    job_id = inner(lab, s, writes)
    finished = lab.jobs.work_once(s)
    assert finished is not None
    assert (finished.job.id, finished.state) == (job_id, "succeeded")
    assert lab.jobs.work_once(s) is None, "the job that runs is not to be taken again"
    assert current_job().id == lab.job_id
    s.commit()
    s.connection().exec_driver_sql("INSERT INTO items (name) VALUES ('b')")


def works_a_job_off_and_raises(s: Session, lab: Lab) -> None:
    works_a_job_off(s, lab)
    raise ValueError


def works_a_job_off_and_is_still_contained(s: Session, lab: Lab) -> None:
    works_a_job_off(s, lab)
    s.connection().commit()


def works_a_job_off_that_fails(s: Session, lab: Lab) -> None:
    add(s, "a")
    inner(lab, s, writes_and_fails)
    finished = lab.jobs.work_once(s)
    assert finished is not None
    assert isinstance(finished.error, KeyError)


def works_a_job_off_that_escapes(s: Session, lab: Lab) -> None:
    add(s, "a")
    inner(lab, s, writes_and_escapes)
    lab.jobs.work_once(s)


def enqueues_and_raises(s: Session, lab: Lab) -> None:
    inner(lab, s, writes)
    s.commit()
    raise ValueError


WITHIN = [
    Case(works_a_job_off, "succeeded", {"a", "b", "inner"}),
    Case(works_a_job_off_and_raises, "failed", error="ValueError"),
    Case(works_a_job_off_and_is_still_contained, "failed", error=ESCAPED, escapes=True),
    Case(works_a_job_off_that_fails, "succeeded", {"a"}),
    Case(works_a_job_off_that_escapes, "failed", error=ESCAPED, escapes=True),
    Case(enqueues_and_raises, "failed", error="ValueError"),
]

# -- everything else ---------------------------------------------------------------------------------


def uses_a_thread(s: Session) -> None:
    def write() -> None:
        add(s, "a")
        s.commit()

    thread = threading.Thread(target=write)
    thread.start()
    thread.join()


def uses_a_thread_and_raises(s: Session) -> None:
    uses_a_thread(s)
    raise ValueError


def writes_in_bulk(s: Session) -> None:
    s.bulk_save_objects([Item(name="a")])
    s.execute(insert(Item), [{"name": "b"}, {"name": "c"}])
    s.merge(Item(name="d"))


def writes_in_bulk_and_raises(s: Session) -> None:
    writes_in_bulk(s)
    s.commit()
    raise ValueError


def leaves_results_open(s: Session) -> None:
    writes_in_bulk(s)
    s.flush()
    HELD.append(s.scalars(select(Item).execution_options(yield_per=1)))
    HELD.append(s.execute(select(Item.name), execution_options={"stream_results": True}))
    for result in HELD:
        assert next(result)


def expunges_everything(s: Session) -> None:
    add(s, "a")
    s.add(Item(name="pending"))
    s.expunge_all()
    add(s, "b")


def listens(s: Session) -> None:
    def fail(*_: object) -> None:
        raise KeyError("hook")

    event.listen(s, "after_flush", fail)
    add(s, "a")


def replaces_its_methods(s: Any) -> None:
    s.commit = s.rollback = lambda: None
    add(s, "a")


ELSE = [
    Case(uses_a_thread, "succeeded", {"a"}),
    Case(uses_a_thread_and_raises, "failed", error="ValueError"),
    Case(writes_in_bulk, "succeeded", {"a", "b", "c", "d"}),
    Case(writes_in_bulk_and_raises, "failed", error="ValueError"),
    Case(leaves_results_open, "succeeded", {"a", "b", "c", "d"}),
    Case(expunges_everything, "succeeded", {"a", "b"}),
    Case(listens, "failed", error="KeyError"),
    Case(replaces_its_methods, "succeeded", {"a"}),
]

CASES = WITHIN + ELSE


@each(CASES)
def test_run_by_a_worker(case: Case, lab_database: Database) -> None:
    case.check_by_worker(lab_database)


@each(CASES)
def test_run_in_the_callers_transaction(case: Case, lab_database: Database) -> None:
    case.check_by_work_once(lab_database)


# SQLAlchemy warns of the savepoint that `escapes` has lost. Made an error by our settings, the warning ends
# SQLAlchemy's own clean-up half way, and the connection is left to the garbage collector.
@pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_in_threads_at_once_each_job_is_contained_by_itself(lab_database: Database) -> None:
    lab = Lab(lab_database)
    lab_database.execute("DELETE FROM effects")

    def leave(s: Session, note: str) -> None:
        s.add(Effect(job_id=current_job().id, note=note))
        s.flush()

    def keeps_both(s: Session) -> None:
        leave(s, "a")
        s.commit()
        leave(s, "b")

    def keeps_the_second(s: Session) -> None:
        leave(s, "a")
        s.rollback()
        leave(s, "b")

    def keeps_none(s: Session) -> None:
        keeps_both(s)
        raise ValueError

    def escapes(s: Session) -> None:
        leave(s, "a")
        s.connection().commit()

    expected = {}
    for body, notes in ((keeps_both, "ab"), (keeps_the_second, "b"), (keeps_none, ""), (escapes, "")) * 20:
        expected[lab.enqueue(body)] = notes
    worker = Worker(lab.jobs, lab_database.engine, threads=4, drain=True)
    worker.start()
    assert worker.join(60)
    rows = lab_database.rows(
        "SELECT job.id, job.state, coalesce(string_agg(note, '' ORDER BY effects.id), '') AS notes "
        "FROM sqla_jobs AS job LEFT JOIN effects ON job_id = job.id GROUP BY job.id"
    )
    assert {row.id: row.notes for row in rows} == expected
    assert all((row.state == "succeeded") == bool(row.notes) for row in rows)
