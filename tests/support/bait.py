"""A dead worker that is only a row, by whose rescue a test knows that the living have looked."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from tests.support.server import Database
from tests.support.waiting import until


@dataclass(frozen=True)
class Bait:
    """A worker that nobody is, and its running job."""

    database: Database
    worker_id: int
    job: int

    def until_rescued(self) -> None:
        until(self.database, f"SELECT crashes = 1 FROM sqla_jobs WHERE id = {self.job}")


def bait(database: Database, *, locked: bool, limit: timedelta = timedelta(hours=1)) -> Bait:
    """Rows of a worker whose last heartbeat is of this moment.

    Parameters:
        locked: its row says that it holds its lock, which is free: it is rescued at the second sight, if
            the limit is long. Else it is when its limit is over.
    """
    with database.engine.begin() as connection:
        worker_id = connection.exec_driver_sql(
            "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, locked)"
            " VALUES ('nowhere', 1, '0', 1, %s, %s) RETURNING id",
            (limit, locked),
        ).scalar_one()
        job = connection.exec_driver_sql(
            "INSERT INTO sqla_jobs (task, queue, state, worker_id, attempt, claim)"
            " VALUES ('bait', 'bait', 'running', %s, 1, 1) RETURNING id",
            (worker_id,),
        ).scalar_one()
    return Bait(database, worker_id, job)
