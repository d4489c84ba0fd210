"""A wall clock in a time zone: which instants show a local time, over changes of its offset. Pure."""

from __future__ import annotations

import datetime as dt
import difflib
import zoneinfo
from dataclasses import dataclass
from typing import Final

from sqla_jobs.errors import InvalidSchedule

SECOND = dt.timedelta(seconds=1)


_OF_THE_MACHINE: Final = ("Factory", "localtime", "posixrules")


def zone(name: str) -> zoneinfo.ZoneInfo:
    """The time zone of an IANA name.

    Raises:
        InvalidSchedule: there is none of this name on this machine.
    """
    if not isinstance(name, str):
        raise InvalidSchedule("timezone", name, "the name of a time zone, for example 'Europe/Paris'")
    if name in _OF_THE_MACHINE:
        raise InvalidSchedule("timezone", name, "an IANA name: this one means another zone on each machine")
    try:
        return zoneinfo.ZoneInfo(name)
    # "Europe" is a folder, "../x" a path that ZoneInfo refuses.
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise InvalidSchedule("timezone", name, _names_near(name)) from None


def _names_near(name: str) -> str:
    known = {other.lower(): other for other in zoneinfo.available_timezones()}
    if not known:
        return (
            "an IANA name, but this machine has no time zones at all: install them with `pip install tzdata`"
        )
    near = difflib.get_close_matches(name.lower(), known, n=3)
    hint = f"; did you mean {' or '.join(repr(known[other]) for other in near)}?" if near else ""
    return f"an IANA name, for example 'Europe/Paris' or 'UTC'{hint}"


@dataclass(frozen=True)
class Clock:
    """Readings (naive local times) of a clock in a time zone <-> instants (aware, in UTC)."""

    zone: dt.tzinfo

    def reading(self, instant: dt.datetime) -> dt.datetime:
        """What the clock shows; `fold` is 1 when it shows it for the second time."""
        return instant.astimezone(self.zone).replace(tzinfo=None)

    def instants(self, reading: dt.datetime) -> list[dt.datetime]:
        """When the clock shows it, the oldest first: never (in a gap), once, or twice (in an overlap)."""
        first, second = self._bounds(reading)
        if first > second:
            return []
        return [first] if first == second else [first, second]

    def change(self, reading: dt.datetime) -> dt.datetime:
        """The instant of the change that skips this reading, or repeats it: the first by the new offset."""
        before, after = sorted(self._bounds(reading))
        offset = before.astimezone(self.zone).utcoffset()
        while after - before > SECOND:
            middle = before + (after - before) // SECOND // 2 * SECOND
            if middle.astimezone(self.zone).utcoffset() == offset:
                before = middle
            else:
                after = middle
        return after

    def overlap(self, reading: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
        """The readings [from, to) that are repeated together with this one."""
        change = self.change(reading)
        return self.reading(change), self.reading(change - SECOND) + SECOND

    def _bounds(self, reading: dt.datetime) -> tuple[dt.datetime, dt.datetime]:
        # By the offset before a change, and by the one after it (PEP 495). In a gap the first is the later.
        naive = reading.replace(fold=0, tzinfo=self.zone), reading.replace(fold=1, tzinfo=self.zone)
        return naive[0].astimezone(dt.timezone.utc), naive[1].astimezone(dt.timezone.utc)
