"""Many jobs at once of a model with columns of its own: whatever these are, the rows are those of a flush."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import itertools
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import (
    ARRAY,
    JSON,
    ForeignKey,
    Integer,
    MetaData,
    String,
    TypeDecorator,
    event,
    func,
    null,
    text,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    composite,
    mapped_column,
    relationship,
    validates,
)

from sqla_jobs import JobMixin, Jobs
from sqla_jobs.errors import EnqueueError
from tests.support.ear import ear
from tests.support.server import Database


class Base(DeclarativeBase):
    metadata = MetaData(schema="shop")


class Tenant(Base):
    __tablename__ = "tenants"
    id: Mapped[int] = mapped_column(primary_key=True)


class Colour(enum.Enum):
    RED = "r"
    BLUE = "b"


class Doubled(TypeDecorator[int]):
    """A type of the application's own."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Any) -> int | None:
        return None if value is None else 2 * value


class Range:
    def __init__(self, low: int | None, high: int | None) -> None:
        self.low, self.high = low, high

    def __composite_values__(self) -> tuple[int | None, int | None]:
        return self.low, self.high


_numbers = itertools.count()


class ShopJob(JobMixin, Base):
    tenant_id: Mapped[int | None] = mapped_column("tenant", ForeignKey(Tenant.id))
    tenant: Mapped[Tenant | None] = relationship()
    code: Mapped[str | None] = mapped_column(String(3))
    origin: Mapped[str] = mapped_column(server_default="it's 100%:x")
    cost: Mapped[decimal.Decimal] = mapped_column(default=decimal.Decimal("1.50"))
    token: Mapped[str] = mapped_column(default=func.upper("abc"))
    day: Mapped[dt.date | None]
    key: Mapped[uuid.UUID | None]
    share: Mapped[float | None]
    urgent: Mapped[bool] = mapped_column(server_default=text("true"))
    notes: Mapped[Any | None] = mapped_column(JSON)
    low: Mapped[int | None]
    high: Mapped[int | None]

    @validates("code")
    def _short(self, _: str, code: str | None) -> str | None:
        return code and code.lower()


jobs = Jobs(ShopJob)
task = jobs.task(name="work")(lambda session, number=0: None)


class OtherBase(DeclarativeBase):
    metadata = MetaData(schema="other")


class OddJob(JobMixin, OtherBase):
    """With columns that no list can hold, or whose default Python calls for each row."""

    __mapper_args__ = {"polymorphic_on": "kind", "polymorphic_identity": "odd"}

    kind: Mapped[str] = mapped_column(server_default="odd")
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(String))
    colour: Mapped[Colour | None]
    doubled: Mapped[int | None] = mapped_column(Doubled)
    number: Mapped[int] = mapped_column(default=lambda: next(_numbers))


class OddestJob(OddJob):
    __mapper_args__ = {"polymorphic_identity": "oddest"}


class SpanBase(DeclarativeBase):
    metadata = MetaData(schema="span")


class SpanJob(JobMixin, SpanBase):
    low: Mapped[int | None]
    high: Mapped[int | None]
    span: Mapped[Range] = composite("low", "high")


class PlainBase(DeclarativeBase):
    metadata = MetaData(schema="plain")


class ArrayJob(JobMixin, PlainBase):
    tags: Mapped[list[str] | None] = mapped_column(ARRAY(String))
    colour: Mapped[Colour | None]
    doubled: Mapped[int | None] = mapped_column(Doubled)


class CalledBase(DeclarativeBase):
    metadata = MetaData(schema="called")


class CalledJob(JobMixin, CalledBase):
    number: Mapped[int] = mapped_column(default=lambda: next(_numbers))


class VersionBase(DeclarativeBase):
    metadata = MetaData(schema="version")


class VersionJob(JobMixin, VersionBase):
    version: Mapped[int] = mapped_column(server_default="0")
    __mapper_args__ = {"version_id_col": version}


@pytest.fixture(scope="module")
def with_models(lab_database: Database) -> Database:
    lab_database.execute("CREATE SCHEMA shop")
    Base.metadata.tables["shop.tenants"].create(lab_database.engine)
    for model in (ShopJob, SpanJob, OddJob, ArrayJob, CalledJob, VersionJob):
        Jobs(model).create_all(lab_database.engine)
    return lab_database


@pytest.fixture
def session(with_models: Database) -> Iterator[Session]:
    with with_models.sessionmaker() as session:
        session.add_all([Tenant(id=1), Tenant(id=2)])
        session.flush()
        yield session


def rows(session: Session, schema: str) -> list[dict[str, Any]]:
    """All but what is of the moment."""
    # Python sees no difference between JSON's null and SQL's.
    written = ", notes::text AS written" if schema == "shop" else ""
    found = session.execute(text(f"SELECT *{written} FROM {schema}.sqla_jobs ORDER BY id"))
    moments = {"id", "run_at", "created_at", "number"}
    return [{key: value for key, value in row._mapping.items() if key not in moments} for row in found]


def shop(**values: Any) -> ShopJob:
    return ShopJob(task="work", **values)


KEYS = [uuid.UUID(int=number) for number in range(3)]

ALIKE: dict[str, Callable[[], Sequence[JobMixin]]] = {
    "defaults": lambda: [task.job(1), task.job(2)],
    "one value for all": lambda: [shop(tenant_id=1, code="ABC", notes={"b": 1, "a": 2}) for _ in range(2)],
    "each its own": lambda: [
        shop(tenant_id=1, code="a", origin="x", cost=decimal.Decimal("2.25"), key=KEYS[0], share=0.1),
        shop(tenant_id=2, code="b", origin="y", cost=decimal.Decimal(3), key=KEYS[1], share=0.2),
    ],
    "some": lambda: [
        shop(tenant_id=1, urgent=False, day=dt.date(2040, 1, 1), notes=[1]),
        shop(code="c", origin="x", cost=decimal.Decimal(7), token="x"),
        shop(key=KEYS[2], share=1.5, low=3),
    ],
    "a document that is null": lambda: [shop(notes=None), shop(notes={"b": 1, "a": 2})],
    "documents that are null": lambda: [shop(notes=None), shop(notes=None)],
    "documents that are not there": lambda: [shop(), shop(notes=[])],
    "nulls": lambda: [shop(notes=None, origin=None), shop(notes=null()), shop(notes=JSON.NULL), shop()],
    "a composite": lambda: [SpanJob(task="a", span=Range(1, 2)), SpanJob(task="b", span=Range(None, 3))],
    "arrays": lambda: [ArrayJob(task="a", tags=["a", "b"]), ArrayJob(task="b", tags=["c"])],
    "one array": lambda: [ArrayJob(task="a", tags=["a", "b"]), ArrayJob(task="b")],
    "enums": lambda: [ArrayJob(task="a", colour=Colour.RED), ArrayJob(task="b", colour=Colour.BLUE)],
    "types": lambda: [ArrayJob(task="a", doubled=1), ArrayJob(task="b", doubled=2)],
    "one enum": lambda: [ArrayJob(task="a", colour=Colour.RED)],
    "polymorphic": lambda: [OddJob(task="a", tags=[]), OddestJob(task="b", doubled=4), OddJob(task="c")],
    "versions": lambda: [VersionJob(task="a"), VersionJob(task="b", priority=1)],
}  # fmt: skip


@pytest.mark.parametrize("kind", ALIKE)
def test_the_rows_are_those_of_a_flush(session: Session, kind: str) -> None:
    given = ALIKE[kind]()
    model = OddJob if isinstance(given[0], OddJob) else type(given[0])
    schema = model.__table__.schema  # type: ignore[attr-defined]
    assert isinstance(schema, str)
    with session.begin_nested() as savepoint:
        session.add_all(given)
        session.flush()
        expected = rows(session, schema)
        savepoint.rollback()
    ids = Jobs(model).enqueue_many(session, ALIKE[kind]())
    assert rows(session, schema) == expected
    assert ids == sorted(ids)
    assert len(ids) == len(given)


def test_plain_columns_of_ones_own_are_sent_as_lists(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else this file would say nothing of them."""
    monkeypatch.setattr(Session, "add_all", None)
    some: Any = ALIKE["some"]()
    assert len(jobs.enqueue_many(session, some)) == 3


def test_a_default_that_python_calls_is_called_for_each(session: Session) -> None:
    Jobs(CalledJob).enqueue_many(session, [CalledJob(task="a") for _ in range(3)])
    Jobs(CalledJob).enqueue_many(session, [CalledJob(task="a", number=-1), CalledJob(task="a")])
    numbers = list(session.scalars(text("SELECT number FROM called.sqla_jobs ORDER BY id")))
    assert len(set(numbers)) == 5
    assert numbers == [*sorted(numbers[:3]), -1, numbers[4]]


@pytest.mark.parametrize("name", ["before_insert", "after_insert"])
def test_whoever_listens_to_the_inserts_of_a_model_hears_of_each(session: Session, name: str) -> None:
    heard: list[Any] = []

    def listen(_: Any, __: Any, job: ShopJob) -> None:
        job.low = job.low or 7
        heard.append(job.task)

    event.listen(ShopJob, name, listen)
    try:
        jobs.enqueue_many(session, [shop(), ShopJob(task="b", low=1)])
    finally:
        event.remove(ShopJob, name, listen)
    assert heard == ["work", "b"]
    if name == "before_insert":
        assert list(session.scalars(text("SELECT low FROM shop.sqla_jobs ORDER BY id"))) == [7, 1]


def test_a_text_that_is_too_long_is_refused_and_not_cut(session: Session) -> None:
    for codes in (["abcd", "b"], ["abcd", "abcd"]):
        with pytest.raises(DBAPIError, match="too long"), session.begin_nested():
            jobs.enqueue_many(session, [shop(code=code) for code in codes])


def test_a_relationship_is_refused_before_anything_is_written(session: Session) -> None:
    tenant = session.get_one(Tenant, 1)
    job = shop(tenant=tenant)
    with pytest.raises(EnqueueError, match=r"'tenant' of a job is set, a relationship.*foreign key"):
        jobs.enqueue_many(session, [shop(), job])
    session.expunge_all()
    assert rows(session, "shop") == []
    looked_at = shop()
    assert looked_at.tenant is None
    assert len(jobs.enqueue_many(session, [looked_at])) == 1


def test_of_another_model_is_refused(session: Session) -> None:
    wrong: Any = OddJob(task="a")
    with pytest.raises(EnqueueError, match="number 0 is <OddJob a>; expected a new ShopJob"):
        jobs.enqueue_many(session, [wrong])


def test_those_that_a_flush_must_write_are_told_of_as_often(with_models: Database) -> None:
    odd = Jobs(OddJob)
    with ear(with_models, "sqla_jobs_other") as told, with_models.sessionmaker() as session:
        made = [OddJob(task="a", state="queued"), OddestJob(task="b", state="queued"), OddJob(task="c")]
        odd.enqueue_many(session, made)
        assert not list(session)
        session.commit()
        assert sorted(told.heard()) == ["queued:default", "scheduled"]
