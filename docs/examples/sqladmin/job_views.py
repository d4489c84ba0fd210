"""Views of jobs and schedules for sqladmin: copy this file into your application.

for view in views(jobs):
    admin.add_view(view)
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import anyio.to_thread
from markupsafe import Markup
from sqladmin import ModelView, action
from sqladmin.filters import OperationColumnFilter, StaticValuesFilter
from sqladmin.flash import Flash
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session
from starlette.datastructures import URL
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from sqla_jobs import JobState
from sqla_jobs.errors import DuplicateJob, JobNotFound
from sqla_jobs.jobs import Jobs

MOST = 10_000
"""So many rows are counted, and can be paged through: a count of a million takes longer than the page."""


class Looking(ModelView):
    """A view that writes nothing but by its actions."""

    # A row is written by the library, which knows who else is at it, and what follows from a change.
    can_create = can_edit = can_delete = False
    # sqladmin exports what is in the columns, without the formatters that mask it, and all rows at once.
    can_export = False
    page_size = 25
    page_size_options = (25, 50, 100)
    category = "Background jobs"

    async def count(self, request: Request, stmt: Select[Any] | None = None) -> int:
        found = select(self.model) if stmt is None else stmt.get_final_froms()[0].element
        bounded = found.order_by(None).limit(MOST).subquery()
        return await super().count(request, select(func.count()).select_from(bounded))

    async def act(self, request: Request, verb: Callable[[Session, int], object]) -> Response:
        """Call a verb for each row that is ticked, in one transaction, and say what was done."""
        if not from_our_page(request):
            raise HTTPException(403, "An action is begun on a page of this admin.")
        try:
            ids = [int(each) for each in request.query_params.get("pks", "").split(",") if each]
        except ValueError:
            raise HTTPException(400, "Not the id of a row.") from None
        if len(ids) > max(self.page_size_options):
            raise HTTPException(400, "More rows than a page has.")

        def each(session: Session) -> Counter[str]:
            return Counter(outcome(verb, session, row_id) for row_id in ids)

        done = await self.in_transaction(each)
        told = ", ".join(f"{number} {what}" for what, number in done.items())
        Flash.info(request, told or "Nothing was selected.")
        return RedirectResponse(request.url_for("admin:list", identity=self.identity), 303)

    async def in_transaction(self, work: Callable[[Session], Counter[str]]) -> Counter[str]:
        if self.is_async:
            async with self.session_maker.begin() as session:
                return await session.run_sync(work)

        def own() -> Counter[str]:
            with self.session_maker.begin() as session:
                return work(session)

        return await anyio.to_thread.run_sync(own)


def outcome(verb: Callable[[Session, int], object], session: Session, row_id: int) -> str:
    """What a verb says that it did, in a word."""
    try:
        done = verb(session, row_id)
    except JobNotFound:
        return "gone"
    except DuplicateJob:
        return "not begun: another job has its unique key"
    return str(getattr(done, "value", done))


def from_our_page(request: Request) -> bool:
    """Whether a click on one of our own pages led here: any site can link to a GET, and actions are GETs.

    `Sec-Fetch-Site` is what browsers send with HTTPS and on localhost; elsewhere they send the Referer.
    """
    site = request.headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    referer = URL(request.headers.get("referer", ""))
    return (referer.scheme, referer.netloc) == (request.url.scheme, request.url.netloc)


def text(value: object) -> Markup:
    """JSON to be read; escaped, since Markup's `format` does that."""
    if value is None:
        return Markup("")
    told = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    return Markup("<pre>{}</pre>").format(told)


def arguments(job: Any, _: object) -> Markup:
    """The arguments, without the values that the task's ``redact=`` names."""
    hidden = (job.meta or {}).get("redact", ())
    return text({name: "[redacted]" if name in hidden else value for name, value in job.arguments.items()})


def attempts(job: Any, _: object) -> Markup:
    """Attempts that did not succeed, the last one first, with their tracebacks."""
    told = []
    for each in reversed(job.attempts):
        head = f"{each.get('attempt')}. {each.get('error') or ''}: {each.get('message') or ''}"
        told.append(f"{head}\n{each.get('traceback') or ''}")
    return Markup("<pre>{}</pre>").format("\n".join(told))


def rule(schedule: Any, _: object) -> str:
    """When it is due."""
    return f"{schedule.cron} ({schedule.timezone})" if schedule.cron else f"every {schedule.every}"


def views(jobs: Jobs[Any]) -> Iterable[type[ModelView]]:
    """The views of this queue's jobs and schedules, of its own models."""
    return [jobs_view(jobs), schedules_view(jobs)]


def jobs_view(jobs: Jobs[Any]) -> type[ModelView]:
    job = jobs.model

    class JobAdmin(Looking, model=job):
        name = "Job"
        name_plural = "Jobs"
        icon = "fa-solid fa-gears"
        column_list = [job.id, job.task, job.state, job.queue, job.attempt, job.run_at, job.finished_at]
        # By the primary key only: no other column has an index that all jobs are in.
        column_sortable_list = [job.id]
        column_default_sort = [(job.id, True)]
        # No search: what is not exact would read every job there is, whatever is found.
        column_filters = [
            StaticValuesFilter(job.state, [(each.value, each.value) for each in JobState]),
            OperationColumnFilter(job.task),
            OperationColumnFilter(job.queue),
        ]
        column_details_list = [
            *(job.id, job.task, job.arguments, job.state, job.queue, job.priority, job.run_at),
            *(job.attempt, job.max_attempts, job.crashes, job.timeout, job.worker_id, job.progress),
            *(job.created_at, job.started_at, job.finished_at, job.cancel_requested_at),
            *(job.unique_key, job.limit_key, job.schedule_id, job.tick_at, job.result, job.attempts),
        ]
        column_formatters_detail = {
            job.arguments: arguments,
            job.attempts: attempts,
            job.progress: lambda row, _: text(row.progress),
            job.result: lambda row, _: text(row.result),
        }

        @action("retry", "Retry", "Run these jobs once more?")
        async def retry(self, request: Request) -> Response:
            return await self.act(request, jobs.retry)

        @action("cancel", "Cancel", "Cancel these jobs? Those that run are interrupted.")
        async def cancel(self, request: Request) -> Response:
            return await self.act(request, jobs.cancel)

        @action("remove", "Delete", "Delete these jobs for good? Those that run are left alone.")
        async def remove(self, request: Request) -> Response:
            return await self.act(request, jobs.delete)

    return JobAdmin


def schedules_view(jobs: Jobs[Any]) -> type[ModelView]:
    schedule: Any = jobs.Schedule

    def named(session: Session, row_id: int) -> str | None:
        return session.scalar(select(schedule.name).where(schedule.id == row_id))

    def run(session: Session, row_id: int) -> str:
        name = named(session, row_id)
        job_id = None if name is None else jobs.run_schedule(session, name)
        return "gone" if job_id is None else f"enqueued as job {job_id}"

    def switch(enabled: bool) -> Callable[[Session, int], str]:
        def one(session: Session, row_id: int) -> str:
            name = named(session, row_id)
            found = name is not None and jobs.switch_schedule(session, name, enabled=enabled)
            return ("enabled" if enabled else "disabled") if found else "gone"

        return one

    class ScheduleAdmin(Looking, model=schedule):
        name = "Schedule"
        name_plural = "Schedules"
        icon = "fa-solid fa-calendar-days"
        column_list = [
            *(schedule.name, schedule.task, "rule", schedule.enabled),
            *(schedule.next_run_at, schedule.last_tick_at),
        ]
        column_sortable_list = [schedule.name, schedule.next_run_at]
        column_default_sort = "name"
        column_formatters = {"rule": rule}
        column_details_exclude_list = [schedule.definition]
        column_formatters_detail = {schedule.arguments: lambda row, _: text(row.arguments)}

        @action("run", "Run now", "Make a job of these schedules now?")
        async def run(self, request: Request) -> Response:
            return await self.act(request, run)

        @action("enable", "Enable")
        async def enable(self, request: Request) -> Response:
            return await self.act(request, switch(True))

        @action("disable", "Disable", "Make no more jobs of these schedules?")
        async def disable(self, request: Request) -> Response:
            return await self.act(request, switch(False))

    return ScheduleAdmin
