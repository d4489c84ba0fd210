"""All bodies of the tests of the scope once more: in a group of the fast lane, between two innocent jobs.

What becomes of the job is the same as in the ordinary lane, and where it is not the table says so, and why.
What becomes of its neighbours is always the same: each of them is done exactly once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event, insert, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs.errors import JobEscaped
from sqla_jobs.models import Job
from tests import test_scope_bodies, test_scope_errors, test_scope_savepoints, test_scope_sql
from tests.support.contain import Case, Lab, add, each
from tests.support.models import Item
from tests.support.server import Database

ESCAPED = "JobEscaped"

pytestmark = [
    # What SQLAlchemy itself has to say of such code.
    pytest.mark.filterwarnings("ignore:Connection is already established:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:Session's state has been changed on:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning"),
]

CASES = [
    *test_scope_bodies.CASES,
    *test_scope_savepoints.CONTAINED,
    *test_scope_savepoints.SAVEPOINT,
    *test_scope_savepoints.TRANSACTION,
    *test_scope_savepoints.OWN,
    *test_scope_sql.CASES,
    *test_scope_errors.CASES,
]


@each(CASES)
def test_run_in_a_group(case: Case, lab_database: Database) -> None:
    case.check_by_group(lab_database)
    test_scope_savepoints.HELD.clear()
    test_scope_sql.HELD.clear()


def spoils_the_finish(s: Session) -> None:
    add(s, "a")
    s.execute(text("SET LOCAL search_path = pg_catalog"))


OTHERS = [
    Case(test_scope_sql.leaves_a_query_running, "failed", error=ESCAPED),
    Case(spoils_the_finish, "failed", error="ProgrammingError"),
    Case(test_scope_errors.raises(KeyboardInterrupt()), "failed", error="KeyboardInterrupt"),
]


@pytest.mark.timeout(30)
@each(OTHERS)
def test_those_that_are_in_no_table(case: Case, lab_database: Database) -> None:
    case.check_by_group(lab_database)
    test_scope_sql.HELD.clear()


def test_a_snooze_leaves_nothing_and_costs_no_attempt(lab_database: Database) -> None:
    run = Lab(lab_database).by_group(test_scope_errors.snoozes)
    assert (run.state, run.attempt, run.items, run.error) == ("scheduled", 0, set(), None)
    assert set(run.neighbours.values()) == {("succeeded", 1, 0)}


# -- what is not the job's own ------------------------------------------------------------------------


def keeps_it_with_another_name(s: Session) -> None:
    """By the class, or by the root: where a Session of its own would be no different."""
    add(s, "a")
    root: Any = s.get_transaction()
    Session.connection(s).execute(insert(Item).values(name="b"))
    root.connection(None).execute(insert(Item).values(name="c"))


def writes_beside_the_savepoint(s: Session) -> None:
    """The first that any job of the group does with the Session."""
    root: Any = s.get_transaction()
    root.connection(None).execute(insert(Item).values(name="a"))


def writes_beside_the_savepoint_and_catches_that(s: Session) -> None:
    with suppress(JobEscaped):
        writes_beside_the_savepoint(s)
    raise ValueError


@each(
    [
        Case(keeps_it_with_another_name, "succeeded", {"a", "b", "c"}),
        Case(writes_beside_the_savepoint, "failed", error=ESCAPED),
        Case(writes_beside_the_savepoint_and_catches_that, "failed", error="ValueError"),
    ]
)
def test_the_transaction_of_the_claim_is_not_the_jobs(case: Case, lab_database: Database) -> None:
    lab = Lab(lab_database)
    lab.first = lambda _: None  # which has not opened the savepoint
    run = lab.by_group(case.body)
    assert (run.state, run.items, run.error) == (case.state, case.items, case.error)


# -- every kind of Session ----------------------------------------------------------------------------


class Own(Session):
    """A class of the application's own, which counts."""

    commits = 0

    def commit(self) -> None:
        type(self).commits += 1
        super().commit()


SESSIONS: dict[str, Callable[[Engine], Any]] = {
    "begun": lambda engine: sessionmaker(engine).begin,
    "not by itself": lambda engine: sessionmaker(engine, autobegin=False),
    "without autoflush": lambda engine: sessionmaker(engine, autoflush=False),
    "without expiry": lambda engine: sessionmaker(engine, expire_on_commit=False),
    "own class": lambda engine: sessionmaker(engine, class_=Own),
    "information": lambda engine: sessionmaker(engine, info={"tenant": 1}),
    "scoped": lambda engine: scoped_session(sessionmaker(engine)),
    "bound to tables": lambda engine: sessionmaker(binds={Job: engine, Item: engine}),
    "an engine's options": lambda engine: sessionmaker(engine.execution_options(logging_token="jobs")),
}


@pytest.mark.parametrize("source", SESSIONS.values(), ids=SESSIONS)
@each(
    [
        Case(test_scope_bodies.j_commit, "succeeded", {"a", "b"}),
        Case(test_scope_bodies.j_rollback, "succeeded", {"b"}),
        Case(test_scope_bodies.j_raise, "failed", error="ValueError"),
        Case(test_scope_bodies.j_close, "succeeded", {"b"}),
        Case(test_scope_savepoints.rolls_back_the_root, "failed", error=ESCAPED),
    ]
)
def test_every_kind_of_session(case: Case, source: Callable[[Engine], Any], lab_database: Database) -> None:
    case.check_by_group(lab_database, source(lab_database.engine))


@each(
    [
        Case(test_scope_bodies.j_commit, "succeeded", {"a", "b"}),
        Case(test_scope_bodies.j_raise, "failed", error="ValueError"),
    ]
)
def test_sessions_of_two_phases(case: Case, lab_database: Database) -> None:
    if lab_database.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server prepares no transactions: set max_prepared_transactions")
    case.check_by_group(lab_database, sessionmaker(lab_database.engine, twophase=True))


@pytest.mark.parametrize("way", ["by_worker", "by_work_once", "by_group"])
def test_a_listener_to_the_begin_may_send_statements(way: str, lab_database: Database) -> None:
    """As one that sets a role or a tenant does: it is called for the savepoint of the job, too."""
    source = sessionmaker(lab_database.engine)

    @event.listens_for(source, "after_begin")
    def set_tenant(_: Session, __: Any, connection: Connection) -> None:
        connection.execute(text("SET LOCAL shop.tenant = 7"))

    def reads(s: Session) -> None:
        assert s.scalar(text("SHOW shop.tenant")) == "7"
        s.commit()
        assert s.scalar(text("SHOW shop.tenant")) == "7"
        s.rollback()
        assert s.scalar(text("SHOW shop.tenant")) == "7"

    run = getattr(Lab(lab_database), way)(reads, source() if way == "by_work_once" else source)
    assert (run.state, run.error) == ("succeeded", None), run.message
