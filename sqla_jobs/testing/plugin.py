"""Fixtures for the tests of an application, which names this in its conftest.py.

    pytest_plugins = ["sqla_jobs.testing.plugin"]

It is no entry point: pytest would import it, and the library, at every start wherever that is installed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from sqla_jobs.tasks import Registry
from sqla_jobs.testing.bound import InSession


@pytest.fixture
def sqla_jobs_registry() -> Registry[Any]:
    """The ``Jobs`` of the application: for the project's own conftest.py to say."""
    raise pytest.UsageError(
        "the fixture sqla_jobs_registry is not defined; expected one in your conftest.py that returns the "
        "Jobs of your application"
    )


@pytest.fixture(scope="session")
def sqla_jobs_engine() -> Engine:
    """An Engine to a database with the tables: for the project's own conftest.py to say."""
    raise pytest.UsageError(
        "the fixture sqla_jobs_engine is not defined; expected one in your conftest.py that returns an "
        "Engine to a database with your tables and those of sqla_jobs, or in its place sqla_jobs_session, "
        "which returns the Session of your tests"
    )


@pytest.fixture
def sqla_jobs_session(sqla_jobs_engine: Engine) -> Iterator[Session]:
    """A Session in a transaction that is rolled back at the end, whatever the test commits in it.

    The recipe is SQLAlchemy's, "Joining a Session into an External Transaction". A project that has such a
    Session already defines this fixture anew, and returns that.
    """
    with sqla_jobs_engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            yield session
        outer.rollback()


@pytest.fixture
def sqla_jobs_testing(sqla_jobs_session: Session, sqla_jobs_registry: Registry[Any]) -> InSession:
    """`drain`, `enqueued`, `assert_enqueued`, `refute_enqueued` for that Session and that ``Jobs``."""
    return InSession(sqla_jobs_session, sqla_jobs_registry)
