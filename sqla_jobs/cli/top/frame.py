"""A state -> the lines of one screen, each exactly as wide as the terminal. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from rich.text import Text

from sqla_jobs.cli.printing import plain
from sqla_jobs.cli.top import job as one_job
from sqla_jobs.cli.top import panels
from sqla_jobs.cli.top.facts import Panel
from sqla_jobs.cli.top.header import header
from sqla_jobs.cli.top.state import DETAIL_FRAME, State
from sqla_jobs.cli.top.texts import Glyphs, fit

WIDE: Final = 120
"""Columns from which on panels are beside each other."""
SMALLEST: Final = (24, 6)
_FOCUS: Final = "cyan"
_BORDER: Final = "bright_black"
HELP: Final = (
    ("↑ ↓  j k", "move; PgUp PgDn, g G: farther"),
    ("tab  ← →", "the next panel, the one before"),
    ("enter", "see one job; of a queue: only its jobs"),
    ("/", "only jobs and queues whose name has …; esc: all"),
    ("p", "pause a queue, or resume it"),
    ("r", "run a failed job once more, or one that waits at once"),
    ("c", "cancel a job that runs or waits"),
    ("space", "look again now"),
    ("?", "this"),
    ("q", "quit"),
)


def frame(state: State, glyphs: Glyphs, *, keys: bool = True) -> list[Text]:
    """All that is to be seen, from top to bottom; without ``keys`` there is no last line that tells them."""
    width, height = state.width, state.height + (not keys)
    if width < SMALLEST[0] or height < SMALLEST[1]:
        return _filled([_line("the terminal is too small", width, glyphs)], width, height)
    if state.help:
        body = _help(width, height - 2, glyphs)
    elif state.wish.job is not None:
        body = _job(state, width, height - 2, glyphs)
    else:
        top = header(state, width, glyphs, lines=3 if height >= 16 else 1)
        body = [*top, *_panels(state, width, height - len(top) - 1, glyphs)]
        return [*_filled(body, width, height - 1), _foot(state, width, glyphs)][: state.height]
    top = header(state, width, glyphs, lines=1)
    return [*_filled([*top, *body], width, height - 1), _foot(state, width, glyphs)]


def whole(state: State, width: int, most: int) -> int:
    """How high a screen must be to hold the rows, so many of a panel at most, without the last line."""
    return 3 + sum(
        3 + min(most, max(1, *(len(state.rows(panel)) for panel in band))) for band in _bands(width)
    )


def _filled(lines: list[Text], width: int, height: int) -> list[Text]:
    return [*lines[:height], *(Text(" " * width) for _ in range(height - len(lines)))]


def _line(text: str, width: int, glyphs: Glyphs, style: str = "") -> Text:
    return Text(fit(plain(text), width, glyphs.cut), style=style)


# -- panels --------------------------------------------------------------------------------------------


def _bands(width: int) -> list[tuple[Panel, ...]]:
    """What is beside each other, from top to bottom."""
    if width >= WIDE:
        return [(Panel.QUEUES, Panel.WORKERS), (Panel.RUNNING,), (Panel.WAITING, Panel.FAILURES)]
    return [(panel,) for panel in Panel]


def _panels(state: State, width: int, room: int, glyphs: Glyphs) -> list[Text]:
    bands = _bands(width)
    frame = 3 if room >= 5 * len(bands) else 1
    if room < 2 * len(bands):
        bands = [(state.focus,)]
    focus = next(index for index, band in enumerate(bands) if state.focus in band)
    wants = [max(1, *(len(state.rows(panel)) for panel in band)) for band in bands]
    heights = share(room - frame * len(bands), wants, focus)
    lines: list[Text] = []
    for band, height in zip(bands, heights, strict=True):
        lines += _beside([_panel(state, panel, cells, height, glyphs, boxed=frame == 3)
                          for panel, cells in _split(band, width)])  # fmt: skip
    return lines


def share(room: int, wants: Sequence[int], first: int) -> list[int]:
    """Rows for each panel: one at least, then by turns while it wants more; what nobody wants to the last.

    The one in focus gets two at each turn.
    """
    given = [1] * len(wants)
    left = room - len(wants)
    while left > 0 and any(has < want for has, want in zip(given, wants, strict=True)):
        for index in [first, *range(len(wants))]:
            if left > 0 and given[index] < wants[index]:
                given[index] += 1
                left -= 1
    given[-1] += max(left, 0)
    return given


def _split(band: Sequence[Panel], width: int) -> list[tuple[Panel, int]]:
    if len(band) == 1:
        return [(band[0], width)]
    # Errors are longer than what waits.
    left = width // 2 if band[0] is Panel.QUEUES else width * 2 // 5
    return [(band[0], left), (band[1], width - left)]


def _beside(blocks: list[list[Text]]) -> list[Text]:
    return [Text().join(parts) for parts in zip(*blocks, strict=True)]


def _panel(state: State, panel: Panel, width: int, height: int, glyphs: Glyphs, *, boxed: bool) -> list[Text]:
    focused = panel is state.focus
    title = _title(state, panel)
    inner = width - 4 if boxed else width
    rows = _rows(state, panel, inner, height, glyphs)
    if not boxed:
        head = Text(" ").append_text(panels.head(panel, inner - 1, glyphs, title.upper()))
        head.stylize("bold black on cyan" if focused else "reverse dim")
        if focused:
            head.plain = glyphs.pointer + head.plain[1:]
        return [head, *rows]
    style = f"bold {_FOCUS}" if focused else _BORDER
    corner, across, end, side, low, low_end = list(glyphs.box)
    title = fit(f" {title} ", min(len(title) + 2, width - 4), glyphs.cut)
    head = Text(" ").append_text(panels.head(panel, inner - 1, glyphs))
    head.stylize("dim")
    edge = Text(side, style=style)
    return [
        Text.assemble(
            (corner + across, style), (title, "bold" if focused else ""),
            (across * (width - 3 - len(title)) + end, style),
        ),
        *(Text.assemble(edge, " ", each, " ", edge) for each in (head, *rows)),
        Text(low + across * (width - 2) + low_end, style=style),
    ]  # fmt: skip


def _title(state: State, panel: Panel) -> str:
    seen = state.snapshot
    if seen is None:
        return str(panel)
    more = "+" if panel in seen.more else ""
    late = ", late" if panel in seen.late else ""
    return f"{panel} {len(state.rows(panel))}{more}{late}"


def _rows(state: State, panel: Panel, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    rows = state.rows(panel)
    if state.snapshot is None or not rows:
        return _filled([_line(f" {_nothing(state, panel)}", width, glyphs, "dim")], width, height)
    marked = state.marked(panel)
    first = max(0, marked - height + 1)
    look = panels.Look(state.snapshot, glyphs)
    shown = []
    for index, value in enumerate(rows[first : first + height], first):
        is_marked = index == marked and panel is state.focus
        pointer = Text().append(glyphs.pointer if is_marked else " ", f"bold {_FOCUS}")
        shown.append(pointer.append_text(panels.row(panel, value, width - 1, look, marked=is_marked)))
    return _filled(shown, width, height)


def _nothing(state: State, panel: Panel) -> str:
    if state.snapshot is None:
        return "reading ..."
    if panel in state.snapshot.late:
        return "the database did not say in time"
    if state.wish.filter and panel is not Panel.WORKERS:
        return "none that matches"
    return {
        Panel.QUEUES: "no queue",
        Panel.WORKERS: "no worker runs",
        Panel.RUNNING: "no job runs",
        Panel.WAITING: "no job waits",
        Panel.FAILURES: "no job has failed",
    }[panel]


# -- one job, and the help -----------------------------------------------------------------------------


def _job(state: State, width: int, height: int, glyphs: Glyphs) -> list[Text]:
    seen = state.snapshot
    inner = width - 2
    if seen is None or seen.detail is None:
        told = f"job {state.wish.job} is gone" if state.gone else f"reading job {state.wish.job} ..."
        return [_bar(f"JOB {state.wish.job}", width, glyphs), _line(f" {told}", width, glyphs, "dim")]
    lines = one_job.lines(seen.detail, inner, seen.at)
    room = state.height - DETAIL_FRAME
    last = min(len(lines), state.scroll + room)
    where = f"{state.scroll + 1}-{last} of {len(lines)}" if len(lines) > room else ""
    return [
        _bar(f"JOB {seen.detail.id}", width, glyphs, where),
        *(Text(" ").append_text(_exactly(line, width - 1)) for line in lines[state.scroll : last]),
    ][: height + 1]


def _bar(title: str, width: int, glyphs: Glyphs, right: str = "") -> Text:
    right = f"{right} " if right else ""
    return Text(fit(f" {title}", width - len(right), glyphs.cut) + right, style="bold black on cyan")


def _exactly(line: Text, width: int) -> Text:
    line.truncate(width, pad=True, overflow="crop")
    return line


def _help(width: int, height: int, glyphs: Glyphs) -> list[Text]:
    utf = glyphs.pointer != ">"
    lines = [_bar("KEYS", width, glyphs)]
    for keys, told in HELP:
        shown = keys if utf else keys.replace("↑ ↓", "up dn").replace("← →", "< >")
        text = told if utf else told.replace("…", "...")
        line = Text.assemble("  ", (shown.ljust(11), "bold cyan"), text)
        lines.append(_exactly(line, width))
    return lines[: height + 1]


# -- the last line -------------------------------------------------------------------------------------


_KEYS: Final[Mapping[str, Sequence[tuple[str, str]]]] = {
    "list": (
        ("?", "help"), ("q", "quit"), ("tab", "panel"), ("enter", "see"), ("p", "pause"), ("r", "retry"),
        ("c", "cancel"), ("/", "filter"),
    ),
    "job": (("esc", "back"), ("j k", "scroll"), ("r", "retry"), ("c", "cancel"), ("?", "help")),
    "help": (("any key", "back"),),
}  # fmt: skip
_READING: Final = ("pause", "retry", "cancel")


def _foot(state: State, width: int, glyphs: Glyphs) -> Text:
    if state.asking is not None:
        told = f" {state.asking.verb} {state.asking.named}{state.asking.about}?  y / n"
        return _line(told, width, glyphs, "bold black on yellow")
    if state.typing is not None:
        return _line(f" / {state.typing}_   enter: keep  esc: all", width, glyphs, "bold")
    if state.said is not None:
        return _line(f" {state.said.text}", width, glyphs, "bold green" if state.said.good else "bold red")
    keys = _KEYS["help" if state.help else "list" if state.wish.job is None else "job"]
    line = Text(" ")
    for key, told in keys:
        if state.read_only and told in _READING:
            continue
        line.append(key, "bold cyan").append(f" {told}  ", "dim")
    if state.wish.filter and state.wish.job is None:
        line = Text.assemble(" ", (f"/ {plain(state.wish.filter)}", "bold yellow"), " (esc: all) ", line)
    return _exactly(line, width)
