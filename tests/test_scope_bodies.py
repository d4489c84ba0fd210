"""What jobs do with their Session, and what becomes of it: 22 bodies, each run both ways.

`succeeded` means that all of its writes are committed, every other state that none is. The two that no
library can prevent are at the end of the table: a commit by the raw driver, and a Session of the job's own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.orm import Session

from sqla_jobs.errors import JobEscaped
from tests.support.contain import CALLERS, Lab, Seen
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
    try:
        s.execute(text("SELECT 1/0"))
    except DBAPIError:
        pass
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
    driver: Any = s.connection().connection.driver_connection
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


@dataclass(frozen=True)
class Case:
    body: Callable[..., None]
    state: str
    items: set[str]
    error: str | None = None
    escapes: bool = False
    """It ends the caller's transaction: `work_once` cannot record anything, and raises JobEscaped."""
    during: set[str] | None = None
    """What others see while it runs; None: it does not look."""
    once: tuple[str, set[str], str | None] | None = None
    """What `work_once` makes of it, where that is not the same."""


SWALLOWED = "PendingRollbackError"
CASES = [
    Case(j_plain, "succeeded", {"a"}),
    Case(j_commit, "succeeded", {"a", "b"}, during=set()),
    Case(j_commit_raise, "failed", set(), "ValueError", during=set()),
    Case(j_rollback, "succeeded", {"b"}, during=set()),
    Case(j_close, "succeeded", {"b"}, during=set()),
    Case(j_swallow, "failed", set(), SWALLOWED, during=set()),
    Case(j_swallow_more, "failed", set(), SWALLOWED),
    Case(j_swallow_rollback, "succeeded", {"b"}, during=set()),
    Case(j_core_err, "failed", set(), SWALLOWED, during=set()),
    Case(j_nested_ok, "succeeded", {"a", "b"}, during=set()),
    Case(j_nested_left_open, "succeeded", {"a"}),
    Case(j_nested_failed_left, "failed", set(), SWALLOWED),
    Case(j_raise, "failed", set(), "ValueError"),
    Case(j_with_begin, "succeeded", {"a"}, during=set()),
    Case(j_conn_commit, "failed", set(), "JobEscaped", escapes=True),
    Case(j_conn_rollback, "failed", set(), "JobEscaped", escapes=True),
    Case(j_sql_commit, "failed", set(), "JobEscaped"),
    # At its first use a worker's connection could still change; a caller's cannot any more.
    Case(j_autocommit, "failed", set(), "JobEscaped", once=("succeeded", set(), None)),
    Case(j_invalidate, "succeeded", set(), during=set()),
    Case(j_expired, "succeeded", {"a"}, during=set()),
    Case(j_raw_commit, "failed", {"a"}, "JobEscaped", escapes=True, during={"a"}),
    Case(j_other_tx, "failed", {"independent"}, "ValueError"),
]

each_body = pytest.mark.parametrize("case", CASES, ids=lambda case: case.body.__name__)
# What SQLAlchemy itself has to say of such code.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Connection is already established:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:Session's state has been changed on:sqlalchemy.exc.SAWarning"),
]


@each_body
def test_run_by_a_worker(case: Case, database: Database) -> None:
    run = Lab(database).by_worker(case.body)

    assert (run.state, run.items, run.error) == (case.state, case.items, case.error)
    assert run.attempt == 1
    # In the ordinary lane the claim is committed: everyone sees the job run, nobody has to wait for it.
    if case.during is not None:
        assert run.seen == [Seen(frozenset(case.during), "running", locked=False)]


@each_body
def test_run_in_the_callers_transaction(case: Case, database: Database) -> None:
    run = Lab(database).by_work_once(case.body)

    if case.escapes:
        assert isinstance(run.raised, JobEscaped)
        # Nothing is recorded, the attempt is not counted; the caller's transaction is rolled back.
        assert (run.state, run.attempt, run.error) == ("queued", 0, None)
        assert run.items == case.items
        assert run.kept == bool(case.items)
    else:
        assert run.raised is None
        assert (run.state, run.items, run.error) == (case.once or (case.state, case.items, case.error))
        assert run.attempt == 1
        assert run.kept, "a failed job took the caller's own writes along"
    # The job is locked from its claim to the caller's commit, and never seen as running.
    if case.during is not None:
        committed = case.during | (CALLERS if case.during else set())
        assert run.seen == [Seen(frozenset(committed), "queued", locked=not case.during)]


def test_there_are_22_bodies() -> None:
    bodies = {name for name, value in globals().items() if name.startswith("j_") and callable(value)}
    assert bodies == {case.body.__name__ for case in CASES}
    assert len(bodies) == 22
