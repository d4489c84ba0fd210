"""A worker that runs coroutines: beside ordinary jobs, so many at once, on its loop or the application's."""

from __future__ import annotations

import asyncio
import threading
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, Finished, Job, Jobs, JobState, Limit, RetryPolicy, Snooze, Worker, current_job
from sqla_jobs.errors import ConfigurationError, InvalidOption, JobsError, TaskDefinitionError
from sqla_jobs.runner import Runner
from sqla_jobs.testing import drain
from sqla_jobs.worker.loop import Loop
from tests.support.lane import NEVER
from tests.support.lane import leave_effect as leave_effect_at_once
from tests.support.loops import async_engine, drain_async, leave_effect
from tests.support.models import Effect
from tests.support.server import Database
from tests.support.work import PATIENCE, SOON

EFFECTS = "SELECT count(*) FROM effects"
LEFT = "SELECT state FROM sqla_jobs WHERE task = 'leaves'"
STATES = "SELECT state, count(*) FROM sqla_jobs GROUP BY 1 ORDER BY 1"


@pytest.fixture
def jobs() -> Jobs[Job]:
    return Jobs()


def enqueued(database: Database, task: Any, *arguments: Any, times: int = 1) -> list[int]:
    with database.sessionmaker.begin() as session:
        return [task.enqueue(session, *arguments).id for _ in range(times)]


def test_coroutines_and_ordinary_jobs_in_one_worker(jobs: Jobs[Job], database: Database) -> None:
    threads: dict[str, set[threading.Thread]] = {"awaited": set(), "ordinary": set()}

    @jobs.task(name="awaited")
    async def awaited(session: AsyncSession, number: int) -> None:
        threads["awaited"].add(threading.current_thread())
        assert current_job().arguments == {"number": number}
        await leave_effect(session, str(number))
        await session.commit()
        assert current_job().task == "awaited"

    @jobs.task(name="ordinary")
    def ordinary(session: Session) -> None:
        threads["ordinary"].add(threading.current_thread())
        leave_effect_at_once(session)

    with database.sessionmaker.begin() as session:
        for number in range(50):
            awaited.enqueue(session, number)
            ordinary.enqueue(session)
    finished = drain_async(jobs, database, threads=2)
    assert len(finished) == 100
    assert database.rows(STATES) == [("succeeded", 100)]
    assert database.scalar("SELECT count(DISTINCT job_id) FROM effects") == database.scalar(EFFECTS) == 100
    assert {thread.name for thread in threads["awaited"]} == {"sqla_jobs-loop"}
    assert "sqla_jobs-loop" not in {thread.name for thread in threads["ordinary"]}


@pytest.mark.parametrize("concurrency", [1, 3])
def test_so_many_run_at_once_and_never_more(jobs: Jobs[Job], database: Database, concurrency: int) -> None:
    inside, most = 0, 0
    full = asyncio.Event()

    @jobs.task(name="wait", timeout=timedelta(seconds=PATIENCE))
    async def wait(_: AsyncSession) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        if inside == concurrency:
            full.set()
        await full.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        inside -= 1

    enqueued(database, wait, times=12)
    # All threads may claim for the one loop.
    finished = drain_async(jobs, database, concurrency=concurrency, threads=3)
    assert [each.state for each in finished] == [JobState.SUCCEEDED] * 12
    assert most == concurrency


def test_ordinary_jobs_wait_while_there_is_no_room_on_the_loop(jobs: Jobs[Job], database: Database) -> None:
    """What the next job is nobody knows before it is claimed."""
    order: list[str] = []

    @jobs.task(name="first")
    async def first(session: AsyncSession) -> None:
        await session.execute(text("SELECT pg_sleep(0.05)"))
        order.append("first")

    @jobs.task(name="second")
    def second(_: Session) -> None:
        order.append("second")

    enqueued(database, first)
    enqueued(database, second)
    drain_async(jobs, database, concurrency=1)
    assert order == ["first", "second"]


def test_an_ordinary_job_that_ends_claims_none_for_which_there_is_no_room(
    jobs: Jobs[Job], database: Database
) -> None:
    begun = threading.Event()
    running: list[int] = []

    @jobs.task(name="ordinary")
    def ordinary(session: Session) -> None:
        assert begun.wait(PATIENCE), "another thread claims meanwhile"
        leave_effect_at_once(session)

    @jobs.task(name="awaited")
    async def awaited(_: AsyncSession) -> None:
        begun.set()
        while not database.scalar(EFFECTS):  # noqa: ASYNC110 - another thread writes it
            await asyncio.sleep(0)
        running.append(database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'running'"))

    enqueued(database, ordinary)
    enqueued(database, awaited, times=2)
    drain_async(jobs, database, concurrency=1, threads=2)
    assert running == [1, 1]


def test_one_that_has_written_nothing_costs_no_transaction_of_its_own(
    jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="nothing")
    async def nothing(_: AsyncSession) -> None:
        await asyncio.sleep(0)

    enqueued(database, nothing, times=10)
    engine = async_engine(database)
    begun: list[object] = []
    event.listen(engine.sync_engine, "savepoint", lambda *_: begun.append(1))
    drain_async(jobs, database, async_sessionmaker=engine)
    assert database.rows(STATES) == [("succeeded", 10)]
    assert not begun


def test_snooze_cancel_and_retry(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="snoozes")
    async def snoozes(session: AsyncSession) -> Snooze:
        await leave_effect(session)
        return Snooze(timedelta(hours=1))

    @jobs.task(name="cancels")
    async def cancels(session: AsyncSession) -> None:
        await leave_effect(session)
        raise Cancel("no more")

    @jobs.task(name="again", retry=RetryPolicy(max_attempts=2, base=timedelta(0)))
    async def again(session: AsyncSession) -> None:
        await leave_effect(session)
        if current_job().attempt == 1:
            raise ValueError("once")

    ids = [enqueued(database, task)[0] for task in (snoozes, cancels, again)]
    drain_async(jobs, database)
    rows = database.rows("SELECT id, state, attempt FROM sqla_jobs ORDER BY id")
    assert rows == [(ids[0], "scheduled", 0), (ids[1], "cancelled", 1), (ids[2], "succeeded", 2)]
    # What is returned is an end in order, which keeps what was written before it.
    assert database.rows("SELECT job_id FROM effects ORDER BY 1") == [(ids[0],), (ids[2],)]


def test_what_it_returns_is_kept(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="counts", result=True)
    async def counts(session: AsyncSession, of: str) -> int:
        await leave_effect(session)
        return len(of)

    (job,) = enqueued(database, counts, "four")
    drain_async(jobs, database)
    with Session(database.engine) as session:
        assert counts.result(session, job) == 4


def test_a_limit_holds_for_them(jobs: Jobs[Job], database: Database) -> None:
    inside, most = 0, 0

    @jobs.task(name="limited", limit=Limit(2))
    async def limited(session: AsyncSession) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await session.execute(text("SELECT pg_sleep(0.01)"))
        inside -= 1

    enqueued(database, limited, times=12)
    drain_async(jobs, database, concurrency=6, threads=2)
    assert database.rows(STATES) == [("succeeded", 12)]
    assert most <= 2


VARIABLE: ContextVar[str] = ContextVar("variable", default="nothing")


def test_what_one_sets_in_a_contextvar_no_other_sees(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="sets")
    async def sets(_: AsyncSession) -> None:
        assert VARIABLE.get() == "nothing"
        VARIABLE.set(str(current_job().id))
        await asyncio.sleep(0)
        assert VARIABLE.get() == str(current_job().id)

    enqueued(database, sets, times=20)
    drain_async(jobs, database)
    assert database.rows(STATES) == [("succeeded", 20)]


def test_a_checkpoint_commits_what_was_done_so_far(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="long", retry=NEVER)
    async def long(session: AsyncSession) -> None:
        await leave_effect(session, "kept")
        await current_job().checkpoint(session)
        assert database.rows("SELECT note FROM effects") == [("kept",)]
        await leave_effect(session, "lost")
        raise ValueError

    enqueued(database, long)
    drain_async(jobs, database)
    assert database.rows("SELECT note FROM effects") == [("kept",)]
    assert database.rows(STATES) == [("failed", 1)]


def test_a_checkpoint_of_another_session_is_refused(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="long", retry=NEVER)
    async def long(session: AsyncSession) -> None:
        await current_job().checkpoint(AsyncSession(session.bind))

    enqueued(database, long)
    (finished,) = drain_async(jobs, database)
    assert isinstance(finished.error, JobsError)
    assert "expected the Session that the task was given" in str(finished.error)


def test_sessions_of_the_applications_own_making(jobs: Jobs[Job], database: Database) -> None:
    class Own(AsyncSession):
        pass

    engine = async_engine(database)
    scoped = async_scoped_session(async_sessionmaker(engine, class_=Own), scopefunc=asyncio.current_task)
    seen: list[AsyncSession] = []

    async def service() -> None:
        scoped.add(Effect(job_id=current_job().id))
        await scoped.commit()

    @jobs.task(name="scoped")
    async def with_scoped(session: AsyncSession) -> None:
        assert scoped() is session
        assert type(session) is Own
        seen.append(session)
        session.add(Effect(job_id=0))
        await scoped.remove()  # as far as its close() goes
        assert scoped() is session
        await service()

    enqueued(database, with_scoped, times=5)
    drain_async(jobs, database, async_sessionmaker=scoped)
    assert database.rows(STATES) == [("succeeded", 5)]
    assert len({id(each) for each in seen}) == 5, "each job has its own"
    assert not scoped.registry.registry, "each is removed after its job"
    assert database.scalar(EFFECTS) == 5


# -- on the application's loop ------------------------------------------------------------------------


def test_on_the_loop_of_the_application_with_its_engine(jobs: Jobs[Job], database: Database) -> None:
    async def application() -> None:
        engine = async_engine(database)
        here, seen = asyncio.get_running_loop(), asyncio.Event()

        @jobs.task(name="there")
        async def there(session: AsyncSession) -> None:
            assert asyncio.get_running_loop() is here
            await leave_effect(session)
            seen.set()

        worker = Worker(
            jobs, database.engine, async_sessionmaker=async_sessionmaker(engine), poll_interval=SOON
        )
        async with worker:
            with pytest.raises(JobsError, match=r"async with Worker"):
                worker.join()
            async with AsyncSession(engine) as session, session.begin():
                await session.run_sync(there.enqueue)
            await asyncio.wait_for(seen.wait(), PATIENCE)
        assert worker.state == "stopped"
        async with AsyncSession(engine) as session:
            assert await session.scalar(text(STATES.replace("count(*)", "state"))) == "succeeded"
        await engine.dispose()

    asyncio.run(application())


def test_a_start_within_a_loop_is_refused(jobs: Jobs[Job], database: Database) -> None:
    jobs.task(name="there")(leave_effect)

    async def application() -> None:
        worker = Worker(jobs, database.engine, async_sessionmaker=async_engine(database))
        with pytest.raises(JobsError, match=r"expected `async with Worker"):
            worker.start()
        assert worker.state == "stopped"

    asyncio.run(application())


def test_without_coroutines_there_is_no_loop(jobs: Jobs[Job], database: Database) -> None:
    jobs.task(name="ordinary")(leave_effect_at_once)

    async def application() -> None:
        with Worker(jobs, database.engine):
            names = {thread.name for thread in threading.enumerate()}
            assert "sqla_jobs-loop" not in names

    asyncio.run(application())


# -- what is refused ----------------------------------------------------------------------------------


def test_a_worker_that_cannot_run_them_does_not_start_and_names_them(
    jobs: Jobs[Job], database: Database
) -> None:
    for name in ("shop.b", "shop.a"):
        jobs.task(name=name)(leave_effect)
    worker = Worker(jobs, database.engine)
    with pytest.raises(ConfigurationError, match=r"shop\.a, shop\.b; expected .*async_sessionmaker"):
        worker.start()
    assert database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0


def test_the_sessions_of_the_registry_will_do(database: Database) -> None:
    jobs = Jobs(async_sessionmaker=async_sessionmaker(async_engine(database)))
    enqueued(database, jobs.task(name="a")(leave_effect))
    drain_async(jobs, database, async_sessionmaker=None)
    assert database.rows(STATES) == [("succeeded", 1)]


def test_a_pool_that_is_too_small_is_refused(jobs: Jobs[Job], database: Database) -> None:
    jobs.task(name="a")(leave_effect)
    engine = async_engine(database, pool_size=3, max_overflow=0)
    worker = Worker(jobs, database.engine, async_sessionmaker=engine, concurrency=3)
    with pytest.raises(ConfigurationError, match=r"a worker of 3 coroutine\(s\) needs 4.*fewer coroutines"):
        worker.start()
    assert "sqla_jobs-loop" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize("given", [5, "postgresql://", object()], ids=["number", "text", "object"])
def test_what_makes_no_async_sessions_is_refused(given: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected an async_sessionmaker"):
        Jobs(async_sessionmaker=given)


def test_an_ordinary_sessionmaker_is_refused(jobs: Jobs[Job], database: Database) -> None:
    with pytest.raises(ConfigurationError, match="expected an async_sessionmaker"):
        Worker(jobs, database.engine, async_sessionmaker=database.sessionmaker)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("concurrency", [0, -1, 2.5, True])
def test_a_concurrency_that_is_none(jobs: Jobs[Job], database: Database, concurrency: Any) -> None:
    with pytest.raises(InvalidOption, match="concurrency"):
        Worker(jobs, database.engine, concurrency=concurrency)


def test_group_commit_is_not_for_coroutines(jobs: Jobs[Job]) -> None:
    with pytest.raises(InvalidOption, match="one after the other"):
        jobs.task(name="a", group_commit=10)(leave_effect)
    assert "a" not in jobs.tasks


def test_the_other_kind_of_session_in_the_annotation(jobs: Jobs[Job]) -> None:
    async def awaited(session: Session) -> None: ...
    def ordinary(session: AsyncSession) -> None: ...

    with pytest.raises(TaskDefinitionError, match="annotated with Session; expected AsyncSession"):
        jobs.task(name="a")(awaited)
    with pytest.raises(TaskDefinitionError, match="annotated with AsyncSession; expected Session"):
        jobs.task(name="b")(ordinary)


# -- work_once ----------------------------------------------------------------------------------------


def test_work_once_in_a_session_leaves_them(jobs: Jobs[Job], session: Session) -> None:
    awaited = jobs.task(name="awaited")(leave_effect)
    ordinary = jobs.task(name="ordinary")(leave_effect_at_once)
    awaited.using(priority=9).enqueue(session)
    awaited.using(delay=timedelta(hours=1)).enqueue(session)
    job = ordinary.enqueue(session)
    later = datetime.now(timezone.utc) + timedelta(hours=2)
    finished = jobs.work_once(session, now=later)
    assert finished is not None
    assert finished.job.id == job.id
    assert jobs.work_once(session, now=later) is None


def test_work_once_in_an_async_session_runs_both(jobs: Jobs[Job], database: Database) -> None:
    awaited = jobs.task(name="awaited")(leave_effect)
    ordinary = jobs.task(name="ordinary")(leave_effect_at_once)
    enqueued(database, awaited)
    enqueued(database, ordinary)

    async def application() -> list[Finished | None]:
        engine = async_engine(database)
        async with AsyncSession(engine) as session, session.begin():
            ended = [await session.run_sync(jobs.work_once) for _ in range(3)]
            assert database.rows(STATES) == [("queued", 2)]
            with pytest.raises(JobsError, match="no job runs"):
                current_job()
        await engine.dispose()
        return ended

    ended = asyncio.run(application())
    assert [each and each.job.task for each in ended] == ["awaited", "ordinary", None]
    assert database.rows(STATES) == [("succeeded", 2)]
    assert database.scalar(EFFECTS) == 2


# -- drain --------------------------------------------------------------------------------------------


def test_drain_on_a_session_says_that_it_leaves_them(jobs: Jobs[Job], session: Session) -> None:
    awaited = jobs.task(name="awaited", queue="calls")(leave_effect)
    awaited.enqueue(session)
    with pytest.raises(JobsError, match=r"has left jobs of 'awaited'.*await drain"):
        drain(session, jobs)
    assert drain(session, jobs, ["default"]) == []


def test_after_an_awaited_drain_jobs_can_be_read(jobs: Jobs[Job], database: Database) -> None:
    awaited = jobs.task(name="awaited")(leave_effect)
    passing = jobs.task(name="passing", retention=timedelta(0))(leave_effect)

    async def application() -> None:
        engine = async_engine(database)
        async with AsyncSession(engine, expire_on_commit=False) as session:
            job = await awaited.enqueue(session)
            await passing.enqueue(session)
            assert len(await drain(session, jobs)) == 2
            assert (job.state, job.attempt) == ("succeeded", 1)
        await engine.dispose()

    asyncio.run(application())


# -- what outlives its job ----------------------------------------------------------------------------


def test_what_outlives_its_job_cannot_go_on_with_its_session(jobs: Jobs[Job], database: Database) -> None:
    ended, refused = asyncio.Event(), asyncio.Event()
    left: list[asyncio.Task[None]] = []

    async def later(session: AsyncSession) -> None:
        await ended.wait()
        with pytest.raises(InvalidRequestError, match="permanently closed"):
            await leave_effect(session)
        refused.set()

    @jobs.task(name="leaves", retry=NEVER)
    async def leaves(session: AsyncSession) -> None:
        left.append(asyncio.create_task(later(session)))
        await leave_effect(session)
        raise ValueError

    @jobs.task(name="next")
    async def following(_: AsyncSession) -> None:
        while database.scalar(LEFT) != "failed":  # noqa: ASYNC110 - the other job ends beside it
            await asyncio.sleep(0)
        for _ in range(100):  # until its session is closed
            await asyncio.sleep(0)
        ended.set()
        await refused.wait()

    enqueued(database, leaves)
    enqueued(database, following)
    made = async_sessionmaker(async_engine(database))
    drain_async(jobs, database, async_sessionmaker=made)
    assert left[0].done()
    assert database.scalar(EFFECTS) == 0


def test_two_statements_at_once_on_its_session_are_what_the_row_shows(
    jobs: Jobs[Job], database: Database
) -> None:
    @jobs.task(name="gathers", retry=NEVER)
    async def gathers(session: AsyncSession) -> None:
        await asyncio.gather(*[session.execute(text("SELECT pg_sleep(0.1)")) for _ in range(3)])

    enqueued(database, gathers)
    drain_async(jobs, database)
    (row,) = database.rows("SELECT * FROM sqla_jobs")
    assert row.state == "failed"
    assert "in gathers" in row.attempts[0]["traceback"]


def test_how_far_it_has_come_is_seen_while_it_runs(jobs: Jobs[Job], database: Database) -> None:
    @jobs.task(name="long")
    async def long(session: AsyncSession) -> None:
        current_job().progress(3, 7)
        seen = None
        while seen is None:
            await asyncio.sleep(0.01)
            with Session(database.engine) as other:
                seen = jobs.progress(other, current_job().id)
        assert (seen.done, seen.total) == (3, 7)

    enqueued(database, long)
    drain_async(jobs, database)
    assert database.rows(STATES) == [("succeeded", 1)]


# -- hooks and limits ---------------------------------------------------------------------------------


def test_hooks_are_called_after_the_commit_and_do_not_hold_up_the_loop(
    jobs: Jobs[Job], database: Database
) -> None:
    through = threading.Event()
    called: list[tuple[str, str]] = []

    @jobs.task(name="first")
    async def first(session: AsyncSession) -> None:
        await leave_effect(session)

    @jobs.task(name="second")
    async def second(_: AsyncSession) -> None:
        through.set()

    def on_finish(_: Worker, finished: Finished) -> None:
        called.append((finished.job.task, threading.current_thread().name))
        if finished.job.task == "first":
            assert database.scalar(EFFECTS) == 1
            assert through.wait(PATIENCE), "the loop stands still"
            raise SystemExit

    enqueued(database, first)
    enqueued(database, second)
    drain_async(jobs, database, on_finish=on_finish)
    assert {task for task, _ in called} == {"first", "second"}
    assert "sqla_jobs-loop" not in {thread for _, thread in called}


def test_a_worker_stops_after_so_many(jobs: Jobs[Job], database: Database) -> None:
    enqueued(database, jobs.task(name="a")(leave_effect), times=10)
    worker = Worker(jobs, database.engine, async_sessionmaker=async_engine(database), max_jobs=4)
    worker.start()
    assert worker.join(PATIENCE)
    assert worker.recycled
    assert database.rows(STATES) == [("queued", 6), ("succeeded", 4)]


def test_of_those_that_a_worker_has_died_of_one_runs_at_a_time(jobs: Jobs[Job], database: Database) -> None:
    inside, most = 0, 0

    @jobs.task(name="suspect")
    async def suspect(session: AsyncSession) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        await session.execute(text("SELECT pg_sleep(0.01)"))
        inside -= 1

    enqueued(database, suspect, times=6)
    database.execute("UPDATE sqla_jobs SET crashes = 1")
    drain_async(jobs, database, threads=3)
    assert database.rows(STATES) == [("succeeded", 6)]
    assert most == 1


def test_threads_that_refuse_each_other_the_last_room_come_to_rest(
    jobs: Jobs[Job], database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One looks while the other is refused: it does not wake the other for nothing, and so on for ever."""

    @jobs.task(name="awaited")
    async def awaited(_: AsyncSession) -> None:
        pass

    claims: list[object] = []
    refused, spins = threading.Event(), threading.Event()
    claim, reserve = Runner.claim, Loop.reserve

    def look(runner: Runner, *arguments: Any) -> Any:
        assert refused.wait(PATIENCE)
        claims.append(1)
        if len(claims) > 20:
            spins.set()
        return claim(runner, *arguments)

    def room(loop: Loop) -> bool:
        there_is = reserve(loop)
        if not there_is:
            refused.set()
        return there_is

    monkeypatch.setattr(Runner, "claim", look)
    monkeypatch.setattr(Loop, "reserve", room)
    options: dict[str, Any] = {
        "async_sessionmaker": async_engine(database),
        "poll_interval": timedelta(minutes=1),
    }
    with Worker(jobs, database.engine, threads=2, concurrency=1, **options):
        assert refused.wait(PATIENCE)
        assert not spins.wait(0.5)
