"""What a task with `result=True` returns is kept by the statement that finishes its job, and read back."""

from __future__ import annotations

import datetime as dt
import decimal
import pickle
import uuid
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, object_session

from sqla_jobs import (
    Cancel,
    Finished,
    Job,
    Jobs,
    JobState,
    Progress,
    RetryPolicy,
    Snooze,
    cancel,
    current_job,
    errors,
    retry,
)
from sqla_jobs.errors import (
    InvalidOption,
    JobCancelled,
    JobFailed,
    JobNotFinished,
    JobNotFound,
    NoResult,
    RecordNotFound,
    ResultError,
    ResultNotLoadable,
    ResultNotStorable,
    TaskDefinitionError,
)
from tests.support.fast import Fast
from tests.support.lane import NEVER, Lane, leave_effect
from tests.support.loops import drain_async
from tests.support.models import Effect, Item
from tests.support.server import Database
from tests.support.work import drain

ID = uuid.UUID("12345678123456781234567812345678")
WHEN = dt.datetime(2030, 1, 31, 12, tzinfo=dt.timezone.utc)


class Price(BaseModel):
    amount: decimal.Decimal
    at: dt.datetime | None = None


def returning(jobs: Jobs[Job], annotation: Any, value: Any, **options: Any) -> Any:
    """A task that returns this, annotated so."""

    def give(session: Session) -> Any:
        return value(session) if callable(value) else value

    give.__annotations__["return"] = annotation
    return jobs.task(**{"name": "give", "result": True, "retry": NEVER} | options)(give)


def run_one(jobs: Jobs[Job], session: Session, task: Any) -> tuple[int, Finished]:
    job = task.enqueue(session).id
    finished = jobs.work_once(session)
    assert finished is not None
    return job, finished


# -- what is kept ------------------------------------------------------------------------------------

KEPT = {
    "int": (int, 7, 7, "7"),
    "bool": (bool, False, False, "false"),
    "none": (None, None, None, "null"),
    "optional": (int | None, None, None, "null"),
    "text": (str, "ä'\"\\", "ä'\"\\", None),
    "empty": (str, "", "", '""'),
    "float": (float, 1e17, 1e17, None),
    "decimal": (decimal.Decimal, decimal.Decimal("1.50"), decimal.Decimal("1.50"), '"1.50"'),
    "uuid": (uuid.UUID, ID, ID, None),
    "datetime": (dt.datetime, WHEN, WHEN, None),
    "bytes": (bytes, b"\x00\xff", b"\x00\xff", None),
    "tuple": (tuple[int, str], (1, "a"), (1, "a"), '[1, "a"]'),
    "set": (set[int], {1, 2}, {1, 2}, None),
    "model": (Price, Price(amount="1.5", at=WHEN), Price(amount="1.5", at=WHEN), None),
    "models": (list[Price], [Price(amount=1)], [Price(amount=1)], None),
    "by key": (dict[int, str], {1: "a"}, {1: "a"}, None),
    "converted": (int, "7", 7, "7"),
    "plain": (Any, {"a": [1, None]}, {"a": [1, None]}, None),
    "or later": (int | Snooze, 7, 7, "7"),
    "or never": (Cancel | int | Snooze | None, None, None, "null"),
}


@pytest.mark.parametrize("case", KEPT)
def test_it_comes_back_as_it_was(session: Session, case: str) -> None:
    annotation, value, expected, stored = KEPT[case]
    jobs = Jobs()
    task = returning(jobs, annotation, value)
    job, finished = run_one(jobs, session, task)
    assert finished.error is None
    found = task.result(session, job)
    assert found == expected
    assert type(found) is type(expected)
    if stored is not None:
        assert (
            session.connection()
            .exec_driver_sql(f"SELECT result::text FROM sqla_jobs WHERE id = {job}")
            .scalar()
            == stored
        )


def test_none_is_a_result_and_no_result_is_none(session: Session) -> None:
    jobs = Jobs()
    task = returning(jobs, None, None)
    silent = jobs.task(name="silent")(lambda session: 7)
    job, finished = run_one(jobs, session, task)
    other, unkept = run_one(jobs, session, silent)
    assert task.result(session, job) is None
    rows = "SELECT result IS NULL FROM sqla_jobs WHERE id = "
    assert session.connection().exec_driver_sql(rows + str(job)).scalar() is False
    assert session.connection().exec_driver_sql(rows + str(other)).scalar() is True
    assert (finished.result, unkept.result) == (None, None)


@pytest.mark.parametrize(
    "signal", [Snooze(dt.timedelta(hours=1)), Cancel("no more")], ids=["snooze", "cancel"]
)
def test_a_signal_that_is_returned_is_no_result(session: Session, signal: Any) -> None:
    jobs = Jobs()
    task = returning(jobs, int | Snooze | Cancel, signal)
    job, finished = run_one(jobs, session, task)
    assert finished.error is signal
    assert session.get_one(Job, job).result is None
    with pytest.raises(ResultError):
        task.result(session, job)


def test_the_session_that_reads_may_be_scoped_and_the_job_itself_given(session: Session) -> None:
    from sqlalchemy.orm import scoped_session

    jobs = Jobs()
    task = returning(jobs, int, 7)
    job = session.get_one(Job, run_one(jobs, session, task)[0])
    scoped = scoped_session(lambda: session)  # type: ignore[arg-type]
    assert task.result(scoped, job) == task.using(queue="other").result(session, job) == 7


def test_hooks_get_it_as_the_row_holds_it(database: Database) -> None:
    jobs = Jobs()
    task = returning(jobs, Price, Price(amount="1.5"))
    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    (finished,) = drain(jobs, database)
    assert finished.result == {"amount": "1.5", "at": None}


# -- mapped objects ----------------------------------------------------------------------------------


def new_item(session: Session) -> Item:
    item = Item(name="new")
    session.add(item)  # not flushed
    return item


def test_a_mapped_object_comes_back_through_the_session_that_reads(database: Database) -> None:
    lane = Lane(database)
    task = returning(lane.jobs, Item, new_item)
    job = lane.enqueue(task)
    finished = lane.run()
    assert finished is not None
    assert finished.result == lane.row(job).result == 1
    with database.sessionmaker() as session:
        item = task.result(session, job)
        assert object_session(item) is session
        assert (item.id, item.name) == (1, "new")
        session.delete(item)
        session.flush()
        with pytest.raises(RecordNotFound, match="give: result is Item 1, which is not there"):
            task.result(session, job)


@pytest.mark.parametrize(
    ("annotation", "value", "stored"),
    [
        (Item | None, None, None),
        (Item | None, new_item, 1),
        (list[Item], lambda session: [new_item(session)], [1]),
        (list[Item] | None | Snooze, lambda session: [], []),
    ],
    ids=["none", "optional", "list", "empty"],
)
def test_none_or_several_of_them(database: Database, annotation: Any, value: Any, stored: Any) -> None:
    lane = Lane(database)
    task = returning(lane.jobs, annotation, value)
    job = lane.enqueue(task)
    lane.run()
    assert lane.row(job).result == stored
    with database.sessionmaker() as session:
        found = task.result(session, job)
        kinds = [type(each) for each in found] if isinstance(found, list) else type(found)
        assert kinds == {"None": type(None), "1": Item, "[1]": [Item], "[]": []}[str(stored)]


def test_an_object_that_is_in_no_session_or_deleted_fails_the_attempt(session: Session) -> None:
    jobs = Jobs()
    _, finished = run_one(jobs, session, returning(jobs, Item, lambda _: Item(name="x")))
    assert "give: result = <new Item> cannot be kept: it has no primary key: it is in no Session" in str(
        finished.error
    )

    def gone(session: Session) -> Item:
        item = new_item(session)
        session.flush()
        session.delete(item)
        return item

    _, finished = run_one(jobs, session, returning(jobs, Item, gone, name="gone"))
    assert "it is deleted, and nobody would find it" in str(finished.error)


def test_the_flush_for_its_key_is_the_jobs_own(database: Database) -> None:
    """What it refuses is the job's error, not one of the result."""
    database.execute("INSERT INTO items (name) VALUES ('new')")
    lane = Lane(database)
    job = lane.enqueue(returning(lane.jobs, Item, new_item))
    lane.run()
    ((kind, _),) = lane.errors(job)
    assert kind == "sqlalchemy.exc.IntegrityError"
    assert database.scalar("SELECT count(*) FROM items") == 1


# -- every way to finish ------------------------------------------------------------------------------


def test_the_shared_finish_of_jobs_that_wrote_nothing(database: Database) -> None:
    """Several, with and without a result, in one statement with the claim of the next."""
    jobs = Jobs()
    ids: dict[int, int] = {}

    @jobs.task(name="double", result=True)
    def double(session: Session, number: int) -> int:
        return 2 * number

    plain = jobs.task(name="plain")(lambda session, number: number)
    with database.sessionmaker.begin() as session:
        for number in range(40):
            ids[number] = (plain if number % 4 == 0 else double).enqueue(session, number).id
    drain(jobs, database, threads=4)
    with database.sessionmaker() as session:
        for number, job in ids.items():
            if number % 4:
                assert double.result(session, job) == 2 * number
            else:
                assert session.get_one(Job, job).state == "succeeded"
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE result IS NULL AND task = 'plain'") == 10


def test_the_finish_that_claims_along(database: Database) -> None:
    jobs = Jobs()

    @jobs.task(name="write", result=True)
    def write(session: Session, number: int) -> int:
        leave_effect(session)
        return 2 * number

    with database.sessionmaker.begin() as session:
        ids = [write.enqueue(session, number).id for number in range(5)]
    drain(jobs, database)
    with database.sessionmaker() as session:
        assert [write.result(session, job) for job in ids] == [0, 2, 4, 6, 8]
    assert database.scalar("SELECT count(*) FROM effects") == 5


def test_the_fast_lane(database: Database) -> None:
    fast = Fast(database)

    def double(session: Session, number: int) -> int:
        if number % 2:
            session.add(Effect(job_id=number))
        if number == 3:
            raise ValueError
        return 2 * number

    task = fast.task(double, result=True)
    ids = fast.enqueue(*[task.job(number) for number in range(5)], fast.note.job("beside"))
    results = [each.result for each in fast.drain()]
    assert fast.groups() == [ids]
    assert results == [0, 2, 4, None, 8, None]
    with database.sessionmaker() as session:
        assert [task.result(session, ids[number]) for number in (0, 1, 2, 4)] == [0, 2, 4, 8]
        with pytest.raises(JobFailed):
            task.result(session, ids[3])
    assert fast.row(ids[5]).result is None


def test_a_finish_that_is_sent_again_keeps_it(database: Database) -> None:
    """The commit's connection is lost after the job: only the finish is repeated, with what it returned."""
    lane = Lane(database)

    def look(session: Session) -> int:
        session.connection()
        return 7

    task = lane.task(look, result=True)
    job = lane.enqueue(task)
    refused = []

    @event.listens_for(database.engine, "commit")
    def refuse(connection: Any) -> None:
        state = connection.exec_driver_sql(f"SELECT state FROM sqla_jobs WHERE id = {job}").scalar()
        if state == "succeeded" and not refused:
            refused.append(state)
            connection.exec_driver_sql("DO $$BEGIN RAISE SQLSTATE '40001'; END$$")

    lane.run()
    assert refused
    with database.sessionmaker() as session:
        assert task.result(session, job) == 7


@pytest.mark.parametrize("writes", [False, True], ids=["nothing written", "written"])
def test_a_job_without_a_result_sends_what_it_always_sent(database: Database, writes: bool) -> None:
    """And one with a result sends as many statements."""
    texts: dict[str, list[str]] = {}
    for name, keeps in (("silent", False), ("kept", True)):
        lane = Lane(database)

        def run(session: Session) -> int:
            if writes:
                leave_effect(session)
            return 7

        lane.enqueue(lane.jobs.task(name=name, result=keeps)(run))
        sent = texts[name] = []

        def note(_: Any, __: Any, sql: str, *more: Any, sent: list[str] = sent) -> None:
            sent.append(sql)

        event.listen(database.engine, "before_cursor_execute", note)
        lane.run()
        event.remove(database.engine, "before_cursor_execute", note)
    assert len(texts["silent"]) == len(texts["kept"])
    assert not any("result" in sql or "progress" in sql for sql in texts["silent"])


# -- refused ------------------------------------------------------------------------------------------

UNFIT: dict[str, tuple[Any, Any, str]] = {
    "type": (int, "seven", "give: result = 'seven' cannot be kept: result: Input should be a valid integer"),
    "none": (int, None, "result: Input should be a valid integer; found None; expected 'int'"),
    "nan": (float, float("nan"), "JSON has no such number"),
    "nan within": (list[float], [1.0, float("inf")], r"give: result[1] = inf cannot be kept"),
    "nul": (str, "a\x00b", "PostgreSQL has no NUL in text (here at 1)"),
    "key": (dict[str, int], {"a\x00": 1}, "NUL"),
    "lost": (Any, (1, 2), "a tuple would come back as a list; annotate it with its type"),
    "object": (Any, object(), "a object is not plain JSON"),
    "size": (str, "ä" * 600_000, "its JSON has 1,200,002 bytes, and may have 1,000,000; keep it in a table"),
    "item": (Item, "seven", "Input should be an instance of Item"),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_does_not_fit_is_a_failed_attempt(database: Database, case: str) -> None:
    annotation, value, why = UNFIT[case]
    lane = Lane(database)

    def spoil(session: Session) -> Any:
        leave_effect(session)
        session.flush()
        return value

    task = returning(lane.jobs, annotation, spoil)
    job = lane.enqueue(task)
    finished = lane.run()
    assert finished is not None
    assert (finished.state, finished.failed, finished.result) == (JobState.FAILED, True, None)
    assert type(finished.error) is ResultNotStorable
    assert finished.error.task == "give"
    assert why in str(finished.error)
    assert lane.effects(job) == 0, "its writes are rolled back, too"
    assert lane.row(job).result is None
    with database.sessionmaker() as session, pytest.raises(JobFailed, match="ResultNotStorable"):
        task.result(session, job)


def test_it_is_tried_again_as_any_other_failure(session: Session) -> None:
    jobs = Jobs()
    _, finished = run_one(jobs, session, returning(jobs, int, "x", retry=RetryPolicy(max_attempts=2)))
    assert finished.state is JobState.SCHEDULED


class Odd:
    """Nothing that pydantic knows."""


def unannotated(session):  # type: ignore[no-untyped-def]
    return 7


def odd(session: Session) -> Odd: ...  # type: ignore[empty-body]


def nested(session: Session) -> dict[str, Item]: ...  # type: ignore[empty-body]


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (unannotated, "has result=True, and nothing says what it returns; expected a return annotation"),
        (odd, "with result=True what it returns, 'Odd', cannot be stored: Unable to generate"),
        (nested, "Item is a mapped class, expected it as Item, Item | None"),
    ],
    ids=["none", "odd", "nested"],
)
def test_an_annotation_that_says_nothing_is_refused_at_the_definition(function: Any, why: str) -> None:
    jobs = Jobs()
    with pytest.raises(TaskDefinitionError) as refused:
        jobs.task(name="t", result=True)(function)
    assert why in str(refused.value)
    assert "t" not in jobs.tasks
    jobs.task(name="t")(function)  # without result=True nobody looks at it


def test_a_result_in_a_row_that_is_deleted_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"result=True and retention=timedelta\(0\) are both given"):
        Jobs().task(result=True, retention=dt.timedelta(0))(odd)


@pytest.mark.parametrize("value", [1, "yes", None], ids=str)
def test_result_is_true_or_false(value: Any) -> None:
    with pytest.raises(InvalidOption, match="expected True"):
        Jobs().task(result=value)(odd)


def test_a_name_that_is_defined_later_is_looked_up_again(session: Session) -> None:
    jobs = Jobs()
    task = jobs.task(name="later", result=True)(later)
    job, finished = run_one(jobs, session, task)
    assert isinstance(finished.error, TaskDefinitionError)
    assert "return annotation 'DefinedLater' cannot be resolved" in str(finished.error)
    globals()["DefinedLater"] = int
    try:
        job, finished = run_one(jobs, session, task)
        assert task.result(session, job) == 7
    finally:
        del globals()["DefinedLater"]


def later(session: Session) -> DefinedLater:  # type: ignore[name-defined]  # noqa: F821
    return 7


def test_a_coroutine_functions_annotation_is_that_of_what_is_awaited() -> None:
    from sqla_jobs.arguments import Returned

    async def count(session: Session) -> int:
        return 7

    returned = Returned(count, "count")
    assert returned.store(7, Session()).text == "7"
    with pytest.raises(ResultNotStorable):
        returned.store("x", Session())


# -- nothing to give ----------------------------------------------------------------------------------


def refusal(task: Any, session: Session, job: Any) -> ResultError:
    with pytest.raises(ResultError) as refused:
        task.result(session, job)
    error = refused.value
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
    assert (error.job_id, error.task) == (job, "give")
    return error


def test_of_a_job_that_waits_or_runs(session: Session) -> None:
    jobs = Jobs()
    seen: list[ResultError] = []
    task = returning(jobs, int, lambda s: [seen.append(refusal(task, s, job)), 7][1])
    job = task.enqueue(session).id
    waits = refusal(task, session, job)
    assert isinstance(waits, JobNotFinished)
    assert waits.state == "queued"
    assert str(waits) == f"job {job} (give) is queued: it has no result yet"
    jobs.work_once(session)
    assert [type(each) for each in seen] == [JobNotFinished]
    assert task.result(session, job) == 7


def test_of_a_job_that_waits_for_its_next_attempt(session: Session) -> None:
    jobs = Jobs()
    job, _ = run_one(jobs, session, returning(jobs, int, "x", retry=RetryPolicy(max_attempts=2)))
    waits = refusal(jobs.find("give"), session, job)
    assert isinstance(waits, JobNotFinished)
    assert waits.state == "scheduled"


def test_of_a_job_that_has_failed(session: Session) -> None:
    def fail(_: Session) -> int:
        raise ValueError("no such order")

    jobs = Jobs()
    task = returning(jobs, int, fail)
    job, _ = run_one(jobs, session, task)
    failed = refusal(task, session, job)
    assert isinstance(failed, JobFailed)
    assert str(failed) == f"job {job} (give) has failed: ValueError: no such order"
    assert (failed.error, failed.message) == ("ValueError", "no such order")
    assert "no such order" in str(failed.traceback)


def test_of_a_job_that_was_cancelled(session: Session) -> None:
    jobs = Jobs()
    task = returning(jobs, int | Cancel, Cancel("the order is gone"))
    job, _ = run_one(jobs, session, task)
    by_itself = refusal(task, session, job)
    assert isinstance(by_itself, JobCancelled)
    assert by_itself.reason == "the order is gone"
    waiting = task.enqueue(session).id
    cancel(session, waiting)
    by_hand = refusal(task, session, waiting)
    assert isinstance(by_hand, JobCancelled)
    assert (by_hand.reason, str(by_hand)) == (None, f"job {waiting} (give) was cancelled")


def test_the_error_of_an_earlier_attempt_is_no_reason_of_a_cancel(session: Session) -> None:
    jobs = Jobs()
    task = returning(jobs, int, "x", retry=RetryPolicy(max_attempts=2))
    job, _ = run_one(jobs, session, task)
    cancel(session, job)
    cancelled = refusal(task, session, job)
    assert isinstance(cancelled, JobCancelled)
    assert cancelled.reason is None


def test_of_a_job_that_ran_before_the_task_kept_results(session: Session) -> None:
    jobs = Jobs()
    job, _ = run_one(jobs, session, returning(jobs, int, 7, result=False))
    jobs.unregister("give")
    task = returning(jobs, int, 7)
    assert isinstance(refusal(task, session, job), NoResult)


@pytest.mark.parametrize(
    ("annotation", "why"),
    [
        (str, "result: Input should be a valid string; found 7; expected 'str'"),
        (Item | None, None),
        (list[Item], "result: expected a list of primary keys"),
    ],
    ids=["text", "item", "list"],
)
def test_of_a_task_that_returns_something_else_now(
    session: Session, annotation: Any, why: str | None
) -> None:
    jobs = Jobs()
    job, _ = run_one(jobs, session, returning(jobs, int, 7))
    jobs.unregister("give")
    task = returning(jobs, annotation, None)
    if why is None:
        with pytest.raises(RecordNotFound):
            task.result(session, job)
        return
    misfit = refusal(task, session, job)
    assert isinstance(misfit, ResultNotLoadable)
    assert misfit.value == 7
    assert why in str(misfit)


def test_of_no_job_at_all(session: Session) -> None:
    jobs = Jobs()
    task = returning(jobs, int, 7)
    with pytest.raises(JobNotFound):
        task.result(session, 10**9)
    other = jobs.task(name="other")(lambda session: None)
    with pytest.raises(
        InvalidOption, match=r"give\.result\(…, \d+\): that is a job of other; expected one of give"
    ):
        task.result(session, other.enqueue(session).id)
    with pytest.raises(
        TaskDefinitionError, match=r"task 'other' keeps no results; expected @jobs\.task\(result"
    ):
        other.result(session, 1)
    for wrong in ("1", True, None, Item()):
        with pytest.raises(InvalidOption, match="expected the id of a job, or a Job that is enqueued"):
            task.result(session, wrong)
    with pytest.raises(errors.InvalidArguments, match="expected a Session, scoped_session, AsyncSession"):
        task.result(1, 1)


# -- once more ----------------------------------------------------------------------------------------


def test_a_retry_clears_it(session: Session) -> None:
    jobs = Jobs()
    given = iter([7, 8])
    task = returning(jobs, int, lambda _: next(given))
    job, _ = run_one(jobs, session, task)
    retry(session, job, again=True)
    assert isinstance(refusal(task, session, job), JobNotFinished)
    assert (
        session.connection().exec_driver_sql(f"SELECT result FROM sqla_jobs WHERE id = {job}").scalar()
        is None
    )
    jobs.work_once(session)
    assert task.result(session, job) == 8


def test_it_is_read_in_the_transaction_of_the_session(database: Database) -> None:
    """Another transaction sees it with the commit that makes the job succeed, and not before."""
    jobs = Jobs()
    task = returning(jobs, int, 7)
    with database.sessionmaker.begin() as session:
        job = task.enqueue(session).id
    with database.sessionmaker() as one, database.sessionmaker() as other:
        jobs.work_once(one)
        assert task.result(one, job) == 7
        with pytest.raises(JobNotFinished):
            task.result(other, job)
        other.rollback()
        one.commit()
        assert task.result(other, job) == 7


def test_a_coroutines_result_and_progress(database: Database) -> None:
    """What it is awaited to, an object that is not flushed yet too; and it is typed by that."""
    jobs = Jobs()

    @jobs.task(name="make", result=True)
    async def make(session: AsyncSession, name: str) -> Item:
        current_job().progress(1, 2)
        item = Item(name=name)
        session.add(item)
        return item

    @jobs.task(name="spoil", result=True, retry=NEVER)
    async def spoil(session: AsyncSession) -> int:
        session.add(Item(name="spoilt"))
        return "seven"  # type: ignore[return-value]

    with database.sessionmaker.begin() as session:
        job, spoilt = make.enqueue(session, "made").id, spoil.enqueue(session).id
    drain_async(jobs, database)
    with database.sessionmaker() as session:
        assert make.result(session, job).name == "made"
        assert jobs.progress(session, job) == Progress(1, 2)
        with pytest.raises(JobFailed, match="ResultNotStorable"):
            spoil.result(session, spoilt)
    assert database.scalar("SELECT count(*) FROM items") == 1
