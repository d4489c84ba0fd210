"""`sqla-jobs cron explain`: the next times of a cron line, without a database."""

from __future__ import annotations

import datetime as dt

import pytest
from click.testing import CliRunner, Result

from sqla_jobs.cli import main


def explain(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["cron", "explain", *arguments])


def test_explain_shows_the_zone_and_utc() -> None:
    result = explain(
        "0 0 14,16 * * *",
        "--timezone",
        "America/Los_Angeles",
        "--after",
        "2016-10-11T16:34+00:00",
        "--count",
        "3",
    )
    assert result.exit_code == 0
    assert [line.rstrip() for line in result.output.splitlines()] == [
        "America/Los_Angeles                UTC",
        "Tue 2016-10-11 14:00:00 PDT -0700  Tue 2016-10-11 21:00:00",
        "Tue 2016-10-11 16:00:00 PDT -0700  Tue 2016-10-11 23:00:00",
        "Wed 2016-10-12 14:00:00 PDT -0700  Wed 2016-10-12 21:00:00",
    ]


def test_a_time_without_an_offset_is_in_the_zone() -> None:
    told = explain(
        "30 2 * * *", "--timezone", "Europe/Paris", "--after", "2026-10-25T01:00", "--count", "2"
    ).output
    assert [line.split()[1:5] for line in told.splitlines()[1:]] == [
        ["2026-10-25", "02:30:00", "CEST", "+0200"], ["2026-10-26", "02:30:00", "CET", "+0100"],
    ]  # fmt: skip


def test_five_times_from_now() -> None:
    now = dt.datetime.now(dt.timezone.utc)
    rows = explain("@yearly").output.splitlines()
    assert [row.split()[1] for row in rows[1:]] == [f"{now.year + n}-01-01" for n in range(1, 6)]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["61 * * * *"], "cron line '61 * * * *': minute is '61'; expected 0 to 59"),
        (["0 0 31 2 *"], "expected one that fires"),
        (["* *"], "cron line"),
        (["@daily", "--timezone", "Mars/Base"], "timezone is 'Mars/Base'; expected an IANA name"),
        (["@daily", "--after", "noon"], "--after is 'noon'; expected a time such as"),
        (["@daily", "--count", "0"], "0 is not in the range"),
        (["@yearly", "--after", "9999-12-30"], "has no time after"),
    ],
)
def test_what_explain_refuses(arguments: list[str], expected: str) -> None:
    result = explain(*arguments)
    assert (result.exit_code, expected in result.output) == (2, True), result.output


def test_in_utc_there_is_one_column() -> None:
    rows = explain("0 0 3,15 * * *", "--after", "2016-10-11T16:34", "--count", "1").output.splitlines()
    assert [row.rstrip() for row in rows] == ["UTC", "Wed 2016-10-12 03:00:00"]
