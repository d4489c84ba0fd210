"""Nothing that a user can touch is undocumented, and nothing documented is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import sqla_jobs
from sqla_jobs.cli import database, main

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
CLI = (ROOT / "docs" / "cli.md").read_text()

CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
LONG_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def code_of(page: Path) -> str:
    return "\n".join(CODE.findall(page.read_text()))


@pytest.mark.parametrize("name", sqla_jobs.__all__)
def test_every_exported_name_is_in_the_docs(name: str) -> None:
    used = [page for page in PAGES if re.search(rf"\b{name}\b", code_of(page))]
    assert used, f"sqla_jobs.{name} is exported, but no page has it in code"


def commands(group: click.Group = main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """All commands, those of groups too, by what is typed."""
    for name, command in group.commands.items():
        yield f"{before}{name}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")


def options() -> Iterator[tuple[str, str]]:
    for name, command in commands():
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                yield name, option


def section(command: str) -> str:
    """The part of docs/cli.md that is about a command, or about the group that it is in."""
    command = command.partition(" ")[0]
    parts = re.split(r"^## ", CLI, flags=re.MULTILINE)
    [found] = [part for part in parts if part.startswith(f"sqla-jobs {command}\n")]
    return found


@pytest.mark.parametrize("command", sorted(name for name, _ in commands()))
def test_every_command_has_a_section(command: str) -> None:
    assert f"$ sqla-jobs {command}" in section(command)
    first = command.partition(" ")[0]
    assert re.search(rf"\[`{command}\b[^`]*`\]\(#sqla-jobs-{first}\)", CLI)


@pytest.mark.parametrize(("command", "option"), sorted(options()))
def test_every_option_is_in_its_commands_table(command: str, option: str) -> None:
    tables = [line for line in section(command).splitlines() if line.startswith("| ")]
    assert any(f"`{option}" in line.split("|")[1] for line in tables), (
        f"{option} is in no table of docs/cli.md"
    )


@pytest.mark.parametrize("command", sorted(main.commands))
def test_every_documented_option_exists(command: str) -> None:
    there = {option for name, option in options() if name.partition(" ")[0] == command}
    for line in section(command).splitlines():
        if line.startswith("| `--"):
            assert set(LONG_OPTION.findall(line.split("|")[1])) <= there, line


def test_the_environment_and_the_exit_codes_are_documented() -> None:
    for name in (database.OPTION, *database.VARIABLES):
        assert f"`{name}`" in CLI
    for code in ("0", "1", "2", "3", "128 + n"):
        assert f"| {code} |" in CLI


def anchors(page: Path) -> set[str]:
    titles = re.findall(
        r"^#+ (.+)$", CODE.sub(lambda match: match[0].strip("`"), page.read_text()), re.MULTILINE
    )
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.relative_to(ROOT)} links to {target}"
        assert not anchor or anchor in anchors(linked), f"{page.relative_to(ROOT)} links to {target}"


def test_every_page_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    for page in sorted((ROOT / "docs").glob("*.md")):
        assert page.name == "index.md" or f"({page.name})" in index, (
            f"docs/index.md does not name {page.name}"
        )
