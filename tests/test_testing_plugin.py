"""The pytest plugin, in a project of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import sqla_jobs
from tests.support.server import Database

LIBRARY = Path(sqla_jobs.__file__).parent.parent

CONFTEST = """
    import os
    import pytest
    from sqlalchemy import create_engine

    @pytest.fixture
    def sqla_jobs_registry():
        from shop import jobs
        return jobs

    @pytest.fixture(scope="session")
    def sqla_jobs_engine():
        engine = create_engine(os.environ["DATABASE_URL"])
        yield engine
        engine.dispose()
"""
SHOP = """
    from sqla_jobs import Jobs

    jobs = Jobs()

    @jobs.task
    def send(session, order_id):
        if order_id < 0:
            raise ValueError("no such order")
"""
TESTS = """
    import pytest
    from shop import send

    @pytest.mark.parametrize("number", [1, 2])  # neither sees the job of the other
    def test_one_job(sqla_jobs_testing, sqla_jobs_session, number):
        sqla_jobs_testing.refute_enqueued()
        send.enqueue(sqla_jobs_session, number)
        sqla_jobs_session.commit()
        sqla_jobs_testing.assert_enqueued(send, order_id=number, count=1)
        [finished] = sqla_jobs_testing.drain()
        assert finished.state == "succeeded"

    def test_a_failure(sqla_jobs_testing, sqla_jobs_session):
        send.enqueue(sqla_jobs_session, -1)
        with pytest.raises(ValueError, match="no such order"):
            sqla_jobs_testing.drain()

    @pytest.mark.xfail(strict=True, raises=AssertionError)
    def test_that_fails(sqla_jobs_testing):
        sqla_jobs_testing.assert_enqueued(send)
"""


def run_pytest(folder: Path, files: dict[str, str], *, url: str = "") -> tuple[int, str]:
    """Run pytest on these files in a process of its own, with the plugin; its exit code and output."""
    for name, source in files.items():
        (folder / name).write_text(dedent(source))
    environment = {**os.environ, "PYTHONPATH": f"{LIBRARY}{os.pathsep}{folder}", "DATABASE_URL": url}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "sqla_jobs.testing.plugin",
            "-q",
            "-W",
            "error",
            "-p",
            "no:cacheprovider",
        ],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_fixtures_serve_a_project(database: Database, tmp_path: Path) -> None:
    files = {"conftest.py": CONFTEST, "shop.py": SHOP, "test_shop.py": TESTS}
    code, told = run_pytest(tmp_path, files, url=database.url_string)
    assert code == 0, told
    assert "3 passed, 1 xfailed" in told
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_a_project_may_have_a_session_of_its_own(database: Database, tmp_path: Path) -> None:
    own = """
        import os
        import pytest
        from sqlalchemy import create_engine
        from sqlalchemy.orm import Session

        @pytest.fixture
        def sqla_jobs_registry():
            from shop import jobs
            return jobs

        @pytest.fixture
        def session():
            engine = create_engine(os.environ["DATABASE_URL"])
            with Session(engine) as session:
                yield session
            engine.dispose()

        @pytest.fixture
        def sqla_jobs_session(session):
            return session
    """
    test = """
        from shop import send

        def test_one_job(sqla_jobs_testing, session):
            send.enqueue(session, 1)
            assert len(sqla_jobs_testing.drain()) == 1
    """
    code, told = run_pytest(
        tmp_path, {"conftest.py": own, "shop.py": SHOP, "test_shop.py": test}, url=database.url_string
    )
    assert code == 0, told
    assert database.scalar("SELECT count(*) FROM sqla_jobs") == 0


def test_a_fixture_that_is_missing_is_said_by_name(tmp_path: Path) -> None:
    test = """
        def test_engine(sqla_jobs_session): ...
        def test_registry(sqla_jobs_registry): ...
    """
    code, told = run_pytest(tmp_path, {"test_nothing.py": test})
    assert code == 1, told
    assert "the fixture sqla_jobs_engine is not defined; expected one in your conftest.py" in told
    assert "the fixture sqla_jobs_registry is not defined; expected one in your conftest.py" in told
