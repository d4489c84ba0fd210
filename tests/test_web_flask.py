"""The dashboard below a path of a Flask application, by a2wsgi, on a real WSGI server."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from sqla_jobs import Jobs
from tests.support.demo_data import fill
from tests.support.server import Database
from tests.support.site import Tree

flask = pytest.importorskip("flask", reason="needs flask, of the extra `test`")
a2wsgi = pytest.importorskip("a2wsgi", reason="needs a2wsgi, of the extra `test`")
httpx = pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")

from werkzeug.middleware.dispatcher import DispatcherMiddleware  # noqa: E402
from werkzeug.serving import make_server  # noqa: E402

from sqla_jobs.web import Access, dashboard  # noqa: E402

jobs = Jobs()


@pytest.fixture
def url(database: Database) -> Iterator[str]:
    """An application that knows its users by Flask's own session, on a port of this machine."""
    app = flask.Flask("shop")
    app.secret_key = "not a secret"

    @app.get("/")
    def home() -> str:
        return "the shop"

    @app.post("/login/<name>")
    def login(name: str) -> str:
        flask.session["user"] = name
        return "welcome"

    def may_enter(request: Any) -> Access | None:
        with app.request_context(request.scope["wsgi_environ"]):
            user = flask.session.get("user")
        return None if user is None else Access(user, write=user == "ann")

    loop = asyncio.new_event_loop()  # else it makes one that nobody ends
    house = dashboard(jobs, database.sessionmaker, authorize=may_enter, live=None)
    mounted = a2wsgi.ASGIMiddleware(house, loop=loop)
    app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/queue": mounted})
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threads = [threading.Thread(target=each) for each in (loop.run_forever, server.serve_forever)]
    for thread in threads:
        thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    loop.call_soon_threadsafe(loop.stop)
    for thread in threads:
        thread.join()
    server.server_close()
    loop.close()


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    with httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_flask_says_who_may_come_in(client: Any, database: Database) -> None:
    fill(database, 50)
    assert client.get("/").text == "the shop"
    assert client.get("/queue/jobs").status_code == 403
    client.post("/login/bob")
    page = client.get("/queue/jobs")
    assert page.status_code == 200
    assert "shop.mail.send_receipt" in page.text
    assert not [each for each in Tree(page.text).tags("button") if each.attributes.get("name") == "verb"]
    answer = client.get("/queue", follow_redirects=True)
    assert (answer.status_code, answer.url.path) == (200, "/queue/")


def test_links_files_and_actions_keep_to_their_path(client: Any, url: str, database: Database) -> None:
    fill(database, 50)
    client.post("/login/ann")
    page = Tree(client.get("/queue/queues").text)
    links = [each.attributes.get("href") or each.attributes.get("src") for each in page.elements]
    for link in filter(None, links):
        if not link.startswith("#"):
            assert link.startswith("/queue/"), link
            assert client.get(link).status_code == 200, link
    form = {"token": page.field("token"), "queue": "mail", "verb": "pause"}
    paused = "SELECT count(*) FROM sqla_jobs_queues WHERE name = 'mail'"
    forged = client.post("/queue/act/queue", data=form, headers={"Origin": "https://evil.example"})
    assert forged.status_code == 403
    assert database.scalar(paused) == 0
    answer = client.post("/queue/act/queue", data=form, headers={"Origin": url})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith("/queue/queues?note=")
    assert database.scalar(paused) == 1
    assert "Queue mail is paused" in client.get(answer.headers["location"]).text
