"""`sqla-jobs schedules`: what it shows, does and refuses."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sqla_jobs import Jobs, Schedule
from sqla_jobs.cli import main
from sqla_jobs.scheduler import Schedules
from tests.support.server import Database

Command = Callable[..., Result]
HOUR = dt.timedelta(hours=1)
APP = """
from datetime import timedelta
from sqla_jobs import Jobs

jobs = Jobs(prune_after=None)


@jobs.cron("0 30 2 * * *", timezone="America/Los_Angeles", name="nightly", kwargs={"kind": "long"})
@jobs.every(timedelta(hours=36), name="often")
@jobs.task(name="report", queue="reports", priority=7)
def report(session, kind="short") -> None: ...
"""


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Jobs[Any]]:
    """An application of one task that can be imported as ``books:jobs``."""
    import sys

    (tmp_path / "books.py").write_text(APP)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    import books  # type: ignore[import-not-found]

    yield books.jobs
    del sys.modules["books"]


@pytest.fixture
def sqla_jobs(database: Database, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command line, on the database of the test."""
    monkeypatch.setenv("DATABASE_URL", database.url_string)
    monkeypatch.delenv("SQLA_JOBS_DATABASE_URL", raising=False)
    return lambda *arguments: CliRunner().invoke(main, list(arguments))


@pytest.fixture
def synced(app: Jobs[Any], database: Database) -> Jobs[Any]:
    with database.sessionmaker.begin() as session:
        app.sync_schedules(session)
    return app


def add(database: Database, **values: Any) -> None:
    with database.sessionmaker.begin() as session:
        session.add(Schedule(**values))


def work(database: Database, tasks: str = '["report"]') -> None:
    """A worker that lives, and knows these tasks."""
    database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, tasks) "
        "VALUES ('h', 1, 'v', 1, '1 hour', CAST(:tasks AS jsonb))", tasks=tasks,
    )  # fmt: skip


# -- list --------------------------------------------------------------------------------------------


def test_without_any_it_says_where_they_come_from(sqla_jobs: Command) -> None:
    result = sqla_jobs("schedules")
    assert (result.exit_code, result.output) == (
        0, "no schedule: a worker writes those of its code to the database when it starts\n",
    )  # fmt: skip


def test_each_is_shown_with_its_next_five_times(
    sqla_jobs: Command, synced: Jobs[Any], database: Database
) -> None:
    work(database)
    database.execute(
        "UPDATE sqla_jobs_schedules SET next_run_at = '2126-03-09 10:30+00' WHERE name = 'nightly';"
        "UPDATE sqla_jobs_schedules SET next_run_at = '2126-01-01 00:00+00' WHERE name = 'often'"
    )
    told = sqla_jobs("schedules").output
    assert told.split()[0] == "name"
    rows = [line for line in told.splitlines() if "2126" in line]
    assert len(rows) == 10
    assert rows[0].split() == [
        *["nightly", "0", "30", "2", "*", "*", "*", "America/Los_Angeles"],
        *["Sat", "2126-03-09", "02:30:00", "PST", "-0800", "yes"],
    ]
    # The night in which the clocks go forward: 02:30 is not there.
    assert rows[1].split() == ["Sun", "2126-03-10", "03:00:00", "PDT", "-0700"]
    assert rows[4].split() == ["Wed", "2126-03-13", "02:30:00", "PDT", "-0700"]
    assert rows[5].split()[:10] == [
        *["often", "every", "1", "day", "12", "hours", "Tue", "2126-01-01", "00:00:00", "UTC"],
    ]
    assert rows[6].split() == ["Wed", "2126-01-02", "12:00:00", "UTC", "+0000"]
    assert "orphaned" not in told


def test_what_is_due_says_so(sqla_jobs: Command, database: Database) -> None:
    add(
        database,
        name="late",
        task="t",
        every=HOUR,
        next_run_at=dt.datetime(2021, 1, 1, tzinfo=dt.timezone.utc),
    )
    rows = sqla_jobs("schedules").output.splitlines()
    assert "Fri 2021-01-01 00:00:00 UTC +0000 (due)" in rows[2]
    assert not any("2021" in row for row in rows[3:])
    assert all("00:00 UTC +0000" in row for row in rows[3:7])


def test_one_that_is_switched_off_has_no_times(sqla_jobs: Command, database: Database) -> None:
    add(database, name="off", task="t", cron="@hourly", enabled=False)
    rows = sqla_jobs("schedules").output.splitlines()
    assert rows[2].split() == ["off", "@hourly", "UTC", "no,", "orphaned"]


def test_the_last_job_is_named(sqla_jobs: Command, database: Database) -> None:
    add(database, name="s", task="t", every=HOUR)
    for _ in range(2):
        sqla_jobs("schedules", "run", "s")
    database.execute("UPDATE sqla_jobs SET state = 'running', worker_id = 1 WHERE id = 2")
    assert "2 running" in sqla_jobs("schedules").output


def test_an_orphan_is_one_whose_task_no_living_worker_knows(sqla_jobs: Command, database: Database) -> None:
    add(database, name="one", task="known", every=HOUR)
    add(database, name="other", task="gone", every=HOUR)
    assert sqla_jobs("schedules").output.endswith(
        "orphaned: no worker that runs now knows the task: gone, known\n"
    )
    work(database, '["known"]')
    told = sqla_jobs("schedules").output
    assert told.endswith("knows the task: gone\n")
    assert told.count("yes, orphaned") == 1
    work(database, '["gone"]')
    assert "orphaned" not in sqla_jobs("schedules").output
    database.execute("UPDATE sqla_jobs_workers SET died_at = now()")
    assert sqla_jobs("schedules").output.count("yes, orphaned") == 2


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("'61 * * * *', 'UTC', NULL", "cron line '61 * * * *': minute is '61'"),
        ("'* * * * *', 'Mars/Base', NULL", "timezone is 'Mars/Base'"),
        ("NULL, 'UTC', '10 ms'", "interval is"),
    ],
)
def test_a_rule_that_cannot_be_read_does_not_hide_the_others(
    sqla_jobs: Command, database: Database, values: str, expected: str
) -> None:
    database.execute(
        f"INSERT INTO sqla_jobs_schedules (name, task, cron, timezone, every) VALUES ('a', 't', {values})"
    )
    add(database, name="b", task="t", cron="@yearly")
    rows = sqla_jobs("schedules").output.splitlines()
    assert "none, see below" in rows[2]
    (told,) = [row for row in rows if row.startswith("a: no next time, until its row is corrected: ")]
    assert expected in told
    assert rows[3].split()[:2] == ["b", "@yearly"]


def test_names_may_look_like_markup(sqla_jobs: Command, database: Database) -> None:
    add(database, name="[bold]x[/] :smile:", task="t", every=HOUR)
    assert "[bold]x[/] :smile:" in sqla_jobs("schedules").output


def test_a_schema(sqla_jobs: Command, empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    url = empty_database.url_string
    assert sqla_jobs("migrate", "--schema", "queue", "--database-url", url).exit_code == 0
    empty_database.execute(
        "INSERT INTO queue.sqla_jobs_schedules (name, task, every) VALUES ('x', 't', '1 h')"
    )
    for arguments in (["--schema", "queue", "--database-url", url, "run", "x"],
                      ["run", "x", "--schema", "queue", "--database-url", url]):  # fmt: skip
        result = sqla_jobs("schedules", *arguments)
        assert result.exit_code == 0, result.output
    assert empty_database.scalar("SELECT count(*) FROM queue.sqla_jobs") == 2
    told = sqla_jobs("schedules", "--schema", "queue", "--database-url", url)
    assert "every 1 hour" in told.output
    result = sqla_jobs("schedules", "--database-url", url)
    assert (result.exit_code, "sqla-jobs migrate" in result.output) == (3, True)


# -- run, enable, disable ----------------------------------------------------------------------------


def test_run_makes_a_job_beside_the_times(sqla_jobs: Command, synced: Jobs[Any], database: Database) -> None:
    before = database.rows("SELECT * FROM sqla_jobs_schedules ORDER BY id")
    result = sqla_jobs("schedules", "run", "nightly", "--app", "books:jobs")
    [job] = database.rows("SELECT * FROM sqla_jobs")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        f"job {job.id} of task report is queued in reports",
        "It waits for a worker that knows the task: none that runs now does.",
    ]
    assert (job.task, job.arguments, job.state) == ("report", {"kind": "long"}, "queued")
    assert (job.queue, job.priority) == ("reports", 7)
    assert (job.tick_at, job.schedule_id) == (job.run_at, before[0].id)
    assert database.rows("SELECT * FROM sqla_jobs_schedules ORDER BY id") == before


def test_what_the_task_redacts_is_so_in_a_job_that_is_made_by_hand(
    sqla_jobs: Command, synced: Jobs[Any], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synced.tasks["report"], "redact", ("kind",))
    sqla_jobs("schedules", "run", "nightly", "--app", "books:jobs")
    sqla_jobs("schedules", "run", "nightly")
    assert [job.meta for job in database.rows("SELECT meta FROM sqla_jobs")] == [{"redact": ["kind"]}] * 2


def test_without_the_application_its_queue_is_that_of_the_last_job(
    sqla_jobs: Command, synced: Jobs[Any], database: Database
) -> None:
    for _ in range(2):
        assert sqla_jobs("schedules", "run", "nightly").exit_code == 0
        database.execute("UPDATE sqla_jobs SET queue = 'seen', priority = 5")
    database.execute(
        "UPDATE sqla_jobs_schedules SET queue = 'said', priority = 1, max_attempts = 2, timeout = '9 s'"
    )
    sqla_jobs("schedules", "run", "nightly", "--app", "books:jobs")
    found = database.rows("SELECT queue, priority, max_attempts, timeout FROM sqla_jobs ORDER BY id")
    assert [tuple(row) for row in found] == [
        ("seen", 5, None, None), ("seen", 5, None, None), ("said", 1, 2, dt.timedelta(seconds=9)),
    ]  # fmt: skip


def test_the_first_one_without_the_application_is_in_the_default_queue(
    sqla_jobs: Command, synced: Jobs[Any], database: Database
) -> None:
    sqla_jobs("schedules", "run", "often")
    assert database.scalar("SELECT queue || priority FROM sqla_jobs") == "default0"


def test_disable_and_enable(sqla_jobs: Command, synced: Jobs[Any], database: Database) -> None:
    state = "SELECT enabled, next_run_at FROM sqla_jobs_schedules WHERE name = 'nightly'"
    [before] = database.rows(state)
    for verb, expected in (
        ("disable", "disabled"), ("disable", "disabled already"), ("enable", "enabled"),
        ("enable", "enabled already"),
    ):  # fmt: skip
        result = sqla_jobs("schedules", verb, "nightly")
        assert (result.exit_code, result.output) == (0, f"schedule nightly is {expected}\n")
        assert database.rows(state)[0] == (verb == "enable", before.next_run_at)


def test_what_was_due_meanwhile_was_not_missed(
    sqla_jobs: Command, synced: Jobs[Any], database: Database
) -> None:
    sqla_jobs("schedules", "disable", "often")
    database.execute(
        "UPDATE sqla_jobs_schedules SET next_run_at = now() - interval '1 h' WHERE name = 'often'"
    )
    sqla_jobs("schedules", "enable", "often")
    times = database.rows("SELECT name, next_run_at FROM sqla_jobs_schedules ORDER BY name")
    assert [row.next_run_at is None for row in times] == [False, True], "the next worker that looks sets it"
    assert "+0000" in sqla_jobs("schedules").output
    with database.sessionmaker.begin() as session:
        Schedules(synced).tick(session)
    assert database.scalar("SELECT next_run_at > now() FROM sqla_jobs_schedules WHERE name = 'often'")
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_overlap_counts_the_job_that_was_made_by_hand(
    sqla_jobs: Command, synced: Jobs[Any], database: Database
) -> None:
    sqla_jobs("schedules", "run", "often")
    overdue = "UPDATE sqla_jobs_schedules SET overlap = 'skip', next_run_at = now() WHERE name = 'often'"
    for state, number in (("queued", 1), ("succeeded", 2)):
        finished_at = "now()" if state == "succeeded" else "NULL"
        database.execute(f"UPDATE sqla_jobs SET state = '{state}', finished_at = {finished_at}")
        database.execute(overdue)
        with database.sessionmaker.begin() as session:
            assert Schedules(synced).tick(session) == 1
        assert database.scalar("SELECT count(*) FROM sqla_jobs") == number


def test_a_switch_that_was_thrown_stays_so_when_the_code_is_synced_again(
    sqla_jobs: Command, synced: Jobs[Any], database: Database
) -> None:
    sqla_jobs("schedules", "disable", "nightly")
    with database.sessionmaker.begin() as session:
        synced.sync_schedules(session)
    assert database.scalar("SELECT enabled FROM sqla_jobs_schedules WHERE name = 'nightly'") is False


@pytest.mark.parametrize("verb", ["run", "enable", "disable"])
def test_an_unknown_name_is_refused(sqla_jobs: Command, synced: Jobs[Any], verb: str) -> None:
    result = sqla_jobs("schedules", verb, "nihgtly")
    assert (result.exit_code, result.output) == (
        2, "Error: there is no schedule 'nihgtly'; did you mean 'nightly'?\n",
    )  # fmt: skip
    assert "`sqla-jobs schedules` lists them all" in sqla_jobs("schedules", verb, "x").output


def test_app_and_schema_exclude_each_other(sqla_jobs: Command) -> None:
    result = sqla_jobs("schedules", "--schema", "x", "run", "a", "--app", "books:jobs")
    assert (result.exit_code, "--app and --schema exclude each other" in result.output) == (2, True)


def test_no_database(sqla_jobs: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    result = sqla_jobs("schedules")
    assert (result.exit_code, "no database is named" in result.output) == (2, True)
