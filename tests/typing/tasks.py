"""What a user's code means to the type checkers: read by mypy and pyright, both strict, never run.

Each wrong call bears the complaint of either checker. Both also complain of an `ignore` that ignores nothing,
so a signature that is lost on the way, and lets a wrong call pass, is an error here.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, scoped_session, sessionmaker
from typing_extensions import assert_type

from sqla_jobs import (
    Cancel,
    Finished,
    Job,
    JobMixin,
    Jobs,
    JobState,
    Limit,
    Progress,
    RetryPolicy,
    Snooze,
    Synced,
    Task,
    Worker,
    current_job,
)
from sqla_jobs.testing import assert_enqueued, drain, enqueued

jobs = Jobs()
assert_type(jobs, Jobs[Job])


# -- tasks -----------------------------------------------------------------------------------------


@jobs.task
def send(session: Session, to: str, *, copies: int = 1) -> bool:
    return bool(session) and bool(to) and bool(copies)


@jobs.task(queue="mail", priority=5, retry=RetryPolicy(max_attempts=3))
def remind(session: Session, order: int, at: dt.datetime | None = None, /, **more: float) -> None:
    """Positional-only arguments, a default and free ones."""


@jobs.task(name="clean")
def clean(session: Session) -> None:
    """No argument at all."""


@jobs.task  # pyright: ignore[reportUnknownArgumentType]
def legacy(session, order: int) -> str:  # type: ignore[no-untyped-def] # pyright: ignore[reportMissingParameterType, reportUnknownParameterType]
    """The Session need not be annotated."""
    return str(order)


class Mailer:
    def __call__(self, session: Session, to: str) -> int:
        return len(to)


mail = jobs.task(name="mail")(Mailer())


def by_type(task: Task[[str], int, Job]) -> None:
    """What a task is to those who are given one."""


by_type(mail)
by_type(clean)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# -- a task is still the function ------------------------------------------------------------------


def calls(session: Session, other: scoped_session[Session]) -> None:
    assert_type(send(session, "a", copies=2), bool)
    assert_type(remind(session, 1), None)
    assert_type(legacy(session, 1), str)
    assert_type(mail(session, "a"), int)
    send("a")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    send(session, 5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    remind(session, order=1)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


# -- enqueue takes what the function takes, and gives a job ----------------------------------------


def enqueues(session: Session, scoped: scoped_session[Session], at: dt.datetime) -> None:
    assert_type(send.enqueue(session, "a"), Job)
    assert_type(send.enqueue(scoped, to="a", copies=2), Job)
    assert_type(remind.enqueue(session, 1, at, weight=1.5), Job)
    assert_type(clean.enqueue(session), Job)
    assert_type(legacy.enqueue(session, order=1), Job)
    assert_type(mail.enqueue(session, "a"), Job)

    send.enqueue(session)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    send.enqueue(session, 5)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    send.enqueue(session, "a", 2)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    send.enqueue(session, "a", copies="2")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    send.enqueue(session, "a", copy=2)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    send.enqueue("a")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    send.enqueue("a", "a")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    remind.enqueue(session, order=1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    remind.enqueue(session, 1, weight="x")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    clean.enqueue(session, 1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    legacy.enqueue(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    mail.enqueue(session)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


def makes_jobs(session: Session) -> None:
    assert_type(send.job("a", copies=2), Job)
    assert_type(clean.job(), Job)
    session.add(send.job("a"))
    send.job()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    send.job(session, "a")  # type: ignore[arg-type, call-arg] # pyright: ignore[reportCallIssue]


def uses_options(session: Session, at: dt.datetime) -> None:
    assert_type(send.using(queue="slow"), Task[..., bool, Job])  # type: ignore[assert-type] # pyright: ignore[reportAssertTypeFailure]
    slow = send.using(queue="slow", priority=9, delay=dt.timedelta(hours=1)).using(run_at=at, max_attempts=1)
    assert_type(slow.enqueue(session, "a", copies=2), Job)
    assert_type(slow.job("a"), Job)
    assert_type(slow(session, "a"), bool)
    slow.enqueue(session)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    slow.enqueue(session, 5)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    send.using(queue=5)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    send.using(delay=60)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    send.using(colour="red")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    send.using("slow")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]


def by_name(session: Session) -> None:
    """Here the arguments cannot be checked, but what comes of it is known."""
    assert_type(jobs.enqueue(session, "shop.send", to="a"), Job)
    assert_type(jobs.using(queue="slow").enqueue(session, "shop.send", to="a"), Job)
    assert_type(jobs.job("shop.send", to="a"), Job)
    assert_type(jobs.enqueue_many(session, [send.job("a"), clean.job()]), list[int])
    jobs.enqueue_many(session, (clean.job() for _ in range(2)))
    jobs.enqueue_many(scoped_session(sessionmaker()), [])
    jobs.enqueue_many(session, ["a"])  # type: ignore[list-item] # pyright: ignore[reportCallIssue, reportArgumentType]
    jobs.enqueue_many(session, send.job("a"))  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    jobs.enqueue_many([clean.job()])  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]

    jobs.enqueue(session, send)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    jobs.enqueue(session, "shop.send", "a")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


# -- results ---------------------------------------------------------------------------------------


@jobs.task(result=True)
def count(session: Session, of: str) -> int | None:
    return len(of)


@jobs.task(result=True)
def ask(session: Session, of: str) -> list[str] | Snooze:
    return [of] if of else Snooze(dt.timedelta(hours=1))


@jobs.task(result=True)
def end(session: Session) -> str | Snooze | Cancel:
    return Cancel("no more")


def kept(session: Session, scoped: scoped_session[Session], job: Job) -> None:
    assert_type(send.result(session, 1), bool)
    assert_type(count.result(session, 1), int | None)
    assert_type(count.using(queue="slow").result(scoped, job), int | None)
    assert_type(ask.result(session, job), list[str])
    assert_type(end.result(session, job), str)
    count.result(session)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    count.result(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    count.result(1)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    jobs.task(result="yes")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]


# -- mapped objects --------------------------------------------------------------------------------


class Shop(DeclarativeBase):
    pass


class Order(Shop):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)


@jobs.task(on_missing="fail")
def ship(session: Session, order: Order, also: list[Order] | None = None) -> Order:
    return also[0] if also else order


def objects(session: Session, order: Order) -> None:
    """What is stored is a key; what is given is the object."""
    assert_type(ship.enqueue(session, order), Job)
    assert_type(ship.job(order, also=[order]), Job)
    assert_type(ship(session, order), Order)
    ship.enqueue(session, 7)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    ship.enqueue(session, order.id)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    ship.job([order])  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ship.job(order, order)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    ship.job(None)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


jobs.task(on_missing="ignore")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(on_missing=None)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]


@jobs.task(on_missing="cancel")
def unship(session: Session, order: Order) -> None: ...


# -- unique jobs -----------------------------------------------------------------------------------


@jobs.task(unique=("order", "to"), unique_scope="queued")
def pack(session: Session, order: int, to: str = "") -> None: ...


@jobs.task(unique=True, unique_for=dt.timedelta(hours=1))
def tally(session: Session) -> int:
    return 1


@jobs.task(unique=["order"], unique_scope="active", unique_for=None)
def unpack(session: Session, order: int) -> None: ...


def unique(session: Session) -> None:
    assert_type(pack.enqueue(session, 1, to="a"), Job)
    assert_type(tally(session), int)
    assert_type(pack.enqueue(session, 1).duplicate, bool)
    assert_type(pack.job(1).unique_key, str | None)
    assert_type(send.using(unique_key="a", unique_scope="queued").enqueue(session, "a"), Job)
    assert_type(send.using(unique_key="a", unique_for=dt.timedelta(hours=1)).job("a"), Job)
    assert_type(send.using(unique_key=None).job("a"), Job)
    assert_type(jobs.using(unique_key="a", unique_scope="active").enqueue(session, "b"), Job)
    pack.enqueue(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    send.using(unique_key=7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    send.using(unique_key="a", unique_scope="ever")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    send.using(unique_key="a", unique_for=60)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    send.using(unique=("to",))  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    send.using(on_missing="fail")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    jobs.using(unique_scope="ever")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    jobs.using(unique_key=b"a")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


jobs.task(unique=7)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(unique={"order"})  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(unique_scope="window")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(unique_for=3600)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(unique_key="order-7")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


# -- definitions that are refused ------------------------------------------------------------------


def no_session() -> None: ...


def keyword_session(*, session: Session) -> None: ...


jobs.task(no_session)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
jobs.task(keyword_session)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
jobs.task("send")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(priority="high")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
jobs.task(colour="red")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]


# -- schedules -------------------------------------------------------------------------------------


@jobs.every(dt.timedelta(minutes=5), kwargs={"to": "a"}, queue="mail", overlap="skip", catch_up="all")
@jobs.cron("0 30 2 * * *", timezone="Europe/Paris", name="nightly", kwargs={"to": "b"})
@jobs.task(queue="mail")
def mail_report(session: Session, to: str) -> int:
    return len(to)


def scheduled(session: Session) -> None:
    """The task is what it was."""
    assert_type(mail_report(session, "a"), int)
    assert_type(mail_report.enqueue(session, "a"), Job)
    mail_report.enqueue(session, 5)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(jobs.sync_schedules(session, prune=True), Synced)
    assert_type(jobs.sync_schedules(session).changed, tuple[str, ...])
    jobs.sync_schedules("a")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(jobs.run_schedule(session, "hourly"), int | None)
    assert_type(jobs.switch_schedule(session, "hourly", enabled=False), bool)
    jobs.switch_schedule(session, "hourly", False)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue]
    jobs.every(60)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    jobs.every(dt.timedelta(1), overlap="forbid")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    jobs.cron("@daily", every=5)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    jobs.every(dt.timedelta(1))(no_session)  # type: ignore[type-var] # pyright: ignore[reportArgumentType]


# -- a model of one's own --------------------------------------------------------------------------


class Base(DeclarativeBase):
    pass


class TenantJob(JobMixin, Base):
    tenant: Mapped[int] = mapped_column()


tenant_jobs = Jobs(model=TenantJob)
assert_type(tenant_jobs, Jobs[TenantJob])
Jobs(model=Base)  # type: ignore[type-var] # pyright: ignore[reportArgumentType]


@tenant_jobs.task
def bill(session: Session, order: int) -> float:
    return float(order)


@tenant_jobs.task(queue="bills")
def dun(session: Session, order: int) -> None: ...


def own_model(session: Session) -> None:
    assert_type(bill.enqueue(session, 1), TenantJob)
    assert_type(dun.using(priority=1).enqueue(session, order=1), TenantJob)
    assert_type(tenant_jobs.enqueue(session, "bill", order=1), TenantJob)
    job = dun.job(1)
    job.tenant = 1
    job.tenant = "one"  # type: ignore[assignment] # pyright: ignore[reportAttributeAccessIssue]
    bill.enqueue(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]


# -- what comes back -------------------------------------------------------------------------------


def results(session: Session) -> None:
    finished = jobs.work_once(session, ["mail"])
    assert_type(finished, Finished | None)
    if finished is not None:
        assert_type(finished.state, JobState)
        assert_type(finished.error, BaseException | None)
        assert_type(finished.job.arguments, Mapping[str, Any])
    assert_type(current_job().attempt, int)
    current_job().progress(1, 2.5, "half")
    current_job().progress("1")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    current_job().progress()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    assert_type(jobs.progress(session, 1), Progress | None)
    jobs.progress(session, "1")  # type: ignore[call-overload] # pyright: ignore[reportArgumentType, reportCallIssue]
    if (progress := jobs.progress(session, send.enqueue(session, "a"))) is not None:
        assert_type(progress.fraction, float | None)
    assert_type(drain(session, jobs, ["mail"], now=finished.run_at if finished else None), list[Finished])
    assert_type(enqueued(session, send, to="a"), list[Job])
    assert_type(enqueued(session, bill), list[TenantJob])
    assert_type(enqueued(session, "bill", model=TenantJob, order=1), list[TenantJob])
    assert_type(enqueued(session), list[Job])
    job = send.enqueue(session, "a")
    assert_type((job.is_finished, job.duration), tuple[bool, dt.timedelta | None])
    select(Job.task, Job.wait).where(Job.is_finished, TenantJob.duration > dt.timedelta(hours=1))
    drain(session, send)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_enqueued(send, to="a")  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    assert_type(jobs.find("send"), Task[..., Any, Job])
    assert_type(send.enqueue(session, "a").run_at, dt.datetime)


def hook(worker: Worker, finished: Finished) -> None: ...


def workers(make: scoped_session[Session]) -> None:
    Worker(jobs, queues=["mail"], threads=4, on_failure=hook, on_finish=hook)
    Worker(tenant_jobs, make, poll_interval=dt.timedelta(seconds=1))
    Worker(jobs, where=Job.priority > 5)
    Worker(jobs, where=Job.arguments["tenant"].as_integer() == 7)
    Worker(jobs, where=Job.is_finished)
    Worker(jobs, where=Job.arguments.contains({"tenant": 7}), queues=["mail"])
    Worker(jobs, where="priority > 5")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, where=True)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, where=Job.priority)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, threads="4")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(jobs, on_finish=no_session)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Worker(send)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


# -- limits ----------------------------------------------------------------------------------------


@jobs.task(limit=Limit(2, key="to"))
def limited(session: Session, to: str) -> None:
    """The signature stays."""


def hold(session: Session) -> None:
    assert_type(limited.enqueue(session, "x"), Job)
    limited.enqueue(session, 7)  # type: ignore[call-overload] # pyright: ignore[reportCallIssue, reportArgumentType]
    Limit(2, key=("to", "copies"))
    Limit("2")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    Limit(2, "to")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    Limit(2, key=7)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    jobs.task(limit=2)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]


# -- what is not to be shown -----------------------------------------------------------------------


@jobs.task(redact=("to",))
def discreet(session: Session, to: str) -> None: ...


@jobs.task(redact=["to"])
def also_discreet(session: Session, to: str) -> None: ...


def hide_and_measure(finished: Finished) -> None:
    assert_type(discreet.redact, tuple[str, ...])
    assert_type(finished.wait, dt.timedelta | None)
    assert_type(finished.job.duration, dt.timedelta | None)
    jobs.task(redact=7)  # type: ignore[call-overload] # pyright: ignore[reportArgumentType]
