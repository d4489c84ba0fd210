"""Settings of the server, as they hold for this role in this database; and its clock."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Connection

from sqla_jobs.doctor.finding import Finding, Severity
from sqla_jobs.statements import Model, examined
from sqla_jobs.tasks import Registry

SKEW: Final = dt.timedelta(seconds=2)
SKEW_OF_NOTE: Final = dt.timedelta(seconds=30)
RELOAD: Final = "SELECT pg_reload_conf();"


def settings_of(connection: Connection) -> dict[str, str]:
    """The settings that some check looks at, by name."""
    return {row.name: row.setting for row in connection.execute(examined.settings())}


def check_durability(
    connection: Connection, _: Model, __: Registry[Any] | None, ___: dt.datetime | None
) -> list[Finding]:
    """Whether what is committed is there after a crash."""
    found = settings_of(connection)
    database = connection.execute(examined.role()).one().database
    findings = []
    if found["synchronous_commit"] == "off":
        findings.append(
            Finding(
                "synchronous-commit-off",
                "warning",
                "synchronous_commit is off: a crash of the server loses the last commits that it has "
                "confirmed, jobs enqueued and outcomes among them (a job may run again). Claims are made "
                "durable whatever it says",
                f"ALTER DATABASE {database} SET synchronous_commit = on;   -- or the role that has it off",
                {"synchronous_commit": "off"},
            )
        )
    if off := [name for name in ("fsync", "full_page_writes") if found[name] == "off"]:
        findings.append(
            Finding(
                "fsync-off",
                "warning",
                f"{' and '.join(off)} off: a crash of the machine may leave the database beyond repair",
                "\n".join([*(f"ALTER SYSTEM SET {name} = on;" for name in off), RELOAD]),
                dict.fromkeys(off, "off"),
            )
        )
    return findings


def check_writable(
    connection: Connection, _: Model, __: Registry[Any] | None, ___: dt.datetime | None
) -> list[Finding]:
    """Whether a transaction can write."""
    found = settings_of(connection)
    database = connection.execute(examined.role()).one().database
    if found["in_recovery"] == "true":
        text = "this server is a standby: nothing can be enqueued or run here"
        return [Finding("read-only", "error", text, "connect to the primary", {"standby": True})]
    if found["default_transaction_read_only"] == "on":
        text = "default_transaction_read_only is on: nothing can be enqueued or run"
        cure = f"ALTER DATABASE {database} SET default_transaction_read_only = off;   -- or the role"
        return [Finding("read-only", "error", text, cure, {"standby": False})]
    return []


def check_clock(
    connection: Connection, _: Model, __: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """How far this machine's clock is from the database's.

    Parameters:
        now: what this machine's clock says; None: it is asked.
    """
    before = now or dt.datetime.now(dt.timezone.utc)
    there: dt.datetime = connection.execute(examined.moment()).scalar_one()
    after = now or dt.datetime.now(dt.timezone.utc)
    # The answer was given at some moment in between.
    skew = before - there if before > there else min(after - there, dt.timedelta(0))
    if abs(skew) <= SKEW:
        return []
    seconds = skew.total_seconds()
    text = (
        f"this machine's clock is {abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'} the "
        "database's. What is due is decided by the database's, so jobs and schedules run at the right time; "
        "but a run_at that is reckoned by this one, and the times in its logs, are wrong by as much "
        "(delay= is reckoned by the database)"
    )
    severity: Severity = "warning" if abs(skew) >= SKEW_OF_NOTE else "info"
    cure = "timedatectl set-ntp true   # on whichever of the two machines is wrong"
    return [Finding("clock-skew", severity, text, cure, {"seconds": seconds})]


def check_autovacuum(
    connection: Connection, _: Model, __: Registry[Any] | None, ___: dt.datetime | None
) -> list[Finding]:
    """Whether the server vacuums by itself."""
    found = settings_of(connection)
    if not (off := [name for name in ("autovacuum", "track_counts") if found[name] == "off"]):
        return []
    text = (
        f"{' and '.join(off)} off: nobody takes away what finished jobs leave in the index that claims go "
        "by, and each claim reads through all of it"
    )
    cure = "\n".join([*(f"ALTER SYSTEM SET {name} = on;" for name in off), RELOAD])
    return [Finding("autovacuum-off", "error", text, cure, dict.fromkeys(off, "off"))]
