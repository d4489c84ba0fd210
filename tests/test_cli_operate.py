"""`sqla-jobs queues`, `workers` and `stats`: what they show, and what they do."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path

import pytest

from sqla_jobs.cli import queues, stats, workers
from sqla_jobs.cli.printing import span, sparkline
from tests.support.program import run
from tests.support.server import Database
from tests.support.typed import Shell


@pytest.fixture
def shell(database: Database) -> Shell:
    return Shell(database)


def ago(**time: float) -> dt.datetime:
    return dt.datetime.now(dt.timezone.utc) - dt.timedelta(**time)


def employ(shell: Shell, worker_id: int, **values: str) -> None:
    given = {"threads": "2", "heartbeat_limit": "'1 min'", "pid": "12", **values}
    shell.database.execute(
        f"INSERT INTO sqla_jobs_workers (id, host, version, {', '.join(given)}) "
        f"OVERRIDING SYSTEM VALUE VALUES ({worker_id}, 'web', '0.1', {', '.join(given.values())})"
    )


# -- queues ----------------------------------------------------------------------------------------


def test_without_any_queue_it_says_so(shell: Shell) -> None:
    told = shell("queues")
    assert (told.exit_code, told.stdout) == (0, "")
    assert told.stderr == "no queue: there is no job that is not finished, and no worker\n"
    assert shell.json("queues")["queues"] == []


def test_each_queue_is_a_line(shell: Shell) -> None:
    shell.job(queue="mail", run_at=ago(minutes=3))
    shell.job(queue="mail", run_at=ago(minutes=2))
    shell.job(queue="mail", state="scheduled", run_at="2131-01-01 00:00+00")
    shell.job(queue="mail", state="running")
    for _ in range(10):
        shell.job(queue="mail", state="succeeded", finished_at=ago(minutes=1))
    shell("queues", "pause", "slow")
    told = shell("queues")
    assert told.exit_code == 0
    title, _, mail, slow = told.stdout.splitlines()
    assert title.split()[:4] == ["queue", "queued", "scheduled", "running"]
    assert mail.split() == ["mail", "2", "1", "1", "3.0", "min", "2.0"]
    assert slow.split()[:5] == ["slow", "0", "0", "0", "0.0"]
    assert slow.split()[5].startswith("20"), "since when it is paused"


def test_queues_as_json(shell: Shell) -> None:
    shell.job(queue="mail", run_at="2031-01-01 00:00+00")
    shell.database.execute("INSERT INTO sqla_jobs_queues VALUES ('mail', '2031-01-02 00:00+00')")
    document = shell.json("queues")
    assert list(document) == ["now", "queues"]
    [mail] = document["queues"]
    assert tuple(mail) == queues.FIELDS
    assert mail == {
        "name": "mail",
        "queued": {"number": 1, "exact": True},
        "scheduled": {"number": 0, "exact": True},
        "running": 0,
        "oldest": "2031-01-01T00:00:00.000000+00:00",
        "per_minute": 0.0,
        "paused_at": "2031-01-02T00:00:00.000000+00:00",
    }


def test_pause_and_resume(shell: Shell) -> None:
    shell.job(queue="mail")
    for verb, expected in (
        ("pause", "paused"), ("pause", "paused already"), ("resume", "resumed"), ("resume", "not paused"),
    ):  # fmt: skip
        told = shell("queues", verb, "mail")
        assert (told.exit_code, told.output) == (0, f"queue mail is {expected}\n")
        paused = shell.database.rows("SELECT name FROM sqla_jobs_queues WHERE paused_at IS NOT NULL")
        assert len(paused) == (verb == "pause")


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_an_unknown_queue_gets_a_hint(shell: Shell, verb: str) -> None:
    """And is paused nonetheless: its first job may be on its way."""
    shell.job(queue="mail")
    employ(shell, 7, queues="'[\"mail2\"]'")
    told = shell("queues", verb, "mial")
    assert told.exit_code == 0
    assert told.stdout == f"queue mial is {'paused' if verb == 'pause' else 'not paused'}\n"
    assert told.stderr == "No waiting job and no worker names a queue mial; did you mean mail or mail2?\n"
    assert shell("queues", verb, "other").stderr == "No waiting job and no worker names a queue other\n"
    assert shell.database.scalar("SELECT count(*) FROM sqla_jobs_queues") == (2 if verb == "pause" else 0)


def test_what_cannot_be_a_queue_is_refused(shell: Shell) -> None:
    told = shell("queues", "pause", "a b")
    assert (told.exit_code, "queue name 'a b'; expected 1 to 63" in told.stderr) == (2, True)
    assert shell("queues", "--json", "pause", "mail").exit_code == 2
    assert shell.database.scalar("SELECT count(*) FROM sqla_jobs_queues") == 0


# -- workers ---------------------------------------------------------------------------------------


def test_without_any_worker_it_says_so(shell: Shell) -> None:
    told = shell("workers")
    assert (told.exit_code, told.stdout, told.stderr) == (0, "", "no worker\n")


def test_each_worker_is_a_line_and_so_is_what_it_runs(shell: Shell) -> None:
    employ(shell, 7, queues='\'["mail", "slow"]\'', started_at="now() - interval '3 h'")
    employ(shell, 8, heartbeat_at="now() - interval '2 min'")
    employ(shell, 9, died_at="now()")
    shell.job("ship", "running", worker_id=7, started_at=ago(minutes=2))
    told = shell("workers")
    assert told.exit_code == 0
    lines = told.stdout.splitlines()
    assert lines[0].split() == [
        "id",
        "process",
        "version",
        "queues",
        "threads",
        "up",
        "heartbeat",
        "lives",
        "runs",
    ]
    assert lines[2].split()[:8] == ["7", "web:12", "0.1", "mail,", "slow", "2", "3.0", "h"]
    assert [line.split()[-2] for line in lines[2:5]] == ["yes", "no", "dead"]


def test_workers_as_json(shell: Shell) -> None:
    employ(shell, 7, queues="'[\"mail\"]'", tasks="'[\"a\"]'")
    document = shell.json("workers")
    [worker] = document["workers"]
    assert tuple(worker) == (*workers.FIELDS, "running")
    assert (worker["alive"], worker["queues"], worker["tasks"]) == (True, ["mail"], ["a"])
    assert (worker["heartbeat_limit"], worker["running"]) == (60.0, [])


WORK = """
import threading
from sqla_jobs import Jobs, current_job

jobs = Jobs()


@jobs.task(name="wait")
def wait(session):
    current_job().progress(3, 10, "so far")
    threading.Event().wait()
"""


def test_a_real_worker_and_its_job(shell: Shell, tmp_path: Path) -> None:
    from tests.support.program import command

    (tmp_path / "app.py").write_text(WORK)
    url = shell.database.url_string
    job = shell.job("wait", run_at=ago(seconds=1))
    with command(
        "worker", "app:jobs", "--heartbeat-interval", "0.2", "--heartbeat-limit", "5", "--log-level", "debug",
        folder=tmp_path, DATABASE_URL=url,
    ) as worker:  # fmt: skip
        worker.wait_for("worker 1 started")
        deadline = dt.datetime.now() + dt.timedelta(seconds=30)  # noqa: DTZ005
        running: list[dict[str, object]] = []
        while not (running and running[0]["progress"]) and dt.datetime.now() < deadline:  # noqa: DTZ005
            [found] = shell.json("workers")["workers"]
            running = found["running"]
        assert running[0]["job_id"] == job
        assert tuple(running[0]) == workers.RUNNING
        assert "3 of 10 so far" in shell("workers").stdout
        assert found["alive"] is True
        assert found["tasks"] == ["sqla_jobs.prune", "wait"]


# -- stats -----------------------------------------------------------------------------------------


def lines_of(told: str) -> dict[str, list[str]]:
    """The columns of each line, by its name."""
    return {line[:10].rstrip(): re.split(r"  +", line[10:].strip()) for line in told.splitlines()}


def test_stats_of_nothing(shell: Shell) -> None:
    told = shell("stats")
    assert told.exit_code == 0
    lines = lines_of(told.stdout)
    assert lines["last"] == ["5m", "1h", "1d"]
    for name in ("succeeded", "failed", "cancelled"):
        assert lines[name] == ["0", "0", "0"]
    assert lines["per minute"] == ["0.0", "0.0", "0.0"]
    assert lines["wait p50"] == lines["finished"] == [""]


def test_stats(shell: Shell) -> None:
    for minutes, state, wait in (
        (1, "succeeded", 1),
        (2, "failed", 3),
        (30, "succeeded", 8),
        (90, "cancelled", 9),
    ):
        begun = ago(minutes=minutes, seconds=2)
        due = begun - dt.timedelta(seconds=wait)
        shell.job(
            state=state, queue="mail", created_at=due, run_at=due, started_at=begun,
            finished_at=ago(minutes=minutes),
        )  # fmt: skip
    told = shell("stats")
    assert told.exit_code == 0
    lines = lines_of(told.stdout)
    assert lines["succeeded"] == ["1", "2", "2"]
    assert lines["failed"] == ["1", "1", "1"]
    assert lines["cancelled"] == ["0", "0", "1"]
    assert lines["per minute"][0] == "0.4"
    # The middle of 1 and 3; and the highest.
    assert lines["wait p50"][0] == "2.0 s"
    assert lines["wait p95"][:2] == ["3.0 s", "8.0 s"]
    assert lines["run p50"] == lines["run p95"] == ["2.0 s"] * 3
    [finished] = [line for line in told.stdout.splitlines() if line.startswith("finished")]
    assert finished[12:32].split() == ["█", "█"]
    other = lines_of(shell("stats", "--queue", "other").stdout)
    assert other["succeeded"] == other["cancelled"] == ["0", "0", "0"]


def test_stats_of_one_span_piece_by_piece(shell: Shell) -> None:
    shell.job(state="succeeded", finished_at=ago(minutes=1), started_at=ago(minutes=2))
    told = shell("stats", "--span", "30m", "--pieces", "3")
    first, second = told.stdout.split("\n\n")
    assert lines_of(first)["last"] == ["30m"]
    assert lines_of(first)["succeeded"] == ["1"]
    assert [len(line.split()) for line in second.splitlines()[2:]].count(5) == 2, "two pieces without a time"
    assert sum(int(line.split()[2]) for line in second.splitlines()[2:]) == 1


def test_stats_as_json(shell: Shell) -> None:
    document = shell.json("stats", "--span", "1h", "--pieces", "4", "--queue", "mail")
    assert list(document) == ["now", "queue", "spans"]
    [looked] = document["spans"]
    assert (document["queue"], looked["span"], len(looked["pieces"])) == ("mail", 3600.0, 4)
    for each in looked["pieces"]:
        assert tuple(each) == stats.FIELDS
    assert [each["span"] for each in shell.json("stats")["spans"]] == [300.0, 3600.0, 86400.0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--span 0s", "--span is '0s'; expected at least 1s"),
        ("--span soon", "--span is 'soon'; expected a number with s, m, h, d or w"),
        ("--span 1h --pieces 0", "0 is not in the range 1<=x<=500"),
        ("--queue a/b", "queue name 'a/b'; expected"),
    ],
)
def test_mistakes(shell: Shell, arguments: str, expected: str) -> None:
    told = shell("stats", *arguments.split())
    assert (told.exit_code, told.stdout) == (2, "")
    assert expected in told.stderr


def test_in_a_process_of_its_own(shell: Shell, tmp_path: Path) -> None:
    shell.job(queue="mail")
    url = shell.database.url_string
    told = run("queues", "--json", folder=tmp_path, DATABASE_URL=url)
    assert (told.code, told.errors, '"name": "mail"' in told.output) == (0, "", True)


# -- how it is printed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 ms"), (0.0304, "30 ms"), (1, "1.0 s"), (59.9, "59.9 s"), (60, "1.0 min"), (3600, "1.0 h"),
     (86_400, "1.0 days"), (1e9, "11574.1 days"), (-5, "-5.0 s"), (-1e6, "-11.6 days")],
)  # fmt: skip
def test_spans(seconds: float, expected: str) -> None:
    assert span(dt.timedelta(seconds=seconds)) == expected


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "  "
    assert sparkline([0, 1, 50, 100]) == " ▁▅█"
    assert sparkline([1e-9, 1e9]) == "▁█"
