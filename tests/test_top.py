"""`sqla-jobs top` in a real terminal, on a real database, with a real worker."""

from __future__ import annotations

import datetime as dt
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sqla_jobs import Job, Jobs, Worker
from sqla_jobs.cli import main
from sqla_jobs.cli.top.facts import Action, Panel, Wish
from sqla_jobs.cli.top.source import Source
from tests.support.server import Database
from tests.support.terminal import ENTER, ESCAPE, SCREEN_LEFT, SCREEN_TAKEN, TAB, Screen
from tests.support.waiting import blocked, until
from tests.support.work import NEVER_AGAIN, SOON

EVIL = "E'\\x1b[31mred\\x07\\x1b]0;title\\x07'"
FAILED = """
    INSERT INTO sqla_jobs (task, queue, state, attempt, started_at, finished_at, arguments, attempts, meta)
    VALUES ('charge', 'cards', 'failed', 1, now() - interval '1 s', now(),
            '{"order": 7, "card_number": "4111-1111"}',
            '[{"attempt": 1, "error": "ConnectionError", "message": "refused by peer",
               "traceback": "Traceback (most recent call last):\\n  File shop.py\\n"}]',
            '{"redact": ["card_number"]}')
"""


@contextmanager
def top(database: Database, folder: Path, *options: str, **environment: str) -> Iterator[Screen]:
    place = ("--database-url", database.url_string)
    arguments = ("-m", "sqla_jobs", "top", *place, "--interval", "0.2", *options)
    with Screen(*arguments, folder=folder, environment=environment) as screen:
        screen.wait_for("QUEUES|RUNNING")
        yield screen


# -- what one does in it -------------------------------------------------------------------------------


def test_a_queue_is_paused_and_resumed(database: Database, tmp_path: Path) -> None:
    database.execute("INSERT INTO sqla_jobs (task, queue, state) VALUES ('ship', 'mail', 'queued')")
    with top(database, tmp_path) as screen:
        screen.wait_for("^▸mail .* 1 ")
        screen.press("p")
        screen.wait_for(r"pause queue mail\?")
        assert database.scalar("SELECT count(*) FROM sqla_jobs_queues") == 0, "it has only asked"
        screen.press("n")
        screen.wait_for("nothing was done")
        screen.press("py")
        screen.wait_for("queue mail is paused")
        screen.wait_for("^▸mail +paused")
        assert database.scalar("SELECT paused_at IS NOT NULL FROM sqla_jobs_queues WHERE name = 'mail'")
        screen.press("py")
        screen.wait_for("queue mail is open again")
        screen.wait_for("^▸mail +1 ")
        screen.press("pyq")
        assert (screen.wait(), screen.restored) == (0, True)
        assert b"queue mail is paused" in screen.written.rpartition(SCREEN_LEFT)[2]
    assert database.scalar("SELECT count(*) FROM sqla_jobs_queues") == 1, (
        "done before the end: it was confirmed"
    )


def test_a_failed_job_is_seen_and_run_once_more(database: Database, tmp_path: Path) -> None:
    database.execute(FAILED)
    with top(database, tmp_path) as screen:
        screen.wait_for("^ charge .* ConnectionError: refused")
        screen.press("\x1b[Z", ENTER)
        screen.wait_for("JOB 1")
        screen.wait_for(r'"card_number": "\[redacted\]"')
        screen.wait_for("Traceback \\(most recent call last\\)")
        assert b"4111-1111" not in screen.written
        screen.press("ry")
        screen.wait_for("job 1 is queued")
        assert database.scalar("SELECT state FROM sqla_jobs") == "queued"
        screen.wait_for("state +queued")
        screen.press(ESCAPE)
        screen.wait_for("no job has failed")
        screen.press("q")
        assert (screen.wait(), screen.restored) == (0, True)


def test_a_running_job_is_cancelled(database: Database, tmp_path: Path) -> None:
    jobs = Jobs()
    entered = threading.Event()

    @jobs.task(name="import_orders", retry=NEVER_AGAIN)
    def import_orders(session: Session) -> None:
        entered.set()
        while True:
            time.sleep(0.01)  # where it can be interrupted

    with database.sessionmaker.begin() as session:
        job_id = import_orders.enqueue(session).id
    worker = Worker(jobs, database.sessionmaker, poll_interval=SOON)
    worker.start()
    try:
        assert entered.wait(30)
        with top(database, tmp_path) as screen:
            screen.press(TAB, TAB)
            screen.wait_for("^▸import_orders")
            screen.press("c")
            screen.wait_for(rf"cancel job {job_id} \(import_orders, running\)\?")
            screen.press("y")
            screen.wait_for(f"job {job_id} is asked to stop")
            screen.wait_for("no job runs")
            screen.press("q")
            assert screen.wait() == 0
    finally:
        worker.stop(0)
        assert worker.join(30)
    assert database.scalar("SELECT state FROM sqla_jobs") == "cancelled"


# -- the terminal --------------------------------------------------------------------------------------


def test_sigterm_leaves_the_terminal_as_it_was_and_read_only_the_database(
    database: Database, tmp_path: Path
) -> None:
    database.execute("INSERT INTO sqla_jobs (task, queue, state) VALUES ('ship', 'mail', 'queued')")
    with top(database, tmp_path, "--read-only") as screen:
        screen.wait_for("^▸mail")
        screen.press("p")
        screen.wait_for("read-only: started with --read-only")
        screen.press("y")
        assert screen.cursor_hidden
        assert screen.attributes() != screen.before
        screen.send(signal.SIGTERM)
        assert (screen.wait(), screen.restored) == (-signal.SIGTERM, True)
        assert "Traceback" not in screen.text
    assert database.scalar("SELECT count(*) FROM sqla_jobs_queues") == 0


def test_an_error_of_our_own_leaves_the_terminal_as_it_was(database: Database, tmp_path: Path) -> None:
    """In the thread that reads: its end must not leave a screen that never changes again."""
    program = (
        "import sys\n"
        "from sqla_jobs.cli.top import program, source\n"
        "source.Source.read = lambda self, wish: {}['of our own']\n"
        "from sqla_jobs.cli import main\n"
        "main(sys.argv[1:])"
    )
    with Screen("-c", program, "top", "--database-url", database.url_string, folder=tmp_path) as screen:
        assert (screen.wait(), screen.restored) == (1, True)
        assert "KeyError: 'of our own'" in screen.text


def test_it_follows_the_size_also_when_it_was_stopped(database: Database, tmp_path: Path) -> None:
    with top(database, tmp_path) as screen:
        screen.resize(130, 40)
        screen.wait_for("╭─ queues 0 ─+╮╭─ workers 0")
        screen.press("\x1a")
        os.waitid(os.P_PID, screen.process.pid, os.WSTOPPED | os.WNOWAIT)
        assert screen.attributes() == screen.before
        screen.resize(60, 20)
        screen.send(signal.SIGCONT)
        screen.wait_for("^ FAILURES 0")
        assert screen.attributes() != screen.before
        screen.resize(11, 3)
        screen.wait_for("^the termin…")


def test_what_rows_hold_never_reaches_the_terminal_raw(database: Database, tmp_path: Path) -> None:
    database.execute(
        f"INSERT INTO sqla_jobs (task, state, finished_at, attempts) VALUES ({EVIL}, 'failed', now(), "
        f"jsonb_build_array(jsonb_build_object('error', {EVIL}, 'message', {EVIL}, 'traceback', {EVIL})))"
    )
    with top(database, tmp_path, NO_COLOR="1") as screen:
        screen.wait_for(r"\\x1b\[31mred")
        screen.press("\x1b[Z", ENTER)
        screen.wait_for(r"JOB 1")
        screen.wait_for(r"task +\\x1b\[31mred")
        screen.press("q", "q")
        screen.wait()
    for raw in (b"\x1b[31m", b"\x07", b"\x1b]", b"\x1b[36m"):
        assert raw not in screen.written, "nor, with NO_COLOR, a colour of our own"


# -- the database --------------------------------------------------------------------------------------


def test_the_database_goes_and_comes_back(database: Database, tmp_path: Path) -> None:
    database.execute("INSERT INTO sqla_jobs (task, queue, state) VALUES ('ship', 'mail', 'queued')")
    with top(database, tmp_path) as screen:
        screen.wait_for("^▸mail")
        with database.server.admin.connect() as admin:
            admin.exec_driver_sql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS false')
            admin.exec_driver_sql(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE datname = '{database.name}' AND application_name = 'sqla-jobs'"
            )
            screen.wait_for("the database is away, next try in")
            screen.wait_for("as of")
            screen.wait_for("^▸mail")
            screen.press("py")
            screen.wait_for("^ nothing was done: connection failed")
            screen.press("?")
            screen.wait_for("KEYS")
            screen.press("x")
            admin.exec_driver_sql(f'ALTER DATABASE "{database.name}" ALLOW_CONNECTIONS true')
        screen.press(" ")
        screen.wait_until(lambda text: "away" not in text)
    assert database.scalar("SELECT count(*) FROM sqla_jobs_queues") == 0, "not done later"


def test_keys_work_while_the_database_does_not_answer_ctrl_c_too(database: Database, tmp_path: Path) -> None:
    with top(database, tmp_path) as screen:
        with database.engine.begin() as connection:
            connection.exec_driver_sql("LOCK TABLE sqla_jobs")
            until(database, blocked("= 1"))
            screen.press("?")
            screen.wait_for("KEYS")
            screen.press("x")
            screen.wait_for("RUNNING 0")
            screen.press("\x03")  # of which the terminal makes a signal
            assert (screen.wait(), screen.restored) == (-signal.SIGINT, True)
            assert "Traceback" not in screen.text


def test_a_part_that_takes_too_long_is_late_and_the_others_are_not(database: Database) -> None:
    with database.server.admin.connect() as admin:  # so that without our own limit this ends, too
        admin.exec_driver_sql(f"ALTER DATABASE \"{database.name}\" SET lock_timeout = '5s'")
    source = Source(database.engine, Job, patience=dt.timedelta(milliseconds=100))
    with database.engine.begin() as connection:
        connection.exec_driver_sql("LOCK TABLE sqla_jobs")
        seen = source.read(Wish(job=1))
        assert {*Panel} - {Panel.QUEUES, Panel.WORKERS} <= seen.late
        assert {"states", "buckets", "detail"} <= seen.late
        assert not {"workers", "clock"} & seen.late
        told = source.act(Action("cancel", 1))
        assert (told.good, told.text.partition(":")[0]) == (False, "nothing was done, try again")
    assert not source.read(Wish(job=1)).late
    source.close()


def test_a_filter_looks_beyond_the_rows_that_are_shown(database: Database) -> None:
    database.execute(
        "INSERT INTO sqla_jobs (task, state, finished_at) "
        "SELECT CASE n WHEN 1 THEN 'rare' ELSE 'common' END, 'failed', now() + n * interval '1 s' "
        "FROM generate_series(1, 1200) n"
    )
    source = Source(database.engine, Job)
    assert len(source.read(Wish()).jobs[Panel.FAILURES]) == 200
    assert Panel.FAILURES in source.read(Wish("mmo")).more
    seen = source.read(Wish("RAR"))
    assert ([row.task for row in seen.jobs[Panel.FAILURES]], seen.more) == (["rare"], frozenset())
    source.close()
    assert source.act(Action("pause", "mail")).good
    source.close()
    refused = Source(database.engine, Job, read_only=True)
    assert refused.act(Action("resume", "mail")).text == "read-only: nothing was done"


def test_an_action_on_what_is_gone_or_over_says_so(database: Database) -> None:
    database.execute(FAILED)
    source = Source(database.engine, Job)
    told = [
        source.act(Action("retry", 99)),
        source.act(Action("cancel", 1)),
        source.act(Action("retry", 1)),
        source.act(Action("retry", 1)),
        source.act(Action("cancel", 1)),
        source.act(Action("resume", "mail")),
    ]
    source.close()
    assert [each.good for each in told] == [False, False, True, False, True, False]
    assert [each.text.partition(":")[0] for each in told] == [
        "nothing was done", "job 1 is over already", "job 1 is queued", "job 1 is queued already",
        "job 1 is cancelled", "queue mail was not paused",
    ]  # fmt: skip


def test_what_a_task_hides_is_hidden_in_jobs_of_before_too(database: Database) -> None:
    jobs = Jobs()

    @jobs.task(name="charge", redact=("card_number",))
    def charge(session: Session, order: int, card_number: str) -> None: ...

    database.execute(
        "INSERT INTO sqla_jobs (task, arguments) VALUES"
        """ ('charge', '{"order": 7, "card_number": "4111-1111"}')"""
    )
    source = Source(database.engine, Job, jobs=jobs)
    seen = source.read(Wish(job=1)).detail
    source.close()
    assert seen is not None
    assert seen.arguments == {"order": 7, "card_number": "[redacted]"}


def test_a_look_cannot_write(database: Database) -> None:
    source = Source(database.engine, Job)
    with pytest.raises(SQLAlchemyError, match="read-only transaction"):
        with source._transaction(source.patience, read_only=True) as session:
            session.connection().exec_driver_sql("DELETE FROM sqla_jobs")
    source.close()


# -- the command ---------------------------------------------------------------------------------------


def test_without_a_terminal_it_says_so(database: Database) -> None:
    result = CliRunner().invoke(main, ["top", "--database-url", database.url_string])
    assert (result.exit_code, "--once" in result.output) == (2, True)


def test_a_terminal_that_cannot_move_the_cursor(database: Database, tmp_path: Path) -> None:
    arguments = ("-m", "sqla_jobs", "top", "--database-url", database.url_string)
    with Screen(*arguments, folder=tmp_path, environment={"TERM": "dumb"}) as screen:
        assert screen.wait() == 2
        assert "TERM is 'dumb'" in screen.text
        assert SCREEN_TAKEN not in screen.written


def test_once_prints_one_frame(database: Database) -> None:
    database.execute(
        "INSERT INTO sqla_jobs (task, queue, state) "
        "SELECT 'ship', 'mail', 'queued' FROM generate_series(1, 30)"
    )
    result = CliRunner().invoke(main, ["top", "--once", "--database-url", database.url_string])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith(" sqla-jobs top ")
    assert sum("ship" in line for line in lines) == 10
    assert "waiting 30" in result.output
    assert "\x1b" not in result.output


def test_what_cannot_be(database: Database) -> None:
    for options, expected in (
        (["--interval", "0"], "interval"),
        (["a:jobs", "--app", "b:jobs"], "give one"),
        (["a:jobs", "--schema", "x"], "exclude each other"),
    ):
        result = CliRunner().invoke(main, ["top", "--once", *options])
        assert (result.exit_code, expected in result.output) == (2, True), result.output
