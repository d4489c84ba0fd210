"""What is open for so long that VACUUM must keep dead rows for it: transactions, and replication slots."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import MOST, Finding, literal, span
from sqla_jobs.statements import Model, examined
from sqla_jobs.tasks import Registry

OPEN: Final = 600
"""Seconds that a transaction may be open; at 100 jobs a second it keeps 120,000 dead rows by then."""
IDLE: Final = 60
"""Seconds that a transaction may be open while nobody does anything in it."""
PREPARED: Final = 600
"""Seconds between the two phases of a commit."""
BEHIND: Final = 1_000_000
"""Transactions; of those whose time is not known."""


def check_transactions(
    connection: Connection, _: Model, __: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Sessions with a transaction that is open for long, or in which nobody does anything."""
    limits = {"seconds": OPEN, "transactions": BEHIND, "most": MOST, "now": now}
    findings = []
    for row in connection.execute(examined.sessions(), limits):
        idle = (row.state or "").startswith("idle in transaction")
        if idle and row.open <= OPEN and row.still <= IDLE:
            continue
        # The role may not see since when.
        long = span(row.open) if row.open is not None else f"{row.behind:,} transactions"
        text = (
            f"a transaction of {_who(row)} is open for {long}"
            + (f", idle for {span(row.still)}" if idle else "")
            + f": it keeps {_kept(row)}"
        )
        cure = f"SELECT pg_terminate_backend({row.pid});   -- its work so far is rolled back"
        code = "idle-in-transaction" if idle else "long-transaction"
        findings.append(Finding(code, "warning", text, cure, _data(row)))
    return findings


def _kept(row: Any) -> str:
    if row.behind is None:  # between two statements of READ COMMITTED, before the first that writes
        return "its locks, and its connection from everybody else"
    return "VACUUM from all rows that died since, and claims read through them"


def _who(row: Any) -> str:
    role = "" if row.role is None else f" of role {row.role}"
    named = f" ({row.application})" if row.application else ""
    client = f" from {row.client}" if row.client else ""
    return f"{row.kind} {row.pid}{named}{role}{client}"


def _data(row: Any) -> dict[str, Any]:
    moments = {name: getattr(row, name) for name in ("begun_at", "query_at")}
    return {
        "pid": row.pid,
        "application": row.application,
        "role": row.role,
        "client": row.client,
        "state": row.state,
        "behind": row.behind,
        **{name: None if value is None else value.isoformat() for name, value in moments.items()},
    }


def check_prepared(
    connection: Connection, _: Model, __: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Prepared transactions that nobody has ended: they survive even a restart of the server."""
    findings = []
    for row in connection.execute(examined.prepared(), {"most": MOST, "now": now}):
        if row.seconds <= PREPARED:
            continue
        text = (
            f"transaction {row.gid!r} of role {row.role} is prepared for {span(row.seconds)}, neither "
            "committed nor rolled back: it keeps its locks, and VACUUM all rows that died since"
        )
        cure = f"ROLLBACK PREPARED {literal(row.gid)};   -- or COMMIT PREPARED: who prepared it knows"
        data = {"gid": row.gid, "seconds": row.seconds, "behind": row.behind}
        findings.append(Finding("prepared-transaction", "warning", text, cure, data))
    return findings


def check_slots(
    connection: Connection, _: Model, __: Registry[Any] | None, ___: dt.datetime | None
) -> list[Finding]:
    """Replication slots that hold a snapshot for a standby which is gone, or far behind."""
    findings = []
    for row in connection.execute(examined.slots(), {"most": MOST}):
        if row.active and row.behind <= BEHIND:
            continue
        state = "far behind" if row.active else "not connected"
        text = (
            f"replication slot {row.name} keeps the rows of the last {row.behind:,} transactions for a "
            f"standby that is {state}"
        )
        cure = (
            "end the long query on the standby, or set its hot_standby_feedback = off"
            if row.active
            else f"SELECT pg_drop_replication_slot({literal(row.name)});   -- if it does not come back"
        )
        data = {"slot": row.name, "active": row.active, "behind": row.behind}
        findings.append(Finding("replication-slot", "warning", text, cure, data))
    return findings
