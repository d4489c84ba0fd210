"""What telling the workers costs: commits/s of eight processes that enqueue, in each mode of `notify`.

    python -m tests.benchmarks.notify [--processes 8] [--seconds 5] [--listeners 1] [--rounds 3]

On an embedded server with its default settings, fsync included. Two tables: jobs enqueued by the library,
where most of the time is Python's; and the same rows by the driver alone, which shows what the server can do.
The modes take turns in each round, and the figures are medians: compare within a table.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg
from sqlalchemy import create_engine, text
from sqlalchemy.orm import Session, sessionmaker

import sqla_jobs
from sqla_jobs import Job, Jobs, statements
from tests.support.server import EMBEDDED_SETTINGS, Database, Server, embedded_server, fresh_database

MODES: dict[str, Any] = {"False": False, "after_commit": "after_commit", "transaction": "transaction"}


def noop(session: Session) -> None:
    """A job."""


def by_the_library(url: str, mode: str) -> Callable[[], object]:
    jobs: Jobs[Job] = Jobs(notify=MODES[mode])
    task = jobs.task(name="noop")(noop)
    new_session = sessionmaker(create_engine(url))

    def enqueue() -> None:
        with new_session.begin() as session:
            task.enqueue(session)

    return enqueue


def by_the_driver(url: str, mode: str) -> Callable[[], object]:
    dsn = url.replace("+psycopg", "")
    connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=0)
    insert = "INSERT INTO sqla_jobs (task, state) VALUES ('noop', 'queued')"
    if mode == "transaction":
        tell = f"SELECT pg_notify('{statements.channel(Job)}', 'queued:default')"
        insert = f"WITH made AS ({insert} RETURNING id) {tell} FROM made"
    return lambda: connection.execute(insert)


def enqueue_all_the_time(
    make: Callable[[str, str], Callable[[], object]],
    url: str,
    mode: str,
    seconds: float,
    ready: Any,
    out: Any,
) -> None:
    enqueue = make(url, mode)
    enqueue()
    ready.wait()
    number, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        enqueue()
        number += 1
    out.put(number)


def commits(database: Database, make: Any, mode: str, options: argparse.Namespace) -> float:
    """Commits a second of all processes together."""
    database.execute("TRUNCATE sqla_jobs")
    context = multiprocessing.get_context("spawn")
    ready, out = context.Barrier(options.processes), context.Queue()
    rest = (make, database.url_string, mode, options.seconds, ready, out)
    processes = [context.Process(target=enqueue_all_the_time, args=rest) for _ in range(options.processes)]
    listeners = [psycopg.connect(database.url_string.replace("+psycopg", ""), autocommit=True)
                 for _ in range(options.listeners)]  # fmt: skip
    try:
        for listener in listeners:
            listener.execute(f'LISTEN "{statements.channel(Job)}"')
        for process in processes:
            process.start()
        total = sum(out.get() for _ in processes)
        for process in processes:
            process.join()
    finally:
        for listener in listeners:
            listener.close()
    return float(total / options.seconds)


def with_defaults(server: Server) -> None:
    """The tests' server has no fsync."""
    with server.admin.connect() as connection:
        for name in EMBEDDED_SETTINGS.keys() & {"fsync", "full_page_writes", "autovacuum"}:
            connection.execute(text(f"ALTER SYSTEM RESET {name}"))
        connection.execute(text("SELECT pg_reload_conf()"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--listeners", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with embedded_server() as server:
        with_defaults(server)
        with fresh_database(server, "notify") as database:
            sqla_jobs.metadata.create_all(database.engine)
            for make, modes in ((by_the_library, [*MODES]), (by_the_driver, ["False", "transaction"])):
                found: dict[str, list[float]] = {mode: [] for mode in modes}
                for _ in range(options.rounds):
                    for mode in modes:
                        found[mode].append(commits(database, make, mode, options))
                print(f"\n{make.__name__}: commits/s, {options.processes} processes")
                for mode, figures in found.items():
                    print(f"  {mode:14} {statistics.median(figures):8,.0f}   {figures}")
        server.admin.dispose()


if __name__ == "__main__":
    main()
