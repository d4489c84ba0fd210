"""The first lines of the screen: which database, how it goes, how much was done."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from typing import Final

from rich.text import Text

from sqla_jobs.cli.printing import plain
from sqla_jobs.cli.top.facts import Snapshot
from sqla_jobs.cli.top.job import STATES
from sqla_jobs.cli.top.state import State
from sqla_jobs.cli.top.texts import Glyphs, fit, rate, span
from sqla_jobs.inspection import Bucket

_NAME: Final = " sqla-jobs top "
_MINUTE: Final = 60.0


def header(state: State, width: int, glyphs: Glyphs, *, lines: int) -> list[Text]:
    """One line, or three: with the states, or what is wrong, and the throughput."""
    seen, wrong = state.snapshot, _wrong(state)
    if lines == 1:
        return [_first(state, width, glyphs, wrong)]
    blank = Text(" " * width)
    if wrong is not None:
        second = Text(fit(f" {wrong}", width, glyphs.cut), style="bold red")
    else:
        second = blank if seen is None else _states(seen, width)
    third = blank if seen is None else _throughput(seen, width, glyphs)
    return [_first(state, width, glyphs, None), second, third]


def _wrong(state: State) -> str | None:
    if state.silent is not None:
        return f"the database has not answered for {state.silent.seconds:.0f} s"
    if state.away is not None:
        return f"the database is away, next try in {state.away.seconds:g} s: {plain(state.away.why)}"
    return None


def _first(state: State, width: int, glyphs: Glyphs, wrong: str | None) -> Text:
    clock = "" if state.snapshot is None else f"{state.snapshot.at:%H:%M:%S %Z} "
    if clock and _wrong(state) is not None:
        clock = f"as of {clock}"  # what is shown may not be true any more
    place = f"{plain(state.place)}{f' {glyphs.dot} read-only' if state.read_only else ''}"
    line = Text(_NAME, style="bold cyan")
    room = width - len(_NAME) - len(clock)
    if room < 10:
        clock, room = "", width - len(_NAME)
    line.append(fit(wrong or place, room, glyphs.cut), "bold red" if wrong else "bold").append(clock, "dim")
    line.truncate(width, pad=True, overflow="crop")
    return line


def _states(seen: Snapshot, width: int) -> Text:
    line = Text(" ")
    for name, colour in STATES.items():
        count = next((each for state, each in seen.states.items() if state == name), None)
        if count is not None and line.cell_len + len(f"{count} {name}") <= width:
            line.append(str(count), f"bold {colour}" if count.number else "dim").append(f" {name}  ", "dim")
    line.truncate(width, pad=True, overflow="crop")
    return line


def _throughput(seen: Snapshot, width: int, glyphs: Glyphs) -> Text:
    """A column for each bucket, as many as there is room for, and the last minute in words."""
    last = _last_minute(seen)
    told = f" {rate(_finished(last))}/min" if last else " "
    if failed := sum(each.failed.number for each in last):
        told += f", {rate(failed)} failed"
    for name, value in (
        ("wait", _longest(each.wait_p95 for each in last)), ("run", _longest(each.run_p95 for each in last)),
    ):  # fmt: skip
        if value is not None:
            told += f"  {name} p95 {span(value)}"
    room = max(0, width - len(told) - 3)
    shown = seen.buckets[-room:] if room else ()
    line = Text(" ")
    most = max((_finished([each]) for each in shown), default=0)
    for each in shown:
        style = "red" if each.failed.number else "green" if each.succeeded.number else "dim"
        line.append(_column(_finished([each]), most, glyphs), style)
    line.append(" ").append(told.strip(), "bold")
    line.truncate(width, pad=True, overflow="crop")
    return line


def _column(value: float, most: float, glyphs: Glyphs) -> str:
    if not value:
        return glyphs.spark[0]
    return glyphs.spark[1 + round((len(glyphs.spark) - 2) * value / most)]


def _finished(buckets: list[Bucket]) -> float:
    return sum(each.succeeded.number + each.failed.number + each.cancelled.number for each in buckets)


def _last_minute(seen: Snapshot) -> list[Bucket]:
    return [each for each in seen.buckets if (seen.at - each.at).total_seconds() <= _MINUTE]


def _longest(times: Iterable[dt.timedelta | None]) -> dt.timedelta | None:
    return max((each for each in times if each is not None), default=None)
