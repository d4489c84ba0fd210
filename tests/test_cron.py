"""Cron, Every, occurrences: the next time, and what is refused. No database."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import zoneinfo
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sqla_jobs.cron import Cron, Every, Rule, occurrences
from sqla_jobs.cron.line import Line
from sqla_jobs.errors import InvalidOption, InvalidSchedule

UTC = timezone.utc
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def at(text: str, zone: str = "UTC") -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone))


def test_k20_the_default_zone_is_utc() -> None:
    assert Cron("0 0 3,15 * * *").next(at("2016-10-11T16:34")) == at("2016-10-12T03:00")


def test_k20_the_line_is_read_in_its_zone_and_the_next_time_is_in_utc() -> None:
    found = Cron("0 0 3,15 * * *", timezone="America/Los_Angeles").next(at("2016-10-11T16:34"))
    assert found == at("2016-10-11T22:00")
    assert found.tzinfo is UTC


@pytest.mark.parametrize("line", ["", "every day", "61 * * * *", "* * * * * * *"])
def test_k20_an_invalid_line_is_refused_when_the_rule_is_made(line: str) -> None:
    with pytest.raises(InvalidSchedule):
        Cron(line)


def test_a_line_without_end_is_refused_before_it_is_read() -> None:
    whole = ",".join(map(str, range(60)))
    assert Cron(f"{whole} {whole} * * * *").next(NOON) == at("2026-01-05T12:00:01")
    with pytest.raises(InvalidSchedule) as refused:
        Cron(f"{'1,' * 1000}1 * * * *")
    assert str(refused.value) == (
        "cron line is '1,1,1,1,1,1,1,1,1,1,…'; expected at most 1000 characters, in which all can be said;"
        " it has 2009"
    )


def test_a_line_is_read_once_however_often_it_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    Cron("17 4,5 6 * *")
    monkeypatch.setattr("sqla_jobs.cron.line.croniter", None)
    assert Cron("17 4,5 6 * *", "Europe/Paris").next(NOON) == at("2026-01-06T03:17")


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("* * * 10 * *", "2026-01-10T00:00"),
        ("* * 14 * * *", "2026-01-05T14:00"),
        ("* 30 * * * *", "2026-01-05T12:30"),
        ("* * * * 3 *", "2026-03-01T00:00"),
        ("* * * * * sat", "2026-01-10T00:00"),
        ("* * 11 * * *", "2026-01-06T11:00"),
        ("* * * * * *", "2026-01-05T12:00:01"),
    ],
)
def test_k22_fields_below_a_fixed_one_begin_anew(line: str, found: str) -> None:
    assert Cron(line).next(NOON) == at(found)


def test_next_is_strictly_later_also_by_parts_of_a_second() -> None:
    cron = Cron("0 0 12 * * *")
    assert cron.next(NOON - timedelta(microseconds=1)) == NOON
    assert cron.next(NOON) == NOON + timedelta(days=1)
    assert cron.next(NOON + timedelta(microseconds=999_999)) == NOON + timedelta(days=1)


def test_after_may_be_in_any_zone() -> None:
    cron = Cron("0 30 12 * * *", "Asia/Tokyo")
    assert cron.next(NOON.astimezone(ZoneInfo("America/New_York"))) == cron.next(NOON)
    assert cron.next(NOON) == at("2026-01-06T12:30", "Asia/Tokyo")


@pytest.mark.parametrize("rule", [Cron("* * * * *"), Every(timedelta(minutes=1))], ids=repr)
def test_a_naive_time_is_refused(rule: Rule) -> None:
    naive = datetime(2026, 1, 5)  # noqa: DTZ001
    with pytest.raises(ValueError, match=r"datetime.datetime\(2026, 1, 5, 0, 0\) has no time zone; expected"):
        rule.next(naive)
    with pytest.raises(ValueError, match="has no time zone"):
        occurrences(rule, NOON, naive, 3)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("0 0 29 2 *", "2028-02-29"),
        ("0 0 * 2 mon#5", "2044-02-29"),
    ],
)
def test_a_line_may_fire_rarely(line: str, found: str) -> None:
    assert Cron(line).next(NOON).date() == date.fromisoformat(found)


def test_forty_years_may_lie_between_two_times() -> None:
    """2100 is no leap year."""
    ticks = occurrences(Cron("0 0 * 2 mon#5"), at("2070-01-01"), at("2150-01-01"), 9)
    assert [tick.year for tick in ticks] == [2072, 2112, 2140]


@pytest.mark.parametrize("line", ["0 0 31 2 *", "0 0 30 feb *", "0 0 31 4,6,9,11 *", "0 0 31W jun *"])
def test_a_line_that_can_never_fire_is_refused(line: str) -> None:
    with pytest.raises(InvalidSchedule, match=r"expected one that fires: no year has such a day") as refused:
        Cron(line)
    assert refused.value.field == "cron line"
    assert repr(line) in str(refused.value)


def test_a_line_all_of_whose_times_are_skipped_is_refused() -> None:
    """In Paris the last Sunday of March has no 02:00 to 02:59; a wildcard line does not make up for them."""
    line = "*/15 2 * 3 sunL"
    assert Cron(line).next(NOON) == at("2026-03-29T02:00")
    with pytest.raises(InvalidSchedule, match="the clocks of Europe/Paris skip all its times"):
        Cron(line, "Europe/Paris")


def test_the_end_of_the_calendar_is_an_error_of_its_own() -> None:
    with pytest.raises(InvalidSchedule, match="from 9998-12-31 to the year 9998 there is no such time"):
        Cron("0 0 1 1 *").next(at("9998-12-31"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Europe/Pari", r"timezone is 'Europe/Pari'; expected an IANA name, .*did you mean 'Europe/Paris'"),
        ("europe/paris", "did you mean 'Europe/Paris'"),
        ("Europe", "timezone is 'Europe'; expected an IANA name"),
        ("", "timezone is ''; expected an IANA name"),
        ("../etc/passwd", "expected an IANA name"),
        ("/etc/passwd", "expected an IANA name"),
        ("a\0b", "expected an IANA name"),
        (None, "timezone is None; expected the name of a time zone"),
        (UTC, r"timezone is datetime.timezone.utc; expected the name"),
    ],
)
def test_an_unknown_zone_is_refused(name: str, message: str) -> None:
    with pytest.raises(InvalidSchedule, match=message) as refused:
        Cron("* * * * *", timezone=name)
    assert refused.value.field == "timezone"


@pytest.mark.parametrize("name", ["localtime", "Factory"])
def test_a_zone_that_depends_on_the_machine_is_refused(name: str) -> None:
    with pytest.raises(InvalidSchedule, match="means another zone on each machine"):
        Cron("* * * * *", timezone=name)


def test_a_machine_without_zones_is_told_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoneinfo, "available_timezones", set)
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath([str(tmp_path)])
    try:
        with pytest.raises(
            InvalidSchedule, match="no time zones at all: install them with `pip install tzdata`"
        ):
            Cron("* * * * *", timezone="Mars/Olympus_Mons")
    finally:
        zoneinfo.reset_tzpath(before)


def test_a_rule_is_a_value() -> None:
    cron = Cron("0 3 * * *", "Europe/Paris")
    assert cron == Cron("0 3 * * *", "Europe/Paris") != Cron("0 3 * * *")
    assert len({cron, Cron("0 3 * * *", "Europe/Paris")}) == 1
    assert repr(cron) == "Cron(line='0 3 * * *', timezone='Europe/Paris')"
    for again in (pickle.loads(pickle.dumps(cron)), copy.deepcopy(cron), dataclasses.replace(cron)):
        assert again == cron
        assert again.next(NOON) == cron.next(NOON)
    assert Every(timedelta(hours=1)) == Every(timedelta(minutes=60))


def test_every_counts_elapsed_time_also_over_a_change_of_the_clock() -> None:
    before = at("2026-03-29T01:30", "Europe/Paris")
    found = Every(timedelta(hours=1)).next(before)
    assert found == at("2026-03-29T00:30") + timedelta(hours=1)
    assert found.tzinfo is UTC


@pytest.mark.parametrize(
    "interval", [timedelta(0), timedelta(seconds=-1), timedelta(days=36_526), 60, None, "1h"]
)
def test_an_interval_that_is_none_is_refused(interval: timedelta) -> None:
    with pytest.raises(InvalidSchedule, match=r"interval is .*; expected a timedelta above zero") as refused:
        Every(interval)
    assert refused.value.field == "interval"
    assert isinstance(refused.value, InvalidOption)


@given(
    st.timedeltas(timedelta(microseconds=1), timedelta(days=36_525)),
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
)
def test_any_interval_is_kept_exactly(interval: timedelta, after: datetime) -> None:
    assert Every(interval).next(after) - after == interval


def test_occurrences_are_those_after_the_one_and_up_to_the_other() -> None:
    hourly = Cron("@hourly")
    hours = [NOON + timedelta(hours=n) for n in range(1, 4)]
    assert occurrences(hourly, NOON, NOON + timedelta(hours=3), 10) == hours
    assert occurrences(hourly, NOON, NOON + timedelta(hours=4, seconds=-1), 10) == hours
    assert occurrences(hourly, NOON, NOON + timedelta(days=30), 3) == hours
    assert occurrences(Every(timedelta(hours=1)), NOON, NOON + timedelta(days=30), 3) == hours


@pytest.mark.parametrize(
    ("until", "limit"), [(NOON, 5), (NOON - timedelta(days=1), 5), (NOON + timedelta(days=9), 0)]
)
def test_there_may_be_no_occurrences(until: datetime, limit: int) -> None:
    assert occurrences(Cron("* * * * *"), NOON, until, limit) == []


def test_each_occurrence_is_computed_once() -> None:
    asked = []

    class Asked(Every):
        def next(self, after: datetime) -> datetime:
            asked.append(after)
            return super().next(after)

    assert len(occurrences(Asked(timedelta(seconds=1)), NOON, NOON + timedelta(days=365), 1000)) == 1000
    assert asked == [NOON + timedelta(seconds=n) for n in range(1000)]


def test_a_gap_is_left_in_one_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apia skipped a day: 86,400 readings that no clock has shown."""
    asked = []
    first = Line.first

    def counted(line: Line, start: datetime, last_year: int) -> datetime | None:
        asked.append(start)
        return first(line, start, last_year)

    cron = Cron("* * * * * *", "Pacific/Apia")
    monkeypatch.setattr(Line, "first", counted)
    change = at("2011-12-30T10:00")
    assert cron.next(change - timedelta(seconds=1)) == change
    assert len(asked) == 2
