"""A PgBouncer in transaction mode before the server of the tests."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine

from tests.support.server import Server

FOLDERS = ("/usr/sbin", "/usr/local/sbin")
"""Where packages put it; not on every user's path."""

# Few connections to the server, so that clients really share them: a session's state would be lost at once.
SETTINGS = """
[pgbouncer]
pool_mode = transaction
unix_socket_dir = {folder}
listen_port = {port}
auth_type = any
default_pool_size = 8
max_client_conn = 100
"""
PORT = 6432


def installed() -> str | None:
    """Where the program is; None: it is not installed."""
    return shutil.which("pgbouncer", path=os.pathsep.join([os.environ.get("PATH", ""), *FOLDERS]))


class PgBouncer:
    """A running one; all databases of its server can be reached through it by their own names."""

    def __init__(self, folder: Path, server: Server) -> None:
        self._folder = folder
        self._user = server.maintenance.username or "postgres"

    def url(self, database: str) -> URL:
        return URL.create(
            "postgresql+psycopg",
            self._user,
            database=database,
            query={"host": str(self._folder), "port": str(PORT)},
        )

    def engine(self, database: str, **options: Any) -> Engine:
        """An engine as the docs say that it has to be made."""
        return create_engine(
            self.url(database),
            connect_args={"prepare_threshold": None},
            **{"pool_size": 20, "max_overflow": 20, **options},
        )


@contextmanager
def running_pgbouncer(server: Server) -> Iterator[PgBouncer]:
    """Start one, on a Unix socket in a temporary folder."""
    program = installed()
    assert program is not None, "no pgbouncer here: ask `installed` first"
    folder = Path(tempfile.mkdtemp(prefix="sqla_jobs_pgbouncer_", dir="/tmp"))
    process = None
    try:
        settings = folder / "pgbouncer.ini"
        target = f"[databases]\n* = {_connection(server.maintenance)}\n"
        settings.write_text(target + SETTINGS.format(folder=folder, port=PORT))
        process = subprocess.Popen(
            [program, str(settings)], stderr=subprocess.PIPE, text=True, **_as_user(server, folder)
        )
        _wait_until_up(process)
        yield PgBouncer(folder, server)
    finally:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _connection(url: URL) -> str:
    """How PgBouncer reaches the server, as a user that it names for all its clients."""
    parts = {
        "host": url.query.get("host", url.host),
        "port": url.query.get("port", url.port),
        "user": url.username or "postgres",
        "password": url.password,
    }
    quoted = {name: str(value).replace("'", "''") for name, value in parts.items() if value}
    return " ".join(f"{name}='{value}'" for name, value in quoted.items())


def _as_user(server: Server, folder: Path) -> dict[str, Any]:
    """PgBouncer refuses to run as root, and the embedded server's folder is open to its own user only."""
    if os.getuid() != 0:
        return {}
    socket = str(server.maintenance.query.get("host", ""))
    owner = Path(socket).stat() if socket.startswith("/") else None
    user, group = (owner.st_uid, owner.st_gid) if owner and owner.st_uid else (65534, 65534)
    for path in (folder, *folder.iterdir()):
        os.chown(path, user, group)
    folder.chmod(0o755)
    return {"user": user, "group": group, "extra_groups": []}


def _wait_until_up(process: subprocess.Popen[str]) -> None:
    said: list[str] = []
    up = threading.Event()

    def read() -> None:
        assert process.stderr is not None
        with process.stderr:
            for line in process.stderr:
                said.append(line)
                if "process up" in line:
                    up.set()
        up.set()

    threading.Thread(target=read, daemon=True).start()
    assert up.wait(30), "pgbouncer does not say that it is up"
    assert any("process up" in line for line in said), "pgbouncer has ended:\n" + "".join(said)
