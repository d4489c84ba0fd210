"""Pages that renew themselves: what is told, what it costs, and how it ends."""

from __future__ import annotations

import datetime as dt
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from tests.support.server import Database
from tests.support.web import Browser, served
from tests.support.work import PATIENCE, Recorder

pytest.importorskip("starlette", reason="needs the extra `web`")
pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")

from sqla_jobs.web import dashboard, live
from sqla_jobs.web.app import Dashboard
from sqla_jobs.web.visit import LIVE

WORKER = (
    "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit) VALUES "
    "('h', 1, 'v', 1, interval '30 s')"
)
INTERVAL = dt.timedelta(milliseconds=200)


@pytest.fixture
def house(database: Database, monkeypatch: pytest.MonkeyPatch) -> Dashboard:
    monkeypatch.setattr(live, "RENEWED", 1000.0)
    return dashboard(Recorder().jobs, database.engine, authorize=lambda _: True, live=INTERVAL)


@pytest.fixture
def browser(house: Dashboard) -> Iterator[Browser]:
    with served(house) as browser:
        yield browser


@contextmanager
def watching(browser: Browser) -> Iterator[Iterator[tuple[str, Any]]]:
    """The events of a stream, which has begun."""

    def events() -> Iterator[tuple[str, Any]]:
        kind = ""
        for line in answer.iter_lines():
            if line.startswith("event: "):
                kind = line.removeprefix("event: ")
            elif line.startswith("data: "):
                yield kind, json.loads(line.removeprefix("data: "))

    with browser.http.stream("GET", "/live") as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        found = events()
        assert next(found) == ("hello", {})
        yield found


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < deadline
        pause.wait(0.02)


def streams(house: Dashboard) -> live.Streams:
    assert house.streams is not None
    return house.streams


@pytest.mark.parametrize(
    ("sql", "part"),
    [
        ("INSERT INTO sqla_jobs (task, state) VALUES ('t', 'queued')", "jobs"),
        ("INSERT INTO sqla_jobs (task, queue, state) VALUES ('t', 'new', 'queued')", "queues"),
        ("UPDATE sqla_jobs SET state = 'failed', finished_at = now()", "jobs"),
        ("INSERT INTO sqla_jobs_queues (name, paused_at) VALUES ('q', now())", "queues"),
        (WORKER, "workers"),
    ],
    ids=["enqueued", "queue", "failed", "paused", "worker"],
)  # fmt: skip
def test_what_changes_is_told(browser: Browser, database: Database, sql: str, part: str) -> None:
    database.execute("INSERT INTO sqla_jobs (task, state) VALUES ('t', 'queued')")
    with watching(browser) as events:
        database.execute(sql)
        kind, changed = next(events)
        assert kind == "changed"
        assert part in changed


def test_many_watchers_are_one_look(database: Database) -> None:
    looks: list[str] = []

    def note(_: Any, __: Any, sql: str, *___: Any) -> None:
        if "set_config" in sql:
            looks.append(sql)

    event.listen(database.engine, "before_cursor_execute", note)
    hourly = dt.timedelta(hours=1)
    with ExitStack() as stack:
        made = dashboard(Recorder().jobs, database.engine, authorize=lambda _: True, live=hourly)
        first = stack.enter_context(served(made))
        for each in [first, *(Browser(first.url) for _ in range(5))]:
            stack.callback(each.http.close)
            stack.enter_context(watching(each))
        assert len(looks) == 1


def test_a_stream_holds_no_connection_and_ends_with_its_reader(
    browser: Browser, house: Dashboard, database: Database
) -> None:
    with watching(browser):
        assert streams(house)._open == 1
        until(lambda: database.engine.pool.checkedout() == 0)  # type: ignore[attr-defined]
    until(lambda: streams(house)._open == 0)


def test_nobody_looks_while_nobody_watches(house: Dashboard, database: Database) -> None:
    looks: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: looks.append(args[2]))
    with served(house) as browser:
        with watching(browser):
            pass
        until(lambda: streams(house)._open == 0)
        looks.clear()
        assert browser.get("/help").status_code == 200
        threading.Event().wait(3 * INTERVAL.total_seconds())
        assert looks == []


def test_a_stream_ends_by_itself_so_that_authorize_is_asked_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "LASTS", 0.5)
    asked: list[str] = []

    def authorize(request: Any) -> bool:
        asked.append(request.url.path)
        return len(asked) == 1

    house = dashboard(Recorder().jobs, database.engine, authorize=authorize, live=INTERVAL)
    with served(house) as browser:
        with watching(browser) as events:
            assert list(events) == []
        assert browser.get("/live").status_code == 403


def test_a_server_that_stops_ends_its_streams(browser: Browser, house: Dashboard) -> None:
    with watching(browser) as events:
        streams(house).stop()
        assert list(events) == []


def test_there_are_so_many_streams_and_no_more(
    browser: Browser, house: Dashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST", 1)
    other = Browser(browser.url)
    with watching(browser):
        assert other.get("/live").status_code == 503
    until(lambda: streams(house)._open == 0)
    with watching(other):
        pass
    other.http.close()


def test_pages_that_do_not_renew_themselves(database: Database) -> None:
    made = dashboard(Recorder().jobs, database.engine, authorize=lambda _: True, live=None)
    with served(made) as browser:
        assert browser.get("/live").status_code == 404
        assert "data-live" not in browser.get("/").text


def test_a_database_that_goes_and_comes_ends_no_stream(browser: Browser, database: Database) -> None:
    with watching(browser) as events:
        database.execute("ALTER TABLE sqla_jobs RENAME TO gone")
        assert next(events) == ("changed", ["away"])
        database.execute("ALTER TABLE gone RENAME TO sqla_jobs")
        changed = next(events)[1]
        assert {"jobs", "queues"} <= set(changed)


def test_who_looks_at_the_same_page_shares_one_read(
    browser: Browser, house: Dashboard, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqla_jobs.web import database as reads

    monkeypatch.setattr(reads, "SHARED", 1000.0)
    count: list[str] = []
    event.listen(database.engine, "before_cursor_execute", lambda *args: count.append(args[2]))
    others = [Browser(browser.url) for _ in range(6)]

    def renew(each: Browser) -> None:
        assert each.get("/queues", headers={LIVE: "1"}).status_code == 200

    renew(browser)
    of_one = len(count)
    assert of_one > 0
    threads = [threading.Thread(target=renew, args=(each,)) for each in others]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert len(count) == of_one
    assert browser.get("/workers", headers={LIVE: "1"}).status_code == 200
    assert len(count) > of_one, "another page"
    database.execute("INSERT INTO sqla_jobs (task, queue, state) VALUES ('t', 'fresh', 'queued')")
    assert "fresh" not in browser.get("/queues", headers={LIVE: "1"}).text
    assert "fresh" in browser.text("/queues"), "who asks for a page gets what there is"
    browser.send("/act/queue", {"verb": "pause", "queue": "fresh"})
    assert "Resume fresh" in browser.get("/queues", headers={LIVE: "1"}).text, "nor is an own action unseen"
    for each in others:
        each.http.close()
