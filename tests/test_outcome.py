"""What follows from one attempt, and how its error is described. No database."""

from __future__ import annotations

import builtins
import json
import sys
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqla_jobs import Cancel, JobState, Snooze
from sqla_jobs.errors import WorkerDied
from sqla_jobs.outcome import (
    MESSAGE_LIMIT,
    TRACEBACK_LIMIT,
    Outcome,
    decide,
    describe,
    died,
    given_back,
    storable,
)

LATER = timedelta(seconds=7)


def again(_: BaseException) -> timedelta | None:
    return LATER


def give_up(_: BaseException) -> timedelta | None:
    return None


# -- decide ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("returned", [None, 0, False, "text", object, ValueError("returned, not raised")])
def test_whatever_is_returned_is_success(returned: object) -> None:
    assert decide(returned, None, give_up) == Outcome(JobState.SUCCEEDED)


def test_an_error_is_retried_as_the_policy_says() -> None:
    error = ValueError("no")
    outcome = decide(None, error, again)
    assert (outcome.state, outcome.delay, outcome.error) == (JobState.SCHEDULED, LATER, error)
    assert outcome.spent
    assert not outcome.crashed
    assert outcome.record is not None
    assert outcome.record["error"] == "ValueError"


def test_an_error_without_another_attempt_fails_the_job() -> None:
    outcome = decide(None, ValueError("no"), give_up)
    assert (outcome.state, outcome.delay, outcome.spent) == (JobState.FAILED, None, True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_base_exceptions_are_errors_too(error: BaseException) -> None:
    assert decide(None, error, again).state is JobState.SCHEDULED
    assert decide(None, error, give_up).state is JobState.FAILED


@pytest.mark.parametrize("raised", [True, False])
def test_a_snooze_is_neither_attempt_nor_error(raised: bool) -> None:
    signal = Snooze(LATER)
    outcome = decide(None, signal, give_up) if raised else decide(signal, None, give_up)
    assert outcome == Outcome(JobState.SCHEDULED, error=signal, delay=LATER, spent=False)


@pytest.mark.parametrize("raised", [True, False])
def test_a_cancel_is_final_and_says_why(raised: bool) -> None:
    signal = Cancel("the order is gone")
    outcome = decide(None, signal, again) if raised else decide(signal, None, again)
    assert (outcome.state, outcome.delay, outcome.spent) == (JobState.CANCELLED, None, True)
    assert outcome.record is not None
    assert outcome.record["message"] == "the order is gone"


def test_a_dead_worker_is_a_crash_and_spends_the_attempt() -> None:
    outcome = died(WorkerDied("gone"), again)
    assert (outcome.state, outcome.delay, outcome.spent, outcome.crashed) == (
        JobState.SCHEDULED,
        LATER,
        True,
        True,
    )
    assert died(WorkerDied("gone"), give_up).state is JobState.FAILED


def test_what_is_given_back_is_queued_and_not_spent() -> None:
    outcome = given_back("why")
    assert (outcome.state, outcome.delay, outcome.spent, outcome.crashed) == (
        JobState.QUEUED,
        None,
        False,
        False,
    )
    assert outcome.record == {"error": "given back", "message": "why", "traceback": None}


def test_states_are_their_text_and_know_their_end() -> None:
    assert [f"{state}" for state in JobState] == [state.value for state in JobState]
    final = {state for state in JobState if state.is_final}
    assert final == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}


# -- describe --------------------------------------------------------------------------------------


def caught(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as seen:
        return seen


def described(error: BaseException) -> dict[str, str]:
    record = describe(error)
    assert set(record) == {"error", "message", "traceback"}
    assert len(record["error"]) <= MESSAGE_LIMIT
    assert len(record["message"]) <= MESSAGE_LIMIT
    assert len(record["traceback"]) <= TRACEBACK_LIMIT
    # What jsonb refuses: NUL, and surrogates, which are not UTF-8.
    assert "\\u0000" not in json.dumps(record)
    json.dumps(record, ensure_ascii=False).encode()
    return record


def test_an_error_is_named_in_full_and_traced_to_its_line() -> None:
    record = described(caught(ValueError("wrong")))
    assert (record["error"], record["message"]) == ("ValueError", "wrong")
    assert "in caught" in record["traceback"]
    assert record["traceback"].endswith("ValueError: wrong\n")
    assert described(WorkerDied("x"))["error"] == "sqla_jobs.errors.WorkerDied"
    assert described(json.JSONDecodeError("x", "", 0))["error"] == "json.decoder.JSONDecodeError"


def test_the_librarys_own_frames_above_the_task_are_left_out() -> None:
    outcome_module = sys.modules["sqla_jobs.outcome"]
    source = "def call(function):\n    function()\n"
    space: dict[str, object] = {}
    exec(compile(source, str(outcome_module.__file__), "exec"), space)

    def task() -> None:
        raise ValueError("in the task")

    with pytest.raises(ValueError, match="in the task") as raised:
        space["call"](task)  # type: ignore[operator]
    trace = raised.value.__traceback__
    assert trace is not None
    shown = described(raised.value.with_traceback(trace.tb_next))["traceback"]
    assert "in task" in shown
    assert "in call" not in shown


def test_messages_keep_their_head_and_tracebacks_their_end() -> None:
    record = described(caught(ValueError("ab" * 100_000)))
    assert record["message"] == ("ab" * 100_000)[: MESSAGE_LIMIT - 1] + "…"
    assert record["traceback"].startswith("…")
    assert record["traceback"].endswith("abab\n")


def test_what_jsonb_refuses_is_replaced() -> None:
    assert described(ValueError("a\x00b\ud800c"))["message"] == "a\ufffdb?c"
    assert storable("\udfff\x00") == "?\ufffd"
    odd = type("Odd", (Exception,), {"__module__": "m\x00\ud800" + "m" * 10_000})
    assert described(odd())["error"].startswith("m\ufffd?mmm")


@given(st.text(st.characters(codec=None), max_size=50))
def test_any_text_becomes_storable(text: str) -> None:
    assert storable(text).encode().count(b"\x00") == 0


def test_an_error_that_cannot_be_shown_says_so() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    class Ruder(Exception):
        def __str__(self) -> str:
            raise SystemExit(1)

    class NotText(Exception):
        def __str__(self) -> str:
            return 7  # type: ignore[return-value]  # noqa: PLE0307

    assert described(caught(Rude()))["message"] == "<its message cannot be shown: RuntimeError>"
    assert described(caught(Ruder()))["message"] == "<its message cannot be shown: SystemExit>"
    assert described(caught(NotText()))["message"] == "<its message cannot be shown: TypeError>"


def test_an_error_whose_class_is_odd() -> None:
    nameless = type("Nameless", (Exception,), {"__module__": None})
    assert described(nameless("x"))["error"].endswith("Nameless")


def group_of(message: str, members: list[BaseException]) -> BaseException:
    made = builtins.ExceptionGroup(message, members)  # type: ignore[attr-defined]  # checked as 3.10
    assert isinstance(made, BaseException)
    return made


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_groups_are_shown_with_their_members() -> None:
    members = [caught(ValueError(f"number {number}")) for number in range(3)]
    group = group_of("several", members)
    record = described(caught(group))
    assert record["error"] == "ExceptionGroup"
    assert record["message"] == "several (3 sub-exceptions)"
    for number in range(3):
        assert f"ValueError: number {number}" in record["traceback"]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_groups_in_groups_without_end() -> None:
    group: BaseException = ValueError("innermost")
    for _ in range(5000):
        group = group_of("layer", [group])
    described(caught(group))


def test_a_traceback_of_a_deep_recursion() -> None:
    def down(levels: int) -> None:
        if levels == 0:
            raise ValueError("at the bottom")
        down(levels - 1)

    def up(levels: int) -> None:
        up(levels + 1)

    with pytest.raises(ValueError, match="at the bottom") as bottom:
        down(500)
    assert described(bottom.value)["traceback"].endswith("ValueError: at the bottom\n")
    with pytest.raises(RecursionError) as endless:
        up(0)
    assert described(endless.value)["error"] == "RecursionError"


def test_causes_in_a_circle_and_in_a_long_chain() -> None:
    one, two = ValueError("one"), KeyError("two")
    one.__cause__, two.__cause__ = two, one
    record = described(caught(one))
    assert "one" in record["traceback"]
    assert "two" in record["traceback"]

    itself = ValueError("itself")
    itself.__cause__ = itself
    described(caught(itself))

    chain: BaseException = ValueError("first")
    for number in range(5000):
        link = ValueError(f"link {number}")
        link.__cause__ = chain
        chain = link
    record = described(caught(chain))
    assert record["message"] == "link 4999"
    # Taken apart from one end, for freeing it at once is as deep as it is long.
    while chain.__cause__ is not None:
        cause = chain.__cause__
        chain.__cause__ = None
        chain = cause
