"""Kills worker processes at the very point of a job's life that a schedule asks for."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from typing_extensions import Self

from tests.support.crash_phases import Phase, Phases
from tests.support.program import Program, command

ATTEMPTS = 2_000
"""Looks at processes that are not where the schedule wants one to be, before it is given up."""


class Victim:
    """One worker process, and what its threads are doing."""

    def __init__(self, program: Program, phases: Phases, place: int) -> None:
        self.program, self._phases, self.place = program, phases, place

    @property
    def started(self) -> bool:
        """Whether it has tried to claim a job yet."""
        return bool(self._phases.read())

    def stop(self) -> list[Phase] | None:
        """Stop it and say where its threads are; None: it has ended by itself."""
        pid = self.program.pid
        self.program.send(signal.SIGSTOP)
        # The signal is on its way: what it writes until it really stands still is where it stands.
        found = os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        return self._phases.read() if found is not None and found.si_status == signal.SIGSTOP else None

    def go_on(self) -> None:
        self.program.send(signal.SIGCONT)

    def kill(self) -> None:
        self.program.send(signal.SIGKILL)
        assert self.program.wait() == -signal.SIGKILL, self.program.errors


class Workers:
    """So many worker processes by the command line; who is killed is replaced at once."""

    def __init__(self, number: int, arguments: list[str], folder: Path, environment: dict[str, str]) -> None:
        self._arguments, self._folder, self._environment = arguments, folder, environment
        self._number = number
        self._started = 0
        self._stack = ExitStack()
        self.alive: list[Victim] = []

    def start(self, place: int) -> None:
        self._started += 1
        file = self._folder / f"phases-{self._started}"
        phases = Phases(file)
        self._stack.callback(phases.close)
        environment = {
            **self._environment,
            "SQLA_JOBS_TEST_PHASES": str(file),
            "SQLA_JOBS_TEST_PLACE": str(place),
        }
        program = command(*self._arguments, folder=self._folder, **environment)
        self.alive.append(Victim(self._stack.enter_context(program), phases, place))

    def replace(self, victim: Victim) -> None:
        self.alive.remove(victim)
        self.start(victim.place)

    def end(self) -> list[int]:
        """Let all of them come to their end; returns their exit codes."""
        for each in self.alive:
            each.program.send(signal.SIGTERM)
        return [each.program.wait() for each in self.alive]

    def __enter__(self) -> Self:
        try:
            for place in range(self._number):
                self.start(place)
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


class Killer:
    """Kills as a seeded schedule says; ``landed`` counts where.

    Parameters:
        feed: called again and again while it looks for somebody to kill.
    """

    def __init__(self, workers: Workers, chance: random.Random, feed: Callable[[], object]) -> None:
        self._workers, self._chance, self._feed = workers, chance, feed
        self._pause = threading.Event()  # never set
        self.landed: Counter[Phase] = Counter()

    def kill_one(self, wanted: Phase | None) -> int:
        """Kill a process one of whose threads is there; None: wherever they are. Returns its id."""
        for attempt in range(ATTEMPTS):
            if attempt % 20 == 0:
                self._feed()
            # Of a seeded length, and so short that it falls between any two points of a job's life.
            self._pause.wait(self._chance.uniform(0, 0.004))
            victim = self._chance.choice(self._workers.alive)
            if not victim.started:
                continue
            found = victim.stop()
            assert found is not None, f"a worker has ended by itself:\n{victim.program.errors}"
            if wanted is None or wanted in found:
                victim.kill()
                self._workers.replace(victim)
                # One kill may hit two threads; the one that was asked for is counted.
                self.landed[wanted or max(found)] += 1
                return victim.program.pid
            victim.go_on()
        raise AssertionError(f"no process was found in {wanted}")
