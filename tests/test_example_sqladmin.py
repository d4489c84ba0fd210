"""docs/examples/sqladmin: its pages and actions by a client that keeps cookies, on a real database."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from sqla_jobs import Jobs
from tests.support.admins import CARD, ORIGIN, SCRIPT, backoffice, enqueue, run
from tests.support.server import Database

testclient = pytest.importorskip("starlette.testclient", reason="needs starlette, of the extra `test`")
sqladmin = pytest.importorskip("sqladmin", reason="needs sqladmin, of the extra `test`")

HERE = {"Sec-Fetch-Site": "same-origin"}
STATES = "SELECT state FROM sqla_jobs ORDER BY id"


@pytest.fixture
def module(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with backoffice("sqladmin", empty_database, monkeypatch) as module:
        yield module


@pytest.fixture
def client(module: ModuleType) -> Iterator[Any]:
    with testclient.TestClient(module.app, base_url=ORIGIN) as client:
        client.post("/admin/login", data={"password": "open sesame"})
        yield client


def act(client: Any, name: str, *ids: int, view: str = "job", **headers: str) -> Any:
    pks = ",".join(map(str, ids))
    return client.get(f"/admin/{view}/action/{name}", params={"pks": pks}, headers=headers or HERE)


def test_nobody_gets_in_without_the_password(module: ModuleType) -> None:
    with testclient.TestClient(module.app, base_url=ORIGIN, follow_redirects=False) as client:
        assert client.post("/admin/login", data={"password": "sesame"}).status_code == 400
        for path in ("", "job/list", "job/details/1", "job/action/retry", "schedule/action/run"):
            response = client.get(f"/admin/{path}", headers=HERE, follow_redirects=False)
            assert response.status_code in {302, 307}, path
        cookie = client.post("/admin/login", data={"password": "open sesame"}).headers["set-cookie"]
    assert {"samesite=strict", "secure", "httponly"} <= set(cookie.lower().replace(" ", "").split(";"))


def test_jobs_are_listed_and_filtered(client: Any, module: ModuleType, empty_database: Database) -> None:
    first, second = enqueue(module, empty_database, CARD, "expired")
    run(module, empty_database, first)
    page = client.get("/admin/job/list").text
    assert page.index(f"/details/{second}") < page.index(f"/details/{first}"), "the newest first"
    page = client.get("/admin/job/list", params={"state": "succeeded"}).text
    assert f"/details/{first}" in page
    assert f"/details/{second}" not in page
    page = client.get("/admin/job/list", params={"task_op": "equals", "task": "nobody's"}).text
    assert "/details/" not in page


def test_one_job_with_its_attempts_masked_and_escaped(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    [job] = enqueue(module, empty_database, SCRIPT)
    run(module, empty_database, job)
    page = client.get(f"/admin/job/details/{job}").text
    assert "ValueError: order 0: the card was refused" in page
    assert "Traceback" in page
    assert "[redacted]" in page
    assert SCRIPT not in page
    assert "alert(1)" not in page, "masked, and not only escaped"


def test_what_is_not_masked_is_escaped(client: Any, empty_database: Database) -> None:
    empty_database.execute(
        "INSERT INTO sqla_jobs (id, task, arguments, attempts) VALUES (7, :script,"
        " jsonb_build_object('a', :script\\:\\:text),"
        " jsonb_build_array(jsonb_build_object('message', :script\\:\\:text)))",
        script=SCRIPT,
    )
    for path in ("job/list", "job/details/7"):
        page = client.get(f"/admin/{path}").text
        assert "alert(1)" in page
        assert SCRIPT not in page


def test_actions_call_the_verbs(client: Any, module: ModuleType, empty_database: Database) -> None:
    ids = enqueue(module, empty_database, *[CARD] * 3)
    page = act(client, "cancel", *ids[:2]).text
    assert empty_database.rows(STATES) == [("cancelled",), ("cancelled",), ("queued",)]
    assert "2 cancelled" in page
    assert "1 finished, 1 gone" in act(client, "cancel", ids[0], 99).text
    act(client, "retry", ids[0])
    assert empty_database.rows(STATES) == [("queued",), ("cancelled",), ("queued",)]


def test_jobs_are_deleted_but_for_those_that_run(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    ids = enqueue(module, empty_database, CARD, CARD)
    empty_database.execute("UPDATE sqla_jobs SET state = 'running', started_at = now() WHERE id = 1")
    page = act(client, "remove", *ids).text
    assert "1 running, 1 deleted" in page
    assert empty_database.rows(STATES) == [("running",)]


def test_another_job_has_the_unique_key(client: Any, empty_database: Database) -> None:
    columns = "id, task, state, finished_at, unique_key, unique_scope, unique_held"
    empty_database.execute(
        f"INSERT INTO sqla_jobs ({columns}) VALUES"
        " (1, 't', 'failed', now(), 'k', 'active', false), (2, 't', 'queued', NULL, 'k', 'active', true)"
    )
    assert "1 not begun: another job has its unique key" in act(client, "retry", 1).text
    assert empty_database.rows(STATES) == [("failed",), ("queued",)]


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Referer": "https://evil.example/admin/job/list"},
        {"Referer": "http://shop.example/admin/job/list"},
        {"Accept": "text/html"},
    ],
)
def test_another_sites_link_does_nothing(
    headers: dict[str, str], client: Any, module: ModuleType, empty_database: Database
) -> None:
    [job] = enqueue(module, empty_database, CARD)
    assert act(client, "cancel", job, **headers).status_code == 403
    assert empty_database.rows(STATES) == [("queued",)]


def test_browsers_that_send_only_the_referer(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    [job] = enqueue(module, empty_database, CARD)
    assert act(client, "cancel", job, Referer=f"{ORIGIN}/admin/job/list").status_code == 200
    assert empty_database.rows(STATES) == [("cancelled",)]


def test_nothing_is_written_exported_or_asked_otherwise(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    [job] = enqueue(module, empty_database, CARD)
    for view in ("job", "schedule"):
        assert client.post(f"/admin/{view}/create", data={"task": "t"}).status_code == 403
        assert client.post(f"/admin/{view}/edit/{job}", data={"task": "t"}).status_code == 403
        assert client.delete(f"/admin/{view}/delete", params={"pks": job}).status_code == 403
        assert client.get(f"/admin/{view}/export/json").status_code == 403
    assert client.get("/admin/job/action/cancel", params={"pks": "1 OR 1"}, headers=HERE).status_code == 400
    assert act(client, "cancel", *range(101)).status_code == 400
    assert empty_database.rows(STATES) == [("queued",)]


def test_no_more_is_counted_than_can_be_paged_through(client: Any, empty_database: Database) -> None:
    empty_database.execute("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 10100)")
    page = client.get("/admin/job/list", params={"pageSize": 100, "page": 5000}).text
    assert "10000" in page
    assert "10100" not in page.partition("<tbody>")[0]


def test_schedules_are_run_and_switched(client: Any, empty_database: Database) -> None:
    page = client.get("/admin/schedule/list").text
    assert "every 1:00:00" in page
    ids = dict(empty_database.rows("SELECT name, id FROM sqla_jobs_schedules").__iter__())
    assert "1 disabled" in act(client, "disable", ids["shop.remind"], view="schedule").text
    assert (
        empty_database.scalar("SELECT enabled FROM sqla_jobs_schedules WHERE task = 'shop.remind'") is False
    )
    assert "enqueued as job 1" in act(client, "run", ids["shop.remind"], view="schedule").text
    assert empty_database.rows("SELECT task, state FROM sqla_jobs") == [("shop.remind", "queued")]
    assert "1 enabled, 1 gone" in act(client, "enable", ids["shop.remind"], 99, view="schedule").text
    assert "1 gone" in act(client, "run", 99, view="schedule").text


def test_an_admin_on_an_async_engine(module: ModuleType, empty_database: Database) -> None:
    """Other views of the same classes; sqladmin then gives them an async_sessionmaker."""
    from starlette.applications import Starlette

    with testclient.TestClient(module.app):  # makes the tables
        ids = enqueue(module, empty_database, CARD)
    app = Starlette()
    engine = create_async_engine(empty_database.url)
    admin = sqladmin.Admin(app, engine)
    for view in module.views(Jobs()):
        admin.add_view(view)
    with testclient.TestClient(app, base_url=ORIGIN) as client:
        assert act(client, "cancel", *ids).status_code == 200
        assert client.get(f"/admin/job/details/{ids[0]}").status_code == 200
        client.portal.call(engine.dispose)
    assert empty_database.rows(STATES) == [("cancelled",)]
