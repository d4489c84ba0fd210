"""Claim filters: a worker with `where` claims the jobs that satisfy it and no others, in every way."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import and_, bindparam, exists, func, literal_column, or_, select, text, true
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session, aliased

from sqla_jobs import Job, Jobs, Limit, Worker, lifecycle
from sqla_jobs.errors import ConfigurationError, InvalidOption
from sqla_jobs.statements import filter_of
from tests.support.lane import logged
from tests.support.loops import drain_async
from tests.support.server import Database
from tests.support.tenants import Other, Plan, TenantJob, Tenants
from tests.support.verbs import employ
from tests.support.work import PATIENCE, SOON, drain

MINE = TenantJob.tenant_id == 7
LONG_AGO = dt.datetime(2001, 1, 1, tzinfo=dt.timezone.utc)
LANES: Any = pytest.mark.parametrize("group_commit", [None, 10], ids=["ordinary", "fast"])
QUEUES: Any = pytest.mark.parametrize("queues", [None, ["a", "b"]], ids=["any", "given"])


# -- every way to a claim --------------------------------------------------------------------------


@LANES
@QUEUES
@pytest.mark.parametrize("effect", [False, True], ids=["touches nothing", "uses its Session"])
@pytest.mark.parametrize("threads", [1, 3])
def test_only_jobs_that_satisfy_it_are_claimed(
    empty_database: Database, group_commit: int | None, queues: list[str] | None, effect: bool, threads: int
) -> None:
    """Alone and several at once, by the commit of the one before, behind a mark, and joined to a group."""
    app = Tenants(empty_database, group_commit=group_commit, effect=effect)
    app.enqueue("a8x a7a b8x b7b a8y a7c b7d a7e a8z b7f")
    finished = drain(app.jobs, empty_database, where=MINE, queues=queues, threads=threads)
    assert len(finished) == 6
    assert sorted(app.ran) == ["a7a", "a7c", "a7e", "b7b", "b7d", "b7f"]
    if threads == 1:
        assert app.ran == (sorted(app.ran) if queues else ["a7a", "b7b", "a7c", "b7d", "a7e", "b7f"])
    assert app.queued() == ["a8x", "b8x", "a8y", "a8z"]


@LANES
@QUEUES
def test_a_busy_worker_keeps_to_it(
    empty_database: Database, group_commit: int | None, queues: list[str] | None
) -> None:
    """One that does not drain, and so goes on behind the job that it claimed last."""
    app = Tenants(empty_database, group_commit=group_commit)
    app.enqueue(f"a{7 + number % 2}{number:03}" for number in range(60))
    with Worker(app.jobs, empty_database.engine, where=MINE, queues=queues, threads=2, poll_interval=SOON):
        for _ in range(30):
            assert app.each.acquire(timeout=PATIENCE)
        app.enqueue("a8x a7x")
        assert app.each.acquire(timeout=PATIENCE)
    assert {note[1] for note in app.ran} == {"7"}
    assert len(app.ran) == 31
    assert len(app.queued()) == 31


@QUEUES
@pytest.mark.parametrize("threads", [1, 3])
def test_so_are_jobs_of_a_limit(empty_database: Database, queues: list[str] | None, threads: int) -> None:
    """They are counted before they are begun, by statements of their own."""
    app = Tenants(empty_database, limit=Limit(2))
    app.enqueue("a8x a7a b8x b7b a8y a7c")
    drain(app.jobs, empty_database, where=MINE, queues=queues, threads=threads)
    assert sorted(app.ran) == ["a7a", "a7c", "b7b"]
    assert app.queued() == ["a8x", "b8x", "a8y"]


@QUEUES
def test_so_are_coroutines(empty_database: Database, queues: list[str] | None) -> None:
    app = Tenants(empty_database)

    @app.jobs.task(name="awaited")
    async def awaited(session: AsyncSession, note: str) -> None:
        app.ran.append(note)

    with empty_database.sessionmaker.begin() as session:
        for note in ("a8x", "a7a", "b8x", "b7b", "a7c"):
            job = awaited.using(queue=note[0]).job(note)
            job.tenant_id = int(note[1])
            session.add(job)
    app.enqueue("a7d a8y")
    drain_async(app.jobs, empty_database, where=MINE, queues=queues)
    assert sorted(app.ran) == ["a7a", "a7c", "a7d", "b7b"]
    assert app.queued() == ["a8x", "b8x", "a8y"]


@LANES
def test_jobs_that_a_worker_has_died_of_are_no_exception(
    empty_database: Database, group_commit: int | None
) -> None:
    """They are looked for by statements of their own."""
    app = Tenants(empty_database, group_commit=group_commit)
    app.enqueue("a8x a7x", crashes=1)
    app.enqueue("a7a a7b a7c a8y")
    drain(app.jobs, empty_database, where=MINE, threads=3)
    assert sorted(app.ran) == ["a7a", "a7b", "a7c", "a7x"]


@LANES
@QUEUES
def test_a_drain_ends_where_only_others_are_left(
    empty_database: Database, group_commit: int | None, queues: list[str] | None
) -> None:
    """Queued or due; and it has run its own that are due."""
    app = Tenants(empty_database, group_commit=group_commit)
    app.enqueue("a8x a7x b8y", state="scheduled", run_at=LONG_AGO)
    app.enqueue("a8z")
    drain(app.jobs, empty_database, where=MINE, queues=queues)
    assert app.ran == ["a7x"]


@LANES
@QUEUES
def test_beside_a_paused_queue(
    empty_database: Database, group_commit: int | None, queues: list[str] | None
) -> None:
    app = Tenants(empty_database, group_commit=group_commit)
    app.enqueue("a7x b8x b7a a8x b7b c8x")
    with empty_database.sessionmaker.begin() as session:
        app.jobs.pause(session, "a")
        assert lifecycle.open_queues(session, TenantJob, None, ["a"], filter_of(TenantJob, MINE)) == ["b"]
    drain(app.jobs, empty_database, where=MINE, queues=queues)
    assert app.ran == ["b7a", "b7b"]
    with empty_database.sessionmaker.begin() as session:
        app.jobs.resume(session, "a")
    drain(app.jobs, empty_database, where=MINE, queues=queues)
    assert app.ran == ["b7a", "b7b", "a7x"]


def test_a_row_that_is_changed_while_a_group_looks_is_compared_again(empty_database: Database) -> None:
    """It satisfied the filter in the statement's snapshot, and does not when it is locked."""
    app = Tenants(empty_database)
    first, second = app.enqueue("a7a a7b")
    empty_database.execute(
        "CREATE FUNCTION waits(integer) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN "
        "PERFORM pg_advisory_xact_lock_shared(4711); RETURN $1; END $$"
    )
    only = filter_of(TenantJob, func.waits(TenantJob.tenant_id) == 7)
    joined: list[int] = []

    def join() -> None:
        with empty_database.sessionmaker.begin() as session:
            employ(session, 7)
            before = lifecycle.Claimed(0, "t", {}, "a", 0, 0, None, 0, 7, 0, LONG_AGO, LONG_AGO, None)
            found = lifecycle.join(session.connection(), TenantJob, before, None, ["t"], 9, only=only)
            joined.extend(job.id for job in found)

    with empty_database.engine.connect() as gate:
        gate.execute(text("SELECT pg_advisory_lock(4711)"))
        gate.commit()
        thread = threading.Thread(target=join)
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        while not empty_database.scalar(waiting):
            assert thread.is_alive()
        empty_database.execute("UPDATE sqla_jobs SET tenant_id = 8 WHERE id = :id", id=second)
        gate.execute(text("SELECT pg_advisory_unlock(4711)"))
        thread.join(PATIENCE)
    assert joined == [first]


# -- the library's own queue, and what is for all --------------------------------------------------


@LANES
@QUEUES
def test_the_librarys_own_queue_is_served_when_there_is_nothing_else(
    empty_database: Database, group_commit: int | None, queues: list[str] | None
) -> None:
    app = Tenants(empty_database, group_commit=group_commit)
    app.enqueue("a8x a7x")
    with empty_database.sessionmaker.begin() as session:
        for note in ("o1", "o2"):
            app.task.using(queue="sqla_jobs").enqueue(session, note)
    with Worker(app.jobs, empty_database.engine, where=MINE, queues=queues, poll_interval=SOON):
        for _ in range(3):
            assert app.each.acquire(timeout=PATIENCE)
    assert app.ran == ["a7x", "o1", "o2"]
    assert app.queued() == ["a8x"]


@QUEUES
@pytest.mark.parametrize("closed", ["b", "sqla_jobs"])
def test_so_it_is_while_a_queue_is_paused_unless_that_is_it(
    empty_database: Database, queues: list[str] | None, closed: str
) -> None:
    app = Tenants(empty_database)
    app.enqueue("a8x b8x")
    with empty_database.sessionmaker.begin() as session:
        app.task.using(queue="sqla_jobs").enqueue(session, "own")
        app.jobs.pause(session, closed)
    with Worker(app.jobs, empty_database.engine, where=MINE, queues=queues, poll_interval=SOON):
        if closed == "b":
            assert app.each.acquire(timeout=PATIENCE)
        else:
            app.enqueue("a7x")
            assert app.each.acquire(timeout=PATIENCE)
            assert not app.each.acquire(timeout=0.2)
    assert app.ran == (["own"] if closed == "b" else ["a7x"])


def test_a_group_of_the_own_queue_takes_nothing_from_others(empty_database: Database) -> None:
    app = Tenants(empty_database, group_commit=10)
    with empty_database.sessionmaker.begin() as session:
        for note in ("o1", "o2", "o3", "o4"):
            app.task.using(queue="sqla_jobs").enqueue(session, note)
    app.enqueue("a8x a8y a8z")
    with Worker(app.jobs, empty_database.engine, where=MINE, poll_interval=SOON):
        for _ in range(4):
            assert app.each.acquire(timeout=PATIENCE)
    assert len(app.queued()) == 3


def test_a_drain_leaves_the_own_queue_to_others(empty_database: Database) -> None:
    app = Tenants(empty_database)
    with empty_database.sessionmaker.begin() as session:
        app.task.using(queue="sqla_jobs").enqueue(session, "own")
    assert drain(app.jobs, empty_database, where=MINE) == []


def test_promotion_and_rescue_are_for_all(empty_database: Database) -> None:
    """A fleet of which every worker has a filter keeps the jobs of all of it alive."""
    app = Tenants(empty_database)
    (due,) = app.enqueue("a8x", state="scheduled", run_at=LONG_AGO)
    (lost,) = app.enqueue("a9x", state="running", attempt=1, claim=1)
    state = "SELECT state FROM sqla_jobs WHERE id = :id"
    with Worker(app.jobs, empty_database.engine, where=MINE, poll_interval=SOON):
        app.enqueue("a7x")
        assert app.each.acquire(timeout=PATIENCE)
        while (
            empty_database.scalar(state, id=due) != "queued"
            or empty_database.scalar(state, id=lost) == "running"
        ):
            pass
    assert app.ran == ["a7x"]


# -- what a filter may be --------------------------------------------------------------------------

NOTES: dict[str, Callable[[], Any]] = {
    "a number": lambda: TenantJob.tenant_id == 7,
    "one of several": lambda: TenantJob.tenant_id.in_([6, 7]),
    "a pattern": lambda: TenantJob.note.like("50%_of\\_%"),
    "a quote": lambda: TenantJob.note.contains("it's"),
    "colons": lambda: TenantJob.note.contains(":now %(now)s"),
    "a column of truth values": lambda: TenantJob.is_vip,
    "not": lambda: ~TenantJob.is_vip,
    "no value": lambda: TenantJob.tenant_id.is_(None),
    "an enum": lambda: TenantJob.plan == Plan.PAID,
    "a path": lambda: TenantJob.arguments["tenant"].as_integer() == 7,
    "a longer path": lambda: TenantJob.arguments[("who", "id")].as_string() == "50%",
    "a document": lambda: TenantJob.arguments.contains({"it's": "50%"}),
    "a moment": lambda: TenantJob.run_at < dt.datetime(2002, 1, 1, tzinfo=dt.timezone.utc),
    "a remainder": lambda: TenantJob.tenant_id % 4 == 3,
    "a bound value": lambda: TenantJob.tenant_id == bindparam("t", 7),
    "or": lambda: or_(TenantJob.tenant_id == 7, and_(TenantJob.is_vip, TenantJob.note == "x")),
    "of the library's columns": lambda: TenantJob.priority > 5,
    "a hybrid": lambda: TenantJob.is_finished,
    "a raw piece": lambda: and_(
        TenantJob.tenant_id > 6, literal_column("tenant_id < 8", TenantJob.is_vip.type)
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_its_values_are_constants_of_the_statement(empty_database: Database, name: str) -> None:
    """And mean in a claim, and in the index, what they mean in a query of the application's."""
    app, where = Tenants(empty_database), NOTES[name]()
    values: list[dict[str, Any]] = [
        {"tenant_id": 7},
        {"tenant_id": None},
        {"note": "50% of_all"},
        {"note": "it's"},
        {"note": ":now %(now)s"},
        {"is_vip": True, "note": "x"},
        {"plan": Plan.PAID},
        {"arguments": {"tenant": 7}},
        {"arguments": {"who": {"id": "50%"}}},
        {"arguments": {"it's": "50%"}},
        {"run_at": LONG_AGO},
        {"priority": 6},
    ]
    for each in values:
        app.enqueue(["a1"], **each)
    only = filter_of(TenantJob, where)
    with empty_database.sessionmaker.begin() as session:
        employ(session, 7)
        expected = set(session.scalars(select(TenantJob.id).where(where)))
        assert 0 < len(expected) < len(values) or name in ("a hybrid", "not")
        verbs: list[Callable[[Any], list[Any]]] = [
            lambda s: lifecycle.claim(s, TenantJob, 7, limit=16, only=only),
            lambda s: lifecycle.claim(s.connection(), TenantJob, 7, ["a"], limit=16, only=only),
        ]
        for verb in verbs:
            savepoint = session.begin_nested()
            assert {job.id for job in verb(session)} == expected
            savepoint.rollback()
    execute(
        empty_database,
        f"CREATE INDEX ON sqla_jobs (id) WHERE {only.predicate(empty_database.engine.dialect)}",
    )


ABOUT = "expected a condition on the columns of TenantJob"
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a truth value": (lambda: True, f"where is True; {ABOUT}"),
    "a text": (lambda: "tenant_id = 7", f"where is 'tenant_id = 7'; {ABOUT}"),
    "raw SQL": (lambda: text("tenant_id = 7"), ABOUT),
    "a class": (lambda: TenantJob, ABOUT),
    "a query": (lambda: select(TenantJob.id), ABOUT),
    "a number": (lambda: TenantJob.tenant_id, "which is Integer"),
    "nothing of a job": (lambda: true(), "says nothing of a job"),
    "another table": (lambda: Other.tenant_id == 7, "with a column of others, not of sqla_jobs"),
    "another model": (
        lambda: Job.priority == 7,
        "with a column of sqla_jobs, not of sqla_jobs, which is the",
    ),
    "two tables": (lambda: TenantJob.tenant_id == Other.tenant_id, "with a column of others"),
    "an alias": (lambda: aliased(TenantJob).tenant_id == 7, "with a column of Alias"),
    "an aggregate": (lambda: func.count(TenantJob.id) > 1, "an aggregate"),
    "a window": (lambda: func.row_number().over(order_by=TenantJob.id) > 1, "an aggregate"),
    "a subquery": (lambda: exists().where(Other.id == TenantJob.tenant_id), "with a subquery"),
    "one in a list": (lambda: TenantJob.tenant_id.in_(select(Other.id)), "with a subquery"),
    "no value": (lambda: TenantJob.tenant_id == bindparam("t"), "parameter 't' has no value"),
    "bytes": (lambda: TenantJob.blob == b"\xff", "cannot be written as a constant"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_condition_on_a_job_is_refused_where_it_is_given(name: str) -> None:
    where, told = WRONG[name]
    with pytest.raises(InvalidOption) as raised:
        Worker(Jobs(model=TenantJob), Session, where=where())
    assert told in str(raised.value)
    assert ABOUT in str(raised.value) or name == "bytes"


def test_the_own_queue_cannot_be_filtered(empty_database: Database) -> None:
    with pytest.raises(InvalidOption, match="leave it out of queues"):
        Worker(Jobs(model=TenantJob), Session, where=MINE, queues=["a", "sqla_jobs"])


@pytest.mark.parametrize(
    "where", [func.no_such(TenantJob.id) == 7, TenantJob.tenant_id == literal_column("'x'")]
)
def test_what_postgresql_refuses_is_told_at_the_start(empty_database: Database, where: Any) -> None:
    app = Tenants(empty_database)
    worker = Worker(app.jobs, empty_database.engine, where=where)
    with pytest.raises(ConfigurationError, match=r"the worker's where .*(no_such|invalid input)"):
        worker.start()
    assert worker.state == "stopped"


# -- the index that it wants -----------------------------------------------------------------------


def hints(caplog: pytest.LogCaptureFixture, app: Tenants, **options: Any) -> list[str]:
    """The definitions that a worker logs at its start."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sqla_jobs"):
        drain(app.jobs, app.database, **{"where": MINE, **options})
    found = [line.strip() for told in logged(caplog) for line in told.splitlines()[1:]]
    assert len(logged(caplog)) == bool(found)
    return found


def execute(database: Database, ddl: str) -> None:
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql(ddl.replace("%", "%%"))


@pytest.mark.parametrize("rows", [0, 3, 300])
@pytest.mark.parametrize("queues", [None, ["a"]])
def test_it_asks_for_what_is_missing_until_it_is_there(
    empty_database: Database, caplog: pytest.LogCaptureFixture, queues: list[str] | None, rows: int
) -> None:
    app = Tenants(empty_database)
    app.enqueue(["a8"] * rows)
    if rows:
        empty_database.execute("ANALYZE")
    where = " ON sqla_jobs ({}) WHERE state = 'queued' AND (tenant_id = 7);"
    by_queue = where.format("queue, priority DESC, run_at, id")
    wanted = [by_queue] if queues else [where.format("priority DESC, run_at, id"), by_queue]
    told = hints(caplog, app, queues=queues)
    assert [line.partition(" ON ")[1] + line.partition(" ON ")[2] for line in told] == wanted
    assert all(line.startswith("CREATE INDEX CONCURRENTLY ix_sqla_jobs_tenant_id_7_") for line in told)
    for number, ddl in enumerate(told, 1):
        execute(empty_database, ddl)
        assert hints(caplog, app, queues=queues) == told[number:]


def test_one_index_may_serve_all_tenants(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """PostgreSQL is asked, not names: an index that begins with the tenant has the claim's order, too."""
    app = Tenants(empty_database)
    for columns in ("tenant_id, priority DESC, run_at, id", "tenant_id, queue, priority DESC, run_at, id"):
        execute(empty_database, f"CREATE INDEX ON sqla_jobs ({columns}) WHERE state = 'queued'")
    assert hints(caplog, app) == []
    assert hints(caplog, app, queues=["a"]) == []
    assert len(hints(caplog, app, where=TenantJob.tenant_id > 7)) == 2, "for a range it has not"


def test_an_index_of_another_filter_does_not_count(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    app = Tenants(empty_database)
    for ddl in hints(caplog, app, where=TenantJob.tenant_id == 8):
        execute(empty_database, ddl)
    assert len(hints(caplog, app)) == 2


def test_without_a_filter_there_is_nothing_to_ask_for(
    empty_database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    assert hints(caplog, Tenants(empty_database), where=None) == []


def test_names_that_need_quotes_have_them(empty_database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """The schema's; and percent signs are what they were."""
    from sqla_jobs import JobMixin
    from tests.support.tenants import Base

    class ShopJob(JobMixin, Base):
        __table_args__ = {"schema": "My 50% shop"}

    jobs = Jobs(model=ShopJob)
    jobs.create_all(empty_database.engine)
    where = ShopJob.arguments["who"].as_string().like("50%'s")
    with caplog.at_level(logging.WARNING, "sqla_jobs"):
        drain(jobs, empty_database, where=where)
        (told,) = logged(caplog)
        for ddl in told.splitlines()[1:]:
            assert """ ON "My 50% shop".sqla_jobs (""" in ddl
            assert "LIKE '50%''s')" in ddl
            execute(empty_database, ddl)
        caplog.clear()
        drain(jobs, empty_database, where=where)
        assert logged(caplog) == []
