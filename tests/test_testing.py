"""The helpers for an application's tests: jobs run, and are looked at, in the test's own transaction."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import Job, Jobs, JobState, RetryPolicy, Snooze
from sqla_jobs.errors import InvalidArguments, InvalidOption, JobsError
from sqla_jobs.testing import InSession, assert_enqueued, drain, enqueued, refute_enqueued
from tests.support.models import Effect
from tests.support.server import Database

NOW = dt.datetime(2031, 5, 17, 12, tzinfo=dt.timezone.utc)
HOUR = dt.timedelta(hours=1)


class Shop:
    """An application whose jobs enqueue jobs, fail and put themselves off."""

    def __init__(self) -> None:
        self.jobs = Jobs()
        self.ran: list[str] = []
        once = RetryPolicy(max_attempts=2, base=HOUR, cap=HOUR)
        self.order = self.jobs.task(name="order")(self._order)
        self.receipt = self.jobs.task(name="receipt", queue="mail")(self._receipt)
        self.fail = self.jobs.task(name="fail", retry=once)(self._fail)
        self.put_off = self.jobs.task(name="put_off")(self._put_off)
        self.again = self.jobs.task(name="again")(self._again)
        self.many = self.jobs.task(name="many")(self._many)

    def _order(self, session: Session, number: int, /, note: str = "none") -> None:
        self.ran.append(f"order {number}")
        session.add(Effect(job_id=number, note=note))
        self.receipt.enqueue(session, number, at=NOW)

    def _receipt(self, session: Session, number: int, *, at: dt.datetime) -> None:
        self.ran.append(f"receipt {number}")
        assert at == NOW

    def _fail(self, session: Session) -> None:
        self.ran.append("fail")
        session.add(Effect(job_id=0, note="half"))
        session.flush()
        raise ValueError("no")

    def _put_off(self, session: Session) -> None:
        self.ran.append("put off")
        raise Snooze(HOUR)

    def _again(self, session: Session) -> None:
        self.again.enqueue(session)

    def _many(self, session: Session, queue: str, count: int, model: str, arguments: str) -> None:
        """A task with arguments of the names of the helpers' own."""


@pytest.fixture
def shop() -> Shop:
    return Shop()


# -- drain -----------------------------------------------------------------------------------------


@contextmanager
def plain(database: Database) -> Iterator[Session]:
    """One that is rolled back at the end."""
    with Session(database.engine) as session:
        yield session
        session.rollback()


@contextmanager
def joined(database: Database, mode: Any, **options: Any) -> Iterator[Session]:
    with database.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode=mode, **options) as session:
            yield session
        outer.rollback()


SESSIONS: dict[str, Callable[[Database], Any]] = {
    "plain": plain,
    "create_savepoint": lambda database: joined(database, "create_savepoint"),
    "rollback_only": lambda database: joined(database, "rollback_only"),
    "conditional_savepoint": lambda database: joined(database, "conditional_savepoint"),
    "not expired by a commit": lambda database: joined(database, "create_savepoint", expire_on_commit=False),
    "without autoflush": lambda database: joined(database, "create_savepoint", autoflush=False),
}


@pytest.mark.parametrize("kind", SESSIONS)
def test_drain_runs_all_in_the_transaction_of_the_test(database: Database, shop: Shop, kind: str) -> None:
    """Also what jobs enqueue; the Session sees what they have done, and a rollback leaves nothing of it."""
    with SESSIONS[kind](database) as session:
        first = shop.order.enqueue(session, 1)
        session.add(shop.order.job(2))
        finished = drain(session, shop.jobs)
        assert shop.ran == ["order 1", "order 2", "receipt 1", "receipt 2"]
        assert [each.state for each in finished] == [JobState.SUCCEEDED] * 4
        assert first.state == "succeeded"
        assert session.query(Effect).count() == 2
        refute_enqueued(session)
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0
    assert database.scalar("SELECT count(*) FROM effects") == 0


def test_commits_in_the_test_and_in_a_service_stay_inside_the_recipe(database: Database, shop: Shop) -> None:
    @shop.jobs.task(name="service")
    def service(session: Session) -> None:
        shop.order.enqueue(session, 3)
        session.commit()

    with joined(database, "create_savepoint") as session:
        service.enqueue(session)
        session.commit()
        drain(session, shop.jobs)
        session.commit()
        assert shop.ran == ["order 3", "receipt 3"]
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_a_scoped_session_will_do(database: Database, shop: Shop) -> None:
    scoped = scoped_session(sessionmaker(database.engine))
    shop.order.enqueue(scoped, 1)
    assert len(drain(scoped, shop.jobs)) == 2
    refute_enqueued(scoped)
    scoped.remove()


def test_only_of_the_queues_that_are_given(session: Session, shop: Shop) -> None:
    shop.order.enqueue(session, 1)
    drain(session, shop.jobs, ["default"])
    assert shop.ran == ["order 1"]
    assert_enqueued(session, shop.receipt, queue="mail")


def test_now_travels(session: Session, shop: Shop) -> None:
    """What waits is run when its time has come, and what is put off waits from then on."""
    shop.order.using(run_at=NOW).enqueue(session, 1)
    shop.put_off.using(run_at=NOW).enqueue(session)
    assert drain(session, shop.jobs) == []
    assert drain(session, shop.jobs, now=NOW - HOUR) == []
    drain(session, shop.jobs, now=NOW)
    assert sorted(shop.ran) == ["order 1", "put off", "receipt 1"]
    [job] = assert_enqueued(session, shop.put_off, count=1)
    assert job.run_at == NOW + HOUR
    drain(session, shop.jobs, now=NOW + HOUR)
    assert shop.ran.count("put off") == 2


def test_the_error_of_a_run_is_raised_once_it_is_recorded(session: Session, shop: Shop) -> None:
    job = shop.fail.enqueue(session)
    shop.order.enqueue(session, 1)
    with pytest.raises(ValueError, match="no"):
        drain(session, shop.jobs)
    assert (job.state, job.attempt) == ("scheduled", 1)
    assert session.query(Effect).count() == 0
    drain(session, shop.jobs)
    assert shop.ran == ["fail", "order 1", "receipt 1"]
    assert_enqueued(session, shop.fail, count=1)


def test_errors_may_be_looked_at_instead(session: Session, shop: Shop) -> None:
    """Each attempt at its time, up to the last."""
    job = shop.fail.enqueue(session)
    shop.order.enqueue(session, 1)
    first = drain(session, shop.jobs, raises=False)
    assert [each.state for each in first] == ["scheduled", "succeeded", "succeeded"]
    assert isinstance(first[0].error, ValueError)
    [last] = drain(session, shop.jobs, now=job.run_at, raises=False)
    assert (last.state, job.state, job.attempt) == ("failed", "failed", 2)
    refute_enqueued(session, shop.fail)


def test_a_job_that_goes_on_for_ever_is_told_of(session: Session, shop: Shop) -> None:
    shop.again.enqueue(session)
    with pytest.raises(
        JobsError, match=r"has run 6 jobs, and expected no more than 5: again \u00d7 6\. Does a job"
    ):
        drain(session, shop.jobs, limit=5)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s, shop: drain(object(), shop.jobs),
            r"drain\(<object .*expected a Session, scoped_session, AsyncSession",
        ),
        (lambda s, shop: drain(s, shop.order), r"drain\(session, <Task order>\); expected the Jobs"),
        (lambda s, shop: drain(s, shop.jobs, limit=0), "limit 0; expected a whole number from 1"),
        (lambda s, shop: enqueued(None), r"enqueued\(None, …\); expected a Session"),
        (lambda s, shop: enqueued(s, shop._order), "task <bound method .*expected a task, the name of one"),
        (lambda s, shop: enqueued(s, shop.order, model=Effect), "model .*expected none with <Task order>"),
        (lambda s, shop: enqueued(s, queue="a b"), "a b"),
        (
            lambda s, shop: assert_enqueued(s, shop.many, count="x"),
            r"count 'x'; .*arguments=\{\"count\": …\}",
        ),
    ],
)
def test_a_wrong_call_is_refused(session: Session, shop: Shop, call: Any, message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        call(session, shop)


# -- what is enqueued ------------------------------------------------------------------------------


def test_jobs_are_found_by_task_arguments_and_queue(session: Session, shop: Shop) -> None:
    one = shop.receipt.enqueue(session, 1, at=NOW)
    two = shop.receipt.using(queue="slow", delay=HOUR).enqueue(session, 2, at=NOW + HOUR)
    other = shop.order.enqueue(session, 1)
    assert enqueued(session) == [one, two, other]
    assert enqueued(session, shop.receipt) == enqueued(session, "receipt") == [one, two]
    assert enqueued(session, shop.receipt, number=1) == [one]
    assert enqueued(session, shop.receipt, at=NOW + HOUR) == [two]
    assert enqueued(session, queue="slow") == [two]
    assert enqueued(session, number=1) == enqueued(session, arguments={"number": 1}) == [one, other]
    assert enqueued(session, "receipt", number=3) == []
    assert assert_enqueued(session, shop.receipt, number=2, queue="slow", count=1) == [two]
    refute_enqueued(session, shop.receipt, number=1, at=NOW + HOUR)
    refute_enqueued(session, "nothing")


def test_an_argument_that_was_left_to_its_default_has_that_value(session: Session, shop: Shop) -> None:
    job = shop.order.enqueue(session, 1)
    assert enqueued(session, shop.order, note="none") == [job]
    refute_enqueued(session, shop.order, note="some")


def test_a_misspelt_argument_is_no_job_that_is_not_there(session: Session, shop: Shop) -> None:
    with pytest.raises(InvalidArguments, match="unexpected argument 'nubmer'; did you mean 'number'"):
        refute_enqueued(session, shop.order, nubmer=1)
    with pytest.raises(InvalidArguments, match="number"):
        refute_enqueued(session, shop.order, number="many")


def test_arguments_of_the_names_of_the_helpers_own(session: Session, shop: Shop) -> None:
    given = {"queue": "q", "count": 2, "model": "m", "arguments": "a"}
    shop.many.enqueue(session, **given)
    assert_enqueued(session, shop.many, arguments=given, count=1, queue="default")
    refute_enqueued(session, shop.many, arguments={"count": 3})


def test_what_has_finished_is_not_enqueued(session: Session, shop: Shop) -> None:
    job = shop.receipt.enqueue(session, 1, at=NOW)
    session.execute(text("UPDATE sqla_jobs SET state = 'running'"))
    [found] = enqueued(session)
    assert (found is job, job.state) == (True, "running"), "what is shown is the row as it is"
    session.execute(text("UPDATE sqla_jobs SET state = 'cancelled', finished_at = now()"))
    refute_enqueued(session)


def test_a_failure_says_what_is_enqueued(session: Session, shop: Shop) -> None:
    with pytest.raises(AssertionError) as failed:
        assert_enqueued(session, shop.order)
    assert str(failed.value) == "expected a job of order to be enqueued, found none; no job is, of any task"
    job = shop.receipt.using(run_at=NOW).enqueue(session, 1, at=NOW)
    arguments = '{"at": "2031-05-17T12:00:00Z", "number": 1}'
    line = f"\n  job {job.id}: receipt {arguments} in queue 'mail', scheduled"
    with pytest.raises(AssertionError) as failed:
        assert_enqueued(session, shop.receipt, number=2, queue="mail", count=2)
    wanted = "2 jobs of receipt in queue 'mail' with {\"number\": 2}"
    told = f"expected {wanted} to be enqueued, found none; enqueued is:"
    assert str(failed.value) == f"{told}{line} for {job.run_at.isoformat()}"
    with pytest.raises(AssertionError) as failed:
        refute_enqueued(session, "receipt")
    assert str(failed.value).startswith(f"expected no job of receipt to be enqueued, found 1 of them:{line}")


def test_a_failure_does_not_show_thousands(session: Session, shop: Shop) -> None:
    shop.jobs.enqueue_many(session, [shop.again.job() for _ in range(23)])
    with pytest.raises(AssertionError, match=r"and 3 more$"):
        refute_enqueued(session)


def test_all_of_it_for_one_session_and_one_jobs(session: Session, shop: Shop) -> None:
    here = InSession(session, shop.jobs)
    shop.order.enqueue(session, 1)
    here.assert_enqueued(shop.order, number=1, count=1)
    assert [type(job) for job in here.enqueued()] == [Job]
    assert len(here.drain(now=NOW)) == 2
    here.refute_enqueued("order")
