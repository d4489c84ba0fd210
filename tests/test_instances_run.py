"""A job's mapped objects are loaded by its own Session, within its savepoint; what is gone is said to be."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.orm import Session, object_session, sessionmaker

from sqla_jobs import Cancel, Jobs, JobState, RetryPolicy, current_job
from sqla_jobs.errors import InvalidOption, RecordNotFound
from tests.support.fast import Fast
from tests.support.lane import AT_ONCE, NEVER, Lane
from tests.support.models import Item
from tests.support.server import Database


def rename(session: Session, item: Item, name: str) -> None:
    assert object_session(item) is session
    assert current_job().arguments == {"item": item.id, "name": name}
    item.name = name


def item_of(database: Database, name: str = "old") -> Item:
    """A detached one, committed."""
    with sessionmaker(database.engine, expire_on_commit=False).begin() as session:
        item = Item(name=name)
        session.add(item)
    return item


def names(database: Database) -> list[str]:
    return [row.name for row in database.rows("SELECT name FROM items ORDER BY id")]


def test_a_worker_loads_and_commits_the_object(database: Database) -> None:
    lane = Lane(database)
    job = lane.enqueue(lane.task(rename), item_of(database), "new")
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SUCCEEDED
    assert names(database) == ["new"]
    assert lane.row(job).arguments == {"item": 1, "name": "new"}


def test_what_a_failed_job_did_to_the_object_is_rolled_back(database: Database) -> None:
    def spoil(session: Session, item: Item) -> None:
        item.name = "spoilt"
        session.flush()
        raise ValueError

    lane = Lane(database)
    lane.enqueue(lane.task(spoil, retry=NEVER), item_of(database))
    lane.run()
    assert names(database) == ["old"]


def test_the_load_is_a_use_of_the_session(database: Database) -> None:
    """It is in the job's own transaction: what it reads, the fence of the finish covers."""

    def look(session: Session, item: Item) -> None:
        assert session.in_transaction()
        assert session.connection().get_nested_transaction() is not None

    lane = Lane(database)
    lane.enqueue(lane.task(look), item_of(database))
    finished = lane.run()
    assert finished is not None
    assert finished.error is None


def test_the_fast_lane_loads_it_for_each_job(database: Database) -> None:
    fast = Fast(database)
    task = fast.task(rename)
    item = item_of(database)
    ids = fast.enqueue(task.job(item, "b"), task.job(item, "c"))
    assert [each.error for each in fast.drain()] == [None, None]
    assert fast.groups() == [ids]
    assert names(database) == ["c"]


def test_work_once_loads_it_in_the_callers_session(session: Session) -> None:
    jobs = Jobs()
    task = jobs.task(name="rename")(rename)
    item = Item(name="old")
    session.add(item)
    task.enqueue(session, item, "new")
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.error is None
    assert item.name == "new"


# -- gone --------------------------------------------------------------------------------------------


def gone(database: Database, lane: Lane, **options: Any) -> int:
    item = item_of(database)
    job = lane.enqueue(lane.task(rename, **options), item, "new")
    database.execute("DELETE FROM items")
    return job


def test_a_job_whose_object_is_gone_is_cancelled(database: Database) -> None:
    lane = Lane(database)
    job = gone(database, lane)
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.CANCELLED
    assert isinstance(finished.error, Cancel)
    assert isinstance(finished.error.__cause__, RecordNotFound)
    assert lane.row(job).state == "cancelled"
    told = "rename: item is Item 1, which is not there: it was deleted since, or not committed"
    assert lane.errors(job) == [("sqla_jobs.errors.Cancel", told)]
    assert lane.row(job).arguments == {"item": 1, "name": "new"}


def test_or_it_has_failed_and_the_policy_decides(database: Database) -> None:
    lane = Lane(database)
    job = gone(database, lane, on_missing="fail", retry=AT_ONCE)
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.SCHEDULED
    error = finished.error
    assert isinstance(error, RecordNotFound)
    assert isinstance(error, LookupError)
    assert (error.task, error.argument, error.model, error.key) == ("rename", "item", "Item", "1")
    assert [kind for kind, _ in lane.errors(job)] == ["sqla_jobs.errors.RecordNotFound"]


def test_the_policy_may_give_up_on_it(database: Database) -> None:
    lane = Lane(database)
    policy = RetryPolicy(give_up_on=(RecordNotFound,))
    job = gone(database, lane, on_missing="fail", retry=policy)
    lane.run()
    assert lane.row(job).state == "failed"


@pytest.mark.parametrize(("on_missing", "state"), [("cancel", "cancelled"), ("fail", "failed")])
def test_gone_in_the_fast_lane(database: Database, on_missing: str, state: str) -> None:
    fast = Fast(database)
    task = fast.task(rename, on_missing=on_missing)
    item = item_of(database)
    ids = fast.enqueue(task.job(item, "b"), fast.note.job("beside"))
    database.execute("DELETE FROM items")
    fast.drain()
    assert fast.groups() == [ids]
    assert fast.states() == [state, "succeeded"]


def test_gone_in_work_once_and_which_one_of_a_list(session: Session) -> None:
    jobs = Jobs()

    @jobs.task(name="all")
    def all_of(session: Session, items: list[Item]) -> None: ...

    items = [Item(name="a"), Item(name="b")]
    session.add_all(items)
    all_of.using(queue="other").enqueue(session, items)
    session.delete(items[1])
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.state is JobState.CANCELLED
    assert f"items[1] is Item {items[1].id}, which is not there" in str(finished.error)


def test_using_keeps_what_becomes_of_it(session: Session) -> None:
    task = Jobs().task(name="rename", on_missing="fail")(rename)
    assert task.using(queue="slow").on_missing == "fail"
    with pytest.raises(InvalidOption, match="on_missing 'ignore'; expected 'cancel' or 'fail'"):
        Jobs().task(name="rename", on_missing="ignore")(rename)  # type: ignore[call-overload]


def test_an_error_of_the_database_is_no_object_that_is_gone(database: Database) -> None:
    def look(session: Session, item: Item) -> None: ...

    lane = Lane(database)
    job = lane.enqueue(lane.task(look, retry=NEVER), item_of(database))
    database.execute("ALTER TABLE items RENAME TO elsewhere")
    finished = lane.run()
    assert finished is not None
    assert finished.state is JobState.FAILED
    assert lane.errors(job)[0][0] == "sqlalchemy.exc.ProgrammingError"
