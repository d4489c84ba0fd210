"""Reads the code blocks of a Markdown page, to run them as they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from types import CodeType

FENCE = re.compile(r"^ *(?P<marks>`{3,})(?P<info>.*)$")
SETUP = re.compile(r"^<!-- setup\s*$")
ENDS = frozenset({";", "|", "||", "&", "&&", "(", ")", ">", "<", ">>", "<<"})


@dataclass(frozen=True)
class Block:
    """A fenced block, or the invisible `<!-- setup ... -->` whose info is then 'python'."""

    page: Path
    line: int
    """The line of the page on which `source` begins, counted from 1."""
    info: str
    source: str

    @property
    def language(self) -> str:
        return self.info.split()[0] if self.info else ""

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line - 1}"

    def compiled(self) -> CodeType:
        # Padded, so that tracebacks name the page's own lines.
        return compile("\n" * (self.line - 1) + self.source, str(self.page), "exec", dont_inherit=True)


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page in order; raises ValueError for one that is never closed."""
    lines = enumerate(page.read_text().splitlines(), start=1)
    for start, line in lines:
        if fence := FENCE.match(line):
            info, closing = fence["info"].strip(), re.compile(rf"^ *{fence['marks']}`*\s*$")
        elif SETUP.match(line):
            info, closing = "python", re.compile(r"^-->\s*$")
        else:
            continue
        body = []
        for _, inner in lines:
            if closing.match(inner):
                break
            body.append(inner + "\n")
        else:
            raise ValueError(f"{page}:{start}: this block is never closed")
        yield Block(page, start + 1, info, dedent("".join(body)))


def logical_lines(source: str) -> Iterator[tuple[int, str]]:
    """The lines of a shell block, those that end in a backslash joined to the next; with their numbers."""
    first, parts = 0, list[str]()
    for number, line in enumerate(source.splitlines()):
        first = first if parts else number
        parts.append(line.removesuffix("\\"))
        if not line.endswith("\\"):
            yield first, " ".join(parts)
            parts.clear()


def commands(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Each `sqla-jobs ...` call of a console or shell block: (line of the page, its arguments).

    In a console block only lines after a `$` are typed; the others are what was answered.
    """
    for number, line in logical_lines(block.source):
        if block.language == "console":
            if not line.startswith("$ "):
                continue
            line = line[2:]
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ENDS:
                words.append(word)
                continue
            names = [Path(each).name for each in words]
            if "sqla-jobs" in names:
                yield block.line + number, words[names.index("sqla-jobs") + 1 :]
            words = []
