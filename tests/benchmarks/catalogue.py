"""What is compared: each queue in the configurations that are its best, and how many jobs it gets."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.benchmarks import sqla_jobs_peer
from tests.benchmarks.base import Peer

PACKAGES = (
    *("sqla-jobs", "SQLAlchemy", "psycopg", "procrastinate", "pgqueuer", "oban", "chancy", "beanqueue"),
    *("asyncpg", "uvloop", "psycopg2-binary"),
)
"""Whose versions a result names."""


@dataclass(frozen=True)
class Variant:
    """A queue in one configuration.

    Parameters:
        place: module and class of its peer.
        noop, row: so many jobs are drained, that it takes some seconds.
        family: variants of one family share the tables that are filled for them; None: it has its own.
        needs: packages that must be installed.
        missing: why it cannot run here, for another reason; None: it can.
    """

    name: str
    place: str
    options: Mapping[str, Any]
    noop: int
    row: int
    family: str | None = None
    needs: tuple[str, ...] = ()
    missing: Callable[[], str | None] = field(default=lambda: None)

    def jobs(self, mode: str) -> int:
        return self.noop if mode == "noop" else self.row

    def peer(self) -> Peer:
        module, name = self.place.split(":")
        peer: Peer = getattr(importlib.import_module(f"{__package__}.{module}"), name)(**self.options)
        return peer

    def called(self, name: str) -> bool:
        """Whether it bears this name, or its queue does."""
        return name in (self.name, self.name.partition(" ")[0])

    def why_skipped(self) -> str | None:
        """Why it cannot be measured here; None: it can."""
        if absent := [name for name in self.needs if importlib.util.find_spec(name) is None]:
            return f"not installed: {', '.join(absent)}; pip install '.[bench]' has all"
        if why := self.missing():
            return why
        try:
            self.peer()
        except ImportError as error:  # of another version than its module here was written for
            return f"cannot be imported: {error.name}: {type(error).__name__}"
        return None


def no_fast_lane() -> str | None:
    if sqla_jobs_peer.has_fast_lane():
        return None
    return "@jobs.task has no option group_commit in this version"


OURS = "sqla_jobs_peer:SqlaJobs"
LIMIT = "limit:Limit"
PROCRASTINATE = "peers.procrastinate_peer:Procrastinate"
PGQUEUER = "peers.pgqueuer_peer:PgQueuer"
OBAN = "peers.oban_peer:ObanPeer"
CHANCY = "peers.chancy_peer:ChancyPeer"
PGQUEUER_NEEDS = ("pgqueuer", "asyncpg", "uvloop")
BEANQUEUE = "peers.beanqueue_peer:BeanQueuePeer"

_ALL = [
    Variant("limit K=1", LIMIT, {"k": 1}, 3_000, 2_500, family="limit"),
    Variant("limit K=50", LIMIT, {"k": 50}, 16_000, 10_000, family="limit"),
    Variant("sqla_jobs t=1", OURS, {"threads": 1}, 3_000, 1_500, family="sqla_jobs"),
    Variant("sqla_jobs t=4", OURS, {"threads": 4}, 3_000, 1_500, family="sqla_jobs"),
    Variant("sqla_jobs t=10", OURS, {"threads": 10}, 3_000, 1_500, family="sqla_jobs"),
    Variant(
        "sqla_jobs fast lane",
        OURS,
        {"group_commit": 100},
        16_000,
        6_000,
        family="sqla_jobs",
        missing=no_fast_lane,
    ),
    Variant(
        "sqla_jobs fast lane t=2",
        OURS,
        {"group_commit": 100, "threads": 2},
        16_000,
        6_000,
        family="sqla_jobs",
        missing=no_fast_lane,
    ),
    Variant("procrastinate c=30", PROCRASTINATE, {"concurrency": 30}, 1_200, 1_200, needs=("procrastinate",)),
    Variant("pgqueuer b=10", PGQUEUER, {"batch": 10}, 16_000, 7_000, "pgqueuer", PGQUEUER_NEEDS),
    Variant("pgqueuer b=100", PGQUEUER, {"batch": 100}, 16_000, 7_000, "pgqueuer", PGQUEUER_NEEDS),
    Variant("oban c=10", OBAN, {"concurrency": 10}, 3_000, 1_500, "oban", ("oban", "uvloop")),
    Variant("oban c=100", OBAN, {"concurrency": 100}, 6_000, 3_000, "oban", ("oban", "uvloop")),
    Variant("chancy c=100", CHANCY, {"concurrency": 100}, 4_000, 3_000, needs=("chancy",)),
    Variant("beanqueue b=1", BEANQUEUE, {"batch": 1}, 300, 300, "beanqueue", ("bq", "psycopg2")),
    Variant("beanqueue b=50", BEANQUEUE, {"batch": 50}, 1_200, 800, "beanqueue", ("bq", "psycopg2")),
]
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in _ALL}


def versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {**found, "sqla-jobs": _checkout() or found.get("sqla-jobs", "unknown")}


def _checkout() -> str | None:
    """The commit that is measured, with `-dirty` for changes on it; None: no checkout, or no git."""
    command = ["git", "describe", "--always", "--dirty", "--tags"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except FileNotFoundError:
        return None
    return done.stdout.strip() or None
