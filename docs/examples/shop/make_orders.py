"""Writes orders.csv: 2,000 orders as a shop's old system might export them, some of them faulty.

    python make_orders.py          (the same file every time; nothing in it is about a real person)

The file has a byte order mark, Windows line ends, quoted commas, a line break inside quotes, stray
spaces and empty lines: all that is right. What is not is counted in FAULTS, by the reason for which
the import must refuse the order.
"""

from __future__ import annotations

import csv
import datetime as dt
import io
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

COLUMNS = ["number", "date", "customer", "email", "country", "currency", "items", "total", "confirm_by"]

FAULTS = {
    "bad number": 9,
    "missing value": 8,
    "missing fields": 4,
    "extra fields": 6,
    "unknown currency": 7,
    "duplicate number": 8,
    "not UTF-8": 6,
    "quantity not above zero": 7,
    "bad date": 9,
    "wrong total": 5,
}
ORDERS = 2000
EMPTY_LINES = 11

GIVEN = ["Amélie", "Björn", "Chloé", "Dörte", "Emma", "Fátima", "Günther", "Håkon", "Inés", "Jürgen",
         "Käthe", "Łukasz", "Mary", "Noël", "Óscar", "Pilar", "René", "Søren", "Tomáš", "Zoë"]  # fmt: skip
FAMILY = ["Ångström", "Böhm", "Castañeda", "Dvořák", "Eriksson", "Fischer", "Göransson", "Hansen",
          "Ibáñez", "Jørgensen", "Kowalski", "Lefèvre", "Müller", "Núñez", "O'Neill", "Peña",
          "Quiñones", "Rousseau", "Smith", "Weiß"]  # fmt: skip
FIRMS = ["Böhm & Söhne, Inc.", "Café Noël, SARL", "Kaffeehaus\nam Markt", 'Hotel "Zur Post"']
COUNTRIES = ["DE", "AT", "FR", "NL", "ES", "SE", "CH", "GB", "US"]
FOREIGN = {"SE": "SEK", "CH": "CHF", "GB": "GBP", "US": "USD"}
GOODS = {
    "MUG-BLUE": "12.50", "MUG-RED": "12.50", "TEA-ASSAM-250": "8.90", "TEA-SENCHA-100": "14.20",
    "POT-CAST-IRON": "64.00", "FILTER-100": "3.95", "HONEY-500": "9.99", "BISCUITS-TIN": "17.30",
    "SPOON-SILVER": "129.00", "GIFT-WRAP": "2.00",
}  # fmt: skip

Row = dict[str, Any]


def order(number: int, chance: random.Random) -> Row:
    given, family = chance.choice(GIVEN), chance.choice(FAMILY)
    country = COUNTRIES[int(chance.random() ** 4 * len(COUNTRIES))]
    lines = [
        (chance.randrange(1, 6), sku, GOODS[sku])
        for sku in [chance.choice(list(GOODS)) for _ in range(chance.randrange(1, 5))]
    ]
    name = chance.choice(FIRMS) if chance.random() < 0.04 else f"{given} {family}"
    return {
        "number": f"W-{26000 + number}",
        "date": (dt.date(2026, 1, 2) + dt.timedelta(days=number // 11)).isoformat(),
        "customer": name if chance.random() > 0.03 else f"  {name} ",
        "email": f"customer{chance.randrange(700)}@example.com",
        "country": country,
        "currency": FOREIGN.get(country, "EUR"),
        "items": "; ".join(f"{quantity} x {sku} @ {price}" for quantity, sku, price in lines),
        "total": str(sum((quantity * Decimal(price) for quantity, _, price in lines), Decimal())),
        "confirm_by": "fax" if chance.random() < 0.012 else "mail",
    }


def bad_number(row: Row, chance: random.Random) -> None:
    broken = chance.choice(["two x MUG-RED @ 12.50", "1 x MUG-RED @ 12,5O", "1 x MUG-RED @ € 12.50"])
    row["items"] = f"{row['items']}; {broken}"


def missing_value(row: Row, chance: random.Random) -> None:
    row[chance.choice(["number", "customer", "email", "items"])] = ""


def missing_fields(row: Row, _: random.Random) -> None:
    row["cut"] = 6


def extra_fields(row: Row, _: random.Random) -> None:
    row["customer"] = "Smith, John"
    row["unquoted"] = True


def unknown_currency(row: Row, chance: random.Random) -> None:
    row["currency"] = chance.choice(["EURO", "DM", "XXX", "€", "eur"])


def not_utf8(row: Row, _: random.Random) -> None:
    row["customer"] = "Jürgen Müller"
    row["encoding"] = "latin-1"


def no_quantity(row: Row, chance: random.Random) -> None:
    row["items"] = f"{row['items']}; {chance.choice(['-1', '0', '-12'])} x GIFT-WRAP @ 2.00"


def bad_date(row: Row, chance: random.Random) -> None:
    row["date"] = chance.choice(
        ["03/14/2026", "14.03.2026", "2026-02-30", "14 March 2026", "46095", "20260314"]
    )


def wrong_total(row: Row, _: random.Random) -> None:
    row["total"] = str(Decimal(row["total"]) + 1)


SPOIL: dict[str, Callable[[Row, random.Random], None]] = {
    "bad number": bad_number,
    "missing value": missing_value,
    "missing fields": missing_fields,
    "extra fields": extra_fields,
    "unknown currency": unknown_currency,
    "not UTF-8": not_utf8,
    "quantity not above zero": no_quantity,
    "bad date": bad_date,
    "wrong total": wrong_total,
}


def line(row: Row) -> bytes:
    values = [row[column] for column in COLUMNS][: row.get("cut", len(COLUMNS))]
    if row.get("unquoted"):
        return (",".join(values) + "\r\n").encode()
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)
    return text.getvalue().encode(row.get("encoding", "utf-8"))


def content(seed: int = 2026) -> bytes:
    chance = random.Random(seed)
    rows = [order(number, chance) for number in range(ORDERS)]
    # Not the first: a duplicate is one of an order that came before.
    places = chance.sample(range(1, ORDERS), sum(FAULTS.values()))
    spoilt = set(places)
    for fault, count in FAULTS.items():
        for _ in range(count):
            place = places.pop()
            if fault == "duplicate number":
                good = [number for number in range(place) if number not in spoilt]
                rows[place]["number"] = rows[chance.choice(good)]["number"]
            else:
                SPOIL[fault](rows[place], chance)
    lines = [line(row) for row in rows]
    for _ in range(EMPTY_LINES):
        lines.insert(chance.randrange(1, len(lines)), b"\r\n")
    return b"\xef\xbb\xbf" + ",".join(COLUMNS).encode() + b"\r\n" + b"".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("orders.csv").write_bytes(content())
