"""All that there is to read about one job, as lines of a width."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from rich.cells import cell_len, chop_cells
from rich.text import Text

from sqla_jobs.cli.printing import plain
from sqla_jobs.cli.top.texts import lines_of, span
from sqla_jobs.inspection import JobDetail

STATES: Final = {
    "scheduled": "blue",
    "queued": "cyan",
    "running": "yellow",
    "succeeded": "green",
    "failed": "red",
    "cancelled": "magenta",
}
"""The colour of each."""
_MARGIN: Final = 12


def lines(job: JobDetail, width: int, at: dt.datetime) -> list[Text]:
    """What is known of a job.

    Parameters:
        width: in cells; longer lines go on in the next.
        at: the time by the database's clock, which ages are counted to.
    """
    shown: list[Text] = []
    for name, value, style in _facts(job, at):
        shown += _wrapped(value, width, style, name)
    shown += _section("arguments", job.arguments, width)
    if job.result is not None:
        shown += _section("result", job.result, width)
    for age, each in enumerate(reversed(job.attempts)):
        shown += _attempt(each, width, whole=age == 0)
    return shown


def _facts(job: JobDetail, at: dt.datetime) -> Iterator[tuple[str, str, str]]:
    yield "task", job.task, "bold"
    yield "state", job.state, STATES.get(job.state, "")
    if job.cancel_requested_at is not None:
        yield "", f"asked to cancel {span(at - job.cancel_requested_at)} ago", "magenta"
    yield "queue", f"{job.queue}, priority {job.priority}", ""
    most = "" if job.max_attempts is None else f" of {job.max_attempts}"
    crashes = f", {job.crashes} of them ended with the worker" if job.crashes else ""
    yield "attempt", f"{job.attempt}{most}{crashes}", ""
    for name, moment in (
        ("created", job.created_at), ("run at", job.run_at), ("started", job.started_at),
        ("finished", job.finished_at),
    ):  # fmt: skip
        if moment is not None:
            yield name, _moment(moment, at), ""
    times = [
        f"{name} {span(value)}" for name, value in (("waited", job.wait), ("ran", job.duration)) if value
    ]
    if times:
        yield "", ", ".join(times), ""
    if job.progress:
        yield "progress", json.dumps(job.progress, ensure_ascii=False, default=str), ""
    for name, value in (
        ("timeout", span(job.timeout)), ("worker", job.worker), ("schedule", job.schedule),
        ("unique key", job.unique_key), ("limit key", job.limit_key),
    ):  # fmt: skip
        if value:
            yield name, str(value), ""


def _moment(moment: dt.datetime, at: dt.datetime) -> str:
    ago = at - moment
    told = f"{span(ago)} ago" if ago >= dt.timedelta(0) else f"in {span(-ago)}"
    return f"{moment.astimezone(dt.timezone.utc):%Y-%m-%d %H:%M:%S} UTC, {told}"


def _section(title: str, value: Any, width: int) -> list[Text]:
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
    shown = [Text(), Text(title, style="bold cyan")]
    for line in lines_of(text):
        shown += [Text(piece) for piece in _pieces(line, width)]
    return shown


def _attempt(attempt: Mapping[str, Any], width: int, *, whole: bool) -> list[Text]:
    told = [f"attempt {attempt.get('attempt', '?')}"]
    told += [
        f"{name} {str(value)[:19].replace('T', ' ')}"
        for name in ("started", "finished")
        if (value := attempt.get(f"{name}_at"))
    ]
    shown = [Text(), *_wrapped(", ".join(told), width, "bold cyan")]
    error = f"{attempt.get('error') or ''}: {attempt.get('message') or ''}".strip(": ")
    for line in lines_of(error):
        shown += [Text(piece, style="red") for piece in _pieces(line, width)]
    if whole and (trace := attempt.get("traceback")):
        for line in lines_of(str(trace)):
            shown += [Text(piece, style="dim") for piece in _pieces(line, width)]
    return shown


def _wrapped(value: str, width: int, style: str, name: str | None = None) -> list[Text]:
    """A value with its name before it, and beneath it what does not fit."""
    if name is None:
        return [Text(piece, style=style) for piece in _pieces(plain(value), width)]
    return [
        Text.assemble(((name if first == 0 else "").ljust(_MARGIN), "dim"), (piece, style))
        for first, piece in enumerate(_pieces(plain(value), width - _MARGIN))
    ]


def _pieces(line: str, width: int) -> list[str]:
    if cell_len(line) <= width:
        return [line]
    return chop_cells(line, max(width, 2))
