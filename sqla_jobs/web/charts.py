"""Charts as plain geometry: what the templates draw as SVG, without a style and without a script. Pure."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqla_jobs.inspection import Bucket
from sqla_jobs.web.shown import number, span

WIDTH: Final = 720
HEIGHT: Final = 200
LEFT: Final = 52
BOTTOM: Final = 24
TOP: Final = 10
_INNER: Final = HEIGHT - BOTTOM - TOP


@dataclass(frozen=True)
class Tick:
    """A line of the scale, and its label."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A part of a column."""

    kind: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Column:
    """All of one bucket: what is shown when it is pointed at."""

    x: float
    width: float
    title: str
    bars: tuple[Bar, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line through the buckets that have a value; it is broken where they have none."""

    kind: str
    label: str
    path: str
    dots: tuple[tuple[float, float], ...]
    """Values without neighbours, which a line would not show."""


@dataclass(frozen=True)
class Chart:
    """What is drawn."""

    columns: tuple[Column, ...]
    scale: tuple[Tick, ...]
    times: tuple[Tick, ...]
    lines: tuple[Line, ...] = ()
    empty: bool = False
    width: int = WIDTH
    height: int = HEIGHT
    left: int = LEFT
    base: int = HEIGHT - BOTTOM


def throughput(buckets: Sequence[Bucket]) -> Chart:
    """How many jobs ended in each bucket, one part of a column for each outcome."""
    tops = [each.succeeded.number + each.failed.number + each.cancelled.number for each in buckets]
    top = _ceiling(max(tops, default=0))
    columns = []
    for place, bucket in zip(_places(buckets), buckets, strict=True):
        x, width = place
        bars, y = [], float(HEIGHT - BOTTOM)
        for kind in ("succeeded", "cancelled", "failed"):
            count = getattr(bucket, kind).number
            if count:
                height = max(1.0, count / top * _INNER)
                y -= height
                bars.append(Bar(kind, _r(x + width * 0.1), _r(y), _r(width * 0.8), _r(height)))
        title = (
            f"{_clock(bucket.at, buckets)}: {bucket.succeeded} succeeded, {bucket.failed} failed, "
            f"{bucket.cancelled} cancelled"
        )
        columns.append(Column(_r(x), _r(width), title, tuple(bars)))
    scale = tuple(Tick(_height(part * top, top), number(part * top)) for part in _parts(top))
    return Chart(tuple(columns), scale, _times(buckets), empty=not any(tops))


_LATENCIES: Final = (
    ("wait_p50", "waited, median"),
    ("wait_p95", "waited, 95 %"),
    ("run_p50", "ran, median"),
    ("run_p95", "ran, 95 %"),
)


def latency(buckets: Sequence[Bucket]) -> Chart:
    """How long jobs waited and ran, on a logarithmic scale: a millisecond and an hour are both seen."""
    known = [
        value.total_seconds()
        for bucket in buckets
        for kind, _ in _LATENCIES
        if (value := getattr(bucket, kind)) is not None
    ]
    low = math.floor(math.log10(max(min(known, default=0.001), 0.001)))
    high = max(low + 1, math.ceil(math.log10(max(max(known, default=1.0), 0.001))))

    def y(value: dt.timedelta) -> float:
        part = (math.log10(max(value.total_seconds(), 10.0**low)) - low) / (high - low)
        return _r(HEIGHT - BOTTOM - min(1.0, part) * _INNER)

    places = _places(buckets)
    columns = []
    for (x, width), bucket in zip(places, buckets, strict=True):
        told = ", ".join(f"{label} {span(getattr(bucket, kind))}" for kind, label in _LATENCIES)
        columns.append(Column(_r(x), _r(width), f"{_clock(bucket.at, buckets)}: {told}"))
    lines = []
    for kind, label in _LATENCIES:
        points = [
            (_r(x + width / 2), None if (value := getattr(bucket, kind)) is None else y(value))
            for (x, width), bucket in zip(places, buckets, strict=True)
        ]
        lines.append(Line(kind.replace("_", "-"), label, *_path(points)))
    step = 1 + (high - low) // 5
    scale = tuple(
        Tick(_r(HEIGHT - BOTTOM - (power - low) / (high - low) * _INNER), span(10.0**power))
        for power in range(low, high + 1, step)
    )
    return Chart(tuple(columns), scale, _times(buckets), tuple(lines), empty=not known)


def _path(points: Sequence[tuple[float, float | None]]) -> tuple[str, tuple[tuple[float, float], ...]]:
    """A line's path, and the points that have no neighbour."""
    pieces: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is not None:
            pieces[-1].append((x, y))
        elif pieces[-1]:
            pieces.append([])
    path = " ".join("M" + " L".join(f"{x:g},{y:g}" for x, y in piece) for piece in pieces if len(piece) > 1)
    return path, tuple(piece[0] for piece in pieces if len(piece) == 1)


def _places(buckets: Sequence[Bucket]) -> list[tuple[float, float]]:
    width = (WIDTH - LEFT) / max(1, len(buckets))
    return [(LEFT + place * width, width) for place in range(len(buckets))]


def _ceiling(value: float) -> float:
    """The next of 4, 10, 20, 40, 100, …: a scale whose quarters or halves are round."""
    if value <= 4:
        return 4.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 4, 10) if step * power >= value)


def _parts(top: float) -> tuple[float, ...]:
    quarters = (0.0, 0.25, 0.5, 0.75, 1.0)
    return quarters if all(top * part == int(top * part) for part in quarters) else (0.0, 0.5, 1.0)


def _height(value: float, top: float) -> float:
    return _r(HEIGHT - BOTTOM - value / top * _INNER)


def _times(buckets: Sequence[Bucket]) -> tuple[Tick, ...]:
    if not buckets:
        return ()
    places = _places(buckets)
    step = max(1, len(buckets) // 4)
    return tuple(
        Tick(_r(places[place][0]), _clock(buckets[place].at, buckets))
        for place in range(0, len(buckets) - step // 2, step)
    )


def _clock(at: dt.datetime, buckets: Sequence[Bucket]) -> str:
    length = sum((each.seconds for each in buckets), 0.0)
    form = "%H:%M:%S" if length < 600 else "%H:%M" if length <= 86_400 else "%d %b %H:%M"
    return f"{at.astimezone(dt.timezone.utc):{form}}"


def _r(value: float) -> float:
    return round(value, 2)
