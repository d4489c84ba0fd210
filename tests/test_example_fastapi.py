"""docs/examples/fastapi: requests by FastAPI's test client, with its lifespan, and so with its worker."""

from __future__ import annotations

import asyncio
import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.support.program import ROOT
from tests.support.server import Database
from tests.support.waiting import until

EXAMPLE = ROOT / "docs" / "examples" / "fastapi"

testclient = pytest.importorskip("fastapi.testclient", reason="needs fastapi, of the extra `test`")
httpx = pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")


@pytest.fixture
def orders(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.setenv("DATABASE_URL", empty_database.url_string)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    yield importlib.import_module("orders")
    del sys.modules["orders"]


def test_an_order_is_shipped(orders: ModuleType, empty_database: Database) -> None:
    with testclient.TestClient(orders.app) as client:
        response = client.post("/orders", json={"item": "tea"})
        assert (response.status_code, response.json()) == (201, {"order": 1, "job": 1})
        until(empty_database, "SELECT state = 'succeeded' FROM sqla_jobs")
        assert client.get("/orders/1").json() == {"item": "tea", "shipped": True}
        assert client.get("/jobs/1").json() == {"state": "succeeded"}
        assert client.get("/orders/2").status_code == 404
        assert client.get("/jobs/2").status_code == 404
        assert empty_database.rows("SELECT task, arguments FROM sqla_jobs") == [("orders.ship", {"order": 1})]
        assert empty_database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 1
    assert empty_database.scalar("SELECT count(*) FROM sqla_jobs_workers") == 0, "the worker has said goodbye"


def test_an_order_that_is_refused_takes_its_job_along(orders: ModuleType, empty_database: Database) -> None:
    with testclient.TestClient(orders.app) as client:
        assert client.post("/orders", json={"item": "tea", "in_stock": False}).status_code == 409
        assert empty_database.scalar("SELECT count(*) FROM orders") == 0
        assert empty_database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_a_commit_that_fails_is_told_to_the_client(orders: ModuleType, empty_database: Database) -> None:
    with testclient.TestClient(orders.app, raise_server_exceptions=False) as client:
        empty_database.execute("ALTER TABLE orders ADD UNIQUE (item) DEFERRABLE INITIALLY DEFERRED")
        codes = [client.post("/orders", json={"item": "tea"}).status_code for _ in range(2)]
        assert codes == [201, 500]
        assert empty_database.scalar("SELECT count(*) FROM sqla_jobs") == 1


def test_shipping_is_paused_and_a_job_cancelled(orders: ModuleType, empty_database: Database) -> None:
    with testclient.TestClient(orders.app) as client:
        assert client.post("/shipping/pause").json() == {"new": True}
        assert client.post("/shipping/pause").json() == {"new": False}
        until(empty_database, "SELECT count(*) = 1 FROM sqla_jobs_queues WHERE paused_at IS NOT NULL")
    # A worker that starts now knows of it from the beginning.
    with testclient.TestClient(importlib.reload(orders).app) as client:
        made = [client.post("/orders", json={"item": "tea"}).json()["job"] for _ in range(2)]
        assert client.delete(f"/jobs/{made[0]}").json() == {"done": "cancelled"}
        assert client.delete("/jobs/99").status_code == 404
        assert client.get(f"/jobs/{made[1]}").json() == {"state": "queued"}
        assert client.post("/shipping/resume").json() == {"new": True}
        until(empty_database, f"SELECT state = 'succeeded' FROM sqla_jobs WHERE id = {made[1]}")
        assert client.get(f"/jobs/{made[0]}").json() == {"state": "cancelled"}


def test_requests_at_once_in_one_loop(orders: ModuleType, empty_database: Database) -> None:
    async def main() -> list[int]:
        transport = httpx.ASGITransport(orders.app)
        async with (
            orders.lifespan(orders.app),
            httpx.AsyncClient(transport=transport, base_url="http://shop") as client,
        ):
            posted = [client.post("/orders", json={"item": f"tea {number}"}) for number in range(20)]
            codes = [response.status_code for response in await asyncio.gather(*posted)]
            done = "SELECT count(*) = 20 FROM orders WHERE shipped"
            await asyncio.to_thread(until, empty_database, done)
        return codes

    assert asyncio.run(main()) == [201] * 20
    assert empty_database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY 1") == [("succeeded", 20)]
