"""`sqla-jobs worker --processes M`: its options, what cannot start, a drain, the log."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest

from sqla_jobs.cli.supervise import without_processes
from tests.support.program import command, run
from tests.support.server import Database
from tests.support.supervised import APP, enqueue, pids, states, until, workers


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of an application, to start a worker in."""
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (["a:jobs", "--processes", "2", "--threads", "3"], ["a:jobs", "--threads", "3"]),
        (["--processes=2", "a:jobs", "--drain"], ["a:jobs", "--drain"]),
        (["--processes", "2", "--processes=3", "a:jobs"], ["a:jobs"]),
        (["--processes", "2", "--", "--processes"], ["--", "--processes"]),
    ],
)
def test_the_processes_have_the_options_of_the_command(given: list[str], kept: list[str]) -> None:
    assert without_processes(given) == kept


def test_what_cannot_start_says_so_once(folder: Path, empty_database: Database) -> None:
    nothing = run("worker", "nothing:jobs", "--processes", "3", folder=folder)
    assert nothing.code == 2
    assert nothing.errors.count("there is no module 'nothing'") == 1
    missing = run(
        "worker", "app:jobs", "--processes", "3", folder=folder, DATABASE_URL=empty_database.url_string
    )  # fmt: skip
    assert missing.code == 3
    assert missing.errors.count("The sqla_jobs tables are not in the default schema.") == 1
    usage = run("worker", "app:jobs", "--processes", "0", folder=folder)
    assert usage.code == 2
    assert "started" not in usage.errors


def test_a_database_that_is_away_at_the_start_is_waited_for(folder: Path) -> None:
    with command(
        "worker", "app:jobs", "--processes", "2", folder=folder, DATABASE_URL="postgresql:///none?host=/no"
    ) as program:
        until(program, "ended with exit code 1 before it was ready; another is started in 0.5 s")
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_a_drain_by_two_processes_does_each_job_once(folder: Path, database: Database) -> None:
    enqueue(database, "write", 200)
    # A process that ends because it has run enough is followed by another one.
    drained = run(
        "worker", "app:jobs", "--drain", "--processes", "2", "--threads", "2", "--max-jobs", "60",
        folder=folder, DATABASE_URL=database.url_string,
    )  # fmt: skip
    assert drained.code == 0, drained.errors
    assert set(states(database)) == {"succeeded"}
    assert database.scalar("SELECT count(DISTINCT job_id) FROM effects") == 200
    assert database.scalar("SELECT count(*) FROM effects") == 200
    assert len(re.findall("ended with exit code 0; another is started$", drained.errors, re.MULTILINE)) >= 2
    assert " jobs finished" not in drained.errors, "progress of one process among several"
    told = [int(number) for number in re.findall(r": finished (\d+) \(0 failed\)", drained.errors)]
    assert sum(told) == 200


def test_a_job_sees_nothing_of_the_supervisor(folder: Path, database: Database) -> None:
    enqueue(database, "look")
    looked = run(
        "worker", "app:jobs", "--drain", "--processes", "1", folder=folder, DATABASE_URL=database.url_string
    )  # fmt: skip
    assert looked.code == 0, looked.errors
    assert looked.output == "channel: False arguments: worker app:jobs --drain\n"


def test_the_supervisor_logs_in_the_same_format(folder: Path, database: Database) -> None:
    with workers(folder, database, "--log-format", "json") as program:
        os.kill(pids(program)[1], signal.SIGKILL)
        until(program, "another is started")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    records = [json.loads(line) for line in program.errors.splitlines()]
    [death] = [record for record in records if record.get("exit_code") == -signal.SIGKILL]
    assert death["child_pid"] == pids(program)[1]
    assert (death["level"], death["logger"]) == ("warning", "sqla_jobs")
