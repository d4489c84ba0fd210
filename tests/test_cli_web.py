"""`sqla-jobs web`: where it listens, for whom, and how it stops."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sqla_jobs.cli import main
from sqla_jobs.cli.web import VARIABLE
from tests.support.program import command
from tests.support.server import Database
from tests.support.web import Browser, raw
from tests.test_web_security import log_in

PASSWORD = "correct horse battery"
Command = Callable[..., Result]


@pytest.fixture
def sqla_jobs(monkeypatch: pytest.MonkeyPatch, database: Database, tmp_path: Path) -> Command:
    monkeypatch.setenv("DATABASE_URL", database.url_string)
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    return lambda *arguments, **options: CliRunner().invoke(main, arguments, **options)


@pytest.fixture
def hashed(sqla_jobs: Command) -> str:
    result = sqla_jobs("web", "hash-password", input=f"{PASSWORD}\n")
    assert result.exit_code == 0
    assert PASSWORD not in result.output
    return result.output


def test_hash_password_refuses_what_is_easily_guessed(sqla_jobs: Command) -> None:
    result = sqla_jobs("web", "hash-password", input="short\n")
    assert (result.exit_code, "expected 10 to 1000" in result.output) == (2, True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.com", ""])
def test_another_address_needs_a_password(sqla_jobs: Command, host: str) -> None:
    result = sqla_jobs("web", "--host", host)
    assert (result.exit_code, "no password is given" in result.output) == (2, True), result.output


def test_what_is_no_hash_is_refused_and_not_repeated(
    sqla_jobs: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kept").write_text(PASSWORD)
    for arguments, environment in ((["--password-file", "kept"], None), ([], PASSWORD)):
        if environment is not None:
            monkeypatch.setenv(VARIABLE, environment)
        result = sqla_jobs("web", *arguments)
        assert (result.exit_code, "is no hash of a password" in result.output) == (2, True)
        assert PASSWORD not in result.output
    result = sqla_jobs("web", "--password-file", "missing")
    assert (result.exit_code, "cannot be read" in result.output) == (2, True)


def test_the_application_has_its_schema(sqla_jobs: Command) -> None:
    result = sqla_jobs("web", "shop:jobs", "--schema", "x")
    assert (result.exit_code, "exclude each other" in result.output) == (2, True)


def test_a_port_that_is_taken(sqla_jobs: Command) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        result = sqla_jobs("web", "--port", str(taken.getsockname()[1]))
    assert (result.exit_code, "cannot listen on 127.0.0.1" in result.output) == (2, True)


def test_tables_that_are_missing(
    sqla_jobs: Command, empty_database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", empty_database.url_string)
    assert sqla_jobs("web").exit_code == 3


@pytest.mark.parametrize("package", ["starlette", "jinja2", "uvicorn"])
def test_without_the_extra_it_says_what_to_install(database: Database, package: str) -> None:
    program = (
        f"import sys; sys.modules[{package!r}] = None; from sqla_jobs.cli import main; "
        f"main(['web', '--database-url', {database.url_string!r}])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert f"needs {package}, which is not installed: pip install 'sqla-jobs[web]'" in done.stderr
    assert "Traceback" not in done.stderr


APP = """
from sqla_jobs import Jobs

jobs = Jobs()


@jobs.task(name="known.task")
def known(session):
    pass
"""


def test_alone_it_serves_this_machine_and_stops_on_demand(database: Database, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(APP)
    with command(
        "web", "shop:jobs", "--port", "0", folder=tmp_path, DATABASE_URL=database.url_string
    ) as program:
        url = program.wait_for(r"the dashboard is at (http://127\.0\.0\.1:\d+)/")[1]
        browser = Browser(url)
        assert "known.task" in browser.text("/jobs")
        assert raw(url, "GET / HTTP/1.1\nHost: evil.example\nConnection: close\n\n").startswith(
            "HTTP/1.1 421"
        )
        assert "is paused" in browser.follow(browser.send("/act/queue", {"verb": "pause", "queue": "mail"}))
        assert program.wait_for("sqla_jobs.audit: dashboard: 127.0.0.1")
        with browser.http.stream("GET", "/live") as stream:
            lines = stream.iter_lines()
            next(lines)
            program.send(signal.SIGTERM)
            reader = threading.Thread(target=list, args=(lines,))
            reader.start()
            assert program.wait() == 0, program.errors
            reader.join()
        browser.http.close()
    assert "Traceback" not in program.errors


def test_with_a_password_everybody_logs_in(database: Database, tmp_path: Path, hashed: str) -> None:
    (tmp_path / "kept").write_text(hashed)
    arguments = [
        "web",
        "--port",
        "0",
        "--password-file",
        "kept",
        "--user",
        "ann",
        "--allow-host",
        "ops.example.com",
    ]
    with command(*arguments, folder=tmp_path, DATABASE_URL=database.url_string) as program:
        browser = Browser(program.wait_for(r"the dashboard is at (http://127\.0\.0\.1:\d+)/")[1])
        assert browser.get("/jobs").headers["location"] == "/login"
        assert log_in(browser, "ann", PASSWORD).status_code == 303
        assert browser.get("/jobs").status_code == 200
        told = raw(browser.url, "GET /login HTTP/1.1\nHost: ops.example.com\nConnection: close\n\n")
        assert told.startswith("HTTP/1.1 200")
        assert re.search(r"x-powered|\nserver:", told, re.IGNORECASE) is None
        program.interrupt()
        assert program.wait() == 0, program.errors
        browser.http.close()
    assert PASSWORD not in program.errors
