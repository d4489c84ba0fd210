"""Traces: what a job keeps of the span that it is enqueued in, and the spans of its runs."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from sqla_jobs import Cancel, Job, Jobs, RetryPolicy, Snooze, current_job
from sqla_jobs.errors import ArgumentsNotStorable, InvalidOption
from sqla_jobs.metrics import Tracing
from tests.support.aio import Sessions, in_a_loop
from tests.support.fast import unhurried
from tests.support.models import Effect
from tests.support.server import Database
from tests.support.work import NEVER_AGAIN, drain

AT_ONCE = RetryPolicy(max_attempts=3, base=dt.timedelta(0))


class Traced:
    """An application that is traced, and its spans."""

    def __init__(self, **options: Any) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.provider.get_tracer("tests")
        self.jobs: Jobs[Job] = Jobs(tracing=Tracing(self.provider, **options))

    def spans(self, kind: SpanKind = SpanKind.CONSUMER) -> Sequence[ReadableSpan]:
        """Those that have ended, in this order."""
        return [each for each in self._exporter.get_finished_spans() if each.kind is kind]


@pytest.fixture
def traced() -> Traced:
    return Traced()


def links(span: ReadableSpan) -> list[tuple[int, int]]:
    return [(link.context.trace_id, link.context.span_id) for link in span.links]


def ids(span: trace.Span) -> tuple[int, int]:
    found = span.get_span_context()
    return found.trace_id, found.span_id


def current() -> tuple[int, int]:
    return ids(trace.get_current_span())


def test_a_run_links_to_what_has_enqueued_it(traced: Traced, database: Database) -> None:
    seen: list[tuple[int, int]] = []

    @traced.jobs.task(name="greet", queue="mail")
    def greet(session: Session, name: str) -> None:
        seen.append(current())
        with traced.tracer.start_as_current_span("inside"):
            session.add(Effect(job_id=current_job().id))

    with traced.tracer.start_as_current_span("web") as web, database.sessionmaker.begin() as session:
        job = greet.enqueue(session, "Ann").id
    drain(traced.jobs, database)
    [span] = traced.spans()
    assert links(span) == [ids(web)]
    assert span.parent is None
    assert seen == [(span.context.trace_id, span.context.span_id)]
    assert span.context.trace_id != ids(web)[0]
    assert span.name == "process greet"
    waited = span.attributes["sqla_jobs.wait"]
    assert isinstance(waited, float)
    assert 0 <= waited < 60
    assert {**span.attributes, "sqla_jobs.wait": 0} == {
        "messaging.system": "sqla_jobs",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": str(job),
        "sqla_jobs.task": "greet",
        "sqla_jobs.attempt": 1,
        "sqla_jobs.max_attempts": 16,
        "sqla_jobs.wait": 0,
        "sqla_jobs.state": "succeeded",
    }
    assert span.status.status_code is StatusCode.UNSET
    [inside] = [each for each in traced.spans(SpanKind.INTERNAL) if each.name == "inside"]
    assert inside.parent is not None
    assert inside.parent.span_id == span.context.span_id


def test_every_way_to_enqueue_keeps_the_trace(traced: Traced, session: Session) -> None:
    task = traced.jobs.register(lambda session: None, name="task")
    jobs = traced.jobs
    with traced.tracer.start_as_current_span("web") as web:
        task.enqueue(session)
        task.using(priority=3).enqueue(session)
        session.add(task.job())
        jobs.enqueue(session, "task")
        jobs.enqueue(session, "elsewhere")
        jobs.enqueue_many(session, [task.job(), jobs.job("elsewhere")])
    trace_id, span_id = (f"{number:0{width}x}" for number, width in zip(ids(web), (32, 16), strict=True))
    flags = f"{int(web.get_span_context().trace_flags):02x}"
    rows = session.execute(text("SELECT meta FROM sqla_jobs")).scalars().all()
    assert rows == [{"trace": {"traceparent": f"00-{trace_id}-{span_id}-{flags}"}}] * 7


def test_without_an_active_span_nothing_is_kept(traced: Traced, database: Database) -> None:
    task = traced.jobs.register(lambda session: None, name="task")
    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE meta IS NULL") == 1
    drain(traced.jobs, database)
    [span] = traced.spans()
    assert links(span) == []


def test_not_switched_on_nothing_is_kept(traced: Traced, session: Session) -> None:
    task = Jobs[Job]().register(lambda session: None, name="task")
    with traced.tracer.start_as_current_span("web"):
        task.enqueue(session)
    assert session.execute(text("SELECT meta FROM sqla_jobs")).scalars().all() == [None]


def test_baggage_stays_where_it_is(traced: Traced, session: Session) -> None:
    from opentelemetry import baggage

    task = traced.jobs.register(lambda session: None, name="task")
    token = context.attach(baggage.set_baggage("card", "4111-1111"))
    try:
        with traced.tracer.start_as_current_span("web"):
            task.enqueue(session)
    finally:
        context.detach(token)
    [kept] = session.execute(text("SELECT meta FROM sqla_jobs")).scalars()
    assert list(kept["trace"]) == ["traceparent"]


def test_each_attempt_is_a_span(traced: Traced, database: Database) -> None:
    @traced.jobs.task(name="stumble", retry=AT_ONCE)
    def stumble(session: Session) -> Snooze | Cancel | None:
        if current_job().attempt < 3:
            raise ValueError("no")
        return None

    with traced.tracer.start_as_current_span("web") as web, database.sessionmaker.begin() as session:
        stumble.enqueue(session)
    drain(traced.jobs, database)
    spans = traced.spans()
    assert [links(span) for span in spans] == [[ids(web)]] * 3
    assert [span.attributes["sqla_jobs.attempt"] for span in spans] == [1, 2, 3]
    assert [span.attributes["sqla_jobs.state"] for span in spans] == ["scheduled", "scheduled", "succeeded"]
    assert [span.status.status_code for span in spans] == [
        StatusCode.ERROR,
        StatusCode.ERROR,
        StatusCode.UNSET,
    ]
    [event] = spans[0].events
    assert event.name == "exception"
    assert event.attributes["exception.type"] == "ValueError" == spans[0].attributes["error.type"]
    assert event.attributes["exception.message"] == "no"
    assert "in stumble" in str(event.attributes["exception.stacktrace"])
    assert spans[2].events == ()


@pytest.mark.parametrize(
    "signal", [Cancel("enough"), Snooze(dt.timedelta(hours=1))], ids=["cancel", "snooze"]
)
def test_a_signal_is_no_error(traced: Traced, database: Database, signal: Cancel | Snooze) -> None:
    task = traced.jobs.register(lambda session: signal, name="task")
    with database.sessionmaker.begin() as session:
        task.enqueue(session)
    drain(traced.jobs, database)
    [span] = traced.spans()
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["sqla_jobs.state"] == ("cancelled" if isinstance(signal, Cancel) else "scheduled")


def test_what_is_redacted_is_in_no_span(traced: Traced, database: Database) -> None:
    @traced.jobs.task(name="pay", retry=NEVER_AGAIN, redact=("card",))
    def pay(session: Session, card: str) -> None:
        raise ValueError(f"refused: {card}")

    with traced.tracer.start_as_current_span("web") as web, database.sessionmaker.begin() as session:
        pay.enqueue(session, "4111-1111")
    drain(traced.jobs, database)
    [span] = traced.spans()
    assert links(span) == [ids(web)]
    assert "refused: [redacted]" in span.to_json()
    assert "4111-1111" not in span.to_json()


def test_an_outcome_that_was_refused_is_that_of_the_span(traced: Traced, database: Database) -> None:
    """The task itself has succeeded; the commit has not."""
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE once (x int UNIQUE DEFERRABLE INITIALLY DEFERRED)"))

    @traced.jobs.task(name="twice", retry=NEVER_AGAIN)
    def twice(session: Session) -> None:
        session.execute(text("INSERT INTO once VALUES (1), (1)"))

    with database.sessionmaker.begin() as session:
        twice.enqueue(session)
    drain(traced.jobs, database)
    [span] = traced.spans()
    assert span.attributes["sqla_jobs.state"] == "failed"
    assert "IntegrityError" in str(span.attributes["error.type"])


def test_a_job_that_runs_again_after_a_conflict_is_one_span(traced: Traced, database: Database) -> None:
    """It is the same attempt, and its span is the current one in both runs."""
    seen: list[tuple[int, int]] = []
    with database.engine.begin() as connection:
        connection.execute(text("CREATE TABLE balance AS SELECT 1 AS x"))

    @traced.jobs.task(name="clash", retry=NEVER_AGAIN)
    def clash(session: Session) -> None:
        seen.append(current())
        session.execute(text("SELECT x FROM balance")).all()
        if len(seen) == 1:
            with database.engine.begin() as other:
                other.execute(text("UPDATE balance SET x = x + 1"))
        session.execute(text("UPDATE balance SET x = x + 1"))

    with database.sessionmaker.begin() as session:
        clash.enqueue(session)
    drain(
        traced.jobs, database, sessions=database.engine.execution_options(isolation_level="REPEATABLE READ")
    )
    [span] = traced.spans()
    assert seen == [(span.context.trace_id, span.context.span_id)] * 2
    assert span.attributes["sqla_jobs.state"] == "succeeded"


def test_the_fast_lane(traced: Traced, database: Database) -> None:
    seen: list[tuple[int, int]] = []
    options: Any = {"group_commit": 50, "timeout": dt.timedelta(minutes=1), "retry": NEVER_AGAIN}

    @traced.jobs.task(name="fast", **options)
    def fast(session: Session, *, fails: bool = False) -> None:
        seen.append(current())
        if fails:
            raise ValueError("no")

    with traced.tracer.start_as_current_span("web") as web, database.sessionmaker.begin() as session:
        for fails in (False, True, False):
            fast.enqueue(session, fails=fails)
    with unhurried():
        drain(traced.jobs, database)
    spans = traced.spans()
    assert [links(span) for span in spans] == [[ids(web)]] * 3
    assert seen == [(span.context.trace_id, span.context.span_id) for span in spans]
    assert len(set(seen)) == 3
    assert [span.attributes["sqla_jobs.state"] for span in spans] == ["succeeded", "failed", "succeeded"]
    assert [span.attributes["sqla_jobs.attempt"] for span in spans] == [1, 1, 1]
    # The first has ended when its task had, and not when all were committed.
    assert spans[0].end_time is not None
    assert spans[2].start_time is not None
    assert spans[0].end_time <= spans[2].start_time


def test_coroutines(traced: Traced, database: Database) -> None:
    """Two at once on one loop, each with its own span in all of its parts."""
    seen: dict[str, list[tuple[int, int]]] = {}
    met = threading.Barrier(2)

    @traced.jobs.task(name="greet")
    async def greet(session: AsyncSession, name: str) -> None:
        import asyncio

        seen[name] = [current()]
        await asyncio.to_thread(met.wait, 30)
        seen[name].append(current())
        await session.execute(text("SELECT 1"))
        seen[name].append(current())

    with traced.tracer.start_as_current_span("web") as web, database.sessionmaker.begin() as session:
        greet.enqueue(session, "Ann")
        greet.enqueue(session, "Bob")
    drain(traced.jobs, database, async_sessionmaker=create_async_engine(database.url))
    spans = traced.spans()
    assert [links(span) for span in spans] == [[ids(web)]] * 2
    own = {(span.context.trace_id, span.context.span_id) for span in spans}
    assert {each for every in seen.values() for each in every} == own
    assert all(len(set(every)) == 1 for every in seen.values())


def test_work_once_leaves_the_callers_span_current(traced: Traced, session: Session) -> None:
    """There it is the child of what calls it, and links to what has enqueued it."""
    seen: list[tuple[int, int]] = []

    @traced.jobs.task(name="look", retry=NEVER_AGAIN)
    def look(session: Session) -> None:
        seen.append(current())
        current_job().checkpoint(session)
        seen.append(current())
        raise ValueError("no")

    with traced.tracer.start_as_current_span("web") as web:
        look.enqueue(session)
    outside = current()
    with traced.tracer.start_as_current_span("caller") as caller:
        assert traced.jobs.work_once(session) is not None
        assert current() == ids(caller)
    assert current() == outside
    [span] = traced.spans()
    assert links(span) == [ids(web)]
    assert span.parent is not None
    assert span.parent.span_id == ids(caller)[1]
    assert seen == [(span.context.trace_id, span.context.span_id)] * 2


def test_work_once_awaited(traced: Traced, database: Database) -> None:
    @traced.jobs.task(name="look")
    async def look(session: AsyncSession) -> None:
        await session.execute(text("SELECT 1"))

    async def work(sessions: Sessions) -> None:
        async with sessions.begin() as session:
            with traced.tracer.start_as_current_span("web"):
                await look.enqueue(session)
                before = current()
                assert await traced.jobs.work_once(session) is not None
                assert current() == before

    in_a_loop(database, work)
    [span] = traced.spans()
    assert len(span.links) == 1


@pytest.mark.parametrize(
    "meta",
    [
        '{"trace": 7}',
        '{"trace": {"traceparent": "00-zz"}}',
        '{"trace": {}}',
        "[]",
        "7",
        '{"trace": {"traceparent": 8}}',
    ],
    ids=["number", "none", "empty", "list", "meta is a number", "no text"],
)
def test_a_trace_that_is_none(traced: Traced, database: Database, meta: str) -> None:
    """From raw SQL anything may come; the job runs all the same."""
    traced.jobs.register(lambda session: None, name="task")
    with database.engine.begin() as connection:
        connection.execute(
            text("INSERT INTO sqla_jobs (task, meta) VALUES ('task', CAST(:m AS jsonb))"), {"m": meta}
        )
    [finished] = drain(traced.jobs, database)
    assert str(finished.state) == "succeeded"
    [span] = traced.spans()
    assert links(span) == []


# -- enqueue as a span ---------------------------------------------------------------------------------


def test_enqueue_is_a_span_if_it_is_asked_for(database: Database) -> None:
    traced = Traced(enqueue_spans=True)
    task = traced.jobs.register(lambda session: None, name="task")
    with traced.tracer.start_as_current_span("web") as web, database.sessionmaker.begin() as session:
        first = task.using(queue="mail").enqueue(session).id
        traced.jobs.enqueue(session, "elsewhere")
    one, other = traced.spans(SpanKind.PRODUCER)
    assert (one.name, other.name) == ("send task", "send elsewhere")
    assert one.attributes["messaging.message.id"] == str(first)
    assert one.attributes["messaging.destination.name"] == "mail"
    assert one.parent is not None
    assert one.parent.span_id == ids(web)[1]
    drain(traced.jobs, database, queues=["mail"])
    [span] = traced.spans()
    assert links(span) == [(one.context.trace_id, one.context.span_id)]


def test_a_refused_enqueue_tells_no_argument(session: Session) -> None:
    traced = Traced(enqueue_spans=True)
    task = traced.jobs.register(lambda session, card: None, name="task")
    with pytest.raises(ArgumentsNotStorable):
        task.enqueue(session, {"4111-1111": object()})
    [span] = traced.spans(SpanKind.PRODUCER)
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes["error.type"] == "sqla_jobs.errors.ArgumentsNotStorable"
    assert "4111-1111" not in span.to_json()


@pytest.mark.parametrize("tracing", [True, object()], ids=["true", "no tracing"])
def test_what_is_no_tracing_is_refused(tracing: Any) -> None:
    with pytest.raises(InvalidOption, match=r"expected, from sqla_jobs\.metrics, .*Tracing\(\) for Jobs"):
        Jobs(tracing=tracing)
