"""README.md and docs/ are executed: every Python block runs, every command that is shown exists.

The blocks of a page run from top to bottom as one program, on a fresh database whose URL is in
os.environ["DATABASE_URL"]. What a page needs and a reader does not stands in an HTML comment of its own:

    <!-- setup
    python code
    -->
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import click
import pytest
from sqlalchemy import Connection, Engine, event
from sqlalchemy.orm import close_all_sessions

from sqla_jobs.metrics import Prometheus
from tests.support.pages import Block, blocks, commands
from tests.support.server import Database

ROOT = Path(__file__).resolve().parent.parent
PAGES = [page for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))] if page.exists()]
PYTHON_LIKE = {"py", "python3", "pycon", "python-repl"}
SHELLS = {"console", "bash", "sh", "shell"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_python_blocks_run(
    page: Path, empty_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_page(page, empty_database, monkeypatch, tmp_path)


@each_page
def test_shown_commands_exist(page: Path) -> None:
    from sqla_jobs import cli

    check_commands(page, cli.main)


def run_page(page: Path, database: Database, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run a page's Python blocks as one module; a failure names the page and the line."""
    # A real module, not __main__: tasks take their names from it, and dataclasses look it up.
    module = ModuleType("page_" + "".join(c if c.isalnum() else "_" for c in page.stem.lower()))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("DATABASE_URL", database.url_string)
    monkeypatch.chdir(folder)
    with engines_disposed(), metrics_closed(module):
        for block in blocks(page):
            if block.language in PYTHON_LIKE or (block.language == "python" and block.info != "python"):
                raise AssertionError(
                    f"{block.place}: Python is marked ```python and runs, found ```{block.info}"
                )
            if block.language == "python":
                run_block(block, module)


def run_block(block: Block, module: ModuleType) -> None:
    try:
        exec(block.compiled(), module.__dict__)
    except Exception as error:
        lines = [
            at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(block.page)
        ]
        line = lines[-1] if lines else getattr(error, "lineno", block.line)
        # With the cause: where a library raised is as telling as the page's own line.
        raise AssertionError(f"{block.page}:{line}: {type(error).__name__}: {error}") from error


@contextmanager
def engines_disposed() -> Iterator[None]:
    """Close what a page left open: readers need not, but the test run counts every open connection."""
    used: set[Engine] = set()

    def note(connection: Connection) -> None:
        used.add(connection.engine)

    event.listen(Engine, "engine_connect", note)
    try:
        yield
    finally:
        event.remove(Engine, "engine_connect", note)
        close_all_sessions()
        for engine in used:
            engine.dispose()


@contextmanager
def metrics_closed(module: ModuleType) -> Iterator[None]:
    """Take what a page counts out of the process's registry: it has room for one, and a test wants it."""
    try:
        yield
    finally:
        for made in vars(module).values():
            if isinstance(made, Prometheus):
                made.close()


def check_commands(page: Path, main: click.Command) -> None:
    """Parse each shown `sqla-jobs ...` with the real command line, without running it."""
    for block in blocks(page):
        if block.language in SHELLS:
            for line, arguments in commands(block):
                check_command(main, arguments, f"{page}:{line}")


def check_command(main: click.Command, arguments: list[str], place: str) -> None:
    try:
        parse(main, arguments)
    except click.ClickException as error:
        shown = " ".join(["sqla-jobs", *arguments])
        raise AssertionError(f"{place}: {shown}: {error.format_message()}") from error


def parse(command: click.Command, arguments: list[str], parent: click.Context | None = None) -> None:
    # Only the parser: `make_context` would run --help, and insist on what a page may leave out.
    context = click.Context(command, parent=parent, info_name=command.name)
    _, rest, _ = command.make_parser(context).parse_args(list(arguments))
    if isinstance(command, click.Group):
        if rest:
            _, found, rest = command.resolve_command(context, rest)
            assert found is not None
            parse(found, rest, context)
    elif rest:
        raise click.UsageError(f"unexpected: {' '.join(rest)}")


# The runner itself: a page that lies must fail here, at its own line.


def page_of(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text)
    return page


def test_blocks_share_a_namespace_and_a_database(
    empty_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = page_of(
        tmp_path,
        """
<!-- setup
import os
from sqlalchemy import create_engine
engine = create_engine(os.environ["DATABASE_URL"])
-->
1. In a list:

   ```python
   with engine.begin() as connection:
       connection.exec_driver_sql("CREATE TABLE made_by_page (id int)")
   ```
""",
    )
    run_page(page, empty_database, monkeypatch, tmp_path)
    assert empty_database.scalar("SELECT count(*) FROM made_by_page") == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x\n```python\nfirst = 1\n\nassert first == 2\n```\n", r"page\.md:5: AssertionError"),
        (
            "```python\ndef f():\n    raise KeyError('k')\n```\n\n```python\nf()\n```\n",
            r"page\.md:3: KeyError",
        ),
        ("```python\nx = (\n```\n", r"page\.md:2: SyntaxError"),
        ("\n```python no-run\nx = 1\n```\n", r"page\.md:2: .*```python no-run"),
        ("```py\nx = 1\n```\n", r"page\.md:1: .*```py"),
    ],
)
def test_a_failure_names_page_and_line(
    text: str, message: str, empty_database: Database, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=message):
        run_page(page_of(tmp_path, text), empty_database, monkeypatch, tmp_path)


def test_an_unclosed_block_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"page\.md:2: this block is never closed"):
        list(blocks(page_of(tmp_path, "x\n```python\nx = 1\n")))


@click.group(name="sqla-jobs")
def sample() -> None:
    """A command line to check pages against."""


@sample.command()
@click.argument("application")
@click.option("--queues", required=True)
def worker(application: str, queues: str) -> None:
    """Never called."""


@pytest.mark.parametrize(
    "line",
    [
        "$ sqla-jobs worker app:jobs --queues a,b\nsqla-jobs nonsense is only printed",
        "$ DATABASE_URL=x .venv/bin/sqla-jobs worker app:jobs \\\n    --queues a   # comment",
        "$ cd shop && sqla-jobs worker | tee log",
        "$ sqla-jobs --help",
        "$ pip install sqla-jobs",
    ],
)
def test_a_right_command_is_accepted(line: str, tmp_path: Path) -> None:
    check_commands(page_of(tmp_path, f"```console\n{line}\n```\n"), sample)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("```console\n$ ls\n$ sqla-jobs wroker\n```\n", r"page\.md:3: .*wroker"),
        ("```bash\ncd x && sqla-jobs worker --threds 3\n```\n", r"page\.md:2: .*--threds"),
        (
            "```bash\nsqla-jobs worker app:jobs \\\n  more\nsqla-jobs x\n```\n",
            r"page\.md:2: .*: more",
        ),
        ("```bash\nsqla-jobs worker \\\n  app:jobs\nsqla-jobs x\n```\n", r"page\.md:4: .*No such command"),
    ],
)
def test_a_wrong_command_is_refused(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=message):
        check_commands(page_of(tmp_path, text), sample)
