"""Jobs that take the Session, its transactions and its Connection apart.

What ends no more than the job's own work does what it says. What would end more is refused at its line:
the job fails, and whatever it does after that, nothing of it is committed.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.orm import Session

from sqla_jobs.errors import JobEscaped
from tests.support.contain import Case, add, each
from tests.support.models import Item
from tests.support.server import Database

INSERT = insert(Item)
ESCAPED = "JobEscaped"
HELD: list[Any] = []  # what jobs keep beyond their end

# -- commit, rollback and close, as often as it likes ------------------------------------------------


def commits(s: Session) -> None:
    for name in "abc":
        add(s, name)
        s.commit()


def commits_then_raises(s: Session) -> None:
    commits(s)
    raise ValueError


def rolls_back_after_a_commit(s: Session) -> None:
    add(s, "a")
    s.commit()
    add(s, "b")
    s.rollback()
    add(s, "c")


def rolls_back_again_and_again(s: Session) -> None:
    for name in "abc":
        add(s, name)
        s.rollback()
    add(s, "d")


def closes_and_goes_on(s: Session) -> None:
    add(s, "a")
    s.close()
    add(s, "b")
    s.reset()
    add(s, "c")


def with_session(s: Session) -> None:
    with s:
        add(s, "a")
        s.commit()
        add(s, "b")
    add(s, "c")


def with_begin_that_fails(s: Session) -> None:
    with suppress(KeyError), s.begin():
        add(s, "a")
        raise KeyError
    add(s, "b")


def begins_twice(s: Session) -> None:
    s.begin()
    add(s, "a")
    s.begin()
    add(s, "b")


def begins_twice_and_rolls_back(s: Session) -> None:
    begins_twice(s)
    s.rollback()
    add(s, "c")


def prepares(s: Session) -> None:
    add(s, "a")
    s.prepare()


CONTAINED = [
    Case(commits, "succeeded", {"a", "b", "c"}),
    Case(commits_then_raises, "failed", error="ValueError"),
    Case(rolls_back_after_a_commit, "succeeded", {"a", "c"}),
    Case(rolls_back_again_and_again, "succeeded", {"d"}),
    Case(closes_and_goes_on, "succeeded", {"c"}),
    Case(with_session, "succeeded", {"a", "c"}),
    Case(with_begin_that_fails, "succeeded", {"b"}),
    Case(begins_twice, "succeeded", {"a", "b"}),
    Case(begins_twice_and_rolls_back, "succeeded", {"c"}),
    Case(prepares, "failed", error=ESCAPED),
]

# -- the savepoint that the job runs in --------------------------------------------------------------


def nested(s: Session) -> Any:
    return s.get_nested_transaction()


def commits_our_savepoint(s: Session) -> None:
    add(s, "a")
    nested(s).commit()


def commits_our_savepoint_and_goes_on(s: Session) -> None:
    add(s, "a")
    with suppress(JobEscaped):
        nested(s).commit()
    with suppress(SQLAlchemyError):
        add(s, "b")
    raise ValueError


def commits_the_mark_of_its_last_commit(s: Session) -> None:
    add(s, "a")
    s.commit()
    add(s, "b")
    nested(s).commit()


def closes_our_savepoint(s: Session) -> None:
    add(s, "a")
    nested(s).close()


def rolls_back_our_savepoint(s: Session) -> None:
    add(s, "a")
    nested(s).rollback()


def rolls_back_our_savepoint_and_goes_on(s: Session) -> None:
    add(s, "a")
    nested(s).rollback()
    add(s, "b")


def rolls_back_our_savepoint_and_uses_a_kept_connection(s: Session) -> None:
    connection = s.connection()
    nested(s).rollback()
    with suppress(JobEscaped):
        connection.execute(INSERT, {"name": "b"})
    raise ValueError


def rolls_back_our_savepoint_before_its_first_use(s: Session) -> None:
    nested(s).rollback()
    add(s, "a")


def releases_on_the_connection(s: Any) -> None:
    add(s, "a")
    s.connection().get_nested_transaction().commit()


def rolls_back_on_the_connection(s: Any) -> None:
    add(s, "a")
    s.connection().get_nested_transaction().rollback()
    add(s, "b")


SAVEPOINT = [
    Case(commits_our_savepoint, "failed", error=ESCAPED),
    Case(commits_our_savepoint_and_goes_on, "failed", error="ValueError"),
    Case(commits_the_mark_of_its_last_commit, "failed", error=ESCAPED),
    Case(closes_our_savepoint, "failed", error=ESCAPED),
    Case(rolls_back_our_savepoint, "failed", error=ESCAPED),
    Case(rolls_back_our_savepoint_and_goes_on, "failed", error=ESCAPED),
    Case(rolls_back_our_savepoint_and_uses_a_kept_connection, "failed", error="ValueError"),
    Case(rolls_back_our_savepoint_before_its_first_use, "failed", error=ESCAPED),
    Case(releases_on_the_connection, "failed", error=ESCAPED),
    Case(rolls_back_on_the_connection, "failed", error=ESCAPED),
]

# -- the transaction around it -----------------------------------------------------------------------


def root(s: Session) -> Any:
    return s.get_transaction()


def commits_the_root(s: Session) -> None:
    add(s, "a")
    root(s).commit()


def commits_the_root_and_goes_on(s: Session) -> None:
    add(s, "a")
    with suppress(JobEscaped):
        root(s).commit()
    with suppress(SQLAlchemyError):
        add(s, "b")


def commits_by_the_class(s: Session) -> None:
    add(s, "a")
    Session.commit(s)


def deletes_our_commit(s: Session) -> None:
    add(s, "a")
    del s.commit
    s.commit()


def rolls_back_the_root(s: Session) -> None:
    add(s, "a")
    root(s).rollback()


def rolls_back_the_root_and_goes_on(s: Session) -> None:
    add(s, "a")
    with suppress(JobEscaped):
        root(s).rollback()
    add(s, "b")


def rolls_back_by_the_class(s: Session) -> None:
    add(s, "a")
    Session.rollback(s)


def closes_the_root(s: Session) -> None:
    add(s, "a")
    root(s).close()


def closes_the_connection(s: Session) -> None:
    add(s, "a")
    s.connection().close()


def closes_the_connection_unseen(s: Session) -> None:
    add(s, "a")
    with suppress(JobEscaped):
        s.connection().close()


def invalidates_the_connection(s: Session) -> None:
    add(s, "a")
    s.connection().invalidate()


def detaches_the_connection(s: Session) -> None:
    add(s, "a")
    s.connection().detach()
    add(s, "b")


def ends_the_root_before_its_first_use(s: Session) -> None:
    with suppress(JobEscaped):
        root(s).rollback()


def asks_the_root_for_a_connection(s: Session) -> None:
    with suppress(JobEscaped):
        root(s).connection(None).execute(INSERT, {"name": "a"})
    s.rollback()


TRANSACTION = [
    Case(commits_the_root, "failed", error=ESCAPED),
    Case(commits_the_root_and_goes_on, "failed", error="PendingRollbackError"),
    Case(commits_by_the_class, "failed", error=ESCAPED),
    Case(deletes_our_commit, "failed", error=ESCAPED),
    Case(rolls_back_the_root, "failed", error=ESCAPED, escapes=True),
    Case(rolls_back_the_root_and_goes_on, "failed", error=ESCAPED, escapes=True),
    Case(rolls_back_by_the_class, "failed", error=ESCAPED, escapes=True),
    Case(closes_the_root, "failed", error=ESCAPED, escapes=True),
    Case(closes_the_connection, "failed", error=ESCAPED, escapes=True),
    Case(closes_the_connection_unseen, "failed", error=ESCAPED, escapes=True),
    Case(invalidates_the_connection, "failed", error=ESCAPED, escapes=True),
    Case(detaches_the_connection, "succeeded", {"a", "b"}),
    Case(ends_the_root_before_its_first_use, "failed", error=ESCAPED, escapes=True),
    Case(asks_the_root_for_a_connection, "succeeded"),
]

# -- savepoints of the job's own, and Connections that it keeps ---------------------------------------


def ends_its_savepoints_out_of_order(s: Session) -> None:
    outer = s.begin_nested()
    add(s, "a")
    s.begin_nested()
    add(s, "b")
    outer.commit()


def rolls_its_savepoints_back_out_of_order(s: Session) -> None:
    outer = s.begin_nested()
    add(s, "a")
    s.begin_nested()
    add(s, "b")
    outer.rollback()
    add(s, "c")


def begins_on_the_connection(s: Session) -> None:
    add(s, "a")
    savepoint = s.connection().begin_nested()
    add(s, "b")
    savepoint.rollback()
    s.connection().begin_nested()
    add(s, "c")


def begins_on_the_connection_and_raises(s: Session) -> None:
    begins_on_the_connection(s)
    raise ValueError


def uses_a_kept_connection_after_a_commit(s: Session) -> None:
    connection = s.connection()
    connection.execute(INSERT, {"name": "a"})
    s.commit()
    connection.execute(INSERT, {"name": "b"})
    raise ValueError


def uses_a_kept_connection_after_a_rollback(s: Session) -> None:
    connection = s.connection()
    connection.execute(INSERT, {"name": "a"})
    s.rollback()
    connection.execute(INSERT, {"name": "b"})
    raise ValueError


def uses_a_kept_connection_after_a_failed_flush(s: Session) -> None:
    connection = s.connection()
    with suppress(IntegrityError):
        add(s, "dup")
    connection.execute(INSERT, {"name": "a"})


def uses_a_kept_connection_between_flush_and_rollback(s: Session) -> None:
    connection = s.connection()
    with suppress(IntegrityError):
        add(s, "dup")
    connection.execute(INSERT, {"name": "a"})
    s.rollback()
    add(s, "b")


def leaves_a_savepoint_open_in_a_generator(s: Session) -> None:
    def steps() -> Any:
        with s.begin_nested():
            add(s, "a")
            yield

    HELD.append(steps())
    next(HELD[-1])


OWN = [
    Case(ends_its_savepoints_out_of_order, "succeeded", {"a", "b"}),
    Case(rolls_its_savepoints_back_out_of_order, "succeeded", {"c"}),
    Case(begins_on_the_connection, "succeeded", {"a", "c"}),
    Case(begins_on_the_connection_and_raises, "failed", error="ValueError"),
    Case(uses_a_kept_connection_after_a_commit, "failed", error="ValueError"),
    Case(uses_a_kept_connection_after_a_rollback, "failed", error="ValueError"),
    Case(uses_a_kept_connection_after_a_failed_flush, "failed", error="PendingRollbackError"),
    Case(uses_a_kept_connection_between_flush_and_rollback, "succeeded", {"b"}),
    Case(leaves_a_savepoint_open_in_a_generator, "succeeded", {"a"}),
]

pytestmark = [
    # What SQLAlchemy itself has to say of such code.
    pytest.mark.filterwarnings("ignore:nested transaction already deassociated:sqlalchemy.exc.SAWarning"),
    pytest.mark.filterwarnings("ignore:Session's state has been changed on:sqlalchemy.exc.SAWarning"),
]


@each(CONTAINED + SAVEPOINT + TRANSACTION + OWN)
def test_run_by_a_worker(case: Case, lab_database: Database) -> None:
    case.check_by_worker(lab_database)
    HELD.clear()


@each(CONTAINED + SAVEPOINT + TRANSACTION + OWN)
def test_run_in_the_callers_transaction(case: Case, lab_database: Database) -> None:
    case.check_by_work_once(lab_database)
    HELD.clear()
