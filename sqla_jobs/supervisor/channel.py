"""The line between a worker process and its supervisor: a socket that the process inherits."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Final

from sqla_jobs.errors import ConfigurationError

log = logging.getLogger("sqla_jobs")

VARIABLE: Final = "SQLA_JOBS_CHANNEL"
"""Names, in a worker process's environment, the file descriptor of its channel."""
PLACE: Final = "SQLA_JOBS_PLACE"
"""Says, likewise, which of its processes this is, from 1 up."""
READY: Final = b"r"
"""What a worker process says when it has begun to work."""
RECYCLED: Final = b"n"
"""What one says that ends because it has run or grown enough, and wants another in its place."""
STOP: Final = b"s"
"""What a supervisor says at the first signal: take no new job, let those that run finish."""
GIVE_BACK: Final = b"g"
"""What it says at the second: give back those that still run."""


class Channel:
    """A worker process's end of the line to its supervisor."""

    def __init__(self, line: socket.socket, place: int = 1) -> None:
        self._line = line
        self.place = place
        """Which of the supervisor's processes this is, from 1 up; one that takes its place has its number."""

    @classmethod
    def inherited(cls, environment: MutableMapping[str, str] = os.environ) -> Channel | None:
        """The channel of this process; None: it was started by somebody else.

        Raises:
            ConfigurationError: the environment names something that is none.
        """
        # Taken out of it: what a job starts is no worker process of this supervisor.
        given = environment.pop(VARIABLE, None)
        place = environment.pop(PLACE, "")
        if given is None:
            return None
        try:
            line = socket.socket(fileno=int(given))
        except (ValueError, OSError, OverflowError):
            raise ConfigurationError(
                f"{VARIABLE} is {given!r}; expected the file descriptor of a socket, as --processes sets it "
                "for the processes that it starts: unset it"
            ) from None
        # What a job starts or forks may live for long, and is not to speak or listen here.
        line.set_inheritable(False)
        os.register_at_fork(after_in_child=line.close)
        return cls(line, int(place) if place.isdecimal() else 1)

    def say(self, word: bytes) -> None:
        """Tell the supervisor ``READY`` or ``RECYCLED``."""
        with suppress(OSError):  # it is gone, which the other thread is being told
            self._line.sendall(word)

    def obey(self, stop: Callable[[], object], give_back: Callable[[], object]) -> None:
        """Call these, in a thread, when the supervisor says so; ``stop`` also when it has ended, however."""

        def listen() -> None:
            while word := self._hear():
                (give_back if word == GIVE_BACK else stop)()
            log.warning("the supervisor is gone: letting the running jobs finish")
            stop()

        threading.Thread(target=listen, name="sqla_jobs-supervisor", daemon=True).start()

    def _hear(self) -> bytes:
        try:
            return self._line.recv(1)
        except OSError:  # it is gone, and has not read all that was said
            return b""
