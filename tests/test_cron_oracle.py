"""Cron against an oracle that walks the clock: never twice, never none, always at the same times.

The oracle knows nothing of offsets, folds or gaps. It reads the clock at each minute (or second) of UTC,
in order, and sees a change of the local time as a reading that jumps forwards or comes again.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import datetime, timedelta, timezone
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter
from hypothesis import given, settings
from hypothesis import strategies as st

from sqla_jobs.cron import Cron, occurrences
from sqla_jobs.errors import InvalidSchedule
from tests.support.cron_lines import Drawn, Numbers, lines, numbers

MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)
UTC = timezone.utc
SINCE = datetime(2000, 1, 1, tzinfo=UTC)
EACH_DAY = [SINCE + timedelta(days=n) for n in range(28 * 365 + 7)]
"""28 years: every kind of year there is."""

CHANGES = {
    "Europe/Paris": ["2026-03-29T01:00", "2026-10-25T01:00"],
    "America/Los_Angeles": ["2026-03-08T10:00", "2026-11-01T09:00"],
    "Australia/Lord_Howe": ["2026-04-04T15:00", "2026-10-03T15:30"],  # by 30 minutes
    "America/Sao_Paulo": ["2018-02-18T02:00", "2018-11-04T03:00"],  # at midnight
    "Antarctica/Troll": ["2026-03-29T01:00", "2026-10-25T01:00"],  # by two hours
    "Asia/Pyongyang": ["2015-08-14T15:00", "2018-05-04T15:00"],  # another offset, no daylight saving
    "Pacific/Apia": ["2011-12-30T10:00"],  # a whole day is skipped
    "UTC": ["2026-03-29T01:00"],
}
BY_SECONDS = {**CHANGES, "Africa/Monrovia": ["1972-01-07T00:44"]}  # by 44 minutes and 30 seconds

Case = tuple[str, str, Drawn]
Walk = list[tuple[datetime, datetime]]


@cache
def walk(zone: str, change: str, step: timedelta) -> Walk:
    """(instant, local time) about a change: by minutes for two days, by seconds for six hours."""
    around = timedelta(hours=26 if step == MINUTE else 3)
    start = datetime.fromisoformat(change).replace(tzinfo=UTC) - around
    instants = [start + step * n for n in range(2 * around // step)]
    return [(u, u.astimezone(ZoneInfo(zone)).replace(tzinfo=None, fold=0)) for u in instants]


def oracle(drawn: Drawn, walked: Walk, step: timedelta) -> list[datetime]:
    if not drawn.fixed:
        return [instant for instant, local in walked if drawn.matches(local)]
    ticks = []
    latest = walked[0][1] - step
    for instant, local in walked:
        # What has not been shown before, up to now: one reading, none, or all of a gap.
        new = [latest + step * n for n in range(1, (local - latest) // step + 1)]
        latest = max(latest, local)
        if any(map(drawn.matches, new)):
            ticks.append(instant)
    return ticks


def agree(zone: str, change: str, drawn: Drawn, step: timedelta, places: list[float]) -> None:
    walked = walk(zone, change, step)
    expected = oracle(drawn, walked, step)
    try:
        cron = Cron(drawn.text, zone)
    except InvalidSchedule as refused:
        why = str(refused)
        assert expected == []
        assert "skip all its times" in why or not any(map(drawn.day, EACH_DAY))
        return
    start, end = walked[0][0] - SECOND, walked[-1][0]
    assert occurrences(cron, start, end, len(expected) + 1) == expected
    for place in places:
        after = start + (end - start) * place
        following = cron.next(after)
        index = bisect_right(expected, after)
        assert following == expected[index] if index < len(expected) else following > end


@st.composite
def cases(draw: st.DrawFn, changes: dict[str, list[str]], step: timedelta) -> Case:
    zone = draw(st.sampled_from(sorted(changes)))
    change = draw(st.sampled_from(changes[zone]))
    midnights = {
        local.replace(hour=0, minute=0, second=0) for _, local in walk(zone, change, step)[:: 3600 // 60]
    }
    return zone, change, draw(lines(sorted(midnights), by_seconds=step == SECOND))


places = st.lists(st.floats(0, 1), max_size=10)


@given(case=cases(CHANGES, MINUTE), places=places)
@settings(max_examples=200, deadline=None)
def test_k23_each_minute_of_two_days_around_a_change(case: Case, places: list[float]) -> None:
    agree(*case, MINUTE, places)


@given(case=cases(BY_SECONDS, SECOND), places=places)
@settings(max_examples=25, deadline=None)
def test_k23_each_second_of_six_hours_around_a_change(case: Case, places: list[float]) -> None:
    agree(*case, SECOND, places)


def daily(text: str, minutes: set[int], hours: set[int]) -> Drawn:
    return Drawn(text, frozenset({0}), frozenset(minutes), frozenset(hours), lambda _: True)


DAILY = [
    daily("30 2 * * *", {30}, {2}),
    daily("0,30 0-3 * * *", {0, 30}, {0, 1, 2, 3}),
    daily("15 0 * * *", {15}, {0}),
    daily("45 23 * * *", {45}, {23}),
    daily("0 0-23/5 * * *", {0}, {0, 5, 10, 15, 20}),
    daily("*/15 2 * * *", {0, 15, 30, 45}, {2}),
    daily("30 * * * *", {30}, set(range(24))),
    daily("0 */2 * * *", {0}, set(range(0, 24, 2))),
    daily("*/7 * * * *", set(range(0, 60, 7)), set(range(24))),
]


@pytest.mark.parametrize("drawn", DAILY, ids=lambda drawn: drawn.text)
@pytest.mark.parametrize("zone", CHANGES)
def test_k23_daily_lines_over_every_change(zone: str, drawn: Drawn) -> None:
    for change in CHANGES[zone]:
        agree(zone, change, drawn, MINUTE, [n / 100 for n in range(101)])


@pytest.mark.parametrize("zone", CHANGES)
def test_each_change_is_inside_its_walk(zone: str) -> None:
    for change in CHANGES[zone]:
        walked = walk(zone, change, MINUTE)
        elapsed = {later - earlier for earlier, later in pairwise(local for _, local in walked)}
        assert len(elapsed) == (1 if zone == "UTC" else 2)


FIELDS = st.tuples(
    numbers(0, 59, (0, 30)), numbers(0, 59, (0, 30)), numbers(0, 23, (0, 12)), numbers(1, 12, (1, 2))
)
DAYS = st.tuples(
    numbers(1, 31, (1,), star=False).filter(lambda drawn: min(drawn[1]) < 29),
    numbers(0, 6, (1,), star=False),
)
STAR: Numbers = ("*", frozenset())


@given(
    fields=FIELDS,
    days=DAYS,
    restricted=st.sampled_from([(True, True), (True, False), (False, True)]),
    after=st.integers(0, 50 * 366 * 86_400).map(lambda seconds: SINCE + timedelta(seconds=seconds)),
)
@settings(max_examples=100, deadline=None)
def test_croniter_agrees_where_the_clock_never_changes(
    fields: tuple[Numbers, Numbers, Numbers, Numbers],
    days: tuple[Numbers, Numbers],
    restricted: tuple[bool, bool],
    after: datetime,
) -> None:
    dom, dow = (day if wanted else STAR for day, wanted in zip(days, restricted, strict=True))
    drawn = [*fields[:3], dom, fields[3], dow]
    line = " ".join(text for text, _ in drawn)
    # croniter takes `5-5` for the whole field, so it is given all the numbers.
    listed = " ".join(",".join(map(str, sorted(values))) or "*" for _, values in drawn)
    theirs = croniter(listed, after.replace(tzinfo=None), second_at_beginning=True).get_next(datetime)
    assert Cron(line).next(after) == theirs.replace(tzinfo=UTC)
