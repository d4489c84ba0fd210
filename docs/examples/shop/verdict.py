"""What must be in the database at the end, and what is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from rich import box
from rich.table import Table
from sqlalchemy import text
from sqlalchemy.orm import Session

from shop.imports import Taken


@dataclass
class Story:
    """What the demo itself has seen and done, to be held against the database."""

    read: int = 0
    taken: list[Taken] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, the first order that was refused for it."""
    faulty: Counter[str] | None = None
    """How many orders are faulty and why, if that is known beforehand."""
    killed: int = 0
    running_at_kill: list[int] = field(default_factory=list)
    """The jobs that the killed worker was running."""
    must_kill: bool = True
    stopped: list[int] = field(default_factory=list)
    """The exit codes of the workers that were asked to stop."""
    survivors: int = 0

    @property
    def foreign(self) -> int:
        return sum(order.currency != "EUR" for order in self.taken)

    @property
    def faxes(self) -> int:
        return sum(order.fax for order in self.taken)

    def totals(self) -> dict[str, Decimal]:
        sums: dict[str, Decimal] = {}
        for order in self.taken:
            sums[order.currency] = sums.get(order.currency, Decimal()) + order.total
        return sums


@dataclass(frozen=True)
class Line:
    what: str
    must_be: Any
    found: Any
    ends_section: bool = False

    @property
    def right(self) -> bool:
        return bool(self.must_be == self.found)


def compare(session: Session, story: Story) -> list[Line]:
    """The table's lines; the database is asked in plain SQL, without the shop's or the library's code."""

    def number(sql: str, **values: Any) -> int:
        return int(session.scalar(text(sql), values) or 0)

    sums = session.execute(text("SELECT currency, sum(total) FROM invoices GROUP BY currency"))
    invoiced = {row.currency: row.sum for row in sums}
    faulty = story.refused.total() if story.faulty is None else story.faulty.total()
    orders = story.read - faulty
    totals = sorted(story.totals().items())
    last = totals[-1][1] if totals else None
    return [
        Line("orders stored", orders, number("SELECT count(*) FROM orders")),
        Line("orders refused and rolled back", faulty, story.refused.total()),
        Line("jobs of refused orders", 0, number(OF_NO_ORDER), ends_section=True),
        Line("invoices", orders, number("SELECT count(*) FROM invoices")),
        Line("orders with exactly one invoice", orders, number(EXACTLY_ONE)),
        *(
            Line(
                f"… for {currency} as the file says",
                f"{total:,}",
                f"{invoiced.get(currency, 0):,}",
                total is last,
            )
            for currency, total in totals
        ),
        Line("bookings: failed twice, then written once", story.foreign, number(BOOKED)),
        Line("faxes: three attempts, then failed", story.faxes, number(FAXES_FAILED)),
        Line("rows left behind by failed attempts", 0, number(LEFT_BEHIND), ends_section=True),
        Line("workers killed with SIGKILL", int(story.must_kill or story.killed), story.killed),
        Line(
            "its running jobs, rescued and done",
            len(story.running_at_kill),
            number(RESCUED, ids=story.running_at_kill),
        ),
        Line("jobs that lost their worker in all", len(story.running_at_kill), number(CRASHED)),
        Line("workers that stopped on SIGTERM, exit 0", story.survivors, story.stopped.count(0)),
        Line("jobs not finished", 0, number(UNFINISHED)),
    ]


OF_NO_ORDER = """
    SELECT count(*) FROM sqla_jobs WHERE arguments ->> 'number' NOT IN (SELECT number FROM orders)
"""
EXACTLY_ONE = """
    SELECT count(*) FROM orders WHERE 1 = (SELECT count(*) FROM invoices WHERE order_id = orders.id)
"""
BOOKED = """
    SELECT count(*) FROM sqla_jobs JOIN orders ON number = arguments ->> 'number'
    WHERE task = 'shop.tasks.book_in_euros' AND state = 'succeeded' AND attempt = 3
    AND jsonb_array_length(attempts) = 2 AND 1 = (SELECT count(*) FROM bookings WHERE order_id = orders.id)
"""
FAXES_FAILED = """
    SELECT count(*) FROM sqla_jobs
    WHERE task = 'shop.tasks.send_fax' AND state = 'failed'
    AND attempt = 3 AND jsonb_array_length(attempts) = 3
"""
LEFT_BEHIND = """
    SELECT (SELECT count(*) FROM faxes) + (SELECT count(*) FROM bookings)
         - (SELECT count(DISTINCT order_id) FROM bookings)
"""
RESCUED = """
    SELECT count(*) FROM sqla_jobs
    WHERE id = ANY(:ids) AND state = 'succeeded' AND crashes = 1
    AND attempts -> 0 ->> 'error' = 'sqla_jobs.errors.WorkerDied'
"""
CRASHED = "SELECT count(*) FROM sqla_jobs WHERE crashes > 0"
UNFINISHED = "SELECT count(*) FROM sqla_jobs WHERE state NOT IN ('succeeded', 'failed')"


def table(lines: list[Line]) -> Table:
    shown = Table(box=box.ROUNDED, title_justify="left")
    shown.add_column("")
    shown.add_column("must be", justify="right")
    shown.add_column("is", justify="right")
    shown.add_column("")
    for line in lines:
        mark = "[green]✓[/]" if line.right else "[bold red]✗ wrong[/]"
        shown.add_row(
            line.what, *(_shown(value) for value in (line.must_be, line.found)), mark,
            end_section=line.ends_section, style=None if line.right else "red",
        )  # fmt: skip
    return shown


def _shown(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
