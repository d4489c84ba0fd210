"""Whether an application's connection pool is large enough for a worker."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool, SingletonThreadPool, StaticPool

from sqla_jobs.errors import ConfigurationError

WORKERS_OWN: Final = 1
"""Connections of the pool beyond one for each thread: the ticks'. Heartbeats and LISTEN have their own."""


def check_pool(engine: Engine, number: int, kind: str = "thread") -> None:
    """Raise ConfigurationError if the threads of a worker, or its coroutines, would wait for each other's
    connections.

    Parameters:
        kind: which of them these are.
    """
    pool = engine.pool
    if isinstance(pool, (StaticPool, SingletonThreadPool)):
        raise ConfigurationError(
            f"the engine's pool is a {type(pool).__name__}, whose connections are shared; expected one that "
            f"gives each {kind} of the worker its own: leave out poolclass, or NullPool"
        )
    # A size of 0 and an overflow of -1 both mean: as many as are asked for.
    if not isinstance(pool, QueuePool) or pool.size() == 0 or pool._max_overflow < 0:
        return
    most, need = pool.size() + pool._max_overflow, number + WORKERS_OWN
    if most < need:
        raise ConfigurationError(
            f"the engine's pool gives {most} connection(s) at most, and a worker of {number} {kind}(s) "
            f"needs {need}: create_engine(…, pool_size={need}), or fewer {kind}s"
        )
