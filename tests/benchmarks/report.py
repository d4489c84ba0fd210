"""Medians, tables, JSON."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.measure import Figures

Row = dict[str, Any]
RATE = "jobs/s"
REFERENCE = "limit K=50"
COMPARED = "of its first"
"""Where a variant has several rows: a million queued against ten thousand, four processes against one."""


def summary(raw: Mapping[str, list[Figures]]) -> list[Row]:
    """A row for each variant: medians, and of the rate the extremes as well."""
    rows = [_row(what, [run for run in runs if "failed" not in run], len(runs)) for what, runs in raw.items()]
    reference = next((row.get(RATE) for row in rows if row["what"] == REFERENCE), None)
    for row in rows:
        if reference and row.get(RATE):
            row[f"of {REFERENCE}"] = row[RATE] / reference
    firsts: dict[str, float | None] = {}
    for row in rows:
        variant, comma, _ = row["what"].partition(",")
        first = firsts.setdefault(variant, row.get(RATE)) if comma else None
        if first and row.get(RATE):
            row[COMPARED] = row[RATE] / first
    return rows


def _row(what: str, runs: list[Figures], asked: int) -> Row:
    row: Row = {"what": what}
    for key in dict.fromkeys(key for run in runs for key in run if key not in ("ms", "right")):
        values = [run[key] for run in runs if run.get(key) is not None]
        row[key] = statistics.median(values) if values else None
        if key == RATE and len(values) > 1:
            row["min"], row["max"] = min(values), max(values)
    row["right"] = len(runs) == asked and all(run["right"] for run in runs)
    return row


def table(rows: list[Row]) -> str:
    columns = list(dict.fromkeys(key for row in rows for key in row))
    # Last, whichever row has brought it in.
    columns.sort(key=lambda column: column == "right")
    cells = [[shown(row.get(column)) for column in columns] for row in rows]
    widths = [max(map(len, (column, *(line[i] for line in cells)))) for i, column in enumerate(columns)]

    def line(texts: list[str]) -> str:
        ends = [
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(texts, widths, strict=True))
        ]
        return f"| {' | '.join(ends)} |"

    rule = [":" + "-" * (w - 1) if i == 0 else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join([line(columns), line(rule), *map(line, cells)])


def shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, (int, float)):
        places = 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2
        return f"{value:,.{places}f}"
    return "-" if value is None else str(value)


def rounded(value: Any) -> Any:
    """Four figures: more are noise."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def write(folder: Path, result: dict[str, Any]) -> str:
    """Write a benchmark's JSON and its table; returns the table."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(result)
    (folder / f"{result['name']}.md").write_text(text, encoding="utf-8")
    (folder / f"{result['name']}.json").write_text(_json(rounded(result)), encoding="utf-8")
    return text


def _json(result: dict[str, Any]) -> str:
    """Indented, with one line for each measurement."""
    raw = {what: [json.dumps(run) for run in runs] for what, runs in result["raw"].items()}
    text = json.dumps({**result, "raw": raw}, indent=1, ensure_ascii=False)
    for runs in raw.values():
        for run in runs:
            text = text.replace(json.dumps(run, ensure_ascii=False), run)
    return text + "\n"


def markdown(result: Mapping[str, Any]) -> str:
    machine, server, load = result["machine"], result["server"], result["load"]
    settings = ", ".join(f"{name} {value}" for name, value in server["settings"].items())
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    kind = ", a quick run" if result["quick"] else ""
    lines = [
        f"### {result['title']}",
        "",
        table(result["rows"]) if result["rows"] else "(nothing was measured)",
        "",
        *(f"* {name}: {note}" for name, note in result["notes"].items()),
        *(f"* {name} was skipped: {why}" for name, why in result["skipped"].items()),
        "",
        f"{result['at']}{kind}: medians of {result['repeats']}, {machine['cores']} cores,",
        f"load {load['before']} before and {load['after']} after, Python {machine['python']},",
        f"PostgreSQL {server['version']} ({settings}); {versions}.",
    ]
    return "\n".join(lines) + "\n"


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
