"""The endpoint of worker processes: `sqla-jobs worker --metrics-port`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import text
from sqlalchemy.orm import Session

from sqla_jobs import Jobs
from sqla_jobs.errors import ConfigurationError
from sqla_jobs.metrics import Endpoint, Prometheus, check_free
from tests.support import supervised
from tests.support.program import LIBRARY, ROOT, Program, command, run
from tests.support.scrape import Scraped, metered, scrape
from tests.support.server import Database
from tests.support.supervised import held_lock, none_left, pids
from tests.support.waiting import until
from tests.support.work import SOON

APP = (
    supervised.APP
    + """
from datetime import timedelta
from prometheus_client import Counter
from sqla_jobs import RetryPolicy

visits = Counter("shop_visits", "The application's own.")


@jobs.task(retry=RetryPolicy(max_attempts=2, base=timedelta(0)))
def fail(session: Session) -> None:
    visits.inc()
    raise ValueError("secret")
"""
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP)
    return tmp_path


@pytest.fixture
def ports() -> Iterator[int]:
    """The first of two ports that were free a moment ago."""
    for _ in range(100):
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                with socket.socket() as second:
                    second.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
        yield port
        return
    raise AssertionError("no two ports are free")


def endpoints(program: Program, number: int) -> list[str]:
    """The addresses that the processes have said."""
    supervised.until(program, r"worker \d+ started", number)
    return re.findall(r"metrics at (\S+)", program.errors)


def test_a_worker_is_scraped(folder: Path, database: Database) -> None:
    arguments = ("worker", "app:jobs", "--metrics-port", "0", "--poll-interval", "0.02")
    with command(*arguments, folder=folder, DATABASE_URL=database.url_string) as program:
        [url] = endpoints(program, 1)
        assert url.startswith("http://127.0.0.1:")
        supervised.enqueue(database, "write", 3)
        supervised.enqueue(database, "fail")
        until(database, "SELECT count(*) = 4 FROM sqla_jobs WHERE state IN ('succeeded', 'failed')")
        # The outcome is committed before it is told.
        found = scraped_until(
            url, lambda found: found.value("running") == 0 and found.value("failed_total") == 1
        )
        assert found.counted(task="app.write", queue="default") == {"started": 3, "succeeded": 3}
        assert found.counted(task="app.fail") == {"started": 2, "retried": 1, "failed": 1}
        assert found.value("worker_up") == 1
        assert "shop_visits_total 2.0" in found.text
        assert "secret" not in found.text
        os.kill(program.pid, signal.SIGTERM)
        assert program.wait() == 0
        with pytest.raises(URLError):
            scrape(url)


def test_two_processes_have_a_port_each(folder: Path, database: Database, ports: int) -> None:
    """And whoever takes the place of one that was killed has its port; the other has rescued its job."""
    soon = ("--heartbeat-interval", "0.2", "--heartbeat-limit", "1")
    arguments = ("worker", "app:jobs", "--processes", "2", "--metrics-port", str(ports), *soon)
    with (
        command(*arguments, folder=folder, DATABASE_URL=database.url_string) as program,
        none_left(program),
    ):
        urls = endpoints(program, 2)
        assert sorted(urls) == [f"http://127.0.0.1:{port}/metrics" for port in (ports, ports + 1)]
        with held_lock(database):
            supervised.enqueue(database, "wait", 2)
            supervised.until(program, r"at the lock: \d+", 2)
            by_pid = dict(zip(pids(program), sorted(urls), strict=True))
            for url in urls:
                assert scrape(url).counted() == {"started": 1}
                assert scrape(url).value("running", task="app.wait") == 1
            killed, *_ = by_pid
            [other] = [url for pid, url in by_pid.items() if pid != killed]
            os.kill(killed, signal.SIGKILL)
            supervised.until(program, r"worker \d+ started", 3)
            until(database, "SELECT count(*) = 1 FROM sqla_jobs WHERE crashes = 1")
            found = scraped_until(other, lambda found: found.value("rescued_total", task="app.wait"))
            assert found.counted(task="app.wait") == {"started": 1, "rescued": 1, "retried": 1}
            # Counted anew by the process in its place, which is all that Prometheus needs.
            assert scrape(by_pid[killed]).value("worker_up") == 1


def scraped_until(url: str, reached: Callable[[Scraped], object]) -> Scraped:
    """Scrape until a condition holds: what is committed is told right after it."""
    deadline, pause = time.monotonic() + 30, threading.Event()
    while not reached(found := scrape(url)):
        assert time.monotonic() < deadline, found.text
        pause.wait(0.01)
    return found


@pytest.mark.parametrize("processes", [None, "2"], ids=["alone", "two"])
def test_a_port_in_use_is_told_at_the_start(folder: Path, ports: int, processes: str | None) -> None:
    several = () if processes is None else ("--processes", processes)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", ports if processes is None else ports + 1))
        taken.listen(1)
        port = taken.getsockname()[1]
        program = run(
            "worker", "app:jobs", "--metrics-port", str(ports), *several,
            "--database-url", "postgresql://nobody@127.0.0.1:1/none", folder=folder,
        )  # fmt: skip
    assert program.code == 2
    said = (
        f"cannot listen on 127.0.0.1 port {port}: Address already in use; expected an address of this machine"
    )
    assert said in program.errors
    assert "Traceback" not in program.errors
    assert "started" not in program.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics-port", "65535", "--processes", "2"), "expected at most 65534"),
        (("--metrics-port", "70000"), "70000 is not in the range"),
        (("--metrics-port", "0", "--metrics-host", "no.such.host.invalid"), "no.such.host.invalid"),
    ],
    ids=["beyond the last", "no port", "no host"],
)
def test_addresses_that_are_none(folder: Path, arguments: tuple[str, ...], said: str) -> None:
    url = ("--database-url", "postgresql://nobody@127.0.0.1:1/none")
    program = run("worker", "app:jobs", *arguments, *url, folder=folder)
    assert program.code == 2
    assert said in program.errors
    assert "Traceback" not in program.errors


def test_without_the_extra(folder: Path) -> None:
    """A module of that name that cannot be imported stands for one that is not installed."""
    (folder / "prometheus_client").mkdir()
    (folder / "prometheus_client" / "__init__.py").write_text("raise ImportError('not here')")
    (folder / "app.py").write_text(supervised.APP)
    url = ("--database-url", "postgresql://nobody@127.0.0.1:1/none")
    program = run("worker", "app:jobs", "--metrics-port", "0", *url, folder=folder)
    assert program.code == 2
    assert "pip install 'sqla-jobs[metrics]'" in program.errors
    assert "Traceback" not in program.errors


def test_switched_off_nothing_is_imported() -> None:
    script = """
import sqla_jobs, sqla_jobs.metrics, sys
assert "opentelemetry" not in sys.modules, "opentelemetry"
assert "prometheus_client" not in sys.modules, "prometheus_client"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LIBRARY), str(ROOT)])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment, timeout=60)


def test_a_forked_child_does_not_keep_the_port() -> None:
    endpoint = Endpoint(0, registry=CollectorRegistry())
    reader, writer = os.pipe()
    said, says = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(says, b"x")  # whatever is done after a fork is done by now
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    os.read(said, 1)
    for each in (reader, said, says):
        os.close(each)
    endpoint.close()
    try:
        check_free("127.0.0.1", range(endpoint.port, endpoint.port + 1))
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_an_endpoint_that_is_closed_lets_go_of_its_port() -> None:
    with Endpoint(0, registry=CollectorRegistry()) as first:
        with pytest.raises(ConfigurationError, match=f"port {first.port}: Address already in use"):
            Endpoint(first.port, registry=CollectorRegistry())
        with pytest.raises(ConfigurationError, match="Address already in use"):
            check_free("127.0.0.1", range(first.port, first.port + 1))
    with Endpoint(first.port, registry=CollectorRegistry()):
        pass


def test_the_applications_own_is_taken(database: Database) -> None:
    """Made where the application counts what it enqueues; the worker of that process goes on with it."""
    jobs = Jobs()
    first = Prometheus(jobs)
    try:
        assert Prometheus.of(jobs, database.engine) is first
        assert first._queues is not None
        with pytest.raises(ConfigurationError, match="already"):
            Prometheus.of(Jobs(), database.engine)
    finally:
        first.close()


def test_an_embedded_worker(database: Database) -> None:
    from sqla_jobs import Worker

    jobs = Jobs()

    @jobs.task(name="work")
    def work(session: Session) -> None:
        session.execute(text("SELECT 1"))

    with metered(jobs, database) as counts, Endpoint(0, registry=counts.metrics.registry) as endpoint:
        with database.sessionmaker.begin() as session:
            work.enqueue(session)
        with Worker(jobs, database.engine, poll_interval=SOON, observers=[counts.metrics]):
            until(database, "SELECT bool_and(state = 'succeeded') FROM sqla_jobs")
        assert scrape(endpoint.url).counted() == {"enqueued": 1, "started": 1, "succeeded": 1}
