"""K23: lines over changes of the local time, by Vixie cron's rules, at known instants.

Fixed (neither minute nor hour begins with a star): once after a gap, once in an overlap. Wildcard: by the
elapsed clock.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest

from sqla_jobs.cron import Cron, occurrences

UTC = timezone.utc
SECOND = timedelta(seconds=1)


def shown(line: str, zone: str, start: str, end: str) -> list[str]:
    """The times from `start` up to `end`, as the clock shows them, with the offset where they are."""
    first, last = (datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)) for text in (start, end))
    ticks = occurrences(Cron(line, zone), first - SECOND, last, 1000)
    assert all(earlier < later for earlier, later in pairwise(ticks))
    return [f"{tick.astimezone(ZoneInfo(zone)):%d %H:%M %z}" for tick in ticks]


def paris_in_spring(line: str) -> list[str]:
    """The clock goes from 02:00 to 03:00."""
    return shown(line, "Europe/Paris", "2026-03-29T00:00", "2026-03-29T04:59")


def paris_in_autumn(line: str) -> list[str]:
    """The clock goes from 03:00 to 02:00."""
    return shown(line, "Europe/Paris", "2026-10-25T00:00", "2026-10-25T04:59")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 2 * * *", ["29 03:00 +0200"]),
        ("0 2 * * *", ["29 03:00 +0200"]),
        ("59 59 2 * * *", ["29 03:00 +0200"]),
        ("0 3 * * *", ["29 03:00 +0200"]),
        ("0,15,30,45 2 * * *", ["29 03:00 +0200"]),
        ("0,30 1-3 * * *", ["29 01:00 +0100", "29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"]),
        ("30 1-3 * * *", ["29 01:30 +0100", "29 03:00 +0200", "29 03:30 +0200"]),
        ("30 2 29 3 *", ["29 03:00 +0200"]),
        ("30 2 * * 0L", ["29 03:00 +0200"]),
        ("* 30 2 * * *", ["29 03:00 +0200"]),
    ],
)
def test_k23_a_fixed_line_runs_once_after_the_gap(line: str, expected: list[str]) -> None:
    assert paris_in_spring(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("30 2 * * *", ["25 02:30 +0200"]),
        ("0 2 * * *", ["25 02:00 +0200"]),
        ("0 3 * * *", ["25 03:00 +0100"]),
        ("0,30 2 * * *", ["25 02:00 +0200", "25 02:30 +0200"]),
        (
            "0,30 1-3 * * *",
            [
                *(f"25 0{h}:{m} +0200" for h in (1, 2) for m in ("00", "30")),
                "25 03:00 +0100",
                "25 03:30 +0100",
            ],
        ),
        ("30 2 25 10 *", ["25 02:30 +0200"]),
    ],
)
def test_k23_a_fixed_line_runs_at_the_first_of_two(line: str, expected: list[str]) -> None:
    assert paris_in_autumn(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/30 2 * * *", []),
        ("*/30 2,3 * * *", ["29 03:00 +0200", "29 03:30 +0200"]),
        ("30 * * * *", ["29 00:30 +0100", "29 01:30 +0100", "29 03:30 +0200", "29 04:30 +0200"]),
        ("@hourly", ["29 00:00 +0100", "29 01:00 +0100", "29 03:00 +0200", "29 04:00 +0200"]),
        ("0 */2 * * *", ["29 00:00 +0100", "29 04:00 +0200"]),
        ("30 */1 * * *", ["29 00:30 +0100", "29 01:30 +0100", "29 03:30 +0200", "29 04:30 +0200"]),
    ],
)
def test_k23_a_wildcard_line_does_not_make_up_for_the_gap(line: str, expected: list[str]) -> None:
    assert paris_in_spring(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("*/30 2 * * *", [f"25 02:{m} +0{h}00" for h in (2, 1) for m in ("00", "30")]),
        (
            "30 * * * *",
            [
                "25 00:30 +0200",
                "25 01:30 +0200",
                "25 02:30 +0200",
                "25 02:30 +0100",
                "25 03:30 +0100",
                "25 04:30 +0100",
            ],
        ),
        ("0 */2 * * *", ["25 00:00 +0200", "25 02:00 +0200", "25 02:00 +0100", "25 04:00 +0100"]),
        (
            "*/45 */2 25 10 *",
            [
                "25 00:00 +0200",
                "25 00:45 +0200",
                "25 02:00 +0200",
                "25 02:45 +0200",
                "25 02:00 +0100",
                "25 02:45 +0100",
                "25 04:00 +0100",
                "25 04:45 +0100",
            ],
        ),
    ],
)
def test_k23_a_wildcard_line_runs_in_both_hours(line: str, expected: list[str]) -> None:
    assert paris_in_autumn(line) == expected


def test_k23_a_wildcard_line_of_seconds_runs_every_second_of_the_day() -> None:
    for day, hours in ((29, 23), (25, 25)):
        start = datetime(2026, 3 if day == 29 else 10, day, tzinfo=ZoneInfo("Europe/Paris"))
        end = (start + timedelta(days=1) - SECOND).astimezone(UTC)
        ticks = occurrences(Cron("*/10 * * * * *", "Europe/Paris"), start - SECOND, end, 10_000)
        assert len(ticks) == hours * 360
        assert {later - earlier for earlier, later in pairwise(ticks)} == {10 * SECOND}


def test_k23_los_angeles() -> None:
    spring, autumn = ("2026-03-08T00:00", "2026-03-09T03:00"), ("2026-11-01T00:00", "2026-11-02T03:00")
    assert shown("30 2 * * *", "America/Los_Angeles", *spring) == ["08 03:00 -0700", "09 02:30 -0700"]
    assert shown("30 1 * * *", "America/Los_Angeles", *autumn) == ["01 01:30 -0700", "02 01:30 -0800"]
    assert len(shown("0 * * * *", "America/Los_Angeles", *autumn)) == 29


def test_k23_lord_howe_changes_by_half_an_hour() -> None:
    spring, autumn = ("2026-10-04T01:00", "2026-10-04T03:30"), ("2026-04-05T01:00", "2026-04-05T03:30")
    zone = "Australia/Lord_Howe"
    assert shown("15 2 * * *", zone, *spring) == ["04 02:30 +1100"]
    assert shown("15,30 2 * * *", zone, *spring) == ["04 02:30 +1100"]
    assert shown("15 * * * *", zone, *spring) == ["04 01:15 +1030", "04 03:15 +1100"]
    assert shown("45 1 * * *", zone, *autumn) == ["05 01:45 +1100"]
    assert shown("45 * * * *", zone, *autumn) == ["05 01:45 +1100", "05 01:45 +1030", "05 02:45 +1030"]
    assert shown("15 * * * *", zone, *autumn) == ["05 01:15 +1100", "05 02:15 +1030", "05 03:15 +1030"]


def test_k23_sao_paulo_changed_at_midnight() -> None:
    """On 4 November 2018 there was no 00:00 to 00:59; 17 February 2018 had 23:00 to 23:59 twice."""
    spring, autumn = ("2018-11-03T12:00", "2018-11-05T12:00"), ("2018-02-17T12:00", "2018-02-19T00:00")
    zone = "America/Sao_Paulo"
    assert shown("@daily", zone, *spring) == ["04 01:00 -0200", "05 00:00 -0200"]
    assert shown("30 0 4 * *", zone, *spring) == ["04 01:00 -0200"]
    assert shown("*/30 0 * * *", zone, *spring) == ["05 00:00 -0200", "05 00:30 -0200"]
    assert shown("@daily", zone, *autumn) == ["18 00:00 -0300", "19 00:00 -0300"]
    assert shown("30 23 * * *", zone, *autumn) == ["17 23:30 -0200", "18 23:30 -0300"]
    assert shown("30 */23 * * *", zone, *autumn) == [
        "17 23:30 -0200",
        "17 23:30 -0300",
        "18 00:30 -0300",
        "18 23:30 -0300",
    ]


def test_k23_apia_skipped_a_whole_day() -> None:
    """After 29 December 2011 came the 31st. What a fixed line had on the 30th runs once, at its beginning."""
    around = ("2011-12-29T00:00", "2011-12-31T12:00")
    zone = "Pacific/Apia"
    assert shown("0 9 * * *", zone, *around) == ["29 09:00 -1000", "31 00:00 +1400", "31 09:00 +1400"]
    assert shown("@daily", zone, *around) == ["29 00:00 -1000", "31 00:00 +1400"]
    assert shown("0 9 30 12 *", zone, *around) == ["31 00:00 +1400"]
    assert shown("0 */12 * * *", zone, *around) == [
        "29 00:00 -1000",
        "29 12:00 -1000",
        "31 00:00 +1400",
        "31 12:00 +1400",
    ]


def test_k23_a_change_that_is_no_daylight_saving() -> None:
    """Pyongyang went half an hour back in 2015, and forward again in 2018, from 23:30 to midnight."""
    zone = "Asia/Pyongyang"
    back, forward = ("2015-08-14T23:00", "2015-08-15T01:00"), ("2018-05-04T23:00", "2018-05-05T01:00")
    assert shown("45 23 * * *", zone, *back) == ["14 23:45 +0900"]
    assert shown("45 * * * *", zone, *back) == ["14 23:45 +0900", "14 23:45 +0830", "15 00:45 +0830"]
    assert shown("45 23 * * *", zone, *forward) == ["05 00:00 +0900"]
    assert shown("45 23 4 5 *", zone, *forward) == ["05 00:00 +0900"]
    assert shown("45 * * * *", zone, *forward) == ["05 00:45 +0900"]


@pytest.mark.parametrize("line", ["30 2 * * *", "*/30 * * * *"])
def test_k23_in_utc_nothing_changes(line: str) -> None:
    for month, day in ((3, 29), (10, 25)):
        start = datetime(2026, month, day, tzinfo=UTC)
        ticks = occurrences(Cron(line), start, start + timedelta(days=1), 100)
        assert len(ticks) == (1 if line[0] == "3" else 48)


@pytest.mark.parametrize(
    "zone", ["Europe/Paris", "America/Los_Angeles", "Australia/Lord_Howe", "America/Sao_Paulo", "UTC"]
)
@pytest.mark.parametrize("line", ["0 0 * * *", "30 1 * * *", "15 2 * * *", "59 23 * * *"])
def test_k23_a_daily_line_runs_once_on_each_day_of_thirty_years(zone: str, line: str) -> None:
    start = datetime(1996, 1, 1, 12, tzinfo=ZoneInfo(zone))
    ticks = occurrences(Cron(line, zone), start, datetime(2026, 1, 1, 11, tzinfo=ZoneInfo(zone)), 20_000)
    days = [tick.astimezone(ZoneInfo(zone)).date() for tick in ticks]
    # 23:59 is never skipped in these zones, so no run falls on the day after its own.
    assert len(days) == len(set(days)) == 30 * 365 + 8


def test_the_time_between_the_two_passes_does_not_count_as_later() -> None:
    """Asked in the second pass, a fixed line that ran in the first answers with the day after."""
    cron = Cron("30 2 * * *", "Europe/Paris")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert cron.next(first - SECOND) == first
    for seconds in (0, 1, 1800, 3599, 3600, 5400):
        assert cron.next(first + seconds * SECOND) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)


def test_the_last_second_of_an_overlap_belongs_to_it() -> None:
    cron = Cron("59 59 2 * * *", "Europe/Paris")
    first = datetime(2026, 10, 25, 0, 59, 59, tzinfo=UTC)
    assert cron.next(first - SECOND) == first
    assert cron.next(first + SECOND) == datetime(2026, 10, 26, 1, 59, 59, tzinfo=UTC)
