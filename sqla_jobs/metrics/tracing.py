"""Traces by OpenTelemetry: a job keeps the trace that it is enqueued in, and its runs link to it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

from sqla_jobs.errors import Cancel, GiveBack, Snooze
from sqla_jobs.metrics.missing import missing
from sqla_jobs.outcome import JobState, describe
from sqla_jobs.tasks import RunningJob

try:
    from opentelemetry import context, trace
    from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:
    raise missing("sqla_jobs.metrics.Tracing", error) from error

_SYSTEM: Final = "sqla_jobs"
# Not the propagator of the application: it may add baggage, which is whatever somebody has put into it.
_PROPAGATOR: Final = TraceContextTextMapPropagator()


class Tracing:
    """``Jobs(tracing=Tracing())``: the runs of jobs, and if you like their enqueueing, are spans.

    While a span is active where a job is made, its row keeps ``traceparent`` and ``tracestate`` (W3C) in
    ``meta["trace"]``. Each attempt is a span of kind CONSUMER that links to that one and is no child of it:
    it may run days later. It is the current span in the task's body, also of a coroutine, and ends with it;
    its status is that of the outcome that was recorded.

    Parameters:
        tracer_provider: None: the global one, also if it is set later.
        enqueue_spans: True: ``enqueue`` is a span of kind PRODUCER, also by name, and the job's spans link to
            it. Not `enqueue_many`, nor ``session.add(task.job())``, where nothing is sent.

    Raises:
        ConfigurationError: opentelemetry-api is not installed.
    """

    def __init__(self, tracer_provider: TracerProvider | None = None, *, enqueue_spans: bool = False) -> None:
        self._tracer = trace.get_tracer("sqla_jobs", tracer_provider=tracer_provider)
        self._enqueue_spans = enqueue_spans

    # -- where a job is enqueued ---------------------------------------------------------------------

    def carried(self) -> Mapping[str, str] | None:
        """What a job that is made here and now keeps; None: no span is active."""
        if not trace.get_current_span().get_span_context().is_valid:
            return None
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier)
        return carrier

    @contextmanager
    def enqueuing(self, task: str, /) -> Iterator[Callable[[int, str], object]]:
        """Around the making and enqueueing of one job; what it gives is told the job's id and queue."""
        if not self._enqueue_spans:
            yield _nothing
            return
        given = _attributes("send", task)
        # What is refused may quote an argument: its class is enough.
        with self._tracer.start_as_current_span(
            f"send {task}",
            kind=SpanKind.PRODUCER,
            attributes=given,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:

            def tell(job: int, queue: str) -> None:
                span.set_attributes({"messaging.message.id": str(job), "messaging.destination.name": queue})

            try:
                yield tell
            except BaseException as error:
                span.set_attribute("error.type", _name(error))
                span.set_status(Status(StatusCode.ERROR))
                raise

    # -- where it runs -------------------------------------------------------------------------------

    def begins(self, job: RunningJob, waited: float, meta: str | None) -> _Traced:
        """A job is about to be run."""
        span = self._tracer.start_span(
            f"process {job.task}",
            kind=SpanKind.CONSUMER,
            links=_links(meta),
            attributes={
                **_attributes("process", job.task),
                "messaging.destination.name": job.queue,
                "messaging.message.id": str(job.id),
                "sqla_jobs.attempt": job.attempt,
                "sqla_jobs.max_attempts": job.max_attempts,
                "sqla_jobs.wait": waited,
            },
        )
        return _Traced(span, job)

    def rescued(self, job: RunningJob, state: JobState, error: BaseException | None) -> None:
        """Its run was a span of the process that is dead, and lost with it."""

    def joins(self, state: Callable[[], str]) -> None:
        """A worker starts."""


class _Traced:
    """The span of one run."""

    def __init__(self, span: Span, job: RunningJob) -> None:
        self._span = span
        self._job = job
        self._token: Any = None
        self._left: int | None = None

    def enter(self) -> None:
        self._token = context.attach(trace.set_span_in_context(self._span))

    def leave(self) -> None:
        token, self._token = self._token, None
        self._left = time.time_ns()
        context.detach(token)

    def over(self, state: JobState | None, error: BaseException | None) -> None:
        span = self._span
        span.set_attribute("sqla_jobs.state", "lost" if state is None else state.value)
        if state is None:
            span.set_status(Status(StatusCode.ERROR, "nothing is recorded of this run"))
        elif error is not None and not isinstance(error, (Cancel, Snooze, GiveBack)):
            told = describe(error, self._job.clean)
            name = str(told["error"])
            span.set_attribute("error.type", name)
            span.add_event(
                "exception",
                {
                    "exception.type": name,
                    "exception.message": str(told["message"]),
                    "exception.stacktrace": str(told["traceback"]),
                },
            )
            span.set_status(Status(StatusCode.ERROR, name))
        span.end(self._left)


def _attributes(operation: str, task: str) -> dict[str, str]:
    return {
        "messaging.system": _SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "sqla_jobs.task": task,
    }


def _links(meta: str | None) -> Sequence[Link]:
    """A link to what has enqueued a job; none if its row says nothing of it, or nothing that is a trace."""
    if meta is None:
        return ()
    try:
        carried = json.loads(meta)["trace"]
        carrier = {name: str(carried[name]) for name in ("traceparent", "tracestate") if name in carried}
    except (ValueError, KeyError, TypeError, RecursionError):  # it may be from raw SQL
        return ()
    found = trace.get_current_span(_PROPAGATOR.extract(carrier, context.Context())).get_span_context()
    return (Link(found),) if found.is_valid else ()


def _name(error: BaseException) -> str:
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")


def _nothing(_: int, __: str) -> None:
    """No span is to be told."""
