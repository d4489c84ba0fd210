"""What is done: each by a form that was checked, in bounded transactions, with a line in the audit log."""

from __future__ import annotations

import time
from typing import Final, Literal, cast
from urllib.parse import parse_qsl, urlencode

from sqlalchemy.orm import Session
from starlette.responses import Response

from sqla_jobs import inspection, lifecycle
from sqla_jobs.inspection import Acted, Count, JobFilter
from sqla_jobs.models import JobMixin, check_queue
from sqla_jobs.tasks import meta_text
from sqla_jobs.web.faults import fault_of
from sqla_jobs.web.guard import Refused
from sqla_jobs.web.pages import id_of
from sqla_jobs.web.shown import plural
from sqla_jobs.web.visit import Visit, missing, one

Verb = Literal["retry", "cancel", "delete"]
VERBS: Final[dict[str, str]] = {"retry": "retried", "cancel": "cancelled", "delete": "deleted"}

MOST: Final = 200
"""Jobs that can be ticked."""
BATCH: Final = 500
PATIENCE: Final = 8.0
"""Seconds for which one request goes on with a bulk action; then it asks whether to go on."""


async def confirm(visit: Visit) -> Response:
    """Ask before something is done to several jobs, and say to how many."""
    fields = await visit.form()
    verb = verb_of(fields)
    where, ids = _asked(fields)
    if where is not None:
        count: Count = await visit.read(lambda session, model: inspection.count_jobs(session, model, where))
        return visit.page(
            "confirm.html", at="jobs", verb=verb, past=VERBS[verb], count=count, query=where.to_query(),
            coded=urlencode(where.to_query()), ids=(),
        )  # fmt: skip
    back = _back(fields)
    if not ids:
        raise Refused(400, "No job is chosen: tick some, or take all that match.")
    return visit.page(
        "confirm.html", at="jobs", verb=verb, past=VERBS[verb], count=Count(len(ids), True), query=(),
        coded=back, ids=ids,
    )  # fmt: skip


async def act_on_jobs(visit: Visit) -> Response:
    """Retry, cancel or delete the jobs that are given, or all that match a filter; some thousand at once."""
    fields = await visit.form()
    verb = verb_of(fields)
    where, ids = _asked(fields)
    cursor = next((value for key, value in fields if key == "cursor"), None) or None
    before = _number(fields, "done")
    if where is None and not ids:
        raise Refused(400, "No job is chosen.")
    total, passed = 0, _left(fields)
    ends = time.monotonic() + PATIENCE
    what = f"{verb} " + (
        f"jobs {' '.join(map(str, ids))}"
        if where is None
        else f"jobs where {urlencode(where.to_query()) or 'any'}"
    )
    try:
        while True:
            acted = await _batch(visit, verb, where, ids, cursor)
            total += acted.done
            for reason, number in acted.passed.items():
                passed[reason] = passed.get(reason, 0) + number
            cursor = acted.next
            if where is None or cursor is None or time.monotonic() > ends:
                break
    except Exception as error:
        if not before + total:
            raise
        fault = fault_of(error)
        told = _told(verb, before + total, passed)
        raise Refused(fault.status, f"{fault.reason} Until then: {told}; the rest is not.") from error
    finally:  # what was committed was done, whatever comes then
        visit.audit(what, total)
    if where is not None and cursor is not None:
        return visit.page(
            "more.html", at="jobs", verb=verb, past=VERBS[verb], done=before + total, passed=passed,
            cursor=cursor, coded=urlencode(where.to_query()), left=urlencode(passed),
        )  # fmt: skip
    return visit.done(_after(verb, ids, fields, where), _told(verb, before + total, passed))


async def _batch(
    visit: Visit, verb: Verb, where: JobFilter | None, ids: tuple[int, ...], cursor: str | None
) -> Acted:
    def act(session: Session, model: type[JobMixin]) -> Acted:
        if where is None:
            return inspection.act(session, model, verb, ids=ids, limit=BATCH)
        return inspection.act(session, model, verb, where=where, cursor=cursor, limit=BATCH)

    return await visit.write(act)


def _told(verb: Verb, done: int, passed: dict[str, int]) -> str:
    told = f"{plural(done, 'job')} {VERBS[verb]}"
    if passed:
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in sorted(passed.items()))
        told += f"; left as they are: {reasons}"
    return told


def _after(verb: Verb, ids: tuple[int, ...], fields: list[tuple[str, str]], where: JobFilter | None) -> str:
    """Where to go when it is done."""
    if where is not None:
        query = urlencode(where.to_query())
    elif any(key == "one" for key, _ in fields) and verb != "delete":
        return f"/jobs/{ids[0]}"
    else:
        query = _back(fields)
    return f"/jobs?{query}" if query else "/jobs"


def verb_of(fields: list[tuple[str, str]]) -> Verb:
    """What is to be done.

    Raises:
        Refused: it is nothing that can be.
    """
    verb = one(fields, "verb")
    if verb not in VERBS:
        raise Refused(400, f"There is no such action; expected one of {', '.join(VERBS)}.")
    return cast(Verb, verb)


def _asked(fields: list[tuple[str, str]]) -> tuple[JobFilter | None, tuple[int, ...]]:
    """A filter, or the jobs that were ticked."""
    if any(key == "all" for key, _ in fields):
        return _filter(one(fields, "where")), ()
    ids = tuple(dict.fromkeys(id_of(value) for key, value in fields if key == "id"))
    if len(ids) > MOST:
        raise Refused(400, f"At most {MOST} jobs can be ticked; take all that match instead.")
    return None, ids


def _back(fields: list[tuple[str, str]]) -> str:
    """The list that the form was on, in the form that only a filter has."""
    where = next((value for key, value in fields if key == "where"), "")
    return urlencode(_filter(where).to_query())


def _filter(where: str) -> JobFilter:
    return JobFilter.parse(parse_qsl(where, keep_blank_values=True))


def _number(fields: list[tuple[str, str]], name: str) -> int:
    text = next((value for key, value in fields if key == name), "0")
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        missing(name)
    return int(text)


def _left(fields: list[tuple[str, str]]) -> dict[str, int]:
    """How many the requests before this one have left as they are, by the reason."""
    text = next((value for key, value in fields if key == "left"), "")
    return {reason: _number([("left", number)], "left") for reason, number in parse_qsl(text)}


async def act_on_queue(visit: Visit) -> Response:
    """Pause or resume a queue."""
    fields = await visit.form()
    verb, name = one(fields, "verb"), check_queue(one(fields, "queue"))
    if verb == "pause":
        new = await visit.write(lambda session, model: lifecycle.pause(session, model, name))
        told = f"Queue {name} is paused" if new else f"Queue {name} was paused already"
    elif verb == "resume":
        new = await visit.write(lambda session, model: lifecycle.resume(session, model, name))
        told = f"Queue {name} goes on" if new else f"Queue {name} was not paused"
    else:
        raise Refused(400, "There is no such action; expected pause or resume.")
    visit.audit(f"{verb} queue {name}", int(new))
    return visit.done("/queues", told)


async def act_on_schedule(visit: Visit) -> Response:
    """Run a schedule now, or switch it on or off."""
    fields = await visit.form()
    verb, name = one(fields, "verb"), one(fields, "schedule")
    if verb == "run":
        made = await visit.write(lambda session, model: _run(visit, session, model, name))
        found, told = made is not None, made and f"Job {made[0]} of schedule {name} is in queue {made[1]}"
    elif verb in ("enable", "disable"):
        enabled = verb == "enable"
        found = await visit.write(
            lambda session, model: lifecycle.switch_schedule(session, model, name, enabled=enabled)
        )
        told = f"Schedule {name} is switched {'on' if enabled else 'off'}"
    else:
        raise Refused(400, "There is no such action; expected run, enable or disable.")
    visit.audit(f"{verb} schedule {name}", int(found))
    if not found or told is None:
        raise Refused(404, "There is no schedule of that name: it was removed.")
    return visit.done("/schedules", told)


def _run(visit: Visit, session: Session, model: type[JobMixin], name: str) -> tuple[int, str] | None:
    row = next((each for each in lifecycle.list_schedules(session, model) if each.name == name), None)
    task = None if row is None else visit.house.database.registry.tasks.get(row.task)
    return lifecycle.run_schedule(
        session,
        model,
        name,
        queue=None if task is None else task.options.queue,
        priority=None if task is None else task.options.priority,
        meta=None if task is None else meta_text(task.redact),
    )


async def leave(visit: Visit) -> Response:
    """End the session of a dashboard that stands alone."""
    await visit.sent()
    assert visit.house.door is not None
    visit.audit("logout", 1)
    return visit.house.door.close(visit.request)
