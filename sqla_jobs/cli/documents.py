"""What the commands print with ``--json``: one document, whose fields docs/cli.md names."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

import click

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


def print_document(fields: Mapping[str, Any]) -> None:
    """Print a JSON object. Times are ISO 8601 in UTC, lengths of time are seconds.

    All beyond ASCII is escaped: a text in it may hold what steers a terminal.
    """
    click.echo(json.dumps(_value(fields), indent=2))


def chosen_fields(row: object, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a row by these names, and no others: what is printed is promised."""
    return {name: getattr(row, name) for name in names}


def _value(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.timezone.utc).isoformat(timespec="microseconds")
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _value(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _value(each) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_value(each) for each in value]
    return value
