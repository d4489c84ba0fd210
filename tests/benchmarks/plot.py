"""The picture of the results: `python -m tests.benchmarks.plot [FOLDER [PNG]]`, by matplotlib."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PICTURE = HERE.parents[1] / "docs" / "benchmarks.png"

OURS, ONCE, AT_LEAST_ONCE, LIMIT = "#2f6db5", "#74a9d8", "#d9a05b", "#b9b9b9"
LEGEND = (
    ("sqla_jobs: exactly once", OURS),
    ("others: exactly once", ONCE),
    ("others: at least once", AT_LEAST_ONCE),
    ("what raw psycopg reaches", LIMIT),
)
PANELS = (
    ("row", "jobs/s", "Jobs that write one row, jobs/s"),
    ("noop", "jobs/s", "Jobs that do nothing, jobs/s"),
    ("enqueue", "each jobs/s", "Enqueue, a commit each, jobs/s"),
    ("latency", "p99 ms", "Idle worker: from commit to start, ms (p50 and p99)"),
)


def colour(result: dict[str, Any], what: str) -> str:
    if what.startswith("limit"):
        return LIMIT
    if what.startswith("sqla_jobs"):
        return OURS
    return ONCE if result["exactly_once"].get(what) else AT_LEAST_ONCE


def panel(axes: Any, result: dict[str, Any], key: str, title: str) -> None:
    # The first is to be at the top, as in the table.
    rows = [row for row in result["rows"] if row.get(key) is not None][::-1]
    names = [row["what"] for row in rows]
    values = [row[key] for row in rows]
    axes.barh(names, values, color=[colour(result, name) for name in names])
    if key == "jobs/s":
        spans = [
            [row[key] - row.get("min", row[key]) for row in rows],
            [row.get("max", row[key]) - row[key] for row in rows],
        ]
        axes.errorbar(values, names, xerr=spans, fmt="none", ecolor="#444444", elinewidth=1, capsize=2)
    if key == "p99 ms":
        axes.plot([row["p50 ms"] for row in rows], names, "|", color="#222222", markersize=12)
    for name, value in zip(names, values, strict=True):
        text = f" {value:,.0f}" if value >= 100 else f" {value:.1f}"
        axes.annotate(text, (value, name), va="center", fontsize=8, xytext=(4, 0), textcoords="offset points")
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlim(0, max(values, default=1) * 1.18)
    axes.tick_params(labelsize=8)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def draw(folder: Path, picture: Path) -> list[str]:
    """Draw what is there of the panels; returns the names of the benchmarks whose results are missing."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    files = {name: folder / f"{name}.json" for name, _, _ in PANELS}
    figure, grid = plt.subplots(2, 2, figsize=(12, 8.5), layout="constrained")
    for axes, (name, key, title) in zip(grid.flat, PANELS, strict=True):
        if files[name].exists():
            panel(axes, json.loads(files[name].read_text(encoding="utf-8")), key, title)
        else:
            axes.set_axis_off()
    handles = [Patch(color=value, label=label) for label, value in LEGEND]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    # Without its own version in the file, a picture of the same figures is the same file.
    figure.savefig(picture, dpi=110, metadata={"Software": None})
    plt.close(figure)
    return [name for name, file in files.items() if not file.exists()]


def main(given: Sequence[str]) -> int:
    folder = Path(given[0]) if given else RESULTS
    picture = Path(given[1]) if len(given) > 1 else PICTURE
    try:
        missing = draw(folder, picture)
    except ImportError:
        print("no picture: matplotlib is not installed; pip install '.[bench]' has it", file=sys.stderr)
        return 1
    for name in missing:
        print(f"no results of {name}: python -m tests.benchmarks {name} makes them", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
