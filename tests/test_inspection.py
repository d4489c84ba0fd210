"""Lists of jobs: their order, their filters, their pages; and one job with all of its row."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection import JobFilter, Page, count_jobs, list_jobs
from sqla_jobs.inspection.filters import ALL
from tests.support.verbs import MINUTE, NOW, SECOND, add

STATES = tuple(each.value for each in JobState)


def made(session: Session, number: int, state: str, **values: Any) -> list[int]:
    """Jobs one after the other in time; those that finish do so a minute after they were due."""
    ids = []
    for at in range(number):
        moment = NOW + at * SECOND
        given: dict[str, Any] = {"state": state, "run_at": moment, "created_at": moment, **values}
        if JobState(state).is_final:
            given["finished_at"] = moment + MINUTE
        if state == "running":
            given |= {"started_at": moment, "worker_id": 7}
        ids.append(add(session, **given).id)
    return ids


def ids(page: Page) -> list[int]:
    return [each.id for each in page.jobs]


def pages(session: Session, where: JobFilter = ALL, **options: Any) -> Iterator[Page]:
    cursor = None
    while True:
        page = list_jobs(session, Job, where, cursor=cursor, **options)
        yield page
        if (cursor := page.next) is None:
            return


def walked(session: Session, where: JobFilter = ALL, **options: Any) -> list[int]:
    return [each for page in pages(session, where, **options) for each in ids(page)]


def of(*states: str, **more: Any) -> JobFilter:
    return JobFilter(states=tuple(JobState(each) for each in states), **more)


# -- order and pages -------------------------------------------------------------------------------


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("look", [10, 50_000])
def test_pages_of_a_state_are_all_of_its_jobs_in_its_order(session: Session, state: str, look: int) -> None:
    for other in STATES:
        made(session, 3, other, task="other")
    mine = made(session, 23, state)
    if JobState(state).is_final:
        mine.reverse()
    for where in (of(state, task="t"), of(state, task="t", queue="default")):
        found = list(pages(session, where, limit=4, look=look))
        if state == "running" and look == 10:
            assert not found[0].complete  # there are more than it looks at
            continue
        assert [each for page in found for each in ids(page)] == mine
        assert all(len(page.jobs) == 4 for page in found if page.complete and page.next)


@pytest.mark.parametrize("look", [10, 50_000])
def test_pages_of_all_jobs_go_back_from_the_newest(session: Session, look: int) -> None:
    all_of_them = [job for state in STATES for job in made(session, 5, state)]
    assert walked(session, limit=4, look=look) == all_of_them[::-1]
    some = walked(session, of("failed", "queued"), limit=4, look=look)
    assert some == (all_of_them[5:10] + all_of_them[20:25])[::-1]


@pytest.mark.parametrize("state", ["scheduled", "failed", "queued"])
@pytest.mark.parametrize("number", [9, 10, 35])
def test_jobs_of_the_very_same_moment_are_all_listed_once(session: Session, state: str, number: int) -> None:
    """Also if they are more than one look reads."""
    before, tied, after = (
        [
            add(session, state=state, run_at=at, finished_at=at if state == "failed" else None).id
            for _ in range(n)
        ]
        for at, n in ((NOW, 3), (NOW + SECOND, number), (NOW + MINUTE, 12))
    )
    add(session, state="succeeded", finished_at=NOW + SECOND)
    in_order = [*before, *tied, *after]
    if state == "failed":
        in_order.reverse()
    for limit in (3, 20):
        found = walked(session, of(state), limit=limit, look=10)
        assert len(found) == len(set(found))
        assert set(found) == set(in_order)
        assert [each for each in found if each not in tied] == [each for each in in_order if each not in tied]
    assert walked(session, of(state), limit=3) == in_order


def test_queued_jobs_are_in_the_order_of_claims(session: Session) -> None:
    later, low, high, same = (
        add(session, run_at=NOW + SECOND * 5).id,
        add(session, priority=-3).id,
        add(session, priority=9, run_at=NOW + MINUTE).id,
        add(session, priority=9, run_at=NOW + MINUTE).id,
    )
    first = add(session).id
    order = [high, same, first, later, low]
    for limit in (1, 2, 50):
        assert walked(session, of("queued"), limit=limit) == order
        assert walked(session, of("queued", queue="default"), limit=limit) == order
    assert walked(session, of("queued", queue="mail")) == []


# -- the bound of a look ---------------------------------------------------------------------------


@pytest.mark.parametrize("state", [None, "queued", "scheduled", "failed"])
def test_a_filter_that_no_job_satisfies_does_not_read_the_table(session: Session, state: str | None) -> None:
    """A page is given as it is when so many jobs have been looked at, and says so."""
    made(session, 35, state or "succeeded")
    where = JobFilter(task="nobody") if state is None else of(state, task="nobody")
    found = list(pages(session, where, look=10))
    assert [each.complete for each in found] == [False] * (len(found) - 1) + [True]
    assert 4 <= len(found) <= 6
    assert all(each.jobs == () and each.looked_at <= 10 for each in found)


def test_a_page_that_is_full_says_so(session: Session) -> None:
    made(session, 12, "queued")
    page = list_jobs(session, Job, of("queued"), limit=12)
    assert (len(page.jobs), page.next, page.complete) == (12, None, True)
    page = list_jobs(session, Job, of("queued"), limit=11)
    assert (len(page.jobs), page.next is None, page.complete) == (11, False, True)


@pytest.mark.parametrize("state", [None, "queued", "scheduled", "failed"])
def test_jobs_that_come_meanwhile_neither_repeat_nor_hide_others(session: Session, state: str | None) -> None:
    """Keyset, not OFFSET: before each page some come at the begin of the list, and one that was seen goes."""
    mine = made(session, 20, state or "queued", task="mine")
    where = ALL if state is None else of(state)
    first = {None: {}, "queued": {"priority": 9}, "scheduled": {"run_at": NOW - MINUTE}}
    cursor, found = None, []
    while True:
        page = list_jobs(session, Job, where, cursor=cursor, limit=4)
        found += [each for each in ids(page) if each in mine]
        for _ in range(3):
            over = {"finished_at": NOW + 10 * MINUTE} if state == "failed" else {}
            add(session, state=state or "queued", **first.get(state, {}), **over)
        session.execute(text("DELETE FROM sqla_jobs WHERE id = :id"), {"id": found[-1]})
        if (cursor := page.next) is None:
            break
    assert found == (mine if state in ("queued", "scheduled") else mine[::-1])


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "e30",
        "A" * 400,
        7,
        "WzFd",
        "W10",
        "bnVsbA",
        "WyJuZXdlc3QiLCIyMDMxLTAxLTAxIixudWxsLG51bGwsZmFsc2Vd",
    ],
    ids=["empty", "x", "letter", "object", "long", "number", "short", "none", "null", "naive"],
)
def test_a_cursor_that_is_none_is_refused(session: Session, cursor: Any) -> None:
    with pytest.raises(InvalidFilter, match=r"cursor is .*; expected what the page before gave as `next`"):
        list_jobs(session, cursor=cursor)


def test_a_cursor_of_another_list_is_refused(session: Session) -> None:
    made(session, 3, "queued")
    cursor = list_jobs(session, Job, of("queued"), limit=1).next
    with pytest.raises(InvalidFilter, match="it is of a list in the order 'queued'"):
        list_jobs(session, Job, of("failed"), cursor=cursor)


@pytest.mark.parametrize(
    ("name", "value"), [("limit", 0), ("limit", 1001), ("look", 9), ("look", 10**7), ("limit", True)]
)
def test_a_page_without_bounds_is_refused(session: Session, name: str, value: Any) -> None:
    with pytest.raises(InvalidFilter, match=f"{name} is {value}; expected a whole number from"):
        list_jobs(session, **{name: value})


def test_a_list_of_a_schedule_goes_back_by_its_ticks(session: Session) -> None:
    session.execute(
        text(
            "INSERT INTO sqla_jobs_schedules (id, name, task, every) OVERRIDING SYSTEM VALUE "
            "VALUES (5, 's', 't', '1 h')"
        )
    )
    made(session, 3, "queued")
    mine = [
        add(
            session,
            state=state,
            schedule_id=5,
            tick_at=NOW + at * SECOND,
            finished_at=NOW if state == "failed" else None,
        ).id
        for at, state in enumerate(["queued", "failed", "queued", "failed", "running"])
    ]
    assert walked(session, JobFilter(schedule="s"), limit=2) == mine[::-1]
    assert walked(session, of("failed", schedule="s")) == [mine[3], mine[1]]
    assert walked(session, of("queued", schedule="s")) == [mine[0], mine[2]]
    assert walked(session, of("running", schedule="s")) == [mine[4]]
    assert walked(session, JobFilter(schedule="none")) == []
    assert count_jobs(session, Job, JobFilter(schedule="s")).number == 5


@pytest.mark.parametrize(
    ("state", "moment"), [("failed", "infinity"), ("running", "infinity"), ("running", "-infinity")]
)
@pytest.mark.parametrize("limit", [3, 50])
@pytest.mark.parametrize("look", [10, 50_000])
def test_moments_that_python_has_none_for_are_listed_once(
    session: Session, state: str, moment: str, limit: int, look: int
) -> None:
    mine = made(session, 25, state)
    column = "started_at" if state == "running" else "finished_at"
    session.execute(
        text(f"UPDATE sqla_jobs SET {column} = :moment WHERE id = ANY (:ids)"),
        {"moment": moment, "ids": mine[5:19] if state == "failed" else mine[5:9]},
    )
    found = walked(session, of(state), limit=limit, look=look if state == "failed" else 50_000)
    assert sorted(found) == mine


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("", ["newest", "2031-01-01T00:00:00+00:00", 5, None, False]),
        ("", ["newest", 5, 5, None, True]),
        ("failed", ["failed", 5, 5, None, False]),
        ("failed", ["failed", None, None, None, True]),
        ("failed", ["failed", "9999-12-31T23:59:59-10:00", 5, None, False]),
        ("queued", ["queued", 5, 5, 5, False]),
        ("queued", ["queued", "2031-01-01T00:00:00+00:00", 5, None, False]),
        ("running", ["running", 5, 5, None, False]),
    ],
    ids=str,
)
def test_a_cursor_that_somebody_has_changed_is_refused(session: Session, state: str, told: list[Any]) -> None:
    cursor = base64.urlsafe_b64encode(json.dumps(told).encode()).decode()
    with pytest.raises(InvalidFilter, match="expected what the page before gave"):
        list_jobs(session, Job, of(state) if state else ALL, cursor=cursor)


def test_a_cursor_at_the_end_of_time_is_the_end_of_the_list(session: Session) -> None:
    told = ["failed", "0001-01-01T00:00:00+00:00", None, None, True]
    cursor = base64.urlsafe_b64encode(json.dumps(told).encode()).decode()
    assert list_jobs(session, Job, of("failed"), cursor=cursor).next is None
