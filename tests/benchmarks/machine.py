"""The server with its default settings, databases that are filled once and copied, and what it all cost."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import psycopg
from sqlalchemy import URL, make_url

from tests.support.server import Server, embedded_package, named_server

SETTINGS = (
    *("fsync", "synchronous_commit", "full_page_writes", "wal_sync_method", "shared_buffers"),
    *("max_wal_size", "checkpoint_timeout", "autovacuum", "max_connections", "jit"),
)
"""What a result says of the server."""


@contextmanager
def default_server() -> Iterator[Server]:
    """An embedded PostgreSQL as it is out of the box, on a disk: fsync is a part of what is measured."""
    folder = Path(tempfile.mkdtemp(prefix="sqla_jobs_"))
    embedded = embedded_package().get_server(folder, cleanup_mode="delete")
    try:
        url = make_url(embedded.get_uri(driver="psycopg"))
        # `postgres:@` would ask for an empty password; the server trusts its socket.
        url = URL.create(url.drivername, username=url.username, database=url.database, query=url.query)
        yield Server(url, embedded.bin_path)
    finally:
        embedded.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


class Machine:
    """The server of a run, and its databases."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self._templates: dict[str, str] = {}
        self._admin = psycopg.connect(
            server.libpq(server.maintenance.database or "postgres"), autocommit=True
        )
        try:
            self._postmaster = psutil.Process(self._admin.info.backend_pid).parent()
        except psutil.Error:  # on another machine
            self._postmaster = None

    def close(self) -> None:
        self.forget()
        self._admin.close()
        self.server.admin.dispose()

    def warm_up(self) -> None:
        """Let a new server make its files of WAL, which it does when first needed, before a clock runs."""
        name = self.server.name("warm_up")
        rows = "SELECT repeat('x', 1000) FROM generate_series(1, 200000)"
        self._admin.execute(f'CREATE TABLE "{name}" AS {rows}')
        self._admin.execute(f'DROP TABLE "{name}"')
        self._admin.execute("CHECKPOINT")

    # -- databases ---------------------------------------------------------------------------------

    @contextmanager
    def copy(self, key: str, fill: Callable[[str], object]) -> Iterator[str]:
        """The DSN of a copy of the database of this name, which is filled at its first use."""
        if key not in self._templates:
            self._templates[key] = self._filled(fill)
        name = self.server.name("bench")
        self.server.create(name, self._templates[key])
        # What making the copy has left to write shall not be written while the clock runs.
        self._admin.execute("CHECKPOINT")
        try:
            yield self.server.libpq(name)
        finally:
            self.server.drop(name)

    def _filled(self, fill: Callable[[str], object]) -> str:
        name = self.server.name("filled")
        self.server.create(name)
        try:
            fill(self.server.libpq(name))
        except BaseException:
            self.server.drop(name)
            raise
        return name

    def forget(self) -> None:
        """Drop what was filled."""
        while self._templates:
            self.server.drop(self._templates.popitem()[1])

    # -- what it is, and what it cost --------------------------------------------------------------

    def cpu(self) -> float | None:
        """CPU seconds of the whole server since its start, ended sessions too; None: it is elsewhere."""
        if self._postmaster is None:
            return None
        times = self._postmaster.cpu_times()
        total = float(times.user + times.system + times.children_user + times.children_system)
        for child in self._postmaster.children(recursive=True):
            try:
                own = child.cpu_times()
            except psutil.Error:  # it has just ended
                continue
            total += own.user + own.system
        return total

    def about(self) -> dict[str, Any]:
        """Version and settings of the server; nothing that names the machine or a place on it."""
        settings = {name: self._show(name) for name in SETTINGS}
        return {"version": self._show("server_version"), "settings": settings}

    def _show(self, setting: str) -> str:
        row = self._admin.execute("SELECT current_setting(%s)", (setting,)).fetchone()
        assert row is not None
        return str(row[0])


def about_machine() -> dict[str, Any]:
    return {
        "cores": os.cpu_count(),
        "memory GiB": round(psutil.virtual_memory().total / 2**30),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2)


@contextmanager
def chosen_server(url: str | None) -> Iterator[Server]:
    """The server of a URL; None: an embedded one."""
    if url is None:
        with default_server() as server:
            yield server
    else:
        yield named_server(url)
