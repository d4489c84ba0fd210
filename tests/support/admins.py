"""The two admins of docs/examples: started as applications, each on a database of its own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sqlalchemy.orm import Session

from sqla_jobs import Job
from tests.support.program import ROOT
from tests.support.server import Database

ORIGIN = "https://shop.example"
CARD = "4111111111111111"
SCRIPT = "<script>alert(1)</script>"


@contextmanager
def backoffice(example: str, database: Database, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module `backoffice` of an example; both have one, so it is forgotten at the end."""
    folder: Path = ROOT / "docs" / "examples" / example
    monkeypatch.setenv("DATABASE_URL", database.url_string)
    monkeypatch.setenv("ADMIN_PASSWORD", "open sesame")
    monkeypatch.setenv("ADMIN_SECRET", "s" * 32)
    monkeypatch.syspath_prepend(str(folder))
    try:
        yield importlib.import_module("backoffice")
    finally:
        for name in ("backoffice", "job_views"):
            sys.modules.pop(name, None)


def enqueue(module: Any, database: Database, *cards: str) -> list[int]:
    """Jobs that charge these cards; their ids."""
    with Session(database.engine) as session:
        made = [module.charge.enqueue(session, number, card) for number, card in enumerate(cards)]
        session.flush()
        ids = [job.id for job in made]
        session.commit()
    return ids


def run(module: Any, database: Database, job_id: int) -> None:
    """One attempt of a job, in a transaction that is committed."""
    with Session(database.engine) as session:
        assert module.jobs.work_once(session) is not None
        assert session.get_one(Job, job_id).attempt == 1
        session.commit()
