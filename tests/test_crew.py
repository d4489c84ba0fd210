"""What the threads of a worker tell each other: no wake-up is lost, no drain ends too early. No database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from functools import partial

import pytest

from sqla_jobs.errors import JobsError
from sqla_jobs.lifecycle import Claimed
from sqla_jobs.worker.crew import Crew, Running

LONG = 3600.0
AT_ONCE = 10.0
"""Seconds within which what must not wait for LONG has happened."""


def job(number: int = 1, claim: int = 1) -> Claimed:
    then = datetime(2031, 1, 1, tzinfo=timezone.utc)
    return Claimed(number, "t", {}, "default", 0, 1, None, claim, 7, 0, then, then, then)


def running(number: int = 1, claim: int = 1) -> Running:
    return Running(job(number, claim))


@pytest.fixture
def crew() -> Iterator[Crew]:
    crew = Crew()
    crew.start()
    yield crew
    crew.end()


def in_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def ends(thread: threading.Thread) -> bool:
    thread.join(AT_ONCE)
    return not thread.is_alive()


# -- states ----------------------------------------------------------------------------------------


def test_the_states_follow_each_other() -> None:
    crew = Crew()
    states = [crew.state]
    for step in (crew.start, partial(crew.stop, 0), partial(crew.stop, 0), crew.end):
        step()
        states.append(crew.state)
    assert states == ["new", "running", "stopping", "stopping", "stopped"]


def test_a_start_is_possible_once() -> None:
    crew = Crew()
    crew.start()
    for ending in (partial(crew.stop, 0), crew.end):
        with pytest.raises(JobsError, match=f"the worker is {crew.state}; .*make a new one"):
            crew.start()
        ending()
    assert crew.state == "stopped"


def test_who_is_stopped_before_the_start_cannot_be_started() -> None:
    crew = Crew()
    crew.stop(LONG)
    assert crew.state == "stopped"
    with pytest.raises(JobsError, match="the worker is stopped"):
        crew.start()


def test_join_waits_for_the_end_and_not_for_the_stop(crew: Crew) -> None:
    assert Crew().join(LONG), "nobody waits for what has not begun"
    crew.stop(LONG)
    assert not crew.join(0)
    waiting = in_thread(lambda: crew.join(LONG))
    crew.end()
    assert ends(waiting)
    assert crew.join(0)


def test_a_pause_ends_when_the_worker_stops(crew: Crew) -> None:
    pause = in_thread(lambda: crew.pause(LONG))
    crew.tell()
    crew.stop(LONG)
    assert ends(pause)


# -- members ---------------------------------------------------------------------------------------


def test_the_end_comes_when_the_last_member_is_gone(crew: Crew) -> None:
    crew.enlist(2)
    assert not crew.wait_until_gone(0)
    waiting = in_thread(crew.wait_until_gone)
    crew.dismiss()
    assert not crew.wait_until_gone(0)
    crew.dismiss()
    assert ends(waiting)
    assert crew.wait_until_gone(LONG)


def test_a_replan_ends_the_wait_of_who_asks_for_it(crew: Crew) -> None:
    crew.enlist(1)
    assert not crew.replanned()
    waiting = in_thread(lambda: crew.wait_until_gone(LONG, or_replan=True))
    crew.replan()
    assert ends(waiting)
    assert not crew.wait_until_gone(LONG, or_replan=True), "it is known until it is asked for"
    assert crew.replanned()
    assert not crew.replanned()


def test_a_job_may_run_twice_under_two_claims(crew: Crew) -> None:
    with crew.runs(running(claim=1)):
        with crew.runs(running(claim=2)):
            assert {each.job.claim for each in crew.running()} == {1, 2}
        assert [each.job.claim for each in crew.running()] == [1]
    assert crew.running() == []


# -- rest ------------------------------------------------------------------------------------------


def test_news_that_came_after_the_empty_claim_are_not_slept_through(crew: Crew) -> None:
    crew.enlist(1)
    before = crew.news
    crew.tell()
    assert ends(in_thread(lambda: crew.rest(before)))


def at_rest(crew: Crew, number: int) -> list[threading.Thread]:
    """So many threads that wait for news."""
    crew.enlist(number)
    before = crew.news
    resting = [in_thread(lambda: crew.rest(before)) for _ in range(number)]
    while len(crew._resting._waiters) < number:  # type: ignore[attr-defined]
        threading.Event().wait(0.001)
    return resting


def test_news_wake_one_of_those_who_rest(crew: Crew) -> None:
    """Not all for one job; the one that finds a job wakes the next."""
    resting = at_rest(crew, 3)
    crew.tell()
    while all(thread.is_alive() for thread in resting):
        threading.Event().wait(0.001)
    assert len(crew._resting._waiters) == 2  # type: ignore[attr-defined]
    with crew.runs(running()):
        while len(crew._resting._waiters) > 1:  # type: ignore[attr-defined]
            threading.Event().wait(0.001)
    crew.tell()
    assert all(map(ends, resting))


def test_one_thread_at_a_time_may_claim_a_suspect(crew: Crew) -> None:
    assert crew.take_suspects()
    assert not crew.take_suspects()
    crew.leave_suspects()
    assert crew.take_suspects()


def test_a_stop_wakes_whoever_rests_and_lets_nobody_rest(crew: Crew) -> None:
    crew.enlist(2)
    before = crew.news
    resting = in_thread(lambda: crew.rest(before))
    crew.stop(LONG)
    assert ends(resting)
    assert ends(in_thread(lambda: crew.rest(before)))


def test_the_last_one_to_rest_stops_if_nothing_is_left(crew: Crew) -> None:
    crew.enlist(2)
    before, looks = crew.news, list[bool]()

    def is_empty() -> bool:
        looks.append(True)
        return True

    crew.rest(before, 0.01, is_empty=is_empty)
    assert (looks, crew.state) == ([], "running"), "the other one may be at work, and enqueue"
    asleep = threading.Event()

    def first() -> None:
        asleep.set()
        crew.rest(before, LONG, is_empty=is_empty)

    resting = in_thread(first)
    assert asleep.wait(AT_ONCE)
    while crew.state == "running":  # the first one may not be at rest yet
        crew.rest(before, 0.01, is_empty=is_empty)
    assert crew.state == "stopping"
    assert ends(resting)


def test_something_left_is_waited_for(crew: Crew) -> None:
    crew.enlist(1)
    crew.rest(crew.news, 0.01, is_empty=lambda: False)
    assert crew.state == "running"


def test_a_job_that_ran_during_the_look_may_have_left_another(crew: Crew) -> None:
    """The other thread woke, ran a job that enqueued one, found nothing (not yet due) and rests again."""
    crew.enlist(1)

    def look() -> bool:
        with crew.runs(running()):
            pass
        return True

    crew.rest(crew.news, is_empty=look)
    assert crew.state == "running"


def test_a_thread_that_woke_during_the_look_may_be_at_work(crew: Crew) -> None:
    crew.enlist(1)

    def look() -> bool:
        crew.enlist(1)
        return True

    crew.rest(crew.news, 0.01, is_empty=look)
    assert crew.state == "running"


def test_who_does_not_drain_never_looks(crew: Crew) -> None:
    crew.enlist(1)
    crew.rest(crew.news, 0.01)
    assert crew.state == "running"
