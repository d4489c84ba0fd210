"""EXPLAIN (ANALYZE, BUFFERS) of the very statements that the library sends, by custom and generic plans."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from psycopg import ClientCursor
from sqlalchemy import event
from sqlalchemy.orm import Session

from tests.support.server import Database
from tests.support.verbs import employ

Verb = Callable[[Session], object]
NAMED = re.compile(r"%\((\w+)\)s")


@dataclass(frozen=True)
class Plan:
    """What EXPLAIN says of one statement that was run."""

    statement: str
    nodes: tuple[dict[str, Any], ...]
    milliseconds: float
    compiled: bool
    """Whether it was worth a just-in-time compilation to the planner, which costs more than any of these."""

    @property
    def kinds(self) -> set[str]:
        """The types of its nodes: `Index Scan`, `Sort`, ..."""
        return {node["Node Type"] for node in self.nodes}

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def scans(self) -> list[dict[str, Any]]:
        """The nodes that read the job table."""
        return [
            node
            for node in self.nodes
            if node.get("Relation Name") == "sqla_jobs" and node["Node Type"].endswith("Scan")
        ]

    @property
    def rows_read(self) -> float:
        """Rows of the job table that were looked at, those that a filter dropped included."""
        return sum(
            float(node["Actual Loops"] * (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)))
            for node in self.scans
        )

    @property
    def rows_sorted(self) -> float:
        return max((node["Actual Rows"] for node in self.nodes if node["Node Type"] == "Sort"), default=0)

    @property
    def cost(self) -> float:
        """What the planner expects."""
        return float(self.nodes[0]["Total Cost"])

    @property
    def buffers(self) -> int:
        """Pages touched, in all."""
        return int(self.nodes[0]["Shared Hit Blocks"] + self.nodes[0]["Shared Read Blocks"])

    def __str__(self) -> str:
        told = [f"{self.milliseconds} ms, {self.buffers} buffers, {self.rows_read:g} rows read"]
        for node in self.nodes:
            names = ("Index Name", "Relation Name", "Index Cond", "Filter", "Rows Removed by Filter")
            shown = {name: node[name] for name in names if name in node}
            rows = f"{node['Actual Rows']} rows x {node['Actual Loops']}"
            told.append(f"{'  ' * node['depth']}{node['Node Type']}, {rows} {shown}")
        return "\n".join([*told, self.statement])


class Explainer:
    """Explains what verbs send over one connection, on which a plan once made is kept.

    Each statement is PREPAREd as it is sent, so that ``generic`` has the meaning that it has for an
    application: planned once, for unknown parameters, and kept until something invalidates it.
    """

    def __init__(self, database: Database, generic: bool) -> None:
        self._connection = database.engine.connect()
        self._driver: Any = self._connection.connection.driver_connection
        mode = "force_generic_plan" if generic else "force_custom_plan"
        self._connection.exec_driver_sql(f"SET plan_cache_mode = {mode}")
        self._connection.commit()
        self._prepared: dict[str, str] = {}
        self._plans: list[Plan] = []
        event.listen(self._connection, "before_cursor_execute", self._explain)

    def __call__(self, verb: Verb) -> list[Plan]:
        """Run a verb in a transaction that is rolled back; returns the plans of its statements in order."""
        self._plans = []
        with Session(self._connection) as session:
            verb(session)
            session.rollback()
        return self._plans

    def _explain(self, _: Any, __: Any, sql: str, parameters: Any, *___: Any) -> None:
        if "sqla_jobs" not in sql:
            return
        names = list(dict.fromkeys(NAMED.findall(sql)))
        raw = NAMED.sub(lambda found: f"${names.index(found[1]) + 1}", sql)
        cursor: Any
        with ClientCursor(self._driver) as cursor:
            if raw not in self._prepared:
                self._prepared[raw] = f"explained_{len(self._prepared)}"
                cursor.execute(f"PREPARE {self._prepared[raw]} AS {raw}")
            values = f"({', '.join(f'%({name})s' for name in names)})" if names else ""
            execute = f"EXECUTE {self._prepared[raw]} {values}"
            cursor.execute("SAVEPOINT explained")
            cursor.execute(
                f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {execute}", dict(parameters) if names else None
            )
            told = cursor.fetchone()[0][0]
            cursor.execute("ROLLBACK TO explained")
        nodes = tuple(walk(told["Plan"]))
        self._plans.append(Plan(raw, nodes, told["Execution Time"], "JIT" in told))

    def close(self) -> None:
        # Not back to the pool: a setting and prepared statements are on it.
        self._connection.invalidate()
        self._connection.close()


def walk(node: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """A node and all below it."""
    yield {**node, "depth": depth}
    for child in node.get("Plans", ()):
        yield from walk(child, depth + 1)


@contextmanager
def explaining(database: Database, *, generic: bool) -> Iterator[Explainer]:
    """An `Explainer` on a connection of its own."""
    explainer = Explainer(database, generic)
    try:
        yield explainer
    finally:
        explainer.close()


def fill(database: Database, state: str, number: int, *, queue: str = "default", later: str = "0") -> None:
    """Insert jobs in one statement, all due at the same moment: ``later`` from now, an interval.

    And worker 7, if it is not there.
    """
    with database.sessionmaker.begin() as session:
        employ(session, 7)
    finished = "statement_timestamp()" if state in ("succeeded", "failed", "cancelled") else "NULL"
    database.execute(
        f"""
        INSERT INTO sqla_jobs (task, arguments, queue, state, run_at, finished_at)
        SELECT 'shop.jobs.send_receipt', jsonb_build_object('order_id', i), :queue, :state,
               statement_timestamp() + CAST(:later AS interval), {finished}
        FROM generate_series(1, :number) AS i
        """,
        queue=queue, state=state, number=number, later=later,
    )  # fmt: skip
