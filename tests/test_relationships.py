"""Jobs and the application's own rows: foreign keys and relationships both ways, cascades, queries."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import ForeignKey, event, func, inspect, select
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    contains_eager,
    joinedload,
    mapped_column,
    relationship,
    selectinload,
)

from sqla_jobs import Finished, JobMixin, Jobs, RetryPolicy, Worker, current_job, lifecycle
from tests.support.lane import logged
from tests.support.python import python
from tests.support.server import Database
from tests.support.verbs import employ
from tests.support.work import PATIENCE, SOON, drain

YESTERDAY = dt.timedelta(days=1)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    jobs: Mapped[list[OrderJob]] = relationship(
        back_populates="order", passive_deletes=True, foreign_keys="OrderJob.order_id"
    )


class OrderJob(JobMixin, Base):
    """Goes with its order."""

    order_id: Mapped[int | None] = mapped_column(ForeignKey(Order.id, ondelete="CASCADE"), index=True)
    order: Mapped[Order | None] = relationship(back_populates="jobs", foreign_keys=order_id)
    reports: Mapped[list[Report]] = relationship(back_populates="job", passive_deletes=True)


class Report(Base):
    """Stays when its job goes."""

    __tablename__ = "reports"

    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    job_id: Mapped[int | None] = mapped_column(ForeignKey(OrderJob.id, ondelete="SET NULL"), index=True)
    job: Mapped[OrderJob | None] = relationship(back_populates="reports")


class Shop:
    """Orders, the jobs that ship them, and the reports that these write."""

    def __init__(self, database: Database, group_commit: int | None = None) -> None:
        self.database = database
        self.jobs: Jobs[OrderJob] = Jobs(model=OrderJob)
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.ship = self.jobs.task(
            name="ship",
            group_commit=group_commit,
            retry=RetryPolicy(max_attempts=1),
            timeout=dt.timedelta(minutes=5),
        )(self._ship)
        Base.metadata.tables["orders"].create(database.engine)  # to which the job table refers
        self.jobs.create_all(database.engine)
        Base.metadata.create_all(database.engine)

    def _ship(self, session: Session, order: Order) -> None:
        session.add(Report(title=f"shipped {order.name}", job_id=None))
        session.flush()
        self.begun.set()
        assert self.go_on.wait(PATIENCE)

    def order(self, name: str = "a", *, jobs: int = 1) -> int:
        """An order with so many jobs."""
        with self.database.sessionmaker.begin() as session:
            order = Order(name=name)
            session.add(order)
            for _ in range(jobs):
                job = self.ship.job(order)
                job.order = order
                session.add(job)
            session.flush()
            return order.id

    def count(self, table: str) -> int:
        return int(self.database.scalar(f"SELECT count(*) FROM {table}"))


@pytest.fixture
def shop(empty_database: Database) -> Shop:
    return Shop(empty_database)


# -- both sides ------------------------------------------------------------------------------------


def test_a_typed_column_is_filled_like_any_other(shop: Shop) -> None:
    """By the object, by the value, from the other side; with arguments that are pending as the order is."""
    with shop.database.sessionmaker.begin() as session:
        first, second, third = (Order(name=name) for name in "abc")
        session.add_all([first, second, third])
        by_object = shop.ship.job(first)
        by_object.order = first
        session.add(by_object)
        second.jobs.append(shop.ship.job(second))
        session.flush()
        by_value = shop.ship.job(third)
        by_value.order_id = third.id
        session.add(by_value)
        shop.jobs.enqueue_many(session, [filled(shop.ship.job(third), third.id) for _ in range(3)])
        session.flush()
        enqueued = shop.ship.using(queue="slow").enqueue(session, third)
        enqueued.order_id = third.id
    with shop.database.sessionmaker.begin() as session:
        for order in session.scalars(select(Order).options(selectinload(Order.jobs))):
            assert {job.arguments["order"] for job in order.jobs} == {order.id}
            assert {job.order for job in order.jobs} == {order}
    assert shop.count("sqla_jobs WHERE order_id IS NULL") == 0
    assert len(drain(shop.jobs, shop.database)) == 7


def filled(job: OrderJob, order_id: int) -> OrderJob:
    job.order_id = order_id
    return job


def test_a_job_finds_its_own_row_and_what_refers_to_it(shop: Shop) -> None:
    @shop.jobs.task(name="report")
    def report(session: Session) -> None:
        session.add(Report(title="own", job_id=current_job().id))

    with shop.database.sessionmaker.begin() as session:
        job_id = report.enqueue(session).id
    drain(shop.jobs, shop.database)
    with shop.database.sessionmaker.begin() as session:
        job = session.get_one(OrderJob, job_id)
        assert [each.title for each in job.reports] == ["own"]
        assert job.reports[0].job is job


BOTH_SIDES = """
    import os
    from datetime import timedelta
    from sqlalchemy import ForeignKey, create_engine, select
    from sqlalchemy.orm import *
    from sqla_jobs import Job, Jobs, Worker, prune

    class Base(DeclarativeBase): pass

    class Report(Base):
        __tablename__ = "reports"
        id: Mapped[int] = mapped_column(primary_key=True)
        job_id: Mapped[int | None] = mapped_column(ForeignKey(Job.id, ondelete="SET NULL"))
        job: Mapped[Job | None] = relationship(backref=backref("reports", passive_deletes=True))

    engine = create_engine(os.environ["DATABASE_URL"])
    jobs = Jobs()
    ran = []

    @jobs.task(name="write")
    def write(session, title: str): ran.append(title)

    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Report(job=write.enqueue(session, "a")))
        session.add(Report(job=write.job("b")))
        made = write.job("c")
        made.reports.append(Report())
        session.add(made)
        session.commit()
        jobs.enqueue_many(session, [write.job("d")])
        session.commit()
        loaded = session.scalars(select(Job).options(selectinload(Job.reports)).order_by(Job.id)).all()
        assert [len(job.reports) for job in loaded] == [1, 1, 1, 0]
        session.commit()
    Worker(jobs, engine, drain=True).run()
    with Session(engine) as session:
        assert prune(session, older_than=timedelta(0)) == 4
        session.commit()
        assert session.scalars(select(Report.job_id)).all() == [None] * 3
    engine.dispose()
    print("".join(ran))
"""


def test_both_sides_with_the_librarys_own_model(database: Database) -> None:
    """In a process of its own: a relationship of `Job` is there for all of one."""
    assert sorted(python(BOTH_SIDES, database=database).strip()) == ["a", "b", "c", "d"]


# -- deletion --------------------------------------------------------------------------------------


def test_pruned_jobs_leave_what_refers_to_them(shop: Shop) -> None:
    shop.order(jobs=2)
    drain(shop.jobs, shop.database)
    with shop.database.sessionmaker.begin() as session:
        job = session.scalars(select(OrderJob).order_by(OrderJob.id)).first()
        assert job is not None
        job.reports = [Report(title="kept")]
    with shop.database.sessionmaker.begin() as session:
        assert shop.jobs.prune(session, older_than=dt.timedelta(0)) == 2
    with shop.database.sessionmaker.begin() as session:
        kept = session.scalars(select(Report).where(Report.title == "kept")).one()
        assert kept.job is None
        assert session.scalars(select(Order)).one().jobs == []


@pytest.mark.parametrize("way", ["orm", "sql"])
def test_a_deleted_order_takes_its_waiting_jobs_along(shop: Shop, way: str) -> None:
    gone, stays = shop.order(jobs=2), shop.order(jobs=1)
    shop.database.execute(
        "UPDATE sqla_jobs SET state = 'scheduled' WHERE id = (SELECT min(id) FROM sqla_jobs)"
    )
    with shop.database.sessionmaker.begin() as session:
        if way == "orm":
            session.delete(session.get_one(Order, gone))
        else:
            session.connection().exec_driver_sql("DELETE FROM orders WHERE id = %(id)s", {"id": gone})
    assert [row.order_id for row in shop.database.rows("SELECT order_id FROM sqla_jobs")] == [stays]
    assert len(drain(shop.jobs, shop.database)) == 1


def test_of_a_running_job_nothing_is_committed_when_its_order_is_deleted(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    """Its row is gone, and so is its claim: it ends as one that was taken over."""
    order = shop.order()
    shop.go_on.clear()
    finished: list[Finished] = []
    with Worker(
        shop.jobs, shop.database.engine, poll_interval=SOON, on_finish=lambda _, done: finished.append(done)
    ):
        assert shop.begun.wait(PATIENCE)
        assert shop.database.execute("DELETE FROM orders WHERE id = :id", id=order) == 1
        assert shop.count("sqla_jobs") == 0
        shop.go_on.set()
        another = shop.order("b")
        while shop.count("sqla_jobs WHERE state <> 'succeeded'"):
            pass
    assert [done.job.arguments["order"] for done in finished] == [another]
    assert [row.title for row in shop.database.rows("SELECT title FROM reports")] == ["shipped b"]
    assert [told for told in logged(caplog) if "lost: its claim was taken over" in told]


def test_in_the_fast_lane_the_order_is_deleted_after_its_job(empty_database: Database) -> None:
    """There the job's row is locked until its outcome is committed."""
    shop = Shop(empty_database, group_commit=10)
    order = shop.order()
    shop.go_on.clear()
    with Worker(shop.jobs, shop.database.engine, poll_interval=SOON):
        assert shop.begun.wait(PATIENCE)
        with shop.database.engine.connect() as connection:
            connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
            with pytest.raises(OperationalError, match="lock timeout"):
                connection.exec_driver_sql("DELETE FROM orders")
        shop.go_on.set()
    assert shop.database.execute("DELETE FROM orders WHERE id = :id", id=order) == 1
    assert (shop.count("sqla_jobs"), shop.count("reports")) == (0, 1)


def test_a_job_that_deletes_its_own_order_fails(shop: Shop) -> None:
    """And with it the deletion: there would be no row for its outcome."""

    @shop.jobs.task(name="purge", retry=RetryPolicy(max_attempts=1))
    def purge(session: Session, order_id: int) -> None:
        session.delete(session.get_one(Order, order_id))

    with shop.database.sessionmaker.begin() as session:
        order = Order(name="a")
        session.add(order)
        session.flush()
        session.add(filled(purge.job(order.id), order.id))
        session.flush()
        free = purge.enqueue(session, order.id)
        free.run_at = func.now() + dt.timedelta(hours=1)
        free.state = "scheduled"
    (done,) = drain(shop.jobs, shop.database)
    assert done.failed
    assert "row" in str(done.error)
    assert shop.count("orders") == 1
    shop.database.execute("UPDATE sqla_jobs SET run_at = created_at WHERE order_id IS NULL")
    (done,) = drain(shop.jobs, shop.database)
    assert done.state == "succeeded", "a job that is not the order's may"
    assert (shop.count("orders"), shop.count("sqla_jobs")) == (0, 1)


def test_a_claim_locks_neither_the_order_nor_out_its_references(shop: Shop) -> None:
    """FOR NO KEY UPDATE: an order is shipped, changed, and referred to, while its jobs are claimed."""
    order = shop.order()
    with shop.database.sessionmaker.begin() as claiming:
        employ(claiming, 7)
        (job,) = lifecycle.claim(claiming, OrderJob, 7)
        with shop.database.sessionmaker.begin() as session:
            session.connection().exec_driver_sql("SET LOCAL lock_timeout = '2s'")
            session.add(Report(title="while it is claimed", job_id=job.id))
            session.get_one(Order, order).name = "changed"
            session.add(filled(shop.ship.job(session.get_one(Order, order)), order))
    assert shop.count("reports") == 1


# -- queries ---------------------------------------------------------------------------------------


@pytest.fixture
def filled_shop(shop: Shop) -> Shop:
    for name in "abc":
        shop.order(name, jobs=2)
    drain(shop.jobs, shop.database, max_jobs=4, threads=1)
    return shop


def statements_of(session: Session, run: Callable[[], Any]) -> int:
    """How many statements it sends."""
    sent: list[str] = []

    def keep(*arguments: Any) -> None:
        sent.append(arguments[2])

    bind = session.get_bind()
    event.listen(bind, "before_cursor_execute", keep)
    try:
        run()
    finally:
        event.remove(bind, "before_cursor_execute", keep)
    return len(sent)


def test_jobs_of_a_task_and_an_argument(filled_shop: Shop) -> None:
    ship, order = filled_shop.ship, 2
    with filled_shop.database.sessionmaker.begin() as session:
        wanted = select(OrderJob).where(
            OrderJob.task == ship.name, OrderJob.arguments["order"].as_integer() == order
        )
        assert [job.order_id for job in session.scalars(wanted)] == [order, order]
        assert session.scalars(wanted.where(OrderJob.task == "other")).all() == []


def test_joins_and_eager_loading(filled_shop: Shop) -> None:
    with filled_shop.database.sessionmaker.begin() as session:
        waiting = (
            select(Order.name, func.count())
            .join(Order.jobs)
            .where(~OrderJob.is_finished)
            .group_by(Order.name)
        )
        assert [tuple(row) for row in session.execute(waiting)] == [("c", 2)]

        def look() -> None:
            for options in (joinedload(OrderJob.order), selectinload(OrderJob.order)):
                session.expunge_all()
                found = session.scalars(select(OrderJob).options(options, selectinload(OrderJob.reports)))
                jobs = found.all()
                assert len(jobs) == 6
                for job in jobs:
                    assert "order" not in inspect(job).unloaded
                    assert "reports" not in inspect(job).unloaded

        assert statements_of(session, look) == 5
        session.expunge_all()
        eager = select(Order).join(Order.jobs).where(OrderJob.is_finished).options(contains_eager(Order.jobs))
        assert {order.name for order in session.scalars(eager).unique()} == {"a", "b"}


def test_the_measures_in_where_and_order_by(filled_shop: Shop) -> None:
    with filled_shop.database.sessionmaker.begin() as session:
        slowest = (
            select(OrderJob)
            .where(OrderJob.is_finished, OrderJob.wait >= dt.timedelta(0), OrderJob.duration < YESTERDAY)
            .order_by(OrderJob.duration.desc(), OrderJob.id)
        )
        found = session.scalars(slowest).all()
        assert len(found) == 4
        spans = [job.duration for job in found]
        assert spans == sorted(spans, reverse=True)  # type: ignore[type-var]
        per_order = (
            select(OrderJob.order_id, func.avg(OrderJob.duration))
            .join(OrderJob.order)
            .where(Order.name == "a")
            .group_by(OrderJob.order_id)
        )
        ((_, mean),) = session.execute(per_order).all()
        assert isinstance(mean, dt.timedelta)
