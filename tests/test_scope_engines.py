"""Sessions of several engines, engines of other levels, and what a job costs in statements."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import sqlalchemy
from packaging.version import Version
from sqlalchemy import Connection, Delete, Engine, Insert, Update, create_engine, event, select, text
from sqlalchemy.exc import DBAPIError, InvalidRequestError, PendingRollbackError
from sqlalchemy.orm import Session, sessionmaker

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.errors import JobEscaped
from sqla_jobs.runner import Runner
from tests.support.contain import Lab, add
from tests.support.lane import NEVER, Lane, persist
from tests.support.models import Effect, Item
from tests.support.server import Database, Server, fresh_database
from tests.support.work import NEVER_AGAIN

# -- a connection of no pool -------------------------------------------------------------------------


def test_a_detached_connection_is_looked_at_as_any(database: Database) -> None:
    """The pool that it comes from knows its driver no more."""

    def swallow(session: Session) -> None:
        with suppress(DBAPIError):
            session.execute(text("SELECT 1 / 0"))

    jobs: Jobs[Job] = Jobs()
    task = jobs.register(swallow, name="swallow", retry=NEVER_AGAIN)
    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    with database.engine.connect() as connection:
        connection.detach()
        with Session(bind=connection) as session:
            finished = jobs.work_once(session)
            assert finished is not None
            assert isinstance(finished.error, PendingRollbackError)
            session.commit()


# -- a second database -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def elsewhere(server: Server, template: str) -> Iterator[Database]:
    """A second database, in which the items are."""
    with fresh_database(server, "second", template) as database:
        yield database


class Two:
    """Jobs and effects in one database, items in another, and Sessions of both."""

    def __init__(self, database: Database, elsewhere: Database) -> None:
        self.here, self.there = database, elsewhere
        self.lab = Lab(database)
        database.execute("DELETE FROM effects")
        elsewhere.execute("DELETE FROM items")
        for each in (database, elsewhere):
            each.execute("CREATE TABLE IF NOT EXISTS late (n int UNIQUE DEFERRABLE INITIALLY DEFERRED)")
            each.execute("DELETE FROM late")
        self.binds: dict[Any, Any] = {Item: elsewhere.engine, Job: database.engine, Effect: database.engine}
        self.sessions = sessionmaker(binds=self.binds)

    def written(self) -> tuple[int, int]:
        """How many rows are committed: (here, there)."""
        return self.here.scalar("SELECT count(*) FROM effects"), self.there.scalar(
            "SELECT count(*) FROM items"
        )


@pytest.fixture
def two(lab_database: Database, elsewhere: Database) -> Two:
    return Two(lab_database, elsewhere)


def writes_both(s: Session) -> None:
    s.add(Effect(job_id=1))
    add(s, "there")


def writes_there(s: Session) -> None:
    add(s, "there")


def commits_both(s: Session) -> None:
    writes_both(s)
    s.commit()


def rolls_both_back(s: Session) -> None:
    writes_both(s)
    s.rollback()


def commits_both_and_raises(s: Session) -> None:
    commits_both(s)
    raise ValueError


def commits_the_other_connection(s: Session) -> None:
    writes_both(s)
    s.connection(bind_arguments={"mapper": Item}).commit()


def sends_commit_there(s: Session) -> None:
    writes_both(s)
    s.execute(text("COMMIT"), bind_arguments={"mapper": Item})


def catches_an_error_there(s: Session) -> None:
    writes_both(s)
    with suppress(Exception):
        s.execute(text("SELECT 1/0"), bind_arguments={"mapper": Item})


SECOND = [
    (writes_both, "succeeded", (1, 1), None),
    (writes_there, "succeeded", (0, 1), None),
    (commits_both, "succeeded", (1, 1), None),
    (rolls_both_back, "succeeded", (0, 0), None),
    (commits_both_and_raises, "failed", (0, 0), "ValueError"),
    (sends_commit_there, "failed", (0, 0), "JobEscaped"),
    (catches_an_error_there, "failed", (0, 0), "PendingRollbackError"),
]


@pytest.mark.parametrize(("body", "state", "written", "error"), SECOND)
def test_a_second_database_is_contained_alike(
    body: Any, state: str, written: tuple[int, int], error: str | None, two: Two
) -> None:
    run = two.lab.by_worker(body, two.sessions)
    assert (run.state, two.written(), run.error) == (state, written, error)

    two.here.execute("DELETE FROM effects")
    two.there.execute("DELETE FROM items")
    two.lab.enqueue(body)
    with two.sessions() as session:
        two.lab.jobs.work_once(session)
        assert two.written() == (0, 0)
        session.commit()
    run = two.lab.outcome()
    assert (run.state, two.written(), run.error) == (state, written, error)


def test_a_commit_of_the_second_connection_is_refused(two: Two) -> None:
    run = two.lab.by_worker(commits_the_other_connection, two.sessions)
    assert (run.state, two.written(), run.error) == ("failed", (0, 0), "JobEscaped")
    two.lab.enqueue(commits_the_other_connection)
    with two.sessions() as session:
        with pytest.raises(JobEscaped):
            two.lab.jobs.work_once(session)
        session.commit()
    assert (two.lab.outcome().state, two.written()) == ("queued", (0, 0))


def refused_at_commit(where: Any) -> Any:
    def body(s: Session) -> None:
        writes_both(s)
        s.execute(text("INSERT INTO late VALUES (1), (1)"), bind_arguments={"mapper": where})

    return body


def test_if_their_commit_fails_ours_is_not_made(two: Two) -> None:
    run = two.lab.by_worker(refused_at_commit(Item), two.sessions)
    assert (run.state, two.written(), run.error) == ("failed", (0, 0), "IntegrityError")


def test_theirs_is_committed_first_so_if_ours_fails_it_is_at_least_once_there(two: Two) -> None:
    run = two.lab.by_worker(refused_at_commit(Job), two.sessions)
    assert (run.state, two.written(), run.error) == ("failed", (0, 1), "IntegrityError")


def test_their_connection_lost_before_the_commit_runs_the_job_again(two: Two) -> None:
    runs: list[int] = []

    def loses_theirs(s: Session) -> None:
        writes_both(s)
        runs.append(s.scalar(text("SELECT pg_backend_pid()"), bind_arguments={"mapper": Item}) or 0)

    def kill(*_: object) -> None:
        if len(runs) == 1:
            two.there.execute("SELECT pg_terminate_backend(:pid, 60000)", pid=runs[0])

    # The finish is the last statement before the commits.
    event.listen(two.sessions, "before_commit", lambda s: s.in_nested_transaction() or kill())
    run = two.lab.by_worker(loses_theirs, two.sessions)
    assert (run.state, run.attempt, two.written()) == ("succeeded", 1, (1, 1))
    assert len(runs) == 2


def test_a_session_that_is_bound_anew_by_its_job_is_caught(two: Two) -> None:
    other = create_engine(two.here.url)  # of the same database: the outcome would be found and written

    def binds(s: Session) -> None:
        writes_both(s)
        s.bind_mapper(Job, other)

    run = two.lab.by_worker(binds, two.sessions)
    assert (run.state, two.written(), run.error) == ("failed", (0, 0), "JobEscaped")
    other.dispose()


def test_a_changed_bind_is_another_engine_and_the_outcome_stays_at_home(lab_database: Database) -> None:
    other = create_engine(lab_database.url)

    def changes_bind(s: Session) -> None:
        s.bind = other
        add(s, "a")
        s.commit()

    def changes_bind_and_raises(s: Session) -> None:
        changes_bind(s)
        raise ValueError

    for body, state, items in (
        (changes_bind, "succeeded", {"a"}),
        (changes_bind_and_raises, "failed", set()),
    ):
        lab = Lab(lab_database)
        run = lab.by_worker(body)
        assert (run.state, run.items) == (state, items)
        run = Lab(lab_database).by_work_once(body)
        assert (run.state, run.items, run.kept) == (state, items, True)
    other.dispose()


# -- a get_bind of the application's own -------------------------------------------------------------


def test_reads_that_go_to_a_replica(lab_database: Database) -> None:
    """The recipe of SQLAlchemy's documentation: the queue's own reads lock rows, and go to the leader."""
    leader = lab_database.engine
    follower = create_engine(
        lab_database.url, connect_args={"options": "-c default_transaction_read_only=on"}
    )

    class Routing(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None) -> Engine:  # type: ignore[override]
            if self._flushing or isinstance(clause, (Insert, Update, Delete)):
                return leader
            return follower

    def reads_and_writes(s: Session) -> None:
        assert s.scalar(text("SHOW transaction_read_only")) == "on"
        s.scalars(select(Item)).all()
        add(s, "a")
        s.commit()

    def reads_and_writes_and_raises(s: Session) -> None:
        reads_and_writes(s)
        raise ValueError

    for body, state, items in (
        (reads_and_writes, "succeeded", {"a"}),
        (reads_and_writes_and_raises, "failed", set()),
    ):
        run = Lab(lab_database).by_worker(body, sessionmaker(class_=Routing))
        assert (run.state, run.items) == (state, items)
        run = Lab(lab_database).by_work_once(body, Routing())
        assert (run.state, run.items, run.kept) == (state, items, True)
    follower.dispose()


# -- levels ------------------------------------------------------------------------------------------


# Before, an engine of execution_options() could not be given options again, nor its connections listeners.
options_twice = pytest.mark.skipif(
    Version(sqlalchemy.__version__) < Version("2.0.38"), reason="SQLAlchemy issue 12289"
)
LEVEL_GIVEN = ["create_engine", pytest.param("execution_options", marks=options_twice)]


def level(s: Session) -> Any:
    return s.scalar(text("SHOW transaction_isolation"))


@pytest.mark.parametrize("wanted", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("given", [*LEVEL_GIVEN, "Session"])
def test_a_job_runs_at_the_applications_own_level(wanted: Any, given: str, lab_database: Database) -> None:
    options = {"isolation_level": wanted}
    if given == "Session" and "execution_options" not in inspect.signature(Session).parameters:
        pytest.skip("this SQLAlchemy's Session takes no execution_options")
    made = create_engine(lab_database.url, **(options if given == "create_engine" else {}))
    engine = made.execution_options(**options) if given == "execution_options" else made
    sessions = sessionmaker(engine, **({"execution_options": options} if given == "Session" else {}))
    seen: list[str] = []

    def looks(s: Session) -> None:
        seen.append(level(s))
        add(s, "a")

    run = Lab(lab_database).by_worker(looks, sessions)
    assert (run.state, run.items) == ("succeeded", {"a"})
    run = Lab(lab_database).by_work_once(looks, sessions())
    assert (run.state, run.items, run.kept) == ("succeeded", {"a"}, True)
    assert seen == [wanted.lower()] * 2
    made.dispose()


@pytest.mark.parametrize("given", LEVEL_GIVEN)
def test_autocommit_is_refused_at_once(given: str, lab_database: Database) -> None:
    options: Any = {"isolation_level": "AUTOCOMMIT"}
    made = create_engine(lab_database.url, **(options if given == "create_engine" else {}))
    engine = made.execution_options(**options) if given == "execution_options" else made
    lab = Lab(lab_database)
    lab.enqueue(lambda s: s.add(Item(name="a")))
    worker = Worker(lab.jobs, engine)
    with pytest.raises(InvalidRequestError, match=r"AUTOCOMMIT.*use an engine with"):
        worker.start()
    with Session(engine) as session, pytest.raises(InvalidRequestError, match="AUTOCOMMIT"):
        session.add(Item(name="pending"))
        lab.jobs.work_once(session)
    run = lab.outcome()
    assert (run.state, run.attempt, lab.items()) == ("queued", 0, set())
    made.dispose()


@options_twice
def test_a_second_engine_in_autocommit_fails_the_job(two: Two) -> None:
    binds = {**two.binds, Item: two.there.engine.execution_options(isolation_level="AUTOCOMMIT")}
    run = two.lab.by_worker(writes_both, sessionmaker(binds=binds))
    assert (run.state, two.written(), run.error) == ("failed", (0, 0), "InvalidRequestError")


def test_twophase(two: Two) -> None:
    if two.here.scalar("SHOW max_prepared_transactions") == "0":
        pytest.skip("the server takes no prepared transactions")
    sessions = sessionmaker(binds=two.binds, twophase=True)
    for body, state, written, error in SECOND:
        two.here.execute("DELETE FROM effects")
        two.there.execute("DELETE FROM items")
        run = two.lab.by_worker(body, sessions)
        assert (run.state, two.written(), run.error) == (state, written, error)
    for body in (
        lambda s: s.prepare(),
        lambda s: s.get_transaction().prepare(),
        commits_the_other_connection,
    ):
        two.here.execute("DELETE FROM effects")
        two.there.execute("DELETE FROM items")
        run = two.lab.by_worker(body, sessions)
        assert (run.state, two.written(), run.error) == ("failed", (0, 0), "JobEscaped")
    for database in (two.here, two.there):
        assert database.scalar("SELECT count(*) FROM pg_prepared_xacts") == 0


# -- what it costs -----------------------------------------------------------------------------------


def statements(engine: Engine) -> list[str]:
    """The first word of what is sent, as it is sent."""
    sent: list[str] = []
    event.listen(engine, "begin", lambda _: sent.append("BEGIN"))
    event.listen(engine, "commit", lambda _: sent.append("COMMIT"))
    event.listen(engine, "rollback", lambda _: sent.append("ROLLBACK"))
    # A worker sends these beneath the driver.
    event.listen(engine, "savepoint", lambda *_: sent.append("SAVEPOINT"))
    event.listen(engine, "release_savepoint", lambda *_: sent.append("RELEASE"))

    def see(_: object, __: object, sql: str, *___: object) -> None:
        if not sql.startswith(("SAVEPOINT", "RELEASE")):
            sent.append(sql.partition(" SAVEPOINT")[0])

    event.listen(engine, "before_cursor_execute", see)
    return sent


# In a transaction as any other, because this test listens to the begin of each.
CLAIM = ["BEGIN", "WITH", "COMMIT"]


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (lambda s: None, ["BEGIN", "UPDATE", "COMMIT"]),
        (lambda s: s.commit(), ["BEGIN", "UPDATE", "COMMIT"]),
        (lambda s: s.close(), ["BEGIN", "UPDATE", "COMMIT"]),
        (
            lambda s: s.add(Item(name="a")),
            ["BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "UPDATE", "COMMIT"],
        ),
        (
            lambda s: [s.add(Item(name="a")), s.commit()],
            ["BEGIN", "SAVEPOINT", "INSERT", "RELEASE", "UPDATE", "COMMIT"],
        ),
        (
            lambda s: [add(s, "a"), 1 / 0],
            ["BEGIN", "SAVEPOINT", "INSERT", "ROLLBACK TO", "ROLLBACK", "BEGIN", "UPDATE", "COMMIT"],
        ),
    ],
    ids=["nothing", "commit", "close", "insert", "insert and commit", "insert and raise"],
)
def test_a_job_sends_no_more_than_it_must(body: Any, sent: list[str], database: Database) -> None:
    lane = Lane(database)

    def task(session: Session) -> None:
        body(session)

    lane.enqueue(lane.task(task, retry=NEVER))
    seen = statements(database.engine)
    lane.run()
    assert [sql.split()[0] if sql != "ROLLBACK TO" else sql for sql in seen] == CLAIM + sent


def test_in_the_callers_transaction_a_job_costs_a_savepoint(database: Database) -> None:
    lane = Lane(database)
    lane.enqueue(lane.task(writes_there))
    with Session(database.engine) as session:
        seen = statements(database.engine)
        lane.jobs.work_once(session)
        assert [sql.split()[0] for sql in seen] == [
            "BEGIN",
            "SELECT",  # which queues are paused
            "SELECT",
            "SAVEPOINT",
            "INSERT",
            "RELEASE",
            "UPDATE",
        ]


def test_what_the_application_does_at_each_begin_holds_for_claims_too(database: Database) -> None:
    """SET LOCAL of a search_path, say: without it the tables are not those of the application."""
    lane = Lane(database)
    job = lane.enqueue(lane.task(writes_there))
    database.execute("CREATE SCHEMA elsewhere")
    engine = create_engine(database.url, connect_args={"options": "-c search_path=elsewhere"})

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        connection.exec_driver_sql("SET LOCAL search_path = public")

    lane.runner = Runner(lane.jobs, sessionmaker(engine), persist)
    assert lane.claim().id == job
    engine.dispose()
