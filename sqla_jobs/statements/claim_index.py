"""The partial index of a claim filter: its definition, and whether there is one that does."""

from __future__ import annotations

import hashlib
import re
from typing import Any, Final

from sqlalchemy import Boolean, ClauseElement, Dialect, Executable, Text, func, literal_column, select
from sqlalchemy.dialects.postgresql.base import PGIdentifierPreparer
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from sqla_jobs.statements.filters import Filter
from sqla_jobs.statements.queued import following
from sqla_jobs.statements.terms import Model, job_table, once

UNFILTERED: Final = frozenset({"ix_sqla_jobs_claim", "ix_sqla_jobs_claim_any"})
"""The indexes that serve a claim without a filter."""
_LONGEST: Final = 40
"""Characters of an index's name that tell of its filter."""


def index_ddl(model: Model, any_queue: bool, only: Filter, dialect: Dialect) -> str:
    """The definition of the index that a filtered claim wants: in the claim's order, of what it may claim."""
    predicate = only.predicate(dialect)
    order = "priority DESC, run_at, id" if any_queue else "queue, priority DESC, run_at, id"
    preparer = dialect.identifier_preparer
    assert isinstance(preparer, PGIdentifierPreparer)
    # Told apart by the hash: `tenant_id = 7` and `tenant_id > 7` have the same words.
    words = re.sub(r"\W+", "_", predicate.lower()).strip("_")[:_LONGEST].strip("_")
    ending = hashlib.sha256(f"{order} {predicate}".encode()).hexdigest()[:4]
    name = preparer.quote(f"ix_sqla_jobs_{words}_{ending}")
    table = preparer.format_table(job_table(model)).replace("%%", "%")
    return f"CREATE INDEX CONCURRENTLY {name} ON {table} ({order}) WHERE state = 'queued' AND ({predicate})"


class _Explain(Executable, ClauseElement):
    inherit_cache = False

    def __init__(self, statement: Any) -> None:
        self.statement = statement


@compiles(_Explain)
def _explain(element: _Explain, compiler: SQLCompiler, **options: Any) -> str:
    return f"EXPLAIN (FORMAT JSON) {compiler.process(element.statement, **options)}"


@once
def explain_claim(model: Model, any_queue: bool, only: Filter) -> Executable:
    """How PostgreSQL would find the next job that satisfies a filter, as JSON. Reads and locks nothing.

    Parameter: ``queues`` unless ``any_queue``.
    """
    job = job_table(model)
    return _Explain(following(job, any_queue, job.c.id, where=only.clause, locked=False))


@once
def plan_by_index() -> Executable:
    """Until the transaction ends, let the planner prefer an index that has the right order, if there is one.

    Of a table that is small it would rather read and sort all.
    """
    names = ("enable_seqscan", "enable_bitmapscan", "enable_sort", "enable_incremental_sort")
    off, here = literal_column("'off'", Text), literal_column("true", Boolean)
    return select(*[func.set_config(literal_column(f"'{name}'"), off, here) for name in names])
