"""Enqueueing: a row in the caller's own transaction, from a task, by its name, or from plain SQL."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from sqlalchemy import MetaData, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session

from sqla_jobs import Job, JobMixin, Jobs, JobState, RetryPolicy, Task
from sqla_jobs.errors import (
    ArgumentsNotStorable,
    EnqueueError,
    InvalidArguments,
    InvalidOption,
    UnknownTask,
)
from tests.support.models import Effect, Item
from tests.support.python import start_python
from tests.support.server import Database
from tests.support.work import drain


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def send(session: Session, to: str, *, at: dt.date | None = None) -> None:
    session.add(Effect(job_id=0, note=to))


@pytest.fixture
def task(jobs: Jobs[Job]) -> Task[Any, None, Job]:
    return jobs.task(name="send")(send)


def count(session: Session) -> int:
    found = session.scalar(text("SELECT count(*) FROM sqla_jobs"))
    assert isinstance(found, int)
    return found


# -- in a Session ----------------------------------------------------------------------------------


def test_enqueue_returns_the_job_with_its_id(session: Session, task: Task[Any, None, Job]) -> None:
    job = task.enqueue(session, "a", at=dt.date(2030, 1, 1))
    assert isinstance(job, Job)
    assert job in session
    assert job.id is not None
    assert (job.task, job.arguments, job.state) == ("send", {"to": "a", "at": "2030-01-01"}, "queued")
    assert repr(job) == f"<Job {job.id} send queued>"


def test_a_scoped_session_will_do(database: Database, task: Task[Any, None, Job], jobs: Jobs[Job]) -> None:
    scoped = scoped_session(database.sessionmaker)
    task.enqueue(scoped, "a")
    jobs.enqueue(scoped, "send", to="b")
    scoped.commit()
    scoped.remove()
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 2


def test_a_job_can_be_added_like_any_object(session: Session, task: Task[Any, None, Job]) -> None:
    """No statement is sent before the flush; several are one flush, and keep their order."""
    added = [task.job(str(number)) for number in range(5)]
    session.add_all([*added[:2], Item(name="between"), *added[2:]])
    session.flush()
    assert count(session) == 5
    assert [job.id for job in added] == sorted(job.id for job in added)
    delayed = task.using(delay=dt.timedelta(hours=1)).job("later")
    session.add(delayed)
    session.flush()
    assert delayed.state == "scheduled"


def test_enqueue_flushes_what_else_is_pending(session: Session, task: Task[Any, None, Job]) -> None:
    session.add(Item(name="pending"))
    with session.no_autoflush:
        task.enqueue(session, "a")
        assert session.scalar(text("SELECT name FROM items")) == "pending"


def test_jobs_get_their_ids_in_the_order_of_their_enqueueing(
    session: Session, task: Task[Any, None, Job]
) -> None:
    jobs = [task.enqueue(session, str(number)) for number in range(10)]
    ids = [job.id for job in jobs]
    assert ids == sorted(ids)


@pytest.mark.parametrize("first", ["a", None, 5, Session, object()])
def test_what_is_no_session_is_refused(jobs: Jobs[Job], task: Task[Any, None, Job], first: Any) -> None:
    with pytest.raises(
        InvalidArguments, match=r"expected a Session, scoped_session, AsyncSession or async_scoped_session"
    ):
        task.enqueue(first, "a")
    with pytest.raises(InvalidArguments, match="expected a Session"):
        jobs.enqueue(first, "send", to="a")


# -- in the caller's transaction -------------------------------------------------------------------


def test_a_rollback_takes_the_job_along(database: Database, task: Task[Any, None, Job]) -> None:
    with database.sessionmaker() as session:
        task.enqueue(session, "a")
        session.rollback()
        assert count(session) == 0
        task.enqueue(session, "b")
        session.commit()
    assert database.scalar("SELECT arguments ->> 'to' FROM sqla_jobs") == "b"


def test_a_savepoint_takes_its_jobs_along_and_no_others(session: Session, task: Task[Any, None, Job]) -> None:
    task.enqueue(session, "before")
    with pytest.raises(ZeroDivisionError), session.begin_nested():
        task.enqueue(session, "within")
        raise ZeroDivisionError
    task.enqueue(session, "after")
    notes = session.execute(text("SELECT arguments ->> 'to' FROM sqla_jobs ORDER BY id")).scalars()
    assert list(notes) == ["before", "after"]


def test_nobody_sees_a_job_before_the_commit(
    database: Database, jobs: Jobs[Job], task: Task[Any, None, Job]
) -> None:
    with database.sessionmaker() as session, database.sessionmaker() as other:
        task.enqueue(session, "a")
        assert count(other) == 0
        assert jobs.work_once(other) is None
        session.commit()
        assert jobs.work_once(other) is not None


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({}, InvalidArguments, "missing argument 'to'"),
        ({"to": "a", "too": 1}, InvalidArguments, "unexpected argument 'too'"),
        ({"to": 5}, InvalidArguments, "valid string"),
        ({"to": "a", "at": "soon"}, InvalidArguments, "date"),
        ({"to": "a\x00"}, ArgumentsNotStorable, "NUL"),
    ],
    ids=str,
)
def test_wrong_arguments_leave_the_transaction_as_it_was(
    session: Session,
    jobs: Jobs[Job],
    task: Task[Any, None, Job],
    arguments: dict[str, Any],
    error: type[EnqueueError],
    told: str,
) -> None:
    session.add(Item(name="kept"))
    for enqueue in (
        lambda: task.enqueue(session, **arguments),
        lambda: jobs.enqueue(session, "send", **arguments),
        lambda: session.add(task.job(**arguments)),
    ):
        with pytest.raises(error, match=told):
            enqueue()
    assert {type(thing) for thing in session.new} == {Item}
    session.flush()
    assert count(session) == 0
    task.enqueue(session, "right")
    assert count(session) == 1


def test_what_the_database_refuses_of_other_objects_shows_at_the_enqueue(
    session: Session, task: Task[Any, None, Job]
) -> None:
    """Its flush is the ordinary one; a savepoint keeps the rest, as always in SQLAlchemy."""
    task.enqueue(session, "kept")
    with pytest.raises(IntegrityError), session.begin_nested():
        session.add_all([Item(name="twice"), Item(name="twice")])
        task.enqueue(session, "lost")
    assert count(session) == 1


def test_a_task_of_the_started_program_is_refused(database: Database) -> None:
    """Its name begins with `__main__`, under which no worker would find it; another one is fine."""
    process = start_python(
        """
        import os
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session
        from sqla_jobs import Jobs
        from sqla_jobs.errors import TaskDefinitionError

        jobs = Jobs()

        @jobs.task
        def unnamed(session): ...

        @jobs.task(name="named")
        def named(session): ...

        with Session(create_engine(os.environ["DATABASE_URL"])) as session, session.begin():
            named.enqueue(session)
            for enqueue in (unnamed.enqueue, lambda session: jobs.enqueue(session, unnamed.name)):
                try:
                    enqueue(session)
                except TaskDefinitionError as error:
                    print(error)
        """,
        database=database,
    )
    output, errors = process.communicate(timeout=60)
    assert output.count("'__main__.unnamed' is defined in the program that was started") == 2, errors
    assert output.count("give it one: @jobs.task(name='…')") == 2
    assert database.rows("SELECT task FROM sqla_jobs") == [("named",)]


# -- by name ---------------------------------------------------------------------------------------


def test_by_name_a_task_that_is_known_here_checks_and_encodes(
    session: Session, jobs: Jobs[Job], task: Task[Any, None, Job]
) -> None:
    """And brings its own options, which `using` overrides."""
    jobs.task(name="placed", queue="mail", priority=3)(lambda session, /, to: None)
    job = jobs.enqueue(session, "send", to="a", at=dt.date(2030, 1, 1))
    assert job.arguments == {"to": "a", "at": "2030-01-01"}
    placed = jobs.enqueue(session, "placed", to="a")
    assert (placed.queue, placed.priority, placed.arguments) == ("mail", 3, {"to": "a"})
    urgent = jobs.using(priority=9).enqueue(session, "placed", to="a")
    assert (urgent.queue, urgent.priority) == ("mail", 9)


def test_by_name_positional_only_arguments_have_names_too(session: Session, jobs: Jobs[Job]) -> None:
    got = []

    def strict(session: Session, to: str, /) -> None:
        got.append(to)

    jobs.task(name="strict")(strict)
    assert jobs.enqueue(session, "strict", to="a").arguments == {"to": "a"}
    jobs.work_once(session)
    assert got == ["a"]


def test_by_name_a_task_of_another_program_takes_plain_json(session: Session, jobs: Jobs[Job]) -> None:
    job = jobs.using(queue="slow", max_attempts=2).enqueue(session, "elsewhere.run", a=[1, {"b": None}])
    assert (job.task, job.queue, job.max_attempts) == ("elsewhere.run", "slow", 2)
    assert job.arguments == {"a": [1, {"b": None}]}
    assert jobs.job("elsewhere.run", a=1).arguments == {"a": 1}
    with pytest.raises(ArgumentsNotStorable, match="not registered here"):
        jobs.enqueue(session, "elsewhere.run", at=dt.date(2030, 1, 1))
    assert count(session) == 1


@pytest.mark.parametrize("name", ["", " ", "a\x00b", "\ud800", 5, None, send])
def test_a_name_that_can_be_none_is_refused(session: Session, jobs: Jobs[Job], name: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected the name of a task.*task\.enqueue"):
        jobs.enqueue(session, name)
    assert not session.new


def test_a_task_is_no_name(session: Session, jobs: Jobs[Job], task: Any) -> None:
    with pytest.raises(InvalidOption, match="expected the name of a task"):
        jobs.enqueue(session, task, to="a")


def test_from_plain_sql_a_task_and_its_arguments_are_enough(session: Session, jobs: Jobs[Job]) -> None:
    """From any language: the defaults of the table are those of the library."""
    jobs.task(name="send")(send)
    session.execute(text("INSERT INTO sqla_jobs (task, arguments) VALUES ('send', '{\"to\": \"sql\"}')"))
    end = jobs.work_once(session)
    assert end is not None
    assert (end.state, end.job.queue, end.job.max_attempts) == ("succeeded", "default", 16)
    assert session.scalar(text("SELECT note FROM effects")) == "sql"


@pytest.mark.parametrize("run_at", ["infinity", "-infinity", "0099-01-01 BC", "10000-01-01"])
def test_from_plain_sql_a_time_that_no_worker_could_read_is_refused(session: Session, run_at: str) -> None:
    """Where the mistake is made: a row like that would fail each claim that meets it."""
    with pytest.raises(IntegrityError, match="ck_sqla_jobs_run_at"):
        session.execute(text(f"INSERT INTO sqla_jobs (task, run_at) VALUES ('send', '{run_at}')"))


# -- several registries, and models of one's own ---------------------------------------------------


def test_two_registries_share_a_table_and_know_their_own_tasks_only(database: Database) -> None:
    """The other's task is unknown here: a failed attempt, which leaves the job for whoever knows it."""
    one, two = Jobs(), Jobs()
    one.task(name="one", retry=RetryPolicy(max_attempts=1))(lambda session: None)
    two.task(name="two")(lambda session: None)
    with database.sessionmaker.begin() as session:
        one.enqueue(session, "two")
        two.enqueue(session, "one")
    ends = {end.job.task: end for end in drain(one, database)}
    assert ends["one"].state is JobState.SUCCEEDED
    assert ends["two"].state is JobState.SCHEDULED
    assert isinstance(ends["two"].error, UnknownTask)
    assert "did you mean 'one'" not in str(ends["two"].error)
    database.execute("UPDATE sqla_jobs SET run_at = statement_timestamp() WHERE state = 'scheduled'")
    (end,) = drain(two, database)
    assert (end.job.attempt, end.state) == (2, JobState.SUCCEEDED)


class TenantBase(DeclarativeBase):
    metadata = MetaData()


class TenantJob(JobMixin, TenantBase):
    """In a schema, with a column of its own that every job must fill."""

    __table_args__ = {"schema": "tenants"}
    tenant: Mapped[int] = mapped_column()


def test_a_model_of_ones_own_in_a_schema_of_its_own(empty_database: Database) -> None:
    """Its column is set on the job before it is added; without it the database refuses the row."""
    jobs = Jobs(TenantJob)
    jobs.create_all(empty_database.engine)
    task = jobs.task(name="work")(lambda session, number: None)
    with empty_database.sessionmaker.begin() as session:
        job = task.using(queue="mail").job(5)
        assert type(job) is TenantJob
        job.tenant = 1
        session.add(job)
        named = jobs.job("work", number=6)
        named.tenant = 2
        session.add(named)
        with pytest.raises(IntegrityError, match="tenant"), session.begin_nested():
            task.enqueue(session, 7)
    rows = empty_database.rows("SELECT task, queue, arguments, tenant FROM tenants.sqla_jobs ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("work", "mail", {"number": 5}, 1),
        ("work", "default", {"number": 6}, 2),
    ]
    assert [end.state for end in drain(jobs, empty_database)] == [JobState.SUCCEEDED] * 2
    with empty_database.sessionmaker.begin() as session:
        later = task.job(8)
        later.tenant = 3
        session.add(later)
        session.flush()
        end = jobs.work_once(session, ["mail", "default"])
        assert end is not None
        assert (end.job.id, end.state) == (later.id, JobState.SUCCEEDED)
