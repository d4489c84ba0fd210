"""What the doctor's tests share: one look at a database of their own."""

from __future__ import annotations

import datetime as dt
from typing import Any

from sqla_jobs import Job
from sqla_jobs.doctor import Check, Finding, examine, look
from sqla_jobs.models import JobMixin
from tests.support.server import Database

OF_TEST_SERVERS = frozenset({"fsync-off", "autovacuum-off", "replication-slot"})
"""What may be true of a server that is set up for tests, whatever is in this one's database."""


def see(
    check: Check,
    database: Database,
    model: type[JobMixin] = Job,
    registry: Any = None,
    *,
    now: dt.datetime | None = None,
    later: float = 0,
) -> list[Finding]:
    """What one check finds. ``later``: in so many seconds from now."""
    if later:
        now = database.scalar("SELECT clock_timestamp()") + dt.timedelta(seconds=later)
    with database.engine.connect() as connection:
        return look(check, connection, model, registry, now)


def codes(findings: list[Finding]) -> list[str]:
    return [found.code for found in findings]


def report(database: Database, model: type[JobMixin] = Job, registry: Any = None) -> set[str]:
    """The codes of all that is found, but for what a test server is set up to be."""
    found = examine(database.engine, model, registry).findings
    return {f"{each.code}: {each.found}" for each in found if not is_of_server(each)}


def is_of_server(found: Finding) -> bool:
    return found.code in OF_TEST_SERVERS and "table" not in found.data


def employ(
    database: Database,
    tasks: str | None = '["t"]',
    queues: str | None = None,
    threads: int = 1,
    beat: str = "0",
    **values: Any,
) -> None:
    """The row of a worker that lives; ``beat``: its last heartbeat was so long ago, an interval."""
    more = "".join(f", {name}" for name in values)
    given = "".join(f", :{name}" for name in values)
    database.execute(
        "INSERT INTO sqla_jobs_workers"
        f" (host, pid, version, threads, heartbeat_limit, tasks, queues, heartbeat_at{more})"
        " VALUES ('h', 1, 'v', :threads, '30 s', CAST(:tasks AS jsonb), CAST(:queues AS jsonb),"
        f" statement_timestamp() - CAST(:beat AS interval){given})",
        threads=threads, tasks=tasks, queues=queues, beat=beat, **values,
    )  # fmt: skip


def add(database: Database, number: int = 1, since: str = "0", **values: Any) -> None:
    """Queued jobs that are due for so long, an interval."""
    row = {"task": "t", "state": "queued", **values}
    names = ", ".join(row)
    given = ", ".join([*(f":{name}" for name in row), "statement_timestamp() - CAST(:since AS interval)"])
    database.execute(
        f"INSERT INTO sqla_jobs ({names}, run_at)"
        f" SELECT {given} FROM generate_series(1, {number})",
        since=since, **row,
    )  # fmt: skip


def heal(database: Database, found: Finding) -> None:
    """Do what a finding says, as SQL."""
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for line in found.cure.splitlines():
            connection.exec_driver_sql(line.replace("%", "%%"))
