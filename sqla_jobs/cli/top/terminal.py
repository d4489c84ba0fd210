"""A terminal taken over and given back: keys as they come, the alternate screen, signals as bytes."""

from __future__ import annotations

import os
import select
import signal
import sys
import tempfile
import termios
import threading
import tty
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from types import FrameType
from typing import IO, Any, Final

from rich.console import Console, ConsoleDimensions, Group
from rich.live import Live
from rich.text import Text
from typing_extensions import Self

from sqla_jobs.cli.top.keys import Keys
from sqla_jobs.cli.top.texts import ASCII, UNICODE, Glyphs

ENDS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_SIGNALS: Final = (*ENDS, signal.SIGWINCH, signal.SIGTSTP)
_ESCAPE: Final = 0.05
"""Seconds after which an escape character that nothing followed is the escape key."""
_TOLD: Final = 64 * 1024
"""Bytes of what was written to stderr meanwhile that are shown at the end."""


class Terminal:
    """A context in which the terminal is ours; whatever ends it, the terminal is as it was.

    Outside of the main thread only `wake` may be called.
    """

    def __init__(self) -> None:
        # Whatever the database holds: a character that the terminal's encoding has not must not end this.
        with suppress(AttributeError):
            sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        self.console = console()
        self._keys = Keys()
        self._in, self._out = sys.stdin.fileno(), sys.stdout.fileno()
        self._pipe = (-1, -1)
        self._closing = threading.Lock()  # a number that was closed may be somebody else's file
        self._taken = ExitStack()
        self._live: Live | None = None

    @property
    def glyphs(self) -> Glyphs:
        """What this terminal can show."""
        return glyphs(self.console)

    def size(self) -> tuple[int, int]:
        """Columns and rows at this moment."""
        return size_of(self._out)

    def show(self, lines: Sequence[Text]) -> None:
        """Draw a frame; it fills the screen."""
        assert self._live is not None
        self.console.size = ConsoleDimensions(*self.size())
        self._live.update(screenful(lines), refresh=True)

    def wake(self) -> None:
        """Let `wait` return."""
        with self._closing, suppress(OSError):  # it is full, and is read anyhow; or this is over
            os.write(self._pipe[1], b"\0")

    def wait(self, seconds: float | None) -> tuple[list[str], list[int]]:
        """The keys and signals that have come; none: the time is over, or somebody has called `wake`."""
        ready, _, _ = select.select(
            [self._in, self._pipe[0]], [], [], _ESCAPE if self._keys.waits else seconds
        )
        names, signals = [], []
        if self._pipe[0] in ready:
            signals = [number for number in os.read(self._pipe[0], 1024) if number]
        if self._in in ready:
            data = self._read()
            names = self._keys.feed(data)
            if not data:
                signals.append(signal.SIGHUP)
        elif self._keys.waits and not ready:
            names = self._keys.flush()
        return names, signals

    def _read(self) -> bytes:
        try:
            return os.read(self._in, 1024)
        except OSError:  # the terminal is gone
            return b""

    def suspend(self) -> None:
        """Give the terminal back and stop, until somebody lets this process go on."""
        self._release()
        os.kill(os.getpid(), signal.SIGSTOP)
        self._take()

    def __enter__(self) -> Self:
        self._pipe = os.pipe()
        for end in self._pipe:
            os.set_blocking(end, False)
        try:
            self._take()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._release()
        finally:
            self._close()

    def _close(self) -> None:
        with self._closing:
            pipe, self._pipe = self._pipe, (-1, -1)
            for end in pipe:
                os.close(end)

    def _take(self) -> None:
        with ExitStack() as taken:  # each is given back if a later one cannot be taken
            taken.callback(_show_stderr, _hide_stderr())
            taken.callback(_set_signals, _set_signals(dict.fromkeys(_SIGNALS, _heard), self._pipe[1]))
            before = termios.tcgetattr(self._in)
            # What was typed and not read is no business of the shell.
            taken.callback(termios.tcsetattr, self._in, termios.TCSAFLUSH, before)
            tty.setcbreak(self._in)
            self._live = Live(
                console=self.console, screen=True, auto_refresh=False, redirect_stdout=False,
                redirect_stderr=False,
            )  # fmt: skip
            taken.callback(self._live.stop)
            self._live.start()
            self._taken = taken.pop_all()

    def _release(self) -> None:
        self._taken.close()
        self._live = None


def console(**options: Any) -> Console:
    """A console that takes nothing in a text for markup, an emoji or a number to colour."""
    return Console(highlight=False, markup=False, emoji=False, **options)


def glyphs(console: Console) -> Glyphs:
    """What a console's encoding has."""
    return UNICODE if console.encoding.lower().startswith("utf") else ASCII


def screenful(lines: Sequence[Text]) -> Group:
    """Lines that are neither wrapped nor cut further."""
    for line in lines:
        line.no_wrap = True
        line.overflow = "crop"
    return Group(*lines)


def size_of(descriptor: int) -> tuple[int, int]:
    """Columns and rows of a terminal; one that does not know is taken for 80 by 24."""
    try:
        width, height = os.get_terminal_size(descriptor)
    except OSError:
        return 80, 24
    return width or 80, height or 24


# -- signals -------------------------------------------------------------------------------------------


def _heard(number: int, _: FrameType | None) -> None:
    """The pipe tells of the first; the second ends the process where it is: the terminal may not answer."""
    if number in ENDS:
        signal.signal(number, signal.SIG_DFL)


Handlers = dict[signal.Signals, "Callable[[int, FrameType | None], Any] | int | None"]


def _set_signals(handlers: Handlers | tuple[Handlers, int], pipe: int = -1) -> tuple[Handlers, int]:
    """Install handlers, and the pipe that is told of signals; returns what to call this with to undo it."""
    if isinstance(handlers, tuple):
        handlers, pipe = handlers
    before = {number: signal.getsignal(number) for number in handlers}
    told = signal.set_wakeup_fd(pipe, warn_on_full_buffer=False)
    for number, handler in handlers.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)
    return before, told


# -- stderr --------------------------------------------------------------------------------------------


def _hide_stderr() -> tuple[int, IO[bytes]] | None:
    """Let what the application logs meanwhile go to a file instead of across the screen."""
    if not os.isatty(2):
        return None
    kept = tempfile.TemporaryFile()  # noqa: SIM115 - closed by _show_stderr
    before = os.dup(2)
    sys.stderr.flush()
    os.dup2(kept.fileno(), 2)
    return before, kept


def _show_stderr(hidden: tuple[int, IO[bytes]] | None) -> None:
    if hidden is None:
        return
    before, kept = hidden
    sys.stderr.flush()
    os.dup2(before, 2)
    os.close(before)
    with kept:
        kept.seek(max(0, kept.seek(0, os.SEEK_END) - _TOLD))
        if told := kept.read():
            os.write(2, told)
