"""What the commands print with ``--json``: one document, whose fields docs/cli.md names."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

import click

json_option: Final = click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")


_DEEPEST: Final = 100


def print_document(fields: Mapping[str, Any]) -> None:
    """Print a JSON object. Times are ISO 8601 in UTC, lengths of time are seconds.

    All beyond ASCII is escaped: a text in it may hold what steers a terminal. What JSON of the database says
    beyond what readers of JSON take is a text: a number that no float holds, lists a hundred deep.
    """
    click.echo(json.dumps(_value(fields), indent=2))


def chosen_fields(row: object, names: Sequence[str]) -> dict[str, Any]:
    """The fields of a row by these names, and no others: what is printed is promised."""
    return {name: getattr(row, name) for name in names}


def _value(value: Any, depth: int = 0) -> Any:
    if depth > _DEEPEST and isinstance(value, (Mapping, list)):
        return json.dumps(value, default=str)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dt.datetime):
        return value.astimezone(dt.timezone.utc).isoformat(timespec="microseconds")
    if isinstance(value, dt.timedelta):
        return value.total_seconds()
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: _value(getattr(value, each.name), depth + 1) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _value(each, depth + 1) for name, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_value(each, depth + 1) for each in value]
    return value
