"""One line for each outcome, with what it waited and ran; as text, as JSON, in the colours of a terminal."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import subprocess
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, Job, Jobs, RetryPolicy, Snooze
from sqla_jobs.cli.output import Json
from sqla_jobs.cli.pretty import Pretty
from tests.support.fast import Fast, unhurried
from tests.support.program import LIBRARY, Program
from tests.support.server import Database
from tests.support.work import drain

TIMES = r"\((waited \d+\.\d ms, )?ran \d+\.\d ms\)"


def outcomes(records: list[logging.LogRecord]) -> list[Any]:
    return [each for each in records if hasattr(each, "run_ms")]


def test_each_outcome_has_a_line_with_what_it_waited_and_ran(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    jobs = Jobs()

    @jobs.task(name="end", retry=RetryPolicy(max_attempts=2, base=timedelta(hours=1)), queue="mail")
    def end(session: Session, how: str) -> Any:
        if how == "fails":
            raise ValueError("no\nmore")
        return {"cancels": Cancel("enough"), "snoozes": Snooze(timedelta(hours=1))}.get(how)

    with database.sessionmaker.begin() as session:
        for how in ("succeeds", "fails", "cancels", "snoozes"):
            end.enqueue(session, how)
        end.using(max_attempts=1).enqueue(session, "fails")
    with caplog.at_level(logging.INFO, "sqla_jobs"):
        finished = drain(jobs, database)
    lines = outcomes(caplog.records)
    told = [each.getMessage() for each in lines]
    assert re.fullmatch(rf"job 1 \(end\) succeeded {TIMES}", told[0])
    assert re.fullmatch(rf"job 2 .* 1 of 2 failed, now scheduled {TIMES}: ValueError: no", told[1])
    assert re.fullmatch(rf"job 3 \(end\) cancelled {TIMES}: enough", told[2])
    assert re.fullmatch(rf"job 4 \(end\) scheduled {TIMES}", told[3])
    assert re.fullmatch(rf"job 5 \(end\) attempt 1 of 1 failed, now failed {TIMES}: ValueError: no", told[4])
    levels = [each.levelname for each in lines]
    assert levels == ["INFO", "WARNING", "INFO", "INFO", "ERROR"]
    for line, end_of in zip(lines, finished, strict=True):
        assert (line.job_id, line.task, line.queue, line.attempt) == (end_of.job.id, "end", "mail", 1)
        assert line.state == end_of.state
        assert end_of.wait is not None
        assert end_of.duration is not None
        assert line.wait_ms == round(end_of.wait.total_seconds() * 1000, 3)
        assert line.run_ms == round(end_of.duration.total_seconds() * 1000, 3)


def test_what_is_waited_is_what_the_row_says_and_what_is_run_is_the_task(database: Database) -> None:
    jobs = Jobs()
    slept: list[float] = []

    @jobs.task(name="sleep")
    def sleep(session: Session) -> None:
        session.connection().exec_driver_sql("SELECT pg_sleep(0.05)")
        slept.append(0.05)

    with database.sessionmaker.begin() as session:
        sleep.enqueue(session)
    (finished,) = drain(jobs, database)
    with database.sessionmaker() as session:
        row = session.get_one(Job, finished.job.id)
        assert finished.wait == row.wait
        assert row.duration is not None
        assert finished.duration is not None
        assert timedelta(seconds=0.05) <= finished.duration <= row.duration


def test_a_group_has_one_line_and_at_debug_each_of_its_jobs(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    fast = Fast(database)

    def fail(session: Session) -> None:
        raise ValueError("no")

    failing = fast.task(fail, name="fail")
    for level, number in ((logging.INFO, 2), (logging.DEBUG, 5)):
        caplog.clear()
        fast.enqueue(*[fast.note.job("x") for _ in range(3)], failing.job())
        with caplog.at_level(level, "sqla_jobs"), unhurried():
            fast.drain()
        lines = outcomes(caplog.records)
        assert len(lines) == number
        (group,) = [each for each in lines if hasattr(each, "jobs")]
        assert re.fullmatch(
            rf"3 jobs succeeded in one transaction {TIMES}: note \u00d7 3", group.getMessage()
        )
        assert group.jobs == 3


def record(**values: Any) -> logging.LogRecord:
    return logging.makeLogRecord({"name": "sqla_jobs", "levelno": 20, "levelname": "INFO", **values})


def test_json_has_the_text_of_an_error_that_was_cleaned() -> None:
    seen = json.loads(Json().format(record(msg="job 7", exc_text="ValueError: [redacted]", wait_ms=1.5)))
    assert (seen["exception"], seen["wait_ms"]) == ("ValueError: [redacted]", 1.5)


@pytest.mark.parametrize(
    ("state", "colour"), [("succeeded", "32"), ("failed", "31"), ("scheduled", "33"), ("cancelled", "35")]
)
def test_a_terminal_shows_outcomes_in_their_colours_and_nothing_steers_it(state: str, colour: str) -> None:
    screen = io.StringIO()
    handler = Pretty(Console(file=screen, force_terminal=True, color_system="standard", width=40))
    told = "job 7 [bold]done[/bold] \x1b]0;title\x07 " + "long " * 20
    handler.emit(record(msg=told, state=state, exc_text="Traceback \x1b[2J\n  KeyError: 1"))
    seen = screen.getvalue()
    assert f"\x1b[{colour}mjob 7 [bold]done[/bold] \\x1b]0;title\\x07" in seen
    assert "\x1b[2J" not in seen
    assert "Traceback \\x1b[2J" in seen
    assert seen.count("\n") == 3, "a long line is the terminal's to break"


def test_an_error_in_a_terminal_has_its_traceback_and_a_foreign_logger_its_name() -> None:
    screen = io.StringIO()
    handler = Pretty(Console(file=screen, force_terminal=True, no_color=True, width=200))
    try:
        raise KeyError("k")
    except KeyError as error:
        seen = (KeyError, error, error.__traceback__)
        handler.emit(record(name="shop", msg="gone", levelno=40, levelname="ERROR", exc_info=seen))
    seen_there = re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())
    assert "error   shop: gone\n" in seen_there
    assert "KeyError: 'k'" in screen.getvalue()


APP = """
from sqla_jobs import Jobs
jobs = Jobs()
@jobs.task(name="write")
def write(session): pass
"""


@pytest.mark.parametrize(
    ("options", "pretty"), [((), True), (("--log-format", "pretty"), True), (("--log-format", "text"), False)]
)
def test_the_format_goes_by_the_terminal(
    tmp_path: Path, database: Database, options: tuple[str, ...], pretty: bool
) -> None:
    (tmp_path / "app.py").write_text(APP)
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('write')")
    command = [sys.executable, "-m", "sqla_jobs", "worker", "app:jobs", "--max-jobs", "1", *options]
    given = {**os.environ, "DATABASE_URL": database.url_string, "TERM": "xterm", "PYTHONPATH": str(LIBRARY)}
    master, slave = pty.openpty()
    seen = b""
    with subprocess.Popen(command, cwd=tmp_path, env=given, stderr=slave, stdin=slave) as process:
        os.close(slave)
        with suppress(OSError):  # when its other end is closed
            while read := os.read(master, 65536):
                seen += read
    os.close(master)
    assert process.returncode == 0
    assert b"job 1 (write) succeeded" in seen
    assert (b"\x1b[" in seen) is pretty


def test_where_there_is_no_terminal_pretty_is_text(tmp_path: Path, database: Database) -> None:
    (tmp_path / "app.py").write_text(APP)
    database.execute("INSERT INTO sqla_jobs (task) VALUES ('write')")
    arguments = ("-m", "sqla_jobs", "worker", "app:jobs", "--drain", "--log-format", "pretty")
    with Program(*arguments, folder=tmp_path, environment={"DATABASE_URL": database.url_string}) as program:
        line = program.wait_for(r"job 1 \(write\) succeeded")
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO sqla_jobs: job 1 ", line.string)
