"""`sqla-jobs jobs list` and `jobs show`: what they show, by which filters, and what they refuse."""

from __future__ import annotations

import datetime as dt
import json
from functools import partial
from pathlib import Path

import click
import pytest

from sqla_jobs.cli import jobs, main
from sqla_jobs.cli.jobs import DETAIL, ROW
from sqla_jobs.inspection.pages import LOOK, list_jobs
from tests.support.program import run
from tests.support.server import Database
from tests.support.typed import EVIL, Shell, commands

FAILURE = {
    "attempt": 1, "worker_id": 7, "started_at": "2031-05-17T12:00:01.5+00:00",
    "finished_at": "2031-05-17T12:00:02+00:00", "error": "ValueError", "message": "no such\norder",
    "traceback": 'Traceback (most recent call last):\n  File "a.py", line 1\nValueError: no such\norder\n',
}  # fmt: skip


@pytest.fixture
def shell(database: Database) -> Shell:
    return Shell(database)


def ids(shell: Shell, *arguments: str) -> list[int]:
    return [job["id"] for job in shell.json("jobs", "list", *arguments)["jobs"]]


# -- list ------------------------------------------------------------------------------------------


def test_without_any_it_says_so(shell: Shell) -> None:
    told = shell("jobs", "list")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "no job\n")
    told = shell("jobs", "list", "--task", "t")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "no such job\n")


def test_each_job_is_a_line(shell: Shell) -> None:
    shell.job("shop.ship", "failed", queue="mail", attempt=2, max_attempts=2, attempts=[FAILURE],
              created_at="2031-05-17 12:00:00+00", run_at="2031-05-17 12:00:00+00",
              started_at="2031-05-17 12:00:01.5+00", finished_at="2031-05-17 12:01:31.5+00")  # fmt: skip
    shell.job("shop.pack", created_at="2031-05-17 13:00+00")
    told = shell("jobs", "list")
    assert told.exit_code == 0
    title, _, newest, oldest = told.stdout.splitlines()
    assert title.split() == [
        "id",
        "state",
        "task",
        "queue",
        "attempt",
        "enqueued",
        "(UTC)",
        "wait",
        "ran",
        "error",
    ]
    assert newest.split() == ["2", "queued", "shop.pack", "default", "0", "2031-05-17", "13:00:00"]
    assert oldest.split() == [
        *["1", "failed", "shop.ship", "mail", "2/2", "2031-05-17", "12:00:00", "1.5", "s", "1.5", "min"],
        *["ValueError:", "no", "such", "order"],
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--state queued", [1]),
        ("--state queued --state failed", [3, 1]),
        ("--state queued,failed", [3, 1]),
        ("--task b", [2]),
        ("--queue mail", [3]),
        ("--worker 7", [3]),
        ("--schedule nightly", [2]),
        ("--schedule none", []),
        ("--arg order.id=7", [2]),
        ("--arg order.id=7 --arg kind=long", [2]),
        ("--arg order.id=7 --arg kind=short", []),
        ('--arg order={"id":7}', [2]),
        ("--error SUCH", [3]),
        ("--error value", [3]),
        ("--error keyerror", []),
        ("--older-than 2h", [1]),
        ("--newer-than 2h", [3, 2]),
        ("--state failed --older-than 2h", []),
    ],
)
def test_filters(shell: Shell, arguments: str, expected: list[int]) -> None:
    with shell.database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO sqla_jobs_schedules (name, task, every) VALUES ('nightly', 't', '1 h')"
        )
    shell.job("a", created_at=dt.datetime.now(dt.timezone.utc) - dt.timedelta(hours=3))
    shell.job("b", "scheduled", schedule_id=1, tick_at="2031-01-01 00:00+00",
              arguments={"order": {"id": 7}, "kind": "long"})  # fmt: skip
    shell.job("c", "failed", queue="mail", worker_id=7, attempts=[FAILURE])
    assert ids(shell, *arguments.split()) == expected


def test_pages_go_on_by_what_is_told(shell: Shell) -> None:
    for _ in range(5):
        shell.job("it's")
    told = shell("jobs", "list", "--task", "it's", "--limit", "2")
    assert [line.split()[0] for line in told.stdout.splitlines()[2:]] == ["5", "4"]
    # What is told can be typed: quotes and all.
    import shlex

    found = [5, 4]
    while "go on: " in told.stderr:
        words = shlex.split(told.stderr.partition("go on: ")[2])
        assert words[:3] == ["sqla-jobs", "jobs", "list"]
        told = shell(*words[1:])
        found += [int(line.split()[0]) for line in told.stdout.splitlines()[2:]]
    assert found == [5, 4, 3, 2, 1]


def test_a_bounded_look_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 0)
    shell.database.execute(
        "INSERT INTO sqla_jobs (task, state) SELECT 't', 'queued' FROM generate_series(1, :rows)",
        rows=LOOK + 9,
    )
    shell.database.execute("UPDATE sqla_jobs SET task = 'rare' WHERE id = 1")
    told = shell("jobs", "list", "--task", "rare")
    assert (told.exit_code, told.stdout) == (0, "")
    first, second = told.stderr.splitlines()
    assert first == f"not all: {LOOK:,} jobs were looked at, and there are more"
    assert second.startswith("go on: sqla-jobs jobs list --task rare --after ")
    assert ids(shell, *second.split()[5:]) == [1]
    document = shell.json("jobs", "list", "--task", "rare")
    assert (document["jobs"], document["looked_at"], document["complete"]) == ([], LOOK, False)
    assert document["next"] == second.split()[-1]


def test_it_looks_again_while_there_is_time(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PATIENCE", 3600)
    shell.job("rare")
    shell.database.execute(
        "INSERT INTO sqla_jobs (task, state) SELECT 't', 'queued' FROM generate_series(1, :rows)",
        rows=2 * LOOK,
    )
    shell.job("rare")
    document = shell.json("jobs", "list", "--task", "rare")
    assert [job["id"] for job in document["jobs"]] == [2 * LOOK + 2, 1]
    assert (document["complete"], document["next"]) == (True, None)
    assert document["looked_at"] >= 2 * LOOK + 2


def test_json_has_the_documented_fields(shell: Shell) -> None:
    shell.job("t", "failed", attempts=[FAILURE], started_at="2031-05-17 12:00:01+00")
    document = shell.json("jobs", "list")
    assert list(document) == ["jobs", "next", "looked_at", "complete"]
    [job] = document["jobs"]
    assert tuple(job) == ROW
    assert job["state"] == "failed"
    assert job["finished_at"] == "2031-05-17T12:00:05.000000+00:00"
    assert job["duration"] == 4.0
    assert job["error"] == "ValueError: no such order"
    document = shell.json("jobs", "show", "1")
    assert tuple(document) == DETAIL
    assert document["attempts"] == [FAILURE]


# -- show ------------------------------------------------------------------------------------------

PAGE = """\
job 1 of task shop.ship is failed  (times in UTC)
  queue                  mail, priority 3
  enqueued               2031-05-17 12:00:00
  to run at              2031-05-17 12:00:00
  begun                  2031-05-17 12:00:01, waited 1.0 s
  finished               2031-05-17 12:00:05, ran 4.0 s
  attempt                2 of 5
  crashes                1
  timeout                1.5 min
  worker                 7, on web:12
  to be cancelled since  2031-05-17 12:00:04
  schedule               nightly, for 2031-05-17 11:00:00
  unique key             k (active, not held)
  limit key              l
arguments
  {
    "to": "é",
    "order": {
      "id": 7
    }
  }
progress
  {
    "done": 3,
    "total": 4,
    "attempt": 1
  }
result
  [
    1
  ]
attempt 1  2031-05-17 12:00:01 to 2031-05-17 12:00:02, worker 7
  ValueError: no such
  order
    Traceback (most recent call last):
      File "a.py", line 1
    ValueError: no such
    order
"""


def test_show_tells_all(shell: Shell) -> None:
    database = shell.database
    database.execute("INSERT INTO sqla_jobs_schedules (name, task, every) VALUES ('nightly', 't', '1 h')")
    database.execute(
        "INSERT INTO sqla_jobs_workers (id, host, pid, version, threads, heartbeat_limit) "
        "OVERRIDING SYSTEM VALUE VALUES (7, 'web', 12, 'v', 1, '1 min')"
    )
    shell.job(
        "shop.ship", "failed", queue="mail", priority=3, attempt=2, max_attempts=5, attempts=[FAILURE],
        arguments={"order": {"id": 7}, "to": "é"}, created_at="2031-05-17 12:00+00",
        run_at="2031-05-17 12:00+00", started_at="2031-05-17 12:00:01+00", worker_id=7, schedule_id=1,
        tick_at="2031-05-17 11:00+00", progress={"done": 3, "total": 4, "attempt": 1}, result=[1],
        unique_key="k", unique_scope="active", limit_key="l", crashes=1,
        timeout=dt.timedelta(seconds=90), cancel_requested_at="2031-05-17 12:00:04+00",
    )  # fmt: skip
    told = shell("jobs", "show", "1")
    assert told.exit_code == 0
    assert told.stdout == PAGE


def test_show_of_none_is_exit_code_4(shell: Shell) -> None:
    told = shell("jobs", "show", "7")
    assert (told.exit_code, told.stdout) == (4, "")
    assert told.stderr == "Error: there is no job 7: it was deleted, or never made\n"


def test_what_a_row_says_is_redacted_is_not_shown(shell: Shell) -> None:
    shell.job(arguments={"card": "4111-1111", "order": 1}, meta={"redact": ["card"]})
    for arguments in (["jobs", "show", "1"], ["jobs", "show", "1", "--json"], ["jobs", "list", "--json"]):
        assert "4111-1111" not in shell(*arguments).output
    assert shell.json("jobs", "show", "1")["arguments"] == {"card": "[redacted]", "order": 1}


APP = """
from sqla_jobs import Jobs

jobs = Jobs()


@jobs.task(name="pay", redact=("card",))
def pay(session, card, order=1) -> None: ...
"""


def test_what_the_application_redacts_now_is_not_shown(shell: Shell, tmp_path: Path) -> None:
    """The row is of a time when the task did not say it."""
    (tmp_path / "shop.py").write_text(APP)
    told = {
        "attempt": 1,
        "error": "ValueError",
        "message": "card 4111-1111 was refused",
        "traceback": "card = '4111-1111'",
    }
    shell.job("pay", "failed", arguments={"card": "4111-1111", "order": 1}, attempts=[told])
    url = shell.database.url_string
    for options in ([], ["--json"]):
        told = run("jobs", "show", "1", "--app", "shop:jobs", *options, folder=tmp_path, DATABASE_URL=url)
        assert told.code == 0, told.errors
        assert "4111-1111" not in told.output
        assert '"card": "[redacted]"' in told.output
        assert '"order": 1' in told.output


# -- what nobody may write -------------------------------------------------------------------------


@pytest.fixture
def evil(shell: Shell) -> Shell:
    """A queue in which every text that anybody can write is hostile."""
    database = shell.database
    database.execute(
        "INSERT INTO sqla_jobs_schedules (name, task, cron, timezone) VALUES (:evil, :evil, :evil, :evil)",
        evil=EVIL,
    )
    database.execute(
        "INSERT INTO sqla_jobs_workers "
        "(id, host, pid, version, threads, heartbeat_limit, queues, tasks, running) "
        "OVERRIDING SYSTEM VALUE VALUES (7, :evil, 12, :evil, 1, '1 h', CAST(:list AS jsonb), "
        "CAST(:list AS jsonb), CAST(:running AS jsonb))",
        evil=EVIL, list=json.dumps([EVIL]),
        running=json.dumps([{"id": 1, "since": EVIL, "task": EVIL, "progress": {"done": 1, "note": EVIL}}]),
    )  # fmt: skip
    entry = dict.fromkeys(("error", "message", "traceback", "started_at"), EVIL)
    shell.job(
        EVIL, "failed", arguments={EVIL: EVIL}, attempts=[entry, {"attempt": EVIL, "worker_id": EVIL}],
        progress={"done": 1, "note": EVIL}, result=json.dumps(EVIL), unique_key=EVIL, unique_scope="active",
        limit_key=EVIL, worker_id=7, schedule_id=1,
    )  # fmt: skip
    return shell


READING = ["jobs list", "jobs show 1", "queues", "workers", "stats", "schedules"]


@pytest.mark.parametrize("options", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("command", READING)
def test_nothing_in_the_database_steers_the_terminal(evil: Shell, command: str, options: list[str]) -> None:
    told = evil(*command.split(), *options)  # which looks for what steers
    assert told.exit_code == 0, told.output
    if command in ("jobs list", "jobs show 1", "workers", "schedules"):
        assert "[bold]x[/bold] :smile:" in told.output
        assert ("\\u001b[31mred" if options else "\\x1b[31mred") in told.output


def test_nor_in_a_terminal_that_has_colours(evil: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the tool itself writes escapes, those of others are told from them by what they say."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    from click.testing import CliRunner

    for command in READING:
        told = CliRunner().invoke(
            main, command.split(), color=True, env={"DATABASE_URL": evil.database.url_string}
        )
        assert told.exit_code == 0
        for steer in ("\x1b[31mred\x1b]0", "\x1b]", "\x07", "\x9b", "\u202e", "\x08"):
            assert steer not in told.output


def test_a_text_of_the_database_in_a_refusal(evil: Shell) -> None:
    for arguments in (
        ["schedules", "run", "x"],
        ["queues", "pause", EVIL],
        ["jobs", "list", "--queue", EVIL],
    ):
        assert evil(*arguments).exit_code == 2


# -- garbage ---------------------------------------------------------------------------------------

GARBAGE = ["", " ", "-1", "9" * 24, "\x1b[31m", "a=b=c", "=", ".=", "\udcff", "a\x00b", "1e400h",
           "' OR 1=1 --", "%(x)s{", "x" * 5000, "٣"]  # fmt: skip
"""What is not meant by any option; some of it some of them take."""
NEEDS = {
    "jobs show": ["1"],
    "jobs retry": ["--state", "failed", "--yes"],
    "jobs cancel": ["--state", "queued", "--yes"],
    "jobs delete": ["--state", "failed", "--yes"],
    "schedules run": ["x"],
    "schedules enable": ["x"],
    "schedules disable": ["x"],
    "queues pause": ["x"],
    "queues resume": ["x"],
    "cron explain": ["@daily"],
    "completion": ["bash"],
}
ENDING = {"jobs", "queues", "workers", "stats", "schedules", "cron", "health", "doctor", "completion"}
"""Commands that look or do something, and end. tests/test_cli.py has the others."""
EVERYWHERE = {"app", "schema", "database_url"}
"""Options that are those of one function in each command; as are the filters, which `jobs delete` has too."""
CASES = [
    (name, parameter)
    for name, command in commands(main).items()
    if not (isinstance(command, click.Group) and not command.invoke_without_command)
    and name.partition(" ")[0] in ENDING
    for parameter in command.params
    if not (isinstance(parameter, click.Option) and parameter.is_flag)
    and (parameter.name not in EVERYWHERE or name == "jobs list")
    and (name not in ("jobs retry", "jobs cancel") or parameter.name == "ids")
]


@pytest.mark.parametrize(
    ("name", "parameter"), CASES, ids=[f"{name} {parameter.name}" for name, parameter in CASES]
)
def test_garbage_gets_a_message_and_no_traceback(shell: Shell, name: str, parameter: click.Parameter) -> None:
    for value in GARBAGE:
        needed = NEEDS.get(name, [])
        if isinstance(parameter, click.Option):
            given = [*needed, f"{parameter.opts[0]}={value}"]
        else:
            given = ["--", value]
        told = shell(*name.split(), *given)  # which refuses tracebacks
        assert told.exit_code in (0, 1, 2, 3, 4), told.output
        if told.exit_code:
            assert "Error: " in told.stderr
    # Each of these says nothing of any option.
    for value in ("\udcff", "a\x00b"):
        given = [f"{parameter.opts[0]}={value}"] if isinstance(parameter, click.Option) else [value]
        assert shell(*name.split(), *given).exit_code == 2


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--state done", "--state is 'done'; expected one of scheduled, queued"),
        ("--worker x", "--worker is 'x'; expected the id of a worker"),
        ("--arg order", "--arg is 'order'; expected a path, '=' and a value, such as order.id=7"),
        ("--older-than 2", "--older-than is '2'; expected a number with s, m, h, d or w"),
        ("--newer-than soon", "--newer-than is 'soon'; expected"),
        ("--older-than 2h --newer-than 1h", "--newer-than is '1h'; expected more than older_than"),
        ("--queue a/b", "--queue is 'a/b'; expected 1 to 63 out of"),
        ("--after x", "--after is 'x'; expected what the page before gave"),
        ("--limit 0", "0 is not in the range 1<=x<=1000"),
        ("--task=", "--task is empty: say what it is to be, or leave it out."),
        ("--arg=", "--arg is empty"),
    ],
)
def test_a_bad_filter_is_told_by_its_option(shell: Shell, arguments: str, expected: str) -> None:
    told = shell("jobs", "list", *arguments.split())
    assert (told.exit_code, told.stdout) == (2, "")
    assert expected in told.stderr


def test_a_cursor_of_another_list_is_refused(shell: Shell) -> None:
    for _ in range(2):
        shell.job(state="failed")
    cursor = shell.json("jobs", "list", "--limit", "1")["next"]
    told = shell("jobs", "list", "--state", "failed", "--after", cursor)
    assert (told.exit_code, "--after is" in told.stderr) == (2, True)


def test_reading_cannot_write(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it calls: the transaction refuses."""
    from sqla_jobs import lifecycle
    from sqla_jobs.cli.place import Place

    place = Place(None, None, shell.database.url_string)
    with pytest.raises(click.ClickException, match="read-only transaction"):
        place.look(lambda session, model, _: lifecycle.pause(session, model, "mail"))


def test_a_schema(shell: Shell, empty_database: Database) -> None:
    url = empty_database.url_string
    assert shell("migrate", "--schema", "queue", "--database-url", url).exit_code == 0
    empty_database.execute("INSERT INTO queue.sqla_jobs (task, state) VALUES ('there', 'queued')")
    told = shell("jobs", "--schema", "queue", "list", "--database-url", url)
    assert "there" in told.stdout
    assert "there" in shell("jobs", "show", "1", "--schema", "queue", "--database-url", url).stdout
    assert shell("jobs", "list", "--database-url", url).exit_code == 3


def test_in_a_process_of_its_own(shell: Shell, tmp_path: Path) -> None:
    shell.job("shop.ship", "failed", attempts=[FAILURE])
    url = shell.database.url_string
    told = run("jobs", "list", "--state", "failed", folder=tmp_path, DATABASE_URL=url)
    assert (told.code, told.errors) == (0, "")
    assert "ValueError: no such order" in told.output
    told = run("jobs", "list", "--state", "filed", folder=tmp_path, DATABASE_URL=url)
    assert (told.code, told.output) == (2, "")
    assert told.errors.startswith("Error: --state is 'filed'; expected")


def test_moments_without_a_zone_or_beyond_utc_are_no_traceback(shell: Shell) -> None:
    late = "9999-12-31T23:59:59-10:00"
    job = shell.job(attempts=[{"error": "E", "started_at": late, "finished_at": "0001-01-01T00:00:00+10:00"}])
    assert late in shell("jobs", "show", str(job)).output
    running = [{"id": 1, "since": "2031-05-17T12:00:00"}, {"id": 2, "since": late}]
    shell.database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, running) "
        "VALUES ('h', 1, 'v', 1, '1 h', CAST(:running AS jsonb))",
        running=json.dumps(running),
    )
    assert shell("workers").exit_code == 0
    told = shell.json("workers")["workers"][0]["running"]
    assert [each["since"] for each in told] == [None, None]


def test_json_is_json_whatever_the_row_holds(shell: Shell) -> None:
    job = shell.job()
    shell.database.execute(
        "UPDATE sqla_jobs SET arguments = jsonb_build_object('a', 1e400::numeric + 0.5, 'b', "
        "CAST(repeat('[', 600) || repeat(']', 600) AS jsonb))"
    )
    told = shell("jobs", "show", str(job), "--json")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    arguments = json.loads(told.stdout, parse_constant=refuse)["arguments"]
    assert arguments["a"] == "inf"
    assert json.dumps(arguments["b"]).count("[") == 600
    assert shell("jobs", "show", str(job)).exit_code == 0


def test_more_running_jobs_than_a_look_are_listed_once(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    look = partial(list_jobs, look=10)
    monkeypatch.setattr(jobs.inspection, "list_jobs", look)
    for _ in range(12):
        shell.job("t", "running", worker_id=7, started_at="2031-05-17 12:00+00")
    found = ids(shell, "--state", "running")
    assert len(found) == len(set(found)) == 10
