"""Orders from a CSV file, one transaction each."""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, sessionmaker

from shop.models import Customer, Order, OrderLine
from shop.tasks import EUROS, book_in_euros, write_invoice
from sqla_jobs.errors import ArgumentsNotStorable

COLUMNS = ("number", "date", "customer", "email", "country", "currency", "items", "total", "confirm_by")
EXPECTED = f"expected {', '.join(COLUMNS)}, separated by commas, in UTF-8"
ITEM = re.compile(r"(?P<quantity>-?\d{1,6}) x (?P<article>[\w-]+) @ (?P<price>\d{1,7}\.\d\d)")
DATE = re.compile(r"\d{4}-\d\d-\d\d")
NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL keeps in no text; a byte that is not UTF-8 is read as a lone surrogate."""
TOTAL = re.compile(r"\d{1,9}\.\d\d")


class BadFile(Exception):
    """The file as a whole cannot be read."""


class Refused(Exception):
    """An order that is not taken in."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True)
class Row:
    """One order as it is in the file."""

    line: int
    fields: dict[str, str]
    surplus: int
    """Fields more (or less, if negative) than the file has columns."""


def read(path: Path) -> Iterator[Row]:
    """The orders of a file; raises `BadFile` if it is none, or has none."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        if NOT_TEXT.search(file.readline()):
            raise BadFile(f"{path.name} is not UTF-8 text (a spreadsheet's own format?); {EXPECTED}")
        file.seek(0)
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            _check(header, path.name)
            line, empty = reader.line_num + 1, True
            for values in reader:
                if any(values):
                    fields = {name: value.strip() for name, value in zip(header, values, strict=False)}
                    yield Row(line, fields, len(values) - len(header))
                    empty = False
                line = reader.line_num + 1
            if empty:
                raise BadFile(f"{path.name} has no orders, only the line that names the columns")
        except csv.Error as error:
            raise BadFile(f"{path.name}, line {reader.line_num}: {error}") from error


def _check(header: list[str], file: str) -> None:
    if not header:
        raise BadFile(f"{file} is empty; its first line must name the columns: {EXPECTED}")
    shown = ", ".join(header)
    if missing := [name for name in COLUMNS if name not in header]:
        other = next((mark for mark in ";\t|" if mark in shown), None)
        hint = f" (the columns are separated by {other!r})" if other else ""
        raise BadFile(f"{file}: no column {', '.join(missing)}; found {shown}{hint}; {EXPECTED}")
    if doubled := {name for name in header if header.count(name) > 1}:
        raise BadFile(f"{file}: column {', '.join(sorted(doubled))} is there twice; found {shown}")


@dataclass(frozen=True)
class Taken:
    """What the file says of an order that was taken in."""

    currency: str
    total: Decimal
    fax: bool


def take_in(sessions: sessionmaker[Session], row: Row) -> Taken:
    """One order in one transaction; raises `Refused` when that was rolled back."""
    try:
        with sessions.begin() as session:
            _take_in(session, row)
    except IntegrityError as error:
        if getattr(error.orig, "sqlstate", None) != "23505":  # unique_violation
            raise
        raise Refused("duplicate number", row.fields["number"]) from error
    except ArgumentsNotStorable as error:
        raise Refused("not UTF-8", f"number {row.fields['number']!a}") from error
    fields = row.fields
    return Taken(fields["currency"], Decimal(fields["total"]), fields["confirm_by"] == "fax")


def _take_in(session: Session, row: Row) -> None:
    fields = row.fields
    # Before anything is looked at: whatever is found wrong below takes these jobs along.
    number = fields.get("number", "")
    write_invoice.enqueue(session, number)
    if fields.get("currency") != "EUR":
        book_in_euros.enqueue(session, number)

    if row.surplus > 0:
        raise Refused("extra fields", f"{row.surplus} more than columns (a comma without quotes?)")
    if row.surplus < 0:
        raise Refused("missing fields", f"{-row.surplus} less than columns")
    for name in COLUMNS:
        if not fields[name]:
            raise Refused("missing value", name)
        if NOT_TEXT.search(fields[name]):
            raise Refused("not UTF-8", f"{name} {fields[name].encode('utf-8', 'surrogateescape')!r}")
    if fields["currency"] not in {"EUR", *EUROS}:
        raise Refused("unknown currency", fields["currency"])

    order = Order(
        number=number,
        ordered_on=_date(fields["date"]),
        customer=_customer(session, fields),
        currency=fields["currency"],
        confirm_by=fields["confirm_by"],
        lines=[_line(item) for item in fields["items"].split(";")],
    )
    session.add(order)
    if not TOTAL.fullmatch(fields["total"]):
        raise Refused("bad number", f"total {fields['total']}")
    if order.total != Decimal(fields["total"]):
        raise Refused("wrong total", f"{fields['total']}, and the items make {order.total}")


def _date(text: str) -> dt.date:
    try:
        if not DATE.fullmatch(text):
            raise ValueError("expected YYYY-MM-DD")
        return dt.date.fromisoformat(text)
    except ValueError as error:
        raise Refused("bad date", f"{text} ({error})") from error


def _customer(session: Session, fields: dict[str, str]) -> Customer:
    known = session.scalars(select(Customer).where(Customer.email == fields["email"])).one_or_none()
    return known or Customer(email=fields["email"], name=fields["customer"])


def _line(item: str) -> OrderLine:
    match = ITEM.fullmatch(item.strip())
    if not match:
        raise Refused("bad number", f"{item.strip()!r}; expected e.g. '2 x MUG-BLUE @ 12.50'")
    if int(match["quantity"]) <= 0:
        raise Refused("quantity not above zero", item.strip())
    return OrderLine(article=match["article"], quantity=int(match["quantity"]), price=Decimal(match["price"]))
