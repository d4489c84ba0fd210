"""A Unix socket between a client and the server that can lose a connection at a chosen statement.

It reads PostgreSQL's messages, so that the loss happens right before a statement reaches the server, or
right after the server has carried it out and before the client is told: a real loss for the driver.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL, Engine, create_engine

from tests.support.server import Database

PORT = 5432


@dataclass
class Loss:
    """Connections are lost at statements that contain ``sql``."""

    sql: str
    within: str
    """Only where an earlier statement of the same transaction contains this."""
    carried_out: bool
    """False: the statement never reaches the server; True: only its answer never comes back."""
    after: int
    """So many such statements go through first."""
    times: int
    sent: threading.Event = field(default_factory=threading.Event)
    """Set when the statement is on its way to the server, or has been swallowed."""
    happened: threading.Event = field(default_factory=threading.Event)
    """Set when the last of them has been lost and, if so, carried out."""

    def strikes(self, sql: str, transaction: list[str]) -> bool:
        """Whether this statement is one to be lost; counts."""
        if self.sql not in sql or not any(self.within in earlier for earlier in transaction):
            return False
        if self.after > 0 or self.times == 0:
            self.after -= 1
            return False
        self.times -= 1
        return True


class Proxy:
    """Listens in a folder of its own; `url` is the same database through it."""

    def __init__(self, database: Database, folder: Path) -> None:
        self.database = database
        self._folder = folder
        self._losses: list[Loss] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._refusing = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f".s.PGSQL.{PORT}"))
        self._listener.listen(50)
        self._spawn(self._accept)

    @property
    def url(self) -> URL:
        url = self.database.url.set(host=None, port=None)
        return url.update_query_dict({"host": str(self._folder), "port": str(PORT), "sslmode": "disable"})

    def engine(self, **options: object) -> Engine:
        """An engine through here. No prepared statements: those would hide their text from us."""
        return create_engine(
            self.url, connect_args={"prepare_threshold": None}, pool_size=10, max_overflow=10, **options
        )

    def lose(
        self, sql: str, *, within: str = "", carried_out: bool = False, after: int = 0, times: int = 1
    ) -> Loss:
        """Lose the next connections that send such a statement."""
        loss = Loss(sql, within, carried_out, after, times)
        with self._lock:
            self._losses.append(loss)
        return loss

    def refuse(self) -> None:
        """Cut every connection, and refuse new ones until `admit`."""
        with self._lock:
            self._refusing = True
            for each in self._open:
                hang_up(each)

    def admit(self) -> None:
        self._refusing = False

    def close(self) -> None:
        self.refuse()
        hang_up(self._listener)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self._listener.close()

    # -- connections -------------------------------------------------------------------------------

    def _spawn(self, target: object, *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        with client, connect(self.database.url) as server:
            with self._lock:
                if self._refusing:
                    return
                self._open |= {client, server}
            muted, idle = threading.Event(), threading.Event()
            back = threading.Thread(target=answers, args=(server, client, muted, idle), daemon=True)
            back.start()
            try:
                self._statements(client, server, muted, idle)
            finally:
                hang_up(client)
                hang_up(server)
                back.join()
                with self._lock:
                    self._open -= {client, server}

    def _statements(
        self, client: socket.socket, server: socket.socket, muted: threading.Event, idle: threading.Event
    ) -> None:
        try:
            server.sendall(read_startup(client))
            transaction: list[str] = []
            sent = messages(client)
            for kind, message in sent:
                sql = text_of(kind, message)
                if sql.startswith("BEGIN"):
                    transaction = []
                loss = self._due(sql, transaction)
                if loss is None:
                    transaction.append(sql)
                    server.sendall(message)
                    continue
                if loss.carried_out:
                    idle.clear()
                    muted.set()
                    server.sendall(message)
                    while kind not in b"QS":  # a Parse: what belongs to it comes to the server with a Sync
                        kind, message = next(sent)
                        server.sendall(message)
                    loss.sent.set()
                    hang_up(client)
                    idle.wait(60)
                loss.sent.set()
                if loss.times == 0:
                    loss.happened.set()
                return
        except OSError:
            return

    def _due(self, sql: str, transaction: list[str]) -> Loss | None:
        with self._lock:
            for loss in self._losses:
                if sql and loss.strikes(sql, [*transaction, sql]):
                    return loss
        return None


def connect(url: URL) -> socket.socket:
    """A socket to the server of a URL, by the folder of its Unix socket or by its host."""
    host = url.host or url.query.get("host") or "localhost"
    port = int(url.port or str(url.query.get("port", PORT)))
    assert isinstance(host, str)
    if not host.startswith("/"):
        return socket.create_connection((host, port))
    server = socket.socket(socket.AF_UNIX)
    server.connect(f"{host}/.s.PGSQL.{port}")
    return server


def hang_up(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)


def read(source: socket.socket, number: int) -> bytes:
    data = b""
    while len(data) < number:
        part = source.recv(number - len(data))
        if not part:
            raise ConnectionResetError
        data += part
    return data


def read_startup(client: socket.socket) -> bytes:
    length = read(client, 4)
    return length + read(client, struct.unpack("!I", length)[0] - 4)


def messages(source: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """(kind, whole message) until the other side hangs up."""
    while True:
        header = read(source, 5)
        yield header[:1], header + read(source, struct.unpack("!I", header[1:])[0] - 4)


def text_of(kind: bytes, message: bytes) -> str:
    """The SQL of a Query or a Parse message."""
    body = message[5:]
    if kind == b"P":
        body = body[body.index(b"\0") + 1 :]
    return body[: body.index(b"\0")].decode() if kind in b"QP" else ""


def answers(
    server: socket.socket, client: socket.socket, muted: threading.Event, idle: threading.Event
) -> None:
    """Pass the server's messages on, or, once muted, only wait until it is ready for another statement."""
    with contextlib.suppress(OSError):
        for kind, message in messages(server):
            if muted.is_set():
                if kind == b"Z":
                    break
            else:
                client.sendall(message)
    idle.set()
    hang_up(client)


@contextlib.contextmanager
def proxy(database: Database) -> Iterator[Proxy]:
    folder = Path(tempfile.mkdtemp(prefix="sqla_jobs_proxy_", dir="/tmp"))  # a socket's path must be short
    try:
        between = Proxy(database, folder)
        try:
            yield between
        finally:
            between.close()
    finally:
        shutil.rmtree(folder)
