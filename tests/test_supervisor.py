"""The supervisor and small programs as its worker processes: what is started, when, and what is not."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sqla_jobs.supervisor import delay
from tests.support.supervised import pids, supervisor, until

WORKS = """
ready()
say("works")
while word := hear():
    say({"s": "stops", "g": "gives back"}[word])
    if word == "s":
        break
else:
    say("alone")
"""
"""Works until it is told to stop, or until the supervisor is gone."""


def test_the_pauses_double_from_half_a_second_to_thirty() -> None:
    assert [delay(failures) for failures in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert delay(10_000) == 30


def test_one_that_worked_and_died_is_replaced_at_once(tmp_path: Path) -> None:
    with supervisor(WORKS, tmp_path) as program:
        until(program, "^works$", 2)
        until(program, "^INFO worker process [12] of 2 .* started$", 2)
        _, second = pids(program)
        os.kill(second, signal.SIGKILL)
        until(program, rf"^WARNING .* 2 of 2 \(pid {second}\) was ended by SIGKILL; another is started$")
        until(program, "^works$", 3)
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert program.errors.count("stops") == 2
    assert len(pids(program)) == 3


def test_one_that_works_and_ends_by_itself_is_replaced(tmp_path: Path) -> None:
    child = "if start() == 0:\n    ready()\n    sys.exit(0)\n" + WORKS
    with supervisor(child, tmp_path, processes=1) as program:
        until(program, r"INFO worker process 1 of 1 \(pid \d+\) ended with exit code 0; another is started$")
        until(program, "works")
        program.send(signal.SIGINT)
        assert program.wait() == 0


def test_the_others_are_started_when_the_first_one_works(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    child = "if start() == 0:\n    say('not yet')\n    open('gate').read()\n" + WORKS
    with supervisor(child, tmp_path, processes=3) as program:
        until(program, "not yet")
        assert len(pids(program)) == 1
        (tmp_path / "gate").write_text("open")
        until(program, "^works$", 3)
        program.send(signal.SIGTERM)
        assert program.wait() == 0


@pytest.mark.parametrize("code", [2, 3])
def test_what_no_restart_mends_ends_the_supervisor(code: int, tmp_path: Path) -> None:
    child = f"say('Error: it is wrong')\nsys.exit({code})"
    with supervisor(child, tmp_path, processes=4) as program:
        assert program.wait() == code
    assert program.errors.count("Error: it is wrong") == 1
    assert f"ended with exit code {code} before any was ready: no other is started" in program.errors
    assert len(pids(program)) == 1


def test_one_that_dies_before_it_works_is_replaced_after_a_pause(tmp_path: Path) -> None:
    child = (
        "number = start()\n"
        "if number in (0, 1): sys.exit(1)\n"
        "if number == 2: ready(); sys.exit(5)\n"
        # Once one has worked, the configuration is not hopeless: a deploy may be under way.
        "if number == 3: sys.exit(3)\n"
    ) + WORKS
    with supervisor(child, tmp_path, processes=1) as program:
        until(program, "ERROR .* ended with exit code 1 before it was ready; another is started in 0.5 s")
        until(program, "ERROR .* ended with exit code 1 before it was ready; another is started in 1 s")
        until(program, "WARNING .* ended with exit code 5; another is started$")
        until(program, "ERROR .* ended with exit code 3 before it was ready; another is started in 0.5 s")
        until(program, "works")
        program.send(signal.SIGTERM)
        assert program.wait() == 0


def test_a_drain_ends_when_all_have_ended_with_0(tmp_path: Path) -> None:
    child = (
        "number = start()\n"
        "ready()\n"
        "if number == 0: hear()\n"
        "if number == 1: os.kill(os.getpid(), signal.SIGKILL)\n"
        "if number == 2: line.sendall(b'n')\n"
        "if number == 3: say('the last')\n"
    )
    with supervisor(child, tmp_path, drain=True) as program:
        until(program, "was ended by SIGKILL; another is started")
        # It has said that it is to be followed by another one: that is not the end of a drain.
        until(program, "INFO .* ended with exit code 0; another is started$")
        until(program, "the last")
        os.kill(pids(program)[0], signal.SIGKILL)
        until(program, "was ended by SIGKILL; another is started", 2)
        assert program.wait() == 0
    assert len(pids(program)) == 5


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_first_signal_stops_all_and_starts_none(number: signal.Signals, tmp_path: Path) -> None:
    with supervisor(WORKS, tmp_path, processes=3) as program:
        until(program, "^works$", 3)
        program.send(number)
        until(program, f"INFO {number.name}: letting the running jobs finish")
        assert program.wait() == 0
    assert program.errors.count("stops") == 3
    assert len(pids(program)) == 3


def test_a_signal_before_any_works_ends_them_too(tmp_path: Path) -> None:
    with supervisor("say('starts')\nsignal.pause()", tmp_path) as program:
        until(program, "starts")
        program.send(signal.SIGTERM)
        until(program, r"INFO worker process 1 of 2 \(pid \d+\) was ended by SIGTERM")
        assert program.wait() == 0
    assert len(pids(program)) == 1


def test_a_signal_during_a_pause_ends_it(tmp_path: Path) -> None:
    with supervisor("sys.exit(1)", tmp_path) as program:
        until(program, "another is started in 1 s")
        program.send(signal.SIGTERM)
        assert program.wait() == 0
    assert len(pids(program)) == 2


HOLDS_ON = """
ready()
say("works")
while word := hear():
    say({"s": "stops", "g": "gives back"}[word])
"""


def test_the_second_signal_is_passed_on_and_the_third_kills(tmp_path: Path) -> None:
    with supervisor(HOLDS_ON, tmp_path) as program:
        until(program, "^works$", 2)
        for number, word in ((signal.SIGTERM, "stops"), (signal.SIGINT, "gives back")):
            program.send(number)
            until(program, f"^{word}$", 2)
        program.send(signal.SIGINT)
        assert program.wait() == 128 + signal.SIGINT
    assert program.errors.count("is killed: SIGINT, the third signal") == 2
    assert program.errors.count("was ended by SIGKILL") == 2


def test_a_process_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    with supervisor(HOLDS_ON, tmp_path, processes=1, grace=0.2, allowance=0.1) as program:
        until(program, "works")
        program.send(signal.SIGTERM)
        until(program, "ERROR .* is killed: it is still there 0.3 s after the signal to stop")
        assert program.wait() == 128 + signal.SIGKILL


def test_the_exit_code_is_that_of_a_process_that_stopped_badly(tmp_path: Path) -> None:
    child = "number = start()\nready()\nsay('works')\nhear()\nsys.exit(7 * number)"
    with supervisor(child, tmp_path) as program:
        until(program, "^works$", 2)
        program.send(signal.SIGTERM)
        assert program.wait() == 7
    assert "ERROR worker process 2 of 2" in program.errors


def test_a_process_that_has_left_the_line_is_stopped_by_a_signal(tmp_path: Path) -> None:
    child = "ready()\nline.close()\nsay('works')\nsignal.pause()"
    with supervisor(child, tmp_path, processes=1) as program:
        until(program, "works")
        program.send(signal.SIGTERM)
        assert program.wait() == 128 + signal.SIGTERM


def test_the_processes_learn_that_the_supervisor_was_killed(tmp_path: Path) -> None:
    with supervisor(WORKS, tmp_path) as program:
        until(program, "^works$", 2)
        program.send(signal.SIGKILL)
        until(program, "^alone$", 2)


def test_they_are_in_sessions_of_their_own_without_a_terminal(tmp_path: Path) -> None:
    child = "say(f'leader {os.getsid(0) == os.getpid()}, input {os.read(0, 1)}')\n" + WORKS
    with supervisor(child, tmp_path, processes=1) as program:
        until(program, "leader True, input b''")
        until(program, "works")
        program.interrupt()
        assert program.wait() == 0
