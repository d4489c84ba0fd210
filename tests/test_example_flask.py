"""docs/examples/flask_sqlalchemy: requests by Flask's test client, jobs by a worker in another process."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.support.program import ROOT, Program
from tests.support.program import run as sqla_jobs
from tests.support.server import Database

EXAMPLE = ROOT / "docs" / "examples" / "flask_sqlalchemy"
pytestmark = pytest.mark.timeout(300)  # several processes, on a busy machine


@pytest.fixture
def guestbook(empty_database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The application's module, on tables that its own command has made."""
    monkeypatch.setenv("DATABASE_URL", empty_database.url_string)
    monkeypatch.syspath_prepend(str(EXAMPLE))
    with Program("-m", "flask", "--app", "guestbook", "init-db", folder=EXAMPLE, environment={
        "DATABASE_URL": empty_database.url_string
    }) as made:  # fmt: skip
        assert made.wait() == 0, made.errors
    module = importlib.import_module("guestbook")
    yield module
    with module.app.app_context():
        module.db.engine.dispose()
    del sys.modules["guestbook"]


def work(database: Database) -> None:
    worker = sqla_jobs(
        "worker", "guestbook:jobs", "--drain", folder=EXAMPLE, DATABASE_URL=database.url_string
    )
    assert worker.code == 0, worker.errors


def test_a_guest_is_answered(guestbook: ModuleType, empty_database: Database) -> None:
    client = guestbook.app.test_client()
    response = client.post("/entries", data={"name": "Ann", "text": "Hello"})
    assert (response.status_code, response.json) == (201, {"id": 1})
    assert client.get("/entries/1").json == {"name": "Ann", "text": "Hello", "answer": None}
    assert empty_database.rows("SELECT task, arguments, state FROM sqla_jobs") == [
        ("guestbook.answer", {"entry": 1}, "queued")
    ]
    work(empty_database)
    assert client.get("/entries/1").json["answer"] == "Thank you, Ann, our guest number 1! Yours, the house"
    assert empty_database.rows("SELECT state, attempt FROM sqla_jobs") == [("succeeded", 1)]


def test_an_entry_that_is_refused_takes_its_job_along(
    guestbook: ModuleType, empty_database: Database
) -> None:
    response = guestbook.app.test_client().post("/entries", data={"name": "Bob", "text": " "})
    assert response.status_code == 400
    assert empty_database.scalar("SELECT count(*) FROM entries") == 0
    assert empty_database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_what_a_job_commits_is_committed_with_its_success(
    guestbook: ModuleType, empty_database: Database
) -> None:
    """An entry whose answer breaks a constraint at the commit: nothing is left of the job's own commit."""
    empty_database.execute("ALTER TABLE entries ADD CHECK (answer NOT LIKE '%Eve%')")
    client = guestbook.app.test_client()
    for name in ("Eve", "Ann"):
        client.post("/entries", data={"name": name, "text": "Hello"})
    work(empty_database)
    answers = empty_database.rows("SELECT name, answer IS NULL FROM entries ORDER BY id")
    assert answers == [("Eve", True), ("Ann", False)]
    rows = empty_database.rows("SELECT state, jsonb_array_length(attempts) FROM sqla_jobs ORDER BY id")
    assert rows == [("scheduled", 1), ("succeeded", 0)]
