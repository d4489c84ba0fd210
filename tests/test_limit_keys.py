"""Limits as they are defined, and the key that each job's row has of its own."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Limit, lifecycle
from sqla_jobs.errors import EnqueueError, InvalidOption, TaskDefinitionError
from sqla_jobs.scheduler import Schedules
from tests.support.models import Item
from tests.support.verbs import NOW, add, employ, row


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def send(session: Session, customer: int, region: str = "eu", /, *, note: str = "") -> None:
    """What is limited."""


def keys(session: Session) -> list[str | None]:
    return list(session.scalars(text("SELECT limit_key FROM sqla_jobs ORDER BY id")))


# -- definition ------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, -1, True, 1.0, "2", None, 2**31])
def test_a_number_is_a_whole_one_from_one(number: Any) -> None:
    with pytest.raises(InvalidOption, match="expected a whole number from 1"):
        Limit(number)


@pytest.mark.parametrize("key", [7, None, [7], "", ["a", ""], {"a"}, b"a"], ids=repr)
def test_a_key_is_a_name_or_several(key: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected the name of an argument, 'customer_id', or several"):
        Limit(2, key=key)


def test_it_is_a_value() -> None:
    assert Limit(2, key="a") == Limit(2, key=["a", "a"]) != Limit(2, key=("a", "b"))
    assert len({Limit(2), Limit(2), Limit(3)}) == 2


def test_what_is_no_limit_is_refused(jobs: Jobs[Job]) -> None:
    wrong: Any = 2
    with pytest.raises(InvalidOption, match=r"limit 2 of task 't'; expected a Limit: limit=Limit\(2\)"):
        jobs.task(name="t", limit=wrong)(send)
    assert "t" not in jobs.tasks


@pytest.mark.parametrize("key", ["customer_id", "session", ("customer", "nothing")])
def test_a_key_that_is_no_argument_is_refused(jobs: Jobs[Job], key: Any) -> None:
    with pytest.raises(TaskDefinitionError, match=r"none of its named arguments; .* customer, region, note"):
        jobs.task(name="t", limit=Limit(2, key=key))(send)
    assert "t" not in jobs.tasks


@pytest.mark.parametrize("key", ["more", "customer"])
def test_what_only_free_arguments_would_take_is_no_key(jobs: Jobs[Job], key: str) -> None:
    """Of the jobs that were not given it all would be counted together."""

    def free(session: Session, order: int, **more: int) -> None: ...

    with pytest.raises(TaskDefinitionError, match="expected some of order"):
        jobs.task(name="t", limit=Limit(2, key=key))(free)
    jobs.task(name="t", limit=Limit(2, key="order"))(free)


def test_in_the_fast_lane_there_is_none(jobs: Jobs[Job]) -> None:
    with pytest.raises(InvalidOption, match=r"group_commit=5 and a limit; expected one of them"):
        jobs.task(name="t", group_commit=5, limit=Limit(2))(send)
    assert "t" not in jobs.tasks
    assert not jobs.fast


def test_a_task_that_is_forgotten_has_none(jobs: Jobs[Job]) -> None:
    task = jobs.task(name="t", limit=Limit(2))(send)
    assert task.limit == task.using(priority=1).limit == Limit(2)
    jobs.unregister(task)
    assert not jobs.limited


# -- what the row says -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "wanted"),
    [
        ((), '["t",{}]'),
        ("customer", '["t",{"customer":7}]'),
        (("region", "customer"), '["t",{"customer":7,"region":"eu"}]'),
    ],
    ids=["task", "one", "two"],
)
def test_each_way_to_enqueue_writes_the_same_key(
    jobs: Jobs[Job], session: Session, key: Any, wanted: str
) -> None:
    """Defaults included, however the call was spelled."""
    task = jobs.task(name="t", limit=Limit(2, key=key))(send)
    assert task.enqueue(session, 7).limit_key == wanted
    task.using(priority=3).enqueue(session, 7, "eu", note="n")
    session.add(task.job(7))
    session.flush()
    jobs.enqueue_many(session, [task.job(7), task.job(7, "eu")])
    jobs.enqueue(session, "t", customer=7)
    lifecycle.enqueue(session, task.job(7))
    assert keys(session) == [wanted] * 7


def test_no_two_values_have_the_same_key(jobs: Jobs[Job]) -> None:
    task = jobs.task(name="t", limit=Limit(2, key=("a", "b")))(lambda session, a, b: None)
    calls: list[tuple[Any, Any]] = [
        (1, 2), ("1", 2), (1, None), (1, "null"), ("a,b", ""), ("a", "b,"), ([1], 2), (1, [2]), (True, 2),
        ("x" * 1000, 1), ("x" * 1000, 2),
    ]  # fmt: skip
    found = [task.job(*call).limit_key for call in calls]
    assert len(set(found)) == len(calls)
    assert all(key is not None and len(key) < 600 for key in found)
    other = jobs.task(name="other", limit=Limit(2, key=("a", "b")))(lambda session, a, b: None)
    assert other.job(1, 2).limit_key != found[0]


def test_of_a_task_without_one_there_is_no_key(jobs: Jobs[Job], session: Session) -> None:
    assert jobs.task(name="t")(send).enqueue(session, 7).limit_key is None
    assert jobs.enqueue(session, "not.known.here", customer=7).limit_key is None


def test_it_may_be_unique_as_well(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="t", unique=("customer",), limit=Limit(2, key="region"))(send)
    job = task.enqueue(session, 7)
    assert (job.unique_key, job.limit_key) == ('["t",{"customer":7}]', '["t",{"region":"eu"}]')
    assert task.enqueue(session, 7, "us").duplicate
    keyed = task.using(unique_key="k").enqueue(session, 7, "us")
    assert (keyed.unique_key, keyed.limit_key) == ('["t","k"]', '["t",{"region":"us"}]')


def test_a_mapped_object_counts_by_its_identity(jobs: Jobs[Job], session: Session) -> None:
    def bill(session: Session, customer: Item) -> None: ...

    task = jobs.task(name="t", limit=Limit(1, key="customer"))(bill)
    one, two = Item(name="a"), Item(name="b")
    session.add_all([one, two])
    with pytest.raises(EnqueueError, match=r"t: its limit is counted by .* which has no primary key yet"):
        task.enqueue(session, one)
    session.flush()
    jobs.enqueue_many(session, [task.job(one), task.job(two), task.job(one)])
    first, second, third = keys(session)
    assert first == third != second


def test_a_schedule_writes_it_too(jobs: Jobs[Job], session: Session) -> None:
    task = jobs.task(name="t", limit=Limit(2, key="customer"))(send)
    jobs.every(dt.timedelta(minutes=1), kwargs={"customer": 7})(task)
    jobs.every(dt.timedelta(minutes=1), name="free")(jobs.task(name="free")(lambda session: None))
    jobs.sync_schedules(session, now=NOW)
    assert Schedules(jobs).tick(session, now=NOW + dt.timedelta(minutes=2)) == 2
    assert set(keys(session)) == {None, '["t",{"customer":7}]'}


# -- who enqueued it did not know of it -----------------------------------------------------------


def count(session: Session, jobs: Jobs[Job], worker: int = 77, **given: Any) -> lifecycle.Counted:
    employ(session, worker)
    return lifecycle.claim_counted(session, Job, worker, None, jobs.limited, now=NOW, **given)


def test_the_claim_writes_the_key_of_a_row_that_has_none(jobs: Jobs[Job], session: Session) -> None:
    """And those of the jobs behind it, so that they can be passed over."""
    task = jobs.task(name="t", limit=Limit(1, key="customer"))(send)
    plain = [add(session, "t", arguments={"customer": 7}) for _ in range(3)]
    other = add(session, "other", arguments={"customer": 7})
    keyed = task.using(run_at=NOW).enqueue(session, 7)
    found = count(session, jobs)
    assert [job.id for job in found.jobs] == [plain[0].id]
    assert found.keys == {plain[0].id: keyed.limit_key}
    assert [row(session, job).limit_key for job in plain] == [keyed.limit_key] * 3
    assert row(session, other).limit_key is None
    found = count(session, jobs)
    assert (found.jobs, found.full) == ([], {keyed.limit_key})
    assert [job.id for job in count(session, jobs, full=found.full).jobs] == [other.id]


@pytest.mark.parametrize(
    "arguments",
    ["{}", '{"customer": null}', '{"else": 1}', '{"customer": [[1, {"a": 1e400}]]}',
     f'{{"customer": {"9" * 5000}}}', f'{{"customer": {"[" * 3000}{"]" * 3000}}}'],
    ids=["none", "null", "unknown", "huge", "long", "deep"],
)  # fmt: skip
def test_whatever_the_row_says_there_is_a_key(jobs: Jobs[Job], session: Session, arguments: str) -> None:
    """Or it would be the first one for every claim from then on, and stop them all."""
    jobs.task(name="t", limit=Limit(1, key="customer"))(send)
    insert = text(
        "INSERT INTO sqla_jobs (task, arguments, state, run_at) VALUES ('t', CAST(:a AS jsonb), 'queued', :t)"
    )
    session.execute(insert, {"a": arguments, "t": NOW})
    found = count(session, jobs)
    assert len(found.jobs) == 1
    assert keys(session)[0] is not None
