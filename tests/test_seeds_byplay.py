"""What Byplay does, by the numbers of its behaviours: reproduced, or improved where the docstring says so.

Byplay's `new` and `done` are `queued` and `succeeded` here; its `failed` without any retry is
`max_attempts=1`.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from functools import partial
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, JobState, Worker, current_job, migrations
from sqla_jobs.errors import InvalidQueueName, UnknownTask
from sqla_jobs.testing import drain as run_all
from tests.support.models import Effect
from tests.support.plans import explaining, fill
from tests.support.python import start_python
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, Recorder, drain

TABLES = """
    SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace
"""


@pytest.fixture
def app() -> Recorder:
    return Recorder()


def notes(session: Session) -> list[str]:
    return list(session.execute(text("SELECT note FROM effects ORDER BY id")).scalars())


def states(session: Session) -> list[str]:
    return list(session.execute(text("SELECT state FROM sqla_jobs ORDER BY id")).scalars())


# -- schema and migration --------------------------------------------------------------------------


def test_b01_migrate_creates_the_tables_and_their_indexes_and_may_be_repeated(
    empty_database: Database,
) -> None:
    """One call makes the table and both fetch indexes; a second one changes nothing."""
    migrations.migrate(empty_database.engine)
    count = empty_database.scalar(TABLES)
    migrations.migrate(empty_database.engine)
    assert empty_database.scalar(TABLES) == count
    indexed = "SELECT indexname, indexdef FROM pg_indexes WHERE tablename = 'sqla_jobs'"
    indexes = {row.indexname: row.indexdef for row in empty_database.rows(indexed)}
    assert "(queue, priority DESC, run_at, id) WHERE (state = 'queued'" in indexes["ix_sqla_jobs_claim"]
    assert "(priority DESC, run_at, id) WHERE (state = 'queued'" in indexes["ix_sqla_jobs_claim_any"]
    required = empty_database.rows(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'sqla_jobs'"
        " AND is_nullable = 'NO'"
    )
    assert {"id", "task", "arguments", "state", "queue"} <= {name for (name,) in required}


def test_b02_rollback_removes_everything_and_may_be_repeated(empty_database: Database) -> None:
    """Back to base nothing is left, no marker either; the second time there is nothing to do."""
    migrations.migrate(empty_database.engine)
    for _ in range(2):
        migrations.migrate(empty_database.engine, to="base")
        assert empty_database.scalar(TABLES) == 0
        functions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        assert empty_database.scalar(functions) == 0


def test_b03_both_ways_to_fetch_use_their_index(database: Database, app: Recorder) -> None:
    """By EXPLAIN rather than by a stopwatch: any queue, and a given one, whatever is queued elsewhere."""
    for queue in ("default", "other"):
        fill(database, "queued", 2000, queue=queue)
    database.execute("ANALYZE")
    with explaining(database, generic=False) as explain:
        for queues, index in ((None, "ix_sqla_jobs_claim_any"), (["other"], "ix_sqla_jobs_claim")):
            _, plan, *_ = explain(partial(app.jobs.work_once, queues=queues))
            assert plan.indexes == {index}, str(plan)
            assert plan.rows_read == 1
            assert "Sort" not in plan.kinds


# -- scheduling ------------------------------------------------------------------------------------


def test_b04_a_job_goes_to_the_queue_of_its_task_or_of_its_call_or_the_default(session: Session) -> None:
    """The task's own queue, else `default`; `using` overrides it, and None means `default`."""
    jobs = Jobs()
    plain = jobs.task(name="plain")(lambda session: None)
    placed = jobs.task(name="placed", queue="mail")(lambda session: None)
    assert plain.enqueue(session).queue == "default"
    assert placed.enqueue(session).queue == "mail"
    assert placed.using(queue="slow").enqueue(session).queue == "slow"
    assert placed.using(queue=None).enqueue(session).queue == "default"
    assert jobs.task(name="none", queue=None)(lambda session: None).enqueue(session).queue == "default"


def test_b05_a_queue_name_that_cannot_be_one_is_rejected_where_it_is_given(session: Session) -> None:
    """At the definition, in `using` and in a worker's list. Improved: before anything is enqueued."""
    jobs = Jobs()
    task = jobs.task(name="task")(lambda session: None)
    for name in ("some/queue", "", "a b"):
        with pytest.raises(InvalidQueueName, match="expected 1 to 63"):
            jobs.task(name="other", queue=name)
        with pytest.raises(InvalidQueueName):
            task.using(queue=name)
        with pytest.raises(InvalidQueueName):
            Worker(jobs, session.get_bind().engine, queues=[name])


def send(session: Session, text: str, *, times: int = 1) -> None:
    session.add_all(Effect(job_id=current_job().id, note=text) for _ in range(times))


def test_b06_a_job_is_stored_by_its_full_name_and_its_arguments_come_back(session: Session) -> None:
    jobs = Jobs()
    task = jobs.task(send)
    job = task.enqueue(session, "hello", times=2)
    assert job.task == f"{__name__}.send"
    assert job.arguments == {"text": "hello", "times": 2}
    empty = jobs.task(name="empty")(lambda session: None).enqueue(session)
    assert empty.arguments == {}
    ends = [jobs.work_once(session), jobs.work_once(session)]
    assert [end and end.state for end in ends] == ["succeeded", "succeeded"]
    assert notes(session) == ["hello", "hello"]


def test_b07_scheduling_takes_part_in_the_callers_transaction(database: Database, app: Recorder) -> None:
    """A rollback leaves no job, and before the commit no worker sees one."""
    with database.sessionmaker() as session:
        app.record.enqueue(session, "rolled back")
        session.rollback()
        app.record.enqueue(session, "committed")
        assert drain(app.jobs, database) == []
        session.commit()
    assert len(drain(app.jobs, database)) == 1
    assert app.ran == ["committed"]


def test_b08_a_job_may_schedule_another_or_itself_in_its_own_transaction(database: Database) -> None:
    """What it scheduled is gone if it fails."""
    jobs = Jobs()

    @jobs.task(name="chain", retry=NEVER_AGAIN)
    def chain(session: Session, left: int) -> None:
        other.enqueue(session, left)
        if left:
            chain.enqueue(session, left - 1)

    @jobs.task(name="other", retry=NEVER_AGAIN)
    def other(session: Session, left: int) -> None:
        chain.enqueue(session, 0)
        raise RuntimeError(f"rolls back what it scheduled, {left}")

    with database.sessionmaker.begin() as session:
        chain.enqueue(session, 2)
    ends = drain(jobs, database)
    assert Counter((end.job.task, end.state.value) for end in ends) == {
        ("chain", "succeeded"): 3,
        ("other", "failed"): 3,
    }


# -- work_once -------------------------------------------------------------------------------------


def test_b09_work_once_returns_nothing_or_how_the_job_ended(session: Session, app: Recorder) -> None:
    """None without a job; `Finished` when it succeeded, and when it failed, with the error not raised."""
    assert app.jobs.work_once(session) is None
    app.record.enqueue(session, "a")
    app.fail.enqueue(session, "b")
    done, failed = app.jobs.work_once(session), app.jobs.work_once(session)
    assert done is not None
    assert failed is not None
    assert (done.job.arguments, done.state, done.error) == ({"note": "a"}, "succeeded", None)
    assert (failed.job.arguments, failed.state) == ({"note": "b"}, "failed")
    assert isinstance(failed.error, ValueError)
    assert app.jobs.work_once(session) is None


def test_b10_queues_are_tried_in_order_and_each_from_its_beginning(session: Session, app: Recorder) -> None:
    """A failure in the middle changes nothing. No list, None and an empty one: any queue, as they came."""
    for queue in "abc":
        app.record.using(queue=queue).enqueue(session, f"{queue}1")
        app.fail.using(queue=queue).enqueue(session, f"{queue}2")
        app.record.using(queue=queue).enqueue(session, f"{queue}3")
    run_all(session, app.jobs, ["c", "a", "b"], raises=False)
    assert app.ran == ["c1", "c2", "c3", "a1", "a2", "a3", "b1", "b2", "b3"]
    assert notes(session) == ["c1", "c3", "a1", "a3", "b1", "b3"]

    app.ran.clear()
    for number, queue in enumerate("bcabca"):
        app.record.using(queue=queue).enqueue(session, str(number))
    for _ in range(2):
        app.jobs.work_once(session)
        app.jobs.work_once(session, None)
        app.jobs.work_once(session, [])
    assert app.ran == ["0", "1", "2", "3", "4", "5"]


def test_b11_a_job_is_processed_once_and_its_row_stays(session: Session, app: Recorder) -> None:
    """Without attempts left a failed one is never picked again; both are kept, with the error."""
    app.record.enqueue(session, "a")
    app.fail.enqueue(session, "b")
    run_all(session, app.jobs, raises=False)
    assert app.jobs.work_once(session, now=dt.datetime.now(dt.timezone.utc) + dt.timedelta(days=9)) is None
    assert app.ran == ["a", "b"]
    assert states(session) == ["succeeded", "failed"]
    (error,) = session.execute(text("SELECT attempts FROM sqla_jobs WHERE state = 'failed'")).scalar_one()
    assert (error["error"], error["message"]) == ("ValueError", "b")
    assert "raise ValueError(note)" in error["traceback"]


@pytest.mark.parametrize("error", [ValueError, AssertionError, KeyboardInterrupt, BaseException])
def test_b12_writes_and_state_are_committed_together_or_neither(
    database: Database, app: Recorder, error: type[BaseException]
) -> None:
    """Until the commit another connection sees neither; of a failure only the state is left, ever.

    An interrupt of the caller's own thread (Ctrl-C) is not the job's failure: `work_once` lets it out.
    """

    @app.jobs.task(name="throw", retry=NEVER_AGAIN)
    def throw(session: Session) -> None:
        session.add(Effect(job_id=current_job().id, note="thrown"))
        session.flush()
        raise error("thrown")

    def seen() -> tuple[list[Any], list[Any]]:
        effects = database.rows("SELECT note FROM effects ORDER BY id")
        rows = database.rows("SELECT state FROM sqla_jobs ORDER BY id")
        return [note for (note,) in effects], [state for (state,) in rows]

    with database.sessionmaker() as session:
        app.record.enqueue(session, "kept")
        throw.enqueue(session)
        session.commit()
        app.jobs.work_once(session)
        assert seen() == ([], ["queued", "queued"])
        session.commit()
        assert seen() == (["kept"], ["succeeded", "queued"])
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                app.jobs.work_once(session)
            session.rollback()
            assert seen() == (["kept"], ["succeeded", "queued"])
        else:
            app.jobs.work_once(session)
            session.commit()
            assert seen() == (["kept"], ["succeeded", "failed"])


def test_b13_a_job_whose_process_is_killed_can_be_claimed_at_once(database: Database, app: Recorder) -> None:
    """In `work_once` the claim is a row lock in the job's transaction: it goes with the connection.

    (A worker commits its claims; what it ran when it was killed is rescued.)
    """
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
    process = start_python(
        """
        import os, sys
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session
        from sqla_jobs import Jobs

        jobs = Jobs()

        @jobs.task(name="record")
        def record(session, note):
            print("running", flush=True)
            sys.stdin.read()

        with Session(create_engine(os.environ["DATABASE_URL"])) as session:
            jobs.work_once(session)
        """,
        database=database,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    with database.sessionmaker() as session:
        assert app.jobs.work_once(session) is None, "the job is locked while it runs"
        session.rollback()
        process.kill()
        process.communicate()
        # Waits for the lock, so until the server has seen that the client is gone.
        session.execute(text("SELECT FROM sqla_jobs WHERE state = 'queued' FOR UPDATE"))
        done = app.jobs.work_once(session)
        assert done is not None
        assert (done.state, done.job.attempt) == ("succeeded", 1)


def test_b14_the_job_gets_the_connection_with_the_open_transaction(database: Database) -> None:
    """Its Session is the one that its outcome will be recorded in: same backend, no autocommit."""
    jobs = Jobs()
    seen = []

    @jobs.task(name="look")
    def look(session: Session) -> None:
        connection = session.connection()
        assert connection.in_transaction()
        driver: Any = connection.connection.driver_connection
        assert driver.autocommit is False
        seen.append(session.scalar(text("SELECT txid_current()")))

    with database.sessionmaker() as session:
        look.enqueue(session)
        assert jobs.work_once(session) is not None
        assert seen == [session.scalar(text("SELECT txid_current()"))]


def test_b15_any_callable_can_be_a_task_and_an_unknown_name_fails(session: Session) -> None:
    """Improved: the error says which tasks there are, and by default it is tried again."""

    class Callable:
        def __call__(self, session: Session, note: str) -> None:
            session.add(Effect(job_id=1, note=note))

    jobs = Jobs()
    jobs.task(name="callable")(Callable()).enqueue(session, "called")
    jobs.using(max_attempts=1).enqueue(session, "renamed", note="x")
    done, failed = jobs.work_once(session), jobs.work_once(session)
    assert done is not None
    assert done.error is None
    assert notes(session) == ["called"]
    assert failed is not None
    assert failed.state is JobState.FAILED
    assert isinstance(failed.error, UnknownTask)


def test_b16_work_once_commits_nothing_of_the_transaction_around_it(
    database: Database, app: Recorder
) -> None:
    """Improved: Byplay commits it. Here the outer rollback undoes the job and its outcome."""
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "a")
    with database.sessionmaker() as session:
        session.add(Effect(job_id=0, note="the caller's"))
        done = app.jobs.work_once(session)
        assert done is not None
        assert notes(session) == ["the caller's", "a"]
        assert database.scalar("SELECT count(*) FROM effects") == 0
        session.rollback()
    assert database.scalar("SELECT count(*) FROM effects") == 0
    assert database.scalar("SELECT state FROM sqla_jobs") == "queued"
