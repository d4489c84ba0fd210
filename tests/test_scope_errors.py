"""Jobs that catch errors, raise anything, lose their connection, or change their own row."""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, text, update
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Cancel, Snooze, current_job
from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import Job
from tests.support.contain import Case, Lab, add, each
from tests.support.lane import Lane
from tests.support.models import Item
from tests.support.server import Database

ESCAPED = "JobEscaped"
SWALLOWED = "PendingRollbackError"

# -- errors that the job catches ---------------------------------------------------------------------


def divide(s: Session) -> None:
    s.execute(text("SELECT 1/0"))


def catches_everything(s: Session) -> None:
    for sql in ("SELECT 1/0", "SELECT 2", "INSERT INTO items (name) VALUES ('a')"):
        with suppress(DBAPIError):
            s.execute(text(sql))


def catches_and_commits(s: Session) -> None:
    add(s, "a")
    with suppress(DBAPIError):
        divide(s)
    s.commit()  # a plain Session's COMMIT would quietly roll back here
    add(s, "b")


def catches_the_commit_too(s: Session) -> None:
    with suppress(SQLAlchemyError):
        catches_and_commits(s)


def catches_and_rolls_back(s: Session) -> None:
    add(s, "a")
    s.commit()
    try:
        divide(s)
    except DBAPIError:
        s.rollback()
    add(s, "b")


def catches_and_closes(s: Session) -> None:
    add(s, "a")
    try:
        divide(s)
    except DBAPIError:
        s.close()
    add(s, "b")


def catches_in_a_savepoint(s: Session) -> None:
    add(s, "a")
    with suppress(DBAPIError), s.begin_nested():
        divide(s)
    add(s, "b")


def catches_inside_a_savepoint(s: Session) -> None:
    add(s, "a")
    with suppress(DBAPIError), s.begin_nested(), suppress(DBAPIError):
        divide(s)
    with suppress(SQLAlchemyError):
        add(s, "b")


def catches_in_a_savepoint_left_open(s: Session) -> None:
    add(s, "a")
    s.begin_nested()
    with suppress(DBAPIError):
        divide(s)


CAUGHT = [
    Case(catches_everything, "failed", error=SWALLOWED),
    Case(catches_and_commits, "failed", error=SWALLOWED),
    Case(catches_the_commit_too, "failed", error=SWALLOWED),
    Case(catches_and_rolls_back, "succeeded", {"a", "b"}),
    Case(catches_and_closes, "succeeded", {"b"}),
    Case(catches_in_a_savepoint, "succeeded", {"a", "b"}),
    Case(catches_inside_a_savepoint, "failed", error=SWALLOWED),
    Case(catches_in_a_savepoint_left_open, "failed", error=SWALLOWED),
]

# -- errors that it raises ---------------------------------------------------------------------------


def raises(error: BaseException) -> Any:
    def body(s: Session) -> None:
        add(s, "a")
        s.commit()
        raise error

    body.__name__ = f"raises {type(error).__name__}"
    return body


def exits(s: Session) -> None:
    add(s, "a")
    sys.exit(0)


def recurses(s: Session) -> None:
    if not s.new:
        s.add(Item(name="a"))
    recurses(s)


def returns_cancel(s: Session) -> Cancel:
    add(s, "a")
    return Cancel("enough")


def snoozes(s: Session) -> None:
    add(s, "a")
    raise Snooze(timedelta(hours=1))


RAISED = [
    Case(raises(BaseException("base")), "failed", error="BaseException"),
    Case(raises(AssertionError()), "failed", error="AssertionError"),
    Case(raises(GeneratorExit()), "failed", error="GeneratorExit"),
    Case(raises(MemoryError()), "failed", error="MemoryError"),
    Case(raises(Cancel("enough")), "cancelled", error="Cancel"),
    Case(exits, "failed", error="SystemExit"),
    Case(recurses, "failed", error="RecursionError"),
    Case(returns_cancel, "cancelled", {"a"}, "Cancel"),
]

# -- a connection that is lost -----------------------------------------------------------------------


def kill(s: Session, lab: Lab) -> None:
    pid = s.scalar(text("SELECT pg_backend_pid()"))
    lab.database.execute("SELECT pg_terminate_backend(:pid, 60000)", pid=pid)


def loses_it_and_goes_on(s: Session, lab: Lab) -> None:
    add(s, "a")
    kill(s, lab)
    add(s, "b")


def loses_it_at_the_end(s: Session, lab: Lab) -> None:
    add(s, "a")
    kill(s, lab)


def loses_it_and_raises(s: Session, lab: Lab) -> None:
    loses_it_at_the_end(s, lab)
    raise ValueError


def loses_it_unseen(s: Session, lab: Lab) -> None:
    with suppress(DBAPIError):
        loses_it_and_goes_on(s, lab)


def loses_it_and_starts_anew(s: Session, lab: Lab) -> None:
    """What a plain Session would allow: a rollback, and then another connection."""
    loses_it_unseen(s, lab)
    for step in (s.rollback, s.close, lambda: add(s, "c"), s.commit):
        with suppress(SQLAlchemyError):
            step()


LOST = [
    Case(loses_it_and_goes_on, "failed", error="OperationalError", escapes=True),
    Case(loses_it_at_the_end, "failed", error="OperationalError", escapes=True),
    Case(loses_it_and_raises, "failed", error="ValueError", escapes=True),
    Case(loses_it_unseen, "failed", error=ESCAPED, escapes=True),
    Case(loses_it_and_starts_anew, "failed", error=ESCAPED, escapes=True),
]

# -- its own row -------------------------------------------------------------------------------------


def deletes_its_row(s: Session) -> None:
    add(s, "a")
    s.execute(delete(Job))


def cancels_all_jobs(s: Session) -> None:
    add(s, "a")
    s.execute(update(Job).values(state="cancelled", finished_at=func.now()))


def raises_its_claim(s: Session) -> None:
    add(s, "a")
    s.execute(update(Job).values(claim=Job.claim + 1))


def changes_its_state_as_an_object(s: Session) -> None:
    add(s, "a")
    job = s.get_one(Job, current_job().id)
    job.state = "scheduled"


def changes_its_priority(s: Session) -> None:
    add(s, "a")
    s.get_one(Job, current_job().id).priority = 7


ROW = [
    Case(deletes_its_row, "failed", error=ESCAPED, escapes=True),
    Case(cancels_all_jobs, "failed", error=ESCAPED, escapes=True),
    Case(raises_its_claim, "failed", error=ESCAPED, escapes=True),
    Case(changes_its_state_as_an_object, "failed", error=ESCAPED, escapes=True),
    Case(changes_its_priority, "succeeded", {"a"}),
]

CASES = CAUGHT + RAISED + LOST + ROW


@each(CASES)
def test_run_by_a_worker(case: Case, lab_database: Database) -> None:
    case.check_by_worker(lab_database)


@each(CASES)
def test_run_in_the_callers_transaction(case: Case, lab_database: Database) -> None:
    case.check_by_work_once(lab_database)


def test_ctrl_c_is_the_callers_but_in_a_worker_it_is_the_jobs(lab_database: Database) -> None:
    interrupt = raises(KeyboardInterrupt())
    run = Lab(lab_database).by_worker(interrupt)
    assert (run.state, run.items, run.error) == ("failed", set(), "KeyboardInterrupt")
    run = Lab(lab_database).by_work_once(interrupt)
    assert isinstance(run.raised, KeyboardInterrupt)
    assert (run.state, run.attempt, run.items, run.kept) == ("queued", 0, set(), False)


def test_a_snooze_leaves_nothing_and_costs_no_attempt(lab_database: Database) -> None:
    for run in (Lab(lab_database).by_worker(snoozes), Lab(lab_database).by_work_once(snoozes)):
        assert (run.state, run.attempt, run.items, run.error) == ("scheduled", 0, set(), None)


def test_a_refusal_is_recorded_with_its_line_and_what_to_do_instead(lab_database: Database) -> None:
    def rolls_the_connection_back(s: Session) -> None:
        add(s, "a")
        s.connection().rollback()

    lab = Lab(lab_database)
    run = lab.by_worker(rolls_the_connection_back)
    assert run.error == ESCAPED
    assert "session.rollback() is contained and may be used" in (run.message or "")
    (trace,) = lab_database.rows("SELECT attempts->0->>'traceback' AS trace FROM sqla_jobs")
    assert "s.connection().rollback()" in trace.trace


def test_a_job_that_spoils_its_row_is_a_failed_attempt_not_a_lost_claim(database: Database) -> None:
    lane = Lane(database)
    job_id = lane.enqueue(lane.task(cancels_all_jobs))
    finished = lane.run()
    assert finished is not None
    assert isinstance(finished.error, JobEscaped)
    assert lane.row(job_id).state == "scheduled"


def test_a_task_that_is_unknown_is_a_failed_attempt_on_any_session(lab_database: Database) -> None:
    lab = Lab(lab_database)
    sessions = sessionmaker(lab_database.engine, autobegin=False)
    with sessions() as session, session.begin():
        gone = lab.jobs.enqueue(session, "gone").id
    lab.by_worker(raises(ValueError()), sessions)
    rows = lab_database.rows(
        "SELECT id, attempts->0->>'error' AS error FROM sqla_jobs WHERE id = :id", id=gone
    )
    assert [(row.id, row.error.rpartition(".")[2]) for row in rows] == [(gone, "UnknownTask")]


def test_an_escape_says_so_with_what_the_job_raised_as_its_cause(lab_database: Database) -> None:
    run = Lab(lab_database).by_work_once(loses_it_and_raises)
    assert isinstance(run.raised, JobEscaped)
    assert isinstance(run.raised.__cause__, ValueError)
