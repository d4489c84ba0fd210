"""Measure sqla_jobs, what there is to reach, and the other queues that are installed.

Each measurement is a fresh process on a fresh database of one PostgreSQL with its default settings. The
variants of a benchmark take turns, all once, then all again; the tables hold medians. docs/benchmarks.md
says what is measured, and what the figures do not say.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.benchmarks import catalogue, report
from tests.benchmarks.machine import Machine, about_machine, chosen_server, load
from tests.benchmarks.measure import Figures
from tests.benchmarks.suites import SUITES, Plan, Suite

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).resolve().parent / "results"
PASSING = ROOT / "build" / "benchmarks"


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; none: all")
    parser.add_argument("--repeats", type=int, default=3, help="default 3, with --quick 1")
    parser.add_argument(
        "--only", default="", metavar="VARIANTS", help="names of variants or queues: 'sqla_jobs,limit K=50'"
    )
    parser.add_argument("--quick", action="store_true", help="a twentieth of the jobs; figures mean nothing")
    parser.add_argument("--list", action="store_true", help="what can be measured here, and what is missing")
    parser.add_argument("--database-url", help="a superuser's, of another server than the embedded one")
    parser.add_argument(
        "--out",
        type=Path,
        help="folder for tables and JSON; default tests/benchmarks/results, "
        "with --quick or --only build/benchmarks",
    )
    options = parser.parse_args(given)
    if unknown := [name for name in options.names if name not in SUITES]:
        parser.error(f"there is no benchmark {', '.join(unknown)}; expected some of {', '.join(SUITES)}")
    options.only = tuple(part.strip() for part in options.only.split(",") if part.strip())
    for part in options.only:
        if not any(variant.called(part) for variant in catalogue.VARIANTS.values()):
            parser.error(f"there is no {part!r}; expected a queue, or one of {', '.join(catalogue.VARIANTS)}")
    if options.repeats < 1:
        parser.error(f"--repeats {options.repeats}; expected a number from 1 up")
    if options.out is None:
        # A part shall not replace the whole that is committed.
        options.out = PASSING if options.quick or options.only else KEPT
    return options


def run(machine: Machine, suite: Suite, quick: bool) -> dict[str, list[Figures]]:
    """All measurements once, then all again: what the machine does meanwhile hits all alike."""
    raw: dict[str, list[Figures]] = {label: [] for label in suite.measurements}
    if not quick:
        warm_up(machine, suite)
    for turn in range(suite.repeats):
        for label, measurement in suite.measurements.items():
            began = time.monotonic()
            try:
                figures = measurement(machine)
            except Exception as error:  # one broken queue must not end the run
                print(f"  {label}: failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
                # The words may name places on this machine.
                figures = {"failed": type(error).__name__}
            raw[label].append(figures)
            told = {key: report.shown(value) for key, value in figures.items() if key != "ms"}
            print(
                f"  {turn + 1}/{suite.repeats} {label}: {told} ({time.monotonic() - began:.1f} s)", flush=True
            )
    machine.forget()
    return raw


def warm_up(machine: Machine, suite: Suite) -> None:
    """Whatever comes first would pay for what is cold; so it comes once more, and is not counted."""
    machine.warm_up()
    for measurement in [*suite.measurements.values()][:1]:
        # What fails now fails again, and is told then.
        with suppress(Exception):
            measurement(machine)


def result(machine: Machine, suite: Suite, quick: bool) -> dict[str, Any]:
    before, began, at = load(), time.monotonic(), report.now()
    raw = run(machine, suite, quick)
    rows = report.summary(raw)
    return {
        "name": suite.name,
        "title": suite.title,
        "at": at,
        "quick": quick,
        "right": all(row["right"] for row in rows),
        "repeats": suite.repeats,
        "seconds": round(time.monotonic() - began),
        "load": {"before": before, "after": load()},
        "machine": about_machine(),
        "server": machine.about(),
        "versions": catalogue.versions(),
        "rows": rows,
        "exactly_once": suite.exactly_once,
        "notes": suite.notes,
        "skipped": suite.skipped,
        "raw": raw,
    }


def show_list(suites: list[Suite]) -> None:
    for suite in suites:
        print(f"{suite.name}: {suite.title}")
        for label in suite.measurements:
            print(f"  {label}")
        for label, why in suite.skipped.items():
            print(f"  {label}: skipped: {why}")


def main(given: Sequence[str] | None = None) -> int:
    """The exit code: 1 if a run was not right."""
    options = arguments(given)
    plan = Plan(1 if options.quick else options.repeats, options.only, options.quick)
    suites = [SUITES[name](plan) for name in options.names or SUITES]
    if options.list:
        show_list(suites)
        return 0
    wrong = []
    with chosen_server(options.database_url) as server:
        machine = Machine(server)
        try:
            for suite in suites:
                print(f"\n{suite.name}: {suite.title}", flush=True)
                found = result(machine, suite, options.quick)
                print(f"\n{report.write(options.out, found)}", flush=True)
                wrong += [row["what"] for row in found["rows"] if not row["right"]]
        finally:
            machine.close()
    if wrong:
        print(f"not right, or failed: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
