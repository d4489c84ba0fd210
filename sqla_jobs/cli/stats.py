"""``sqla-jobs stats``: how much was done, and how long it took."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import click

from sqla_jobs import inspection
from sqla_jobs.cli.documents import chosen_fields, json_option, print_document
from sqla_jobs.cli.place import place_options, placed
from sqla_jobs.cli.printing import moment, print_table, span, sparkline
from sqla_jobs.errors import InvalidFilter
from sqla_jobs.inspection import Bucket, Count
from sqla_jobs.inspection.texts import age_of, age_text
from sqla_jobs.models import check_queue
from sqla_jobs.statements import clock

SPANS: Final = ((dt.timedelta(minutes=5), 20), (dt.timedelta(hours=1), 20), (dt.timedelta(hours=24), 24))
"""What is looked back at, and in how many pieces; their bars fit beside each other in 80 columns."""
PIECES: Final = 24
"""Pieces of a span that is asked for."""
FIELDS: Final = (
    "at", "seconds", "succeeded", "failed", "cancelled", "wait_p50", "wait_p95", "run_p50", "run_p95",
)  # fmt: skip
"""What ``--json`` tells of each piece of time."""
MINUTE: Final = dt.timedelta(minutes=1)


@dataclass(frozen=True)
class Looked:
    """A span of time until now."""

    length: dt.timedelta
    pieces: Sequence[Bucket]
    now: dt.datetime

    def sum(self, count: Callable[[Bucket], Count]) -> Count:
        """How many there were in all pieces."""
        return sum((count(each) for each in self.pieces), start=Count(0))

    @property
    def per_minute(self) -> str:
        """How many finished in a minute; the first piece began a little later than the span."""
        total = self.sum(finished)
        rate = total.number / ((self.now - self.pieces[0].at) / MINUTE)
        return f"{rate:,.1f}{'' if total.exact else '+'}"

    def middle(self, time: Callable[[Bucket], dt.timedelta | None]) -> str:
        """The median over the pieces."""
        times = [each.total_seconds() for each in map(time, self.pieces) if each is not None]
        return span(dt.timedelta(seconds=median(times))) if times else ""

    def worst(self, time: Callable[[Bucket], dt.timedelta | None]) -> str:
        """The longest of the pieces."""
        return span(max((each for each in map(time, self.pieces) if each is not None), default=None))


@click.command()
@click.option("--queue", metavar="NAME", help="Jobs of this queue only.")
@click.option(
    "--span", "length", metavar="AGE", help="Only so far back, piece by piece, e.g. 90s, 15m, 2h, 7d."
)
@click.option(
    "--pieces", metavar="N", type=click.IntRange(1, 500), default=PIECES, show_default=True,
    help="Of the --span.",
)  # fmt: skip
@json_option
@place_options
@click.pass_context
def stats(
    ctx: click.Context, /, queue: str | None, length: str | None, pieces: int, as_json: bool, **_: str | None
) -> None:
    """Show how many jobs have finished, and how long they waited and ran.

    In the last five minutes, in the last hour and in the last day, each in pieces. Half of the jobs of a
    piece took no longer than its p50, and 95 of 100 no longer than its p95; above them are the median of the
    one and the highest of the other. Of many jobs, a part is looked at.
    """
    if queue is not None:
        check_queue(queue)
    spans = SPANS if length is None else ((_length(length), pieces),)
    found, now = placed(ctx).look(
        lambda session, model, _: (
            [
                inspection.stats(session, model, span=each, buckets=number, queue=queue)
                for each, number in spans
            ],
            session.scalars(clock(), {"now": None}).one(),
        )
    )
    looked = [Looked(each, buckets, now) for (each, _), buckets in zip(spans, found, strict=True)]
    if as_json:
        print_document({"now": now, "queue": queue, "spans": [_document(each) for each in looked]})
        return
    _print_spans(looked)
    if length is not None:
        click.echo()
        _print_pieces(found[0])


def _length(text: str) -> dt.timedelta:
    found = age_of("--span", text)
    if found < dt.timedelta(seconds=1):
        raise InvalidFilter("--span", text, "at least 1s")
    return found


def finished(piece: Bucket) -> Count:
    """How many jobs came to their end."""
    return piece.succeeded + piece.failed + piece.cancelled


def _document(looked: Looked) -> dict[str, Any]:
    return {
        "span": looked.length,
        "pieces": [chosen_fields(each, FIELDS) for each in looked.pieces],
    }


def _print_spans(found: Sequence[Looked]) -> None:
    lines: list[tuple[str, Callable[[Looked], object]]] = [
        ("succeeded", lambda each: each.sum(lambda piece: piece.succeeded)),
        ("failed", lambda each: each.sum(lambda piece: piece.failed)),
        ("cancelled", lambda each: each.sum(lambda piece: piece.cancelled)),
        ("per minute", lambda each: each.per_minute),
        ("wait p50", lambda each: each.middle(lambda piece: piece.wait_p50)),
        ("wait p95", lambda each: each.worst(lambda piece: piece.wait_p95)),
        ("run p50", lambda each: each.middle(lambda piece: piece.run_p50)),
        ("run p95", lambda each: each.worst(lambda piece: piece.run_p95)),
        ("finished", lambda each: sparkline([finished(piece).number for piece in each.pieces])),
        ("waits", lambda each: sparkline([_seconds(piece.wait_p95) for piece in each.pieces])),
        ("runs", lambda each: sparkline([_seconds(piece.run_p95) for piece in each.pieces])),
    ]
    print_table(
        ("last", *(age_text(each.length) for each in found)),
        [(name, *(tell(each) for each in found)) for name, tell in lines],
    )


def _seconds(time: dt.timedelta | None) -> float:
    return 0.0 if time is None else time.total_seconds()


def _print_pieces(pieces: Sequence[Bucket]) -> None:
    numbers = ("succeeded", "failed", "cancelled", "wait p50", "p95", "run p50", "p95 ")
    print_table(
        ("from (UTC)", *numbers),
        [
            (
                moment(each.at),
                *(str(count) for count in (each.succeeded, each.failed, each.cancelled)),
                *(span(long) for long in (each.wait_p50, each.wait_p95, each.run_p50, each.run_p95)),
            )
            for each in pieces
        ],
        right=numbers,
    )
