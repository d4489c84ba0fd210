"""docs/examples/script, run as its README says: by itself, a second time, and with Ctrl-C in between."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.support.program import ROOT, Program
from tests.support.server import Database

SCRIPT = ROOT / "docs" / "examples" / "script" / "count_words.py"
pytestmark = pytest.mark.timeout(300)  # several processes, on a busy machine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "one.txt").write_text("one")
    (tmp_path / "two.txt").write_text("one two")
    return tmp_path


def start(folder: Path, database: Database, *paths: str) -> Program:
    return Program("count_words.py", *paths, folder=folder, environment={"DATABASE_URL": database.url_string})


def run(folder: Path, database: Database, *paths: str) -> Program:
    with start(folder, database, *paths) as script:
        script.wait()
    return script


def counts(script: Program) -> list[list[str]]:
    return [line.split() for line in script.output.splitlines()]


def test_it_counts_and_ends(folder: Path, empty_database: Database) -> None:
    script = run(folder, empty_database, "one.txt", "two.txt", "missing.txt", "two.txt")
    assert script.code == 0, script.errors
    assert counts(script) == [["1", "one.txt"], ["2", "two.txt"]]
    assert "missing.txt: [Errno 2] No such file" in script.errors
    rows = empty_database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY 1 ORDER BY 1")
    assert rows == [("failed", 1), ("succeeded", 2)]


def test_a_second_time_it_counts_what_is_new(folder: Path, empty_database: Database) -> None:
    run(folder, empty_database, "one.txt")
    (folder / "one.txt").write_text("not read again")
    script = run(folder, empty_database, "one.txt", "two.txt")
    assert script.code == 0, script.errors
    assert counts(script) == [["1", "one.txt"], ["2", "two.txt"]]
    assert empty_database.scalar("SELECT count(*) FROM sqla_jobs") == 2


def test_after_ctrl_c_the_next_run_goes_on(folder: Path, empty_database: Database) -> None:
    """All four threads read pipes that nobody has written to yet, so that the other files must wait.

    The pipes are first: keys are taken in the order of their names.
    """
    pipes = [f"a{number}.txt" for number in range(4)]
    for pipe in pipes:
        os.mkfifo(folder / pipe)
    with start(folder, empty_database, *pipes, "one.txt", "two.txt") as script:
        files = [(folder / pipe).open("w") for pipe in pipes]  # each opens when a job reads it
        script.send(signal.SIGINT)
        script.wait_for("letting the running jobs finish")
        for file in files:
            file.write("from a pipe")
            file.close()
        assert script.wait() == 1, script.errors
        assert counts(script) == [["3", pipe] for pipe in pipes]
        assert "2 still to be counted" in script.errors
    script = run(folder, empty_database)
    assert script.code == 0, script.errors
    assert counts(script) == [*(["3", pipe] for pipe in pipes), ["1", "one.txt"], ["2", "two.txt"]]
