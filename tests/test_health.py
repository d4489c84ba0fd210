"""`sqla-jobs health`: does a worker of this host live?"""

from __future__ import annotations

import datetime as dt
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from sqlalchemy.orm import Session

from sqla_jobs import Job, lifecycle, metadata, migrations
from sqla_jobs.cli import main
from sqla_jobs.models import companions
from tests.support.program import CHOOSE_A_DATABASE, command, run
from tests.support.server import Database

HERE = socket.gethostname()
LIMIT = dt.timedelta(seconds=30)


@pytest.fixture(autouse=True)
def no_database_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOOSE_A_DATABASE:
        monkeypatch.delenv(name, raising=False)


def register(
    database: Database, host: str = HERE, age: float = 0.0, limit: dt.timedelta = LIMIT, schema: str = ""
) -> None:
    """A worker of that host gave its last heartbeat so many seconds ago, by the database's clock."""
    database.execute(
        f"INSERT INTO {schema}sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, heartbeat_at) "
        "VALUES (:host, 1, '1', 1, :limit, now() - make_interval(secs => :age))",
        host=host, limit=limit, age=age,
    )  # fmt: skip


def health(database: Database, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["health", "--database-url", database.url_string, *arguments])


def test_a_worker_with_a_young_heartbeat_is_healthy(database: Database) -> None:
    register(database, age=3)
    told = health(database)
    assert (told.exit_code, told.stderr) == (0, "")
    assert told.stdout.startswith(f"1 worker on {HERE}, last heartbeat 3.")
    register(database)
    register(database, age=60)
    register(database, host="elsewhere")
    assert health(database).stdout.startswith(f"2 workers on {HERE} (1 more without), last heartbeat 0.")


def test_no_worker_is_exit_code_1(database: Database) -> None:
    register(database, host="elsewhere")
    told = health(database)
    assert (told.exit_code, told.output) == (1, f"Error: no worker on {HERE}\n")


def test_a_heartbeat_beyond_the_workers_own_limit_is_exit_code_1(database: Database) -> None:
    register(database, age=31)
    register(database, age=40, limit=dt.timedelta(seconds=35))
    told = health(database)
    assert told.exit_code == 1
    assert told.output.startswith(f"Error: 2 workers on {HERE}, but the last heartbeat was 31.")
    register(database, age=40, limit=dt.timedelta(minutes=1))
    assert health(database).stdout.startswith(f"1 worker on {HERE} (2 more without), last heartbeat 40.")


def test_another_host_or_any(database: Database) -> None:
    register(database, host="web-1")
    assert health(database).exit_code == 1
    assert health(database, "--host", "web-1").stdout.startswith("1 worker on web-1, last heartbeat 0.")
    assert health(database, "--host", "web-2").exit_code == 1
    assert health(database, "--any-host").stdout.startswith("1 worker on any host, last heartbeat 0.")
    both = health(database, "--host", "web-1", "--any-host")
    assert (both.exit_code, "exclude each other" in both.output) == (2, True)


def test_the_limit_is_where_others_would_take_it_for_dead(session: Session) -> None:
    """The very moment counts as too late, as it does for `bury`."""
    worker_id = lifecycle.register(
        session, Job, host="clock", pid=1, version="1", queues=None, threads=1, heartbeat_limit=LIMIT
    )
    began = session.get_one(companions(None).WorkerProcess, worker_id).heartbeat_at
    instant = dt.timedelta(microseconds=1)
    assert lifecycle.health(session, None, "clock", now=began + LIMIT - instant) == (
        1, LIMIT - instant, 1, LIMIT - instant
    )  # fmt: skip
    assert lifecycle.health(session, None, "clock", now=began + LIMIT) == (1, LIMIT, 0, None)
    assert lifecycle.health(session, None, "nowhere") == (0, None, 0, None)


def test_missing_tables_are_exit_code_3(empty_database: Database) -> None:
    told = health(empty_database)
    assert told.exit_code == 3
    assert "The sqla_jobs tables are not in the default schema." in told.output


def test_a_schema_of_its_own(empty_database: Database, tmp_path: Path) -> None:
    migrations.migrate(empty_database.engine, schema="queue")
    assert health(empty_database).exit_code == 3
    told = health(empty_database, "--schema", "queue")
    assert (told.exit_code, told.output) == (1, f"Error: no worker on {HERE}\n")
    register(empty_database, schema="queue.")
    assert health(empty_database, "--schema", "queue").exit_code == 0
    metadata.create_all(empty_database.engine)
    assert health(empty_database).exit_code == 1


APP = """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, sessionmaker
from sqla_jobs import JobMixin, Jobs


class Base(DeclarativeBase):
    pass


class Job(JobMixin, Base):
    __table_args__ = {"schema": "queue"}


jobs = Jobs(Job, sessionmaker(create_engine(os.environ["SHOP"])))
"""


def test_the_application_says_where_its_tables_are(empty_database: Database, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    migrations.migrate(empty_database.engine, schema="queue")
    register(empty_database, schema="queue.")
    own = run("health", "shop:jobs", folder=tmp_path, SHOP=empty_database.url_string)
    assert (own.code, own.errors) == (0, "")
    assert own.output.startswith(f"1 worker on {HERE}, last heartbeat ")
    named = run(
        "health", "shop:jobs", "--database-url", empty_database.url_string,
        folder=tmp_path, SHOP="postgresql+psycopg:///none?host=/nowhere",
    )  # fmt: skip
    assert named.code == 0


def test_both_an_application_and_a_schema_are_refused() -> None:
    told = CliRunner().invoke(main, ["health", "shop:jobs", "--schema", "queue"])
    assert (told.exit_code, "exclude each other" in told.output) == (2, True)


def test_no_database_named_is_exit_code_2() -> None:
    told = CliRunner().invoke(main, ["health"])
    assert (told.exit_code, "no database is named" in told.output) == (2, True)


def test_a_database_that_does_not_answer_is_exit_code_1_and_one_line() -> None:
    told = CliRunner().invoke(main, ["health", "--database-url", "postgresql:///none?host=/nowhere"])
    assert told.exit_code == 1
    assert told.output.startswith("Error: the database says: ")
    assert told.output.count("\n") == 1


def test_a_database_that_does_not_accept_is_given_up_on() -> None:
    """It takes the connection and never says a word: the probe ends before whoever called it gives up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        url = f"postgresql://nobody@127.0.0.1:{port}/none?connect_timeout=2"
        told = CliRunner().invoke(main, ["health", "--database-url", url])
    assert told.exit_code == 1
    assert "timeout" in told.output


def test_an_error_of_the_database_is_exit_code_1_and_one_line(database: Database) -> None:
    database.execute("ALTER TABLE sqla_jobs_workers DROP heartbeat_at")
    told = health(database)
    assert told.exit_code == 1
    assert told.output.startswith(
        "Error: the database says: column sqla_jobs_workers.heartbeat_at does not exist"
    )
    assert told.output.count("\n") == 1


def test_a_real_worker_is_healthy_until_it_says_goodbye(database: Database, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text("from sqla_jobs import Jobs\njobs = Jobs()\n")
    with command("worker", "app:jobs", folder=tmp_path, DATABASE_URL=database.url_string) as worker:
        worker.wait_for("worker 1 started")
        assert health(database).stdout.startswith(f"1 worker on {HERE}, ")
        worker.interrupt()
        assert worker.wait() == 0
    assert health(database).output == f"Error: no worker on {HERE}\n"
