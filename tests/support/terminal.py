"""A program in a terminal of its own: keys go in, and what is on the screen can be waited for."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

import pyte
from typing_extensions import Self

from tests.support.program import CHOOSE_A_DATABASE, LIBRARY, ROOT

PATIENCE = 20
ENTER, ESCAPE, TAB = "\r", "\x1b", "\t"
SCREEN_TAKEN, SCREEN_LEFT = b"\x1b[?1049h", b"\x1b[?1049l"
_TAKE_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)
"""A session's own terminal: whose size, Ctrl-C and Ctrl-Z become signals."""


class Screen:
    """A running `python …` on a terminal of 80 by 24."""

    def __init__(self, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._master, self._slave = pty.openpty()
        self._screen = pyte.Screen(80, 24)
        self._stream = pyte.ByteStream(self._screen)
        self._drawn = threading.Condition()
        self.written = b""
        """All that the program has sent to the terminal."""
        self.resize(80, 24)
        self.before = self.attributes()
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in (*CHOOSE_A_DATABASE, "COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _TAKE_TERMINAL, *arguments],
            cwd=folder,
            env={
                **inherited,
                "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(ROOT)]),
                "TERM": "xterm-256color",
                "PYTHONIOENCODING": "utf-8",
                **(environment or {}),
            },
            stdin=self._slave, stdout=self._slave, stderr=self._slave,
            start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self._master, 65536)
            except OSError:
                return
            with self._drawn:
                self.written += data
                self._stream.feed(data)
                self._drawn.notify_all()

    def attributes(self) -> list[object]:
        """How the terminal treats what is typed."""
        return list(termios.tcgetattr(self._slave))

    @property
    def text(self) -> str:
        """What is on the screen."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    @property
    def cursor_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)

    def wait_for(self, pattern: str) -> None:
        """Wait until the pattern is on the screen."""
        self.wait_until(lambda text: bool(re.search(pattern, text, re.MULTILINE)), pattern)

    def wait_until(self, condition: Callable[[str], bool], what: str = "") -> None:
        """Wait until what is on the screen is as it is to be."""
        with self._drawn:
            assert self._drawn.wait_for(lambda: condition(self.text), PATIENCE), f"no {what!r}:\n{self.text}"

    def press(self, *keys: str) -> None:
        os.write(self._master, "".join(keys).encode())

    def resize(self, width: int, height: int) -> None:
        """Another size, which the program is told by a signal."""
        with self._drawn:
            self._screen.resize(height, width)
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """The exit code; all that was written is then in `written`."""
        code = self.process.wait(PATIENCE)
        os.write(self._slave, b"\0the end\0")  # behind all that the program wrote
        with self._drawn:
            assert self._drawn.wait_for(lambda: b"\0the end\0" in self.written, PATIENCE)
        return code

    @property
    def restored(self) -> bool:
        """Whether the terminal is as it was before the program: keys, cursor and screen."""
        left = self.written.rfind(SCREEN_LEFT) > self.written.rfind(SCREEN_TAKEN) >= 0
        return left and not self.cursor_hidden and self.attributes() == self.before

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
        os.close(self._slave)
        os.close(self._master)
        self._reader.join(PATIENCE)
