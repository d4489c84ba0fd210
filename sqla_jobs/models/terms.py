"""What the models are made of."""

from __future__ import annotations

import re
from typing import Any, Final

from sqlalchemy import CheckConstraint, Index, Table, text
from sqlalchemy.schema import SchemaItem
from sqlalchemy.sql.elements import conv

from sqla_jobs.errors import InvalidQueueName, shown
from sqla_jobs.models.storage import Storage

INFO: Final = "sqla_jobs"
"""Key in ``Table.info`` that marks a library table; ``sqla_jobs.alembic`` looks for it."""

QUEUE_PATTERN: Final = "^[A-Za-z0-9_.-]{1,63}$"
DEFAULT_QUEUE: Final = "default"


def check_queue(name: object) -> str:
    """``name`` if it can be a queue's name.

    Raises:
        InvalidQueueName: empty, longer than 63, or other characters than letters, digits, ``_ - .``
    """
    if isinstance(name, str) and re.fullmatch(QUEUE_PATTERN[1:-1], name, re.ASCII):
        return name
    length = f" of {len(name)} characters" if isinstance(name, str) and len(name) > 63 else ""
    raise InvalidQueueName(
        f"queue name {shown(name)}{length}; expected 1 to 63 out of A-Z, a-z, 0-9, '_', '-' and '.'"
    )


EMPTY_OBJECT = text("'{}'::jsonb")
EMPTY_ARRAY = text("'[]'::jsonb")
NOW = text("statement_timestamp()")
ZERO = text("0")
FALSE = text("false")


def check(name: str, sql: str) -> CheckConstraint:
    """A CHECK of this very name, whatever the naming convention."""
    return CheckConstraint(sql, name=conv(name))


def index(name: str, *columns: Any, where: str, unique: bool = False) -> Index:
    """A partial index of this very name, whatever the naming convention."""
    return Index(conv(name), *columns, unique=unique, postgresql_where=text(where))


def merge(
    own: Any, library: tuple[SchemaItem, ...], role: str, storage: Storage | None = None
) -> tuple[Any, ...]:
    """The ``__table_args__`` of a model: the library's and its own, which win.

    Parameters:
        role: what ``Table.info`` says that it is.
        storage: the library's storage parameters of the table.
    """
    items = (own,) if isinstance(own, dict) else tuple(own or ())
    options = dict(items[-1]) if items and isinstance(items[-1], dict) else {}
    if items and isinstance(items[-1], dict):
        items = items[:-1]
    options["info"] = {**options.get("info", {}), INFO: role}
    if storage is not None:
        storage.add_to(options)
    # A mixin of the application's own, between JobMixin and the model, has them already.
    names = {getattr(item, "name", None) for item in library}
    return (*library, *(item for item in items if getattr(item, "name", None) not in names), options)


def table_of(model: type[Any]) -> Table:
    """The table of a mapped class."""
    table = model.__table__
    assert isinstance(table, Table)
    return table
