"""Nobody gets into the dashboard who should not, and nothing gets out of it: each rule by HTTP."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.server import Database
from tests.support.web import Browser, raw, served
from tests.support.work import Recorder

pytest.importorskip("starlette", reason="needs the extra `web`")
pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")

from starlette.requests import Request
from starlette.responses import RedirectResponse

from sqla_jobs import Jobs
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.web import Access, audit, dashboard
from sqla_jobs.web.app import Dashboard
from sqla_jobs.web.login import SESSION, Door
from sqla_jobs.web.password import ATTEMPTS, Attempts, Password, hash_password
from sqla_jobs.web.visit import COOKIE

PASSWORD = "correct horse battery"
PAGES = ["/", "/jobs", "/jobs/1", "/queues", "/schedules", "/workers", "/help", "/live", "/nowhere"]
ACTIONS = {
    "/act/confirm": {"verb": "cancel", "all": 1, "where": ""},
    "/act/jobs": {"verb": "cancel", "all": 1, "where": ""},
    "/act/queue": {"verb": "pause", "queue": "default"},
    "/act/schedule": {"verb": "disable", "schedule": "daily"},
}


@pytest.fixture(scope="module")
def database(lab_database: Database) -> Database:
    return lab_database


@pytest.fixture(scope="module")
def app(database: Database) -> Recorder:
    app = Recorder()
    app.jobs.cron("0 7 * * *", name="daily", kwargs={"note": "x"})(app.record)
    with database.sessionmaker.begin() as session:
        app.record.enqueue(session, "x")
        app.jobs.sync_schedules(session)
    return app


@pytest.fixture(scope="module")
def site(app: Recorder, database: Database) -> Iterator[str]:
    """The address of a dashboard where everybody may do everything."""
    with served(dashboard(app.jobs, database.engine, authorize=lambda _: True)) as browser:
        yield browser.url


@pytest.fixture
def browser(site: str) -> Iterator[Browser]:
    found = Browser(site)
    yield found
    found.http.close()


@pytest.fixture(autouse=True)
def _resumed(database: Database) -> Iterator[None]:
    yield
    database.execute("UPDATE sqla_jobs_queues SET paused_at = NULL")


def untouched(database: Database) -> bool:
    """Whether none of `ACTIONS` has done anything."""
    return bool(
        database.scalar(
            "SELECT (SELECT every(state = 'queued') FROM sqla_jobs) AND (SELECT every(enabled) FROM "
            "sqla_jobs_schedules) AND NOT EXISTS (SELECT FROM sqla_jobs_queues WHERE paused_at IS NOT NULL)"
        )
    )


# -- who comes in ----------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [None, "write", True], ids=repr)
def test_without_authorize_there_is_no_dashboard(database: Database, given: Any) -> None:
    with pytest.raises(ConfigurationError, match="expected a function of the request"):
        dashboard(Jobs(), database.engine, authorize=given)
    with pytest.raises(ConfigurationError, match="expected a function of the request"):
        Dashboard(Jobs(), database.engine)


@pytest.mark.parametrize(
    "answer", [None, False, "", "admin", 1, object(), ["write"]], ids=lambda each: type(each).__name__
)
def test_whoever_is_not_let_in_gets_nothing(app: Recorder, database: Database, answer: Any) -> None:
    with served(dashboard(app.jobs, database.engine, authorize=lambda _: answer)) as browser:
        for path in PAGES:
            page = browser.get(path)
            assert page.status_code == 403, path
            assert "record" not in page.text
            assert "Overview" not in page.text, "of the pages nothing is told"
        for path, fields in ACTIONS.items():
            assert browser.send(path, fields, token="x").status_code == 403
    assert untouched(database)


def test_authorize_may_be_a_coroutine_and_is_asked_each_time(app: Recorder, database: Database) -> None:
    allowed = [True]

    async def authorize(request: Request) -> Access | None:
        await asyncio.sleep(0)
        return Access("ann", write=True) if allowed[0] else None

    class Asked:
        async def __call__(self, request: Request) -> bool:
            return allowed[0]

    for each in (authorize, Asked(), lambda request: authorize(request)):
        allowed[0] = True
        with served(dashboard(app.jobs, database.engine, authorize=each)) as browser:
            assert browser.get("/jobs").status_code == 200
            token = browser.token()
            allowed[0] = False
            assert browser.get("/jobs").status_code == 403
            assert browser.send("/act/jobs", ACTIONS["/act/jobs"], token=token).status_code == 403
    assert untouched(database)


def test_authorize_that_raises_lets_nobody_in(
    app: Recorder, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    def authorize(request: Request) -> bool:
        raise KeyError("user")

    with served(dashboard(app.jobs, database.engine, authorize=authorize)) as browser:
        page = browser.get("/jobs")
        assert page.status_code == 500
        assert "KeyError" not in page.text
    assert "KeyError" in caplog.text


@pytest.mark.parametrize("given", ["no", 1, None, str.isupper], ids=lambda each: type(each).__name__)
def test_what_is_no_bool_is_no_leave_to_act(given: Any, app: Recorder, database: Database) -> None:
    """``write=user.is_admin``, which is a method that nobody calls, would let all act."""
    with pytest.raises(ConfigurationError, match="expected True or False"):
        Access("ann", write=given)
    with served(
        dashboard(app.jobs, database.engine, authorize=lambda _: Access("x", write=given))
    ) as browser:
        assert browser.get("/jobs").status_code == 500
    with pytest.raises(ConfigurationError, match="expected their name, a text"):
        Access(7, write=True)  # type: ignore[arg-type]  # what is signed is a text


def test_an_exception_of_authorize_keeps_its_headers(app: Recorder, database: Database) -> None:
    """As FastAPI's do: a redirect without its address leads nowhere, and no browser asks for a password."""
    from starlette.exceptions import HTTPException

    raised = [
        HTTPException(303, headers={"Location": "/login"}),
        HTTPException(401, detail={"no": "text"}, headers={"WWW-Authenticate": "Basic"}),  # type: ignore[arg-type]
    ]

    def authorize(request: Request) -> bool:
        raise raised["basic" in request.url.query]

    with served(dashboard(app.jobs, database.engine, authorize=authorize)) as browser:
        away, asked = browser.get("/jobs"), browser.get("/jobs?basic")
        assert (away.status_code, away.headers["location"]) == (303, "/login")
        assert (asked.status_code, asked.headers["www-authenticate"]) == (401, "Basic")
        assert "frame-ancestors 'none'" in asked.headers["content-security-policy"]


def test_authorize_may_answer_itself(app: Recorder, database: Database) -> None:
    made = dashboard(app.jobs, database.engine, authorize=lambda _: RedirectResponse("/my/login"))
    with served(made) as browser:
        page = browser.get("/jobs")
        assert (page.status_code, page.headers["location"]) == (307, "/my/login")
        assert page.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("how", ["authorize", "read_only"])
def test_those_who_may_only_look_cannot_act(app: Recorder, database: Database, how: str) -> None:
    options: dict[str, Any] = (
        {"authorize": lambda _: "read"}
        if how == "authorize"
        else {"authorize": lambda _: True, "read_only": True}
    )
    house = dashboard(app.jobs, database.engine, **options)
    with served(house) as browser:
        page = browser.get("/jobs").text
        assert "Delete" not in page
        assert "read-only" in page
        who = "127.0.0.1"
        token = house.signer.token(browser.http.cookies[COOKIE], who)
        for path, fields in ACTIONS.items():
            answer = browser.send(path, fields, token=token)
            assert (answer.status_code, "not act" in answer.text) == (403, True)
    assert untouched(database)


# -- forms -----------------------------------------------------------------------------------------

SAME = "same-origin"


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "https://evil.example", "sec-fetch-site": "same-origin"},
        {"origin": "OWN", "sec-fetch-site": "cross-site"},
        {"origin": "OWN", "sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "none"},
        {"origin": "OWN.evil.example"},
        {"origin": "OWN@evil.example"},
        {"origin": "OWN/"},
        {"origin": "http://["},
        {"referer": "OWN"},
    ],
    ids=lambda headers: ",".join(f"{key}:{value}" for key, value in headers.items()) or "none",
)
def test_a_form_of_another_site_does_nothing(
    browser: Browser, database: Database, path: str, headers: dict[str, str]
) -> None:
    given = {key: value.replace("OWN", browser.url) for key, value in headers.items()}
    answer = browser.send(path, ACTIONS[path], headers=given)
    assert answer.status_code == 403
    assert untouched(database)


def test_of_each_header_that_tells_one_is_enough(browser: Browser, database: Database) -> None:
    for headers in ({"origin": browser.url}, {"sec-fetch-site": "same-origin"}):
        assert browser.send("/act/confirm", ACTIONS["/act/confirm"], headers=headers).status_code == 200


def test_two_origins_are_none(browser: Browser, database: Database) -> None:
    token = browser.token()
    cookie = f"{COOKIE}={browser.http.cookies[COOKIE]}"
    body = f"token={token}&verb=pause&queue=default"
    host = browser.url.removeprefix("http://")
    told = raw(
        browser.url,
        f"POST /act/queue HTTP/1.1\nHost: {host}\nOrigin: {browser.url}\nOrigin: https://evil.example\n"
        f"Cookie: {cookie}\nContent-Type: application/x-www-form-urlencoded\nContent-Length: {len(body)}\n"
        f"Connection: close\n\n{body}",
    )
    assert told.startswith("HTTP/1.1 403")
    assert untouched(database)


def test_a_trusted_origin_of_a_proxy_is_taken(app: Recorder, database: Database) -> None:
    made = dashboard(app.jobs, database.engine, authorize=lambda _: True, origins=["https://ops.example.com"])
    with served(made) as browser:
        for origin, code in (("https://ops.example.com", 200), ("https://evil.example.com", 403)):
            answer = browser.send("/act/confirm", ACTIONS["/act/confirm"], headers={"origin": origin})
            assert answer.status_code == code


@pytest.mark.parametrize("path", ACTIONS)
@pytest.mark.parametrize(
    "kind", ["missing", "wrong", "empty", "two", "of another browser", "no cookie", "not ascii"]
)
def test_a_form_without_its_token_does_nothing(
    browser: Browser, database: Database, path: str, kind: str
) -> None:
    right = browser.token()
    fields: dict[str, Any] = dict(ACTIONS[path])
    token: str | None = None
    if kind == "wrong":
        token = right[:-1] + ("0" if right[-1] != "0" else "1")
    elif kind == "empty":
        fields["token"] = ""
    elif kind == "two":
        fields["token"] = [right, right]
    elif kind == "not ascii":
        fields["token"] = "é" * 64
    elif kind == "of another browser":
        other = Browser(browser.url)
        token = other.token()
        other.http.close()
    elif kind == "no cookie":
        token = right
        browser.http.cookies.clear()
    answer = browser.send(path, fields, token=token)
    assert answer.status_code == 403
    assert untouched(database)


def test_a_token_is_of_one_visitor(app: Recorder, database: Database) -> None:
    """Whoever can put a cookie into a browser cannot put the token of their own beside it."""
    made = dashboard(
        app.jobs, database.engine, authorize=lambda r: Access(r.headers.get("x-user", "eve"), write=True)
    )
    with served(made) as browser:
        token = browser.token()
        headers = {"origin": browser.url, "x-user": "ann"}
        assert (
            browser.send("/act/queue", ACTIONS["/act/queue"], token=token, headers=headers).status_code == 403
        )
        assert browser.send("/act/queue", ACTIONS["/act/queue"], token=token).status_code == 303


def test_processes_that_share_a_secret_take_each_others_forms(app: Recorder, database: Database) -> None:
    secret = "of all processes, and long"
    given: dict[str, Any] = {"authorize": lambda _: True}
    with served(dashboard(app.jobs, database.engine, secret=secret, **given)) as one:
        token = one.token()
        cookies = dict(one.http.cookies)
    for options, code in (({"secret": secret}, 200), ({}, 403)):
        with served(dashboard(app.jobs, database.engine, **options, **given)) as other:
            other.http.cookies.update(cookies)
            assert other.send("/act/confirm", ACTIONS["/act/confirm"], token=token).status_code == code
    with pytest.raises(ConfigurationError, match="less than 16 characters"):
        dashboard(app.jobs, database.engine, secret="short", **given)


@pytest.mark.parametrize("path", ACTIONS)
def test_nothing_is_done_by_get(browser: Browser, database: Database, path: str) -> None:
    fields = {**ACTIONS[path], "token": browser.token()}
    for method in ("GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"):
        answer = browser.http.request(method, path, params=fields, headers={"origin": browser.url})
        assert answer.status_code == 405, method
    assert untouched(database)


def test_the_cookie_is_for_this_site_and_no_script(app: Recorder, database: Database) -> None:
    made = dashboard(app.jobs, database.engine, authorize=lambda _: True)
    with served(made, root_path="/queue") as browser:
        cookie = browser.get("/queue/jobs").headers["set-cookie"]
    assert re.fullmatch(rf"{COOKIE}=[\w-]{{32}}; HttpOnly; Path=/queue; SameSite=strict", cookie)


@pytest.mark.parametrize(
    ("kind", "code"),
    [("application/json", 415), ("text/plain", 415), ("multipart/form-data; boundary=x", 415)],
)
def test_only_forms_are_taken(browser: Browser, kind: str, code: int) -> None:
    headers = {"origin": browser.url, "content-type": kind}
    answer = browser.http.post("/act/queue", content=b'{"verb": "pause"}', headers=headers)
    assert answer.status_code == code


# -- what is asked ---------------------------------------------------------------------------------


def test_too_much_is_refused(browser: Browser) -> None:
    assert browser.get("/jobs?task=" + "x" * 9000).status_code == 414
    assert browser.get("/" + "x" * 2000).status_code == 414
    many = "&".join(f"arg=a{each}%3D1" for each in range(600))
    assert browser.get(f"/jobs?{many}").status_code == 400
    large = browser.send("/act/jobs", {"verb": "retry", "id": 1, "where": "x" * 300_000})
    assert large.status_code == 413
    fields = browser.send("/act/jobs", {"verb": "retry", "id": [1] * 600})
    assert fields.status_code == 400


@pytest.mark.parametrize(
    "path",
    [
        "/static/{v}/../../app.py",
        "/static/{v}/..%2f..%2fapp.py",
        "/static/{v}/%2e%2e/%2e%2e/app.py",
        "/static/{v}/..\\..\\app.py",
        "/static/{v}//etc/passwd",
        "/static/../app.py",
        "/static/{v}/dashboard.css/",
        "/static/{v}/dashboard.css%00.png",
        "/static/{v}/",
        "/static/{v}/DASHBOARD.CSS",
        "/../../../etc/passwd",
    ],
)
def test_static_files_are_those_of_the_package_and_no_others(browser: Browser, path: str) -> None:
    version = re.findall(r"/static/(\w+)/dashboard.css", browser.get("/help").text)[0]
    host = browser.url.removeprefix("http://")
    told = raw(browser.url, f"GET {path.format(v=version)} HTTP/1.1\nHost: {host}\nConnection: close\n\n")
    assert told.startswith("HTTP/1.1 404"), told[:200]
    assert "root:" not in told
    assert "import" not in told
    assert "Traceback" not in told


def test_static_files_may_be_kept_and_pages_may_not(browser: Browser) -> None:
    page = browser.get("/help").text
    found = set(re.findall(r'(?:href|src)="(/static/[^"]+)"', page))
    assert {path.rpartition("/")[2] for path in found} == {"dashboard.css", "dashboard.js", "icon.svg"}
    for path in found:
        answer = browser.get(path)
        assert answer.status_code == 200
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert answer.headers["x-content-type-options"] == "nosniff"
    old = browser.get("/static/000000000000/dashboard.css")
    assert old.headers["cache-control"] == "no-cache", "of another version of the package"


@pytest.mark.parametrize("path", [*PAGES[:-2], "/nowhere", "/static/x/y"])
def test_the_headers_of_each_page(browser: Browser, path: str) -> None:
    headers = browser.get(path).headers
    policy = headers["content-security-policy"]
    assert "unsafe" not in policy
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'",
                 "form-action 'self'", "base-uri 'none'"):  # fmt: skip
        assert part in policy.split("; ")
    assert headers["x-frame-options"] == "DENY"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers or "sqla" not in headers["server"]


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "",
        "localhost@evil.example",
        "127.0.0.1:80:80",
        "localhost, evil.example",
    ],
)
def test_a_name_that_is_not_known_is_not_answered(app: Recorder, database: Database, host: str) -> None:
    made = dashboard(
        app.jobs, database.engine, authorize=lambda _: True, hosts=["localhost", "127.0.0.1", "::1"]
    )
    with served(made) as browser:
        for path in ("/jobs", "/live", "/static/x/dashboard.css"):
            told = raw(browser.url, f"GET {path} HTTP/1.1\nHost: {host}\nConnection: close\n\n")
            assert told.startswith("HTTP/1.1 4"), told[:100]
            assert "record" not in told
        for name in ("localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:80", "localhost."):
            told = raw(browser.url, f"GET /help HTTP/1.1\nHost: {name}\nConnection: close\n\n")
            assert told.startswith("HTTP/1.1 200"), name


# -- mounted ---------------------------------------------------------------------------------------


def test_mounted_all_links_keep_to_its_path(app: Recorder, database: Database) -> None:
    from starlette.applications import Starlette
    from starlette.routing import Mount

    made = dashboard(app.jobs, database.engine, authorize=lambda _: True)
    outer = Starlette(routes=[Mount("/ops", routes=[Mount("/queue", made)])])
    with served(outer, base="/ops/queue") as browser:
        for path in ("/", "/jobs", "/jobs/1", "/queues", "/schedules", "/workers", "/help"):
            page = browser.get(path)
            assert page.status_code == 200
            links = re.findall(r'(?:href|src|action|data-live|data-base)="([^"#]+)"', page.text)
            assert links
            assert [each for each in links if not each.startswith("/ops/queue/")] == []
        assert "is paused" in browser.follow(browser.send("/act/queue", ACTIONS["/act/queue"]))
        style = re.findall(r'href="(/ops[^"]+css)"', browser.get("/").text)[0]
        assert browser.http.get(style).status_code == 200
        assert browser.get("").status_code == 307
        assert browser.get("/nope").status_code == 404


def test_below_the_path_of_a_proxy(app: Recorder, database: Database) -> None:
    made = dashboard(app.jobs, database.engine, authorize=lambda _: True)
    with served(made, root_path="/behind") as browser:
        page = browser.get("/jobs")
        assert 'href="/behind/queues"' in page.text


# -- the audit log ---------------------------------------------------------------------------------


def test_no_job_is_hidden_behind_others_in_a_line(browser: Browser, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    ids = [2**63 - 1 - each for each in range(200)]
    assert browser.send("/act/jobs", {"verb": "delete", "id": ids}).status_code == 303
    assert caplog.messages[-1].endswith(f" {ids[-1]}: 0")


def test_no_name_makes_a_line_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    audit.note("ann\n2026 dashboard: eve", "::1", "delete jobs where task=\x1b[2J\u202e\u2028\\n\r\0é", 3)
    [record] = caplog.records
    assert record.getMessage() == (
        r"dashboard: ann\n2026 dashboard: eve (::1) delete jobs where task=\x1b[2J\u202e\u2028\\n\r\x00é: 3"
    )
    assert record.audit["count"] == 3  # type: ignore[attr-defined]


# -- the login -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hashed() -> str:
    return hash_password(PASSWORD)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def locked(app: Recorder, database: Database, hashed: str, clock: Clock) -> Iterator[Browser]:
    door = Door("ann", Password(hashed), clock=clock)
    with served(Dashboard(app.jobs, database.engine, door=door)) as browser:
        yield browser


def log_in(browser: Browser, user: str = "ann", password: str = PASSWORD, **options: Any) -> Any:
    token = re.findall(r'name="token" value="(\w+)"', browser.get("/login").text)[0]
    return browser.send("/login", {"user": user, "password": password}, token=token, **options)


def test_without_a_session_there_is_only_the_login(locked: Browser, database: Database) -> None:
    for path in PAGES:
        answer = locked.get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    for path, fields in ACTIONS.items():
        assert locked.send(path, fields, token="x").headers["location"] == "/login"
    assert untouched(database)


def test_the_right_password_opens_a_session_and_leaving_ends_it(
    locked: Browser, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    answer = log_in(locked)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = next(each for each in answer.headers.get_list("set-cookie") if each.startswith(SESSION))
    assert re.fullmatch(rf"{SESSION}=[\w-]{{43}}; HttpOnly; Max-Age=43200; Path=/; SameSite=strict", cookie)
    assert locked.get("/jobs").status_code == 200
    assert "is paused" in locked.follow(locked.send("/act/queue", ACTIONS["/act/queue"]))
    assert "dashboard: ann (127.0.0.1) pause queue default: 1" in caplog.text
    kept = locked.http.cookies[SESSION]
    assert locked.send("/logout", {}).status_code == 303
    locked.http.cookies.set(SESSION, kept)
    assert locked.get("/jobs").headers["location"] == "/login", "the server has forgotten it"


@pytest.mark.parametrize(
    ("user", "password"),
    [("ann", "wrong"), ("eve", PASSWORD), ("", ""), ("ann", ""), ("ann", PASSWORD + " "), ("é", "é")],
)
def test_a_wrong_name_or_password_opens_nothing(locked: Browser, user: str, password: str) -> None:
    answer = log_in(locked, user, password)
    assert (answer.status_code, "wrong" in answer.text) == (403, True)
    assert SESSION not in locked.http.cookies
    assert PASSWORD not in answer.text


def test_a_login_of_another_site_opens_nothing(locked: Browser) -> None:
    assert log_in(locked, headers={"origin": "https://evil.example"}).status_code == 403
    assert locked.send("/login", {"user": "ann", "password": PASSWORD}, token="x").status_code == 403
    assert SESSION not in locked.http.cookies


def test_a_session_ends(locked: Browser, clock: Clock) -> None:
    log_in(locked)
    clock.now += 12 * 3600 + 1
    assert locked.get("/jobs").headers["location"] == "/login"


def test_who_guesses_waits(locked: Browser, clock: Clock) -> None:
    for _ in range(ATTEMPTS):
        assert log_in(locked, password="wrong").status_code == 403
    answer = log_in(locked)
    assert (answer.status_code, "wait for 60 seconds" in answer.text) == (429, True)
    clock.now += 61
    assert log_in(locked, password="wrong").status_code == 403
    clock.now += 61
    assert log_in(locked).status_code == 429, "twice as long"
    clock.now += 61
    assert log_in(locked).status_code == 303
    assert log_in(locked, password="wrong").status_code == 403, "the right one forgives"


def test_an_address_of_ipv6_is_its_network_and_the_table_is_bounded() -> None:
    clock = Clock()
    attempts = Attempts(clock)
    for each in range(ATTEMPTS):
        attempts.begin(f"2001:db8::{each}")
    assert attempts.wait("2001:db8::ffff") == 60
    assert attempts.wait("2001:db8:0:1::1") == 0
    for each in range(11_000):
        attempts.begin(f"10.0.{each // 256}.{each % 256}")
    assert len(attempts._wrong) == 10_000


def test_a_hash_is_checked_before_it_is_used(hashed: str) -> None:
    assert re.fullmatch(r"scrypt:32768:8:1:[\w-]{22}:[\w-]{43}", hashed)
    assert hash_password(PASSWORD) != hashed, "salted"
    assert Password(f" {hashed}\n").is_right(PASSWORD)
    for wrong in ("", PASSWORD, hashed[:-5], hashed.replace("32768", "2"), hashed.replace("32768", "1048576"),
                  hashed.replace("scrypt", "md5"), hashed.replace(":8:", ":x:"), hashed + ":"):  # fmt: skip
        with pytest.raises(ConfigurationError, match="is no hash of a password") as caught:
            Password(wrong)
        assert not wrong or wrong not in str(caught.value)
    for wrong in ("short", "x" * 1001):
        with pytest.raises(ConfigurationError, match="expected 10 to 1000"):
            hash_password(wrong)
