"""The dashboard in a real Chromium: all pages and actions, live, by keyboard, on a phone, in the dark.

A real server in a thread, real PostgreSQL, and a real worker where something has to happen meanwhile.
"""

# ruff: noqa: E501 -- statements, and scripts for the browser
from __future__ import annotations

import datetime as dt
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Jobs, RetryPolicy, Worker, current_job
from tests.support.browser import chromium, needs_chromium
from tests.support.demo_data import fill
from tests.support.server import Database
from tests.support.site import Site, served
from tests.support.waiting import until

pytest.importorskip("starlette", reason="needs starlette, of the extra `web`")
pytest.importorskip("uvicorn", reason="needs uvicorn, of the extra `web`")

from sqla_jobs.web import Dashboard, dashboard
from sqla_jobs.web.login import Door
from sqla_jobs.web.password import Password, hash_password

pytestmark = needs_chromium

PAGES = ("/", "/jobs", "/jobs/1", "/queues", "/schedules", "/workers", "/help")
LIVE = dt.timedelta(milliseconds=200)
PATIENCE = 15_000
"""Milliseconds for what the page does by itself, on a busy machine."""
PASSWORD = "correct horse battery"

jobs = Jobs(prune_after=None)
go_on = threading.Event()


@jobs.task(name="greet", queue="mail")
def greet(_: Session, name: str) -> None: ...


@jobs.task(name="break", queue="mail", retry=RetryPolicy(max_attempts=1))
def break_(_: Session, name: str) -> None:
    raise ValueError(f"nobody is called {name}")


@jobs.task(name="export", queue="slow")
def export(_: Session) -> None:
    current_job().progress(3, 4, "three quarters")
    assert go_on.wait(60)


@jobs.every(dt.timedelta(hours=1), name="hourly", kwargs={"name": "Ann"})
@jobs.task(name="remind", queue="mail")
def remind(_: Session, name: str) -> None: ...


@dataclass
class Watch:
    """What went wrong in a page that no test asks for."""

    site: Site
    problems: list[str] = field(default_factory=list)
    refused: bool = False
    """Whether the test asks for pages that are refused."""

    def over(self, page: Any) -> None:
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"error: {error}"))
        page.on("request", self._request)
        page.on(
            "dialog", lambda dialog: (self.problems.append(f"dialog: {dialog.message}"), dialog.dismiss())
        )

    def _console(self, message: Any) -> None:
        # A violation of the policy is an error of the console, too.
        expected = self.refused and "the server responded with a status of 4" in message.text
        if message.type in ("error", "warning") and not expected:
            self.problems.append(f"{message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.site.url, "about:")):
            self.problems.append(f"a request to {request.url}: the dashboard works offline")


@dataclass
class Visitor:
    """A browser at a dashboard."""

    page: Any
    site: Site
    watch: Watch
    database: Database

    def go(self, path: str) -> Any:
        return self.page.goto(f"{self.site.url}{path}")

    def text(self) -> str:
        return str(self.page.inner_text("main"))

    def see(self, *texts: str) -> None:
        for text in texts:
            self.page.get_by_text(text).first.wait_for(timeout=PATIENCE)

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).click()

    def states(self) -> dict[str, int]:
        return dict(
            tuple(row) for row in self.database.rows("SELECT state, count(*) FROM sqla_jobs GROUP BY 1")
        )


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser: Any, database: Database) -> Iterator[Callable[..., Any]]:
    """Visit a dashboard of the test's own, with its options and the browser's; nothing may go wrong unseen."""
    watches: list[Watch] = []

    @contextmanager
    def visit(house: Dashboard | None = None, **options: Any) -> Iterator[Visitor]:
        own = house or dashboard(jobs, database.sessionmaker, authorize=lambda _: True, live=LIVE)
        with served(own) as site:
            context = browser.new_context(**options)
            context.set_default_timeout(PATIENCE)
            page = context.new_page()
            watches.append(Watch(site))
            watches[-1].over(page)
            try:
                yield Visitor(page, site, watches[-1], database)
            finally:
                context.close()
                if own.streams is not None:
                    own.streams.stop()

    yield visit
    assert [each.problems for each in watches] == [[]] * len(watches)


@pytest.fixture
def day(database: Database) -> None:
    """An ordinary day's jobs, schedules and workers; job 1 is one of those that failed."""
    fill(database, 200)
    database.execute("UPDATE sqla_jobs SET id = 1000000 WHERE id = 1")
    database.execute(
        "UPDATE sqla_jobs SET id = 1 WHERE id = (SELECT max(id) FROM sqla_jobs WHERE state = 'failed')"
    )


def enqueue(database: Database, *tasks: Any) -> list[int]:
    with database.sessionmaker.begin() as session:
        made = [task.enqueue(session, name) for task, name in tasks]
        session.flush()
        return [job.id for job in made]


@contextmanager
def working(database: Database) -> Iterator[Worker]:
    go_on.clear()
    with Worker(jobs, database.engine, threads=2, poll_interval=dt.timedelta(seconds=0.1)) as worker:
        try:
            yield worker
        finally:
            go_on.set()


# -- pages -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("day")
def test_every_page(visit: Any) -> None:
    with visit() as me:
        for path in PAGES:
            assert me.go(path).status == 200, path
            assert me.page.locator("main").count() == 1
        me.go("/")
        assert me.page.locator("svg.chart").count() == 2
        assert me.page.locator("svg .bar").count() > 20
        me.page.get_by_role("link", name="6h", exact=True).click()
        me.see("Last 6 hours")
        me.page.locator("#queues").get_by_role("link", name="webhooks").click()
        assert "queue=webhooks" in me.page.url
        me.page.locator("#failures").get_by_role("link").nth(1).click()
        me.see("httpx.ConnectTimeout: timed out", "webhooks.py")
        me.page.get_by_role("link", name="Workers").click()
        me.see("web-3", "31 %", "frames")


@pytest.mark.usefixtures("day")
def test_filters_and_pages_of_a_list(visit: Any) -> None:
    with visit() as me:
        me.go("/jobs")
        me.page.get_by_role("link", name=re.compile("^succeeded")).click()
        seen: list[str] = []
        while True:
            seen += me.page.locator("tr[data-row]").evaluate_all("rows => rows.map(row => row.dataset.row)")
            if not me.page.get_by_role("link", name="Next").count():
                break
            me.page.get_by_role("link", name="Next").click()
        assert len(seen) == len(set(seen)) == me.states()["succeeded"] > 150
        me.page.get_by_role("link", name="To the begin").click()
        assert me.page.locator("tr[data-row]").first.get_attribute("data-row") == seen[0]
        me.page.get_by_label("Task").fill("shop.payments.capture")
        me.press("Filter")
        assert "state=succeeded" in me.page.url
        assert set(me.page.locator("tr[data-row] .task a").all_inner_texts()) == {"shop.payments.capture"}
        me.page.get_by_role("link", name="Clear").click()
        me.page.get_by_role("link", name="all", exact=True).click()
        me.page.get_by_label("Error contains").fill("CONNECTTIMEOUT")
        me.page.get_by_text("More", exact=True).click()
        me.page.get_by_label("Argument").fill("event=order.paid")
        me.press("Filter")
        assert set(me.page.locator("tr[data-row] .task a").all_inner_texts()) == {"shop.webhooks.deliver"}


def test_a_bad_filter_gets_a_message(visit: Any) -> None:
    with visit() as me:
        me.watch.refused = True
        assert me.go("/jobs?older_than=soon").status == 400
        me.see("older_than", "soon")
        assert me.go("/jobs/none").status == 404
        assert me.go("/nowhere").status == 404
        me.page.get_by_role("link", name="To the overview").click()
        assert me.page.title().startswith("Overview")


def test_arguments_that_are_redacted_are_not_in_the_page(visit: Any, database: Database) -> None:
    fill(database, 100)
    job = database.scalar("SELECT max(id) FROM sqla_jobs WHERE arguments ? 'card_number'")
    with visit() as me:
        me.go(f"/jobs/{job}")
        assert "[redacted]" in me.text()
        assert "4111111111111111" not in me.page.content()


# -- actions ---------------------------------------------------------------------------------------------


def test_jobs_that_are_ticked(visit: Any, database: Database) -> None:
    first, second, third = enqueue(database, *[(greet, "Ann")] * 3)
    with visit() as me:
        me.go("/jobs")
        me.page.get_by_label(f"Job {first}", exact=True).check()
        me.page.get_by_label(f"Job {third}", exact=True).check()
        me.press("Cancel…")
        me.see("Cancel 2 jobs?", f"{third}, {first}")
        me.page.get_by_role("link", name="Back").click()
        assert me.states() == {"queued": 3}, "nobody has said yes"
        me.page.get_by_label(f"Job {first}", exact=True).check()
        me.press("Cancel…")
        me.press("Cancel")
        me.see("1 job cancelled")
        assert me.states() == {"queued": 2, "cancelled": 1}
        assert "note" not in me.page.url, "a reload does not tell it again"
        me.page.get_by_label(f"Job {first}", exact=True).check()
        me.press("Retry…")
        me.see("Retry 1 job?")
        me.press("Retry")
        me.see("1 job retried")
        assert me.states() == {"queued": 3}
        me.page.get_by_label("Tick all jobs of this page").check()
        me.press("Delete…")
        me.see("Delete 3 jobs?", "This cannot be undone")
        me.press("Delete")
        me.see("3 jobs deleted")
        assert me.states() == {}
        assert second


@pytest.mark.usefixtures("day")
def test_all_jobs_that_match(visit: Any) -> None:
    with visit() as me:
        before = me.states()
        me.go("/jobs?state=failed")
        me.page.get_by_label("All that match").check()
        me.press("Retry…")
        me.see(f"Retry {before['failed']} jobs?", "All that match when it is done")
        me.press("Retry")
        me.see(f"{before['failed']} jobs retried")
        after = me.states()
        assert "failed" not in after
        assert after["queued"] == before["queued"] + before["failed"]
        me.go("/jobs?queue=webhooks&state=queued")
        me.page.get_by_label("All that match").check()
        me.press("Delete…")
        me.press("Delete")
        me.see("jobs deleted")
        assert (
            me.database.scalar("SELECT count(*) FROM sqla_jobs WHERE queue = 'webhooks' AND state = 'queued'")
            == 0
        )
        assert me.states()["succeeded"] == before["succeeded"]


def test_one_job(visit: Any, database: Database) -> None:
    [job] = enqueue(database, (break_, "Zoe"))
    with working(database):
        until(database, "SELECT state = 'failed' FROM sqla_jobs")
    with visit() as me:
        me.go(f"/jobs/{job}")
        me.see(
            "ValueError: nobody is called Zoe",
            "Traceback (most recent call last)",
            "in break_",
            '"name": "Zoe"',
        )
        me.press("Retry")
        me.see("1 job retried")
        assert me.states() == {"queued": 1}
        me.press("Cancel")
        me.see("1 job cancelled")
        assert me.states() == {"cancelled": 1}
        me.press("Delete…")
        me.press("Delete")
        me.see("1 job deleted")
        assert me.states() == {}


def test_a_queue_is_paused_and_resumed(visit: Any, database: Database) -> None:
    enqueue(database, (greet, "Ann"))
    paused = "SELECT count(*) FROM sqla_jobs_queues WHERE paused_at IS NOT NULL"
    with visit() as me:
        me.go("/queues")
        me.press("Pause mail")
        me.see("Queue mail is paused")
        assert database.scalar(paused) == 1
        me.press("Resume mail")
        me.see("Queue mail goes on")
        assert database.scalar(paused) == 0


def test_a_schedule_is_run_and_switched(visit: Any, database: Database) -> None:
    with database.sessionmaker.begin() as session:
        jobs.sync_schedules(session)
    with visit() as me:
        me.go("/schedules")
        me.press("Run now")
        me.see("of schedule hourly is in queue mail")
        assert database.rows("SELECT task, arguments FROM sqla_jobs") == [("remind", {"name": "Ann"})]
        me.press("Switch off")
        me.see("Schedule hourly is switched off")
        assert database.scalar("SELECT enabled FROM sqla_jobs_schedules") is False
        me.press("Switch on")
        me.see("Schedule hourly is switched on")
        assert database.scalar("SELECT enabled FROM sqla_jobs_schedules") is True


def test_who_may_only_look_sees_no_buttons(visit: Any, database: Database) -> None:
    fill(database, 50)
    with visit(dashboard(jobs, database.sessionmaker, authorize=lambda _: "read", live=None)) as me:
        for path in ("/jobs", "/jobs/1", "/queues", "/schedules"):
            me.go(path)
            me.see("read-only")
            names = set(me.page.get_by_role("button").all_inner_texts())
            assert names <= {"Filter"}, path


# -- live ------------------------------------------------------------------------------------------------


def stays(me: Visitor) -> None:
    """Mark the page: a reload would lose it."""
    me.page.evaluate("window.stays = true")


def has_stayed(me: Visitor) -> bool:
    return bool(me.page.evaluate("window.stays === true"))


def test_a_job_is_seen_to_run_and_end_without_a_reload(visit: Any, database: Database) -> None:
    with database.sessionmaker.begin() as session:
        export.enqueue(session)
    with visit() as me:
        me.go("/jobs/1")
        me.page.locator(".live.on").wait_for()
        stays(me)
        me.page.locator("main .state.queued").wait_for()
        with working(database):
            me.page.locator("main .state.running").wait_for()
            me.see("75 %", "three quarters")
            go_on.set()
            me.page.locator("main .state.succeeded").wait_for()
        assert has_stayed(me)


def test_lists_and_charts_are_live(visit: Any, database: Database) -> None:
    with visit() as me:
        me.go("/jobs")
        me.page.locator(".live.on").wait_for()
        stays(me)
        enqueue(database, (greet, "Ann"), (break_, "Zoe"))
        me.page.locator("tr[data-row='2']").wait_for()
        with working(database):
            me.see("ValueError: nobody is called Zoe")
        assert has_stayed(me)
        me.go("/")
        me.page.locator(".live.on").wait_for()
        stays(me)
        enqueue(database, (break_, "Eve"))
        with working(database):
            me.see("nobody is called Eve")
            me.page.locator("#workers .state.alive").wait_for()
        me.page.locator("#workers .state.alive").wait_for(state="detached")
        assert has_stayed(me)


def test_rows_stay_while_somebody_ticks_them(visit: Any, database: Database) -> None:
    enqueue(database, (greet, "Ann"))
    with visit() as me:
        me.go("/jobs")
        me.page.locator(".live.on").wait_for()
        me.page.get_by_label("Job 1", exact=True).check()
        me.see("Held while jobs are ticked")
        enqueue(database, (greet, "Bob"))
        me.page.get_by_label("Job 1", exact=True).uncheck()
        me.page.locator("tr[data-row='2']").wait_for()


def test_it_is_live_again_after_the_server_was_away(visit: Any, database: Database) -> None:
    house = dashboard(jobs, database.sessionmaker, authorize=lambda _: True, live=LIVE)
    with visit(house) as me:
        me.go("/jobs")
        me.page.locator(".live.on").wait_for()
        stays(me)
        me.page.context.set_offline(True)
        me.page.evaluate("fetch('/help').catch(() => 0)")
        me.watch.problems.clear()
        enqueue(database, (greet, "Ann"))
        me.page.context.set_offline(False)
        me.page.locator("tr[data-row='1']").wait_for()
        assert has_stayed(me)
        me.watch.problems.clear()


# -- by keyboard, on a phone, in the dark, without scripts -----------------------------------------------


def test_by_keyboard_alone(visit: Any, database: Database) -> None:
    enqueue(database, (greet, "Ann"), (greet, "Bob"), (greet, "Eve"))
    with visit() as me:
        key = me.page.keyboard.press
        me.go("/")
        key("Tab")
        assert me.page.evaluate("document.activeElement.className") == "skip"
        key("Enter")
        assert me.page.evaluate("document.activeElement.id") == "main"
        for keys, title in (
            ("j", "Jobs"),
            ("q", "Queues"),
            ("s", "Schedules"),
            ("w", "Workers"),
            ("o", "Overview"),
        ):
            key("g")
            key(keys)
            me.page.wait_for_function("title => document.title.startsWith(title)", arg=title)
        key("g")
        key("j")
        me.page.wait_for_url("**/jobs")
        key("j")
        key("j")
        key("x")
        assert me.page.get_by_label("Job 2", exact=True).is_checked()
        key("/")
        assert me.page.evaluate("document.activeElement.id") == "filter"
        me.page.keyboard.type("gjx?")
        assert me.page.get_by_label("Task").input_value() == "gjx?", "in a field a key is a letter"
        key("Escape")
        me.page.get_by_role("button", name="Cancel…").focus()
        key("Enter")
        me.see("Cancel 1 job?")
        assert me.page.evaluate("document.activeElement.textContent") == "Cancel", "the answer has the focus"
        key("Enter")
        me.see("1 job cancelled")
        assert me.database.rows("SELECT id FROM sqla_jobs WHERE state = 'cancelled'") == [(2,)]
        key("k")
        key("Enter")
        me.page.wait_for_url("**/jobs/1")


REACHED = """async () => {
    const seen = new Set();
    for (const each of document.querySelectorAll('a[href], button, input:not([type=hidden]), summary, pre')) {
        if (each.tabIndex < 0 || !each.checkVisibility()) continue;
        each.focus();
        if (document.activeElement !== each) seen.add(each.outerHTML);
        const style = getComputedStyle(each);
        const ring = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0;
        if (!ring && style.boxShadow === 'none') seen.add('no ring: ' + each.outerHTML.slice(0, 200));
    }
    return [...seen];
}"""


@pytest.mark.usefixtures("day")
def test_all_that_can_be_pressed_is_reached_and_shows_it(visit: Any) -> None:
    with visit() as me:
        for path in PAGES:
            me.go(path)
            me.page.keyboard.press("Tab")  # the browser shows rings to those who use the keyboard
            assert me.page.evaluate(REACHED) == [], path


WIDER = """() => {
    const wide = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= wide) return [];
    return [...document.body.querySelectorAll('*')].filter(each => each.getBoundingClientRect().right > wide + 1
        && !each.closest('.scroll, pre, .unseen, nav')).map(each => each.outerHTML.slice(0, 120));
}"""


def test_on_a_phone_nothing_is_beside_the_screen(visit: Any, database: Database) -> None:
    fill(database, 100)
    database.execute("UPDATE sqla_jobs SET task = repeat('shop.very_long_module_name_', 8) WHERE id % 3 = 0")
    database.execute("UPDATE sqla_jobs_schedules SET name = repeat('verylongname', 9) WHERE id = 1")
    database.execute("UPDATE sqla_jobs_workers SET host = repeat('verylonghostname', 9) WHERE id = 1")
    with visit(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as me:
        for path in (*PAGES, "/jobs/3", "/jobs?state=failed"):
            me.go(path)
            for width in (320, 390, 820):
                me.page.set_viewport_size({"width": width, "height": 844})
                assert me.page.evaluate(WIDER) == [], (path, width)
        me.page.set_viewport_size({"width": 390, "height": 844})
        me.go("/jobs?state=queued")
        me.page.locator("tr[data-row] input").first.tap()
        me.press("Cancel…")
        me.see("Cancel 1 job?")
        assert me.page.evaluate(WIDER) == []


PALE = """() => {
    const parsed = text => (text.match(/[\\d.]+/g) || [0, 0, 0]).map(Number);
    const over = (top, under) => {
        const a = top.length > 3 ? top[3] : 1;
        return [0, 1, 2].map(i => top[i] * a + under[i] * (1 - a));
    };
    const light = color => {
        const [r, g, b] = color.map(v => v / 255).map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const behind = each => {
        const layers = [];
        for (; each; each = each.parentElement) layers.push(parsed(getComputedStyle(each).backgroundColor));
        const dark = matchMedia('(prefers-color-scheme: dark)').matches;
        return layers.reverse().reduce((under, top) => over(top, under), dark ? [0, 0, 0] : [255, 255, 255]);
    };
    const found = [];
    for (const each of document.body.querySelectorAll('*')) {
        const own = [...each.childNodes].some(node => node.nodeType === 3 && node.data.trim());
        if (!own || !each.checkVisibility() || each.closest('.unseen, .skip, svg, :disabled')) continue;
        const style = getComputedStyle(each), under = behind(each), ink = over(parsed(style.color), under);
        const [a, b] = [light(ink), light(under)].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        const large = parseFloat(style.fontSize) >= 24 || parseFloat(style.fontSize) >= 18.7 && style.fontWeight >= 700;
        if (ratio < (large ? 3 : 4.5)) found.push(ratio.toFixed(2) + ' ' + each.outerHTML.slice(0, 120));
    }
    return found;
}"""
"""Texts with less contrast than WCAG's AA asks for."""


@pytest.mark.usefixtures("day")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_by_day_and_by_night(scheme: str, visit: Any) -> None:
    with visit(color_scheme=scheme) as me:
        for path in (*PAGES, "/jobs?state=failed"):
            me.go(path)
            assert me.page.evaluate(PALE) == [], path
        ground = me.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(each) for each in re.findall(r"\d+", ground)[:3]) / 3
        assert brightness < 60 if scheme == "dark" else brightness > 200


def test_without_scripts(visit: Any, database: Database) -> None:
    enqueue(database, *[(greet, "Ann")] * 60)
    with database.sessionmaker.begin() as session:
        jobs.sync_schedules(session)
    with visit(java_script_enabled=False) as me:
        for path in PAGES:
            assert me.go(path).status == 200
        me.go("/jobs")
        me.page.get_by_label("Queue").fill("mail")
        me.press("Filter")
        me.page.get_by_role("link", name="Next").click()
        assert me.page.locator("tr[data-row]").count() == 10
        me.page.get_by_label("Job 7", exact=True).check()
        me.press("Cancel…")
        me.press("Cancel")
        me.see("1 job cancelled")
        me.go("/jobs/7")
        me.press("Retry")
        me.see("1 job retried")
        me.go("/queues")
        me.press("Pause mail")
        me.see("Queue mail is paused")
        me.go("/schedules")
        me.press("Run now")
        me.see("of schedule hourly")
        assert me.states() == {"queued": 61}


# -- the one that stands alone ---------------------------------------------------------------------------


def test_in_and_out_of_the_one_that_stands_alone(visit: Any, database: Database) -> None:
    fill(database, 50)
    door = Door("ann", Password(hash_password(PASSWORD)))
    with visit(Dashboard(jobs, database.sessionmaker, door=door, live=LIVE, hosts=["127.0.0.1"])) as me:
        me.watch.refused = True
        me.go("/jobs")
        assert me.page.url.endswith("/login")
        me.page.get_by_label("Name").fill("ann")
        me.page.get_by_label("Password").fill("wrong")
        me.page.keyboard.press("Enter")
        me.see("The name or the password is wrong")
        me.page.get_by_label("Name").fill("ann")
        me.page.get_by_label("Password").fill(PASSWORD)
        me.press("Log in")
        me.page.get_by_role("link", name="Queues", exact=True).click()
        me.press("Pause mail")
        me.see("Queue mail is paused")
        me.press("Log out")
        me.page.get_by_label("Password").wait_for()
        me.go("/queues")
        assert me.page.url.endswith("/login")
        me.page.go_back()
        assert "mail" not in me.text(), "nothing of it is kept by the browser"


EVIL = "</title></pre><script>window.run = 1</script><img src=x onerror='window.run = 1'>\"><svg onload='window.run = 1'>"


def test_what_strangers_write_is_not_run(visit: Any, database: Database) -> None:
    fill(database, 50)
    database.execute(
        "UPDATE sqla_jobs SET task = :evil, arguments = jsonb_build_object(:evil\\:\\:text, :evil\\:\\:text), unique_key = :evil,"
        " attempts = jsonb_build_array(jsonb_build_object('error', :evil\\:\\:text, 'traceback', :evil\\:\\:text)),"
        " result = to_jsonb(:evil\\:\\:text)",
        evil=EVIL,
    )
    database.execute("UPDATE sqla_jobs_schedules SET name = :evil || id, task = :evil", evil=EVIL)
    database.execute("UPDATE sqla_jobs_workers SET host = :evil, version = :evil", evil=EVIL)
    with visit() as me:
        me.watch.refused = True
        for path in (
            *PAGES,
            "/jobs?state=failed",
            f"/jobs?task={EVIL}",
            f"/jobs?arg={EVIL}",
            f"/?queue={EVIL}",
        ):
            me.go(path)
            assert me.page.evaluate("window.run === undefined"), path
            assert me.page.locator("img, main svg:not(.chart)").count() == 0
        me.go("/jobs")
        me.page.locator(".live.on").wait_for()
        database.execute("INSERT INTO sqla_jobs (id, task) VALUES (9999, :evil)", evil=EVIL)
        me.page.locator("tr[data-row='9999']").wait_for()
        assert me.page.evaluate("window.run === undefined"), "nor in what came live"
