"""Jobs that fail with what nobody may see in their errors, in all the ways that one can think of."""

from __future__ import annotations

import base64
import datetime as dt
import json
import logging
import reprlib
import sys
import traceback
import uuid
from collections.abc import Callable
from decimal import Decimal
from enum import Enum
from typing import Any, Final
from urllib.parse import quote

from pydantic import BaseModel, TypeAdapter
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Cancel
from sqla_jobs.cli.output import Json
from tests.support.models import Effect

CARD: Final = "4929 1234 5678 9012"
CVV: Final = "737"
BLOB: Final = b"bl0b-\x00\xfe-s3cr3t"
LETTER: Final = (
    "Dear Ms Winterbottom,\n" + "the \u00dcberweisung is 'late' again. " * 40 + "\nYours, Fortescue"
)


class Plan(Enum):
    PLATINUM = "platinum-tier"


class Holder(BaseModel):
    name: str = "Ada O'Neil-Sch\u00f6n"
    iban: str = "DE89370400440532013000"
    born: dt.date = dt.date(1985, 12, 10)
    since: dt.datetime = dt.datetime(2019, 3, 4, 17, 28, 39, tzinfo=dt.timezone.utc)
    limit: Decimal = Decimal("81234.50")
    key: uuid.UUID = uuid.UUID("6f1c9d2e-8a7b-4c3d-9e5f-0a1b2c3d4e5f")
    plan: Plan = Plan.PLATINUM
    codes: dict[str, list[int]] = {"pins": [86421357, 9753186], "de/77": [1]}


NEEDLES: Final = (
    "4929 1234", "49291234", "4929-1234", "5678 9012", "56789012", "O'Neil", "O\\'Neil", "Sch\u00f6n",
    "Sch\\u00f6n", "Sch\\xf6n", "DE8937", "532013000", "1985-12-10", "1985, 12", "10.12.1985", "2019-03-04",
    "2019, 3", "81234.5", "81,234", "6f1c9d2e", "2c3d4e5f", "platinum-tier", "PLATINUM",
    "86421357", "9753186", "de/77", "bl0b", "s3cr3t", BLOB.hex(), base64.b64encode(BLOB).decode(),
    "Winterbottom", "berweisung", "Fortescue",
)  # fmt: skip
"""What gives one of them away."""


class Odd(Exception):
    def __init__(self, holder: Holder) -> None:
        self.holder = holder

    def __str__(self) -> str:
        return f"refused {self.holder!r}"


def _chained(card: str, cause: bool) -> None:
    try:
        int(card)
    except ValueError as error:
        if cause:
            raise RuntimeError("no number") from error
        raise RuntimeError("no number")  # noqa: B904 - that is the point


def _grouped(*errors: Exception) -> Exception:
    if sys.version_info < (3, 11):
        return errors[0]
    return ExceptionGroup("several", list(errors))  # noqa: F821 - there since 3.11


def _noted(error: Exception, note: str) -> Exception:
    if sys.version_info < (3, 11):
        return type(error)(note)
    error.add_note(note)
    return error


def _raise(error: BaseException) -> None:
    raise error


def _sql(session: Session, statement: str, **values: Any) -> None:
    session.execute(text(statement), values)


def _twice(session: Session, card: str) -> None:
    session.add_all([Effect(id=1, job_id=1, note=card), Effect(id=1, job_id=2, note=card)])
    session.flush()


Way = Callable[[Session, str, str, Holder, bytes, str], Any]


WAYS: Final[dict[str, Way]] = {
    "message": lambda s, c, v, h, b, x: _raise(ValueError(f"bad card {c}, {v}")),
    "grouped digits": lambda s, c, v, h, b, x: _raise(ValueError(c.replace(" ", "-"))),
    "plain digits": lambda s, c, v, h, b, x: _raise(ValueError(int(c.replace(" ", "")))),
    "arguments": lambda s, c, v, h, b, x: _raise(ValueError(c, v, h, b)),
    "key error": lambda s, c, v, h, b, x: {}[c],
    "key error of cvv": lambda s, c, v, h, b, x: {}[v],
    "key error of name": lambda s, c, v, h, b, x: {}[h.name],
    "cause": lambda s, c, v, h, b, x: _chained(c, True),
    "context": lambda s, c, v, h, b, x: _chained(c, False),
    "note": lambda s, c, v, h, b, x: _raise(_noted(ValueError("see"), f"{c} {h}")),
    "group": lambda s, c, v, h, b, x: _raise(_grouped(ValueError(c), KeyError(h.iban), Odd(h))),
    "odd": lambda s, c, v, h, b, x: _raise(Odd(h)),
    "name of class": lambda s, c, v, h, b, x: _raise(type(f"No{h.iban}", (Exception,), {})()),
    "exit": lambda s, c, v, h, b, x: _raise(SystemExit(c)),
    "repr": lambda s, c, v, h, b, x: _raise(ValueError(repr(h))),
    "repr of repr": lambda s, c, v, h, b, x: _raise(ValueError(repr(repr(h.name)))),
    "ascii": lambda s, c, v, h, b, x: _raise(ValueError(ascii(str(h)))),
    "json": lambda s, c, v, h, b, x: _raise(ValueError(json.dumps(h.model_dump(mode="json")))),
    "json of pydantic": lambda s, c, v, h, b, x: _raise(ValueError(h.model_dump_json())),
    "dict": lambda s, c, v, h, b, x: _raise(ValueError(h.model_dump())),
    "parts": lambda s, c, v, h, b, x: _raise(ValueError(*(p for p in vars(h).values()))),
    "formatted": lambda s, c, v, h, b, x: _raise(ValueError(f"{h.limit:,} {h.born:%d.%m.%Y} {h.since}")),
    "bytes": lambda s, c, v, h, b, x: _raise(ValueError(b, c.encode(), h.name.encode(), b.hex())),
    "base64": lambda s, c, v, h, b, x: _raise(ValueError(base64.b64encode(b))),
    "url": lambda s, c, v, h, b, x: _raise(ValueError(f"/pay?card={quote(c)}&name={quote(h.name)}&cvv={v}")),
    "upper case": lambda s, c, v, h, b, x: _raise(ValueError(h.iban.lower())),
    "pydantic": lambda s, c, v, h, b, x: TypeAdapter(int).validate_python(c),
    "pydantic, nested": lambda s, c, v, h, b, x: TypeAdapter(dict[str, int]).validate_python({"c": vars(h)}),
    "pydantic, json": lambda s, c, v, h, b, x: TypeAdapter(int).validate_json(h.model_dump_json()),
    "pydantic, cut": lambda s, c, v, h, b, x: TypeAdapter(int).validate_python([x]),
    "reprlib": lambda s, c, v, h, b, x: _raise(ValueError(reprlib.repr(x), reprlib.repr(h.iban + h.iban))),
    "cut": lambda s, c, v, h, b, x: _raise(ValueError(f"{x[:17]}\u2026 {x[:18]}...")),
    "lines": lambda s, c, v, h, b, x: _raise(ValueError(x)),
    "too long": lambda s, c, v, h, b, x: _raise(ValueError("-" * 1990 + c, "+" * 9990 + x)),
    "database, value": lambda s, c, v, h, b, x: _sql(s, "SELECT CAST(:n AS integer)", n=c),
    "database, parameters": lambda s, c, v, h, b, x: _sql(s, "SELECT 1/0, :a, :b", a=x, b=repr(h)),
    "database, text": lambda s, c, v, h, b, x: _sql(s, f"SELECT date '{c}'"),
    "database, detail": lambda s, c, v, h, b, x: _sql(s, "INSERT INTO effects (note) VALUES (:n)", n=x),
    "database, flush": lambda s, c, v, h, b, x: _twice(s, c),
    "database, driver": lambda s, c, v, h, b, x: _sql(s, "SELECT :a, :b", a=object(), b=c),
    "database, commit": lambda s, c, v, h, b, x: _sql(s, "INSERT INTO late VALUES (:n)", n=c),
    "cancel": lambda s, c, v, h, b, x: _raise(Cancel(f"no {c} {v}")),
    "cancel, returned": lambda s, c, v, h, b, x: Cancel(f"no {h}"),
}  # fmt: skip

LATE: Final = """
CREATE TABLE late (v text);
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN RAISE EXCEPTION 'the value % is refused', NEW.v; END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED
  FOR EACH ROW EXECUTE FUNCTION refuse();
"""
"""A table that refuses at the commit, and says what."""


class Nosy(logging.Handler):
    """Whatever a handler can get out of a record: as text, as JSON, and of the error itself."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.heard: list[str] = []
        self._formatters = (logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"), Json())

    def emit(self, record: logging.LogRecord) -> None:
        # Not its numbers: a time or a line may be that of a card.
        known = {name: value for name, value in vars(record).items() if not isinstance(value, (int, float))}
        error = record.exc_info and record.exc_info[1]
        seen = [repr(known), *(each.format(record) for each in self._formatters)]
        if error:
            seen += traceback.format_exception(error)
        self.heard.append("\n".join(seen))
