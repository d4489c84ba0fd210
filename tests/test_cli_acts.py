"""`sqla-jobs jobs retry|cancel|delete`: by ids and by filters, in batches, asked about, and passed over."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from sqla_jobs import inspection
from sqla_jobs.cli import acts
from tests.support.program import LIBRARY, ROOT, run
from tests.support.server import Database
from tests.support.typed import Shell


@pytest.fixture
def shell(database: Database) -> Shell:
    return Shell(database)


def states(shell: Shell) -> dict[int, str]:
    return {row.id: row.state for row in shell.database.rows("SELECT id, state FROM sqla_jobs ORDER BY id")}


def fill(shell: Shell, number: int, state: str = "failed") -> None:
    finished = "now()" if state in ("failed", "succeeded", "cancelled") else "NULL"
    shell.database.execute(
        f"INSERT INTO sqla_jobs (task, state, finished_at) SELECT 't', '{state}', {finished} "
        f"FROM generate_series(1, {number})"
    )


# -- by ids ----------------------------------------------------------------------------------------


def test_by_ids(shell: Shell) -> None:
    fill(shell, 3)
    told = shell("jobs", "retry", "1", "3", "3", "--yes")
    assert (told.exit_code, told.output) == (0, "2 jobs retried\n")
    assert states(shell) == {1: "queued", 2: "failed", 3: "queued"}
    told = shell("jobs", "cancel", "1", "--yes")
    assert (told.exit_code, told.output) == (0, "1 job cancelled\n")
    told = shell("jobs", "delete", "1", "2", "--yes")
    assert (told.exit_code, told.output) == (0, "2 jobs deleted\n")
    assert states(shell) == {3: "queued"}


def test_what_is_passed_over_is_told_with_its_reason(shell: Shell) -> None:
    fill(shell, 1)
    shell.job(state="running", worker_id=7)
    told = shell("jobs", "delete", "1", "2", "99", "--yes")
    assert told.exit_code == 4
    assert told.stdout.startswith("1 job deleted; passed over: ")
    assert "1 running" in told.stdout
    assert told.stderr == "Error: not deleted: 2 of 3 jobs\n"
    assert states(shell) == {2: "running"}


def test_a_job_that_somebody_has_locked_is_passed_over_and_not_waited_for(shell: Shell) -> None:
    fill(shell, 2)
    with shell.database.engine.begin() as connection:
        connection.execute(text("SELECT * FROM sqla_jobs WHERE id = 1 FOR UPDATE"))
        told = shell("jobs", "retry", "1", "2", "--yes")
    assert (told.exit_code, told.stdout) == (4, "1 job retried; passed over: 1 busy\n")


# -- by filters ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "left"),
    [
        ("retry", {1: "scheduled", 2: "queued", 3: "running", 4: "succeeded", 5: "queued", 6: "cancelled"}),
        (
            "cancel",
            {1: "cancelled", 2: "cancelled", 3: "running", 4: "succeeded", 5: "failed", 6: "cancelled"},
        ),
        ("delete", {1: "scheduled", 2: "queued", 3: "running"}),
    ],
)
def test_a_filter_without_a_state_means_the_usual_ones(shell: Shell, verb: str, left: dict[int, str]) -> None:
    for state in ("scheduled", "queued", "running", "succeeded", "failed", "cancelled"):
        shell.job(state=state)
    told = shell("jobs", verb, "--task", "t", "--yes")
    assert told.exit_code == 0
    assert states(shell) == left


def test_only_what_the_filter_means(shell: Shell) -> None:
    shell.job("a", "failed", arguments={"n": 1})
    shell.job("a", "failed", arguments={"n": 2})
    shell.job("b", "failed", arguments={"n": 1})
    assert shell("jobs", "retry", "--task", "a", "--arg", "n=1", "--yes").output == "1 job retried\n"
    assert states(shell) == {1: "queued", 2: "failed", 3: "failed"}


def test_many_are_done_in_batches_each_committed(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "BATCH", 10)
    fill(shell, 25)
    assert shell("jobs", "retry", "--state", "failed", "--yes").output == "25 jobs retried\n"
    told = shell.database.rows("SELECT count(*) FROM sqla_jobs GROUP BY xmin ORDER BY 1")
    assert [row[0] for row in told] == [5, 10, 10]


def test_no_more_than_was_said(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others that come to match meanwhile were not asked about."""
    fill(shell, 3, "queued")
    asked = acts._confirm

    def confirm(*arguments: object) -> None:
        asked(*arguments)  # type: ignore[arg-type]
        fill(shell, 2, "queued")

    monkeypatch.setattr(acts, "_confirm", confirm)
    assert shell("jobs", "cancel", "--state", "queued", "--yes").output == "3 jobs cancelled\n"
    assert sorted(states(shell).values()) == ["cancelled"] * 3 + ["queued"] * 2


def test_nothing_that_matches_is_no_mistake(shell: Shell) -> None:
    told = shell("jobs", "delete", "--task", "x'y", "--yes")
    assert (told.exit_code, told.stdout) == (
        0, "no job matches --state succeeded --state failed --state cancelled --task 'x'\"'\"'y'\n",
    )  # fmt: skip


# -- dry run ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_a_dry_run_changes_nothing(shell: Shell, verb: str) -> None:
    state = "queued" if verb == "cancel" else "failed"
    fill(shell, 12, state)
    before = shell.database.rows("SELECT *, xmin FROM sqla_jobs ORDER BY id")
    told = shell("jobs", verb, "--state", state, "--dry-run")
    assert told.exit_code == 0
    assert told.stdout.splitlines()[-1] == f"would {verb}: 12 jobs, of which these are the first"
    assert len(told.stdout.splitlines()) == 2 + acts.SHOWN + 1
    done = acts.DONE[verb]  # type: ignore[index]
    told = shell("jobs", verb, "1", "99", "--dry-run")
    assert told.stdout.startswith(f"would be: 1 job {done}; passed over: 1 ")
    assert told.exit_code == 4
    after = shell.database.rows("SELECT *, xmin FROM sqla_jobs ORDER BY id")
    assert before == after


# -- the question ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
def test_without_a_terminal_it_is_refused(shell: Shell, verb: str) -> None:
    state = "queued" if verb == "cancel" else "failed"
    fill(shell, 3, state)
    for arguments, which in ((["--state", state], f"3 jobs (--state {state})"), (["1"], "job 1"),
                             (["1", "2"], "2 jobs")):  # fmt: skip
        told = shell("jobs", verb, *arguments, typed="y\n")
        assert (told.exit_code, told.stdout) == (2, "")
        assert (
            f"Error: This {verb}s {which}, in postgresql+psycopg://".replace("retrys", "retries")
            in told.stderr
        )
        assert told.stderr.endswith(": say --yes if that is what you want\n")
    assert set(states(shell).values()) == {state}


@pytest.mark.parametrize(("answer", "code", "left"), [("n", 1, 3), ("y", 0, 0)])
def test_in_a_terminal_it_asks_and_says_how_many(
    shell: Shell, tmp_path: Path, answer: str, code: int, left: int
) -> None:
    fill(shell, 3)
    typed, terminal = pty.openpty()
    os.write(typed, f"{answer}\n".encode())
    done = subprocess.run(
        [sys.executable, "-m", "sqla_jobs", "jobs", "delete", "--state", "failed"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{LIBRARY}:{ROOT}", "DATABASE_URL": shell.database.url_string},
        stdin=terminal,
        capture_output=True,
        text=True,
        timeout=60,
    )
    os.close(typed)
    os.close(terminal)
    assert done.returncode == code, done.stderr
    assert "This deletes 3 jobs (--state failed), in postgresql+psycopg://" in done.stdout
    assert len(states(shell)) == left


def test_a_number_that_was_not_counted_to_its_end_is_said_so(shell: Shell) -> None:
    fill(shell, 10_002)
    told = shell("jobs", "delete", "--state", "failed")
    assert (told.exit_code, "This deletes at least 10,000 jobs (--state failed), in" in told.stderr) == (
        2,
        True,
    )
    told = shell("jobs", "delete", "--state", "failed", "--yes")
    assert told.stdout == "10,002 jobs deleted\n"


def test_what_is_rare_among_many_is_found_though_it_could_not_be_counted(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count is of a bounded look; the act goes on until nothing follows."""
    import functools

    shell.job("rare", "failed", finished_at="2001-01-01 00:00+00")
    fill(shell, 300)
    monkeypatch.setattr(inspection, "count_jobs", functools.partial(inspection.count_jobs, look=100))
    told = shell("jobs", "retry", "--task", "rare")
    assert "This retries jobs that are too many to be counted (--state failed --task rare), in" in told.stderr
    assert shell("jobs", "retry", "--task", "rare", "--yes").stdout == "1 job retried\n"


@pytest.mark.parametrize("verb", ["retry", "cancel", "delete"])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", "Say which jobs to"),
        ("--dry-run", "Say which jobs to"),
        ("1 --state failed", "Say ids or a filter, not both."),
        ("0", "0 is not in the range x>=1"),
        ("x", "'x' is not a valid integer"),
        ("9223372036854775808", "is not in the range"),
        ("--task= --yes", "--task is empty: say what it is to be, or leave it out."),
        ("--state , --yes", "Say which jobs to"),
        ("--state done", "--state is 'done'"),
    ],
)
def test_mistakes(shell: Shell, verb: str, arguments: str, expected: str) -> None:
    fill(shell, 1)
    told = shell("jobs", verb, *arguments.split())
    assert (told.exit_code, told.stdout) == (2, "")
    assert expected in told.stderr.replace("1<=x<=9223372036854775807", "x>=1")
    assert states(shell) == {1: "failed"}


def test_in_a_process_of_its_own(shell: Shell, tmp_path: Path) -> None:
    fill(shell, 2)
    url = shell.database.url_string
    told = run("jobs", "retry", "--state", "failed", folder=tmp_path, DATABASE_URL=url)
    assert (told.code, told.output) == (2, "")
    assert told.errors.startswith("Error: This retries 2 jobs (--state failed), in postgresql+psycopg://")
    told = run("jobs", "retry", "1", "7", "--yes", folder=tmp_path, DATABASE_URL=url)
    assert (told.code, told.output.startswith("1 job retried; passed over: 1 ")) == (4, True)
