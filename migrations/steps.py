"""What the revisions in ``versions/`` are written with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from alembic import op
from sqlalchemy import inspect
from sqlalchemy.schema import CreateSchema

from sqla_jobs.models import marker_ddl

PREFIX = "sqla_jobs_"

_target_schema: ContextVar[str | None] = ContextVar("sqla_jobs_target_schema", default=None)


@dataclass(frozen=True)
class Brought:
    """The names that a revision brings, by table: what autogenerate leaves to the library.

    Exact names, since an application has columns, constraints and indexes of its own on these tables.
    A revision that renames brings the new name; no revision takes one out.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)
    indexes: Mapping[str, str] = field(default_factory=dict)


def target_schema() -> str | None:
    """The schema that the running revision is to work in."""
    return _target_schema.get()


def make_schema() -> None:
    """Make the target schema if it is not there."""
    if not (schema := target_schema()):
        return
    # IF NOT EXISTS still needs the right to create one, which who was given a schema may not have.
    if not op.get_context().as_sql and inspect(op.get_bind()).has_schema(schema):
        return
    op.execute(CreateSchema(schema, if_not_exists=True))


def leave_marker(revision: str) -> None:
    """Let `installed` say ``revision`` from now on; the last thing that a revision does."""
    _execute(marker_ddl(target_schema(), revision.removeprefix(PREFIX)))


def remove_marker() -> None:
    """Let `installed` say None from now on; the last thing that the first revision undoes."""
    _execute(marker_ddl(target_schema(), None))


def set_storage(table: str, parameters: Mapping[str, str]) -> None:
    """Set storage parameters of a table; locks out other DDL and VACUUM on it, but no reads and no writes."""
    told = ", ".join(f"{name} = {value}" for name, value in parameters.items())
    _execute(f"ALTER TABLE {_qualified(table)} SET ({told})")


def reset_storage(table: str, parameters: Mapping[str, str]) -> None:
    """Take storage parameters of a table back to the server's own; locks as `set_storage` does."""
    _execute(f"ALTER TABLE {_qualified(table)} RESET ({', '.join(parameters)})")


# For the machinery


@contextlib.contextmanager
def in_schema(schema: str | None) -> Iterator[None]:
    """Let `target_schema` be ``schema`` for the revisions that run in this block."""
    token = _target_schema.set(schema)
    try:
        yield
    finally:
        _target_schema.reset(token)


def _qualified(table: str) -> str:
    # By hand: the dialect's quoting doubles percent signs for a driver's sake.
    schema = target_schema()
    return '"{}".{}'.format(schema.replace('"', '""'), table) if schema else table


def _execute(sql: str) -> None:
    # A colon in the schema's name is no bind parameter.
    op.execute(sql.replace(":", r"\:"))
