"""The benchmarks by name: which variants each measures, and how."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from tests.benchmarks import measure, sqla_jobs_peer
from tests.benchmarks.catalogue import VARIANTS, Variant
from tests.benchmarks.machine import Machine

Measurement = Callable[[Machine], measure.Figures]

ONE_OF_EACH = (
    *("sqla_jobs t=1", "sqla_jobs fast lane", "limit K=50", "procrastinate c=30", "pgqueuer b=10"),
    *("oban c=10", "chancy c=100", "beanqueue b=1"),
)


@dataclass
class Suite:
    """A benchmark, ready to run: its measurements take turns."""

    name: str
    title: str
    repeats: int
    measurements: dict[str, Measurement] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    exactly_once: dict[str, bool] = field(default_factory=dict)

    def add(self, variant: Variant, measurement: Measurement, label: str = "") -> None:
        label = label or variant.name
        if why := variant.why_skipped():
            self.skipped[label] = why
        else:
            self.measurements[label] = measurement
            peer = variant.peer()
            self.exactly_once[label] = peer.once
            # Of several measurements of one variant, once.
            self.notes[label.partition(",")[0]] = f"{peer.note}; exactly once: {peer.exactly_once}"


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Parameters:
        only: names of variants, or of queues; empty: all.
        quick: a twentieth of the jobs, to see that all of it works.
    """

    repeats: int
    only: tuple[str, ...] = ()
    quick: bool = False

    def jobs(self, count: int) -> int:
        return max(count // 20, 100) if self.quick else count

    def chosen(self, names: Iterable[str] = tuple(VARIANTS)) -> list[Variant]:
        found = [VARIANTS[name] for name in names]
        return [v for v in found if not self.only or any(v.called(part) for part in self.only)]

    @property
    def fewer(self) -> int:
        """The repeats of what takes long and varies little."""
        return max(1, self.repeats - 1)

    @property
    def fewest(self) -> int:
        """And of what takes longest, and is compared with itself."""
        return max(1, self.repeats - 2)


def noop(plan: Plan) -> Suite:
    # Of beanqueue's two the one that is its best.
    variants = plan.chosen(name for name in VARIANTS if name != "beanqueue b=1")
    return _drains(plan, Suite("noop", "Drain: jobs that do nothing", plan.repeats), "noop", variants)


def row(plan: Plan) -> Suite:
    title = "Drain: each job writes one row, by an INSERT"
    return _drains(plan, Suite("row", title, plan.repeats), "row", plan.chosen())


def add(plan: Plan) -> Suite:
    """For those whose jobs have a Session."""
    ours = plan.chosen(name for name in VARIANTS if name.startswith("sqla_jobs"))
    title = "Drain: each job writes one row, by session.add"
    return _drains(plan, Suite("add", title, plan.fewer), "add", ours)


def _drains(plan: Plan, suite: Suite, mode: str, variants: list[Variant]) -> Suite:
    for variant in variants:
        run = partial(measure.drain, variant=variant, jobs=plan.jobs(variant.jobs(mode)), mode=mode)
        suite.add(variant, run)
    return suite


def enqueue(plan: Plan) -> Suite:
    suite = Suite("enqueue", "Enqueue: one job a commit, told to the workers; many at once", plan.fewer)
    for variant in plan.chosen(name for name in ONE_OF_EACH if name != "sqla_jobs fast lane"):
        # How a worker is set up means nothing here.
        label = variant.name.rpartition(" ")[0]
        many = label == "sqla_jobs" and sqla_jobs_peer.has_enqueue_many()
        if label == "sqla_jobs" and not many:
            suite.skipped["jobs.enqueue_many"] = "Jobs has none in this version; `bulk` is session.add_all"
        each, bulk = plan.jobs(1_500), plan.jobs(10_000)
        run = partial(measure.enqueue, variant=variant, each=each, bulk=bulk, many=many)
        suite.add(variant, run, label)
    return suite


def latency(plan: Plan) -> Suite:
    title = "Latency of an idle worker: one job every 50 ms, from its commit to its start"
    suite = Suite("latency", title, plan.fewest)
    for variant in plan.chosen(name if name != "limit K=50" else "limit K=1" for name in ONE_OF_EACH):
        jobs = 20 if plan.quick else 200
        suite.add(variant, partial(measure.latency, variant=variant, jobs=jobs, interval=0.05))
    return suite


MILLION = 1_000_000


def backlog(plan: Plan) -> Suite:
    # The filled databases are large: copied for each measurement, and kept until the end of all.
    suite = Suite("backlog", "Backlog: the first jobs of many", plan.fewest)
    few, many = plan.jobs(10_000), 20_000 if plan.quick else MILLION
    names = ["sqla_jobs t=4", "sqla_jobs fast lane", "limit K=50", "pgqueuer b=100", "chancy c=100"]
    for variant in plan.chosen(names):
        # Fewer than in a drain: with a queue that sorts its backlog each claim takes long.
        first = plan.jobs(min(variant.row, 5_000) // (2 if variant.name.startswith("chancy") else 1))
        measured = partial(measure.backlog, variant=variant, first=first)
        for what, queued, others, columns in _states(variant, few, many):
            run = partial(measured, queued=queued, others=others, columns=columns)
            suite.add(variant, run, f"{variant.name}, {what}")
    return suite


def _states(variant: Variant, few: int, many: int) -> list[tuple[str, int, int, Mapping[str, str]]]:
    states: list[tuple[str, int, int, Mapping[str, str]]] = [
        (f"{few:,} queued", few, 0, {}),
        (f"{many:,} queued", many, 0, {}),
    ]
    if variant.why_skipped() is None and variant.name.startswith(("sqla_jobs", "limit")):
        peer = variant.peer()
        for what, columns in (("finished", peer.finished), ("scheduled", peer.scheduled)):
            if columns:
                states.append((f"{few:,} queued, {many:,} {what}", few, many, columns))
    return states


def claims(plan: Plan) -> Suite:
    title = (
        "Claims: the first jobs of many, and behind many that are in a paused queue, or are not the worker's"
    )
    suite = Suite("claims", title, plan.fewest)
    many, ours = 20_000 if plan.quick else MILLION, sqla_jobs_peer.SqlaJobs
    for variant in plan.chosen(["sqla_jobs t=4", "sqla_jobs fast lane"]):
        first = plan.jobs(min(variant.row, 5_000))
        measured = partial(measure.backlog, variant=variant, first=first)
        # Beside the first ones as many more, so that the queue does not run dry while they are measured.
        behind = partial(measured, queued=2 * first + 1_000, others=many)
        suite.add(
            variant, partial(measured, queued=many, others=0, columns={}), f"{variant.name}, {many:,} queued"
        )
        suite.add(
            variant,
            partial(behind, columns={**ours.ahead, **ours.paused}, prepare=ours.pause),
            f"{variant.name}, behind {many:,} in a paused queue",
        )
        label = f"{variant.name}, behind {many:,} of others, where and its index"
        if sqla_jobs_peer.has_filters():
            columns = {**ours.ahead, **ours.of_others}
            suite.add(variant, partial(behind, columns=columns, prepare=ours.indexes, filtered=True), label)
        else:
            suite.skipped[label] = "Worker has no option where in this version"
    return suite


def xmin(plan: Plan) -> Suite:
    suite = Suite("xmin", "Under an old snapshot: the last quarter against the first", plan.fewest)
    names = ["sqla_jobs t=4", "sqla_jobs fast lane", "limit K=50", "pgqueuer b=100"]
    for variant in plan.chosen(names):
        for pinned in (False, True):
            run = partial(_quarters, variant=variant, jobs=plan.jobs(20_000), pinned=pinned)
            suite.add(variant, run, f"{variant.name}, {'under a snapshot' if pinned else 'free'}")
    return suite


def _quarters(machine: Machine, variant: Variant, jobs: int, pinned: bool) -> measure.Figures:
    return measure.drain(machine, variant, jobs, "noop", pinned=pinned, by_quarter=True)


def processes(plan: Plan) -> Suite:
    suite = Suite("processes", "Worker processes on one queue, each job writes one row", plan.fewer)
    for variant in plan.chosen(["sqla_jobs t=4", "sqla_jobs fast lane", "limit K=50", "pgqueuer b=10"]):
        for count in (1, 2, 4):
            jobs = plan.jobs(variant.row * 3 // 2)
            run = partial(measure.drain, variant=variant, jobs=jobs, mode="row", processes=count, alone=False)
            suite.add(variant, run, f"{variant.name}, {count} process{'es' if count > 1 else ''}")
    return suite


SUITES: dict[str, Callable[[Plan], Suite]] = {
    make.__name__: make for make in (noop, row, add, enqueue, latency, backlog, claims, xmin, processes)
}
