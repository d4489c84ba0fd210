"""RetryPolicy: when a failed attempt is followed by another, and how much later. No database."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqla_jobs import RetryPolicy
from sqla_jobs.errors import InvalidOption, WorkerDied

JUST_BELOW_ONE = 1 - 2**-53
SECOND = timedelta(seconds=1)
CENTURY = timedelta(days=36_525)


def lowest(attempt: int, policy: RetryPolicy = RetryPolicy()) -> timedelta | None:  # noqa: B008 -- frozen
    return policy.delay(attempt, ValueError(), uniform=lambda: 0.0)


def highest(attempt: int, policy: RetryPolicy = RetryPolicy()) -> timedelta | None:  # noqa: B008 -- frozen
    return policy.delay(attempt, ValueError(), uniform=lambda: JUST_BELOW_ONE)


@pytest.mark.parametrize(("attempt", "least"), [(1, 10), (2, 20), (3, 40), (4, 80), (10, 5120), (13, 40_960)])
def test_the_delay_is_uniform_between_base_and_twice_base_and_doubles(attempt: int, least: int) -> None:
    assert lowest(attempt) == least * SECOND
    most = highest(attempt)
    assert most is not None
    # Of a timedelta's resolution: the limit itself is never reached by more than a rounding.
    assert 2 * least * SECOND - timedelta(microseconds=1) <= most <= 2 * least * SECOND
    assert RetryPolicy().delay(attempt, ValueError(), uniform=lambda: 0.5) == 1.5 * least * SECOND


def test_the_delay_is_drawn_anew_each_time() -> None:
    assert len({RetryPolicy().delay(1, ValueError()) for _ in range(20)}) > 1


def test_the_cap_holds_for_any_draw_and_any_attempt() -> None:
    policy = RetryPolicy(max_attempts=10**9, cap=timedelta(minutes=1))
    assert lowest(3, policy) == 40 * SECOND
    assert highest(3, policy) == 60 * SECOND
    for attempt in (4, 63, 64, 1024, 1025, 10**6):
        assert lowest(attempt, policy) == highest(attempt, policy) == timedelta(minutes=1)


@given(
    attempt=st.integers(1, 10**9),
    base=st.timedeltas(timedelta(0), CENTURY),
    cap=st.timedeltas(timedelta(0), CENTURY),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_any_delay_is_one_that_a_row_can_hold(
    attempt: int, base: timedelta, cap: timedelta, draw: float
) -> None:
    policy = RetryPolicy(max_attempts=2 * 10**9, base=base, cap=cap)
    delay = policy.delay(attempt, ValueError(), uniform=lambda: draw)
    assert delay is not None
    assert timedelta(0) <= delay <= cap


def test_after_the_last_attempt_it_gives_up() -> None:
    assert RetryPolicy().max_attempts == 16
    assert lowest(15) is not None
    assert lowest(16) is None
    assert lowest(17) is None
    assert lowest(1, RetryPolicy(max_attempts=1)) is None


def test_the_jobs_own_limit_wins_in_both_directions() -> None:
    policy = RetryPolicy(max_attempts=3)
    assert policy.delay(1, ValueError(), max_attempts=1) is None
    assert policy.delay(3, ValueError(), max_attempts=4) is not None
    assert policy.delay(4, ValueError(), max_attempts=4) is None


def test_retry_on_and_give_up_on_speak_of_classes_and_their_children() -> None:
    policy = RetryPolicy(retry_on=(OSError, ValueError), give_up_on=(ConnectionError,))
    assert lowest_of(policy, ValueError()) is not None
    assert lowest_of(policy, FileNotFoundError()) is not None
    assert lowest_of(policy, ConnectionResetError()) is None, "give_up_on wins"
    assert lowest_of(policy, KeyError()) is None
    assert lowest_of(RetryPolicy(), KeyboardInterrupt()) is not None, "by default everything is retried"


def lowest_of(policy: RetryPolicy, error: BaseException, attempt: int = 1) -> timedelta | None:
    return policy.delay(attempt, error, uniform=lambda: 0.0)


def test_a_worker_that_died_is_no_error_of_the_task() -> None:
    picky = RetryPolicy(max_attempts=2, retry_on=(ValueError,), give_up_on=(Exception,))
    assert lowest_of(picky, WorkerDied()) is not None
    assert lowest_of(picky, WorkerDied(), attempt=2) is None, "but its attempt is spent"


def test_one_class_may_stand_for_a_tuple() -> None:
    assert RetryPolicy(retry_on=OSError).retry_on == (OSError,)  # type: ignore[arg-type]
    assert RetryPolicy(give_up_on=[OSError]).give_up_on == (OSError,)  # type: ignore[arg-type]


def test_policies_are_values() -> None:
    assert RetryPolicy() == RetryPolicy()
    assert hash(RetryPolicy()) == hash(RetryPolicy())
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().max_attempts = 2  # type: ignore[misc]


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", None, True])
def test_max_attempts_is_a_whole_number_from_one_up(value: object) -> None:
    with pytest.raises(InvalidOption, match=r"max_attempts is .*; expected a whole number from 1 up"):
        RetryPolicy(max_attempts=value)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["base", "cap"])
@pytest.mark.parametrize("value", [timedelta(seconds=-1), timedelta.max, 10, None])
def test_delays_are_timedeltas(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=rf"{name} is .*; expected a timedelta"):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["retry_on", "give_up_on"])
@pytest.mark.parametrize("value", [int, (ValueError, "OSError"), ValueError()])
def test_errors_are_given_as_exception_classes(name: str, value: object) -> None:
    with pytest.raises(InvalidOption, match=rf"{name} is .*; expected exception classes"):
        RetryPolicy(**{name: value})  # type: ignore[arg-type]
