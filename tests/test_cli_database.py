"""Which database `sqla-jobs worker` works on: the option, the environment, the application's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, make_url
from sqlalchemy.orm import Session, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from sqla_jobs import Job, Jobs
from sqla_jobs.cli.database import Chosen, choose, engine, sessions
from sqla_jobs.errors import ConfigurationError
from tests.support.models import Base, Effect
from tests.support.program import run
from tests.support.server import Database, Server, fresh_database


@pytest.mark.parametrize(
    ("option", "environment", "expected"),
    [
        ("postgresql://a/x", {"SQLA_JOBS_DATABASE_URL": "postgresql://b/x"}, ("a", "--database-url")),
        (
            None,
            {"SQLA_JOBS_DATABASE_URL": "postgresql://b/x", "DATABASE_URL": "postgresql://c/x"},
            ("b", "SQLA_JOBS_DATABASE_URL"),
        ),
        (None, {"SQLA_JOBS_DATABASE_URL": "", "DATABASE_URL": "postgresql://c/x"}, ("c", "DATABASE_URL")),
        (None, {"DATABASE_URL": ""}, None),
        (None, {}, None),
    ],
)
def test_the_option_then_our_variable_then_everybodys(
    option: str | None, environment: dict[str, str], expected: tuple[str, str] | None
) -> None:
    chosen = choose(option, environment)
    assert (chosen and (chosen.url.host, chosen.source)) == expected


@pytest.mark.parametrize("name", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg_async"])
def test_every_way_to_say_postgresql_means_psycopg(name: str) -> None:
    chosen = choose(f"{name}://shop:s3cret@host:5433/db?sslmode=require")
    assert chosen is not None
    assert chosen.url == make_url("postgresql+psycopg://shop:s3cret@host:5433/db?sslmode=require")
    assert "s3cret" not in str(chosen)


def test_another_driver_is_refused_only_when_it_would_be_used() -> None:
    chosen = choose("postgresql+psycopg2://host/db")
    assert chosen is not None
    with pytest.raises(
        ConfigurationError, match="asks for the driver psycopg2, and sqla_jobs works with psycopg"
    ):
        engine(chosen)


# -- with a Jobs that has a sessionmaker of its own, or none --------------------------------------------


@pytest.fixture
def other(server: Server, template: str) -> Iterator[Database]:
    """A second database, for what should not be worked on."""
    with fresh_database(server, "other", template) as database:
        yield database


def chosen_url(database: Database) -> Chosen:
    return Chosen(database.url, "DATABASE_URL")


class OwnSession(Session):
    """An application's own class of Session."""


@contextmanager
def sessions_of(jobs: Jobs[Any], chosen: Chosen | None, threads: int = 1) -> Iterator[Any]:
    made = sessions(jobs, chosen, threads)
    with ExitStack() as stack:
        with made() as session:
            bind = session.get_bind(mapper=Job)
        assert isinstance(bind, Engine)
        stack.callback(bind.dispose)
        yield made


def url_of(made: Any, model: type[Any] = Job) -> URL:
    with made() as session:
        url: URL = session.get_bind(mapper=model).engine.url
        return url


def test_without_a_sessionmaker_the_url_gets_a_pool_for_its_threads(database: Database) -> None:
    with sessions_of(Jobs(), chosen_url(database), threads=7) as made:
        with made() as session:
            pool = session.get_bind().pool
            assert url_of(made) == database.url
    assert pool.size() == 8


def test_without_a_url_the_own_sessionmaker_is_taken_as_it_is(database: Database) -> None:
    own = sessionmaker(database.engine, class_=OwnSession)
    assert sessions(Jobs(sessionmaker=own), None, 1) is own
    assert url_of(own) == database.url


def test_the_same_database_leaves_the_own_sessionmaker_as_it_is(database: Database) -> None:
    class Chooses(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return database.engine

    own = sessionmaker(class_=Chooses)
    # Whatever driver the URL names: it is not used.
    same = Chosen(database.url.set(drivername="postgresql+asyncpg"), "DATABASE_URL")
    assert sessions(Jobs(sessionmaker=own), same, 1) is own


def test_another_url_wins_and_the_session_class_and_options_stay(database: Database, other: Database) -> None:
    own = sessionmaker(other.engine, class_=OwnSession, autoflush=False, info={"shop": 1})
    with sessions_of(Jobs(sessionmaker=own), chosen_url(database)) as made:
        assert url_of(made) == url_of(own) == database.url
        with made() as session:
            assert isinstance(session, OwnSession)
            assert (session.autoflush, session.info) == (False, {"shop": 1})


def test_binds_to_the_same_engine_follow_and_others_stay(database: Database, other: Database) -> None:
    archive = create_engine(other.url, poolclass=NullPool)
    own = sessionmaker(binds={Job: other.engine, Base: other.engine, Effect: archive})
    with sessions_of(Jobs(sessionmaker=own), chosen_url(database)) as made:
        assert url_of(made) == database.url
        with made() as session:
            assert session.get_bind(mapper=Effect) is archive
            assert session.get_bind(clause=Base.metadata.tables["items"]).url == database.url


def test_an_unbound_sessionmaker_is_bound(database: Database) -> None:
    own = sessionmaker()
    with sessions_of(Jobs(sessionmaker=own), chosen_url(database)) as made:
        assert url_of(made) == database.url
    with pytest.raises(
        ConfigurationError, match="the sessionmaker of the Jobs is bound to no engine: bind it"
    ):
        sessions(Jobs(sessionmaker=sessionmaker()), None, 1)


def test_a_scoped_session_is_redirected_too(database: Database, other: Database) -> None:
    own = scoped_session(sessionmaker(other.engine))
    with sessions_of(Jobs(sessionmaker=own), chosen_url(database)) as made:
        own.remove()
        assert url_of(made) == database.url
        own.remove()


@pytest.mark.parametrize("kind", ["get_bind", "function"])
def test_an_engine_chosen_by_code_cannot_be_replaced(kind: str, database: Database, other: Database) -> None:
    class Chooses(Session):
        def get_bind(self, *_: Any, **__: Any) -> Any:
            return other.engine

    @contextmanager
    def function() -> Iterator[Session]:
        with Session(other.engine) as session:
            yield session

    own = sessionmaker(class_=Chooses) if kind == "get_bind" else function
    with pytest.raises(ConfigurationError, match="are different databases, and the application chooses its"):
        sessions(Jobs(sessionmaker=own), chosen_url(database), 1)


def test_nothing_names_a_database() -> None:
    with pytest.raises(
        ConfigurationError, match=r"give --database-url, or set .* or give the Jobs a sessionm"
    ):
        sessions(Jobs(), None, 1)


def test_a_pool_too_small_for_the_threads_is_exit_code_2(database: Database, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(
        "import os\n"
        "from sqlalchemy import create_engine\n"
        "from sqlalchemy.orm import sessionmaker\n"
        "from sqla_jobs import Jobs\n"
        "engine = create_engine(os.environ['SHOP'], pool_size=2, max_overflow=1)\n"
        "jobs = Jobs(sessionmaker=sessionmaker(engine))\n"
    )
    arguments = ("worker", "small:jobs", "--drain", "--threads")
    assert run(*arguments, "2", folder=tmp_path, SHOP=database.url_string).code == 0
    refused = run(*arguments, "4", folder=tmp_path, SHOP=database.url_string)
    assert refused.code == 2
    assert "Error: the engine's pool gives 3 connection(s) at most" in refused.errors


APP = """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import Session, sessionmaker
from sqla_jobs import Jobs, current_job
from tests.support.models import Effect

jobs = Jobs(sessionmaker=sessionmaker(create_engine(os.environ["OWN_URL"])))
os.environ["DATABASE_URL"] = os.environ["FROM_A_DOTENV_FILE"]


@jobs.task
def write(session: Session) -> None:
    session.add(Effect(job_id=current_job().id))
"""


@pytest.mark.parametrize("place", ["option", "file", "own"])
def test_the_jobs_of_the_chosen_database_are_run(
    place: str, tmp_path: Path, database: Database, other: Database
) -> None:
    for each in (database, other):
        with each.sessionmaker.begin() as session:
            Jobs().enqueue(session, "app.write")
    (tmp_path / "app.py").write_text(APP)

    def url(name: str) -> str:
        return (database if name == place else other).url_string

    drained = run(
        "worker", "app:jobs", "--drain", *(["--database-url", url("option")] if place == "option" else []),
        folder=tmp_path, OWN_URL=url("own"), FROM_A_DOTENV_FILE=url("file") if place != "own" else "",
    )  # fmt: skip
    assert drained.code == 0, drained.errors
    assert [each.scalar("SELECT count(*) FROM effects") for each in (database, other)] == [1, 0]
