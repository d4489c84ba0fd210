"""What is looked at: each page is one read, in one short transaction, by functions that are bounded."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from sqlalchemy.orm import Session
from starlette.responses import HTMLResponse, Response, StreamingResponse

from sqla_jobs import inspection, lifecycle
from sqla_jobs.cron import Cron
from sqla_jobs.errors import InvalidSchedule
from sqla_jobs.inspection import Bucket, JobFilter
from sqla_jobs.lifecycle import ScheduleShown
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState
from sqla_jobs.scheduler import upcoming
from sqla_jobs.web import charts
from sqla_jobs.web.guard import Refused
from sqla_jobs.web.visit import Visit

PAGE: Final = 50
"""Jobs on a page."""
FAILURES: Final = 6
"""Of the overview."""
ATTEMPTS: Final = 30
"""Of a job, the last ones."""
TIMES: Final = 5
"""Next times of a schedule."""

SPANS: Final = {
    "15m": (dt.timedelta(minutes=15), 45, "15 minutes"),
    "1h": (dt.timedelta(hours=1), 60, "1 hour"),
    "6h": (dt.timedelta(hours=6), 72, "6 hours"),
    "24h": (dt.timedelta(hours=24), 72, "24 hours"),
    "7d": (dt.timedelta(days=7), 84, "7 days"),
}
"""What the charts can show: the whole, in how many columns, and its name."""

FIELDS: Final = ("task", "queue", "worker", "schedule", "arg", "error", "older_than", "newer_than")
_OWN: Final = ("cursor", "note")
_BIGINT: Final = 2**63 - 1


async def overview(visit: Visit) -> Response:
    """How it goes: states, throughput, latency, queues, workers, the last failures."""
    chosen = visit.asked("span", "1h")
    if chosen not in SPANS:
        raise Refused(400, f"There is no span of that name; expected one of {', '.join(SPANS)}.")
    queue = JobFilter.parse({"queue": visit.asked("queue")}).queue
    length, buckets, _ = SPANS[chosen]

    def read(session: Session, model: type[JobMixin]) -> dict[str, Any]:
        return {
            "states": inspection.count_states(session, model),
            "queues": inspection.list_queues(session, model),
            "workers": inspection.list_workers(session, model),
            "buckets": inspection.stats(session, model, span=length, buckets=buckets, queue=queue),
            "failures": inspection.list_jobs(
                session, model, JobFilter(states=(JobState.FAILED,), queue=queue), limit=FAILURES
            ).jobs,
        }

    found = await visit.read(read)
    found_buckets: list[Bucket] = found["buckets"]
    return visit.page(
        "overview.html",
        at="overview",
        spans=SPANS,
        chosen=chosen,
        queue=queue,
        throughput=charts.throughput(found_buckets),
        latency=charts.latency(found_buckets),
        totals={kind: _total(found_buckets, kind) for kind in ("succeeded", "failed", "cancelled")},
        **found,
    )


def _total(buckets: list[Bucket], kind: str) -> str:
    counts = [getattr(each, kind) for each in buckets]
    number = sum(each.number for each in counts)
    return f"{number:,}" if all(each.exact for each in counts) else f"{number:,}+"


async def jobs(visit: Visit) -> Response:
    """A page of jobs, by a filter."""
    where = JobFilter.parse([pair for pair in visit.query() if pair[0] not in _OWN])
    cursor = visit.asked("cursor") or None

    def read(
        session: Session, model: type[JobMixin]
    ) -> tuple[inspection.Page, dict[JobState, inspection.Count]]:
        found = inspection.list_jobs(session, model, where, cursor=cursor, limit=PAGE)
        return found, inspection.count_states(session, model)

    page, states = await visit.read(read)
    query = where.to_query()
    return visit.page(
        "jobs.html",
        at="jobs",
        where=where,
        query=query,
        coded=urlencode(query),
        others=[pair for pair in query if pair[0] != "state"],
        fields={name: [value for key, value in query if key == name] for name in FIELDS},
        page=page,
        states=states,
        first=cursor is None,
        tasks=sorted(visit.house.database.registry.tasks),
    )


async def job(visit: Visit) -> Response:
    """All about one job."""
    number = id_of(visit.request.path_params["id"])
    tasks = visit.house.database.registry.tasks

    def read(session: Session, model: type[JobMixin]) -> inspection.JobDetail | None:
        found = inspection.show_job(session, model, number)
        task = None if found is None else tasks.get(found.task)
        if task is not None and task.redact:  # its row may be from before the task said so
            found = inspection.show_job(session, model, number, redact=task.redact)
        if found is None or found.state != JobState.RUNNING:
            return found
        said = lifecycle.progress(session, model, number)  # while it runs, its worker's row has it
        return replace(found, progress=None if said is None else said.values())

    found = await visit.read(read)
    if found is None:
        raise Refused(404, f"There is no job {number}: it was pruned or deleted, or never was.")
    return visit.page("job.html", at="jobs", job=found, attempts=ATTEMPTS)


def id_of(text: str) -> int:
    """The id of a job.

    Raises:
        Refused: it cannot be one.
    """
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= _BIGINT):
        raise Refused(404, "There is no such job: its number is a whole one.")
    return int(text)


async def queues(visit: Visit) -> Response:
    """All queues."""
    found = await visit.read(inspection.list_queues)
    return visit.page("queues.html", at="queues", queues=found)


async def workers(visit: Visit) -> Response:
    """All worker processes."""
    found = await visit.read(inspection.list_workers)
    return visit.page("workers.html", at="workers", workers=found)


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule, and when it is due."""

    schedule: ScheduleShown
    times: tuple[dt.datetime, ...]
    zone: str
    problem: str | None
    """What is wrong with its rule."""


async def schedules(visit: Visit) -> Response:
    """All schedules."""
    found = await visit.read(lifecycle.list_schedules)
    return visit.page("schedules.html", at="schedules", rows=[_row(each, visit.now) for each in found])


def _row(schedule: ScheduleShown, now: dt.datetime) -> ScheduleRow:
    try:
        rule = schedule.rule()
        zone = rule.timezone if isinstance(rule, Cron) else "UTC"
        here = ZoneInfo(zone)
        moments = upcoming(schedule, now, TIMES) if schedule.enabled else []
        return ScheduleRow(schedule, tuple(each.astimezone(here) for each in moments), zone, None)
    except (InvalidSchedule, OverflowError) as error:
        return ScheduleRow(schedule, (), schedule.timezone, str(error))


async def keys(visit: Visit) -> Response:
    """The keys, and what the words mean."""
    return visit.page("help.html", at="help")


async def live(visit: Visit) -> Response:
    """The stream of what changes."""
    streams = visit.house.streams
    if streams is None:
        raise Refused(404, "These pages do not renew themselves.")
    if streams.full:
        raise Refused(503, "As many watch as may.")
    if visit.request.method == "HEAD":
        return HTMLResponse()
    return StreamingResponse(
        streams.events(visit.request),
        media_type="text/event-stream",
        headers={"cache-control": "no-store", "x-accel-buffering": "no"},
    )


async def nowhere(visit: Visit) -> Response:
    """There is no such page."""
    raise Refused(404, f"There is no page at this address. The dashboard begins at {visit.base}/.")
