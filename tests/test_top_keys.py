"""What is typed becomes keys, however it is cut into pieces; texts of a width."""

from __future__ import annotations

import datetime as dt

import pytest
from rich.cells import cell_len

from sqla_jobs.cli.top.keys import Keys
from sqla_jobs.cli.top.texts import fit, number, span


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        pytest.param(b"jkq", ["j", "k", "q"], id="letters"),
        pytest.param(b"\x1b[A\x1b[B\x1bOC\x1bOD", ["up", "down", "right", "left"], id="arrows"),
        pytest.param(
            b"\x1b[5~\x1b[6~\x1b[H\x1b[F\x1b[1~\x1b[4~",
            ["pageup", "pagedown", "home", "end", "home", "end"],
            id="pages",
        ),
        pytest.param(
            b"\t\x1b[Z\r\n\x7f\b", ["tab", "backtab", "enter", "enter", "backspace", "backspace"], id="others"
        ),
        pytest.param("é漢".encode(), ["é", "漢"], id="not ASCII"),
        pytest.param(b"\x1b[1;5A\x1b[200~\x1b[<0;3;4M\x1b[I", [], id="sequences of no key of ours"),
        pytest.param(b"\x1bc\x1by\x1br", [], id="letters with Alt"),
        pytest.param(b"\x00\x01\xff\xfe", [], id="what no text is"),
        pytest.param(b"\x1b\x1b[A", ["escape", "up"], id="escape before a sequence"),
    ],
)
def test_keys(typed: bytes, expected: list[str]) -> None:
    assert Keys().feed(typed) == expected
    keys = Keys()
    assert [key for each in typed for key in keys.feed(bytes([each]))] == expected, "byte by byte"


def test_escape_is_a_key_when_nothing_follows() -> None:
    keys = Keys()
    assert (keys.feed(b"\x1b"), keys.waits) == ([], True)
    assert (keys.flush(), keys.waits) == (["escape"], False)
    assert keys.feed(b"[A") == ["[", "A"]
    assert (keys.feed(b"\x1b[1;"), keys.flush(), keys.waits) == ([], [], False), "half a sequence is none"


def test_a_sequence_without_an_end_is_given_up() -> None:
    keys = Keys()
    assert keys.feed(b"\x1b[" + b"1" * 70) == []
    assert keys.feed(b"q") == ["q"]


@pytest.mark.parametrize(
    ("text", "width"), [("漢字漢字", 5), ("漢", 1), ("abc", 3), ("", 4), ("e\u0301" * 9, 4), ("a", 0)]
)
@pytest.mark.parametrize("end", [False, True])
def test_a_text_is_made_exactly_as_wide(text: str, width: int, end: bool) -> None:
    assert cell_len(fit(text, width, end=end)) == width


def test_what_is_cut_says_so() -> None:
    assert fit("shop.tasks.ship", 8) == "shop.ta…"
    assert fit("shop.tasks.ship", 8, end=True) == "…ks.ship"
    assert fit("7", 3, right=True) == "  7"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (4_200_000, "4.2M"),
        (7e9, "7.0G"),
    ],
)
def test_numbers_are_short(value: float, expected: str) -> None:
    assert number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-5, "0ms"),
        (0.04, "40ms"),
        (0.9996, "1.0s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (3599, "59m 59s"),
        (3600, "1h 00m"),
        (86_399, "23h 59m"),
        (90_000, "1d 1h"),
        (1e9, "11,574d"),
    ],
)
def test_spans_are_short(seconds: float, expected: str) -> None:
    assert span(dt.timedelta(seconds=seconds)) == expected
    assert len(expected) <= 7
