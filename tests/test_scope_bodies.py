"""What jobs do with their Session, and what becomes of it: 22 bodies, each run both ways.

`succeeded` means that all of its writes are committed, every other state that none is. The two that no
library can prevent are at the end of the table: a commit by the raw driver, and a Session of the job's own.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from tests.support.contain import Case, Lab, each
from tests.support.models import Item
from tests.support.server import Database


def j_plain(s: Session) -> None:
    s.add(Item(name="a"))


def j_commit(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.commit()
    lab.look()
    s.add(Item(name="b"))


def j_commit_raise(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.commit()
    lab.look()
    raise ValueError("boom")


def j_rollback(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    s.rollback()
    lab.look()
    s.add(Item(name="b"))


def j_close(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    s.close()
    lab.look()
    s.add(Item(name="b"))


def j_swallow(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    try:
        s.add(Item(name="dup"))
        s.flush()
    except IntegrityError:
        pass
    lab.look()


def j_swallow_more(s: Session) -> None:
    try:
        s.add(Item(name="dup"))
        s.flush()
    except IntegrityError:
        pass
    s.add(Item(name="b"))
    s.flush()


def j_swallow_rollback(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    try:
        s.add(Item(name="dup"))
        s.flush()
    except IntegrityError:
        s.rollback()
    lab.look()
    s.add(Item(name="b"))


def j_core_err(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    with suppress(DBAPIError):
        s.execute(text("SELECT 1/0"))
    lab.look()


def j_nested_ok(s: Session, lab: Lab) -> None:
    with s.begin_nested():
        s.add(Item(name="a"))
    try:
        with s.begin_nested():
            s.add(Item(name="dup"))
            s.flush()
    except IntegrityError:
        pass
    lab.look()
    s.add(Item(name="b"))


def j_nested_left_open(s: Session) -> None:
    s.begin_nested()
    s.add(Item(name="a"))


def j_nested_failed_left(s: Session) -> None:
    s.begin_nested()
    try:
        s.add(Item(name="dup"))
        s.flush()
    except IntegrityError:
        pass


def j_raise(s: Session) -> None:
    s.add(Item(name="a"))
    s.flush()
    raise ValueError("boom")


def j_with_begin(s: Session, lab: Lab) -> None:
    with s.begin():
        s.add(Item(name="a"))
    lab.look()


def j_conn_commit(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    s.connection().commit()
    lab.look()


def j_conn_rollback(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    s.connection().rollback()
    lab.look()


def j_sql_commit(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    s.execute(text("COMMIT"))
    lab.look()


def j_raw_commit(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    driver: Any = s.connection().connection.dbapi_connection
    driver.commit()
    lab.look()


def j_autocommit(s: Session, lab: Lab) -> None:
    s.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
    lab.look()


def j_invalidate(s: Session, lab: Lab) -> None:
    s.add(Item(name="a"))
    s.flush()
    s.invalidate()
    lab.look()


def j_expired(s: Session, lab: Lab) -> None:
    item = Item(name="a")
    s.add(item)
    s.commit()
    lab.look()
    assert item.name == "a"
    assert item.id


def j_other_tx(s: Session, lab: Lab) -> None:
    with Session(lab.database.engine) as other, other.begin():
        other.add(Item(name="independent"))
    raise ValueError("boom")


SWALLOWED = "PendingRollbackError"
CASES = [
    Case(j_plain, "succeeded", {"a"}),
    Case(j_commit, "succeeded", {"a", "b"}, during=set()),
    Case(j_commit_raise, "failed", error="ValueError", during=set()),
    Case(j_rollback, "succeeded", {"b"}, during=set()),
    Case(j_close, "succeeded", {"b"}, during=set()),
    Case(j_swallow, "failed", error=SWALLOWED, during=set()),
    Case(j_swallow_more, "failed", error=SWALLOWED),
    Case(j_swallow_rollback, "succeeded", {"b"}, during=set()),
    Case(j_core_err, "failed", error=SWALLOWED, during=set()),
    Case(j_nested_ok, "succeeded", {"a", "b"}, during=set()),
    Case(j_nested_left_open, "succeeded", {"a"}),
    Case(j_nested_failed_left, "failed", error=SWALLOWED),
    Case(j_raise, "failed", error="ValueError"),
    Case(j_with_begin, "succeeded", {"a"}, during=set()),
    Case(j_conn_commit, "failed", error="JobEscaped", escapes=True),
    Case(j_conn_rollback, "failed", error="JobEscaped", escapes=True),
    Case(j_sql_commit, "failed", error="JobEscaped"),
    # At its first use a worker's connection could still change; a caller's cannot any more.
    Case(j_autocommit, "failed", error="JobEscaped", once=("succeeded", set(), None)),
    Case(j_invalidate, "succeeded", during=set()),
    Case(j_expired, "succeeded", {"a"}, during=set()),
    Case(
        j_raw_commit,
        "failed",
        {"a"},
        "JobEscaped",
        escapes=True,
        during={"a"},
        group=("failed", {"a"}, "IntegrityError"),  # in its second run
        commits_others=True,
    ),
    Case(j_other_tx, "failed", {"independent"}, "ValueError"),
]

# What SQLAlchemy itself has to say of such code.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Connection is already established:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:Session's state has been changed on:sqlalchemy.exc.SAWarning"),
]


@each(CASES)
def test_run_by_a_worker(case: Case, lab_database: Database) -> None:
    case.check_by_worker(lab_database)


@each(CASES)
def test_run_in_the_callers_transaction(case: Case, lab_database: Database) -> None:
    case.check_by_work_once(lab_database)


def test_there_are_22_bodies() -> None:
    bodies = {name for name, value in globals().items() if name.startswith("j_") and callable(value)}
    assert bodies == {case.body.__name__ for case in CASES}
    assert len(bodies) == 22
