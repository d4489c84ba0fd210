"""docs/examples/starlette_admin: its pages and actions by a client that keeps cookies, on a real database."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy import create_engine

from sqla_jobs import Jobs
from tests.support.admins import CARD, ORIGIN, SCRIPT, backoffice, enqueue, run
from tests.support.server import Database

testclient = pytest.importorskip("starlette.testclient", reason="needs starlette, of the extra `test`")
contrib = pytest.importorskip(
    "starlette_admin.contrib.sqla", reason="needs starlette-admin, of the extra `test`"
)

STATES = "SELECT state FROM sqla_jobs ORDER BY id"


@pytest.fixture
def module(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    with backoffice("starlette_admin", empty_database, monkeypatch) as module:
        yield module


@pytest.fixture
def client(module: ModuleType) -> Iterator[Any]:
    with testclient.TestClient(module.app, base_url=ORIGIN) as client:
        assert login(client, "open sesame").status_code == 200
        yield client


def token(client: Any) -> str:
    return str(client.cookies["starlette_admin_csrftoken"])


def login(client: Any, password: str) -> Any:
    client.get("/admin/login")
    return client.post(
        "/admin/login", data={"username": "ann", "password": password, "csrftoken": token(client)}
    )


def act(client: Any, name: str, *ids: int, view: str = "job", **params: str) -> Any:
    response = client.post(
        f"/admin/_api/{view}/action",
        params={"name": name, "pks": list(ids), **params},
        headers={"X-CSRFToken": token(client)},
    )
    return client.get(f"/admin/{view}/list").text if response.status_code == 200 else response


def test_nobody_gets_in_without_the_password(module: ModuleType) -> None:
    with testclient.TestClient(module.app, base_url=ORIGIN, follow_redirects=False) as client:
        assert login(client, "sesame").status_code == 400
        for path in ("", "job/list", "job/detail?pk=1", "schedule/list"):
            assert client.get(f"/admin/{path}").status_code in {303, 307}, path
        response = act(client, "cancel", 1)
        assert response.status_code == 303, "to the login"
        cookies = login(client, "open sesame").headers.get_list("set-cookie")
    [cookie] = [each for each in cookies if each.startswith("session=")]
    assert {"samesite=strict", "secure", "httponly"} <= set(cookie.lower().replace(" ", "").split(";"))


def test_jobs_are_listed_filtered_and_searched(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    first, second = enqueue(module, empty_database, CARD, "expired")
    run(module, empty_database, first)
    page = client.get("/admin/job/list").text
    assert page.index(f"pk={second}") < page.index(f"pk={first}"), "the newest first"
    for asked in ({"filter": "state__in=succeeded"}, {"q": "succ"}):
        page = client.get("/admin/job/list", params=asked).text
        assert f"pk={first}" in page, asked
        assert f"pk={second}" not in page, asked


def test_one_job_with_its_attempts_masked_and_escaped(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    [job] = enqueue(module, empty_database, SCRIPT)
    run(module, empty_database, job)
    page = client.get("/admin/job/detail", params={"pk": job}).text
    assert "ValueError: order 0: the card was refused" in page
    assert "[redacted]" in page
    assert "alert(1)" not in page


def test_what_is_not_masked_is_escaped(client: Any, empty_database: Database) -> None:
    empty_database.execute(
        "INSERT INTO sqla_jobs (id, task, arguments, attempts) VALUES (7, :script,"
        " jsonb_build_object('a', :script\\:\\:text),"
        " jsonb_build_array(jsonb_build_object('message', :script\\:\\:text)))",
        script=SCRIPT,
    )
    for path in ("job/list", "job/detail?pk=7"):
        page = client.get(f"/admin/{path}").text
        assert "alert(1)" in page
        assert SCRIPT not in page


def test_an_export_is_masked(client: Any, module: ModuleType, empty_database: Database) -> None:
    ids = enqueue(module, empty_database, CARD)
    for form in ("json", "csv"):
        response = client.post(
            "/admin/_api/job/action",
            params={"name": "export", "pks": ids},
            data={"scope": "selected", "format": form},
            headers={"X-CSRFToken": token(client)},
        )
        assert response.status_code == 200
        assert "[redacted]" in response.text
        assert CARD not in response.text


def test_masked_values_cannot_be_asked_for(client: Any, module: ModuleType, empty_database: Database) -> None:
    enqueue(module, empty_database, CARD)
    assert client.get("/admin/job/list", params={"filter": f"arguments:contains:{CARD}"}).status_code == 400
    assert "pk=1" not in client.get("/admin/job/list", params={"q": CARD}).text


def test_actions_call_the_verbs(client: Any, module: ModuleType, empty_database: Database) -> None:
    ids = enqueue(module, empty_database, *[CARD] * 3)
    assert "2 cancelled" in act(client, "cancel", *ids[:2])
    assert empty_database.rows(STATES) == [("cancelled",), ("cancelled",), ("queued",)]
    assert "1 finished, 1 gone" in act(client, "cancel", ids[0], 99)
    act(client, "retry", ids[0])
    assert empty_database.rows(STATES) == [("queued",), ("cancelled",), ("queued",)]


def test_jobs_are_deleted_but_for_those_that_run(
    client: Any, module: ModuleType, empty_database: Database
) -> None:
    ids = enqueue(module, empty_database, CARD, CARD)
    empty_database.execute("UPDATE sqla_jobs SET state = 'running', started_at = now() WHERE id = 1")
    assert "1 running, 1 deleted" in act(client, "remove", *ids)
    assert empty_database.rows(STATES) == [("running",)]


def test_all_that_a_filter_finds(client: Any, module: ModuleType, empty_database: Database) -> None:
    enqueue(module, empty_database, *[CARD] * 3)
    empty_database.execute("UPDATE sqla_jobs SET queue = 'other' WHERE id = 3")
    act(client, "cancel", all="1", _list_query="filter=queue__eq=payments")
    assert empty_database.rows(STATES) == [("cancelled",), ("cancelled",), ("queued",)]
    empty_database.execute("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 500)")
    response = act(client, "cancel", all="1")
    assert response.status_code == 400
    assert "refine your filter" in json.loads(response.text)["msg"]
    assert act(client, "cancel", *range(501)).status_code == 400


def test_another_job_has_the_unique_key(client: Any, empty_database: Database) -> None:
    columns = "id, task, state, finished_at, unique_key, unique_scope, unique_held"
    empty_database.execute(
        f"INSERT INTO sqla_jobs ({columns}) VALUES"
        " (1, 't', 'failed', now(), 'k', 'active', false), (2, 't', 'queued', NULL, 'k', 'active', true)"
    )
    assert "1 not begun: another job has its unique key" in act(client, "retry", 1)
    assert empty_database.rows(STATES) == [("failed",), ("queued",)]


def test_a_forged_request_does_nothing(client: Any, module: ModuleType, empty_database: Database) -> None:
    ids = enqueue(module, empty_database, CARD)
    for headers in ({}, {"X-CSRFToken": "forged"}):
        response = client.post(
            "/admin/_api/job/action", params={"name": "cancel", "pks": ids}, headers=headers
        )
        assert response.status_code == 403
    response = client.get("/admin/_api/job/action", params={"name": "cancel", "pks": ids})
    assert response.status_code == 405
    assert empty_database.rows(STATES) == [("queued",)]


def test_nothing_is_written_otherwise(client: Any, module: ModuleType, empty_database: Database) -> None:
    [job] = enqueue(module, empty_database, CARD)
    asked = {"headers": {"X-CSRFToken": token(client)}, "data": {"task": "t", "csrftoken": token(client)}}
    for view in ("job", "schedule"):
        assert client.post(f"/admin/{view}/create", **asked).status_code == 403
        assert client.post(f"/admin/{view}/edit", params={"pk": job}, **asked).status_code == 403
        assert client.post(f"/admin/_api/{view}/import", **asked).status_code >= 400
        assert client.post(f"/admin/_api/{view}/inline-edit", params={"pk": job}, **asked).status_code >= 400
        assert act(client, "delete", job, view=view).status_code == 400
        row = client.post(f"/admin/_api/{view}/row-action", params={"pk": job, "name": "delete"}, **asked)
        assert row.status_code == 400
    assert empty_database.rows(STATES) == [("queued",)]
    assert empty_database.scalar("SELECT count(*) FROM sqla_jobs_schedules") == 2


def test_no_more_is_counted_than_can_be_paged_through(client: Any, empty_database: Database) -> None:
    empty_database.execute("INSERT INTO sqla_jobs (task) SELECT 't' FROM generate_series(1, 10100)")
    for asked in ({}, {"filter": "task__eq=t"}, {"q": "t"}):
        page = client.get("/admin/job/list", params=asked).text
        assert re.search(r"of\D*10,?000\b", page), asked


def test_schedules_are_run_and_switched(client: Any, empty_database: Database) -> None:
    assert "shop.remind" in client.get("/admin/schedule/list").text
    [(schedule,)] = empty_database.rows("SELECT id FROM sqla_jobs_schedules WHERE task = 'shop.remind'")
    assert "1 disabled" in act(client, "disable", schedule, view="schedule")
    assert (
        empty_database.scalar("SELECT enabled FROM sqla_jobs_schedules WHERE task = 'shop.remind'") is False
    )
    assert "enqueued as job 1" in act(client, "run", schedule, view="schedule")
    assert empty_database.rows("SELECT task, state FROM sqla_jobs") == [("shop.remind", "queued")]
    assert "1 enabled, 1 gone" in act(client, "enable", schedule, 99, view="schedule")
    assert client.get("/admin/schedule/detail", params={"pk": schedule}).status_code == 200


def test_an_admin_on_an_engine(module: ModuleType, empty_database: Database) -> None:
    """The same views where starlette-admin's Session is no AsyncSession."""
    from starlette.applications import Starlette

    with testclient.TestClient(module.app):  # makes the tables
        ids = enqueue(module, empty_database, CARD)
    app = Starlette()
    engine = create_engine(empty_database.url)
    admin = contrib.Admin(engine, secret_key="s" * 32)
    jobs = Jobs()
    admin.add_view(module.JobView(jobs))
    admin.add_view(module.ScheduleView(jobs))
    admin.mount_to(app)
    with testclient.TestClient(app, base_url=ORIGIN) as client:
        client.get("/admin/job/list")
        assert "1 cancelled" in act(client, "cancel", *ids)
    engine.dispose()
    assert empty_database.rows(STATES) == [("cancelled",)]
