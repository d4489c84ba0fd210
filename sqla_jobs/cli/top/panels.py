"""The columns of each panel, and what is in them; the narrower the terminal, the fewer."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from rich.text import Text

from sqla_jobs.cli.printing import plain
from sqla_jobs.cli.top.facts import Panel, Snapshot
from sqla_jobs.cli.top.texts import Glyphs, fit, number, rate, span
from sqla_jobs.inspection import JobRow, QueueRow, WorkerRow
from sqla_jobs.meter import Progress

_BAR: Final = 12
"""Cells of a progress bar."""
Cell = tuple[str, str]
"""A text, not yet harmless, and its style."""


@dataclass(frozen=True)
class Look:
    """What cells are drawn with."""

    seen: Snapshot
    glyphs: Glyphs

    def progress(self, row: JobRow) -> Progress | None:
        """What the job's worker says of it, else what its row says."""
        if row.id in (said := _said_by_workers(self.seen.workers)):
            return Progress.loaded(said[row.id])
        return Progress.loaded(row.progress)


@dataclass(frozen=True)
class Column:
    """Of a panel.

    Parameters:
        width: in cells; a column that grows has at least these.
        rank: those of the highest are left out first where there is no room.
        grows: its share of what is left over.
        end: of what is cut, the end is kept.
    """

    title: str
    width: int
    cell: Callable[[Any, Look], Cell]
    rank: int = 0
    right: bool = False
    grows: int = 0
    end: bool = False


def _said_by_workers(workers: Sequence[WorkerRow]) -> Mapping[int, Any]:
    return {each.job_id: each.progress for row in workers for each in row.running if each.progress}


# -- cells ---------------------------------------------------------------------------------------------


def _queue_state(row: QueueRow, _: Look) -> Cell:
    return ("paused", "bold yellow") if row.paused_at is not None else ("", "")


def _queued(row: QueueRow, _: Look) -> Cell:
    return str(row.queued), "bold" if row.queued.number else "dim"


def _oldest(row: QueueRow, look: Look) -> Cell:
    if row.oldest is None:
        return "", ""
    age = look.seen.at - row.oldest
    return span(age), "red" if age > dt.timedelta(
        minutes=10
    ) else "yellow" if age.total_seconds() > 60 else ""


def _worker_name(row: WorkerRow, look: Look) -> Cell:
    glyphs = look.glyphs
    return f"{glyphs.alive if row.alive else glyphs.dead} {row.host}:{row.pid}", "" if row.alive else "red"


def _worker_state(row: WorkerRow, _: Look) -> Cell:
    return ("alive", "green") if row.alive else ("dead", "bold red")


def _busy(row: WorkerRow, _: Look) -> Cell:
    return f"{len(row.running)}/{row.threads}", "yellow" if len(row.running) >= row.threads else ""


def _heartbeat(row: WorkerRow, look: Look) -> Cell:
    return span(look.seen.at - row.heartbeat_at), ""


def _bar(row: JobRow, look: Look) -> Cell:
    said = look.progress(row)
    if said is None:
        return "", ""
    if said.fraction is None:
        return f"{number(said.done)} done", "cyan"
    full = int(said.fraction * _BAR)
    bar = look.glyphs.full * full + look.glyphs.empty * (_BAR - full)
    return f"{bar} {said.fraction * 100:3.0f}%", "green"


def _note(row: JobRow, look: Look) -> Cell:
    said = look.progress(row)
    return (said.note or "" if said is not None else ""), "dim"


def _attempt(row: JobRow, _: Look) -> Cell:
    most = "" if row.max_attempts is None else f"/{row.max_attempts}"
    return f"{row.attempt}{most}", "yellow" if row.attempt > 1 else ""


def _running_for(row: JobRow, look: Look) -> Cell:
    if row.cancel_requested_at is not None:
        return "cancel", "magenta"
    return ("", "") if row.started_at is None else (span(look.seen.at - row.started_at), "")


def _due(row: JobRow, look: Look) -> Cell:
    until = row.run_at - look.seen.at
    if row.state == "queued" or until <= dt.timedelta(0):
        return f"for {span(-until)}", ""
    return f"in {span(until)}", "blue"


def _over(row: JobRow, look: Look) -> Cell:
    return ("", "") if row.finished_at is None else (span(look.seen.at - row.finished_at), "")


def _job(title: str, cell: Callable[[Any, Look], Cell], width: int = 7) -> tuple[Column, ...]:
    """The columns that all panels of jobs have."""
    return (
        Column("task", 20, lambda row, _: (row.task, ""), grows=2, end=True),
        Column("id", 8, lambda row, _: (str(row.id), "cyan"), rank=2, right=True),
        Column("queue", 10, lambda row, _: (row.queue, "dim"), rank=3),
        Column("try", 5, _attempt, rank=4, right=True),
        Column(title, width, cell, rank=1, right=True),
    )


COLUMNS: Final[Mapping[Panel, tuple[Column, ...]]] = {
    Panel.QUEUES: (
        Column("queue", 12, lambda row, _: (row.name, ""), grows=1),
        Column("", 6, _queue_state),
        Column("queued", 7, _queued, right=True),
        Column("later", 7, lambda row, _: (str(row.scheduled), ""), rank=3, right=True),
        Column("run", 4, lambda row, _: (number(row.running), ""), rank=2, right=True),
        Column("oldest", 7, _oldest, rank=1, right=True),
        Column("/min", 6, lambda row, _: (rate(row.per_minute), ""), rank=2, right=True),
    ),
    Panel.WORKERS: (
        Column("worker", 16, _worker_name, grows=2),
        Column("", 5, _worker_state),
        Column("busy", 6, _busy, rank=1, right=True),
        Column("heard", 7, _heartbeat, rank=2, right=True),
        Column("queues", 10, lambda row, _: (", ".join(row.queues or ["any"]), "dim"), rank=3, grows=1),
    ),
    Panel.RUNNING: (
        *_job("for", _running_for),
        Column("progress", _BAR + 5, _bar, rank=2),
        Column("", 16, _note, rank=5, grows=1),
    ),
    Panel.WAITING: _job("due", _due, 11),
    Panel.FAILURES: (
        *_job("ago", _over),
        Column("error", 28, lambda row, _: (row.error or "", "red"), grows=10),
    ),
}  # fmt: skip


# -- rows ----------------------------------------------------------------------------------------------


def widths(columns: Sequence[Column], width: int) -> list[tuple[Column, int]]:
    """The columns that fit, in order, each with its width; a blank lies between two."""
    kept = list(columns)
    while len(kept) > 1 and sum(each.width + 1 for each in kept) - 1 > width:
        kept.remove(max(kept, key=lambda each: each.rank))
    left = width - sum(each.width + 1 for each in kept) + 1
    if left < 0:
        return [(kept[0], width)]
    shares = sum(each.grows for each in kept)
    found = []
    for each in kept:
        more = left * each.grows // shares if shares else 0
        left, shares = left - more, shares - each.grows
        found.append((each, each.width + more))
    return found


def head(panel: Panel, width: int, glyphs: Glyphs, title: str = "") -> Text:
    """The names of the columns; a title takes the place of the first one's."""
    shown = Text(style="bold")
    for index, (column, cells) in enumerate(widths(COLUMNS[panel], width)):
        name = title if title and index == 0 else column.title
        if index:
            shown.append(" ")
        shown.append(fit(name, cells, glyphs.cut, right=column.right and not (title and index == 0)))
    return _padded(shown, width)


def row(panel: Panel, value: Any, width: int, look: Look, *, marked: bool) -> Text:
    """One row of a panel."""
    shown = Text()
    for index, (column, cells) in enumerate(widths(COLUMNS[panel], width)):
        text, style = column.cell(value, look)
        if index:
            shown.append(" ")
        # Where it is marked, one style for all: reversed colours of many kinds cannot be read.
        shown.append(
            fit(plain(text), cells, look.glyphs.cut, right=column.right, end=column.end),
            "" if marked else style,
        )
    shown = _padded(shown, width)
    if marked:
        shown.stylize("reverse")
    return shown


def _padded(text: Text, width: int) -> Text:
    text.append(" " * max(0, width - text.cell_len))
    return text
