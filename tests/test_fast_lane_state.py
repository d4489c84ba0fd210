"""Jobs of one group share a Session: what one of them does to it, the next does not meet."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from sqla_jobs import current_job
from sqla_jobs.errors import JobEscaped, JobsError
from sqla_jobs.lifecycle import Cancelled, cancel
from sqla_jobs.models import Job
from tests.support.fast import Fast
from tests.support.models import Effect, Item
from tests.support.server import Database


@pytest.fixture
def fast(database: Database) -> Fast:
    return Fast(database)


def both(fast: Fast, first: Callable[[Session], Any], then: Callable[[Session], Any], **options: Any) -> Any:
    """Run two jobs in a group; what the second one returned."""
    returned: list[Any] = []

    def second(session: Session) -> None:
        returned.append(then(session))

    jobs = fast.enqueue(fast.task(first, name="first").job(), fast.task(second).job())
    fast.drain(**options)
    assert [fast.errors(job) for job in jobs] == [[], []]
    assert fast.groups() == [jobs], "they were in one group"
    return returned[-1]


# -- nothing goes from job to job --------------------------------------------------------------------

VARIABLE: ContextVar[str] = ContextVar("variable", default="nothing")


def test_context_variables(fast: Fast) -> None:
    assert both(fast, lambda _: VARIABLE.set("first"), lambda _: VARIABLE.get()) == "nothing"


def test_current_job(fast: Fast) -> None:
    ids: list[int] = []

    def look(_: Session) -> None:
        ids.append(current_job().id)

    task = fast.task(look)
    jobs = fast.enqueue(task.job(), task.job())
    fast.drain()
    assert ids == jobs
    with pytest.raises(JobsError):
        current_job()


KEPT: list[Any] = []


def loads(session: Session) -> None:
    session.add(Item(name="a"))
    session.flush()
    KEPT.append(session.scalars(select(Item)).all())


def leaves_pending(session: Session) -> None:
    with session.no_autoflush:
        session.add(Item(name="a"))


def turns_autoflush_off(session: Session) -> None:
    session.autoflush = False


def keeps_what_it_loads_afterwards(session: Session) -> None:
    session.expire_on_commit = False


def gives_it_an_attribute(session: Any) -> None:
    session.tenant = 7


def leaves_information(session: Session) -> None:
    session.info["tenant"] = 7


def changes_information(session: Session) -> None:
    session.info["tenant"] = 7
    session.info["given"] = "changed"


def leaves_a_block_open(session: Session) -> None:
    block = session.begin_nested()
    block.__enter__()
    KEPT.append(block)


def what_it_is(session: Any) -> Any:
    """All that a job can see of its Session without a statement."""
    return (
        len(session.identity_map),
        len(session.new),
        session.autoflush,
        session.expire_on_commit,
        getattr(session, "tenant", None),
        dict(session.info),
        session._trans_context_manager,
    )


LEAVES = [
    loads,
    leaves_pending,
    turns_autoflush_off,
    keeps_what_it_loads_afterwards,
    gives_it_an_attribute,
    leaves_information,
    changes_information,
    leaves_a_block_open,
]


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("leave", LEAVES, ids=lambda leave: leave.__name__)
def test_the_session(fast: Fast, leave: Callable[[Session], Any], writes: bool) -> None:
    def first(session: Session) -> None:
        leave(session)
        if writes:
            session.add(Effect(job_id=0))

    source = sessionmaker(fast.database.engine, info={"given": "as it was"})
    with source() as session:
        expected = what_it_is(session)
    assert both(fast, first, what_it_is, sessions=source) == expected
    assert fast.database.scalar("SELECT count(*) FROM items") == (leave in (loads, leaves_pending))
    KEPT.clear()


def test_what_a_job_has_made_is_not_taken_back_with_the_next(fast: Fast) -> None:
    """An object that is kept beyond its job is as it would be after a commit."""

    def keep(session: Session) -> None:
        item = Item(name="a")
        session.add(item)
        session.flush()
        KEPT.append(item)

    def fail(session: Session) -> None:
        session.add(Item(name="b"))
        session.flush()
        raise ValueError

    jobs = fast.enqueue(fast.task(keep).job(), fast.task(fail).job())
    fast.drain()
    (item,) = KEPT
    KEPT.clear()
    assert fast.groups() == [jobs]
    with fast.database.sessionmaker() as session:
        session.add(item)
        assert item not in session.new
        assert session.scalars(select(Item.name)).all() == ["a"]


def test_what_a_job_sends_by_the_driver_is_its_own(fast: Fast) -> None:
    """Nobody sees what that connection is sent: who has asked for it may have sent anything."""
    runs: list[int] = []

    def drive(session: Session) -> None:
        driver: Any = session.connection().connection.driver_connection
        driver.execute("INSERT INTO effects (job_id) VALUES (%s)", [current_job().id])
        runs.append(current_job().id)
        if len(runs) in (1, 3):
            raise ValueError

    task = fast.task(drive)
    jobs = fast.enqueue(fast.note.job(), *[task.job() for _ in range(4)])
    fast.drain()
    assert fast.groups() == [jobs]
    assert fast.states() == ["succeeded", "failed", "succeeded", "failed", "succeeded"]
    assert fast.effects() == [jobs[0], jobs[2], jobs[4]]


# -- what cannot be taken back ends the group ----------------------------------------------------------


def sets_locally(session: Session) -> None:
    session.execute(text("SET LOCAL work_mem = '77MB'"))


def sets_by_function(session: Session) -> None:
    session.execute(text("SELECT set_config('work_mem', '77MB', true)"))


def makes_a_table(session: Session) -> None:
    session.execute(text("CREATE TEMPORARY TABLE mine (id int) ON COMMIT DROP"))


@pytest.mark.parametrize("leave", [sets_locally, sets_by_function, makes_a_table], ids=lambda f: f.__name__)
def test_what_lasts_until_the_end_of_the_transaction(fast: Fast, leave: Callable[[Session], Any]) -> None:
    seen: list[Any] = []

    def first(session: Session) -> None:
        leave(session)
        session.add(Effect(job_id=current_job().id))

    def look(session: Session) -> None:
        seen.append(session.scalar(text("SHOW work_mem")))
        seen.append(session.scalar(text("SELECT to_regclass('mine')")))

    a, b = fast.enqueue(fast.task(first).job(), fast.task(look).job())
    fast.drain()
    assert fast.groups() == [[a], [b]]
    assert seen[0] != "77MB"
    assert seen[1] is None
    assert fast.states() == ["succeeded"] * 2


@pytest.mark.parametrize("moment", ["before_flush", "after_commit"])
def test_a_listener_is_called_for_its_own_job_only(fast: Fast, moment: str) -> None:
    heard: list[str] = []
    running: list[str] = []

    def listens(session: Session) -> None:
        running.append("first")
        event.listen(session, moment, lambda *_: heard.append(running[-1]))
        session.add(Effect(job_id=current_job().id))

    def writes(session: Session) -> None:
        running.append("second")
        session.add(Effect(job_id=current_job().id))

    a, b = fast.enqueue(fast.task(listens).job(), fast.task(writes).job())
    fast.drain()
    assert set(heard) == {"first"}
    assert fast.groups() == [[a], [b]]
    assert fast.effects() == [a, b]


# -- other jobs ---------------------------------------------------------------------------------------


def test_work_once_takes_no_job_of_its_own_group(fast: Fast) -> None:
    """They are queued, and a lock of the same transaction hides them from nobody who is in it."""
    found: list[Any] = []

    def once(session: Session) -> None:
        finished = fast.jobs.work_once(session)
        found.append(finished and finished.job.task)

    first, last, plain = fast.enqueue(fast.task(once).job(), fast.note.job(), fast.plain.job())
    fast.drain()
    assert found == ["plain"]
    assert fast.states() == ["succeeded"] * 3
    assert [fast.row(job).attempt for job in (first, last, plain)] == [1, 1, 1]
    assert fast.effects() == [last, plain]


def test_a_job_that_work_once_took_goes_back_with_the_one_that_called_it(fast: Fast) -> None:
    def once(session: Session) -> None:
        fast.jobs.work_once(session)
        raise ValueError

    _, last, plain = fast.enqueue(fast.task(once).job(), fast.note.job(), fast.plain.job())
    fast.drain()
    assert fast.states() == ["failed", "succeeded", "succeeded"]
    assert fast.effects() == [last, plain]


def test_a_job_may_cancel_one_that_is_in_its_group(fast: Fast) -> None:
    said: list[Cancelled] = []

    def cancels(session: Session) -> None:
        said.append(cancel(session, Job, victim))

    _, victim, last = fast.enqueue(fast.task(cancels).job(), fast.note.job(), fast.note.job())
    fast.drain()
    # In a group it would have run all the same: each was run again by itself.
    assert set(said) == {Cancelled.CANCELLED}
    assert fast.states() == ["succeeded", "cancelled", "succeeded"]
    assert fast.effects() == [last]


def test_jobs_that_are_enqueued_by_jobs_are_found(fast: Fast) -> None:
    def enqueues(session: Session) -> None:
        fast.note.enqueue(session, "more")

    fast.enqueue(fast.task(enqueues).job())
    fast.drain()
    assert fast.ran == ["more"]


# -- the makers of Sessions -----------------------------------------------------------------------------


def test_a_scoped_session_is_left_to_the_thread_that_starts_the_worker(fast: Fast) -> None:
    scoped = scoped_session(sessionmaker(fast.database.engine))
    mine = scoped()
    mine.add(Item(name="not committed yet"))
    mine.flush()
    jobs = fast.enqueue(fast.note.job(), fast.note.job())
    fast.drain(sessions=scoped)
    assert scoped() is mine
    mine.commit()
    assert fast.database.scalar("SELECT count(*) FROM items") == 1
    assert fast.groups() == [jobs]
    scoped.remove()


def test_a_second_engine_is_refused(fast: Fast) -> None:
    other = create_engine(fast.database.url)

    def writes_elsewhere(session: Session) -> None:
        session.add(Item(name="a"))

    def catches_that(session: Session) -> None:
        try:
            session.execute(select(Item))
        except JobEscaped:
            session.add(Effect(job_id=current_job().id))

    jobs = fast.enqueue(
        fast.note.job(), *[fast.task(task).job() for task in (writes_elsewhere, catches_that)]
    )
    source = sessionmaker(fast.database.engine, binds={Item: other})
    fast.drain(sessions=source)
    other.dispose()
    assert fast.states() == ["succeeded", "failed", "succeeded"]
    ((name, message),) = fast.errors(jobs[1])
    assert name == "JobEscaped"
    assert "came to another engine of its Session; take group_commit off it" in message
    assert fast.effects() == [jobs[0], jobs[2]]
    assert fast.database.scalar("SELECT count(*) FROM items") == 0
