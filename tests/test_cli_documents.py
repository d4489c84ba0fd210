"""`--json` of what is no job, and `sqla-jobs completion`."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sqla_jobs.cli import main
from tests.support.program import LIBRARY, ROOT
from tests.support.server import Database
from tests.support.typed import Shell, commands

CLI = (ROOT / "docs" / "cli.md").read_text()


@pytest.fixture
def shell(database: Database) -> Shell:
    return Shell(database)


def fields_in_the_docs(command: str, document: dict[str, object]) -> None:
    """All fields of a document are named in the section of its command."""
    [section] = [
        part for part in re.split(r"^## ", CLI, flags=re.MULTILINE) if part.startswith(f"{command}\n")
    ]

    def look(value: object) -> None:
        if isinstance(value, dict):
            for name, each in value.items():
                assert f"`{name}`" in section, f"{name} is not in the section of {command}"
                look(each)
        if isinstance(value, list):
            for each in value:
                look(each)

    look(document)


def test_every_reading_command_has_json() -> None:
    silent = {"worker", "migrate", "demo", "completion", "jobs", "cron", "web", "top"}
    writing = re.compile(r"jobs (retry|cancel|delete)|queues (pause|resume)|schedules (run|enable|disable)")
    for name, command in commands(main).items():
        has = any("--json" in parameter.opts for parameter in command.params)
        assert has is not (name in silent or name.startswith("web ") or bool(writing.fullmatch(name))), name


def test_jobs(shell: Shell) -> None:
    shell.job(arguments={}, attempts=[])
    fields_in_the_docs("sqla-jobs jobs", shell.json("jobs", "list"))
    fields_in_the_docs("sqla-jobs jobs", shell.json("jobs", "show", "1"))


def test_queues_workers_and_stats(shell: Shell) -> None:
    shell.job()
    shell.database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, running) VALUES "
        """('h', 1, 'v', 1, '1 h', '[{"id": 1, "progress": {"done": 1, "total": 2, "note": "n"}}]')"""
    )
    for name in ("queues", "workers", "stats"):
        fields_in_the_docs(f"sqla-jobs {name}", shell.json(name))


def test_schedules(shell: Shell) -> None:
    shell.database.execute(
        "INSERT INTO sqla_jobs_schedules (name, task, cron, every, enabled, next_run_at, timezone) VALUES "
        "('a', 't', NULL, '1 h', true, '2126-01-01 00:00+00', 'UTC'),"
        "('b', 't', '@daily', NULL, false, '2126-01-01 00:00+00', 'Europe/Paris'),"
        "('c', 't', 'x', NULL, true, NULL, 'UTC')"
    )
    shell("schedules", "run", "a")
    document = shell.json("schedules")
    fields_in_the_docs("sqla-jobs schedules", document)
    first, second, third = document["schedules"]
    assert first["next_times"] == [f"2126-01-01T0{hour}:00:00.000000+00:00" for hour in range(5)]
    assert (first["every"], first["timezone"], first["job"]) == (3600.0, None, {"id": 1, "state": "queued"})
    assert (second["next_times"], second["timezone"], second["enabled"]) == ([], "Europe/Paris", False)
    assert (third["next_times"], "expected" in third["error"]) == ([], True)
    assert shell("schedules", "--json", "run", "a").exit_code == 2


def test_cron(shell: Shell) -> None:
    document = shell.json("cron", "explain", "@daily", "--after", "2031-01-01T00:00+00:00", "--count", "2")
    fields_in_the_docs("sqla-jobs cron", document)
    assert document == {
        "line": "@daily",
        "timezone": "UTC",
        "times": ["2031-01-02T00:00:00.000000+00:00", "2031-01-03T00:00:00.000000+00:00"],
    }


def test_health_has_a_document_also_where_no_worker_lives(shell: Shell) -> None:
    told = shell("health", "--json")
    assert (told.exit_code, told.stderr) == (1, f"Error: no worker on {socket.gethostname()}\n")
    assert json.loads(told.stdout)["healthy"] is False
    shell.database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, heartbeat_at) "
        "VALUES ('h', 1, 'v', 1, '1 h', now() - interval '3 s')"
    )
    document = shell.json("health", "--any-host")
    fields_in_the_docs("sqla-jobs health", document)
    assert 3 <= document.pop("heartbeat_age") == document.pop("living_heartbeat_age") < 60
    assert document == {"healthy": True, "host": None, "known": 1, "living": 1}


# -- completion ------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A PATH with this library's `sqla-jobs` in it."""
    program = tmp_path / "sqla-jobs"
    program.write_text(
        f"#!/bin/sh\nPYTHONPATH={LIBRARY}:{ROOT} exec {sys.executable} -c "
        '\'from sqla_jobs.cli import main; main(prog_name="sqla-jobs")\' "$@"\n'
    )
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def test_bash_completes_commands_and_states(path: str) -> None:
    """A real bash, which reads the script and is asked what it would offer."""
    script = """
        eval "$(sqla-jobs completion bash)" || exit 1
        asked() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _sqla_jobs_completion sqla-jobs
            echo "${COMPREPLY[@]}"
        }
        asked sqla-jobs jobs l
        asked sqla-jobs jobs list --state s
        complete -p sqla-jobs
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert done.stderr == ""
    command, states, registered = done.stdout.splitlines()
    assert (command, states) == ("list", "scheduled succeeded")
    assert "_sqla_jobs_completion" in registered


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_the_scripts_of_the_other_shells_ask_the_program(shell: Shell, name: str) -> None:
    told = shell("completion", name)
    assert told.exit_code == 0
    assert f"_SQLA_JOBS_COMPLETE={name}_complete" in told.stdout
    assert shell("completion", "cmd").exit_code == 2
