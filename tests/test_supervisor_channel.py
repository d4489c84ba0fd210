"""The line between a worker process and its supervisor, and a supervisor as a container's first process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from sqla_jobs.errors import ConfigurationError
from sqla_jobs.supervisor import channel
from sqla_jobs.supervisor.channel import GIVE_BACK, READY, STOP, Channel
from tests.support.program import LIBRARY, Program
from tests.support.supervised import supervisor, until
from tests.support.work import PATIENCE


def test_without_a_supervisor_there_is_no_channel() -> None:
    assert Channel.inherited({}) is None


@pytest.mark.parametrize("given", ["", "x", "-1", "99999", "9" * 30])
def test_a_stray_variable_is_refused(given: str) -> None:
    with pytest.raises(ConfigurationError, match=f"SQLA_JOBS_CHANNEL is '{given}'; expected .* unset it"):
        Channel.inherited({channel.VARIABLE: given})


def test_a_file_is_no_channel(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file, pytest.raises(ConfigurationError, match="of a socket"):
        Channel.inherited({channel.VARIABLE: str(file.fileno())})
    assert (tmp_path / "file").exists()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, Channel]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, Channel(theirs)


class Told:
    """What a channel has called, in order."""

    def __init__(self) -> None:
        self.words: list[str] = []
        self._said = threading.Condition()

    def stop(self) -> None:
        self._say("stop")

    def give_back(self) -> None:
        self._say("give back")

    def _say(self, word: str) -> None:
        with self._said:
            self.words.append(word)
            self._said.notify_all()

    def wait_for(self, *words: str) -> None:
        with self._said:
            assert self._said.wait_for(lambda: self.words == list(words), PATIENCE), self.words


def test_orders_are_obeyed_one_by_one_and_the_end_of_the_line_is_a_stop(
    pair: tuple[socket.socket, Channel],
) -> None:
    ours, theirs = pair
    told = Told()
    theirs.obey(told.stop, told.give_back)
    ours.sendall(STOP)
    told.wait_for("stop")
    ours.sendall(GIVE_BACK)
    told.wait_for("stop", "give back")
    ours.close()
    told.wait_for("stop", "give back", "stop")


def test_a_supervisor_that_has_not_listened_to_the_end_is_gone_too(
    pair: tuple[socket.socket, Channel],
) -> None:
    ours, theirs = pair
    told = Told()
    theirs.say(READY)
    ours.close()  # with a word unread, this is a reset
    theirs.obey(told.stop, told.give_back)
    told.wait_for("stop")
    theirs.say(READY)


INHERITS = """
import os, subprocess, sys
from sqla_jobs.supervisor.channel import Channel

number = int(os.environ["SQLA_JOBS_CHANNEL"])
channel = Channel.inherited()
print("named:", "SQLA_JOBS_CHANNEL" in os.environ)

look = "import os, sys; print('open' if os.path.exists(f'/dev/fd/{sys.argv[1]}') else 'closed')"
sys.stdout.flush()
subprocess.run([sys.executable, "-c", look, str(number)], close_fds=False, check=True)

if (pid := os.fork()) == 0:
    os.execv(sys.executable, [sys.executable, "-c", look, str(number)])
os.waitpid(pid, 0)

if os.fork() == 0:
    try:
        os.fstat(number)
    except OSError:
        os.write(1, b"closed\\n")
    os._exit(0)
os.wait()
os.fstat(number)
"""


def test_what_a_job_starts_or_forks_does_not_keep_the_line() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ended = subprocess.run(
            [sys.executable, "-c", INHERITS],
            env={**os.environ, "PYTHONPATH": str(LIBRARY), channel.VARIABLE: str(theirs.fileno())},
            pass_fds=[theirs.fileno()],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
    assert ended.stderr == ""
    assert ended.stdout.splitlines() == ["named: False", "closed", "closed", "closed"]


ORPHAN = """
ready()
said, saying = os.pipe()
if (pid := os.fork()) == 0:
    if (orphan := os.fork()) != 0:
        os.write(saying, str(orphan).encode())
    else:
        signal.pause()
    os._exit(0)
os.waitpid(pid, 0)
orphan = int(os.read(said, 20))
say(f"supervised by {os.getppid()}, an orphan of {open(f'/proc/{orphan}/stat').read().split()[3]}")
os.kill(orphan, signal.SIGKILL)
import threading
while os.path.exists(f"/proc/{orphan}"):
    threading.Event().wait(0.01)
say("the orphan is buried")
hear()
"""


def _can_unshare() -> bool:
    try:
        done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True)
    except FileNotFoundError:
        return False
    return done.returncode == 0


@pytest.mark.skipif(not _can_unshare(), reason="needs unshare, and the right to use it")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_as_the_first_process_of_a_container_it_heeds_signals_and_buries_orphans(
    number: signal.Signals, tmp_path: Path
) -> None:
    enter = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    with supervisor(ORPHAN, tmp_path, processes=1, enter=enter) as program:
        until(program, "supervised by 1, an orphan of 1")
        until(program, "the orphan is buried")
        first = inside(program)
        os.kill(first, number)
        assert program.wait() == 0
    assert f"{number.name}: letting the running jobs finish" in program.errors


def inside(program: Program) -> int:
    """The process id, as seen from here, of the first process in there."""
    return int(Path(f"/proc/{program.pid}/task/{program.pid}/children").read_text())
