"""Every verb on an AsyncSession: what it gives, what it leaves if nobody awaits it, what it refuses."""

from __future__ import annotations

import asyncio
import datetime as dt
import inspect
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

import sqla_jobs
from sqla_jobs import Finished, Job, Jobs, JobState, Progress, Synced, testing
from sqla_jobs.errors import DuplicateJob, EnqueueError, InvalidArguments, InvalidOption, JobNotFound
from sqla_jobs.testing import InSession
from tests.support.aio import Sessions, in_a_loop
from tests.support.models import Effect
from tests.support.server import Database

HOUR = dt.timedelta(hours=1)

jobs = Jobs(prune_after=None)


@jobs.every(HOUR, name="hourly", kwargs={"number": 1})
@jobs.task(name="send", queue="mail")
def send(db: Session, number: int, *, note: str = "x", **more: str) -> None:
    db.add(Effect(job_id=number, note=note))


@jobs.task(name="keep", result=True)
def keep(db: Session) -> int:
    return 10


def shown(given: Any) -> Any:
    """What a verb gives, without what differs from run to run."""
    if isinstance(given, Job):
        return given.task, given.arguments, given.queue, given.state, given.priority, given.unique_held
    if isinstance(given, Finished):
        return given.state, given.job.task, given.error
    return [shown(each) for each in given] if isinstance(given, list) else given


Session_ = Any
VERBS: dict[str, tuple[Callable[[Session_], Any], Any]] = {
    "task.enqueue": (lambda s: send.enqueue(s, 1), ("send", {"number": 1}, "mail", "queued", 0, False)),
    "task.enqueue of what the adapter has names for": (
        lambda s: send.enqueue(s, 1, fn="a", self="b", session="c", function="d", own="e", call="f"),
        (
            "send",
            {"number": 1, "fn": "a", "self": "b", "session": "c", "function": "d", "own": "e", "call": "f"},
            "mail",
            "queued",
            0,
            False,
        ),
    ),
    "task.using.enqueue": (
        lambda s: send.using(queue="slow", priority=3, delay=HOUR, unique_key="k").enqueue(s, number=2),
        ("send", {"number": 2}, "slow", "scheduled", 3, True),
    ),
    "jobs.enqueue": (
        lambda s: jobs.enqueue(s, "elsewhere", task="t", session="s", self="me"),
        ("elsewhere", {"task": "t", "session": "s", "self": "me"}, "default", "queued", 0, False),
    ),
    "jobs.using.enqueue": (
        lambda s: jobs.using(queue="slow").enqueue(s, "send", number=3),
        ("send", {"number": 3}, "slow", "queued", 0, False),
    ),
    "task.result": (lambda s: keep.result(s, 1000), 10),
    "jobs.enqueue_many": (
        lambda s: jobs.enqueue_many(s, (send.job(n) for n in range(3))),
        [2, 3, 4],
    ),
    "jobs.enqueue_many of unique ones": (
        lambda s: jobs.enqueue_many(s, [send.using(unique_key=key).job(0) for key in "aba"]),
        [2, 3, 2],
    ),
    "cancel": (lambda s: sqla_jobs.cancel(s, 1), "cancelled"),
    "jobs.cancel": (lambda s: jobs.cancel(s, 1), "cancelled"),
    "jobs.cancel_all": (lambda s: jobs.cancel_all(s, queue="before"), 1),
    "retry": (lambda s: sqla_jobs.retry(s, 1), "queued"),
    "jobs.retry": (lambda s: jobs.retry(s, 1), "queued"),
    "jobs.progress": (lambda s: jobs.progress(s, 1000), Progress(7, 10)),
    "delete": (lambda s: sqla_jobs.delete(s, 1), "deleted"),
    "jobs.delete": (lambda s: jobs.delete(s, 1), "deleted"),
    "prune": (lambda s: sqla_jobs.prune(s, older_than=dt.timedelta(0)), 1),
    "jobs.prune": (lambda s: jobs.prune(s, states=["failed"], limit=5), 0),
    "pause": (lambda s: sqla_jobs.pause(s, "mail"), True),
    "jobs.pause": (lambda s: jobs.pause(s, "mail"), True),
    "resume": (lambda s: sqla_jobs.resume(s, "mail"), False),
    "jobs.resume": (lambda s: jobs.resume(s, "mail"), False),
    "jobs.sync_schedules": (lambda s: jobs.sync_schedules(s, prune=True), Synced(added=("hourly",))),
    "jobs.run_schedule": (lambda s: jobs.run_schedule(s, "none"), None),
    "jobs.switch_schedule": (lambda s: jobs.switch_schedule(s, "none", enabled=True), False),
    "jobs.work_once": (
        lambda s: jobs.work_once(s, ["before"]),
        (JobState.SUCCEEDED, "send", None),
    ),
    "drain": (lambda s: testing.drain(s, jobs), [(JobState.SUCCEEDED, "send", None)]),
    "enqueued": (
        lambda s: testing.enqueued(s, send, number=0),
        [("send", {"number": 0}, "before", "queued", 0, False)],
    ),
    "assert_enqueued": (
        lambda s: testing.assert_enqueued(s, send, count=1),
        [("send", {"number": 0}, "before", "queued", 0, False)],
    ),
    "refute_enqueued": (lambda s: testing.refute_enqueued(s, send, number=9), None),
    "InSession.drain": (
        lambda s: InSession(s, jobs).drain(["before"]),
        [(JobState.SUCCEEDED, "send", None)],
    ),
    "InSession.enqueued": (
        lambda s: InSession(s, jobs).enqueued(queue="before"),
        [("send", {"number": 0}, "before", "queued", 0, False)],
    ),
    "InSession.assert_enqueued": (
        lambda s: InSession(s, jobs).assert_enqueued("send"),
        [("send", {"number": 0}, "before", "queued", 0, False)],
    ),
    "InSession.refute_enqueued": (lambda s: InSession(s, jobs).refute_enqueued("other"), None),
}

STATE = """
    SELECT array_agg(id || task || arguments || queue || state || priority ORDER BY id)::text FROM sqla_jobs
    UNION ALL SELECT array_agg(name)::text FROM sqla_jobs_schedules
    UNION ALL SELECT array_agg(name)::text FROM sqla_jobs_queues
    UNION ALL SELECT array_agg(job_id || note)::text FROM effects
"""


@pytest.fixture
def database(database: Database) -> Database:
    """With a job that waits and one that is over, by their ids."""
    with database.sessionmaker.begin() as session:
        assert send.using(queue="before").enqueue(session, 0).id == 1
        session.execute(
            text(
                "INSERT INTO sqla_jobs (id, task, queue, state, result, progress, started_at, finished_at)"
                " VALUES (1000, 'keep', 'over', 'succeeded', '10',"
                """ '{"done"\\: 7, "total"\\: 10, "attempt"\\: 1}', now(), now())"""
            )
        )
    return database


def state(database: Database) -> list[str]:
    return [row[0] for row in database.rows(STATE)]


def test_no_verb_is_forgotten() -> None:
    """What takes a session first, of all that is public."""
    places = {"sqla_jobs": sqla_jobs, "jobs": jobs, "task": send, "testing": testing}
    found = set()
    for place, thing in places.items():
        for name in vars(thing).get("__all__") or [each for each in dir(thing) if not each.startswith("_")]:
            each = getattr(thing, name)
            if inspect.isroutine(each) and "session" in inspect.signature(each).parameters:
                found.add(name if place in ("sqla_jobs", "testing") else f"{place}.{name}")
    # `sync` and the others of a Registry are the worker's.
    assert found - {"jobs.sync"} == {name for name in VERBS if " " not in name and "using" not in name} - {
        name for name in VERBS if name.startswith("InSession.")
    }


@pytest.mark.parametrize("name", VERBS)
def test_it_is_awaited_and_does_the_same(name: str, database: Database) -> None:
    call, expected = VERBS[name]
    with database.sessionmaker() as sync:
        assert shown(call(sync)) == expected
        sync.flush()
        in_sync = [row[0] for row in sync.execute(text(STATE))]
        sync.rollback()
    # A number that was drawn stays drawn.
    database.execute("ALTER SEQUENCE sqla_jobs_id_seq RESTART WITH 2")
    before = state(database)

    async def main(sessions: Sessions) -> None:
        for given in (sessions(), async_scoped_session(sessions, asyncio.current_task)):
            database.execute("ALTER SEQUENCE sqla_jobs_id_seq RESTART WITH 2")
            coroutine = call(given)
            assert inspect.iscoroutine(coroutine)
            assert shown(await coroutine) == expected
            assert [row[0] for row in await given.execute(text(STATE))] == in_sync
            assert state(database) == before, "nothing is committed"
            await given.rollback()
            assert state(database) == before
            await given.close()
        database.execute("ALTER SEQUENCE sqla_jobs_id_seq RESTART WITH 2")
        async with sessions.begin() as session:
            assert shown(await call(session)) == expected

    in_a_loop(database, main)
    assert state(database) == in_sync


@pytest.mark.parametrize("name", VERBS)
def test_one_that_nobody_awaits_is_warned_of_and_does_nothing(name: str, database: Database) -> None:
    call, _ = VERBS[name]
    before = state(database)

    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            with pytest.warns(RuntimeWarning, match=r"coroutine '[A-Za-z_.]+' was never awaited") as warned:
                call(session)
            verb = name.split(" ", maxsplit=1)[0].rpartition(".")[2]
            assert f"{verb}' was" in str(warned[0].message)
            assert not session.in_transaction()
            assert not session.new
            await session.commit()

    in_a_loop(database, main)
    assert state(database) == before


REFUSED: dict[str, tuple[Callable[[Any], Any], type[Exception]]] = {
    **{name: (call, InvalidOption) for name, (call, _) in VERBS.items()},
    **{
        name: (call, InvalidArguments)
        for name, (call, _) in VERBS.items()
        if name.endswith((".enqueue", ".result"))
    },
}


@pytest.mark.parametrize("name", [name for name in REFUSED if " " not in name])
def test_what_is_no_session_is_refused(name: str) -> None:
    call, error = REFUSED[name]
    for given in (None, AsyncSession, Session, jobs):
        with pytest.raises(
            error, match="expected a Session, scoped_session, AsyncSession or async_scoped_session"
        ):
            call(given)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: send.enqueue(s), InvalidArguments, "number"),
        (lambda s: send.enqueue(s, "one"), InvalidArguments, "number"),
        (lambda s: jobs.cancel(s, 99), JobNotFound, "99"),
        (lambda s: jobs.enqueue_many(s, [1]), EnqueueError, "number 0 is 1"),
        (lambda s: jobs.work_once(s, "mail"), InvalidOption, "queues is the text 'mail'"),
        (lambda s: testing.assert_enqueued(s, send, number=9), AssertionError, "job 1: send"),
        (lambda s: testing.refute_enqueued(s, send), AssertionError, "1 of them"),
    ],
)
def test_errors_are_those_of_the_verb(
    call: Any, error: type[Exception], message: str, database: Database
) -> None:
    async def main(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            with pytest.raises(error, match=message):
                await call(session)
            await send.enqueue(session, 7)

    in_a_loop(database, main)
    assert database.scalar("SELECT arguments->>'number' FROM sqla_jobs WHERE task = 'send' AND id > 1") == "7"


def test_a_scoped_session_is_the_one_of_who_calls(database: Database) -> None:
    """Not that of the task which awaits, whose Session nobody commits."""

    async def main(sessions: Sessions) -> None:
        scoped = async_scoped_session(sessions, asyncio.current_task)
        await asyncio.create_task(send.enqueue(scoped, 1))
        await asyncio.gather(send.enqueue(scoped, 2))
        await scoped.commit()
        await scoped.remove()

    in_a_loop(database, main)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE task = 'send'") == 3


def test_a_sync_scoped_session_is_no_coroutine(database: Database) -> None:
    scoped = scoped_session(database.sessionmaker)
    assert send.enqueue(scoped, 1).state == "queued"
    assert jobs.pause(scoped, "mail") is True
    scoped.remove()


def test_a_key_that_is_taken_is_said_of_a_retry(database: Database) -> None:
    async def main(sessions: Sessions) -> None:
        async with sessions() as session:
            keyed = send.using(unique_key="k")
            first = await keyed.enqueue(session, 1)
            assert await jobs.cancel(session, first) == "cancelled"
            second = await keyed.enqueue(session, 2)
            with pytest.raises(DuplicateJob, match=f"job {second.id}"):
                await jobs.retry(session, first)
            assert await jobs.cancel(session, second) == "cancelled"
            assert await jobs.retry(session, first) == "retried"

    in_a_loop(database, main)
