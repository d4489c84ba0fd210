"""Fixtures on a real PostgreSQL. Which one to take:

`session`         what one Session does, looked at through the same Session. The fastest, rolled back.
`sent`            with it: the statements that it sends.
`database`        whatever must be committed: workers, second connections, processes, COMMIT itself.
`lab_database`    the same for tables of cases, one database a file; `Lab` empties its tables.
`empty_database`  migrations, `create_all`, Alembic: a database without any table.
`server`          tests that make databases of their own, or call psql and pg_dump.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from tests.support.server import Database, Server, fresh_database, running_server


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """The PostgreSQL of this test process.

    An embedded one is started in a temporary folder unless SQLA_JOBS_TEST_DATABASE_URL names another
    (a superuser's URL: the tests make and drop databases of their own and leave all others alone).
    """
    with running_server() as server:
        yield server


@pytest.fixture(scope="session")
def template(server: Server) -> Iterator[str]:
    """The name of a database with the library's tables and those of tests.support.models, to copy from."""
    import sqla_jobs
    from tests.support.models import Base

    with fresh_database(server, "template") as database:
        sqla_jobs.metadata.create_all(database.engine)
        Base.metadata.create_all(database.engine)
        database.dispose()
        # A template that somebody is connected to cannot be copied.
        with server.admin.connect() as connection:
            connection.exec_driver_sql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
        yield database.name


@pytest.fixture
def database(server: Server, template: str) -> Iterator[Database]:
    """A committed database of the test's own with all tables, dropped at the end.

    Prefer it wherever a second connection takes part: a worker, a thread, a process, an observer, or a
    COMMIT that is itself the point. It costs some 20 ms more than `session`.
    """
    with fresh_database(server, "test", template) as database:
        yield database


@pytest.fixture(scope="module")
def lab_database(server: Server, template: str) -> Iterator[Database]:
    """A committed database that the tests of one file share; for `tests.support.contain.Lab`."""
    with fresh_database(server, "lab", template) as database:
        yield database


@pytest.fixture
def empty_database(server: Server) -> Iterator[Database]:
    """A database without any table, dropped at the end.

    Prefer it where the making of the tables is what is tested: migrations, `create_all`, Alembic.
    """
    with fresh_database(server, "empty") as database:
        yield database


@pytest.fixture(scope="session")
def _shared(server: Server, template: str) -> Iterator[Database]:
    with fresh_database(server, "shared", template) as database:
        yield database


@pytest.fixture
def session(_shared: Database) -> Iterator[Session]:
    """A Session in a transaction that is rolled back at the end, whatever the test commits in it.

    Prefer it for everything that one Session does and sees: enqueue, verbs, models, `work_once`.
    `commit()` and `rollback()` work as usual (they end a savepoint of the outer transaction), but no
    other connection ever sees a row; a test that needs one takes `database`.
    """
    with _shared.engine.connect() as connection:
        outer = connection.begin()
        began = connection.scalar(text("SELECT now()"))
        session = Session(connection, join_transaction_mode="create_savepoint")
        yield session
        # now() is the start of the transaction: another one, or a savepoint that is gone, means that a COMMIT
        # got through to the server, and that the rows of this test are seen by all later ones.
        try:
            session.close()
            ended = not outer.is_active or began != connection.scalar(text("SELECT now()"))
        except SQLAlchemyError:
            ended = True
        if outer.is_active:
            outer.rollback()
    if ended:
        pytest.fail("the test ended the outer transaction of `session`: let it take `database` instead")


@pytest.fixture
def sent(session: Session) -> Iterator[list[str]]:
    """The statements that the connection of `session` sends from now on."""
    statements: list[str] = []

    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        statements.append(sql)

    connection = session.connection()
    event.listen(connection, "before_cursor_execute", note)
    yield statements
    event.remove(connection, "before_cursor_execute", note)


@pytest.fixture
def ignored_in_callbacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that interrupt threads very often.

    Raised in a finalizer, or in a weak reference's callback, an interruption is ignored there, which is why a
    worker interrupts again; pytest, which would note it, may meanwhile be interrupted itself.
    """
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
