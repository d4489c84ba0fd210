"""Connections: how many there may be and have to be, the pool, and a pooler in between."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import UnboundExecutionError

from sqla_jobs.doctor.finding import Finding, counted
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.statements import Model, backend, examined
from sqla_jobs.tasks import Registry
from sqla_jobs.worker.pool import WORKERS_OWN, check_pool

BESIDES: Final = WORKERS_OWN + 3
"""Connections of a worker process beyond one for each thread: ticks; heartbeats, LISTEN and claims."""
FULL: Final = 0.9
"""Of all connections."""


def check_capacity(
    connection: Connection, model: Model, _: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Whether all workers that live can have the connections that they may come to need."""
    workers = list(connection.execute(examined.live_workers(model), {"now": now}))
    may = connection.execute(examined.capacity()).one()
    limits = [limit for limit in (may.database_limit, may.role_limit) if limit >= 0]
    most = min([may.most - may.reserved, *limits])
    need = sum(worker.threads + BESIDES for worker in workers)
    data = {"most": most, "needed": need, "used": may.used, "workers": len(workers)}
    raise_it = f"ALTER SYSTEM SET max_connections = {_more(need, may.reserved)};   -- needs a restart"
    fewer = (
        f"{raise_it}\n-- or fewer threads, or fewer workers; or raise a CONNECTION LIMIT of role or database"
    )
    if need > most:
        text = (
            f"{counted(len(workers), 'worker')} may come to need {need} connections, threads + {BESIDES} "
            f"each, and there can be {most}: jobs will fail for want of one"
        )
        return [Finding("connections-short", "error", text, fewer, data)]
    if need > FULL * most or may.used > FULL * (may.most - may.reserved):
        text = (
            f"{counted(len(workers), 'worker')} may come to need {need} of {most} connections, and "
            f"{may.used} are open on the server: little is left for everybody else"
        )
        return [Finding("connections-short", "warning", text, fewer, data)]
    return []


def _more(need: int, reserved: int) -> int:
    # Half of it for the application itself.
    return -(-(2 * need + reserved) // 50) * 50


def check_own_pool(
    connection: Connection, model: Model, registry: Registry[Any] | None, now: dt.datetime | None
) -> list[Finding]:
    """Whether the pool of the application's own engine is large enough for its workers that live."""
    engine = None if registry is None else _engine(registry)
    if engine is None:
        return []
    workers = connection.execute(examined.live_workers(model), {"now": now})
    threads = max((worker.threads for worker in workers), default=1)
    try:
        check_pool(engine, threads)
    except ConfigurationError as error:
        need = threads + WORKERS_OWN
        cure = f"create_engine(…, pool_size={need})"
        return [Finding("pool-small", "error", str(error), cure, {"threads": threads, "needed": need})]
    return []


def _engine(registry: Registry[Any]) -> Engine | None:
    if registry.sessionmaker is None:
        return None
    with registry.sessionmaker() as session:
        try:
            return session.get_bind(mapper=registry.model).engine
        except UnboundExecutionError:
            return None


def check_pooler(
    connection: Connection, _: Model, registry: Registry[Any] | None, __: dt.datetime | None
) -> list[Finding]:
    """Whether a pooler such as PgBouncer is between this client and the server, and what follows.

    It gives each client another process number than the server's own. In which mode it is cannot be asked:
    that the next transaction is another server process's shows only if the first one is busy by then.
    """
    driver: Any = connection.connection.driver_connection
    pid = connection.execute(backend()).scalar_one()
    if pid == driver.info.backend_pid:
        return []
    data: dict[str, Any] = {"backend_pid": pid, "told": driver.info.backend_pid}
    listens = registry is not None and registry.notify is not False
    text = (
        "a connection pooler is between this client and the server: a worker behind it polls, and is judged "
        "by its heartbeats and not by its lock, in whichever mode the pooler is"
    )
    if listens:
        text += "; the application's Jobs is set to notify"
    cure = 'Jobs(notify=False), or a direct connection for workers; docs/workers.md, "Behind PgBouncer"'
    findings = [Finding("pooler", "warning" if listens else "info", text, cure, data)]
    threshold = driver.prepare_threshold
    # Of an engine that we made ourselves it says nothing about the application.
    if threshold is not None and registry is not None and _engine(registry) is connection.engine:
        text = (
            f"the engine prepares a statement when it is sent more than {threshold} times; in transaction "
            "mode the pooler gives the next transaction a server process that does not know it, or that has "
            "another of that name"
        )
        cure = "create_engine(…, connect_args={'prepare_threshold': None})"
        findings.append(Finding("prepare-threshold", "warning", text, cure, {"prepare_threshold": threshold}))
    return findings
