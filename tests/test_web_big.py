"""The dashboard beside very many jobs: the time that the database takes for each page.

How many follows SQLA_JOBS_TEST_ROWS, as in tests/test_plans.py; 1,000,000 were tried by hand.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import Connection, Engine, event

from tests.support.server import Database
from tests.support.web import Browser, served
from tests.support.work import Recorder

pytest.importorskip("starlette", reason="needs the extra `web`")
pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")

from sqla_jobs.web import dashboard

pytestmark = pytest.mark.big

ROWS = int(os.environ.get("SQLA_JOBS_TEST_ROWS", "50000"))
LIMIT = 0.2
"""Seconds."""

FILL = """
INSERT INTO sqla_jobs
    (task, queue, arguments, state, run_at, created_at, started_at, finished_at, attempt, attempts)
SELECT 'task.' || i % 20, 'q' || i % 8, jsonb_build_object('order_id', i), state,
    now() - i * interval '0.3 s', now() - i * interval '0.3 s',
    CASE WHEN state = ANY ('{succeeded,failed,cancelled}') THEN now() - i * interval '0.3 s' END,
    CASE WHEN state = ANY ('{succeeded,failed,cancelled}') THEN now() - i * interval '0.29 s' END, 1,
    CASE WHEN state = 'failed' THEN
        '[{"error": "ValueError", "message": "broken", "traceback": "…"}]'::jsonb ELSE '[]' END
FROM (SELECT i, CASE WHEN i % 10 = 0 THEN 'queued' WHEN i % 11 = 0 THEN 'scheduled'
    WHEN i % 12 = 0 THEN 'failed' WHEN i % 13 = 0 THEN 'cancelled' ELSE 'succeeded' END AS state
    FROM generate_series(1, :rows) i) AS made
"""


class Meter:
    """What the dashboard's connections take of the server."""

    def __init__(self, engine: Engine) -> None:
        self.seconds = 0.0
        self._servers: dict[int, psutil.Process] = {}
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)

    def _before(self, connection: Connection, *_: Any) -> None:
        driver: Any = connection.connection.driver_connection
        pid = driver.info.backend_pid
        if pid not in self._servers:
            self._servers[pid] = psutil.Process(pid)
        connection.info["began"] = time.perf_counter()

    def _after(self, connection: Connection, *_: Any) -> None:
        self.seconds += time.perf_counter() - connection.info["began"]

    def _worked(self) -> float:
        return sum(sum(each.cpu_times()[:2]) for each in self._servers.values())

    def of(self, call: Callable[[], httpx.Response]) -> float:
        """The seconds of a call; if others held the machine up, those in which the server worked for it."""
        worked, self.seconds = self._worked(), 0.0
        assert call().status_code == 200
        return min(self.seconds, self._worked() - worked) if self.seconds > LIMIT else self.seconds


@pytest.fixture(scope="module")
def meter(lab_database: Database) -> Meter:
    lab_database.execute(FILL, rows=ROWS)
    lab_database.execute("VACUUM ANALYZE sqla_jobs")
    return Meter(lab_database.engine)


@pytest.fixture(scope="module")
def browser(lab_database: Database, meter: Meter) -> Iterator[Browser]:
    patient = dt.timedelta(minutes=1)
    made = dashboard(Recorder().jobs, lab_database.engine, authorize=lambda _: True, timeout=patient)
    with served(made) as browser:
        browser.get("/")  # with this the connection, the statements and the pages of the indexes are there
        yield browser


@pytest.mark.parametrize(
    "path",
    [
        "/", "/?span=15m", "/?span=7d", "/?span=24h&queue=q3", "/jobs", "/jobs/1", "/queues", "/schedules",
        "/workers", "/jobs?state=succeeded", "/jobs?state=queued", "/jobs?state=scheduled&queue=q2",
        "/jobs?task=task.7", "/jobs?task=none", "/jobs?error=nothing+like+it",
        "/jobs?state=failed&error=broken",
        "/jobs?arg=order_id%3D-1", "/jobs?older_than=50h&queue=q1", "/jobs?queue=none&state=failed",
    ],
)  # fmt: skip
def test_a_page_takes_no_more_than_so_long(browser: Browser, meter: Meter, path: str) -> None:
    assert meter.of(lambda: browser.get(path)) < LIMIT


@pytest.mark.parametrize("where", ["", "state=failed", "task=none", "error=nothing+like+it"])
def test_nor_does_the_question_how_many(browser: Browser, meter: Meter, where: str) -> None:
    token = browser.token()
    asked = {"verb": "cancel", "all": 1, "where": where}
    assert meter.of(lambda: browser.send("/act/confirm", asked, token=token)) < LIMIT
