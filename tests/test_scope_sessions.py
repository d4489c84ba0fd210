"""Every kind of Session that an application may have: contained alike, and given back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import event, insert, select
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import Job, Jobs
from sqla_jobs.errors import JobEscaped
from tests.support.contain import Case, Lab, add, each
from tests.support.models import Item
from tests.support.server import Database


def commits(s: Session) -> None:
    add(s, "a")
    s.commit()
    s.add(Item(name="b"))


def commits_and_raises(s: Session) -> None:
    commits(s)
    raise ValueError


def rolls_back(s: Session) -> None:
    add(s, "a")
    s.rollback()
    s.add(Item(name="b"))


def closes(s: Session) -> None:
    add(s, "a")
    s.close()
    with s.begin():
        add(s, "b")


def commits_the_connection(s: Session) -> None:
    add(s, "a")
    s.connection().commit()


CASES = [
    Case(commits, "succeeded", {"a", "b"}),
    Case(commits_and_raises, "failed", error="ValueError"),
    Case(rolls_back, "succeeded", {"b"}),
    Case(closes, "succeeded", {"b"}),
    Case(commits_the_connection, "failed", error="JobEscaped", escapes=True),
]


class Audited(Session):
    """An application's own Session class."""

    tenant = "acme"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commits = 0

    def commit(self) -> None:
        self.commits += 1
        super().commit()


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "autoflush=False": {"autoflush": False},
    "expire_on_commit=False": {"expire_on_commit": False},
    "autobegin=False": {"autobegin": False},
    "close_resets_only=False": {"close_resets_only": False},
    "its own class": {"class_": Audited},
    "info": {"info": {"tenant": "acme"}},
    "no autobegin, no autoflush, no expiry": {
        "autobegin": False,
        "autoflush": False,
        "expire_on_commit": False,
    },
}

each_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@each(CASES)
@each_option
def test_made_by_a_sessionmaker(options: dict[str, Any], case: Case, lab_database: Database) -> None:
    made = sessionmaker(lab_database.engine, **options)
    case.check_by_worker(lab_database, made)
    case.check_by_work_once(lab_database, made())


@each(CASES)
def test_scoped_session(case: Case, lab_database: Database) -> None:
    registry = scoped_session(sessionmaker(lab_database.engine))
    case.check_by_worker(lab_database, registry)
    case.check_by_work_once(lab_database, registry)
    registry.remove()


@each(CASES)
@pytest.mark.parametrize("mode", ["create_savepoint", "conditional_savepoint", "rollback_only"])
def test_bound_to_a_connection_in_an_outer_transaction(mode: Any, case: Case, lab_database: Database) -> None:
    """As a test suite does it: what is committed inside is rolled back outside."""
    lab = Lab(lab_database)
    with lab_database.engine.connect() as connection:
        outer = connection.begin()
        session = Session(connection, join_transaction_mode=mode)
        lab.by_work_once(case.body, session)
        if outer.is_active:
            names = set(session.scalars(select(Item.name))) - {"dup"}
            assert names - {"caller", "pending"} == (set() if case.escapes else case.items)
            session.close()
            outer.rollback()
        else:
            assert case.escapes or mode != "create_savepoint"
    assert lab.items() == set()
    assert lab_database.rows("SELECT state, attempt FROM sqla_jobs") == [("queued", 0)]


def test_the_session_fixture(session: Session) -> None:
    jobs = Jobs()
    jobs.task(name="commits")(commits).enqueue(session)
    finished = jobs.work_once(session)
    assert finished is not None
    assert finished.error is None
    session.commit()
    assert set(session.scalars(select(Item.name))) == {"a", "b"}


# -- what the application has put on its Session -------------------------------------------------------


def test_an_overridden_commit_is_called_for_the_workers_commit_alone(lab_database: Database) -> None:
    made: list[Audited] = []
    sessions = sessionmaker(lab_database.engine, class_=Audited)
    event.listen(sessions, "after_begin", lambda session, *_: made.append(session))

    def body(s: Audited) -> None:
        assert s.tenant == "acme"
        commits(s)  # type: ignore[arg-type]
        assert s.commits == 0

    run = Lab(lab_database).by_worker(body, sessions)
    assert (run.state, run.items) == ("succeeded", {"a", "b"})
    assert {session.commits for session in made} == {1}


def test_what_was_set_on_the_instance_comes_back(lab_database: Database) -> None:
    def own_commit() -> None:
        raise AssertionError("the job's commit is contained")

    session: Any = Session(lab_database.engine)
    session.rollback = own_commit
    run = Lab(lab_database).by_work_once(rolls_back, session)
    assert (run.state, run.items) == ("succeeded", {"b"})
    assert session.rollback is own_commit


def test_the_applications_events_see_what_jobs_do(lab_database: Database) -> None:
    heard: list[str] = []
    sessions = sessionmaker(lab_database.engine, info={"tenant": "acme"})
    names = ("after_begin", "before_flush", "do_orm_execute", "before_commit", "after_commit")
    for name in names:
        event.listen(sessions, name, lambda *_, name=name: heard.append(name))

    def body(s: Session) -> None:
        assert s.info == {"tenant": "acme"}
        s.scalars(select(Item)).all()
        s.add(Item(name="a"))

    run = Lab(lab_database).by_worker(body, sessions)
    assert run.state == "succeeded"
    assert set(heard) == set(names)
    heard.clear()
    run = Lab(lab_database).by_work_once(body, sessions())
    assert run.state == "succeeded"
    assert set(heard) == set(names)


def test_an_event_that_refuses_fails_the_job(lab_database: Database) -> None:
    sessions = sessionmaker(lab_database.engine)

    def refuse(session: Session, *_: object) -> None:
        if any(isinstance(thing, Item) and thing.name == "a" for thing in session.new):
            raise PermissionError("not a")

    event.listen(sessions, "before_flush", refuse)
    run = Lab(lab_database).by_worker(lambda s: s.add(Item(name="a")), sessions)
    assert (run.state, run.items, run.error) == ("failed", set(), "PermissionError")
    run = Lab(lab_database).by_work_once(lambda s: s.add(Item(name="a")), sessions())
    assert (run.state, run.items, run.error, run.kept) == ("failed", set(), "PermissionError", True)


@pytest.mark.parametrize(
    ("hook", "state", "items", "error"),
    [("before_commit", "failed", set(), "LookupError"), ("after_commit", "succeeded", {"a"}, None)],
)
def test_a_hook_that_raises_at_the_workers_commit(
    hook: str, state: str, items: set[str], error: str | None, lab_database: Database
) -> None:
    sessions = sessionmaker(lab_database.engine)

    def fail(session: Session) -> None:
        if not session.in_nested_transaction():
            raise LookupError(hook)

    event.listen(sessions, hook, fail)
    run = Lab(lab_database).by_worker(lambda s: s.add(Item(name="a")), sessions)
    assert (run.state, run.items, run.error) == (state, items, error)
    assert run.finished is not None
    assert run.finished.state == state, "the worker's hooks are to be told what the row says"


def test_in_savepoints_and_context_managers_of_the_callers(lab_database: Database) -> None:
    for case in CASES[:-1]:
        lab = Lab(lab_database)
        lab.enqueue(case.body)
        with Session(lab_database.engine) as session, session.begin():
            session.add(Item(name="outer"))
            with session.begin_nested():
                session.add(Item(name="inner"))
                around = session.get_nested_transaction()
                lab.jobs.work_once(session)
                assert session.get_nested_transaction() is around
                session.add(Item(name="later"))
        assert lab.items() == {"outer", "inner", "later"} | case.items
        assert lab.outcome().state == case.state


def test_the_callers_own_savepoint_is_out_of_reach(lab_database: Database) -> None:
    def ends_what_is_around(s: Any) -> None:
        s.get_nested_transaction().parent.rollback()

    lab = Lab(lab_database)
    lab.enqueue(ends_what_is_around)
    with Session(lab_database.engine) as session:
        with pytest.raises(JobEscaped), session.begin_nested():
            add(session, "a")
            lab.jobs.work_once(session)
        session.commit()
    assert (lab.outcome().state, lab.items()) == ("queued", set())


def test_a_connection_that_a_task_has_from_its_caller(lab_database: Database) -> None:
    lab = Lab(lab_database)
    with Session(lab_database.engine) as session:
        connection = session.connection()

        def uses_it(s: Session) -> None:
            connection.execute(insert(Item).values(name="a"))
            raise ValueError

        lab.enqueue(uses_it)
        lab.jobs.work_once(session)
        session.commit()
    assert (lab.outcome().state, lab.items()) == ("failed", set())


def test_a_callers_connection_keeps_nothing_of_a_job_that_has_escaped(lab_database: Database) -> None:
    """SQLAlchemy takes the refused commit for the transaction's end; on the server nothing has ended."""
    lab = Lab(lab_database)
    lab.enqueue(commits_the_connection)
    with lab_database.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection) as session, pytest.raises(JobEscaped):
            lab.jobs.work_once(session)
        outer.close()
        connection.execute(insert(Item).values(name="next"))
        connection.commit()
    assert (lab.outcome().state, lab.items()) == ("queued", {"next"})


# -- from job to job ---------------------------------------------------------------------------------


def test_a_callers_objects_stay_and_a_jobs_are_forgotten(lab_database: Database) -> None:
    lab = Lab(lab_database)
    kept: list[Item] = []

    def first(s: Session) -> None:
        kept.append(s.scalars(select(Item).where(Item.name == "dup")).one())
        s.close()
        kept.append(s.scalars(select(Item).where(Item.name == "dup")).one())

    lab.enqueue(first)
    with Session(lab_database.engine, expire_on_commit=False) as session, session.begin():
        mine = Item(name="mine")
        session.add(mine)
        session.flush()
        lab.jobs.work_once(session)
        assert mine in session, "what the job closes is its own"
        assert "name" not in vars(kept[1]), "the next job must not see what this one has loaded"
        lab_database.execute("UPDATE items SET name = 'changed' WHERE name = 'dup'")
        assert kept[1].name == "changed"
        assert vars(mine)["name"] == "mine"


def test_nothing_goes_from_job_to_job_of_a_worker(lab_database: Database) -> None:
    lab = Lab(lab_database)
    seen: list[Any] = []
    heard: list[str] = []

    def body(s: Session) -> None:
        seen.append((s, len(s.identity_map), dict(s.info), getattr(s, "mine", None)))
        s.info["job"] = s.mine = "first"  # type: ignore[attr-defined]
        event.listen(s, "before_flush", lambda *_: heard.append("flushed"))
        seen.append(s.scalars(select(Item)).all())

    registry = scoped_session(sessionmaker(lab_database.engine))
    for sessions in (registry, sessionmaker(lab_database.engine)):
        seen.clear()
        lab.enqueue(body)
        lab.by_worker(body, sessions)
        (first, *before), _, (second, *after), _ = seen
        assert first is not second
        assert before == after == [0, {}, None]


# -- Flask-SQLAlchemy --------------------------------------------------------------------------------


@pytest.fixture
def flask(lab_database: Database) -> Iterator[tuple[Flask, SQLAlchemy]]:
    app = Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = lab_database.url
    db = SQLAlchemy(app)
    yield app, db
    with app.app_context():
        db.engine.dispose()


@each(CASES)
def test_flask_sqlalchemy(case: Case, lab_database: Database, flask: tuple[Flask, SQLAlchemy]) -> None:
    app, db = flask

    @contextmanager
    def sessions() -> Iterator[Session]:
        with app.app_context():
            yield db.session()

    case.check_by_worker(lab_database, sessions)
    with app.app_context():
        case.check_by_work_once(lab_database, db.session)


def test_flask_sqlalchemys_global_session_is_the_jobs(
    lab_database: Database, flask: tuple[Flask, SQLAlchemy]
) -> None:
    app, db = flask

    def uses_the_global_session(s: Session) -> None:
        assert db.session() is s
        db.session.add(Item(name="a"))
        db.session.commit()
        assert db.session.get(Job, 0) is None
        raise ValueError

    @contextmanager
    def sessions() -> Iterator[Session]:
        with app.app_context():
            yield db.session()

    run = Lab(lab_database).by_worker(uses_the_global_session, sessions)
    assert (run.state, run.items, run.error) == ("failed", set(), "ValueError")
