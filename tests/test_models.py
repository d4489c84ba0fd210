"""The default models, and job models of an application's own in all the ways of declaring one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    CheckConstraint,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    select,
    text,
)
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    MappedAsDataclass,
    Session,
    declarative_base,
    declared_attr,
    mapped_column,
    registry,
    relationship,
)

from sqla_jobs import Job, JobMixin, metadata, models
from sqla_jobs.errors import InvalidOption
from tests.support.server import Database
from tests.support.storage import VACUUM, storage

CONVENTION = {
    "ix": "the_ix_%(column_0_label)s",
    "uq": "the_uq_%(table_name)s_%(column_0_name)s",
    "ck": "the_ck_%(table_name)s_%(constraint_name)s",
    "pk": "the_pk_%(table_name)s",
}


def table_of(model: Any) -> Table:
    table = model.__table__
    assert isinstance(table, Table)
    return table


def names(table: Table) -> set[str]:
    return {str(item.name) for item in (*table.constraints, *table.indexes)}


COLUMNS = [column.name for column in table_of(Job).columns]
NAMES = names(table_of(Job))


# Each returns a model with the column `customer`, and what it adds to the names of the library's.


def plain() -> tuple[Any, set[str]]:
    class Base(DeclarativeBase):
        pass

    class Job(JobMixin, Base):
        customer: Mapped[str | None]

    return Job, set()


def classic() -> tuple[Any, set[str]]:
    class Job(JobMixin, declarative_base()):  # type: ignore[misc]
        customer: Mapped[str | None] = mapped_column(Text)

    return Job, set()


def decorated() -> tuple[Any, set[str]]:
    @registry().mapped
    class Job(JobMixin):
        customer: Mapped[str | None]

    return Job, set()


def of_a_dataclass_base() -> tuple[Any, set[str]]:
    class Base(MappedAsDataclass, DeclarativeBase):
        pass

    class Plain(DeclarativeBase):
        registry = Base.registry
        metadata = Base.metadata

    class Job(JobMixin, Plain):
        customer: Mapped[str | None]

    class Report(Base):
        __tablename__ = "reports"

        id: Mapped[int] = mapped_column(primary_key=True, init=False)
        job_id: Mapped[int] = mapped_column(ForeignKey("sqla_jobs.id"), init=False)
        job: Mapped[Job] = relationship("Job")

    assert inspect(Report).relationships["job"].mapper.class_ is Job
    assert Job.metadata is Base.metadata
    return Job, set()


def with_a_tuple() -> tuple[Any, set[str]]:
    class Base(DeclarativeBase):
        metadata = MetaData(naming_convention=CONVENTION)

    class Job(JobMixin, Base):
        __table_args__ = (
            CheckConstraint("customer <> ''", name="customer"),
            UniqueConstraint("customer", "task"),
            Index("by_customer", "customer"),
        )
        customer: Mapped[str | None] = mapped_column(index=True)

    return Job, {
        "the_ck_sqla_jobs_customer",
        "the_uq_sqla_jobs_customer",
        "by_customer",
        "the_ix_sqla_jobs_customer",
    }


def with_a_dict() -> tuple[Any, set[str]]:
    class Base(DeclarativeBase):
        pass

    class Job(JobMixin, Base):
        __table_args__ = {"comment": "ours", "info": {"ours": True}}
        customer: Mapped[str | None]

    assert table_of(Job).comment == "ours"
    assert table_of(Job).info == {"ours": True, models.INFO: "job"}
    return Job, set()


def with_a_declared_attr() -> tuple[Any, set[str]]:
    class Base(DeclarativeBase):
        pass

    class Job(JobMixin, Base):
        @declared_attr.directive
        def __table_args__(cls) -> tuple[Any, ...]:  # noqa: N805
            return (Index("by_customer", "customer"), {"comment": "ours"})

        customer: Mapped[str | None]

    assert table_of(Job).comment == "ours"
    return Job, {"by_customer"}


def of_an_abstract_model() -> tuple[Any, set[str]]:
    class Base(DeclarativeBase):
        pass

    class Customers(JobMixin, Base):
        __abstract__ = True
        __table_args__ = (CheckConstraint("customer <> ''", name="customer"),)
        customer: Mapped[str | None]

    class Job(Customers):
        pass

    return Job, {"customer"}


def of_a_mixin_of_its_own() -> tuple[Any, set[str]]:
    class Base(DeclarativeBase):
        pass

    class Customers(JobMixin):
        customer: Mapped[str | None]

    class Job(Customers, Base):
        __table_args__ = (Index("by_customer", "customer"),)

    class Other(Customers, declarative_base()):  # type: ignore[misc]
        pass

    assert names(table_of(Other)) == NAMES
    return Job, {"by_customer"}


WAYS = [
    plain,
    classic,
    decorated,
    of_a_dataclass_base,
    with_a_tuple,
    with_a_dict,
    with_a_declared_attr,
    of_an_abstract_model,
    of_a_mixin_of_its_own,
]


@pytest.mark.parametrize("way", WAYS)
def test_a_job_model_on_the_applications_base(
    way: Callable[[], tuple[Any, set[str]]], empty_database: Database
) -> None:
    model, added = way()
    table = table_of(model)
    assert table.name == "sqla_jobs"
    # The library's columns first and in their order, so that a dump is that of the revisions.
    assert [column.name for column in table.columns] == [*COLUMNS, "customer"]
    assert names(table) == NAMES | added
    assert table.info[models.INFO] == "job"

    table.metadata.create_all(empty_database.engine)
    assert storage(empty_database) == {"sqla_jobs": VACUUM}
    with Session(empty_database.engine, expire_on_commit=False) as session:
        job = model(task="shop.jobs.invoice", arguments={"order": 7}, customer="ann")
        session.add(job)
        session.commit()
        session.expunge_all()
        again = session.scalars(select(model).where(model.customer == "ann")).one()
        assert (again.id, again.arguments, again.state) == (job.id, {"order": 7}, "scheduled")


def test_schemas_are_apart(empty_database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class North(JobMixin, Base):
        __table_args__ = (Index("by_queue", "queue"), {"schema": "north"})

    class South(JobMixin, Base):
        __table_args__ = {"schema": "south"}

    class Report(Base):
        __tablename__ = "reports"

        id: Mapped[int] = mapped_column(primary_key=True)
        job_id: Mapped[int] = mapped_column(ForeignKey("north.sqla_jobs.id"))

    for schema in ("north", "south"):
        empty_database.execute(f"CREATE SCHEMA {schema}")
        assert models.companions(schema) is models.companions(schema)
        models.companions(schema).metadata.create_all(empty_database.engine)
    Base.metadata.create_all(empty_database.engine)
    with Session(empty_database.engine) as session:
        job = North(task="shop.jobs.invoice")
        session.add(job)
        session.flush()
        session.add(Report(job_id=job.id))
        session.add(models.companions("north").Queue(name="mail"))  # type: ignore[call-arg]
        session.commit()
        assert session.scalars(select(South)).all() == []
    assert empty_database.scalar("SELECT count(*) FROM north.sqla_jobs_queues") == 1
    assert empty_database.scalar("SELECT count(*) FROM south.sqla_jobs_queues") == 0


def test_a_subclass_on_the_same_table_and_one_on_its_own(empty_database: Database) -> None:
    class Base(DeclarativeBase):
        pass

    class Job(JobMixin, Base):
        kind: Mapped[str] = mapped_column(Text, server_default="job")
        __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "job"}

    class Invoice(Job):
        order: Mapped[int | None]
        __mapper_args__ = {"polymorphic_identity": "invoice"}

    class Parcel(Job):
        __tablename__ = "parcels"

        id: Mapped[int] = mapped_column(ForeignKey("sqla_jobs.id"), primary_key=True)
        weight: Mapped[int]
        __mapper_args__ = {"polymorphic_identity": "parcel"}

    assert table_of(Invoice) is table_of(Job)
    assert names(table_of(Job)) == NAMES
    Base.metadata.create_all(empty_database.engine)
    assert storage(empty_database) == {"sqla_jobs": VACUUM}
    with Session(empty_database.engine) as session:
        session.add_all([Job(task="a"), Invoice(task="b", order=7), Parcel(task="c", weight=3)])
        session.commit()
        found = session.scalars(select(Job).order_by(Job.task)).all()
        assert [type(job) for job in found] == [Job, Invoice, Parcel]


def test_a_row_from_raw_sql_is_a_complete_job(session: Session) -> None:
    session.execute(text("INSERT INTO sqla_jobs (task) VALUES ('shop.jobs.invoice')"))
    job = session.scalars(select(Job).where(Job.task == "shop.jobs.invoice")).one()
    assert job.run_at == job.created_at
    values = {column: getattr(job, column) for column in COLUMNS}
    assert {column for column, value in values.items() if value is not None} == {
        *("id", "task", "arguments", "queue", "priority", "state", "run_at", "attempt", "claim"),
        *("crashes", "created_at", "attempts", "unique_held"),
    }
    assert (job.arguments, job.queue, job.state, job.attempt, job.claim) == ({}, "default", "scheduled", 0, 0)


REFUSED = {
    "ck_sqla_jobs_state": "state = 'done'",
    "ck_sqla_jobs_finished_at": "state = 'succeeded'",
    "ck_sqla_jobs_arguments": "arguments = '[1, 2]'",
    "ck_sqla_jobs_attempts": "attempts = '{}'",
    "ck_sqla_jobs_queue": "queue = 'two words'",
    "ck_sqla_jobs_run_at": "run_at = 'infinity'",
    "ck_sqla_jobs_attempt": "attempt = -1",
    "ck_sqla_jobs_max_attempts": "max_attempts = 0",
    "ck_sqla_jobs_unique_scope": "unique_scope = 'ever'",
    "uq_sqla_jobs_unique_key": "unique_key = 'one', unique_held = true",
    "uq_sqla_jobs_tick": "schedule_id = 1, tick_at = '2030-01-01'",
}


@pytest.mark.parametrize(("constraint", "change"), REFUSED.items(), ids=REFUSED.keys())
def test_the_database_refuses_a_row_that_cannot_be(session: Session, constraint: str, change: str) -> None:
    session.execute(
        text(
            "INSERT INTO sqla_jobs (task, unique_key, unique_held, schedule_id, tick_at)"
            " VALUES ('a', 'one', true, 1, '2030-01-01'), ('b', 'one', false, NULL, NULL)"
        )
    )
    with pytest.raises(IntegrityError) as refused:
        session.execute(text(f"UPDATE sqla_jobs SET {change} WHERE task = 'b'"))
    assert refused.value.orig.diag.constraint_name == constraint  # type: ignore[union-attr]


def test_the_default_models_are_on_the_librarys_own_metadata() -> None:
    assert sorted(metadata.tables) == [
        "sqla_jobs",
        "sqla_jobs_queues",
        "sqla_jobs_schedules",
        "sqla_jobs_workers",
    ]
    assert all(models.INFO in table.info for table in metadata.tables.values())
    assert models.companions(None).metadata is metadata


def test_another_name_of_the_table_is_refused() -> None:
    with pytest.raises(InvalidOption, match="the job table is always 'sqla_jobs'"):

        class Elsewhere(JobMixin, _base()):
            __tablename__ = "my_jobs"


def test_a_column_of_the_queue_is_not_overridden() -> None:
    with pytest.raises(InvalidOption, match="names of columns of the queue: timeout"):

        class Overriding(JobMixin, _base()):
            timeout: Mapped[int] = mapped_column()


def test_repr_of_a_detached_job_says_what_is_known() -> None:
    assert repr(Job(task="shop.send")) == "<Job shop.send>"


def _base() -> type[DeclarativeBase]:
    class Base(DeclarativeBase):
        pass

    return Base
