"""What there is to reach: raw psycopg on a table of its own, `k` jobs a transaction, a savepoint for each."""

from __future__ import annotations

import select
from collections.abc import Iterable

import psycopg

from tests.benchmarks.base import Peer, hooks, pace, ready, timed

TABLE = """
CREATE TABLE jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    queue text NOT NULL DEFAULT 'default',
    priority int NOT NULL DEFAULT 0,
    run_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'queued',
    attempts int NOT NULL DEFAULT 0,
    task text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    error text
);
CREATE INDEX jobs_ready ON jobs (queue, priority, run_at, id) WHERE state = 'queued';
CREATE FUNCTION jobs_notify() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN PERFORM pg_notify('jobs', ''); RETURN NULL; END$$;
CREATE TRIGGER jobs_notify AFTER INSERT ON jobs FOR EACH STATEMENT EXECUTE FUNCTION jobs_notify();
"""
INSERT = "INSERT INTO jobs (task, args) VALUES ('noop', jsonb_build_object('n', %s::int))"
CLAIM = """SELECT id, task, args, attempts FROM jobs
WHERE queue = 'default' AND state = 'queued' AND run_at <= now()
ORDER BY priority, run_at, id LIMIT %s FOR UPDATE SKIP LOCKED"""
FINISH = "UPDATE jobs SET state = 'done', finished_at = now() WHERE id = ANY(%s)"
EFFECT = "INSERT INTO effects (job_id) VALUES (%s)"


class Limit(Peer):
    exactly_once = "yes: one transaction"
    remaining = "SELECT count(*) FROM jobs WHERE state = 'queued'"
    succeeded = "SELECT count(*) FROM jobs WHERE state = 'done'"
    table = "jobs"
    finished = {"state": "'done'", "finished_at": "now()"}

    def __init__(self, k: int) -> None:
        self.k = k
        self.note = (
            f"raw psycopg: claim {k}, a savepoint for each job, one commit; no retries, hooks or logging"
        )

    def install(self, dsn: str) -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(TABLE)

    def enqueue_each(self, dsn: str, ns: Iterable[int]) -> float:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as connection:
            connection.execute(INSERT, (-1,))
            return timed(lambda: [connection.execute(INSERT, (n,)) for n in ns])

    def enqueue_paced(self, dsn: str, ns: Iterable[int], interval: float) -> list[tuple[int, float]]:
        with psycopg.connect(dsn, autocommit=True, prepare_threshold=0) as connection:
            return pace(lambda n: connection.execute(INSERT, (n,)), ns, interval)

    def enqueue_bulk(self, dsn: str, ns: Iterable[int]) -> float:
        with psycopg.connect(dsn, autocommit=True) as connection, connection.cursor() as cursor:

            def copy() -> None:
                with cursor.copy("COPY jobs (task, args) FROM STDIN") as rows:
                    for n in ns:
                        rows.write_row(("noop", f'{{"n": {n}}}'))

            return timed(copy)

    def work(self, dsn: str) -> None:
        connection = psycopg.connect(dsn, autocommit=True, prepare_threshold=0)
        ear = psycopg.connect(dsn, autocommit=True)
        ear.execute("LISTEN jobs")
        ready()
        with connection.cursor() as cursor:
            while True:
                if not self._group(cursor) and not list(ear.notifies(timeout=0)):
                    select.select([ear.fileno()], [], [], 5.0)
                    list(ear.notifies(timeout=0))

    def _group(self, cursor: psycopg.Cursor) -> int:
        cursor.execute("BEGIN")
        group = cursor.execute(CLAIM, (self.k,)).fetchall()
        for _, _, arguments, _ in group:
            cursor.execute("SAVEPOINT s")
            hooks.tick(arguments["n"])
            if hooks.effect:
                cursor.execute(EFFECT, (arguments["n"],))
            cursor.execute("RELEASE s")
        if group:
            cursor.execute(FINISH, ([row[0] for row in group],))
        cursor.execute("COMMIT")
        return len(group)
