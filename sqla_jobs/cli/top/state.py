"""What is on the screen, and what a key makes of it. Pure: knows neither a terminal nor a database."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sqla_jobs.cli.top import job as one_job
from sqla_jobs.cli.top.facts import (
    Action,
    Away,
    Command,
    Do,
    Event,
    Fresh,
    Key,
    Look,
    Panel,
    Quit,
    Resized,
    Said,
    Silent,
    Snapshot,
    Wish,
)
from sqla_jobs.inspection import JobRow, QueueRow, WorkerRow

PAGE: Final = 10
"""Rows that a page key moves by, in a list."""
DETAIL_FRAME: Final = 3
"""Rows of the screen that are not the job's own when one job is shown."""
FILTER_LIMIT: Final = 100
_MOVES: Final = {
    "up": -1, "k": -1, "down": 1, "j": 1, "pageup": -PAGE, "pagedown": PAGE, "home": -math.inf,
    "g": -math.inf, "end": math.inf, "G": math.inf,
}  # fmt: skip
_YES: Final = ("y", "Y")
_NO: Final = ("n", "N", "escape", "q", "enter")
_WRONG_PLACE: Final = {
    "p": "p pauses or resumes a queue: choose one among the queues",
    "r": "r runs a job once more: choose one among the failures, or one that waits",
    "c": "c cancels a job: choose one that runs or waits",
}


@dataclass(frozen=True)
class Chosen:
    """The row that is marked: by its key, and where that is gone, by where it was."""

    index: int = 0
    key: object = None


@dataclass(frozen=True)
class State:
    """Everything that a frame shows."""

    place: str
    """Which database."""
    interval: float
    """Seconds between two looks."""
    read_only: bool = False
    width: int = 80
    height: int = 24
    snapshot: Snapshot | None = None
    away: Away | None = None
    """Why the last try to read the database failed."""
    silent: Silent | None = None
    focus: Panel = Panel.QUEUES
    chosen: Mapping[Panel, Chosen] = field(default_factory=dict)
    wish: Wish = field(default_factory=Wish)
    typing: str | None = None
    """The filter that is being typed."""
    asking: Action | None = None
    """What waits for a yes."""
    said: Said | None = None
    help: bool = False
    scroll: int = 0
    """Lines of the job shown that are above the screen."""

    def rows(self, panel: Panel) -> list[Any]:
        """What a panel holds, filtered."""
        if self.snapshot is None:
            return []
        if panel is Panel.QUEUES:
            return [row for row in self.snapshot.queues if self.wish.matches(row.name)]
        if panel is Panel.WORKERS:
            return list(self.snapshot.workers)
        return [row for row in self.snapshot.jobs.get(panel, ()) if self.wish.matches(row.task, row.queue)]

    def marked(self, panel: Panel) -> int:
        """The index of a panel's marked row; 0 if it has none."""
        rows = self.rows(panel)
        chosen = self.chosen.get(panel, Chosen())
        for index, row in enumerate(rows):
            if key_of(row) == chosen.key:
                return index
        return max(0, min(chosen.index, len(rows) - 1))

    @property
    def gone(self) -> bool:
        """Whether the job that is asked for is not there."""
        seen = self.snapshot
        return seen is not None and seen.wish.job == self.wish.job and seen.detail is None

    def current(self) -> Any:
        """The marked row of the panel in focus; None: it has none."""
        rows = self.rows(self.focus)
        return rows[self.marked(self.focus)] if rows else None


Step = tuple[State, list[Command]]


def key_of(row: QueueRow | WorkerRow | JobRow) -> object:
    """What a row is known by from one look to the next."""
    return row.name if isinstance(row, QueueRow) else row.id


def step(state: State, event: Event) -> Step:
    """What follows from an event: the next state, and what is to be done outside of it."""
    if isinstance(event, Key):
        return _key(state, event.name)
    if isinstance(event, Resized):
        return _within(replace(state, width=event.width, height=event.height)), []
    if isinstance(event, Fresh):
        return _fresh(state, event), []
    if isinstance(event, Away):
        return replace(state, away=event, silent=None), []
    if isinstance(event, Silent):
        return replace(state, silent=event), []
    return replace(state, said=event), []


def _fresh(state: State, event: Fresh) -> State:
    seen = _completed(event.snapshot, state)
    before = replace(state, snapshot=seen, away=None, silent=None)
    chosen = {}
    for panel in Panel:
        rows = before.rows(panel)
        index = before.marked(panel)
        chosen[panel] = Chosen(index, key_of(rows[index])) if rows else state.chosen.get(panel, Chosen())
    return _within(replace(before, chosen=chosen))


def _completed(seen: Snapshot, state: State) -> Snapshot:
    """With the parts of before for those that are late, or were read for what is not asked for any more."""
    last = state.snapshot
    if last is None:
        return seen
    parts: dict[str, Any] = {
        name: getattr(last, name) for name in ("queues", "workers", "buckets", "states") if name in seen.late
    }
    parts["jobs"] = {**{panel: rows for panel, rows in last.jobs.items() if panel in seen.late}, **seen.jobs}
    parts["more"] = seen.more | {panel for panel in last.more if panel in seen.late}
    if "detail" in seen.late or seen.wish.job != state.wish.job:
        parts |= {"detail": last.detail, "wish": last.wish}
    return replace(seen, **parts)


# -- keys ----------------------------------------------------------------------------------------------


def _key(state: State, name: str) -> Step:
    if state.asking is not None:
        return _answer(state, state.asking, name)
    if state.typing is not None:
        return _type(state, state.typing, name)
    state = replace(state, said=None)
    if state.help:
        return replace(state, help=False), []
    if name == "?":
        return replace(state, help=True), []
    if name == " ":
        return state, [Look(state.wish)]
    if state.wish.job is not None:
        return _in_job(state, name)
    return _in_list(state, name)


def _answer(state: State, asked: Action, name: str) -> Step:
    if name in _YES:
        told = Said(f"{asked.verb} {asked.named} …")
        return replace(state, asking=None, said=told), [Do(asked)]
    if name in _NO:
        return replace(state, asking=None, said=Said("nothing was done")), []
    return state, []


def _type(state: State, typed: str, name: str) -> Step:
    if name == "enter":
        return replace(state, typing=None), []
    if name == "escape":
        return _filter(replace(state, typing=None), "")
    if name == "backspace":
        if not typed:
            return replace(state, typing=None), []
        return _filter(replace(state, typing=typed[:-1]), typed[:-1])
    if name == "clear":
        return _filter(replace(state, typing=""), "")
    if len(name) == 1 and len(typed) < FILTER_LIMIT:
        return _filter(replace(state, typing=typed + name), typed + name)
    return state, []


def _filter(state: State, text: str) -> Step:
    wish = replace(state.wish, filter=text)
    if wish == state.wish:
        return state, []
    return replace(state, wish=wish), [Look(wish)]


def _in_list(state: State, name: str) -> Step:
    if name == "q":
        return state, [Quit()]
    if name in _MOVES:
        return _move(state, _MOVES[name]), []
    if name in ("tab", "right", "l", "backtab", "left", "h"):
        return _turn(state, -1 if name in ("backtab", "left", "h") else 1), []
    if name == "/":
        return replace(state, typing=state.wish.filter), []
    if name == "escape":
        return _filter(state, "")
    if name == "enter":
        return _enter(state)
    if name in _WRONG_PLACE:
        return _ask(state, name, state.current() if _suits(state.focus, name) else None), []
    return state, []


def _move(state: State, by: float) -> State:
    rows = state.rows(state.focus)
    if not rows:
        return state
    index = int(max(0, min(state.marked(state.focus) + by, len(rows) - 1)))
    return replace(state, chosen={**state.chosen, state.focus: Chosen(index, key_of(rows[index]))})


def _turn(state: State, by: int) -> State:
    panels = list(Panel)
    return replace(state, focus=panels[(panels.index(state.focus) + by) % len(panels)])


def _enter(state: State) -> Step:
    row = state.current()
    if row is None:
        return state, []
    if isinstance(row, QueueRow):
        return _filter(state, row.name)
    if isinstance(row, WorkerRow):
        if not row.running:
            return replace(state, said=Said("this worker runs nothing", good=False)), []
        return _open(state, row.running[0].job_id)
    return _open(state, row.id)


def _open(state: State, job_id: int) -> Step:
    wish = replace(state.wish, job=job_id)
    return replace(state, wish=wish, scroll=0), [Look(wish)]


def _suits(panel: Panel, name: str) -> bool:
    return {
        "p": panel is Panel.QUEUES,
        "r": panel in (Panel.FAILURES, Panel.WAITING),
        "c": panel in (Panel.RUNNING, Panel.WAITING),
    }[name]


def _ask(state: State, name: str, row: Any) -> State:
    if row is None:
        return replace(state, said=Said(_WRONG_PLACE[name], good=False))
    if state.read_only:
        return replace(state, said=Said("read-only: started with --read-only", good=False))
    if isinstance(row, QueueRow):
        return replace(state, asking=Action("pause" if row.paused_at is None else "resume", row.name))
    about = f" ({row.task}, {row.state})"
    return replace(state, asking=Action("retry" if name == "r" else "cancel", row.id, about))


# -- one job -------------------------------------------------------------------------------------------


def _in_job(state: State, name: str) -> Step:
    if name in ("escape", "q", "enter", "backspace", "left", "h"):
        wish = replace(state.wish, job=None)
        seen = None if state.snapshot is None else replace(state.snapshot, detail=None)
        return replace(state, wish=wish, snapshot=seen, scroll=0), [Look(wish)]
    if name in _MOVES:
        by = _MOVES[name]
        by *= (state.height - DETAIL_FRAME) / PAGE if abs(by) == PAGE else 1
        return _within(replace(state, scroll=int(max(0, min(state.scroll + by, 1_000_000))))), []
    if name in ("r", "c"):
        return _ask(state, name, None if state.snapshot is None else state.snapshot.detail), []
    return state, []


def _within(state: State) -> State:
    """Not scrolled farther than there are lines."""
    seen = state.snapshot
    if seen is None or seen.detail is None:
        return state
    most = len(one_job.lines(seen.detail, state.width - 2, seen.at)) - (state.height - DETAIL_FRAME)
    return replace(state, scroll=max(0, min(state.scroll, most)))
