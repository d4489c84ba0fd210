"""Nobody gets into the dashboard who should not, nothing is done unasked, and no text of others is run.

A real server in a thread, real PostgreSQL; what a client would mend or refuse to send goes by a raw socket.
"""

# ruff: noqa: E501 -- statements, and scripts for the browser
from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

import pytest

from sqla_jobs import Jobs
from tests.support.server import Database
from tests.support.site import Site, Tree, served, status

httpx = pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")
starlette = pytest.importorskip("starlette.applications", reason="needs starlette, of the extra `web`")
pytest.importorskip("uvicorn", reason="needs uvicorn, of the extra `web`")

from starlette.applications import Starlette  # noqa: E402
from starlette.routing import Mount  # noqa: E402

from sqla_jobs.web import Access, Dashboard, dashboard  # noqa: E402
from sqla_jobs.web.login import Door  # noqa: E402
from sqla_jobs.web.password import Password, hash_password  # noqa: E402

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "BREW")
PASSWORD = "correct horse battery"
MARK = "zyxMARKxyz"
"""What the texts of strangers hold, so that they are found wherever they are shown."""
EVIL = (
    f"</title></script></pre></textarea><script>{MARK}()</script>"
    f"<img src=x onerror={MARK}()>\"><svg onload='{MARK}()'>' onmouseover='{MARK}()' {{{{7*7}}}}"
)

jobs = Jobs()


@jobs.task(name="known", queue="known")
def known(_: Any) -> None: ...


def authorize(request: Any) -> Any:
    """By a header, for the test alone: Ann may act, Bob may look, nobody else may come in."""
    who = request.headers.get("x-user")
    return {"ann": Access("ann", write=True), "bob": Access("bob"), "eve": Access("eve", write=True)}.get(who)


@dataclass(frozen=True)
class Served:
    """One dashboard that is mounted, one that is read-only, and one that stands alone, on one server."""

    site: Site
    house: Dashboard
    database: Database

    def client(self, user: str | None = "ann", **headers: str) -> Any:
        sent = {"x-user": user} if user else {}
        return httpx.Client(base_url=self.site.url, headers={**sent, **headers}, timeout=30)


@pytest.fixture(scope="module")
def data(lab_database: Database) -> Database:
    """Rows whose every text is a stranger's, where the table lets them in."""
    lab_database.execute("ALTER TABLE sqla_jobs DROP CONSTRAINT ck_sqla_jobs_queue")
    lab_database.execute("ALTER TABLE sqla_jobs_queues DROP CONSTRAINT ck_sqla_jobs_queues_name")
    lab_database.execute(
        "INSERT INTO sqla_jobs_workers (id, host, pid, version, queues, threads, heartbeat_limit, tasks, running)"
        " VALUES (1, :evil, 7, :evil, jsonb_build_array(:evil\\:\\:text), 1, '1 day', jsonb_build_array(:evil\\:\\:text),"
        " jsonb_build_array(jsonb_build_object('id', 3, 'claim', 1, 'task', :evil\\:\\:text, 'since', now(), 'progress',"
        " jsonb_build_object('done', 1, 'total', 3, 'note', :evil\\:\\:text, 'attempt', 1))))",
        evil=EVIL,
    )
    lab_database.execute(
        "INSERT INTO sqla_jobs_schedules (id, name, task, cron, timezone, next_run_at) VALUES"
        " (1, :evil, :evil, :evil, :evil, now() + interval '1 h'), (2, 'fine', 'known', '0 0 * * * *', 'UTC', NULL)",
        evil=EVIL,
    )
    for number, state in enumerate(("scheduled", "queued", "running", "succeeded", "failed", "cancelled"), 1):
        lab_database.execute(
            "INSERT INTO sqla_jobs (id, task, arguments, queue, state, attempt, claim, worker_id, started_at, finished_at,"
            " attempts, progress, result, unique_key, unique_scope, limit_key, schedule_id, tick_at)"
            " VALUES (:id, :evil, jsonb_build_object(:evil\\:\\:text, :evil\\:\\:text), :evil, :state, 1, 1,"
            " CASE WHEN :state = 'running' THEN 1 END,"
            " CASE WHEN :state NOT IN ('scheduled', 'queued') THEN now() END,"
            " CASE WHEN :state IN ('succeeded', 'failed', 'cancelled') THEN now() END,"
            " jsonb_build_array(jsonb_build_object('attempt', 1, 'started_at', :evil\\:\\:text, 'finished_at', :evil\\:\\:text,"
            " 'worker_id', :evil\\:\\:text, 'error', :evil\\:\\:text, 'message', :evil\\:\\:text, 'traceback', :evil\\:\\:text)),"
            " jsonb_build_object('done', 1, 'total', 3, 'note', :evil\\:\\:text),"
            " jsonb_build_object('a', :evil\\:\\:text), :evil, 'active', :evil, 1, now() + :id * interval '1 s')",
            id=number, state=state, evil=EVIL,
        )  # fmt: skip
    lab_database.execute("INSERT INTO sqla_jobs (id, task, queue, state) SELECT n, 'known', 'known', 'queued'"
                         " FROM generate_series(100, 220) AS n")  # fmt: skip
    lab_database.execute("SELECT setval(pg_get_serial_sequence('sqla_jobs', 'id'), 1000)")
    lab_database.execute("INSERT INTO sqla_jobs_queues (name, paused_at) VALUES (:evil, now())", evil=EVIL)
    return lab_database


@pytest.fixture(scope="module")
def served_all(data: Database) -> Iterator[Served]:
    house = dashboard(jobs, data.sessionmaker, authorize=authorize, live=None, title="Ops")
    closed = dashboard(jobs, data.sessionmaker, authorize=authorize, live=None, read_only=True)
    door = Door("ann", Password(hash_password(PASSWORD)))
    alone = Dashboard(jobs, data.sessionmaker, door=door, live=None, hosts=["127.0.0.1", "localhost"])
    routes = [Mount("/ops", house), Mount("/closed", closed), Mount("/", alone)]
    with served(Starlette(routes=routes)) as site:
        yield Served(site, house, data)


def addresses(house: Dashboard) -> list[str]:
    """One address of each route that a dashboard has: a new one cannot be forgotten."""
    values = {
        "{id}": "1",
        "{version}": house.static.version,
        "{name:path}": "dashboard.css",
        "{path:path}": "x/y",
    }
    found = []
    for route in house._router().routes:
        path = route.path  # type: ignore[attr-defined]
        for part, value in values.items():
            path = path.replace(part, value)
        assert "{" not in path, f"the test does not know what to put into {path}"
        found.append(path)
    assert len(found) > 10
    return found


def contents(database: Database) -> list[Any]:
    """All that an action could change."""
    return [
        database.rows("SELECT id, state, attempt, cancel_requested_at FROM sqla_jobs ORDER BY id"),
        database.rows("SELECT name, paused_at FROM sqla_jobs_queues ORDER BY name"),
        database.rows("SELECT id, enabled, next_run_at FROM sqla_jobs_schedules ORDER BY id"),
    ]


@pytest.fixture
def untouched(data: Database) -> Iterator[None]:
    """Nothing may be done by the test."""
    before = contents(data)
    yield
    assert contents(data) == before


ACTIONS: dict[str, dict[str, str]] = {
    "/act/confirm": {"verb": "retry", "id": "100"},
    "/act/jobs": {"verb": "cancel", "id": "100"},
    "/act/queue": {"verb": "pause", "queue": "known"},
    "/act/schedule": {"verb": "run", "schedule": "fine"},
}


def token_of(client: Any, base: str = "/ops") -> str:
    return Tree(client.get(f"{base}/jobs").text).field("token")


def own(served_all: Served) -> dict[str, str]:
    """What a browser says of a form of our own page."""
    return {"Origin": served_all.site.url, "Sec-Fetch-Site": "same-origin"}


# -- who may come in -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
def test_a_stranger_gets_nothing_at_any_address_by_any_method(served_all: Served) -> None:
    with served_all.client(user=None) as client:
        for path in addresses(served_all.house):
            for method in METHODS:
                response = client.request(
                    method, f"/ops{path}", data=ACTIONS.get(path) if method == "POST" else None
                )
                if path.startswith("/static/"):
                    assert response.status_code == (200 if method in ("GET", "HEAD") else 405), (method, path)
                    continue
                assert response.status_code == 403, (method, path)
                assert MARK not in response.text
                assert "known" not in response.text, "neither a task nor a queue"
                assert "set-cookie" not in response.headers


@pytest.mark.usefixtures("untouched")
def test_a_stranger_of_the_one_that_stands_alone_gets_to_the_login(served_all: Served) -> None:
    with served_all.client(user=None) as client:
        for path in addresses(served_all.house):
            for method in METHODS:
                if path.startswith("/static/"):
                    continue
                response = client.request(method, path, headers=own(served_all))
                assert response.status_code == 303, (method, path)
                assert response.headers["location"] == "/login", "and to nowhere else"
                assert MARK not in response.text


@pytest.mark.parametrize("answer", ["admin", 1, {}, ["write"], "WRITE"], ids=str)
def test_an_answer_of_authorize_that_means_nothing_lets_nobody_in(answer: Any, data: Database) -> None:
    house = dashboard(jobs, data.sessionmaker, authorize=lambda request: answer, live=None)
    with served(house) as site:
        assert httpx.get(f"{site.url}/jobs").status_code in {403, 500}


def test_an_authorize_that_raises_lets_nobody_in_and_tells_nothing(data: Database) -> None:
    def broken(request: Any) -> bool:
        raise RuntimeError("the secret of the house")

    with served(dashboard(jobs, data.sessionmaker, authorize=broken, live=None)) as site:
        response = httpx.get(f"{site.url}/jobs")
    assert response.status_code in {403, 500}
    assert "secret" not in response.text
    assert "Traceback" not in response.text


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(("base", "user"), [("/ops", "bob"), ("/closed", "ann"), ("/closed", "bob")])
def test_who_may_only_look_can_do_nothing(base: str, user: str, served_all: Served) -> None:
    known_actions = {path for path in addresses(served_all.house) if path.startswith("/act/")}
    assert known_actions == set(ACTIONS), "each action has its fields here"
    with served_all.client(user) as client:
        page = client.get(f"{base}/jobs")
        assert page.status_code == 200
        assert "/act/" not in "".join(
            each.attributes.get("formaction", "") for each in Tree(page.text).elements
        )
        for path in ("jobs", "jobs/100", "jobs/5", "queues", "schedules"):
            told = client.get(f"{base}/{path}").text
            buttons = [
                each
                for each in Tree(told).tags("button")
                if each.attributes.get("value") in ("retry", "delete")
            ]
            assert not buttons
        token = token_of(client, base) if 'name="token"' in page.text else signed(served_all, client, user)
        for path, fields in ACTIONS.items():
            answer = client.post(f"{base}{path}", data={**fields, "token": token}, headers=own(served_all))
            assert answer.status_code == 403, path


def signed(served_all: Served, client: Any, user: str) -> str:
    return served_all.house.signer.token(client.cookies["sqla_jobs_dashboard"], user)


# -- forged requests -------------------------------------------------------------------------------------


def test_with_all_right_it_is_done(served_all: Served) -> None:
    """What makes all the refusals below mean something."""
    database = served_all.database
    with served_all.client() as client:
        token = token_of(client)
        done = {
            "/act/confirm": (200, "SELECT true"),
            "/act/jobs": (303, "SELECT state = 'cancelled' FROM sqla_jobs WHERE id = 110"),
            "/act/queue": (303, "SELECT paused_at IS NOT NULL FROM sqla_jobs_queues WHERE name = 'known'"),
            "/act/schedule": (303, "SELECT count(*) = 1 FROM sqla_jobs WHERE schedule_id = 2"),
        }
        for path, fields in ACTIONS.items():
            sent = {**fields, "token": token} | ({"id": "110"} if "id" in fields else {})
            answer = client.post(f"/ops{path}", data=sent, headers=own(served_all))
            assert answer.status_code == done[path][0], (path, answer.text)
            assert database.scalar(done[path][1]), path


FORGED = {
    "another origin": {"Origin": "https://evil.example"},
    "another port": {"Origin": "http://127.0.0.1:1"},
    "a page in a sandbox": {"Origin": "null"},
    "our origin as a prefix": {"Origin": "{own}.evil.example"},
    "our origin as a user": {"Origin": "http://{host}@evil.example"},
    "another site": {"Sec-Fetch-Site": "cross-site"},
    "a sibling": {"Sec-Fetch-Site": "same-site"},
    "by hand": {"Sec-Fetch-Site": "none"},
    "our origin from another site": {"Origin": "{own}", "Sec-Fetch-Site": "cross-site"},
    "another origin from our site": {"Origin": "https://evil.example", "Sec-Fetch-Site": "same-origin"},
    "neither is said": {},
    "only a referer": {"Referer": "{own}/ops/jobs"},
}


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", FORGED)
def test_a_form_from_elsewhere_does_nothing(case: str, served_all: Served) -> None:
    site = served_all.site
    headers = {
        name: value.format(own=site.url, host=f"127.0.0.1:{site.port}")
        for name, value in FORGED[case].items()
    }
    with served_all.client() as client:
        token = token_of(client)
        for path, fields in ACTIONS.items():
            answer = client.post(f"/ops{path}", data={**fields, "token": token}, headers=headers)
            assert answer.status_code == 403, (path, case)


@pytest.mark.usefixtures("untouched")
def test_two_origins_do_nothing(served_all: Served) -> None:
    with served_all.client() as client:
        token, cookie = token_of(client), client.cookies["sqla_jobs_dashboard"]
        body = urlencode({**ACTIONS["/act/queue"], "token": token})
        lines = [
            "POST /ops/act/queue HTTP/1.1", f"Host: 127.0.0.1:{served_all.site.port}", "x-user: ann",
            f"Cookie: sqla_jobs_dashboard={cookie}", f"Origin: {served_all.site.url}", "Origin: https://evil.example",
            "Content-Type: application/x-www-form-urlencoded", f"Content-Length: {len(body)}", "Connection: close",
        ]  # fmt: skip
        answer = served_all.site.raw("\r\n".join([*lines, "", body]).encode())
        assert status(answer) == 403


@pytest.mark.usefixtures("untouched")
def test_a_token_that_is_missing_forged_or_anothers_does_nothing(served_all: Served) -> None:
    with served_all.client() as ann, served_all.client("eve") as eve, served_all.client() as other:
        token, eves, others = token_of(ann), token_of(eve), token_of(other)
        assert len({token, eves, others}) == 3
        forged: list[list[tuple[str, str]]] = [
            [],
            [("token", "")],
            [("token", "0" * len(token))],
            [("token", token[:-1] + ("0" if token[-1] != "0" else "1"))],
            [("token", token.upper())],
            [("token", eves)],
            [("token", others)],
            [("token", token), ("token", token)],
            [("token", token), ("token", "0")],
            [("Token", token)],
            [("token", "ünïcode 🐘")],
            [("token", "\udcff".encode("utf-8", "surrogatepass").decode("latin-1"))],
        ]
        for path, fields in ACTIONS.items():
            for tokens in forged:
                body = urlencode([*fields.items(), *tokens])
                headers = {**own(served_all), "Content-Type": "application/x-www-form-urlencoded"}
                answer = ann.post(f"/ops{path}", content=body, headers=headers)
                assert answer.status_code == 403, (path, tokens)
            answer = ann.post(f"/ops{path}?token={token}", data=fields, headers=own(served_all))
            assert answer.status_code == 403, "a token in the address is none"


@pytest.mark.usefixtures("untouched")
def test_a_token_without_its_cookie_does_nothing(served_all: Served) -> None:
    with served_all.client() as client:
        token = token_of(client)
        for cookie in (None, "", "x", "a" * 32, f"{client.cookies['sqla_jobs_dashboard']}x"):
            headers = {
                **own(served_all),
                "x-user": "ann",
                **({} if cookie is None else {"Cookie": f"sqla_jobs_dashboard={cookie}"}),
            }
            for path, fields in ACTIONS.items():
                sent = {**fields, "token": token}
                answer = httpx.post(f"{served_all.site.url}/ops{path}", data=sent, headers=headers)
                assert answer.status_code == 403, (path, cookie)


@pytest.mark.usefixtures("untouched")
def test_only_forms_are_taken(served_all: Served) -> None:
    with served_all.client() as client:
        token = token_of(client)
        for path, fields in ACTIONS.items():
            sent = {**fields, "token": token}
            headers = own(served_all)
            for kind in ("text/plain", "application/json", "multipart/form-data; boundary=x", ""):
                answer = client.post(
                    f"/ops{path}", content=urlencode(sent), headers={**headers, "Content-Type": kind}
                )
                assert answer.status_code == 415, (path, kind)
            assert client.post(f"/ops{path}", json=sent, headers=headers).status_code == 415
            assert (
                client.post(f"/ops{path}", files={"token": token.encode()}, headers=headers).status_code
                == 415
            )


@pytest.mark.usefixtures("untouched")
def test_the_method_says_what_it_is_whatever_else_is_said(served_all: Served) -> None:
    with served_all.client() as client:
        token = token_of(client)
        for path in addresses(served_all.house):
            right = "POST" if path in ACTIONS else "GET"
            for method in METHODS:
                if method in (right, "HEAD" if right == "GET" else right):
                    continue
                fields = {**ACTIONS.get(path, {}), "token": token}
                over = {"X-HTTP-Method-Override": right, "X-Method-Override": right, "X-HTTP-Method": right}
                url = f"/ops{path}?{urlencode({**fields, '_method': right})}"
                answer = client.request(method, url, headers={**own(served_all), **over})
                assert answer.status_code == 405 or (answer.status_code == 404 and path == "/x/y"), (
                    method,
                    path,
                )
            if right == "GET":
                head, get = client.head(f"/ops{path}"), client.get(f"/ops{path}")
                assert (head.status_code, head.content) == (get.status_code, b""), path
        hidden = {**ACTIONS["/act/queue"], "token": token, "_method": "POST"}
        assert client.get("/ops/act/queue", params=hidden, headers=own(served_all)).status_code == 405


# -- what strangers write is only shown ------------------------------------------------------------------

SHOWN = (
    *("/", "/jobs", "/jobs/1", "/jobs/2", "/jobs/3", "/jobs/4", "/jobs/5", "/jobs/6", "/queues"),
    *("/schedules", "/workers", "/help"),
    *(
        f"/jobs?state={state}"
        for state in ("scheduled", "queued", "running", "succeeded", "failed", "cancelled")
    ),
    *(f"/jobs?{name}={quote(EVIL)}" for name in ("task", "error", "schedule")),
    *(
        f"/jobs?{name}={quote(EVIL)}"
        for name in ("queue", "state", "worker", "older_than", "newer_than", "cursor")
    ),
    *(f"/jobs?arg={quote(each)}" for each in (EVIL, f"{EVIL}=1", f"a={EVIL}", f'a="{EVIL}"')),
    *(f"/?span={quote(EVIL)}", f"/?queue={quote(EVIL)}", f"/?note={quote(EVIL)}"),
    *(f"/{quote(EVIL)}", f"/jobs/{quote(EVIL)}", f"/static/{quote(EVIL)}/{quote(EVIL)}"),
    f"/jobs?{quote(EVIL)}=1",
)
HARMLESS = frozenset(
    [
        "html",
        "head",
        "meta",
        "title",
        "link",
        "script",
        "body",
        "a",
        "header",
        "nav",
        "div",
        "span",
        "form",
        "input",
        "button",
        "main",
        "p",
        "h1",
        "h2",
        "h3",
        "ul",
        "ol",
        "li",
        "strong",
        "section",
        "figure",
        "figcaption",
        "svg",
        "line",
        "text",
        "g",
        "rect",
        "path",
        "circle",
        "details",
        "summary",
        "table",
        "thead",
        "tbody",
        "tr",
        "th",
        "td",
        "time",
        "small",
        "progress",
        "label",
        "datalist",
        "option",
        "dl",
        "dt",
        "dd",
        "pre",
        "code",
        "kbd",
        "fieldset",
        "legend",
        "noscript",
    ]
)
"""Neither ``img`` nor ``iframe``, ``style``, ``object``, ``base`` and the like: our pages have none of them."""


def check_page(page: str) -> None:
    tree = Tree(page)
    for each in tree.elements:
        assert each.tag in HARMLESS, each
        for name, value in each.attributes.items():
            assert not name.startswith("on"), each
            assert name != "style", each
            if name in ("href", "src", "action", "formaction", "xlink:href", "data"):
                assert value.startswith(("/", "#")), each
                assert not value.startswith("//"), each
    for script in tree.tags("script"):
        assert script.attributes.get("src", "").startswith("/"), script
        assert not "".join(script.text).strip(), "no script within a page"
    assert MARK not in re.sub(r'="[^"]*"|>[^<]*<', "", page), "only within attributes and texts"
    assert "49" not in [each.strip() for each in tree.text.split("{{")], "no template of theirs is rendered"


@pytest.mark.parametrize("path", SHOWN, ids=lambda path: path[:40].replace(MARK, "")[:24])
def test_what_strangers_write_is_shown_and_not_run(path: str, served_all: Served) -> None:
    with served_all.client() as client:
        answer = client.get(f"/ops{path}")
    assert answer.status_code in {200, 400, 404}, answer.text
    assert answer.headers["content-type"].startswith("text/html")
    check_page(answer.text)
    if "?" not in path and path.startswith("/jobs/") and path[-1].isdigit():
        assert html.escape(f"<script>{MARK}()</script>", quote=False) in answer.text, "it is shown"
        assert "{{7*7}}" in html.unescape(answer.text)


def test_what_strangers_write_in_the_page_that_asks_and_in_the_one_that_tells(served_all: Served) -> None:
    with served_all.client() as client:
        token = token_of(client)
        where = urlencode({"task": EVIL})
        asked = client.post(
            "/ops/act/confirm",
            data={"verb": "retry", "all": "1", "where": where, "token": token},
            headers=own(served_all),
        )
        assert asked.status_code == 200, asked.text
        check_page(asked.text)
        assert MARK in asked.text
        told = client.post(
            "/ops/act/schedule",
            data={"verb": "disable", "schedule": EVIL, "token": token},
            headers=own(served_all),
        )
        assert told.status_code == 303
        check_page(client.get(told.headers["location"]).text)
        wrong = client.post(
            "/ops/act/queue", data={"verb": EVIL, "queue": EVIL, "token": token}, headers=own(served_all)
        )
        assert wrong.status_code == 400
        check_page(wrong.text)


def test_a_title_and_a_base_with_markup(data: Database) -> None:
    house = dashboard(jobs, data.sessionmaker, authorize=authorize, live=None, title=EVIL)
    with served(Starlette(routes=[Mount("/a%22%3E<b>", house), Mount("/", house)])) as site:
        for path in ("/", "/nowhere", "/a%22%3E%3Cb%3E/jobs"):
            check_page(httpx.get(f"{site.url}{path}", headers={"x-user": "ann"}).text)


def test_the_stream_says_nothing_of_the_rows(data: Database) -> None:
    import datetime as dt

    house = dashboard(jobs, data.sessionmaker, authorize=authorize, live=dt.timedelta(milliseconds=200))
    with (
        served(house) as site,
        httpx.stream("GET", f"{site.url}/live", headers={"x-user": "bob"}, timeout=30) as answer,
    ):
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = answer.iter_lines()
        seen = [next(lines) for _ in range(3)]
        data.execute("INSERT INTO sqla_jobs (id, task) VALUES (5000, :evil)", evil=EVIL)
        while not seen[-1].startswith("event: changed"):
            seen.append(next(lines))
        seen.append(next(lines))
        house.streams.stop()
    data.execute("DELETE FROM sqla_jobs WHERE id = 5000")
    assert set(json.loads(seen[-1].removeprefix("data: "))) <= {
        "jobs",
        "queues",
        "workers",
        "running",
        "schedules",
    }
    assert MARK not in "".join(seen)


# -- files, sizes, values --------------------------------------------------------------------------------

TRAVERSALS = (
    "../app.py", "..%2fapp.py", "%2e%2e/app.py", "%2e%2e%2fapp.py", "..%5capp.py", "..\\app.py", "....//app.py",
    "..;/app.py", "%252e%252e%252fapp.py", "/etc/passwd", "//etc/passwd", "%2fetc%2fpasswd", "../../../../../etc/passwd",
    "dashboard.css%00.py", "dashboard.css/../../app.py", "./dashboard.css", "dashboard.css/", "DASHBOARD.CSS", "",
    ".", "..", "%c0%ae%c0%ae/app.py", "file:///etc/passwd", "\x80\xff",
)  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS, ids=ascii)
def test_no_path_leads_out_of_the_static_files(name: str, served_all: Served) -> None:
    version = served_all.house.static.version
    for folder in (version, "..", "%2e%2e", "x"):
        answer = served_all.site.get(f"/ops/static/{folder}/{name}", "x-user: ann")
        assert status(answer) in {400, 404, 403, 405}, answer[:200]
        assert b"import " not in answer
        assert b"root:" not in answer


def test_the_static_files_are_there(served_all: Served) -> None:
    for name, kind in (
        ("dashboard.css", "text/css"),
        ("dashboard.js", "text/javascript"),
        ("icon.svg", "image/svg"),
    ):
        answer = httpx.get(f"{served_all.site.url}/ops/static/{served_all.house.static.version}/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert "immutable" in answer.headers["cache-control"]


@pytest.mark.usefixtures("untouched")
def test_too_much_is_refused_and_the_next_is_served(served_all: Served) -> None:
    site = served_all.site
    with served_all.client() as client:
        token = token_of(client)
        assert client.get("/ops/jobs", params={"task": "x" * 9000}).status_code == 414
        assert client.get(f"/ops/jobs/{'1' * 2000}").status_code in {404, 414}
        assert client.get("/ops/jobs?" + "&".join(f"arg=a{n}=1" for n in range(900))).status_code in {
            400,
            414,
        }
        sent = urlencode({**ACTIONS["/act/queue"], "token": token, "x": "y" * 300_000})
        headers = {**own(served_all), "Content-Type": "application/x-www-form-urlencoded"}
        assert client.post("/ops/act/queue", content=sent, headers=headers).status_code == 413
        many = urlencode(
            [*ACTIONS["/act/jobs"].items(), ("token", token), *[("id", str(n)) for n in range(100, 600)]]
        )
        assert client.post("/ops/act/jobs", content=many, headers=headers).status_code == 400
        ids = urlencode([("verb", "cancel"), ("token", token), *[("id", str(n)) for n in range(100, 320)]])
        assert client.post("/ops/act/jobs", content=ids, headers=headers).status_code == 400
        answer = site.get("/ops/jobs", "x-user: ann", f"x-much: {'x' * 200_000}")
        assert not answer or status(answer) in {400, 431}
        answer = site.get(
            "/ops/jobs",
            "x-user: ann",
            "Cookie: " + "; ".join(f"sqla_jobs_dashboard={n}" for n in range(2000)),
        )
        assert not answer or status(answer) < 500
        assert client.get("/ops/jobs").status_code == 200


NASTY = (
    "'", '"', "\\", "%", "_", "'; DROP TABLE sqla_jobs; --", "' OR '1'='1", "$1", "%(id)s", ":id", "{}", "[]", "null",
    "NaN", "1e999", "-1", "0", "9" * 30, "\u202e", "\ud7ff", "é" * 500, "a.b.c.d", "a\nb", "\t", "$.**", "a=[1", 'a={"b":',
    "a=" + "[" * 900, "1 d", "9999999999d", "-5m", "0s",
)  # fmt: skip


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("field", ["state", "task", "queue", "worker", "schedule", "arg", "error", "older_than", "newer_than",
                                   "cursor", "span", "note"])  # fmt: skip
def test_a_value_that_cannot_be_gets_a_message(field: str, served_all: Served) -> None:
    with served_all.client() as client:
        path = "/ops/" if field == "span" else "/ops/jobs"
        for value in NASTY:
            answer = client.get(path, params={field: value})
            assert answer.status_code in {200, 400}, (field, value, answer.text)
            assert not re.search("Traceback|psycopg|SELECT", answer.text), (field, value)
        assert client.get(f"{path}?{field}=%00").status_code == 400
        assert client.get(f"{path}?{field}=%ff%fe").status_code == 400


def test_a_cursor_that_was_tampered_with_gets_a_message(served_all: Served) -> None:
    with served_all.client() as client:
        page = client.get("/ops/jobs", params={"queue": "known"})
        [href] = [
            each.attributes["href"]
            for each in Tree(page.text).tags("a")
            if each.attributes.get("rel") == "next"
        ]
        cursor = httpx.URL(href).params["cursor"]
        assert client.get(href).status_code == 200
        tampered = [cursor[:-1], cursor + "A", cursor[::-1], "", "AAAA", "=" * 40, "é", cursor.swapcase()]
        tampered += [
            cursor[:place] + ("A" if cursor[place] != "A" else "B") + cursor[place + 1 :]
            for place in range(len(cursor))
        ]
        tampered += [
            base64.urlsafe_b64encode(each).decode()
            for each in (b"[]", b"{}", b"null", b"[1e999]", b"\xff", b"[" * 900)
        ]
        for each in tampered:
            answer = client.get("/ops/jobs", params={"queue": "known", "cursor": each})
            assert answer.status_code in {200, 400}, (each, answer.text)
            assert "Traceback" not in answer.text
        for state in ("scheduled", "failed", "running", "queued"):
            answer = client.get("/ops/jobs", params={"state": state, "cursor": cursor})
            assert answer.status_code in {200, 400}


# -- hosts, headers, cookies -----------------------------------------------------------------------------


@pytest.mark.usefixtures("untouched")
def test_a_name_that_leads_here_is_not_ours(served_all: Served) -> None:
    """DNS rebinding: for the browser the stranger's page and ours are of one origin then."""
    site = served_all.site
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1.evil.example", "localhost.evil.example",
                 "127.0.0.1@evil.example", "evil.example#127.0.0.1", "[::1]:80", "0.0.0.0", "2130706433", "", " "):  # fmt: skip
        for path in [*addresses(served_all.house), "/login"]:
            answer = site.get(path, host=host)
            assert status(answer) in {400, 421}, (host, path)
            assert b"token" not in answer
        answer = site.get("/login", f"Origin: http://{host}", "Content-Length: 0", method="POST", host=host)
        assert status(answer) in {400, 421}
    for host in ("127.0.0.1", f"127.0.0.1:{site.port}", "LOCALHOST", "localhost:1", "localhost."):
        assert status(site.get("/login", host=host)) == 200, host
    for name in ("X-Forwarded-Host", "X-Host", "Forwarded"):
        assert status(site.get("/login", f"{name}: evil.example")) == 200
        assert b"evil.example" not in site.get("/login", f"{name}: evil.example")
    assert status(site.get("http://evil.example/login", host="evil.example")) in {400, 421, 404}
    assert status(
        site.raw(b"GET /login HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
    ) in {400, 421}


def test_every_answer_has_its_headers(served_all: Served) -> None:
    client = served_all.client(user=None)
    version = served_all.house.static.version
    asked = [
        (method, path)
        for path in addresses(served_all.house)
        for method in ("GET", "HEAD", "POST", "OPTIONS")
    ]
    asked += [
        ("GET", f"/static/{version}/nothing"),
        ("GET", "/jobs/999"),
        ("GET", "/jobs?state=x"),
        ("GET", f"/jobs?{'x' * 9000}"),
    ]
    for base, user in (("/ops", "ann"), ("/ops", "nobody"), ("", "ann")):
        for method, path in [
            *asked,
            *([] if base else [("GET", "/login"), ("POST", "/login"), ("POST", "/logout")]),
        ]:
            answer = client.request(method, f"{base}{path}", headers={"x-user": user})
            headers = answer.headers
            policy = dict(
                each.strip().split(" ", 1) for each in headers["content-security-policy"].split(";")
            )
            assert policy["default-src"] == "'none'", (method, path)
            assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
            assert (policy["frame-ancestors"], policy["base-uri"], policy["form-action"]) == (
                "'none'",
                "'none'",
                "'self'",
            )
            assert "unsafe" not in headers["content-security-policy"]
            assert headers["x-content-type-options"] == "nosniff"
            assert headers["x-frame-options"] == "DENY"
            assert headers["referrer-policy"] == "same-origin"
            assert "access-control-allow-origin" not in headers
            found = answer.status_code == 200 and path.startswith("/static/")
            assert (
                ("immutable" in headers["cache-control"])
                if found
                else (headers["cache-control"] == "no-store")
            ), path
            assert len(headers.get_list("content-security-policy")) == 1
    client.close()


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_cookies_are_for_our_pages_alone(scheme: str, served_all: Served) -> None:
    with served(served_all.house, proxy_headers=True, forwarded_allow_ips="127.0.0.1") as site:
        answer = httpx.get(f"{site.url}/jobs", headers={"x-user": "ann", "x-forwarded-proto": scheme})
        [cookie] = answer.headers.get_list("set-cookie")
        flags = [each.strip().lower() for each in cookie.split(";")][1:]
        assert {"httponly", "samesite=strict", "path=/"} <= set(flags)
        assert ("secure" in flags) == (scheme == "https")
        assert not any(each.startswith("domain") for each in flags)
    cookie = httpx.get(f"{served_all.site.url}/ops/jobs", headers={"x-user": "ann"}).headers["set-cookie"]
    assert "path=/ops;" in f"{cookie.lower()};", "the application's own pages do not get it"


# -- the login -------------------------------------------------------------------------------------------


@pytest.fixture
def alone(data: Database) -> Iterator[Served]:
    """A dashboard that stands alone, with a login nobody has tried yet."""
    door = Door("ann", Password(hash_password(PASSWORD)))
    house = Dashboard(jobs, data.sessionmaker, door=door, live=None, hosts=["127.0.0.1"])
    with served(house) as site:
        yield Served(site, house, data)


def login(
    client: Any, alone: Served, user: str = "ann", password: str = PASSWORD, target: str = "/login"
) -> Any:
    token = Tree(client.get("/login").text).field("token")
    fields = {"user": user, "password": password, "token": token}
    return client.post(target, data=fields, headers=own(alone))


def test_in_and_out_again(alone: Served) -> None:
    with alone.client(user=None) as client:
        before = client.get("/login").headers["set-cookie"]
        answer = login(client, alone)
        assert (answer.status_code, answer.headers["location"]) == (303, "/")
        session = client.cookies["sqla_jobs_session"]
        flags = {each.strip().lower() for each in answer.headers.get_list("set-cookie")[0].split(";")}
        assert {"httponly", "samesite=strict", "path=/"} <= flags
        assert client.get("/jobs").status_code == 200
        after = client.cookies["sqla_jobs_dashboard"]
        assert after not in before, "what a stranger may have put there is nobody's now"
        assert client.post("/logout", data={"x": "1"}, headers=own(alone)).status_code == 403, (
            "without a token nobody is put out"
        )
        token = Tree(client.get("/jobs").text).field("token")
        assert client.post("/logout", data={"token": token}, headers=own(alone)).status_code == 303
        assert "sqla_jobs_session" not in client.cookies
        stolen = httpx.get(f"{alone.site.url}/jobs", headers={"Cookie": f"sqla_jobs_session={session}"})
        assert stolen.status_code == 303, "it is over on the server too"


@pytest.mark.parametrize(
    ("user", "password"),
    [
        ("ann", "wrong"),
        ("ann", ""),
        ("bob", PASSWORD),
        ("", ""),
        ("ann", PASSWORD + " "),
        ("ANN", PASSWORD),
        ("ann", "é" * 9999),
    ],
    ids=["wrong", "none", "another user", "nothing", "a blank more", "capitals", "very long"],
)
def test_a_wrong_login(user: str, password: str, alone: Served) -> None:
    with alone.client(user=None) as client:
        answer = login(client, alone, user, password)
        assert answer.status_code == 403
        assert "The name or the password is wrong" in answer.text, "and not which"
        assert "sqla_jobs_session" not in client.cookies
        assert client.get("/jobs").status_code == 303


def test_who_guesses_has_to_wait_and_who_knows_it_too(alone: Served) -> None:
    with alone.client(user=None) as client:
        codes = [login(client, alone, password=f"guess {number}").status_code for number in range(7)]
        assert codes == [403] * 5 + [429] * 2
        answer = login(client, alone)
        assert answer.status_code == 429
        assert "sqla_jobs_session" not in client.cookies


@pytest.mark.parametrize(
    "target", ["//evil.example", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_the_login_leads_to_our_pages_only(target: str, alone: Served) -> None:
    for name in ("next", "url", "redirect", "return_to"):
        with alone.client(user=None) as client:
            answer = login(client, alone, target=f"/login?{urlencode({name: target})}")
            assert (answer.status_code, answer.headers["location"]) == (303, "/")
    answer = alone.site.get(f"/{target}")
    assert b"location: //" not in answer.lower()
    assert b"location: http" not in answer.lower()


def test_no_path_is_taken_for_the_name_of_a_host(served_all: Served) -> None:
    for path in ("//evil.example", "//evil.example/..", "/ops//evil.example", "/\\evil.example", "/ops", "/closed", "//ops",
                 "/%2f%2fevil.example", "/ops/%0d%0aLocation:%20http://evil.example"):  # fmt: skip
        answer = served_all.site.get(path, "x-user: ann").lower()
        head = answer.partition(b"\r\n\r\n")[0]
        for line in head.split(b"\r\n")[1:]:
            if line.startswith(b"location:"):
                place = line.partition(b":")[2].strip()
                assert place.startswith(b"/"), (path, place)
                assert not place.startswith((b"//", b"/\\")), (path, place)


def test_a_login_of_another_site_or_without_a_token(alone: Served) -> None:
    fields = {"user": "ann", "password": PASSWORD}
    with alone.client(user=None) as client:
        token = Tree(client.get("/login").text).field("token")
        for headers in ({"Origin": "https://evil.example"}, {"Sec-Fetch-Site": "cross-site"}, {}):
            assert client.post("/login", data={**fields, "token": token}, headers=headers).status_code == 403
        assert client.post("/login", data=fields, headers=own(alone)).status_code == 403
        assert "sqla_jobs_session" not in client.cookies


def test_what_is_no_session(alone: Served) -> None:
    for cookie in ("", "x", "a" * 43, "'; --", "../../etc", "é"):
        answer = alone.site.get("/jobs", f"Cookie: sqla_jobs_session={cookie}")
        assert status(answer) == 303, cookie


def test_a_note_that_nobody_here_has_written_is_not_shown(served_all: Served) -> None:
    with served_all.client() as client, served_all.client() as other:
        client.get("/ops/jobs")
        note = served_all.house.signer.note("All jobs are lost", client.cookies["sqla_jobs_dashboard"])
        assert "All jobs are lost" in client.get("/ops/jobs", params={"note": note}).text
        other.get("/ops/jobs")
        for forged in (
            note[:-1],
            base64.urlsafe_b64encode(b"All jobs are lost").decode(),
            "All jobs are lost",
            "x.y",
        ):
            assert (
                "All jobs are lost"
                not in client.get("/ops/jobs", params={"note": forged})
                .text.partition("<main")[2]
                .partition("filters")[0]
            )
        assert "All jobs are lost" not in other.get("/ops/jobs", params={"note": note}).text
