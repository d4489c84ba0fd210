"""Contain one job in a savepoint of a Session that somebody else owns.

A job gets the very Session that its caller or its worker uses: made by the application's own
sessionmaker, with its class, binds, options and events. While the job runs, what would end the
surrounding transaction goes no further than the job's savepoint: ``commit()`` keeps the work within
it, ``rollback()`` and ``close()`` go back to it, ``begin()`` is a savepoint of its own. On exit the
work is released into the surrounding transaction, or rolled back, and the scope checks that savepoint
and transaction are still its own.

    contained    what a job meets on its Session and its connections
    job          one job in a savepoint of its own
    group        several jobs, one after the other, in a standing one
    savepoint    one savepoint, as the Session and as each connection has it
    connections  what is watched on them
    interrupts   how another thread ends a job
    on_loop      how it ends one that is a coroutine
    sql          what a statement would do to the transaction
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import scoped_session

from sqla_jobs.errors.signals import Interrupted
from sqla_jobs.scope.connections import refuse_autocommit, refuse_driver, stand_guard
from sqla_jobs.scope.group import GroupScope
from sqla_jobs.scope.interrupts import Interrupter
from sqla_jobs.scope.job import JobScope, Ran

__all__ = [
    "GroupScope",
    "Interrupted",
    "Interrupter",
    "JobScope",
    "Ran",
    "keep_in_registry",
    "refuse_autocommit",
    "refuse_driver",
    "stand_guard",
]


def keep_in_registry(registry: scoped_session[Any]) -> None:
    """Let `registry.remove()` in a job go no further than its Session's `close()` does.

    Otherwise the registry would give the rest of the job another Session, contained by nobody. Outside
    of jobs `remove()` stays what it is.
    """

    def remove() -> None:
        if registry.registry.has() and "commit" in vars(registry.registry()):
            registry.registry().close()
        else:
            type(registry).remove(registry)

    vars(registry)["remove"] = remove
