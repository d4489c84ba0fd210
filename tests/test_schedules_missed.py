"""Which times a schedule has missed, and which of them get a job; no database."""

from __future__ import annotations

import datetime as dt

import pytest

from sqla_jobs.cron import Cron, Every, Rule, occurrences
from sqla_jobs.scheduler import LATE, MOST, Missed, missed
from tests.support.verbs import MINUTE, NOW, SECOND

EVERY, CRON = Every(5 * MINUTE), Cron("0 */5 * * * *")
MICRO = dt.timedelta(microseconds=1)
both = pytest.mark.parametrize("rule", [EVERY, CRON], ids=["interval", "cron"])


@both
@pytest.mark.parametrize("catch_up", ["one", "all", "none"])
@pytest.mark.parametrize("late", [0 * SECOND, SECOND, LATE])
def test_in_time_it_is_one_tick(rule: Rule, catch_up: str, late: dt.timedelta) -> None:
    assert missed(rule, NOW, NOW + late, catch_up) == Missed((NOW,), NOW + 5 * MINUTE)


@both
def test_one_is_the_last_and_the_next_is_after_now(rule: Rule) -> None:
    found = missed(rule, NOW, NOW + 17 * MINUTE, "one")
    assert (found.ticks, found.following) == ((NOW + 15 * MINUTE,), NOW + 20 * MINUTE)
    at_a_tick = missed(rule, NOW, NOW + 15 * MINUTE, "one")
    assert (at_a_tick.ticks, at_a_tick.following) == ((NOW + 15 * MINUTE,), NOW + 20 * MINUTE)


@both
def test_all_is_each_of_them(rule: Rule) -> None:
    found = missed(rule, NOW, NOW + 17 * MINUTE, "all")
    assert found.ticks == tuple(NOW + number * MINUTE for number in (0, 5, 10, 15))
    assert (found.following, found.left_out) == (NOW + 20 * MINUTE, 0)


@both
def test_none_leaves_out_what_is_later_than_a_minute(rule: Rule) -> None:
    assert missed(rule, NOW, NOW + LATE + MICRO, "none").ticks == ()
    found = missed(rule, NOW, NOW + 17 * MINUTE, "none")
    assert (found.ticks, found.following) == ((), NOW + 20 * MINUTE)
    # The last of several is in time.
    assert missed(rule, NOW, NOW + 15 * MINUTE + SECOND, "none").ticks == (NOW + 15 * MINUTE,)


@both
@pytest.mark.parametrize("count", [3, 4, 5, 99])
def test_all_is_bounded_by_the_last_ones(rule: Rule, count: int) -> None:
    now = NOW + (count - 1) * 5 * MINUTE + SECOND
    found = missed(rule, NOW, now, "all", most=4)
    every = [NOW + number * 5 * MINUTE for number in range(count)]
    assert found.ticks == tuple(every[-4:])
    assert found.left_out == max(0, count - 4)
    assert found.following == every[-1] + 5 * MINUTE


def test_a_line_for_each_second_after_days() -> None:
    line, now = Cron("* * * * * *"), NOW + dt.timedelta(days=30, microseconds=5)
    last = now.replace(microsecond=0)
    assert missed(line, NOW, now, "one").ticks == (last,)
    found = missed(line, NOW, now, "all")
    assert found.ticks == tuple(last - number * SECOND for number in reversed(range(MOST)))
    assert found.left_out == 10_001, "counted up to a limit"


@pytest.mark.parametrize("most", [1, 2, 3, 7, 40])
def test_an_irregular_line_over_a_change_of_the_clock_against_a_walk(most: int) -> None:
    line = Cron("15,20 */7 1-3 * * mon,thu", "Europe/Paris")
    first = line.next(dt.datetime(2026, 10, 1, tzinfo=dt.timezone.utc))
    now = dt.datetime(2026, 10, 29, 0, 30, 17, tzinfo=dt.timezone.utc)
    walked = [first, *occurrences(line, first, now, 10_000)]
    found = missed(line, first, now, "all", most=most)
    assert found.ticks == tuple(walked[-most:])
    assert found.left_out == len(walked) - most


def test_a_time_that_data_says_counts_although_the_line_does_not_say_it() -> None:
    at = NOW + 2 * MINUTE
    assert missed(CRON, at, at, "one") == Missed((at,), NOW + 5 * MINUTE)
    assert missed(CRON, at, NOW + 11 * MINUTE, "all").ticks == (at, NOW + 5 * MINUTE, NOW + 10 * MINUTE)


def test_an_interval_stays_on_its_grid_however_late_it_is_seen() -> None:
    first = NOW + 123 * MICRO
    found = missed(EVERY, first, first + 7 * MINUTE, "one")
    assert (found.ticks, found.following) == ((first + 5 * MINUTE,), first + 10 * MINUTE)
