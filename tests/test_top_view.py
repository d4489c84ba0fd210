"""`sqla-jobs top`: what a state looks like, at many sizes, and that nothing in it can steer a terminal."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from sqla_jobs.cli.top.facts import Away, Fresh, Key, Panel, Resized, Silent, Snapshot, Wish
from sqla_jobs.cli.top.frame import frame, share, whole
from sqla_jobs.cli.top.panels import COLUMNS, widths
from sqla_jobs.cli.top.state import State, step
from sqla_jobs.cli.top.terminal import console, glyphs, screenful
from sqla_jobs.cli.top.texts import ASCII, UNICODE, Glyphs
from tests.support.looked import NOW, bucket, detail, job, queue, running, shop, worker
from tests.support.program import ROOT

SIZES = [(80, 24), (40, 10), (24, 6), (10, 3), (100, 36), (120, 24), (200, 60)]
EVIL = "\x1b[31m\x1b]0;title\x07[bold red]x[/] :smile:\r\n\x9b2J\u202e漢\udc80\x00"


def drawn(state: State, glyphs: Glyphs = UNICODE, *, colours: bool = False) -> str:
    """The frame as a terminal of this size gets it."""
    file = io.StringIO()
    out = console(
        file=file,
        width=state.width,
        height=state.height,
        force_terminal=colours,
        color_system="256" if colours else None,
    )
    out.print(screenful(frame(state, glyphs)))
    return file.getvalue()


def state_of(seen: Snapshot | None, *keys: str, size: tuple[int, int] = (80, 24), **values: object) -> State:
    state, _ = step(State("shop on db.example", 2), Resized(*size))
    if seen is not None:
        state, _ = step(state, Fresh(seen))
    for key in keys:
        state, _ = step(state, Key(key))
    return replace(state, **values)  # type: ignore[arg-type]


def opened(seen: Snapshot, **values: Any) -> State:
    """The job of a snapshot is shown."""
    return step(state_of(replace(seen, detail=None), "backtab", "enter", **values), Fresh(seen))[0]


def states() -> list[tuple[str, Snapshot | None, tuple[str, ...]]]:
    seen = shop()
    failing = replace(
        seen,
        wish=Wish(job=7),
        detail=detail(
            7, arguments={"order": 7}, attempts=[{"attempt": 1, "error": "E", "traceback": "x" * 300}]
        ),
    )
    return [
        ("nothing", None, ()),
        ("empty", Snapshot(NOW), ()),
        ("shop", seen, ()),
        ("failures", seen, ("backtab", "j")),
        ("asking", seen, ("p",)),
        ("typing", seen, ("/", "m")),
        ("filtered", seen, ("/", "m", "enter")),
        ("help", seen, ("?",)),
        ("job", failing, ("backtab", "enter")),
    ]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("glyphs", [UNICODE, ASCII], ids=["unicode", "ascii"])
def test_a_frame_fills_the_screen_exactly(size: tuple[int, int], glyphs: Glyphs) -> None:
    for name, seen, keys in states():
        state = state_of(seen, *keys, size=size)
        if name == "job" and seen is not None:
            state, _ = step(state, Fresh(seen))
        for each in (
            state,
            replace(state, away=Away("the database is away", 4)),
            replace(state, silent=Silent(9)),
        ):
            lines = frame(each, glyphs)
            assert [line.cell_len for line in lines] == [size[0]] * size[1], name
            assert drawn(each, glyphs).splitlines() == [line.plain for line in lines], name
    if glyphs is ASCII and size[0] > 24:
        assert drawn(state_of(shop(), size=size), ASCII).isascii()


def test_the_page_shows_what_is_there() -> None:
    page = (ROOT / "docs" / "top.md").read_text()
    picture = page.partition("```text\n")[2].partition("```")[0].splitlines()
    assert picture == [line.rstrip() for line in drawn(state_of(shop(), size=(80, 21))).splitlines()]


def test_in_a_wide_terminal_panels_are_beside_each_other() -> None:
    shown = drawn(state_of(shop(), size=(130, 36))).splitlines()
    [top] = [line for line in shown if "queues 3" in line]
    assert "workers 2" in top
    [low] = [line for line in shown if "waiting 2+" in line]
    assert "failures 2" in low
    assert any("import_orders" in line and "reading" in line and "62%" in line for line in shown)


def test_where_there_is_no_room_only_the_panel_in_focus_is_shown() -> None:
    shown = drawn(state_of(shop(), "tab", "tab", size=(40, 9)))
    assert "RUNNING 2" in shown
    assert "QUEUES" not in shown
    assert drawn(state_of(shop(), size=(12, 3))).splitlines()[0] == "the terminal…"[:11] + "…"


def test_the_marked_row_is_always_in_sight() -> None:
    failures = tuple(job(number, f"task_{number}", state="failed") for number in range(150))
    seen = Snapshot(NOW, jobs={Panel.FAILURES: failures})
    state = state_of(seen, "backtab")
    for key, number in (("", 0), ("G", 149), ("k", 148), ("pageup", 138), ("g", 0)):
        state = step(state, Key(key))[0]
        [marked] = [line for line in drawn(state).splitlines() if re.match("▸task", line)]
        assert f"task_{number} " in marked


@pytest.mark.parametrize(
    ("room", "wants", "first", "expected"),
    [
        (5, [1, 1, 1], 0, [1, 1, 3]),
        (9, [9, 9, 9], 1, [3, 4, 2]),
        (12, [1, 20, 3], 0, [1, 8, 3]),
        (3, [5, 5, 5], 2, [1, 1, 1]),
    ],
)
def test_rows_are_shared(room: int, wants: list[int], first: int, expected: list[int]) -> None:
    assert share(room, wants, first) == expected


@pytest.mark.parametrize("panel", list(Panel))
def test_columns_fit_into_every_width(panel: Panel) -> None:
    seen = set()
    for width in range(1, 200):
        kept = widths(COLUMNS[panel], width)
        assert sum(cells + 1 for _, cells in kept) - 1 <= width
        assert all(cells > 0 for _, cells in kept)
        seen.add(len(kept))
    assert max(seen) == len(COLUMNS[panel])


# -- what anybody may have written ---------------------------------------------------------------------


def test_nothing_that_was_read_can_steer_the_terminal() -> None:
    rows = {
        Panel.RUNNING: (
            job(1, EVIL, EVIL, "running", progress={"done": 1, "total": 2, "note": EVIL, "attempt": 1}),
        ),
        Panel.WAITING: (job(2, EVIL, EVIL),),
        Panel.FAILURES: (job(3, EVIL, EVIL, "failed", error=EVIL),),
    }
    attempts = [{"attempt": EVIL, "error": EVIL, "message": EVIL, "traceback": EVIL, "started_at": EVIL}] * 2
    shown = detail(
        3,
        EVIL,
        arguments={EVIL: EVIL},
        attempts=attempts,
        result=EVIL,
        unique_key=EVIL,
        limit_key=EVIL,
        schedule=EVIL,
        worker=EVIL,
        progress={EVIL: EVIL},
    )
    seen = Snapshot(
        NOW,
        queues=(queue(EVIL),),
        workers=(worker(1, host=EVIL, queues=[EVIL], running=[running(1, task=EVIL)]),),
        jobs=rows,
        buckets=(bucket(5, 1),),
    )
    for size in [(80, 24), (160, 40)]:
        list_ = state_of(seen, size=size)
        asking = state_of(seen, "tab", "tab", "c", size=size)
        one = opened(replace(seen, wish=Wish(job=3), detail=shown), size=size)
        typed = replace(list_, typing=EVIL, wish=Wish(EVIL), place=EVIL)
        away = replace(list_, away=Away(EVIL, 3))
        for state in (list_, asking, one, typed, away, replace(list_, wish=Wish(EVIL))):
            plain = drawn(state)
            assert not re.search(r"[^\n -~\xa1-\u2027\u2030-\uffff]", plain.replace("漢", "")), repr(plain)
            assert [line.cell_len for line in frame(state, UNICODE)] == [size[0]] * size[1]
        assert "[bold red]x[/] :smile:" in drawn(one), "neither markup nor an emoji"


def test_without_colours_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    state = state_of(shop(), "j")
    plain = drawn(state)
    coloured = drawn(state, colours=True)
    assert re.search(r"\x1b\[[0-9;]*3[0-9]m|\x1b\[[0-9;]*38;", coloured)
    monkeypatch.setenv("NO_COLOR", "1")
    without = drawn(state, colours=True)
    assert not re.search(r"\x1b\[(?:[0-9]+;)*(?:3[0-9]|4[0-9]|9[0-7])(?:;[0-9]+)*m", without)
    assert re.sub(r"\x1b\[[0-9;]*m", "", without) == re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain
    assert {line.style for line in frame(state, UNICODE)[3:-1] if line.plain[:1] != " "} == {""}
    assert re.search(r"^▸mail", plain, re.MULTILINE), "the mark is a character too"
    assert "paused" in plain
    assert "dead" in plain


def test_a_terminal_that_has_no_unicode_gets_none() -> None:
    latin = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    assert glyphs(Console(file=latin)) is ASCII
    assert glyphs(Console(file=io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))) is UNICODE


# -- what it says --------------------------------------------------------------------------------------


def test_what_is_wrong_is_said() -> None:
    seen = replace(shop(), late=frozenset({Panel.FAILURES, "queues"}))
    assert "FAILURES 2, LATE" in drawn(state_of(seen))
    assert "QUEUES 3, LATE" in drawn(state_of(seen))
    gone = replace(seen, jobs={})
    assert "the database did not say in time" in drawn(state_of(gone))
    for size in [(80, 24), (80, 12)]:
        away = drawn(state_of(shop(), away=Away("connection refused", 4), size=size))
        assert "the database is away, next try in 4 s" in away
        assert "as of 14:03:22 UTC" in away
    assert "4 s: connection refused" in drawn(state_of(shop(), away=Away("connection refused", 4)))
    assert "the database has not answered for 12 s" in drawn(state_of(shop(), silent=Silent(12)))
    assert "read-only" in drawn(state_of(shop(), read_only=True))
    assert "pause" not in drawn(state_of(shop(), read_only=True)).splitlines()[-1]
    assert "reading ..." in drawn(state_of(None))
    assert "no job has failed" in drawn(state_of(Snapshot(NOW)))
    assert "none that matches" in drawn(state_of(shop(), "/", "z"))


def test_a_job_is_shown_whole() -> None:
    attempts = [
        {
            "attempt": 1,
            "error": "TimeoutError",
            "message": "no answer",
            "traceback": "first traceback",
            "started_at": "2026-03-01T13:00:00+00:00",
        },
        {
            "attempt": 2,
            "error": "ConnectionError",
            "message": "refused\nby peer",
            "traceback": "Traceback\n\tFile x",
        },
    ]
    shown = detail(
        7,
        arguments={"order": 7, "card_number": "[redacted]"},
        attempts=attempts,
        result=[1],
        worker="web-1:7",
        crashes=1,
        max_attempts=5,
        unique_key="order-7",
    )
    seen = replace(shop(), wish=Wish(job=7), detail=shown)
    text = drawn(opened(seen, size=(80, 60)))
    for part in (
        "JOB 7",
        "shop.tasks.ship",
        '"card_number": "[redacted]"',
        "1 of 5, 1 of them ended with the worker",
        "unique key  order-7",
        "web-1:7",
        "attempt 2",
        "ConnectionError: refused",
        "by peer",
        "    File x",
        "attempt 1, started 2026-03-01 13:00:00",
        "TimeoutError: no answer",
    ):
        assert part in text
    assert "first traceback" not in text, "that of the last attempt is enough"
    assert text.index("attempt 2") < text.index("attempt 1,")


def test_values_of_any_kind_are_shown() -> None:
    """Rows may be from raw SQL."""
    odd = detail(
        7,
        arguments={"(not readable)": "x"},
        attempts=[{}, {"error": 7, "message": {"a": 1}, "traceback": [1]}],
        progress={"done": "x"},
    )
    seen = replace(shop(), wish=Wish(job=7), detail=odd)
    assert "attempt ?" in drawn(opened(seen))


def test_a_frame_as_high_as_its_rows() -> None:
    state = state_of(shop())
    for width in (80, 130):
        height = whole(state, width, 10)
        state, _ = step(state, Resized(width, height))
        lines = [line.plain for line in frame(state, UNICODE, keys=False)]
        assert len(lines) == height
        assert not any(re.fullmatch(r"[│ ]*", line) for line in lines[3:] if width == 80)
        assert lines[-1].startswith("╰")
