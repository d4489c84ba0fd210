"""K21: everything that a cron line may say, with known dates; what is refused, with the field and the reason.

January 2026 begins on a Thursday.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from sqla_jobs.cron import Cron, occurrences
from sqla_jobs.errors import InvalidSchedule

UTC = timezone.utc
START = datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC)


def days(line: str, months: int = 1) -> list[int]:
    """The days on which a line of three fields fires at midnight, in the first months of 2026."""
    end = datetime(2026, 1 + months, 1, tzinfo=UTC) - timedelta(seconds=1)
    return [tick.day for tick in occurrences(Cron(f"0 0 0 {line}"), START, end, 400)]


def times(line: str) -> list[str]:
    """When a line of three fields fires on the first day of 2026."""
    ticks = occurrences(Cron(f"{line} * * *"), START, START + timedelta(days=1), 100_000)
    return [tick.strftime("%H:%M:%S") for tick in ticks]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("0 30 2", ["02:30:00"]),
        ("0 0 14,16", ["14:00:00", "16:00:00"]),
        ("15 0 9-11", ["09:00:15", "10:00:15", "11:00:15"]),
        ("0 */20 5", ["05:00:00", "05:20:00", "05:40:00"]),
        ("0 10-50/20 5", ["05:10:00", "05:30:00", "05:50:00"]),
        ("0 10/20 5", ["05:10:00", "05:30:00", "05:50:00"]),
        ("0 59/15 5", ["05:59:00"]),
        ("0 5-5 5-5", ["05:05:00"]),
        ("0 5-5/3 5", ["05:05:00"]),
        ("*/30,7 0 5", ["05:00:00", "05:00:07", "05:00:30"]),
        ("0 1,1,0-1 5", ["05:00:00", "05:01:00"]),
        ("00 05 007", ["07:05:00"]),
    ],
)
def test_k21_six_fields_seconds_first_with_lists_ranges_and_steps(line: str, expected: list[str]) -> None:
    assert times(line) == expected


def test_k21_stars_are_every_second_minute_and_hour() -> None:
    assert len(times("* * 5")) == 3600
    assert len(times("0 * *")) == 1440


def test_k21_five_fields_are_a_crontab_line() -> None:
    ticks = occurrences(Cron("30 2 * * *"), START, START + timedelta(days=2), 9)
    assert [f"{tick:%d %H:%M:%S}" for tick in ticks] == ["01 02:30:00", "02 02:30:00"]


@pytest.mark.parametrize("line", ["  0\t30 2  * * * \n", "30 2 * * *"])
def test_blanks_between_and_around_fields_do_not_matter(line: str) -> None:
    assert Cron(line).next(START).strftime("%H:%M:%S") == "02:30:00"
    assert Cron(line).line == line


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("* * mon", [5, 12, 19, 26]),
        ("* * MON", [5, 12, 19, 26]),
        ("* * Mon-wed", [5, 6, 7, 12, 13, 14, 19, 20, 21, 26, 27, 28]),
        ("* * fri,sUn", [2, 4, 9, 11, 16, 18, 23, 25, 30]),
        ("* * 0", [4, 11, 18, 25]),
        ("* * 7", [4, 11, 18, 25]),
        ("* * 0,7,sun", [4, 11, 18, 25]),
        ("* * 7-7", [4, 11, 18, 25]),
        ("* * sun-sun", [4, 11, 18, 25]),
        ("* * 7/2", [4, 11, 18, 25]),
        ("* * 6-7", [3, 4, 10, 11, 17, 18, 24, 25, 31]),
        ("* * sat-sun", [3, 4, 10, 11, 17, 18, 24, 25, 31]),
        ("* * sun-mon", [4, 5, 11, 12, 18, 19, 25, 26]),
        ("* * 1-7/3", [1, 4, 5, 8, 11, 12, 15, 18, 19, 22, 25, 26, 29]),
        ("* * 4/2", [1, 3, 8, 10, 15, 17, 22, 24, 29, 31]),
        ("* * 0-7", list(range(1, 32))),
        ("* * W", [1, 2, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 19, 20, 21, 22, 23, 26, 27, 28, 29, 30]),
        ("* * w,sun", [n for n in range(1, 32) if n % 7 != 3]),
        ("* * 5L", [30]),
        ("* * 1L,5L", [26, 30]),
        ("* * 0L", [25]),
        ("* * 7L", [25]),
        ("* * thul", [29]),
        ("* * 5#1", [2]),
        ("* * FRI#5", [30]),
        ("* * mon#5", []),
        ("* * 7#1", [4]),
        ("* * 5#1,mon#2,2L,3", [2, 7, 12, 14, 21, 27, 28]),
    ],
)
def test_k21_days_of_the_week(line: str, expected: list[int]) -> None:
    assert days(line) == expected


@pytest.mark.parametrize(
    ("line", "months", "expected"),
    [
        ("10 * *", 3, [10, 10, 10]),
        ("31 * *", 5, [31, 31, 31]),
        ("L * *", 4, [31, 28, 31, 30]),
        ("1,L * *", 2, [1, 31, 1, 28]),
        ("LW * *", 5, [30, 27, 31, 30, 29]),
        ("lw,L * *", 2, [30, 31, 27, 28]),
        ("15W * *", 3, [15, 16, 16]),  # a Thursday; Sundays, so the Monday after
        ("17W * *", 1, [16]),  # a Saturday, so the Friday before
        ("1W * *", 3, [1, 2, 2]),
        ("1W 8 *", 9, [3]),  # a Saturday, but the Friday before is in July
        ("31W 5 *", 6, [29]),  # a Sunday, but the Monday after is in June
        ("31W * *", 3, [30, 31]),  # February has no 31st
        ("15W,10,L * *", 1, [10, 15, 31]),
        ("*/10 * *", 1, [1, 11, 21, 31]),
        ("5-10/5,20 * *", 1, [5, 10, 20]),
        ("1 jan,MAR *", 4, [1, 1]),
        ("1 feb-Apr *", 6, [1, 1, 1]),
        ("1 2/2 *", 6, [1, 1, 1]),
        ("29 2 *", 11, []),
    ],
)
def test_k21_days_of_the_month(line: str, months: int, expected: list[int]) -> None:
    assert days(line, months) == expected


def test_k21_w_as_day_of_the_month_is_every_weekday_still_to_come() -> None:
    """As a rule `W` means each day from Monday to Friday. Today counts, as long as the time is ahead."""
    assert days("W * *") == days("* * 1-5")
    friday = datetime(2015, 1, 2, 12, tzinfo=UTC)
    assert Cron("0 0 15 W * *").next(friday) == friday.replace(hour=15)
    assert Cron("0 0 9 W * *").next(friday) == datetime(2015, 1, 5, 9, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "day"),
    [(f"* * {n}L", day) for n, day in enumerate([25, 26, 27, 28, 29, 30, 31, 25])] + [("* * 6L,7L", 25)],
)
def test_k21_the_last_of_each_day_of_the_week(line: str, day: int) -> None:
    """In January 2015, the month of the seed's own test."""
    assert Cron(f"0 0 0 {line}").next(datetime(2015, 1, 1, 12, tzinfo=UTC)).day == day


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("13 * fri", [2, 9, 13, 16, 23, 30]),
        ("L * mon#1", [5, 31]),
        ("1-31 * fri", list(range(1, 32))),
        ("13 * 0-6", list(range(1, 32))),
        ("W * sat", [n for n in range(1, 32) if n % 7 != 4]),
        # A field that begins with a star is not restricted, so that the other narrows it.
        ("*/2 * fri", [9, 23]),
        ("*/10,2 * fri", [2]),
        ("13,*/2 * fri", [n for n in range(1, 32) if n % 2 or n % 7 == 2]),
        ("2 * */5", [2]),
        ("*/2 * */5", [9, 11, 23, 25]),
    ],
)
def test_k21_day_of_month_or_day_of_week_as_in_vixie_cron(line: str, expected: list[int]) -> None:
    assert days(line) == expected


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * sun"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Hourly ", "0 * * * *"),
    ],
)
def test_k21_names_for_whole_lines(name: str, line: str) -> None:
    end = START + timedelta(days=3 * 366)
    assert occurrences(Cron(name), START, end, 100) == occurrences(Cron(line), START, end, 100) != []


@pytest.mark.parametrize(
    ("line", "field", "found", "expected"),
    [
        ("60 * * * * *", "second", "60", "0 to 59"),
        ("60 * * * *", "minute", "60", "0 to 59"),
        ("0 24 * * *", "hour", "24", "0 to 23"),
        ("0 1,2,30 * * *", "hour", "30", "0 to 23"),
        ("0 20-25 * * *", "hour", "20-25", "0 to 23"),
        ("0 0 0 * *", "day of month", "0", "1 to 31, L, W, LW or 1W to 31W"),
        ("0 0 32 * *", "day of month", "32", "1 to 31"),
        ("0 0 32W * *", "day of month", "32w", "1 to 31"),
        ("0 0 0W * *", "day of month", "0w", "1 to 31"),
        ("0 0 * 0 *", "month", "0", "1 to 12 or jan to dec"),
        ("0 0 * 13 *", "month", "13", "1 to 12 or jan to dec"),
        ("0 0 * * 8", "day of week", "8", "0 to 7 or sun to sat"),
        ("0 0 * * 8L", "day of week", "8l", "0 to 7"),
        ("0 0 * * 5#6", "day of week", "5#6", "0#1 to 7#5"),
        ("0 0 * * 5#0", "day of week", "5#0", "0#1 to 7#5"),
        ("mon * * * *", "minute", "mon", "0 to 59"),
        ("0 0 mon * *", "day of month", "mon", "1 to 31"),
        ("0 0 * mon *", "month", "mon", "1 to 12 or jan to dec"),
        ("0 0 * * jan", "day of week", "jan", "0 to 7 or sun to sat"),
        ("0 0 * monday *", "month", "monday", "1 to 12 or jan to dec"),
        ("0 0 * jan-mon *", "month", "jan-mon", "1 to 12 or jan to dec"),
        ("0 22-2 * * *", "hour", "22-2", "a range that runs forwards, or two: 22-23,0-2"),
        ("0 0 * nov-feb *", "month", "nov-feb", "a range that runs forwards, or two: 11-12,1-2"),
        ("0 0 * * sat-mon", "day of week", "sat-mon", "two: 6-6,0-1"),
        ("0 0 * * 7-2", "day of week", "7-2", "a range that runs forwards"),
        ("*/0 * * * *", "minute", "*/0", "a step from 1 to 60"),
        ("0-30/0 * * * *", "minute", "0-30/0", "a step from 1 to 60"),
        ("*/90 * * * *", "minute", "*/90", "a step from 1 to 60"),
        ("0 */25 * * *", "hour", "*/25", "a step from 1 to 24"),
        ("0 0 * * */8", "day of week", "*/8", "a step from 1 to 7"),
        ("1- * * * *", "minute", "1-", "0 to 59, a-b, "),
        ("-1 * * * *", "minute", "-1", "0 to 59, a-b, "),
        ("1--2 * * * *", "minute", "1--2", "0 to 59"),
        ("1, * * * *", "minute", "", "0 to 59"),
        ("*-5 * * * *", "minute", "*-5", "0 to 59"),
        ("*5 * * * *", "minute", "*5", "0 to 59"),
        ("1/*/2 * * * *", "minute", "1/*/2", "0 to 59"),
        ("1.5 * * * *", "minute", "1.5", "0 to 59"),
        ("\N{ARABIC-INDIC DIGIT FIVE} * * * *", "minute", "\N{ARABIC-INDIC DIGIT FIVE}", "0 to 59"),
        ("? * * * *", "minute", "?", "0 to 59"),
        ("h * * * *", "minute", "h", "0 to 59"),
        ("r(1-5) * * * *", "minute", "r(1-5)", "0 to 59"),
        ("99999999999999999999 * * * *", "minute", "99999999999999999999", "0 to 59"),
        ("L * * * *", "minute", "l", "0 to 59"),
        ("* L * * *", "hour", "l", "0 to 23"),
        ("* * 1L * *", "day of month", "1l", "L, W, LW"),
        ("* * * L *", "month", "l", "1 to 12"),
        ("* * * * L", "day of week", "l", "0L to 7L"),
        ("W * * * *", "minute", "w", "0 to 59"),
        ("* W * * *", "hour", "w", "0 to 23"),
        ("* * * W *", "month", "w", "1 to 12"),
        ("* * * * LW", "day of week", "lw", "W, 0L to 7L"),
        ("* * 5-15W * *", "day of month", "5-15w", "1W to 31W"),
        ("* * 5#2 * *", "day of month", "5#2", "1W to 31W"),
    ],
)
def test_k21_a_wrong_field_is_refused_by_name(line: str, field: str, found: str, expected: str) -> None:
    with pytest.raises(InvalidSchedule) as refused:
        Cron(line)
    error = refused.value
    assert (error.field, error.line) == (field, line)
    assert expected in error.expected
    assert str(error) == f"cron line {line!r}: {field} is {found!r}; expected {error.expected}"


@pytest.mark.parametrize(
    ("line", "number"), [("", 0), ("  ", 0), ("5", 1), ("* * * *", 4), ("* * * * * * *", 7)]
)
def test_k21_a_wrong_number_of_fields_is_refused(line: str, number: int) -> None:
    with pytest.raises(InvalidSchedule, match=rf"expected six fields \(.*it has {number} field") as refused:
        Cron(line)
    assert refused.value.field == "cron line"


@pytest.mark.parametrize("line", ["@reboot", "@every 5m", "@", "daily"])
def test_an_unknown_name_is_refused(line: str) -> None:
    with pytest.raises(InvalidSchedule, match="or one of @yearly @annually @monthly @weekly @daily"):
        Cron(line)


@pytest.mark.parametrize("line", [None, 5, b"* * * * *", ["*"] * 5])
def test_a_line_is_text(line: str) -> None:
    with pytest.raises(InvalidSchedule, match=r"cron line is .*; expected text, for example '0 30 2"):
        Cron(line)
