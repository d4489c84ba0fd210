"""What `task.job()` makes is what the model's constructor makes, which is called where it matters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import event, inspect
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    backref,
    mapped_column,
    relationship,
    validates,
)
from sqlalchemy.schema import ForeignKey

from sqla_jobs import Job, JobMixin, Jobs
from sqla_jobs.tasks import made

VALUES = {"task": "send", "arguments": {"a": 1}, "queue": "default", "priority": 0, "state": "queued"}


@pytest.fixture
def constructed(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Calls of the usual constructor of a job."""
    calls: list[object] = []
    usual = Job.__init__

    def noted(self: Job, **values: Any) -> None:
        calls.append(self)
        usual(self, **values)

    monkeypatch.setattr(Job, "__init__", noted)
    return calls


def inner(job: Job) -> list[Any]:
    state = inspect(job)
    return [
        {name: value for name, value in vars(job).items() if name != "_sa_instance_state"},
        {name: tuple(each.history) for name, each in state.attrs.items()},
        (state.transient, state.modified, state.expired, state.unloaded, dict(state.committed_state)),
    ]


def test_it_is_as_if_it_were_constructed(session: Session, constructed: list[object]) -> None:
    made.make(Job, VALUES)
    constructed.clear()
    job = made.make(Job, VALUES)
    assert constructed == []
    assert inner(job) == inner(Job(**VALUES))
    for each in (job, Job(**VALUES)):
        session.add(each)
        assert session.is_modified(each)
        assert inspect(each).attrs.priority.history.added == [0]
    session.flush()
    assert inspect(job).persistent
    job.priority = 3
    assert inspect(job).attrs.priority.history == ([3], (), [0])
    session.flush()
    session.expire(job)
    assert job.priority == 3


@pytest.mark.parametrize(
    ("target", "name"), [(Job, "init"), (Job.priority, "set"), (Job.queue, "set")], ids=str
)
def test_whoever_listens_from_now_on_hears_of_it(target: Any, name: str) -> None:
    made.make(Job, VALUES)
    heard: list[object] = []

    def listen(job: object, *_: Any) -> None:
        heard.append(job)

    event.listen(target, name, listen)
    try:
        job = Jobs().job("send")
        assert heard == [job]
    finally:
        event.remove(target, name, listen)
    made.make(Job, VALUES)
    assert heard == [job]


def test_also_where_somebody_has_listened_before() -> None:
    """SQLAlchemy keeps the collection of an attribute that was listened to, and puts the next one into it."""
    made._quick.cache_clear()
    for _ in range(2):
        test_whoever_listens_from_now_on_hears_of_it(Job.queue, "set")
        made._quick.cache_clear()


def with_init() -> type[JobMixin]:
    class Base(DeclarativeBase):
        pass

    class InitJob(JobMixin, Base):
        tenant: Mapped[int | None]

        def __init__(self, **values: Any) -> None:
            if values["task"] == "send":
                values["tenant"] = 7
            super().__init__(**values)

    return InitJob


def with_validator() -> type[JobMixin]:
    class CheckedBase(DeclarativeBase):
        pass

    class CheckedJob(JobMixin, CheckedBase):
        tenant: Mapped[int | None]

        @validates("queue")
        def _its_tenant(self, _: str, queue: str) -> str:
            self.tenant = 7
            return queue

    return CheckedJob


def with_setattr() -> type[JobMixin]:
    class SetBase(DeclarativeBase):
        pass

    class SetJob(JobMixin, SetBase):
        tenant: Mapped[int | None]

        def __setattr__(self, name: str, value: Any) -> None:
            super().__setattr__(name, value)
            if name == "queue":
                self.tenant = 7

    return SetJob


def with_constructor() -> type[JobMixin]:
    class MadeBase(DeclarativeBase):
        def __init__(self, **values: Any) -> None:
            for name, value in {"tenant": 7, **values}.items():
                setattr(self, name, value)

    class MadeJob(JobMixin, MadeBase):
        tenant: Mapped[int | None]

    return MadeJob


def polymorphic() -> type[JobMixin]:
    class KindBase(DeclarativeBase):
        pass

    class KindJob(JobMixin, KindBase):
        tenant: Mapped[int | None]
        __mapper_args__ = {"polymorphic_on": "tenant", "polymorphic_identity": 7}

    return KindJob


@pytest.mark.parametrize("define", [with_init, with_validator, with_setattr, with_constructor, polymorphic])
def test_what_a_model_does_when_it_is_made_is_done(define: Callable[[], type[JobMixin]]) -> None:
    model: Any = define()
    task = Jobs(model).task(name="send")(lambda session: None)
    assert [task.job().tenant for _ in range(2)] == [7, 7]


def test_a_model_that_refers_to_it_may_be_defined_later() -> None:
    class Base(DeclarativeBase):
        pass

    class BaseJob(JobMixin, Base):
        pass

    task = Jobs(BaseJob).task(name="send")(lambda session: None)
    task.job()

    class Report(Base):
        __tablename__ = "reports"
        id: Mapped[int] = mapped_column(primary_key=True)
        job_id: Mapped[int] = mapped_column(ForeignKey(BaseJob.id))
        job: Mapped[BaseJob] = relationship(backref=backref("reports"))

    job: Any = task.job()
    assert job.reports == []
