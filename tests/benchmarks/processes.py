"""The processes that are measured, seen from outside."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from typing_extensions import Self

from tests.benchmarks.base import Order

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.benchmarks.child"]
PATIENCE = 120.0


class Broken(Exception):
    """A child process failed, or did not do in time what it was to do."""


def _environment(order: Order) -> dict[str, str]:
    # The queues' own warnings, of deprecations mostly, are no concern here.
    return {**os.environ, "PYTHONWARNINGS": "ignore", **order.environment()}


def call(order: Order) -> dict[str, Any]:
    """Run a child to its end; what it says at last."""
    done = subprocess.run(
        COMMAND, cwd=ROOT, env=_environment(order), capture_output=True, text=True, timeout=PATIENCE
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            result: dict[str, Any] = json.loads(line.removeprefix("RESULT "))
            return result
    raise Broken(f"{order.variant}, {order.operation}: {(done.stderr or done.stdout)[-2000:]}")


class WorkerProcess:
    """A worker in a process of its own, killed at the end."""

    def __init__(self, order: Order) -> None:
        self._order = order
        # To a file, as a service's log goes: a pipe that nobody reads would stop the worker.
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 -- closed with the process
        self._process = subprocess.Popen(
            COMMAND,
            cwd=ROOT,
            env=_environment(order),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._ps = psutil.Process(self._process.pid)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    def wait(self, word: str, patience: float = PATIENCE) -> Mapping[str, Any]:
        """What the worker says with this word; other lines are passed over."""
        end = time.monotonic() + patience
        while True:
            try:
                line = self._lines.get(timeout=max(0.01, end - time.monotonic()))
            except queue.Empty:
                raise Broken(
                    f"{self._order.variant}: no {word} within {patience} s; {self._said()}"
                ) from None
            if line is None:
                raise Broken(f"the worker of {self._order.variant} ended; {self._said()}")
            if line.startswith(f"{word} "):
                found: Mapping[str, Any] = json.loads(line.removeprefix(f"{word} "))
                return found

    def first(self) -> float | None:
        """When its first job began; None: it has had none."""
        while not self._lines.empty():
            line = self._lines.get()
            if line is not None and line.startswith("FIRST "):
                return float(json.loads(line.removeprefix("FIRST "))["at"])
        return None

    def _said(self) -> str:
        return f"stderr: {self._log()[-2000:]}"

    def _log(self) -> str:
        # By an offset of its own: the worker writes on where the file ends for it.
        return os.pread(self._errors.fileno(), 2**26, 0).decode(errors="replace")

    def complaints(self) -> int:
        """How many lines of its log are no mere information."""
        return sum(level in line for line in self._log().splitlines() for level in ("WARNING", "ERROR"))

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def cpu(self) -> float:
        """CPU seconds of the process and its children."""
        total = 0.0
        for process in [self._ps, *self._ps.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.Error:  # it has just ended
                continue
            total += times.user + times.system
        return total

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._reader.join(PATIENCE)
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                with suppress(BrokenPipeError):
                    stream.close()
