"""`sqla-jobs doctor`: what it prints, and the exit codes that CI goes by."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sqla_jobs.cli import main
from sqla_jobs.doctor import examination, settings
from sqla_jobs.doctor.finding import command, literal, span
from tests.support.doctor import add, employ
from tests.support.server import Database

Command = Callable[..., Result]
APP = """
import os
from sqlalchemy import create_engine
from sqlalchemy.orm import sessionmaker
from sqla_jobs import Jobs

engine = create_engine(os.environ["APP_URL"], pool_size=1, max_overflow=0)
jobs = Jobs(sessionmaker=sessionmaker(engine))


@jobs.task(name="t")
def t(session) -> None: ...
"""


@pytest.fixture
def sqla_jobs(database: Database, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, on the database of the test."""
    monkeypatch.setenv("DATABASE_URL", database.url_string)
    monkeypatch.delenv("SQLA_JOBS_DATABASE_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(main, ["doctor", *arguments])


@pytest.fixture(autouse=True)
def in_production(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of the server's own settings are left out: it is set up for tests, and others use it."""
    left = tuple(
        each
        for each in examination.OF_SERVER
        if each not in (settings.check_durability, settings.check_autovacuum)
    )
    monkeypatch.setattr(examination, "OF_SERVER", left)


def test_a_healthy_database(sqla_jobs: Command) -> None:
    result = sqla_jobs()
    assert (result.exit_code, result.output) == (0, "24 checks: nothing found\n")
    result = sqla_jobs("--json", "--strict")
    assert (result.exit_code, json.loads(result.output)) == (
        0, {"worst": None, "checks": 24, "findings": []},
    )  # fmt: skip


def test_a_warning_is_a_failure_if_that_is_asked_for(sqla_jobs: Command, database: Database) -> None:
    employ(database)
    add(database, task="gone")
    result = sqla_jobs()
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "warning task-unknown",
        (
            "  1 job of task 'gone', which no worker knows that lives (the first 10,000 of each state were "
            "looked at): each attempt fails, until none is left"
        ),
        "    deploy the code that has it, or sqla-jobs jobs cancel --task gone",
        "",
        "24 checks: 1 warning",
    ]
    assert sqla_jobs("--strict").exit_code == 1


def test_an_error_is_a_failure(sqla_jobs: Command, database: Database) -> None:
    database.execute("ALTER TABLE sqla_jobs DROP CONSTRAINT ck_sqla_jobs_state")
    result = sqla_jobs("--json")
    assert result.exit_code == 1
    told = json.loads(result.output)
    assert told["worst"] == "error"
    [found] = told["findings"]
    assert found["code"] == "constraint-missing"
    assert found["data"]["constraint"] == "ck_sqla_jobs_state"
    assert found["cure"].startswith('ALTER TABLE public.sqla_jobs ADD CONSTRAINT "ck_sqla_jobs_state" CHECK')
    assert sqla_jobs().exit_code == 1


def test_an_info_is_none(sqla_jobs: Command, database: Database) -> None:
    employ(database, beat="40 s")
    database.execute("UPDATE sqla_jobs_workers SET died_at = statement_timestamp()")
    result = sqla_jobs("--strict")
    assert result.exit_code == 0
    assert "info worker-dead" in result.output


def test_it_moves_no_cursor_and_says_so_in_json_too(sqla_jobs: Command, database: Database) -> None:
    employ(database)
    add(database, task="\x1b[2Jgone\u202e[red]x\n")
    for arguments in ((), ("--json",)):
        told = sqla_jobs(*arguments).output
        assert "gone" in told
        assert "\x1b" not in told
        assert "\u202e" not in told
    assert "[red]x" in told


def test_a_schema_of_its_own_is_named_in_the_cure(sqla_jobs: Command) -> None:
    result = sqla_jobs("--schema", "not there")
    assert result.exit_code == 1
    assert "error tables-missing" in result.output
    assert "sqla-jobs migrate --schema 'not there'" in result.output


def test_a_database_that_cannot_be_reached(sqla_jobs: Command, tmp_path: Path) -> None:
    result = sqla_jobs("--json", "--database-url", f"postgresql:///x?host={tmp_path}")
    assert result.exit_code == 1
    assert "Error: the database says:" in result.output


def test_with_the_application_its_own_pool_is_looked_at(
    sqla_jobs: Command, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "doctored.py").write_text(APP)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("APP_URL", database.url_string)
    for url in (database.url_string, ""):
        monkeypatch.setenv("DATABASE_URL", url)
        result = sqla_jobs("--app", "doctored:jobs", "--json")
        assert [each["code"] for each in json.loads(result.output)["findings"]] == ["pool-small"]
        assert result.exit_code == 1
    assert sqla_jobs("--app", "doctored:jobs", "--schema", "s").exit_code == 2
    sys.modules.pop("doctored").engine.dispose()


@pytest.mark.parametrize(
    "words",
    [
        ("migrate",), ("jobs", "cancel", "7"), ("jobs", "cancel", "--task", "t"), ("jobs", "show", "7"),
        ("schedules", "disable", "nightly"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_the_commands_of_cures_exist(words: tuple[str, ...]) -> None:
    """As far as --help: it is looked at when all other options have been found."""
    program, *arguments = shlex.split(command(*words, schema="jobs"))
    result = CliRunner().invoke(main, [*arguments, "--help"])
    assert (program, result.exit_code) == ("sqla-jobs", 0), result.output


def test_what_is_copied_means_the_same_wherever_it_came_from(database: Database) -> None:
    for given in (
        "mail",
        "it's",
        "back\\slash",
        "\x1b[31m\n\u202e",
        "'; DROP TABLE sqla_jobs; --",
        "naïve 日本",
    ):
        told = literal(given)
        assert told.isprintable()
        assert database.scalar(f"SELECT {told.replace(':', chr(92) + ':')}") == given
    assert command("jobs", "cancel", "--task", "$(rm x)", schema="a b") == (
        "sqla-jobs jobs cancel --task '$(rm x)' --schema 'a b'"
    )
    assert [span(each) for each in (5, 119, 120, 7200, 200_000)] == ["5 s", "119 s", "2 min", "2 h", "2 d"]
