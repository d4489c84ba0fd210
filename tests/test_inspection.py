"""Lists of jobs: their order, their filters, their pages; and one job with all of its row."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job, JobState
from sqla_jobs.inspection import JobFilter, Page, list_jobs
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
