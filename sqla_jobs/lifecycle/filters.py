"""Whether an index serves the claims of a filter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy.orm import Session

from sqla_jobs import statements
from sqla_jobs.lifecycle.sent import Model, execute, selection
from sqla_jobs.statements import UNFILTERED, Filter


def index_of_claims(session: Session, model: Model, queues: Sequence[str] | None, only: Filter) -> str | None:
    """The index of the application's own by which the next job that satisfies a filter is found.

    None: there is none, and a claim reads past all jobs that it may not take. PostgreSQL itself is asked, by
    an EXPLAIN of how a claim looks for its job: it knows which condition implies which. Leaves behind some
    settings of the planner, until the transaction ends.

    Raises:
        DBAPIError: to PostgreSQL the filter is no condition.
    """
    session.execute(statements.plan_by_index())
    chosen = selection(queues)
    plan = execute(session, model, statements.explain_claim(model, not chosen, only), **chosen).scalar_one()
    nodes = list(_walk(plan[0]["Plan"]))
    used = {node.get("Index Name") for node in nodes if node.get("Relation Name") == "sqla_jobs"}
    if not used or used & {None, *UNFILTERED} or any("Sort" in node["Node Type"] for node in nodes):
        return None
    return used.pop()


def _walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)
