"""The dashboard's pages and actions, by HTTP on a real server."""

from __future__ import annotations

import datetime as dt
import logging
import re
import threading
from collections.abc import Iterator
from html import unescape
from html.parser import HTMLParser
from typing import Any

import pytest
from sqlalchemy.orm import Session

from tests.support.server import Database
from tests.support.web import Browser, served
from tests.support.work import PATIENCE, Recorder, drain

pytest.importorskip("starlette", reason="needs the extra `web`")
pytest.importorskip("httpx", reason="needs httpx, of the extra `test`")

from sqla_jobs.web import Access, dashboard

UNSAFE = "<script>alert('x')</script>"


@pytest.fixture(scope="module")
def database(lab_database: Database) -> Database:
    return lab_database


@pytest.fixture(autouse=True)
def _empty(database: Database) -> None:
    for table in ("sqla_jobs", "sqla_jobs_schedules", "sqla_jobs_workers", "sqla_jobs_queues"):
        database.execute(f"DELETE FROM {table}")


@pytest.fixture(scope="module")
def app() -> Recorder:
    app = Recorder()

    @app.jobs.task(name="pay", redact=("card",))
    def pay(session: Session, card: str, order_id: int) -> None: ...

    app.jobs.every(dt.timedelta(hours=1), name=UNSAFE, kwargs={"note": "tick"}, queue="ticks")(app.record)
    app.jobs.cron("30 7 * * *", timezone="Europe/Paris", name="daily", kwargs={"note": "d"})(app.record)
    return app


@pytest.fixture(scope="module")
def site(app: Recorder, database: Database) -> Iterator[str]:
    made = dashboard(app.jobs, database.engine, authorize=lambda _: Access("ann", write=True))
    with served(made) as browser:
        yield browser.url


@pytest.fixture
def browser(site: str) -> Iterator[Browser]:
    found = Browser(site)
    yield found
    found.http.close()


def made(app: Recorder, database: Database, *notes: str, queue: str = "default") -> list[int]:
    with database.sessionmaker.begin() as session:
        return [app.record.using(queue=queue).enqueue(session, note).id for note in notes]


def state_of(database: Database, job: int) -> Any:
    return database.scalar("SELECT state FROM sqla_jobs WHERE id = :id", id=job)


# -- pages -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/jobs", "/queues", "/schedules", "/workers", "/help"])
def test_each_page_of_an_empty_queue_says_so(browser: Browser, path: str) -> None:
    page = browser.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    check_markup(page.text)


def test_the_overview_shows_states_queues_charts_and_failures(
    browser: Browser, app: Recorder, database: Database
) -> None:
    made(app, database, "one", "two", queue="mail")
    with database.sessionmaker.begin() as session:
        app.fail.enqueue(session, UNSAFE)
    drain(app.jobs, database)
    made(app, database, "waits", queue="slow")
    page = browser.get("/")
    check_markup(page.text)
    assert "2 succeeded, 1 failed, 0 cancelled" in page.text
    assert UNSAFE not in page.text
    assert "&lt;script&gt;" in page.text
    for queue in ("mail", "slow"):
        assert f">{queue}</a>" in page.text
    only = browser.text("/?span=15m&queue=mail")
    assert "2 succeeded, 0 failed, 0 cancelled" in only
    assert 'class="bar succeeded"' in only


def test_a_span_that_there_is_not_is_refused(browser: Browser) -> None:
    page = browser.get("/?span=1y")
    assert (page.status_code, "expected one of 15m, 1h, 6h, 24h, 7d" in page.text) == (400, True)


def test_the_list_is_filtered_by_what_a_job_filter_takes(
    browser: Browser, app: Recorder, database: Database
) -> None:
    [one] = made(app, database, "one", queue="mail")
    [two] = made(app, database, "two", queue="slow")
    assert f'data-row="{one}"' in browser.text("/jobs?queue=mail")
    for query in ("queue=slow", "state=failed", "arg=note%3Dtwo", "older_than=1h", "task=fail"):
        assert f'data-row="{one}"' not in browser.text(f"/jobs?{query}"), query
    assert f'data-row="{two}"' in browser.text("/jobs?arg=note%3Dtwo&state=queued&newer_than=1h&queue=")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("state=lost", "expected one of scheduled"),
        ("older_than=soon", "such as 90s, 15m, 2h or 7d"),
        ("worker=x", "the id of a worker"),
        ("quueue=mail", "did you mean queue?"),
        ("cursor=bm9uZQ", "cursor"),
        ("task=%00", "a character that no text of the database has"),
        ("task=%ff", "cannot be read"),
        ("task=" + "x" * 5000, "1 to 1,000 characters"),
    ],
)
def test_a_bad_filter_gets_a_message(browser: Browser, query: str, said: str) -> None:
    page = browser.get(f"/jobs?{query}")
    assert page.status_code == 400
    assert said in unescape(page.text)
    assert "Traceback" not in page.text


def test_the_list_goes_on_behind_its_last_job(browser: Browser, app: Recorder, database: Database) -> None:
    ids = made(app, database, *map(str, range(60)))
    first = browser.text("/jobs?queue=default")
    assert f'data-row="{ids[-1]}"' in first
    assert f'data-row="{ids[5]}"' not in first
    [link] = re.findall(r'rel="next" href="([^"]+)"', first)
    second = browser.text(link)
    assert f'data-row="{ids[5]}"' in second
    assert f'data-row="{ids[-1]}"' not in second
    assert "To the begin" in second


def test_one_job_with_all_that_its_row_says(browser: Browser, app: Recorder, database: Database) -> None:
    with database.sessionmaker.begin() as session:
        job = app.fail.using(unique_key="once").enqueue(session, UNSAFE).id
    drain(app.jobs, database)
    page = browser.get(f"/jobs/{job}")
    check_markup(page.text)
    assert UNSAFE not in page.text
    for told in ("ValueError", "Traceback (most recent call last)", "once", "failed", "&lt;script&gt;"):
        assert told in page.text, told


def test_arguments_that_are_not_to_be_seen_are_not(
    browser: Browser, app: Recorder, database: Database
) -> None:
    [job] = made(app, database, "4111 1111")
    database.execute("""UPDATE sqla_jobs SET meta = '{"redact": ["note"]}'""")
    page = browser.get(f"/jobs/{job}").text
    assert "4111 1111" not in page
    assert "[redacted]" in page


def test_nor_are_those_of_a_row_from_before_its_task_said_so(browser: Browser, database: Database) -> None:
    database.execute(
        """INSERT INTO sqla_jobs (task, arguments) VALUES ('pay', '{"card": "4111 1111", "order_id": 7}')"""
    )
    page = browser.get(f"/jobs/{database.scalar('SELECT id FROM sqla_jobs')}").text
    assert "4111 1111" not in page
    assert "order_id" in page


@pytest.mark.parametrize("number", ["999999", "0", "9223372036854775808", "1e3", "-1", "x", "%00", "٣"])
def test_a_job_that_there_is_not(browser: Browser, number: str) -> None:
    page = browser.get(f"/jobs/{number}")
    assert page.status_code == 404
    assert "Traceback" not in page.text


def test_workers_and_what_they_run(browser: Browser, app: Recorder, database: Database) -> None:
    [job] = made(app, database, "x")
    database.execute(
        "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, running) VALUES "
        "('<b>host</b>', 77, '0.1.0', 4, interval '30 s', jsonb_build_array(jsonb_build_object("
        "'job_id', CAST(:job AS bigint), 'since', now())))",
        job=job,
    )
    page = browser.text("/workers")
    assert "<b>host</b>:77" in page
    assert "&lt;b&gt;host&lt;/b&gt;:77" in browser.get("/workers").text


@pytest.mark.parametrize(
    ("progress", "told"),
    [
        ('{"done": 1}', "1 done"),
        ('{"done": 5, "total": 20, "note": "x"}', "25 %"),
        ('{"done": 30, "total": 20}', "100 %"),
        ('{"done": -1e308, "total": 1e-300}', "0 %"),
        ('{"done": 1e308, "total": 1e308, "note": {"a": [1]}}', "100 %"),
        ('{"done": 1, "total": 1e400}', "1 done"),
        ('{"done": 1e400, "total": 3}', None),
        ('{"done": %s, "total": 3}' % ("9" * 400), None),
        ('{"done": "much"}', None),
        ("{}", None),
    ],
    ids=lambda each: str(each)[:30],
)
def test_a_progress_of_another_hand_ends_no_page(
    browser: Browser, database: Database, progress: str, told: str | None
) -> None:
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO sqla_jobs_workers (host, pid, version, threads, heartbeat_limit, running) VALUES "
            "('h', 1, '1', 1, '60 s', jsonb_build_array("
            "jsonb_build_object('id', 1, 'since', '2026-01-01T00:00:00', 'progress', %s::jsonb), "
            "jsonb_build_object('id', 2, 'since', '0001-01-01T00:00:00+14:00')))",
            (progress,),
        )
        job = connection.exec_driver_sql(
            "INSERT INTO sqla_jobs (task, state, finished_at, progress) "
            "VALUES ('t', 'failed', now(), %s::jsonb) RETURNING id",
            (progress,),
        ).scalar()
    for path in ("/jobs", f"/jobs/{job}", "/workers"):
        page = browser.text(path)
        assert told is None or told in page, path


@pytest.mark.parametrize("depth", [900, 970, 980, 990, 5000])
def test_arguments_however_deep_end_no_page(browser: Browser, database: Database, depth: int) -> None:
    """What can be read in a thread may be too deep to be written above a server's stack of calls."""
    nested = f'{{"a": {"[" * depth}{"]" * depth}}}'
    with database.engine.begin() as connection:
        job = connection.exec_driver_sql(
            "INSERT INTO sqla_jobs (task, arguments) VALUES ('t', %s::jsonb) RETURNING id", (nested,)
        ).scalar()
    assert "Arguments" in browser.text(f"/jobs/{job}")


def test_of_a_job_with_much_to_say_a_part_is_shown(browser: Browser, database: Database) -> None:
    with database.engine.begin() as connection:
        job = connection.exec_driver_sql(
            "INSERT INTO sqla_jobs (task, arguments, attempts) SELECT 't', "
            "jsonb_build_object('a', jsonb_agg(i)), jsonb_agg(jsonb_build_object('attempt', i, 'error', 'E', "
            "'message', 'number ' || i, 'traceback', repeat('x', 30000))) FROM generate_series(1, 400) i "
            "RETURNING id"
        ).scalar()
        connection.exec_driver_sql(
            "UPDATE sqla_jobs SET arguments = (SELECT jsonb_build_object('a', jsonb_agg(i)) "
            "FROM generate_series(1, 100000) i)"
        )
    page = browser.text(f"/jobs/{job}")
    assert "… more is not shown" in page
    assert "The last 30 of 400." in page
    assert "number 371" in page
    assert "number 370" not in page
    assert len(page) < 1_000_000


def test_what_is_written_of_arguments_ends_early() -> None:
    from sqla_jobs.web.shown import LONGEST, document

    def endless() -> Any:
        yield from range(10 * LONGEST)
        raise AssertionError("all of it was written")

    class Endless(list[int]):
        def __iter__(self) -> Iterator[int]:
            return iter(endless())

    told = document(Endless([1]))
    assert len(told) < LONGEST + 30
    assert told.endswith("… more is not shown")
    assert document({"a": [1]}) == '{\n  "a": [\n    1\n  ]\n}'


def test_a_number_that_is_not_counted_to_its_end_says_so(browser: Browser, database: Database) -> None:
    database.execute(
        "INSERT INTO sqla_jobs (task, state, finished_at) "
        "SELECT 't', 'succeeded', now() FROM generate_series(1, 10001)"
    )
    assert "10,000+" in browser.text("/")


# -- actions ---------------------------------------------------------------------------------------


def test_a_job_is_retried_cancelled_and_deleted(
    browser: Browser, app: Recorder, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    [job] = made(app, database, "x")
    page = browser.follow(browser.send("/act/jobs", {"verb": "cancel", "id": job, "one": 1}))
    assert "1 job cancelled" in page
    assert state_of(database, job) == "cancelled"
    assert "1 job retried" in browser.follow(
        browser.send("/act/jobs", {"verb": "retry", "id": job, "one": 1})
    )
    assert state_of(database, job) == "queued"
    again = browser.follow(browser.send("/act/jobs", {"verb": "retry", "id": job, "one": 1}))
    assert "0 jobs retried; left as they are: 1 " in again
    browser.send("/act/jobs", {"verb": "cancel", "id": job})
    assert "1 job deleted" in browser.follow(
        browser.send("/act/jobs", {"verb": "delete", "id": job, "one": 1})
    )
    assert state_of(database, job) is None
    told = [record.getMessage() for record in caplog.records if record.name == "sqla_jobs.audit"]
    assert told[0] == f"dashboard: ann (127.0.0.1) cancel jobs {job}: 1"
    assert len(told) == 5


def test_what_is_told_of_an_action_is_told_to_that_browser_alone(
    browser: Browser, app: Recorder, database: Database
) -> None:
    [job] = made(app, database, "x")
    answer = browser.send("/act/jobs", {"verb": "cancel", "id": job})
    other = Browser(browser.url)
    assert "1 job cancelled" not in other.text(answer.headers["location"])
    forged = answer.headers["location"].split("note=")[0] + "note=MSBqb2I.abcdef"
    assert browser.get(forged).status_code == 200
    assert 'role="status">1 job' not in browser.text(forged)
    other.http.close()


def test_all_that_match_are_acted_on_after_a_question_that_says_how_many(
    browser: Browser, app: Recorder, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    made(app, database, *map(str, range(7)), queue="mail")
    [other] = made(app, database, "other", queue="slow")
    asked = browser.send("/act/confirm", {"verb": "cancel", "all": 1, "where": "queue=mail"})
    assert asked.status_code == 200
    assert "Cancel 7 jobs?" in asked.text
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'cancelled'") == 0
    page = browser.follow(browser.send("/act/jobs", {"verb": "cancel", "all": 1, "where": "queue=mail"}))
    assert "7 jobs cancelled" in page
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'cancelled'") == 7
    assert state_of(database, other) == "queued"
    assert "dashboard: ann (127.0.0.1) cancel jobs where queue=mail: 7" in caplog.text


def test_more_than_a_batch_is_done_in_several_transactions(
    browser: Browser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqla_jobs.web import actions

    monkeypatch.setattr(actions, "BATCH", 10)
    database.execute("INSERT INTO sqla_jobs (task, state) SELECT 't', 'queued' FROM generate_series(1, 35)")
    assert "35 jobs cancelled" in browser.follow(
        browser.send("/act/jobs", {"verb": "cancel", "all": 1, "where": "task=t"})
    )
    assert database.scalar("SELECT count(DISTINCT xmin::text) FROM sqla_jobs") == 4


def test_what_takes_too_long_asks_whether_to_go_on(
    browser: Browser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqla_jobs.web import actions

    monkeypatch.setattr(actions, "BATCH", 10)
    monkeypatch.setattr(actions, "PATIENCE", -1)
    database.execute("INSERT INTO sqla_jobs (task, state) SELECT 't', 'queued' FROM generate_series(1, 15)")
    fields = {"verb": "cancel", "all": 1, "where": "state=queued"}
    page = browser.send("/act/jobs", fields)
    assert (page.status_code, "10 jobs cancelled so far" in page.text) == (200, True)
    cursor = page.text.split('name="cursor" value="')[1].split('"')[0]
    after = browser.send("/act/jobs", {**fields, "cursor": cursor, "done": 10})
    while after.status_code == 200:
        cursor = after.text.split('name="cursor" value="')[1].split('"')[0]
        after = browser.send("/act/jobs", {**fields, "cursor": cursor, "done": 15})
    assert "15 jobs cancelled" in browser.follow(after)
    assert database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'cancelled'") == 15


def test_what_was_left_is_told_of_all_requests(
    browser: Browser, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqla_jobs.web import actions

    monkeypatch.setattr(actions, "BATCH", 5)
    monkeypatch.setattr(actions, "PATIENCE", -1)
    database.execute(
        "INSERT INTO sqla_jobs (task, state, finished_at) SELECT 't', "
        "CASE WHEN i % 2 = 0 THEN 'queued' ELSE 'failed' END, CASE WHEN i % 2 = 1 THEN now() END "
        "FROM generate_series(1, 20) i"
    )
    fields = {"verb": "cancel", "all": 1, "where": "task=t"}
    answer = browser.send("/act/jobs", fields)
    while answer.status_code == 200:
        hidden = dict(re.findall('name="(cursor|done|left)" value="([^"]*)"', unescape(answer.text)))
        answer = browser.send("/act/jobs", {**fields, **hidden})
    assert "10 jobs cancelled; left as they are: 10 finished" in browser.follow(answer)
    assert browser.send("/act/jobs", {**fields, "left": "finished=-1"}).status_code == 400


def test_what_ends_half_way_says_how_far_it_came(
    app: Recorder, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The third batch meets a job whose trigger takes longer than a statement may."""
    from sqla_jobs.web import actions

    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    monkeypatch.setattr(actions, "BATCH", 10)
    database.execute("INSERT INTO sqla_jobs (task, state) SELECT 't', 'queued' FROM generate_series(1, 35)")
    database.execute(
        "CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN IF NEW.id = (SELECT min(id) + 12 FROM sqla_jobs) THEN PERFORM pg_sleep(60); END IF; "
        "RETURN NEW; END $$"
    )
    database.execute("CREATE TRIGGER late BEFORE UPDATE ON sqla_jobs FOR EACH ROW EXECUTE FUNCTION late()")
    limit = dt.timedelta(milliseconds=500)
    fields = {"verb": "cancel", "all": 1, "where": "task=t"}
    try:
        house = dashboard(
            app.jobs, database.engine, authorize=lambda _: Access("ann", write=True), timeout=limit
        )
        with served(house) as browser:
            page = browser.send("/act/jobs", fields)
    finally:
        database.execute("DROP FUNCTION late() CASCADE")
    done = database.scalar("SELECT count(*) FROM sqla_jobs WHERE state = 'cancelled'")
    assert (page.status_code, done) == (503, 20)
    assert "took too long" in page.text
    assert "Until then: 20 jobs cancelled; the rest is not." in page.text
    assert "cancel jobs where task=t: 20" in caplog.text


def test_ticked_jobs_are_asked_about(browser: Browser, app: Recorder, database: Database) -> None:
    ids = made(app, database, *"abc")
    asked = browser.send("/act/confirm", {"verb": "delete", "id": ids[:2], "where": "queue=default"})
    assert "Delete 2 jobs?" in asked.text
    for job in ids:
        assert (f'name="id" value="{job}"' in asked.text) == (job in ids[:2])
    none = browser.send("/act/confirm", {"verb": "delete", "where": ""})
    assert (none.status_code, "No job is chosen" in none.text) == (400, True)


@pytest.mark.parametrize(
    "fields",
    [
        {"verb": "explode", "id": 1},
        {"id": 1},
        {"verb": ["retry", "cancel"], "id": 1},
        {"verb": "retry", "id": "1 OR 1=1"},
        {"verb": "retry", "all": 1},
        {"verb": "retry", "all": 1, "where": "quueue=1"},
        {"verb": "retry", "all": 1, "where": "", "cursor": "bm9uZQ"},
        {"verb": "retry", "all": 1, "where": "", "done": "-1"},
        {"verb": "delete", "id": list(range(1, 300))},
    ],
    ids=lambda fields: ",".join(fields),
)
def test_a_form_that_no_page_has_is_refused(browser: Browser, fields: dict[str, Any]) -> None:
    answer = browser.send("/act/jobs", fields)
    assert answer.status_code in (400, 404), answer.text
    assert "Traceback" not in answer.text


def test_a_queue_is_paused_and_resumed(
    browser: Browser, app: Recorder, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "sqla_jobs.audit")
    made(app, database, "x", queue="mail")
    page = browser.follow(browser.send("/act/queue", {"verb": "pause", "queue": "mail"}))
    assert "Queue mail is paused" in page
    assert "Resume mail" in page
    assert database.scalar("SELECT paused_at IS NOT NULL FROM sqla_jobs_queues WHERE name = 'mail'")
    assert "was paused already" in browser.follow(
        browser.send("/act/queue", {"verb": "pause", "queue": "mail"})
    )
    assert "Queue mail goes on" in browser.follow(
        browser.send("/act/queue", {"verb": "resume", "queue": "mail"})
    )
    assert not database.scalar("SELECT paused_at IS NOT NULL FROM sqla_jobs_queues WHERE name = 'mail'")
    assert "pause queue mail: 1" in caplog.text
    for fields in ({"verb": "stop", "queue": "mail"}, {"verb": "pause", "queue": "a b"}):
        assert browser.send("/act/queue", fields).status_code == 400


@pytest.fixture
def scheduled(app: Recorder, database: Database) -> str:
    with database.sessionmaker.begin() as session:
        app.jobs.sync_schedules(session)
    return UNSAFE


def test_schedules_with_their_next_times(browser: Browser, scheduled: str, database: Database) -> None:
    page = browser.get("/schedules")
    check_markup(page.text)
    assert UNSAFE not in page.text
    assert page.text.count("07:30:00") == 5
    assert "Europe/Paris" in page.text
    database.execute("UPDATE sqla_jobs_schedules SET cron = 'nonsense' WHERE name = 'daily'")
    assert "nonsense" in browser.text("/schedules")


def test_a_schedule_is_run_and_switched(
    app: Recorder, browser: Browser, scheduled: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.record, "redact", ("note",))
    page = browser.follow(browser.send("/act/schedule", {"verb": "run", "schedule": scheduled}))
    assert "is in queue ticks" in page
    assert database.scalar("SELECT arguments ->> 'note' FROM sqla_jobs WHERE queue = 'ticks'") == "tick"
    assert database.scalar("SELECT meta FROM sqla_jobs WHERE queue = 'ticks'") == {"redact": ["note"]}
    assert "is switched off" in browser.follow(
        browser.send("/act/schedule", {"verb": "disable", "schedule": "daily"})
    )
    enabled = "SELECT enabled FROM sqla_jobs_schedules WHERE name = 'daily'"
    assert database.scalar(enabled) is False
    browser.send("/act/schedule", {"verb": "enable", "schedule": "daily"})
    assert database.scalar(enabled) is True
    for fields, code in (
        ({"verb": "run", "schedule": "gone"}, 404),
        ({"verb": "enable", "schedule": "gone"}, 404),
        ({"verb": "drop", "schedule": "daily"}, 400),
    ):
        assert browser.send("/act/schedule", fields).status_code == code


# -- the database ----------------------------------------------------------------------------------


def test_a_database_that_is_away_gives_a_page(app: Recorder, database: Database) -> None:
    from sqlalchemy import create_engine

    away = create_engine(
        database.url.set(host="127.0.0.1", port=1, query={}), connect_args={"connect_timeout": 2}
    )
    with served(dashboard(app.jobs, away, authorize=lambda _: True)) as browser:
        for path in ("/", "/jobs", "/jobs/1", "/workers"):
            page = browser.get(path)
            assert (page.status_code, "The database does not answer" in page.text) == (503, True)
            assert "127.0.0.1" not in page.text, (
                "what the driver says may hold more than a visitor is to know"
            )
    away.dispose()


def test_an_asynchronous_engine_is_refused_by_any_of_its_sides(app: Recorder, database: Database) -> None:
    from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

    from sqla_jobs.errors import ConfigurationError

    engine = create_async_engine(database.url)
    for given in (engine, async_sessionmaker(engine), engine.sync_engine):
        with pytest.raises(ConfigurationError, match="is asynchronous; expected an Engine or a sessionmaker"):
            dashboard(app.jobs, given, authorize=lambda _: True)


def test_tables_that_are_missing_give_a_page(app: Recorder, empty_database: Database) -> None:
    with served(dashboard(app.jobs, empty_database.engine, authorize=lambda _: True)) as browser:
        page = browser.get("/jobs")
        assert (page.status_code, "sqla-jobs migrate" in page.text) == (503, True)


def test_the_server_ends_a_statement_that_takes_too_long(app: Recorder, database: Database) -> None:
    limit = dt.timedelta(milliseconds=300)
    made_ = dashboard(app.jobs, database.engine, authorize=lambda _: True, timeout=limit)
    with served(made_) as browser, database.engine.connect() as holder:
        holder.exec_driver_sql("LOCK TABLE sqla_jobs IN ACCESS EXCLUSIVE MODE")
        page = browser.get("/jobs")
        assert (page.status_code, "took too long" in page.text) == (503, True)
        holder.rollback()
        assert browser.get("/jobs").status_code == 200


def test_who_looks_leaves_the_application_its_connections(app: Recorder, database: Database) -> None:
    """Its pool, and the threads of its event loop: a slow database must not take them all."""
    import httpx
    from sqlalchemy import create_engine, event

    from sqla_jobs.web.database import AT_ONCE

    shared, asked = create_engine(database.url, pool_size=12), list[int]()
    held, most = [0], [0]
    busy = threading.Event()

    def see() -> None:
        if len(asked) == 12 and held[0] >= AT_ONCE:
            busy.set()

    @event.listens_for(shared, "checkout")
    def taken(*_: Any) -> None:
        held[0] += 1
        most[0] = max(held[0], most[0])
        see()

    @event.listens_for(shared, "checkin")
    def given_back(*_: Any) -> None:
        held[0] -= 1

    def authorize(_: Any) -> bool:
        asked.append(1)
        see()
        return True

    house = dashboard(app.jobs, shared, authorize=authorize, timeout=dt.timedelta(seconds=PATIENCE))
    with served(house) as browser, database.engine.connect() as holder:
        holder.exec_driver_sql("LOCK TABLE sqla_jobs IN ACCESS EXCLUSIVE MODE")
        codes = list[int]()

        def look() -> None:
            codes.append(httpx.get(f"{browser.url}/jobs", timeout=PATIENCE).status_code)

        several = [threading.Thread(target=look) for _ in range(12)]
        for each in several:
            each.start()
        assert busy.wait(PATIENCE)
        holder.rollback()
        for each in several:
            each.join(PATIENCE)
    shared.dispose()
    assert codes == [200] * 12
    assert most[0] == AT_ONCE


def test_more_than_can_be_read_are_refused(
    app: Recorder, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqla_jobs.web import database as reads

    monkeypatch.setattr(reads, "WAITING", 0)
    with served(dashboard(app.jobs, database.engine, authorize=lambda _: True)) as browser:
        page = browser.get("/jobs")
        assert (page.status_code, "at once" in page.text) == (503, True)


def test_reads_that_fail_leave_nothing_behind(
    app: Recorder, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sqla_jobs.web import database as reads
    from sqla_jobs.web.visit import LIVE

    monkeypatch.setattr(reads, "_MOST_SHARED", 5)
    house = dashboard(app.jobs, database.engine, authorize=lambda _: True)
    with served(house) as browser:
        for number in range(15):
            assert browser.get(f"/jobs?cursor=none{number}", headers={LIVE: "1"}).status_code == 400
    assert len(house.database._reading) <= 10


def test_a_page_cannot_write(app: Recorder, database: Database) -> None:
    """Whatever an event of the application's Session does in a transaction that only reads."""
    from sqlalchemy import event
    from sqlalchemy.orm import sessionmaker

    sessions = sessionmaker(database.engine)

    @event.listens_for(sessions, "after_begin")
    def noted(session: Session, transaction: Any, connection: Any) -> None:
        connection.info["begun"] = True

    made(app, database, "x")
    house = dashboard(app.jobs, sessions, authorize=lambda _: True)

    def write(session: Session, model: Any) -> None:
        session.execute(model.__table__.delete())

    from sqlalchemy.exc import InternalError

    with pytest.raises(InternalError, match="read-only transaction"):
        house.database._read(write)
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 1


# -- markup ----------------------------------------------------------------------------------------


class Markup(HTMLParser):
    """What a strict policy and a reader with a keyboard need of the markup."""

    VOID = {"meta", "link", "input", "br", "hr", "img"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.faults: list[str] = []
        self.labelled = 0
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if "style" in given or tag == "style" or any(name.startswith("on") for name in given):
            self.faults.append(f"inline style or script: <{tag} {attrs}>")
        if tag == "script" and "src" not in given:
            self.faults.append("inline script")
        for name in ("src", "href", "action"):
            if (given.get(name) or "").startswith(("http:", "https:", "//", "javascript:")):
                self.faults.append(f"leads elsewhere: {given[name]}")
        labelled = "label" in self.open or "aria-label" in given
        if tag == "input" and given.get("type") != "hidden" and not labelled:
            self.faults.append(f"no label: {attrs}")
        if tag == "form" and given.get("method") == "get" and given.get("role") != "search":
            self.faults.append("a form without method=post")
        if "id" in given:
            self.ids.append(str(given["id"]))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> closes another")


def check_markup(page: str) -> None:
    found = Markup()
    found.feed(page)
    assert found.faults == []
    assert found.open == []
    assert len(found.ids) == len(set(found.ids)), found.ids
    assert '<html lang="en"' in page
    assert 'class="skip" href="#main"' in page
    assert page.count("<h1") == 1
