"""The command line in processes of its own, watched line by line."""

from __future__ import annotations

import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

import sqla_jobs

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = Path(sqla_jobs.__file__).parents[1]
PATIENCE = 60
CHOOSE_A_DATABASE = ("SQLA_JOBS_DATABASE_URL", "DATABASE_URL")


class Program:
    """A running `python …`; its stderr can be waited for, line by line."""

    def __init__(self, *arguments: str, folder: Path, environment: Mapping[str, str]) -> None:
        inherited = {name: value for name, value in os.environ.items() if name not in CHOOSE_A_DATABASE}
        self._process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder,
            env={
                **inherited,
                "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(ROOT)]),
                "COLUMNS": "200",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # Of its own, as of a terminal's: a signal to the group reaches its children, not the tests.
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._seen: list[str] = []
        self._output: list[str] = []
        self._readers = [
            threading.Thread(target=self._read_errors, daemon=True),
            threading.Thread(target=self._read_output, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._lines.put(line)
        self._lines.put(None)

    def _read_output(self) -> None:
        assert self._process.stdout is not None
        self._output.extend(self._process.stdout)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def code(self) -> int:
        """The exit code of a program that has ended: -n if signal n has ended it."""
        assert self._process.returncode is not None, "the program still runs"
        return self._process.returncode

    @property
    def output(self) -> str:
        return "".join(self._output)

    @property
    def errors(self) -> str:
        return "".join(self._seen)

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Read stderr up to a line in which the pattern is found."""
        while (line := self._lines.get(timeout=PATIENCE)) is not None:
            self._seen.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"the program ended without saying {pattern!r}:\n{self.errors}{self.output}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Ctrl-C: SIGINT to the program and all its children."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait(self, patience: float = PATIENCE) -> int:
        """The exit code; what the program has said is then in `output` and `errors`."""
        code = self._process.wait(patience)
        for reader in self._readers:
            reader.join(PATIENCE)
        while not self._lines.empty():
            if (line := self._lines.get()) is not None:
                self._seen.append(line)
        return code

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self.wait()
        for stream in (self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def command(*arguments: str, folder: Path, **environment: str) -> Iterator[Program]:
    """A running `sqla-jobs …`; killed at the end if it still runs."""
    with Program("-m", "sqla_jobs", *arguments, folder=folder, environment=environment) as program:
        yield program


def run(*arguments: str, folder: Path, patience: float = PATIENCE, **environment: str) -> Program:
    """Run `sqla-jobs …` to its end; see its `code`, `output` and `errors`."""
    with command(*arguments, folder=folder, **environment) as program:
        program.wait(patience)
    return program
