"""One measurement of each kind: figures of one variant, in fresh processes on a fresh database."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import psycopg

from tests.benchmarks.base import Order, Peer
from tests.benchmarks.catalogue import Variant
from tests.benchmarks.machine import Machine
from tests.benchmarks.processes import PATIENCE, Broken, WorkerProcess, call

Figures = dict[str, Any]
LARGEST_GROUP = 50
EFFECTS = "CREATE TABLE public.effects (job_id bigint NOT NULL)"


def number(connection: psycopg.Connection, sql: str) -> int:
    row = connection.execute(sql).fetchone()
    assert row is not None
    return int(row[0])


def install(variant: Variant, dsn: str, jobs: int) -> None:
    """Make the tables, and enqueue jobs by the queue itself."""
    call(Order(variant.name, "fill", dsn, count=jobs))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(EFFECTS)


@contextmanager
def filled(machine: Machine, variant: Variant, jobs: int) -> Iterator[str]:
    """A database in which so many jobs wait."""

    def fill(dsn: str) -> None:
        install(variant, dsn, jobs)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("VACUUM ANALYZE")

    with machine.copy(f"{variant.family or variant.name}, {jobs} jobs", fill) as dsn:
        yield dsn


class Clock:
    """CPU seconds of the workers and of the server."""

    def __init__(self, machine: Machine, workers: list[WorkerProcess]) -> None:
        self._machine, self._workers = machine, workers
        self._server, self._worker = machine.cpu(), self._used()

    def _used(self) -> float:
        return sum(worker.cpu() for worker in self._workers)

    def figures(self, jobs: int) -> Figures:
        server = self._machine.cpu()
        spent = None if server is None or self._server is None else (server - self._server) * 1000 / jobs
        return {"worker ms/job": (self._used() - self._worker) * 1000 / jobs, "server ms/job": spent}


def drain(
    machine: Machine,
    variant: Variant,
    jobs: int,
    mode: str,
    *,
    processes: int = 1,
    alone: bool = True,
    pinned: bool = False,
    by_quarter: bool = False,
) -> Figures:
    """Run jobs that lie ready, from the start of the first one until the database has none unfinished.

    Parameters:
        alone: the process is the only one, and knows when it has begun the last job: nobody looks into the
            table before. False: somebody looks all the time, as must be with several, and alike with one.
        pinned: beside a transaction with an old snapshot.
        by_quarter: with the rates of the first and the last quarter.
    """
    peer = variant.peer()
    with ExitStack() as stack:
        dsn = stack.enter_context(filled(machine, variant, jobs))
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        order = Order(variant.name, "work", dsn, mode, jobs if alone else 0)
        workers = [stack.enter_context(WorkerProcess(order)) for _ in range(processes)]
        for worker in workers:
            worker.wait("READY")
        if pinned:
            stack.enter_context(old_snapshot(dsn))
        clock = Clock(machine, workers)
        for worker in workers:
            worker.go()
        marks: list[float] = []
        if alone:
            marks = workers[0].wait("LAST")["marks"]
        end = until_finished(connection, peer, 0.005)
        cost = clock.figures(jobs)
        first = marks[0] if marks else min(at for worker in workers if (at := worker.first()) is not None)
        complaints = sum(worker.complaints() for worker in workers)
        figures = {"jobs/s": jobs / (end - first), **cost, "jobs": jobs, "warnings": complaints}
        if by_quarter:
            figures.update(quarters(marks, jobs))
        return {**figures, **verdict(connection, peer, jobs, mode)}


def until_finished(connection: psycopg.Connection, peer: Peer, step: float) -> float:
    """When no job was left."""
    end = time.monotonic() + PATIENCE
    while True:
        asked = time.monotonic()
        left = number(connection, peer.remaining)
        now = time.monotonic()
        if not left:
            return now
        if now > end:
            raise Broken(f"{left} jobs are left unfinished after {PATIENCE} s")
        # Looking at many jobs costs the server what is to be measured.
        time.sleep(max(step, 15 * (now - asked)))


def verdict(connection: psycopg.Connection, peer: Peer, jobs: int, mode: str) -> Figures:
    """Whether the run was right: every job has succeeded and has its effect, by an exactly-once queue one."""
    right = not peer.succeeded or number(connection, peer.succeeded) == jobs
    if mode == "noop":
        return {"right": right}
    effects = number(connection, "SELECT count(*) FROM effects")
    distinct = number(connection, "SELECT count(DISTINCT job_id) FROM effects")
    once = effects == distinct or not peer.once
    return {"effects": effects, "twice": effects - distinct, "right": right and distinct == jobs and once}


def quarters(marks: list[float], jobs: int) -> Figures:
    """The rates of the first and of the last quarter, which show whether the claims become slower."""
    first, last = (jobs / 4 / (marks[end] - marks[end - 1]) for end in (1, 4))
    return {"first quarter": first, "last quarter": last, "last : first": last / first}


@contextmanager
def old_snapshot(dsn: str) -> Iterator[None]:
    """A report or a dump that goes on: no row version that it might see is removed."""
    with psycopg.connect(dsn) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.execute("SELECT count(*) FROM pg_class")
        yield
        connection.rollback()


def enqueue(machine: Machine, variant: Variant, each: int, bulk: int, many: bool) -> Figures:
    """One job a commit by one client; then as many as are asked for, at once."""
    figures: Figures = {}
    ways = {"each": each, "bulk": bulk, **({"many": bulk} if many else {})}
    table = variant.peer().table
    right = True
    for way, count in ways.items():
        with filled(machine, variant, 0) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
            told = call(Order(variant.name, way, dsn, count=count))
            # One job more than are timed goes before them, so that connecting is not timed.
            right &= number(connection, f"SELECT count(*) FROM {table}") == count + (way == "each")
        figures[f"{way} jobs/s"] = count / told["result"]
        if way == "each":
            figures["each client ms/job"] = told["cpu"] * 1000 / count
    return {**figures, "right": right}


def latency(machine: Machine, variant: Variant, jobs: int, interval: float) -> Figures:
    """From after the commit of an enqueue to the first line of the job, in an idle worker."""
    peer = variant.peer()
    with filled(machine, variant, 0) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        with WorkerProcess(Order(variant.name, "work", dsn, count=jobs, trace=True)) as worker:
            worker.wait("READY")
            worker.go()
            time.sleep(1.2)  # it connects, listens, and finds nothing to do
            cpu, began = worker.cpu(), time.monotonic()
            time.sleep(1.0)
            idle = (worker.cpu() - cpu) / (time.monotonic() - began)
            made = call(Order(variant.name, "paced", dsn, count=jobs, interval=interval))["result"]
            starts = dict(map(tuple, worker.wait("LAST")["starts"]))
            until_finished(connection, peer, 0.02)
            told = verdict(connection, peer, jobs, "noop")
    waited = sorted((starts[n] - at) * 1000 for n, at in made)
    cuts = statistics.quantiles(waited, n=100, method="inclusive")
    return {"p50 ms": cuts[49], "p99 ms": cuts[98], "idle CPU %": idle * 100, "ms": waited, **told}


def backlog(
    machine: Machine,
    variant: Variant,
    first: int,
    queued: int,
    others: int,
    columns: Mapping[str, str],
    *,
    prepare: Sequence[str] = (),
    filtered: bool = False,
) -> Figures:
    """The rate of the first jobs, where many more wait, or lie in the table in another state.

    Parameters:
        others: rows beside those that are queued.
        columns: what these others have in their columns, as SQL.
        prepare: SQL that is executed when all are there.
        filtered: the worker claims none of these others.
    """
    peer = variant.peer()

    def fill(dsn: str) -> None:
        install(variant, dsn, 1000)
        with psycopg.connect(dsn, autocommit=True) as connection:
            multiply(connection, peer.table, queued - 1000, {})
            multiply(connection, peer.table, others, columns)
            for sql in prepare:
                connection.execute(sql)
            connection.execute("VACUUM ANALYZE")

    key = f"{variant.family or variant.name}, {queued} queued, {others} {sorted(columns)}"
    with machine.copy(key, fill) as dsn:
        with WorkerProcess(Order(variant.name, "work", dsn, count=first, filtered=filtered)) as worker:
            worker.wait("READY")
            before = succeeded(dsn, peer)
            clock = Clock(machine, [worker])
            worker.go()
            marks = worker.wait("LAST")["marks"]
            cost = clock.figures(first)
        # The worker was killed in the middle of its work: all but one group have been committed.
        right = not peer.once or succeeded(dsn, peer) - before >= first - LARGEST_GROUP
    return {"jobs/s": first / (marks[-1] - marks[0]), **cost, "jobs": first, "right": right}


def succeeded(dsn: str, peer: Peer) -> int:
    with psycopg.connect(dsn, autocommit=True) as connection:
        return number(connection, peer.succeeded) if peer.succeeded else 0


OWN_COLUMNS = """
SELECT a.attname,
       a.attidentity <> '' OR pg_get_serial_sequence(%(table)s, a.attname) IS NOT NULL,
       a.atttypid = 'uuid'::regtype AND i.indexrelid IS NOT NULL
FROM pg_attribute a
LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary AND a.attnum = ANY(i.indkey)
WHERE a.attrelid = %(table)s::regclass AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
"""


def multiply(connection: psycopg.Connection, table: str, count: int, columns: Mapping[str, str]) -> None:
    """Copy the 1,000 rows of a queue's table until there are `count` more, with other values in columns."""
    if count <= 0:
        return
    names, values = [], []
    for name, numbered, random in connection.execute(OWN_COLUMNS, {"table": table}).fetchall():
        if not numbered:
            names.append(name)
            values.append("gen_random_uuid()" if random else columns.get(name, name))
    connection.execute("SET session_replication_role = replica")  # no triggers
    connection.execute(
        f"INSERT INTO {table} ({', '.join(names)}) SELECT {', '.join(values)}"
        f" FROM (SELECT * FROM {table} LIMIT 1000) AS made, generate_series(1, {-(-count // 1000)})"
    )
    connection.execute("RESET session_replication_role")
