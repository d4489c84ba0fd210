"""Supervisor: the worker processes of one command, kept running until a signal stops them.

They are fresh interpreters, not forks: neither threads nor connections survive a fork. This process
opens no connection and imports nothing of the application.

channel     the line between a worker process and its supervisor
"""

from __future__ import annotations

import logging
import math
import os
import selectors
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from sqla_jobs.supervisor.channel import GIVE_BACK, PLACE, READY, RECYCLED, STOP, VARIABLE, Channel

__all__ = ["Channel", "Supervisor", "delay"]

log = logging.getLogger("sqla_jobs")

_STOP: Final = (signal.SIGTERM, signal.SIGINT)
_HOPELESS: Final = (2, 3)
"""Exit codes of a configuration or of tables that no restart mends."""
_LONGEST: Final = 30.0


def delay(failures: int) -> float:
    """Seconds before a process is started again that has died so often in a row before it was ready."""
    return 0.0 if failures < 1 else min(_LONGEST, 0.5 * 2.0 ** min(failures - 1, 16))


@dataclass
class _Place:
    """The place of one worker process; one after the other may fill it."""

    number: int
    start_at: float = math.inf
    """When the next one is due, by the monotonic clock; infinity: when the first one has proven to work."""
    process: subprocess.Popen[bytes] | None = None
    line: socket.socket | None = None
    ready: bool = False
    recycled: bool = False
    failures: int = 0
    """How many have died in a row before they were ready."""
    over: bool = False
    """Nobody runs here, and nobody will."""


class Supervisor:
    """Starts worker processes, starts those again that end unasked, and stops them by signals.

    Parameters:
        command: starts one worker process, which finds its `Channel` in the environment.
        processes: how many.
        drain: a process that ends with 0, and does not say that it is to be recycled, is not replaced.
        grace: seconds after which a stopping worker process gives its running jobs back.
        allowance: seconds beyond these after which it is killed.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        *,
        drain: bool = False,
        grace: float = 30.0,
        allowance: float = 10.0,
    ) -> None:
        self._command = list(command)
        self._drain = drain
        self._patience = grace + allowance
        self._places = [_Place(number + 1) for number in range(processes)]
        self._proven = False
        """Whether any process has ever been ready, so that the configuration can work."""
        self._signals = 0
        self._kill_at = math.inf
        self._code = 0

    def run(self) -> int:
        """Until all have ended, after a signal or a drain; returns the exit code for this process.

        To be called in the main thread, once.
        """
        with selectors.DefaultSelector() as self._selector, self._signals_as_bytes() as signals:
            self._selector.register(signals, selectors.EVENT_READ)
            # One first, the others when it is ready: what is wrong with the configuration is said once.
            self._places[0].start_at = time.monotonic()
            while not all(place.over for place in self._places):
                for place in self._places:
                    if place.process is None and not place.over and place.start_at <= time.monotonic():
                        self._start(place)
                for key, _ in self._selector.select(self._until_next()):
                    if key.data is None:
                        self._take(signals)
                    else:
                        self._listen(key.data)
                self._reap()
                self._kill_late_ones()
        return self._code

    @contextmanager
    def _signals_as_bytes(self) -> Iterator[socket.socket]:
        """A socket on which each signal is a byte: none is lost, whatever this thread does just then."""
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        before = {}
        with reader, writer:
            old = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
            try:
                # Explicitly: the first process of a container has no default for a signal.
                for number in (*_STOP, signal.SIGCHLD):
                    before[number] = signal.signal(number, lambda *_: None)
                yield reader
            finally:
                for number, handler in before.items():
                    signal.signal(number, signal.SIG_DFL if handler is None else handler)
                signal.set_wakeup_fd(old)

    def _until_next(self) -> float | None:
        """Seconds until something is to be done that no file descriptor tells of; None: nothing is."""
        waiting = [place.start_at for place in self._places if place.process is None and not place.over]
        at = min([self._kill_at, *waiting])
        return None if at == math.inf else max(0.0, at - time.monotonic())

    # -- one process -------------------------------------------------------------------------------

    def _start(self, place: _Place) -> None:
        place.ready = place.recycled = False
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, VARIABLE: str(theirs.fileno()), PLACE: str(place.number)},
                    # Not in the terminal's group: a Ctrl-C is to reach it once, from here.
                    start_new_session=True,
                )
            except OSError as error:
                ours.close()
                seconds = self._start_later(place)
                log.error(  # noqa: TRY400 - the system's reason is all there is to tell
                    "worker process %s of %s could not be started: %s; tried again in %g s",
                    place.number, len(self._places), error, seconds,
                )  # fmt: skip
                return
        ours.setblocking(False)
        place.process, place.line = process, ours
        self._selector.register(ours, selectors.EVENT_READ, place)
        self._tell(logging.INFO, place, "started")

    def _listen(self, place: _Place) -> None:
        """Hear what a process has said. That the line ends means nothing: `_reap` knows who has ended."""
        while place.line is not None:
            try:
                said = place.line.recv(64)
            except BlockingIOError:
                return
            except OSError:
                said = b""
            if not said:
                self._hang_up(place)
            if RECYCLED in said:
                place.recycled = True
            if READY in said:
                place.ready = self._proven = True
                place.failures = 0
                self._start_others()

    def _hang_up(self, place: _Place) -> None:
        if place.line is not None:
            self._selector.unregister(place.line)
            place.line.close()
            place.line = None

    def _start_others(self) -> None:
        for place in self._places:
            if place.start_at == math.inf:
                place.start_at = time.monotonic()

    def _start_later(self, place: _Place) -> float:
        place.failures += not place.ready
        seconds = delay(place.failures)
        place.start_at = time.monotonic() + seconds
        return seconds

    def _reap(self) -> None:
        """Take note of who has ended; of strangers too, whom the first process of a container adopts."""
        running = {place.process.pid: place for place in self._places if place.process is not None}
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in running:
                self._ended(running[pid], os.waitstatus_to_exitcode(status))

    def _ended(self, place: _Place, code: int) -> None:
        self._listen(place)  # its last words
        self._hang_up(place)
        assert place.process is not None
        place.process.returncode = code  # or Popen would look for it
        how = f"ended with exit code {code}" if code >= 0 else f"was ended by {_name(-code)}"
        if self._signals:
            # One that our signal met before it could handle any had no job yet.
            clean = code == 0 or (code == -signal.SIGTERM and not place.ready)
            self._tell(logging.INFO if clean else logging.ERROR, place, how, code)
            self._code = self._code or (0 if clean else code if code > 0 else 128 - code)
            place.over = True
        elif self._drain and code == 0 and not place.recycled:
            self._tell(logging.INFO, place, how, code)
            place.over = True
            self._start_others()
        elif code in _HOPELESS and not self._proven:
            self._tell(logging.ERROR, place, f"{how} before any was ready: no other is started", code)
            self._code = code
            self._give_up_waiting()
            place.over = True
        elif place.ready:
            self._start_later(place)
            level = logging.INFO if code == 0 else logging.WARNING
            self._tell(level, place, f"{how}; another is started", code)
        else:
            seconds = self._start_later(place)
            how += f" before it was ready; another is started in {seconds:g} s"
            self._tell(logging.ERROR, place, how, code)
        place.process = None

    def _tell(self, level: int, place: _Place, what: str, code: int | None = None) -> None:
        assert place.process is not None
        extra = {"child_pid": place.process.pid} | ({} if code is None else {"exit_code": code})
        log.log(
            level, "worker process %s of %s (pid %s) %s",
            place.number, len(self._places), place.process.pid, what, extra=extra,
        )  # fmt: skip

    # -- the end -----------------------------------------------------------------------------------

    def _take(self, signals: socket.socket) -> None:
        for number in signals.recv(4096):
            if number in _STOP:
                self._stop(number)

    def _stop(self, number: int) -> None:
        self._signals += 1
        if self._signals == 1:
            log.info("%s: letting the running jobs finish", _name(number))
            self._kill_at = time.monotonic() + self._patience
            self._give_up_waiting()
        elif self._signals == 2:
            log.warning("%s, the second signal: the processes give their running jobs back", _name(number))
        else:
            self._code = 128 + number
        for place in self._places:
            if place.process is None:
                continue
            if self._signals > 2:
                self._kill(place, f"{_name(number)}, the third signal")
            else:
                self._order(place, place.process.pid, STOP if self._signals == 1 else GIVE_BACK)

    def _order(self, place: _Place, pid: int, word: bytes) -> None:
        """Pass a signal on."""
        # As a word, since a signal may have reached all processes already (systemd does that), and a second
        # one would cost a worker its running jobs. One that is not ready has none, and does not listen yet.
        if place.ready and place.line is not None:
            with suppress(OSError):
                place.line.sendall(word)
                return
        os.kill(pid, signal.SIGTERM)

    def _kill(self, place: _Place, why: str) -> None:
        assert place.process is not None
        self._tell(logging.ERROR, place, f"is killed: {why}")
        os.kill(place.process.pid, signal.SIGKILL)

    def _give_up_waiting(self) -> None:
        for place in self._places:
            place.over = place.process is None

    def _kill_late_ones(self) -> None:
        if time.monotonic() < self._kill_at:
            return
        self._kill_at = math.inf
        for place in self._places:
            if place.process is not None:
                self._kill(place, f"it is still there {self._patience:g} s after the signal to stop")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
