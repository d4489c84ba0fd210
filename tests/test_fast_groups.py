"""One group behind the other: claimed by one statement, as long as nothing else is next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event, text
from sqlalchemy.orm import Session

from sqla_jobs import Job, Worker, lifecycle
from sqla_jobs.lifecycle import Claimed, Mark
from sqla_jobs.runner import trail
from tests.support.fast import Fast, unhurried
from tests.support.lane import leave_effect
from tests.support.server import Database
from tests.support.told import Told
from tests.support.verbs import MINUTE, NOW, WORKER, add, employ, row
from tests.support.work import PATIENCE

BEFORE = Mark(0, NOW - MINUTE, 0)


@pytest.fixture
def fast(database: Database) -> Fast:
    fast = Fast(database)
    fast.jobs.unregister(fast.note)  # tasks of several sizes are claimed otherwise
    return fast


def group(
    session: Session, mark: Mark = BEFORE, *, queues: Sequence[str] | None = None, limit: int = 8
) -> list[int]:
    employ(session)
    return [job.id for job in claim(session, mark, queues=queues, limit=limit)[0]]


def claim(
    session: Session, mark: Mark = BEFORE, *, queues: Sequence[str] | None = None, limit: int = 8
) -> tuple[list[Claimed], bool]:
    return lifecycle.claim_group(
        session.connection(), Job, WORKER, queues, ["fast", "quick"], limit, mark, now=NOW
    )


# -- the statement ---------------------------------------------------------------------------------


def test_the_next_ones_in_their_order(session: Session) -> None:
    later = add(session, task="fast", run_at=NOW + MINUTE)
    ids = [add(session, task=task).id for task in ("fast", "quick", "fast")]
    assert group(session) == [*ids, later.id]
    assert group(session, Mark(0, NOW, ids[0]), limit=2) == ids[1:]
    assert {row(session, job).state for job in session.query(Job)} == {"queued"}


def test_of_the_priority_and_the_queue_of_the_mark(session: Session) -> None:
    add(session, task="fast", priority=1)
    add(session, task="fast", priority=-1)
    here, there = add(session, task="fast"), add(session, task="fast", queue="there")
    assert group(session) == [here.id, there.id]
    assert group(session, queues=["there"]) == [there.id]


NOT_FAST: dict[str, dict[str, Any]] = {
    "of an ordinary task": {"task": "t"},
    "that a worker has died of": {"task": "fast", "crashes": 1},
    "that lets go of its key when it begins": {"task": "fast", "unique_scope": "queued"},
    "that was to be counted when it was enqueued": {"task": "fast", "limit_key": "key"},
}


@pytest.mark.parametrize("values", NOT_FAST.values(), ids=NOT_FAST)
def test_none_if_the_next_job_is_one(session: Session, values: dict[str, Any]) -> None:
    """Jobs of the fast lane would pass over it for as long as there are some."""
    first, other, last = add(session, task="fast"), add(session, **values), add(session, task="fast")
    assert group(session) == [first.id, last.id], "as they may by the length of one group"
    assert group(session, Mark(0, NOW, first.id)) == []
    assert group(session, Mark(0, NOW, other.id)) == [last.id]


def test_those_that_others_have_are_passed_over(database: Database) -> None:
    with database.sessionmaker() as mine, database.sessionmaker() as theirs:
        ids = [add(mine, task="fast").id for _ in range(4)]
        employ(mine)
        mine.commit()
        assert group(theirs, limit=2) == ids[:2]
        assert group(mine) == ids[2:]


def test_whether_nobody_else_has_the_next_one(database: Database) -> None:
    """If somebody has, an ordinary one may be behind that: nothing is to be claimed so again and again."""
    with database.sessionmaker() as mine, database.sessionmaker() as theirs:
        ids = [add(mine, task=task).id for task in ("fast", "t", "fast")]
        employ(mine)
        mine.commit()
        found, is_next = claim(mine)
        assert [job.id for job in found] == [ids[0], ids[2]]
        assert is_next
        mine.rollback()
        assert group(theirs, limit=1) == ids[:1]
        found, is_next = claim(mine)
        assert [job.id for job in found] == ids[2:]
        assert not is_next


def test_a_worker_that_was_taken_for_dead_claims_none(session: Session) -> None:
    add(session, task="fast")
    assert claim(session) == ([], False)


# -- a worker --------------------------------------------------------------------------------------


@contextmanager
def statements_of(engine: Engine) -> Iterator[list[str]]:
    """Which of the lane's statements are sent, by what they claim."""
    sent: list[str] = []

    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        for name, word in {"either": "is_ordinary", "group": "AS first", "join": "WITH near"}.items():
            if word in sql or (name == "join" and ") AS near JOIN" in sql):
                sent.append(name)
                return

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


def work(fast: Fast, jobs: int, **options: Any) -> list[str]:
    """Run so many jobs in a worker; the statements that have claimed them."""
    told = Told()
    with pytest.MonkeyPatch.context() as patch, unhurried(), statements_of(fast.database.engine) as sent:
        for name in ("BLIND", "BLIND_TO_NEWS"):  # on a busy machine a second is soon over
            patch.setattr(trail, name, PATIENCE)
        with Worker(fast.jobs, fast.database.engine, on_finish=told.on_finish, **options) as worker:
            told.take(jobs)
            claims = list(sent)
            worker.stop()
            assert worker.join(PATIENCE)
    return claims


@pytest.mark.parametrize("queues", [None, ["default", "other"]], ids=["any", "listed"])
def test_a_backlog_is_claimed_by_one_statement_a_group(fast: Fast, queues: list[str] | None) -> None:
    idle = fast.task(lambda _: None, name="idle", group_commit=100)
    ids = fast.enqueue(*[idle.job() for _ in range(350)])
    claims = work(fast, len(ids), queues=queues)
    assert [len(each) for each in fast.groups()] == [100, 100, 100, 50]
    assert claims[:5] == ["either", "join", "group", "group", "group"]


def test_past_those_of_others_no_second_group_follows(fast: Fast) -> None:
    """An ordinary job may be behind them."""
    idle = fast.task(lambda _: None, name="idle", group_commit=10)
    ids = fast.enqueue(*[idle.job() for _ in range(41)])
    with fast.database.engine.begin() as others:
        others.execute(text("SELECT FROM sqla_jobs WHERE id = :id FOR NO KEY UPDATE"), {"id": ids[10]})
        claims = work(fast, 40)
    assert claims[:6] == ["either", "join", "group", "either", "join", "group"]


def test_those_for_which_there_was_no_room_are_the_next(fast: Fast) -> None:
    """Also if there are others behind them, and nobody looks before the last one that has run."""
    write = fast.task(leave_effect, name="write", group_commit=100)
    ids = fast.enqueue(*[write.job() for _ in range(175)])
    work(fast, len(ids))
    assert fast.groups() == [ids[:50], ids[50:100], ids[100:150], ids[150:]]
    ended = fast.database.rows("SELECT id FROM sqla_jobs ORDER BY finished_at, id")
    assert [row.id for row in ended] == ids


def test_no_more_are_locked_than_their_tasks_let_share_a_transaction(fast: Fast) -> None:
    free: list[int] = []

    def look(_: Session) -> None:
        free.append(
            len(
                fast.database.rows(
                    "SELECT FROM sqla_jobs WHERE state = 'queued' FOR NO KEY UPDATE SKIP LOCKED"
                )
            )
        )

    pair = fast.task(look, name="pair", group_commit=2)
    fast.enqueue(*[pair.job() for _ in range(9)])
    claims = work(fast, 9)
    assert claims.count("group") >= 3
    # Of those that are left nobody has more than the two.
    assert free == [7, 7, 5, 5, 3, 3, 1, 1, 0]


def test_nor_if_those_before_them_let_more(fast: Fast) -> None:
    many = fast.task(lambda _: None, name="many", group_commit=100)
    few = fast.task(lambda _: None, name="few", group_commit=2)
    ids = fast.enqueue(*[many.job() for _ in range(100)], *[few.job() for _ in range(3)], many.job())
    assert "group" not in work(fast, len(ids))
    assert fast.groups() == [ids[:100], ids[100:102], ids[102:]]
