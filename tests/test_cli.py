"""The command line: what it refuses and how, `migrate`, help."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from sqlalchemy import text

from sqla_jobs.cli import main
from tests.support.program import LIBRARY, ROOT, Program, command, run
from tests.support.server import Database

APP = """
from sqla_jobs import Jobs

queue = Jobs()


@queue.task
def work(session) -> None:
    pass
"""

BROKEN = """
from sqla_jobs import Jobs

jobs = Jobs()


@jobs.task(priority="high")
def work(session) -> None:
    pass
"""

PASSWORD = "postgresql://shop:s3cret@"


@dataclass(frozen=True)
class Case:
    arguments: str
    expected: str
    code: int = 2
    environment: dict[str, str] = field(default_factory=dict)


REFUSED = {
    "no command": Case("wrok", "No such command 'wrok'"),
    "no target": Case("worker", "Missing argument 'MODULE:JOBS'"),
    "no colon": Case("worker app", "'app' names no Jobs; expected MODULE:JOBS"),
    "a path": Case("worker ./app.py:queue", "'./app.py:queue' names no Jobs"),
    "no module": Case("worker nowhere.jobs:jobs", "there is no module 'nowhere'"),
    "no submodule": Case("worker app.jobs:jobs", "there is no module 'app.jobs'"),
    "no attribute": Case("worker app:jobs", "module 'app' has no 'jobs'; did you mean app:queue?"),
    "no attribute deeper": Case("worker app:queue.jobs", "did you mean app:queue?"),
    "not a Jobs": Case("worker app:work", "app:work is not a Jobs but of type Task: <Task app.work>"),
    "no Jobs at all": Case("worker json:loads", "there is no Jobs in that module"),
    "a broken module": Case("worker broken:jobs", "module 'broken' could not be imported: InvalidOption"),
    "a missing import": Case("worker lacking:jobs", "could not be imported: ModuleNotFoundError"),
    "a module that exits": Case("worker leaving:jobs", "could not be imported: SystemExit"),
    "no database": Case(
        "worker app:queue", "no database is named: give --database-url, or set SQLA_JOBS_DATA"
    ),
    "an empty option": Case("migrate --database-url=", "--database-url is not a database URL"),
    "not a URL": Case("migrate --database-url s3cret", "--database-url is not a database URL; expected"),
    "a bad port": Case(f"migrate --database-url {PASSWORD}host:x/db", "--database-url is not a database URL"),
    "another database": Case("migrate", "DATABASE_URL is a URL of sqlite", 2, {"DATABASE_URL": "sqlite://"}),
    "another driver": Case(
        "migrate",
        "asks for the driver asyncpg, and sqla_jobs works with psycopg: expected postgresql://user:password@host"
        ":port/database, or set SQLA_JOBS_DATABASE_URL, which goes before DATABASE_URL",
        2,
        {"DATABASE_URL": "postgresql+asyncpg://host/db"},
    ),
    "nothing to migrate": Case("migrate", "no database is named"),
    "threads": Case("worker app:queue --threads 0", "0 is not in the range x>=1"),
    "a queue's name": Case("worker app:queue --queues a,,b --database-url postgresql://", "queue name ''"),
    "an interval": Case("worker app:queue --poll-interval nan", "nan is not a number of seconds"),
    "a long interval": Case("worker app:queue --poll-interval 1e300", "1e+300 is not a number of seconds"),
    "a limit": Case(
        "worker app:queue --heartbeat-limit 1 --database-url postgresql://",
        "expected at least twice the heartbeat_interval",
    ),
    "the demo's file": Case("demo --csv nowhere.csv", "File 'nowhere.csv' does not exist"),
}

# One process for all: each would spend its time on imports.
DRIVER = """
import json, os, sys
from click.testing import CliRunner
from sqla_jobs.cli import main

for name in ("SQLA_JOBS_DATABASE_URL", "DATABASE_URL"):
    os.environ.pop(name, None)
results = {}
for name, arguments, environment in json.load(open(sys.argv[1])):
    result = CliRunner().invoke(main, arguments.split(" "), env=environment, prog_name="sqla-jobs")
    results[name] = [result.exit_code, result.output]
json.dump(results, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    folder = tmp_path_factory.mktemp("refusals")
    (folder / "app.py").write_text(APP)
    (folder / "broken.py").write_text(BROKEN)
    (folder / "lacking.py").write_text("import app\nimport nowhere_at_all\n")
    (folder / "leaving.py").write_text("raise SystemExit(7)\n")
    cases = folder / "cases.json"
    cases.write_text(json.dumps([(name, case.arguments, case.environment) for name, case in REFUSED.items()]))
    with Program("-c", DRIVER, str(cases), folder=folder, environment={}) as program:
        assert program.wait() == 0, program.errors
    return {name: (code, told) for name, (code, told) in json.loads(cases.read_text()).items()}


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_told_without_a_traceback_of_ours(
    name: str, refusals: dict[str, tuple[int, str]]
) -> None:
    code, told = refusals[name]
    assert (code, True) == (REFUSED[name].code, REFUSED[name].expected in told), told
    assert "s3cret" not in told
    assert str(LIBRARY / "sqla_jobs" / "cli") not in told


def test_a_module_that_cannot_be_imported_shows_its_own_line(refusals: dict[str, tuple[int, str]]) -> None:
    _, told = refusals["a broken module"]
    assert 'broken.py", line 7, in <module>' in told
    assert "No module named 'nowhere_at_all'" in refusals["a missing import"][1]


def test_a_refusal_in_a_process_of_its_own(tmp_path: Path) -> None:
    refused = run("worker", "app", folder=tmp_path)
    assert (refused.code, refused.output) == (2, "")
    assert refused.errors.startswith("Error: 'app' names no Jobs")


def test_version_names_what_matters_for_a_report(tmp_path: Path) -> None:
    told = run("--version", folder=tmp_path)
    assert told.code == 0
    for word in ("sqla-jobs", "SQLAlchemy", "alembic", "psycopg", "Python"):
        assert word in told.output


def commands(group: click.Group) -> dict[str, click.Command]:
    return {name: group.commands[name] for name in sorted(group.commands)}


@pytest.mark.parametrize("name", commands(main))
def test_every_command_and_option_has_help(name: str) -> None:
    found = commands(main)[name]
    assert found.help
    for parameter in found.params:
        # A choice speaks for itself.
        assert (
            not isinstance(parameter, click.Option)
            or parameter.help
            or isinstance(parameter.type, click.Choice)
        )


# -- migrate -----------------------------------------------------------------------------------------

WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('sqla_jobs.migrate', 0))"


def test_four_at_once_and_each_says_what_it_did(tmp_path: Path, empty_database: Database) -> None:
    url = empty_database.url_string
    with empty_database.engine.begin() as connection:
        connection.execute(text(LOCK))
        programs = [
            Program("-m", "sqla_jobs", "migrate", folder=tmp_path, environment={"DATABASE_URL": url})
            for _ in range(4)
        ]
        until(lambda: empty_database.scalar(WAITING) == 4)
    told = []
    for program in programs:
        with program:
            assert program.wait() == 0, program.errors
            told.append(program.output)
    already = "sqla_jobs tables in the default schema: at 0004 already\n"
    assert sorted(told) == [already] * 3 + ["sqla_jobs tables in the default schema: nothing → 0004\n"]
    assert empty_database.scalar("SELECT sqla_jobs_schema_version()") == "0004"


def until(reached: Callable[[], bool]) -> None:
    for _ in range(1200):
        if reached():
            return
        threading.Event().wait(0.05)
    raise AssertionError("waited in vain")


def test_a_schema_of_its_own_and_back(tmp_path: Path, empty_database: Database) -> None:
    # postgres:// as hosters write it; SQLAlchemy does not know that name.
    url = empty_database.url_string.replace("postgresql+psycopg", "postgres")

    def migrate(*arguments: str) -> Program:
        return run("migrate", "--schema", "My Jobs", *arguments, folder=tmp_path, SQLA_JOBS_DATABASE_URL=url)

    assert migrate("--to", "0001").output == 'sqla_jobs tables in schema "My Jobs": nothing → 0001\n'
    assert empty_database.scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'My Jobs'") == 4

    unsure = migrate("--to", "base")
    assert unsure.code == 2
    assert "This drops sqla_jobs, sqla_jobs_queues" in unsure.errors
    assert "say --yes" in unsure.errors
    assert empty_database.scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'My Jobs'") == 4

    unknown = migrate("--to", "9999")
    assert (unknown.code, "There is no sqla_jobs revision '9999'" in unknown.errors) == (3, True)

    assert migrate("--to", "base", "--yes").output == 'sqla_jobs tables in schema "My Jobs": 0001 → nothing\n'
    assert empty_database.scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'My Jobs'") == 0
    # Nothing to lose, nothing to ask.
    assert migrate("--to", "base").output == 'sqla_jobs tables in schema "My Jobs": at nothing already\n'


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 4), ("y", 0, 0)])
def test_in_a_terminal_it_asks_before_it_drops(
    answer: str, code: int, left: int, tmp_path: Path, database: Database
) -> None:
    typed, terminal = pty.openpty()
    os.write(typed, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "sqla_jobs", "migrate", "--to", "base", "--database-url", database.url_string],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{LIBRARY}:{ROOT}"},
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(typed)
    os.close(terminal)
    assert done.returncode == code, done.stderr
    assert "and all jobs from postgresql+psycopg://" in done.stdout
    assert database.scalar("SELECT count(*) FROM pg_tables WHERE tablename ~ '^sqla_jobs'") == left


def test_ctrl_c_at_the_lock_changes_nothing(tmp_path: Path, empty_database: Database) -> None:
    with empty_database.engine.begin() as connection:
        connection.execute(text(LOCK))
        with command("migrate", folder=tmp_path, DATABASE_URL=empty_database.url_string) as program:
            until(lambda: empty_database.scalar(WAITING) == 1)
            program.interrupt()
            assert program.wait() == 1
            assert "Aborted!" in program.errors
    assert empty_database.scalar("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'") == 0
