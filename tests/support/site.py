"""An ASGI application on a real server, in a thread of the test; requests as bytes, and pages as trees."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any


@dataclass(frozen=True)
class Site:
    """Where a server listens."""

    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def raw(self, request: bytes, patience: float = 20) -> bytes:
        """What is answered to these very bytes, which ask for the connection's end.

        A client would mend the path, and refuse to send the rest.
        """
        with socket.create_connection(("127.0.0.1", self.port), timeout=patience) as connection:
            parts = []
            with suppress(ConnectionError):  # a server need not read to its end what it refuses
                connection.sendall(request)
                while part := connection.recv(65536):
                    parts.append(part)
        return b"".join(parts)

    def get(self, target: str, *headers: str, method: str = "GET", host: str | None = None) -> bytes:
        """`raw`, of a request line and headers."""
        lines = [
            f"{method} {target} HTTP/1.1",
            f"Host: {f'127.0.0.1:{self.port}' if host is None else host}",
            "Connection: close",
        ]
        return self.raw("\r\n".join([*lines, *headers, "", ""]).encode("latin-1"))


def status(response: bytes) -> int:
    """The status of a raw response."""
    return int(response.split(b" ", 2)[1])


@contextmanager
def served(app: Any, **options: Any) -> Iterator[Site]:
    """A server on a free port of this machine, which at its end has five seconds for what it still does."""
    import uvicorn

    class Server(uvicorn.Server):
        listening = threading.Event()

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            self.listening.set()

    Server.listening = threading.Event()
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none",
        timeout_graceful_shutdown=5, **options,
    )  # fmt: skip
    server = Server(config)
    thread = threading.Thread(target=server.run, name="site", daemon=True)
    thread.start()
    assert server.listening.wait(30), "the server does not start"
    try:
        yield Site(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server does not stop"


@dataclass
class Element:
    """A tag of a page, with its attributes."""

    tag: str
    attributes: dict[str, str]
    text: list[str] = field(default_factory=list)


class Tree(HTMLParser):
    """The tags of a page as a browser sees them, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.elements:
            self.elements[-1].text.append(data)

    def tags(self, name: str) -> list[Element]:
        return [each for each in self.elements if each.tag == name]

    def field(self, name: str) -> str:
        """The value of the first input of that name."""
        return next(
            each.attributes["value"] for each in self.tags("input") if each.attributes.get("name") == name
        )
