"""Terminal, state and reader at work together; and one frame without a terminal."""

from __future__ import annotations

import signal
import sys
import time
from collections import deque
from typing import Final

import click

from sqla_jobs.cli.printing import plain
from sqla_jobs.cli.top.facts import Do, Event, Fresh, Key, Look, Resized, Said, Silent, Wish
from sqla_jobs.cli.top.frame import frame, whole
from sqla_jobs.cli.top.reader import Reader
from sqla_jobs.cli.top.source import Source
from sqla_jobs.cli.top.state import State, step
from sqla_jobs.cli.top.terminal import ENDS, Terminal, console, glyphs, size_of

ROWS: Final = 10
"""Of a panel that are printed by `once`."""
LAST_ACTION: Final = 5.0
"""Seconds that the end waits for what was confirmed and is being done."""
_PATIENCE: Final = 4.0
"""Seconds after which the next look is overdue."""
_TICK: Final = 1.0


def live(source: Source, state: State) -> int | None:
    """Show it until it is quit; returns the signal that has ended it, if one has."""
    terminal = Terminal()
    program = _Program(terminal, source, state)
    try:
        with terminal:
            return program.run()
    finally:
        program.end()


class _Program:
    """What comes in is put into the state one after the other, in one thread; what follows is carried out."""

    def __init__(self, terminal: Terminal, source: Source, state: State) -> None:
        self._terminal, self._state = terminal, state
        self._heard: deque[Event | BaseException] = deque()
        self._reader = Reader(source, state.interval, self._hear, self._hear)
        self._over = False

    def _hear(self, event: Event | BaseException) -> None:
        self._heard.append(event)
        self._terminal.wake()

    def run(self) -> int | None:
        self._reader.start()
        last = time.monotonic()
        while True:
            self._step(Resized(*self._terminal.size()))
            self._terminal.show(frame(self._state, self._terminal.glyphs))
            names, signals = self._terminal.wait(_TICK)
            for name in names:
                self._step(Key(name))
                if self._over:  # whatever was typed behind it
                    return None
            while self._heard:
                last = time.monotonic()
                self._step(self._heard.popleft())
            away = self._state.away
            due = self._state.interval if away is None else away.seconds
            if (silence := time.monotonic() - last) > due + _PATIENCE:
                self._step(Silent(silence))
            for number in signals:
                if number in ENDS:
                    return number
                if number == signal.SIGTSTP:
                    self._terminal.suspend()

    def _step(self, event: Event | BaseException) -> None:
        if isinstance(event, BaseException):
            raise event
        self._state, commands = step(self._state, event)
        for command in commands:
            if isinstance(command, Do):
                self._reader.do(command.action)
            elif isinstance(command, Look):
                self._reader.look(command.wish)
            else:
                self._over = True

    def end(self) -> None:
        """Let what was confirmed be done, and say what came of it: there is no screen for it any more."""
        self._reader.stop(LAST_ACTION)
        for event in self._heard:
            if isinstance(event, Said):
                click.echo(plain(event.text))


def once(source: Source, state: State) -> None:
    """Print one frame, as high as what is in it."""
    out = console()
    width = size_of(sys.stdout.fileno())[0] if out.is_terminal else out.width
    state, _ = step(state, Fresh(source.read(Wish())))
    state, _ = step(state, Resized(width, whole(state, width, ROWS)))
    for line in frame(state, glyphs(out), keys=False):
        out.print(line, no_wrap=True, overflow="crop")
