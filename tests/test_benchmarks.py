"""The benchmarks run, and say whether a run was right; how fast anything is, no test says."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.benchmarks import catalogue, measure, report
from tests.benchmarks.__main__ import main
from tests.benchmarks.base import Hooks, Order, Peer
from tests.benchmarks.suites import SUITES, Plan
from tests.support.server import Server

ROOT = Path(__file__).resolve().parent.parent
SUITE_KEYS = {
    *("name", "title", "at", "quick", "right", "repeats", "seconds", "load", "machine", "server"),
    *("versions", "rows", "exactly_once", "notes", "skipped", "raw"),
}


@pytest.fixture(scope="module")
def folder(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the smallest run has written."""
    folder = tmp_path_factory.mktemp("results")
    url = server.maintenance.render_as_string(hide_password=False)
    command = [sys.executable, "-m", "tests.benchmarks", "row", "--quick", "--database-url", url]
    only = ["--only", "sqla_jobs t=1,limit K=50", "--out", str(folder)]
    done = subprocess.run([*command, *only], cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_quick_run_writes_a_table_and_json(folder: Path) -> None:
    result = json.loads((folder / "row.json").read_text())
    assert result.keys() == SUITE_KEYS
    assert result["right"] is True
    assert result["quick"] is True
    assert (folder / "row.md").read_text().startswith(f"### {result['title']}\n")
    assert result["raw"].keys() == {"sqla_jobs t=1", "limit K=50"} == {row["what"] for row in result["rows"]}
    assert result["exactly_once"] == {"sqla_jobs t=1": True, "limit K=50": True}
    assert result["server"]["settings"].keys() >= {"fsync", "synchronous_commit"}
    assert result["versions"].keys() >= {"sqla-jobs", "SQLAlchemy", "psycopg"}


def test_claims_behind_others_are_beside_the_plain_one() -> None:
    suite = SUITES["claims"](Plan(1, only=("sqla_jobs t=4",), quick=True))
    assert not suite.skipped
    assert [label.partition(", ")[2] for label in suite.measurements] == [
        "20,000 queued",
        "behind 20,000 in a paused queue",
        "behind 20,000 of others, where and its index",
    ]


def test_each_job_of_a_drain_has_its_effect_once(folder: Path) -> None:
    for runs in json.loads((folder / "row.json").read_text())["raw"].values():
        [figures] = runs
        assert figures["effects"] == figures["jobs"] >= 100
        assert figures["twice"] == 0
        assert figures["right"] is True
        assert figures["jobs/s"] > 0
        assert figures["worker ms/job"] > 0


def test_results_name_neither_the_machine_nor_places_on_it(folder: Path) -> None:
    result = json.loads((folder / "row.json").read_text())
    assert result["machine"].keys() == {"cores", "memory GiB", "system", "architecture", "python"}
    for text in every_text(result):
        assert text.endswith(("jobs/s", "ms/job")) or "/" not in text
        assert platform.node() not in text


def every_text(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.items() for part in item for text in every_text(part)]
    if isinstance(value, list):
        return [text for part in value for text in every_text(part)]
    return [value] if isinstance(value, str) else []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drain"], "there is no benchmark drain; expected some of noop, row"),
        (["--only", "celery"], "there is no 'celery'; expected a queue, or one of limit K=1"),
        (["--repeats", "0"], "--repeats 0; expected a number from 1 up"),
    ],
)
def test_mistakes_are_refused(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    assert message in capsys.readouterr().err


def test_what_cannot_be_imported_is_skipped_with_the_reason() -> None:
    other = catalogue.Variant("other", "peers.no_such_peer:Peer", {}, 100, 100)
    assert other.why_skipped() == (
        "cannot be imported: tests.benchmarks.peers.no_such_peer: ModuleNotFoundError"
    )


def test_what_is_not_installed_is_skipped_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = catalogue.Variant("absent", "peers.absent:Absent", {}, 100, 100, needs=("no_such_queue",))
    monkeypatch.setitem(catalogue.VARIANTS, "absent", absent)
    suite = SUITES["row"](Plan(1, only=("absent", "limit K=1"), quick=True))
    assert [*suite.measurements] == ["limit K=1"]
    plan = Plan(1, only=("absent",))
    suite.add(absent, lambda machine: {})
    assert suite.skipped == {"absent": "not installed: no_such_queue; pip install '.[bench]' has all"}
    assert plan.chosen(["absent", "limit K=1"]) == [absent]


class Once(Peer):
    exactly_once = "yes"
    succeeded = "SELECT count(*) FROM done"


class AtLeastOnce(Peer):
    exactly_once = "no"


@pytest.mark.parametrize(
    ("peer", "effects", "done", "right"),
    [
        (Once(), [0, 1, 2], 3, True),
        (Once(), [0, 1], 3, False),
        (Once(), [0, 1, 2, 2], 3, False),
        (Once(), [0, 1, 2], 2, False),
        (AtLeastOnce(), [0, 1, 2, 2], 0, True),
        (AtLeastOnce(), [0, 1, 1], 0, False),
    ],
)
def test_a_run_is_right_if_every_job_has_its_effect(
    peer: Peer, effects: list[int], done: int, right: bool, server: Server
) -> None:
    dsn = server.libpq(server.maintenance.database or "postgres")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE TEMPORARY TABLE effects (job_id bigint)")
        connection.execute("CREATE TEMPORARY TABLE done AS SELECT generate_series(1, %s)", (done,))
        connection.cursor().executemany("INSERT INTO effects VALUES (%s)", [(n,) for n in effects])
        assert measure.verdict(connection, peer, 3, "row")["right"] is right


def test_rows_are_medians_and_a_failed_run_is_not_right() -> None:
    def run(rate: float, **more: Any) -> measure.Figures:
        return {"jobs/s": rate, "right": True, **more}

    raw = {
        "limit K=50": [run(10.0), run(30.0), run(20.0)],
        "one": [run(5.0), {"failed": "Broken"}],
        "two": [run(4.0), run(6.0, right=False)],
    }
    limit, one, two = report.summary(raw)
    assert (limit["jobs/s"], limit["min"], limit["max"], limit["right"]) == (20.0, 10.0, 30.0, True)
    assert (one["jobs/s"], one["of limit K=50"], one["right"]) == (5.0, 0.25, False)
    assert (two["jobs/s"], two["right"]) == (5.0, False)
    assert "| NO |" in " ".join(report.table([one]).split())


def test_several_rows_of_a_variant_are_compared_with_its_first() -> None:
    raw: dict[str, list[measure.Figures]] = {
        what: [{"jobs/s": rate, "right": True}]
        for what, rate in {"a, 1 process": 4.0, "a, 2 processes": 6.0, "b, 1 process": 3.0}.items()
    }
    assert [row[report.COMPARED] for row in report.summary(raw)] == [1.0, 1.5, 1.0]
    raw["a, 1 process"] = [{"failed": "Broken"}]
    assert report.COMPARED not in report.summary(raw)[1]


def test_quarters_compare_the_last_with_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    hooks = Hooks(Order(count=8, trace=True))
    for n in range(8):
        hooks.tick(n)
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith("FIRST ")
    told = json.loads(last.removeprefix("LAST "))
    assert len(told["marks"]) == 5
    assert [n for n, _ in told["starts"]] == [*range(8)]
    figures = measure.quarters([0.0, 1.0, 2.0, 3.0, 5.0], 8)
    assert (figures["first quarter"], figures["last quarter"], figures["last : first"]) == (2.0, 1.0, 0.5)
