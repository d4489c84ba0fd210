"""Pages that renew themselves: one look at the tables for all who watch, told to each of them as an event."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any, Final

import anyio
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session
from starlette.requests import Request

from sqla_jobs import inspection, lifecycle
from sqla_jobs.inspection import JobFilter
from sqla_jobs.models import JobMixin
from sqla_jobs.outcome import JobState
from sqla_jobs.web.database import Database
from sqla_jobs.web.guard import Refused

log = logging.getLogger("sqla_jobs")

STEP: Final = 0.5
"""Seconds: how soon a stream notices that its reader has gone, or that the server stops."""
LASTS: Final = 30.0
"""Seconds of a stream: then the browser asks for another, so that who may watch is asked again, and so that a
server that stops waits no longer than this for its readers."""
RENEWED: Final = 15.0
"""Seconds after which all parts are told to have changed: not all that is shown has a sign of its own."""
MOST: Final = 200
"""Streams at once."""


class Pulse:
    """What has changed in the tables, looked at once in an interval however many ask.

    Parameters:
        interval: seconds from one look to the next; there is none while nobody asks.
    """

    def __init__(self, database: Database, interval: float) -> None:
        self._database: Final = database
        self.interval: Final = interval
        self._looking: Final = threading.Lock()
        self._next = 0.0
        self._signs: dict[str, str] = {}

    async def signs(self) -> dict[str, str]:
        """A sign for each part of the pages: another one if what the part shows has changed."""
        # Who finds somebody else looking takes what there is, and gets theirs with the next step.
        if time.monotonic() >= self._next and self._looking.acquire(blocking=False):
            began = time.monotonic()
            try:
                self._signs, _ = await self._database.read(_signs)
            except (SQLAlchemyError, OSError, Refused) as error:
                log.debug("the dashboard's look at the tables has failed: %s", error)
                self._signs = {"away": "1"}
            finally:
                # A server that is slow to answer is asked less often: it works for us a fifth of the time.
                now = time.monotonic()
                self._next = now + max(self.interval - (now - began), 4 * (now - began))
                self._looking.release()
        return self._signs


def _signs(session: Session, model: type[JobMixin]) -> dict[str, str]:
    queues = inspection.list_queues(session, model)
    workers = inspection.list_workers(session, model)
    newest = [_first(session, model, JobFilter())]
    newest += [_first(session, model, JobFilter(states=(state,))) for state in JobState]
    schedules = lifecycle.list_schedules(session, model)
    return {
        "queues": _sign(queues),
        "workers": _sign(
            (each.id, each.alive, each.died_at, each.tasks, [run.job_id for run in each.running])
            for each in workers
        ),
        "running": _sign((run.job_id, run.progress) for each in workers for run in each.running),
        "jobs": _sign([*newest, *((each.name, each.queued, each.running) for each in queues)]),
        "schedules": _sign(schedules),
    }


def _first(session: Session, model: type[JobMixin], where: JobFilter) -> object:
    page = inspection.list_jobs(session, model, where, limit=1, look=10)
    return [(row.id, row.state, row.attempt, row.finished_at, row.started_at) for row in page.jobs]


def _sign(values: Iterable[Any]) -> str:
    return hashlib.sha256(repr(list(values)).encode()).hexdigest()[:12]


class Streams:
    """The streams of all who watch."""

    def __init__(self, pulse: Pulse) -> None:
        self._pulse: Final = pulse
        self._open = 0
        self._stopped = False

    def stop(self) -> None:
        """Let all streams end within half a second; for a server that is told to stop."""
        self._stopped = True

    @property
    def full(self) -> bool:
        """Whether as many are open as may be."""
        return self._open >= MOST

    async def events(self, request: Request) -> AsyncIterator[str]:
        """The events of one reader, until they go or `LASTS` is over."""
        self._open += 1
        try:
            async for event in self._events(request):
                yield event
        finally:
            self._open -= 1

    async def _events(self, request: Request) -> AsyncIterator[str]:
        ends = time.monotonic() + LASTS
        before = await self._pulse.signs()
        renewed = time.monotonic()
        yield "retry: 2000\nevent: hello\ndata: {}\n\n"
        while time.monotonic() < ends and not self._stopped:
            await anyio.sleep(min(STEP, self._pulse.interval))
            if await request.is_disconnected():
                return
            signs = await self._pulse.signs()
            if time.monotonic() - renewed >= RENEWED:
                before, renewed = signs, time.monotonic()
                yield 'event: changed\ndata: ["*"]\n\n'
            elif changed := sorted(part for part in signs if signs[part] != before.get(part)):
                before = signs
                yield f"event: changed\ndata: {json.dumps(changed)}\n\n"
