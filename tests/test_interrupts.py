"""Interrupter: what another thread ends a job by reaches the job, and nothing after it. No database."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest

from sqla_jobs.scope.interrupts import Interrupted, Interrupter
from tests.support.work import PATIENCE


class Reason(Exception):
    pass


def spin(turns: int) -> int:
    total = 0
    for number in range(turns):
        total += number
    return total


def test_a_body_that_nobody_interrupts_returns_what_it_returns() -> None:
    assert Interrupter().call(lambda: 7) == 7
    with pytest.raises(KeyError):
        Interrupter().call(lambda: {}["a"])


def test_what_is_interrupted_before_it_begins_does_not_begin() -> None:
    interrupter, ran = Interrupter(), list[int]()
    reason = Reason()
    interrupter.interrupt(reason)
    with pytest.raises(Reason) as raised:
        interrupter.call(lambda: ran.append(1))
    assert raised.value is reason
    assert ran == []


def test_the_first_reason_counts() -> None:
    interrupter = Interrupter()
    first = Reason()
    interrupter.interrupt(first)
    interrupter.interrupt(Reason())
    assert interrupter.reason is first


def test_the_traceback_shows_where_it_was() -> None:
    interrupter, begun = Interrupter(), threading.Event()

    def here() -> None:
        begun.set()
        while True:
            spin(10)

    def interrupt() -> None:
        assert begun.wait(PATIENCE)
        interrupter.interrupt(Reason())

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Reason) as raised:
        interrupter.call(here)
    thread.join(PATIENCE)
    assert "here" in [entry.name for entry in raised.traceback]


class Unraised(Interrupter):
    """The exception itself does not come, as where a statement is cancelled instead."""

    def _is_fragile(self) -> bool:
        return True


def test_a_body_that_goes_on_as_if_nothing_were_is_interrupted_all_the_same() -> None:
    """It took a statement that was cancelled for a faulty row, say, and half of its work is done."""
    interrupter = Unraised()

    def body() -> int:
        interrupter.interrupt(Reason("cancelled"))
        return 7

    with pytest.raises(Reason, match="cancelled"):
        interrupter.call(body)


def test_who_is_through_is_left_alone_until_it_runs_again() -> None:
    interrupter = Interrupter()
    interrupter.close()
    interrupter.interrupt(Reason())
    assert (interrupter.is_through, interrupter.reason) == (True, None)
    interrupter.reopen()
    assert interrupter.call(lambda: 7) == 7


def test_what_is_meant_for_who_runs_this_one_goes_on_to_it() -> None:
    outer, inner = Interrupter(), Interrupter()

    def body() -> None:
        thread = threading.Thread(target=outer.interrupt, args=[Reason("outer")])
        inner.call(lambda: (thread.start(), spin(10**9)))

    with pytest.raises(Reason, match="outer"):
        outer.call(body)
    assert inner.reason is None


def test_an_error_on_being_interrupted_is_the_interruption() -> None:
    """Its statement was cancelled, say, and it raises what it makes of that."""
    interrupter = Unraised()

    def body() -> None:
        interrupter.interrupt(Reason("cancelled"))
        raise ValueError("canceling statement due to user request")

    with pytest.raises(Reason, match="cancelled") as raised:
        interrupter.call(body)
    assert isinstance(raised.value.__cause__, ValueError)


def after(calls: Callable[[], object]) -> None:
    """Bytecode in which an exception that is still pending would be raised."""
    for _ in range(20):
        calls()
        spin(5)


@pytest.mark.usefixtures("ignored_in_callbacks")
@pytest.mark.parametrize("turns", [0, 20, 200, 2000])
def test_it_never_reaches_what_comes_after_the_body(turns: int) -> None:
    """Many thousand times at once with the end of the body: without the lock it does, within a second."""
    rounds = 3000
    turn = threading.Barrier(2)
    current: list[Interrupter] = [Interrupter()]
    escaped: list[int] = []

    def interrupt() -> None:
        for _ in range(rounds):
            turn.wait(PATIENCE)
            interrupter = current[0]
            spin(turns // 2)
            interrupter.interrupt(Reason())
            interrupter.interrupt(Reason())

    thread = threading.Thread(target=interrupt)
    thread.start()
    outcomes = {"through": 0, "interrupted": 0}
    for number in range(rounds):
        current[0] = Interrupter()
        try:
            try:
                turn.wait(PATIENCE)
                current[0].call(lambda: spin(turns))
                outcomes["through"] += 1
            except Reason:
                outcomes["interrupted"] += 1
            after(lambda: None)
        except Interrupted:
            escaped.append(number)
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert escaped == []
    assert sum(outcomes.values()) == rounds


def test_who_interrupts_and_who_leaves_take_the_same_lock() -> None:
    """Between the decision and the deed the job ends: without the lock the exception comes after it."""
    deciding, left = threading.Event(), threading.Event()

    class Slow(Interrupter):
        def _is_fragile(self) -> bool:
            deciding.set()
            left.wait(0.3)  # which it cannot, while this thread has the lock
            return False

    interrupter = Slow()
    thread = threading.Thread(target=interrupter.interrupt, args=[Reason()])

    def body() -> None:
        thread.start()
        assert deciding.wait(PATIENCE)

    with suppress(Reason):
        interrupter.call(body)
    left.set()
    while thread.is_alive():
        spin(10)
    after(lambda: None)


def test_it_waits_while_the_thread_is_in_a_module_that_holds_locks_by_hand() -> None:
    """An exception between a handler's acquire() and its try would silence the log of all threads."""
    interrupter, inside, on = Interrupter(), threading.Event(), threading.Event()

    class Slow(logging.Handler):
        def emit(self, _: logging.LogRecord) -> None:
            inside.set()
            while not on.is_set():
                spin(10)

    log = logging.getLogger("tests.slow")
    log.propagate = False
    handler = Slow()
    log.addHandler(handler)
    emitted: list[bool] = []

    def body() -> None:
        log.error("x")
        emitted.append(True)
        while True:
            spin(10)

    def interrupt() -> None:
        assert inside.wait(PATIENCE)
        interrupter.interrupt(Reason())
        on.set()
        while not over.wait(0.001):
            interrupter.interrupt(Reason())

    over = threading.Event()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(Reason):
        interrupter.call(body)
    over.set()
    thread.join(PATIENCE)
    log.removeHandler(handler)
    assert emitted == [True]
