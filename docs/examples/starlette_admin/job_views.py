"""Views of jobs and schedules for starlette-admin: copy this file into your application.

admin.add_view(JobView(jobs))
admin.add_view(ScheduleView(jobs))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio.to_thread
from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session
from starlette.requests import Request
from starlette_admin import BaseField, EnumField, JSONField, StringField, TextAreaField
from starlette_admin.actions import ActionSelection, action
from starlette_admin.contrib.sqla import ModelView
from starlette_admin.contrib.sqla.filters import build_filter_clause
from starlette_admin.exceptions import ActionFailed
from starlette_admin.filters import FilterGroup
from starlette_admin.flash import flash

from sqla_jobs import JobState
from sqla_jobs.errors import DuplicateJob, JobNotFound
from sqla_jobs.jobs import Jobs

MOST = 10_000
"""So many rows are counted, and can be paged through: a count of a million takes longer than the page."""

STATES = [(each.value, each.value) for each in JobState]


class MaskedArguments(JSONField):
    """The arguments, without the values that the task's ``redact=`` names: in details and exports."""

    async def parse_obj(self, request: Request, obj: Any) -> Any:
        hidden = (obj.meta or {}).get("redact", ())
        return {name: "[redacted]" if name in hidden else value for name, value in obj.arguments.items()}


class Span(StringField):
    """An interval: starlette-admin takes its column for a point in time."""

    async def serialize_value(self, request: Request, value: Any) -> str:
        return str(value)


class Attempts(TextAreaField):
    """Attempts that did not succeed, the last one first, with their tracebacks."""

    async def parse_obj(self, request: Request, obj: Any) -> str:
        told = []
        for each in reversed(obj.attempts):
            head = f"{each.get('attempt')}. {each.get('error') or ''}: {each.get('message') or ''}"
            told.append(f"{head}\n{each.get('traceback') or ''}")
        return "\n".join(told)


class Looking(ModelView):
    """A view that writes nothing but by its actions."""

    page_size = 25
    page_size_options = [25, 50, 100]
    action_select_all_limit = 500

    # A row is written by the library, which knows who else is at it, and what follows from a change.
    def can_create(self, request: Request) -> bool:
        return False

    def can_edit(self, request: Request) -> bool:
        return False

    def can_delete(self, request: Request) -> bool:
        return False

    def can_import(self, request: Request) -> bool:
        return False

    async def count(self, request: Request, q: str | None = None, filters: FilterGroup | None = None) -> int:
        found = select(self.model)
        if q is not None:
            found = found.where(await self.build_full_text_search_query(request, q, self.model))
        if filters is not None and not filters.is_empty():
            fields: dict[str, BaseField] = {field.name: field for field in self.get_fields_list(request)}
            clause = build_filter_clause(filters, fields, self.get_filter_registry(), self, request)
            if clause is not None:
                found = found.where(clause)
        bounded = select(func.count()).select_from(found.limit(MOST).subquery())
        session = request.state.session
        if isinstance(session, AsyncSession):
            return int((await session.execute(bounded)).scalar_one())
        return int((await anyio.to_thread.run_sync(session.execute, bounded)).scalar_one())

    async def act(
        self, request: Request, selection: ActionSelection, verb: Callable[[Session, Any], object]
    ) -> None:
        """Call a verb for each row that is selected, in the request's transaction, and say what was done."""
        keys = [self._pk_coerce(each) for each in await selection.pks()]
        if len(keys) > self.action_select_all_limit:
            raise ActionFailed(f"More than {self.action_select_all_limit} rows: select fewer.")

        def each(session: Session) -> Counter[str]:
            return Counter(outcome(verb, session, key) for key in keys)

        session = request.state.session
        if isinstance(session, AsyncSession):
            done = await session.run_sync(each)
        else:
            done = await anyio.to_thread.run_sync(each, session)
        flash(request, ", ".join(f"{number} {what}" for what, number in done.items()), "info")


def outcome(verb: Callable[[Session, Any], object], session: Session, key: Any) -> str:
    """What a verb says that it did, in a word."""
    try:
        done = verb(session, key)
    except JobNotFound:
        return "gone"
    except DuplicateJob:
        return "not begun: another job has its unique key"
    return str(getattr(done, "value", done))


class JobView(Looking):
    """Jobs: the newest first, with filters, and the verbs as actions."""

    def __init__(self, jobs: Jobs[Any]) -> None:
        self.jobs = jobs
        super().__init__(jobs.model, icon="fa fa-gears", menu_label="Jobs", display_name="Job")

    key = "job"
    fields = [
        *("id", StringField("task"), EnumField("state", choices=STATES), StringField("queue")),
        *("attempt", "run_at", "finished_at"),
        MaskedArguments("arguments", exclude_from_list=True),
        *("priority", "max_attempts", "crashes", Span("timeout"), "worker_id"),
        *("created_at", "started_at", "cancel_requested_at"),
        *("unique_key", "limit_key", "schedule_id", "tick_at", "progress", "result"),
        Attempts("attempts", exclude_from_list=True),
    ]
    exclude_fields_from_list = [
        *("priority", "max_attempts", "crashes", "timeout", "worker_id", "created_at", "started_at"),
        *("cancel_requested_at", "unique_key", "limit_key", "schedule_id", "tick_at", "progress", "result"),
    ]
    # By the primary key only: no other column has an index that all jobs are in.
    sortable_fields = ["id"]
    fields_default_sort = [("id", True)]
    # Not the arguments: whoever may compare a masked value with others can find it out.
    searchable_fields = ["task", "state", "queue"]
    actions = ["retry", "cancel", "remove"]
    row_actions = ["view"]

    @action("retry", "Retry", "Run these jobs once more?")
    async def retry(self, request: Request, selection: ActionSelection) -> None:
        await self.act(request, selection, self.jobs.retry)

    @action("cancel", "Cancel", "Cancel these jobs? Those that run are interrupted.")
    async def cancel(self, request: Request, selection: ActionSelection) -> None:
        await self.act(request, selection, self.jobs.cancel)

    @action("remove", "Delete", "Delete these jobs for good? Those that run are left alone.")
    async def remove(self, request: Request, selection: ActionSelection) -> None:
        await self.act(request, selection, self.jobs.delete)


class ScheduleView(Looking):
    """Schedules: when they are due, a run by hand, and the switch."""

    def __init__(self, jobs: Jobs[Any]) -> None:
        self.jobs = jobs
        super().__init__(
            jobs.Schedule, icon="fa fa-calendar", menu_label="Schedules", display_name="Schedule"
        )

    key = "schedule"
    fields = [
        *("id", "name", "task", "cron", "timezone", Span("every"), "enabled", "next_run_at", "last_tick_at"),
        *("arguments", "queue", "priority", "max_attempts", Span("timeout"), Span("jitter")),
        *("catch_up", "overlap"),
    ]
    exclude_fields_from_list = [
        *("arguments", "queue", "priority", "max_attempts", "timeout", "jitter", "catch_up", "overlap"),
    ]
    sortable_fields = ["name", "next_run_at"]
    fields_default_sort = ["name"]
    searchable_fields = ["name", "task"]
    actions = ["run", "enable", "disable"]
    row_actions = ["view"]

    @action("run", "Run now", "Make a job of these schedules now?")
    async def run(self, request: Request, selection: ActionSelection) -> None:
        def run(session: Session, key: int) -> str:
            name = self.named(session, key)
            job_id = None if name is None else self.jobs.run_schedule(session, name)
            return "gone" if job_id is None else f"enqueued as job {job_id}"

        await self.act(request, selection, run)

    @action("enable", "Enable")
    async def enable(self, request: Request, selection: ActionSelection) -> None:
        await self.act(request, selection, self.switch(True))

    @action("disable", "Disable", "Make no more jobs of these schedules?")
    async def disable(self, request: Request, selection: ActionSelection) -> None:
        await self.act(request, selection, self.switch(False))

    def switch(self, enabled: bool) -> Callable[[Session, int], str]:
        def switch(session: Session, key: int) -> str:
            name = self.named(session, key)
            found = name is not None and self.jobs.switch_schedule(session, name, enabled=enabled)
            return ("enabled" if enabled else "disabled") if found else "gone"

        return switch

    def named(self, session: Session, key: int) -> str | None:
        return session.scalar(select(self.model.name).where(self.model.id == key))
