"""The dashboard beside very many jobs: the time that the database takes for each page."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import event

from tests.support.server import Database
from tests.support.web import Browser, served
from tests.support.work import Recorder

pytest.importorskip("starlette", reason="needs the extra `web`")
pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")

from sqla_jobs.web import dashboard

pytestmark = pytest.mark.big

ROWS = int(os.environ.get("SQLA_JOBS_TEST_ROWS", "1000000"))
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


@pytest.fixture(scope="module")
def spent() -> list[float]:
    """The seconds of each statement of the dashboard."""
    return []


@pytest.fixture(scope="module")
def browser(lab_database: Database, spent: list[float]) -> Iterator[Browser]:
    lab_database.execute(FILL, rows=ROWS)
    lab_database.execute("VACUUM ANALYZE sqla_jobs")
    engine = lab_database.engine

    def before(connection: Any, *_: Any) -> None:
        connection.info["began"] = time.perf_counter()

    def after(connection: Any, *_: Any) -> None:
        spent.append(time.perf_counter() - connection.info["began"])

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)
    with served(dashboard(Recorder().jobs, engine, authorize=lambda _: True)) as browser:
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
def test_a_page_takes_no_more_than_so_long(browser: Browser, spent: list[float], path: str) -> None:
    best = 9.9
    for _ in range(3):  # what else the machine does is not the page's
        spent.clear()
        assert browser.get(path).status_code == 200
        best = min(best, sum(spent))
        if best < LIMIT:
            break
    assert best < LIMIT


@pytest.mark.parametrize("where", ["", "state=failed", "task=none", "error=nothing+like+it"])
def test_nor_does_the_question_how_many(browser: Browser, spent: list[float], where: str) -> None:
    best = 9.9
    for _ in range(3):
        token = browser.token()
        spent.clear()
        asked = {"verb": "cancel", "all": 1, "where": where}
        assert browser.send("/act/confirm", asked, token=token).status_code == 200
        best = min(best, sum(spent))
    assert best < LIMIT
